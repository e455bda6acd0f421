//! Where a vendor's libraries are: the driver's, the compiler's, and others.

use std::fmt;
use std::path::{Path, PathBuf};

use libloading::Library;

/// One library in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A file, or a bare name, which the system's loader looks for.
    pub path: PathBuf,
    /// Why it could not be used; `None`: it was loaded.
    pub problem: Option<String>,
}

/// What was looked for, and what was found. Files that do not exist are not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// The driver's library, in the order of the search; the first that loads is used.
    pub driver: Vec<Place>,
    /// The compiler's library, in the order of the search; the first that suits driver and chip is used.
    pub compiler: Vec<Place>,
    /// A library of products, in the order of the search; the first that suits driver and chip is used. Empty for vendors of
    /// which none is used.
    pub products: Vec<Place>,
    /// Folders that were searched before and after the system's loader, and exist.
    pub folders: Vec<PathBuf>,
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("driver", &self.driver),
            ("compiler", &self.compiler),
            ("products", &self.products),
        ];
        for (what, places) in kinds {
            for Place { path, problem } in places {
                let problem = problem.as_deref().unwrap_or("found");
                writeln!(f, "{what}: {}: {problem}", path.display())?;
            }
        }
        write!(f, "folders: {}", joined(&self.folders))
    }
}

/// A search: the folders that a variable names, the system's loader, then where vendors put their libraries.
#[derive(Clone, Debug)]
pub struct Search {
    first: Vec<PathBuf>,
    then: Vec<PathBuf>,
}

impl Search {
    /// The variable names folders as `PATH` does. Folders that do not exist are left out.
    pub fn new(variable: &str, then: Vec<PathBuf>) -> Self {
        let set = std::env::var_os(variable).unwrap_or_default();
        let there = |all: Vec<PathBuf>| all.into_iter().filter(|folder| folder.is_dir()).collect();
        Self {
            first: there(std::env::split_paths(&set).collect()),
            then: there(then),
        }
    }

    /// All its folders.
    pub fn folders(&self) -> Vec<PathBuf> {
        [self.first.as_slice(), &self.then].concat()
    }

    /// Paths and bare names, in the order of the search. Of the paths only those that exist.
    pub fn candidates(&self, names: &[&str]) -> Vec<PathBuf> {
        let within = |folders: &[PathBuf]| {
            let all = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            all.filter(|path| path.is_file()).collect::<Vec<_>>()
        };
        let bare = names.iter().map(PathBuf::from).collect();
        [within(&self.first), bare, within(&self.then)].concat()
    }

    /// The first of these libraries that loads.
    ///
    /// # Errors
    /// Where it was looked for, and what was wrong with files that exist.
    pub fn first(&self, names: &[&str]) -> Result<(PathBuf, Library), String> {
        let mut problems = Vec::new();
        for path in self.candidates(names) {
            match load(&path) {
                Ok(library) => return Ok((path, library)),
                Err(problem) if path.is_file() => problems.push(format!("; {problem}")),
                Err(_) => {}
            }
        }
        Err(format!(
            "there is no {}: {self}{}",
            names[0],
            problems.concat()
        ))
    }

    /// Each of these libraries, and what `attempt` found wrong with it.
    pub fn places(
        &self,
        names: &[&str],
        attempt: impl Fn(&Path) -> Result<(), String>,
    ) -> Vec<Place> {
        let places = self.candidates(names).into_iter().map(|path| Place {
            problem: attempt(&path).err(),
            path,
        });
        places.collect()
    }
}

/// Where it looks.
impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folders = self.folders();
        match folders.is_empty() {
            true => f.write_str("the system's loader was asked, and no other folder is known"),
            false => write!(f, "the system's loader was asked, and {}", joined(&folders)),
        }
    }
}

fn joined(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
    folders.join(", ")
}

/// Loads a vendor's library.
///
/// # Errors
/// What the system's loader says.
pub fn load(path: &Path) -> Result<Library, String> {
    // SAFETY: the vendor's libraries may be loaded at any time, from any thread.
    unsafe { Library::new(path) }.map_err(|e| e.to_string())
}

/// Loads what lies beside a library under names that begin so, for libraries that look for these by name only, which finds
/// what has been loaded already.
pub fn load_beside(path: &Path, prefixes: &[&str]) {
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        for prefix in prefixes {
            for file in matching(folder, prefix) {
                // Kept for the life of the process, as the library is.
                std::mem::forget(load(&file));
            }
        }
    }
}

/// What a folder holds, in order; nothing when there is none.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Entries of `folder` whose names begin so.
pub fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut all = entries(folder);
    all.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    all
}
