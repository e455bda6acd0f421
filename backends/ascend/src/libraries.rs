//! Where CANN's libraries are: AscendCL, the base of the operators, and the operators.

use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use backend_runtime::search::{Place, Search, load};
use hal::{Error, ErrorKind, Result};

use crate::operators::Operators;
use crate::symbols::{
    Base, Calls, Captures, Flagged, Fractals, Peers, Release, Repeats, Words, text_at,
};

/// Folders that are searched first, separated as in `PATH`.
const FIRST: &str = "GLM_ASCEND_LIBRARIES";

/// AscendCL.
const RUNTIME: &[&str] = &["libascendcl.so"];
/// The base of the operators.
const BASE: &[&str] = &["libnnopbase.so"];
/// The operators: of releases that have all in one, and of those that have parted them.
const OPERATORS: &[&str] = &[
    "libopapi.so",
    "libaclnn_math.so",
    "libaclnn_ops_infer.so",
    "libaclnn_ops_train.so",
];

/// CANN's libraries, which are never unloaded: they keep threads of their own, and run code when the process ends.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) calls: Calls,
    pub(crate) base: Base,
    pub(crate) operators: Operators,
    pub(crate) repeats: Option<Repeats>,
    pub(crate) fractals: Option<Fractals>,
    pub(crate) captures: Option<Captures>,
    pub(crate) flagged: Option<Flagged>,
    pub(crate) peers: Option<Peers>,
    release: Option<Release>,
    words: Option<Words>,
    /// Where AscendCL is.
    pub(crate) path: PathBuf,
    _libraries: Vec<ManuallyDrop<libloading::Library>>,
}

impl Library {
    /// Looks for the libraries.
    ///
    /// # Errors
    /// `NotFound` when there is none, or one is too old to have what is needed.
    pub(crate) fn find() -> Result<Self> {
        let missing = |why: String| {
            Error::new(ErrorKind::NotFound, "look for Ascend's CANN", why).next_step(format!(
                "install CANN's toolkit or its `nnrt` and the operator packages (kernels) of the chip, `source set_env.sh` of \
                 them, or name the libraries' folder in {FIRST}"
            ))
        };
        let search = search();
        let (path, runtime) = first(&search, RUNTIME).map_err(missing)?;
        let (base_path, base) = first(&search, BASE).map_err(missing)?;
        let (mut operators, mut problems) = (Vec::new(), Vec::new());
        for name in OPERATORS.chunks(1) {
            match first(&search, name) {
                Ok((_, library)) => operators.push(library),
                Err(problem) => problems.push(problem),
            }
        }
        if operators.is_empty() {
            return Err(missing(problems.swap_remove(0)));
        }
        let lacks = |path: &Path, name| missing(format!("{} has no {name}", path.display()));
        let calls = Calls::new(&[&runtime]).map_err(|name| lacks(&path, name))?;
        let mut all = vec![&base];
        all.extend(&operators);
        let base_calls = Base::new(&all).map_err(|name| lacks(&base_path, name))?;
        Ok(Self {
            calls,
            base: base_calls,
            operators: Operators::new(&all),
            repeats: Repeats::new(&all).ok(),
            fractals: Fractals::new(&all).ok(),
            captures: Captures::new(&[&runtime]).ok(),
            flagged: Flagged::new(&[&runtime]).ok(),
            peers: Peers::new(&[&runtime]).ok(),
            release: Release::new(&[&runtime]).ok(),
            words: Words::new(&[&runtime]).ok(),
            path,
            _libraries: [runtime, base]
                .into_iter()
                .chain(operators)
                .map(ManuallyDrop::new)
                .collect(),
        })
    }

    /// Whether weights can be brought into fractals, and multiplied with.
    pub(crate) fn folds(&self) -> bool {
        let Operators {
            MatmulWeightNz,
            TransMatmulWeight,
            ..
        } = &self.operators;
        self.fractals.is_some() && MatmulWeightNz.is_some() && TransMatmulWeight.is_some()
    }

    /// What the library says of the last failure of this thread, after a colon; nothing when it says nothing.
    pub(crate) fn recent(&self) -> String {
        let Some(words) = &self.words else {
            return String::new();
        };
        // SAFETY: it takes nothing, and its text lives until this thread's next call.
        let text = text_at(unsafe { (words.aclGetRecentErrMsg)() });
        let line = text.map(|text| text.lines().map(str::trim).collect::<Vec<_>>().join(" "));
        line.map_or(String::new(), |line| format!(": {line}"))
    }

    /// AscendCL's version: `1.17.0`.
    pub(crate) fn version(&self) -> Option<String> {
        let release = self.release.as_ref()?;
        let [mut major, mut minor, mut patch] = [0; 3];
        // SAFETY: the numbers outlive the call.
        let code = unsafe { (release.aclrtGetVersion)(&mut major, &mut minor, &mut patch) };
        (code == 0).then(|| format!("{major}.{minor}.{patch}"))
    }
}

/// Folders of CANN's releases, in which libraries are in `lib64`: those that are set, then where it is installed.
fn toolkits() -> Vec<PathBuf> {
    let set = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"].map(std::env::var_os);
    let set = set.into_iter().flatten().filter(|value| !value.is_empty());
    let installed = ["ascend-toolkit/latest", "nnrt/latest", "cann", "latest"];
    let installed = installed.map(|part| Path::new("/usr/local/Ascend").join(part));
    set.map(PathBuf::from).chain(installed).collect()
}

fn search() -> Search {
    let folders = toolkits().into_iter().map(|toolkit| toolkit.join("lib64"));
    Search::new(FIRST, folders.collect())
}

/// The first of these libraries that loads, whose functions others then find.
///
/// # Errors
/// Where it was looked for.
fn first(search: &Search, names: &[&str]) -> Result<(PathBuf, libloading::Library), String> {
    let (path, library) = search.first(names).map_err(|why| {
        let wanted: Vec<_> = toolkits().iter().map(|t| t.join("lib64").display().to_string()).collect();
        format!(
            "{why}; of LD_LIBRARY_PATH, {FIRST}, ASCEND_HOME_PATH and ASCEND_TOOLKIT_HOME none names its folder, and it is not in {}",
            wanted.join(", ")
        )
    })?;
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: it is loaded already, and is kept.
        let global = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        std::mem::forget(global);
    }
    Ok((path, library))
}

/// What was looked for, and what was found. Files that do not exist are not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// AscendCL, the base of the operators, and the operators, in the order of the search.
    pub places: Vec<Place>,
    /// Operators that back ends use and that are not there; empty too when no library is.
    pub missing: Vec<String>,
    /// Folders that were searched before and after the system's loader, and exist.
    pub folders: Vec<PathBuf>,
}

impl fmt::Display for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Place { path, problem } in &self.places {
            let problem = problem.as_deref().unwrap_or("found");
            writeln!(f, "{}: {problem}", path.display())?;
        }
        if !self.missing.is_empty() {
            writeln!(
                f,
                "operators that are not there: {}",
                self.missing.join(", ")
            )?;
        }
        let folders = self
            .folders
            .iter()
            .map(|folder| folder.display().to_string());
        write!(f, "folders: {}", folders.collect::<Vec<_>>().join(", "))
    }
}

/// Looks for the libraries and tries to load each, whatever the search for a device would have stopped at.
pub fn libraries() -> Libraries {
    let search = search();
    let names = [RUNTIME, BASE, OPERATORS].concat();
    let found = Library::find();
    let missing = found.map_or(Vec::new(), |library| {
        let names = library.operators.names().into_iter();
        names
            .filter(|(_, there)| !there)
            .map(|(name, _)| name.into())
            .collect()
    });
    Libraries {
        places: search.places(&names, |path| load(path).map(drop)),
        missing,
        folders: search.folders(),
    }
}
