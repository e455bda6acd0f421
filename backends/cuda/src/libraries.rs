//! Where the vendor's libraries are: the driver's, and the compiler's (NVRTC).

use std::fmt;
use std::path::{Path, PathBuf};

use hal::{Error, ErrorKind, Result};
use libloading::Library;

use crate::symbols::{Compiler, Driver};

/// Folders that are searched first, separated as in `PATH`.
const FIRST: &str = "GLM_CUDA_LIBRARIES";

/// File names of the driver's library.
const DRIVER: &[&str] = match cfg!(windows) {
    true => &["nvcuda.dll"],
    false => &["libcuda.so.1", "libcuda.so"],
};

/// File names of the compiler's library, newest first.
const COMPILER: &[&str] = match cfg!(windows) {
    true => &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
    false => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
};

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
    /// Folders that were searched after the system's loader, and exist.
    pub folders: Vec<PathBuf>,
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, places) in [("driver", &self.driver), ("compiler", &self.compiler)] {
            for Place { path, problem } in places {
                let problem = problem.as_deref().unwrap_or("found");
                writeln!(f, "{what}: {}: {problem}", path.display())?;
            }
        }
        let folders: Vec<_> = self
            .folders
            .iter()
            .map(|f| f.display().to_string())
            .collect();
        write!(f, "folders: {}", folders.join(", "))
    }
}

/// Looks for the libraries and tries to load each, whatever the search for a device would have stopped at.
pub fn libraries() -> Libraries {
    let place = |path: &Path, problem: Option<String>| Place {
        path: path.into(),
        problem,
    };
    let mut driver = Vec::new();
    for path in candidates(DRIVER) {
        let problem = load(&path)
            .and_then(|library| Driver::new(library).map_err(|name| format!("it has no {name}")));
        driver.push(place(&path, problem.err()));
    }
    let mut compiler = Vec::new();
    for path in candidates(COMPILER) {
        let problem = load_compiler(&path);
        compiler.push(place(&path, problem.err()));
    }
    Libraries {
        driver,
        compiler,
        folders: [first_folders(), folders()].concat(),
    }
}

/// The driver.
///
/// # Errors
/// `NotFound` when there is none, or when it is too old to have what is needed.
pub(crate) fn driver() -> Result<Driver> {
    const DOING: &str = "look for the NVIDIA driver";
    let mut problems = Vec::new();
    for path in candidates(DRIVER) {
        match load(&path) {
            Ok(library) => {
                return Driver::new(library).map_err(|name| {
                    let why = format!("{} has no {name}", path.display());
                    Error::new(ErrorKind::NotFound, DOING, why)
                        .next_step("install driver 525 or newer")
                });
            }
            Err(problem) if path.is_file() => problems.push(format!("; {problem}")),
            Err(_) => {}
        }
    }
    let why = format!(
        "there is no {}: {}{}",
        DRIVER[0],
        searched(),
        problems.concat()
    );
    Err(
        Error::new(ErrorKind::NotFound, DOING, why).next_step(format!(
            "install the NVIDIA driver, or name its folder in {FIRST}"
        )),
    )
}

/// The compilers that load, in the order of the search.
pub(crate) fn compilers() -> impl Iterator<Item = (PathBuf, Compiler)> {
    candidates(COMPILER)
        .into_iter()
        .filter_map(|path| Some((path.clone(), load_compiler(&path).ok()?)))
}

/// That there is no compiler.
pub(crate) fn no_compiler() -> Error {
    let why = format!("there is no {}: {}", COMPILER[..2].join(" or "), searched());
    Error::new(
        ErrorKind::NotFound,
        "look for NVIDIA's compiler, NVRTC",
        why,
    )
    .next_step(format!(
        "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, or name its folder in {FIRST}"
    ))
}

fn searched() -> String {
    let folders = [first_folders(), folders()].concat();
    let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
    match folders.is_empty() {
        true => "the system's loader was asked, and no other folder is known".into(),
        false => format!("the system's loader was asked, and {}", folders.join(", ")),
    }
}

fn load(path: &Path) -> Result<Library, String> {
    // SAFETY: the vendor's libraries may be loaded at any time, from any thread.
    unsafe { Library::new(path) }.map_err(|e| e.to_string())
}

fn load_compiler(path: &Path) -> Result<Compiler, String> {
    // It looks for its built-in functions by name, which finds what has been loaded already.
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        for file in entries(folder) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("libnvrtc-builtins.so") {
                // Kept for the life of the process, as the compiler is.
                std::mem::forget(load(&file));
            }
        }
    }
    Compiler::new(load(path)?).map_err(|name| format!("it has no {name}"))
}

/// Paths and bare names, in the order of the search. Of the paths only those that exist.
fn candidates(names: &[&str]) -> Vec<PathBuf> {
    let within = |folders: Vec<PathBuf>| {
        let all = folders
            .iter()
            .flat_map(|folder| names.iter().map(|name| folder.join(name)));
        all.filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    let bare = names.iter().map(PathBuf::from).collect();
    [within(first_folders()), bare, within(folders())].concat()
}

fn first_folders() -> Vec<PathBuf> {
    let set = std::env::var_os(FIRST).unwrap_or_default();
    let folders = std::env::split_paths(&set).filter(|folder| folder.is_dir());
    folders.collect()
}

/// Where toolkits, conda and Python's wheels put libraries.
fn folders() -> Vec<PathBuf> {
    folders_of(&|name| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    })
}

/// As [`folders`], of a machine whose environment is `set`.
fn folders_of(set: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut toolkits: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(set)
        .collect();
    let local = Path::new("/usr/local");
    toolkits.push(local.join("cuda"));
    toolkits.extend(matching(local, "cuda-").into_iter().rev());
    let mut found: Vec<PathBuf> = Vec::new();
    for toolkit in toolkits {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib", "bin", "bin/x64"] {
            found.push(toolkit.join(folder));
        }
    }
    // Under Windows' Linux the driver lies here.
    found.push("/usr/lib/wsl/lib".into());
    let mut pythons: Vec<PathBuf> = Vec::new();
    for prefix in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set) {
        found.push(prefix.join("lib"));
        pythons.extend(matching(&prefix.join("lib"), "python3"));
    }
    pythons.extend(
        set("HOME")
            .iter()
            .flat_map(|home| matching(&home.join(".local/lib"), "python3")),
    );
    for lib in ["/usr/local/lib", "/usr/lib"] {
        pythons.extend(matching(Path::new(lib), "python3"));
    }
    for python in pythons {
        for packages in ["site-packages", "dist-packages"] {
            let wheels = entries(&python.join(packages).join("nvidia"));
            found.extend(wheels.into_iter().map(|wheel| wheel.join("lib")));
        }
    }
    found.retain(|folder| folder.is_dir());
    found
}

/// What a folder holds, in order; nothing when there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Entries of `folder` whose names begin so.
fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut all = entries(folder);
    all.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_toolkits_conda_and_wheels_are_found_in_that_order() {
        let root = std::env::temp_dir().join(format!("glm-cuda-folders-{}", std::process::id()));
        let wheel = "lib/python3.12/site-packages/nvidia";
        let made = [
            "toolkit/lib64".to_owned(),
            "venv/lib".into(),
            format!("venv/{wheel}/cu13/lib"),
            format!("venv/{wheel}/cuda_nvrtc/lib"),
            "conda/lib".into(),
            format!("conda/{wheel}/cu13/lib"),
            format!("home/.local/{wheel}/cu13/lib"),
        ];
        for folder in &made {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let set = |name: &str| {
            let folder = match name {
                "CUDA_HOME" => "toolkit",
                "VIRTUAL_ENV" => "venv",
                "CONDA_PREFIX" => "conda",
                "HOME" => "home",
                _ => return None,
            };
            Some(root.join(folder))
        };
        let mut found = folders_of(&set);
        // What this machine has besides.
        found.retain(|folder| folder.starts_with(&root));
        let order = [0, 1, 4, 2, 3, 5, 6].map(|i| root.join(&made[i]));
        assert_eq!(found, order);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
