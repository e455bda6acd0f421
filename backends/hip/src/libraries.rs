//! Where HIP's libraries are: the runtime's, the compiler's (hiprtc), which may be the same, and the one of products (rocBLAS).

use std::path::{Path, PathBuf};

use backend_runtime::Libraries;
use backend_runtime::search::{Search, load, load_beside, matching};
use hal::{Error, ErrorKind, Result};

use crate::symbols::{Blas, Compiler, Driver};

/// Folders that are searched first, separated as in `PATH`.
const FIRST: &str = "GLM_HIP_LIBRARIES";

/// File names of the runtime's library: AMD's, newest first, then Hygon's own.
const RUNTIME: &[&str] = &[
    "libamdhip64.so.7",
    "libamdhip64.so.6",
    "libamdhip64.so.5",
    "libamdhip64.so",
    "libgalaxyhip.so.5",
    "libgalaxyhip.so",
];

/// File names of the compiler's library, newest first.
const COMPILER: &[&str] = &[
    "libhiprtc.so.7",
    "libhiprtc.so.6",
    "libhiprtc.so.5",
    "libhiprtc.so",
];

/// File names of the library of products: of ROCm 7, 6, 5.6 and before, then whatever is there.
const BLAS: &[&str] = &[
    "librocblas.so.5",
    "librocblas.so.4",
    "librocblas.so.3",
    "librocblas.so.0",
    "librocblas.so",
];

fn search() -> Search {
    Search::new(FIRST, folders())
}

/// Looks for the libraries and tries to load each, whatever the search for a device would have stopped at. A runtime that is
/// its own compiler is listed as both.
pub fn libraries() -> Libraries {
    let search = search();
    let lacks = |name| format!("it has no {name}");
    let mut compiler = search.places(RUNTIME, |path| load_compiler(path).map(drop));
    compiler.retain(|place| place.problem.is_none());
    compiler.extend(search.places(COMPILER, |path| load_compiler(path).map(drop)));
    Libraries {
        driver: search.places(RUNTIME, |path| {
            load(path).and_then(|library| Driver::new(library).map(drop).map_err(lacks))
        }),
        compiler,
        products: search.places(BLAS, |path| load_blas(path).map(drop)),
        folders: search.folders(),
    }
}

/// The runtime, and where it was found.
///
/// # Errors
/// `NotFound` when there is none, or when it is too old to have what is needed.
pub(crate) fn driver() -> Result<(PathBuf, Driver)> {
    let missing = |why| Error::new(ErrorKind::NotFound, "look for HIP's runtime", why);
    let (path, library) = search().first(RUNTIME).map_err(|why| {
        missing(why).next_step(format!(
            "install ROCm or Hygon's DTK (there `source /opt/dtk/env.sh`), or name the library's folder in {FIRST}"
        ))
    })?;
    match Driver::new(library) {
        Ok(driver) => Ok((path, driver)),
        Err(name) => Err(missing(format!("{} has no {name}", path.display()))
            .next_step("install ROCm 5.2 or newer")),
    }
}

/// The compiler for the runtime at `runtime`, and where it was found: inside of that, or a library of its own, of the same
/// release rather than of another.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn compiler(runtime: &Path) -> Result<(PathBuf, Compiler)> {
    if let Ok(compiler) = load_compiler(runtime) {
        return Ok((runtime.into(), compiler));
    }
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    let release = name.find(".so").map_or("", |at| &name[at..]);
    let mut names = COMPILER.to_vec();
    names.sort_by_key(|name| !name.ends_with(release));
    let search = search();
    let mut problems = Vec::new();
    for path in search.candidates(&names) {
        match load_compiler(&path) {
            Ok(compiler) => return Ok((path, compiler)),
            Err(problem) if path.is_file() => problems.push(format!("; {problem}")),
            Err(_) => {}
        }
    }
    let why = format!(
        "{} does not compile, and there is no {}: {search}{}",
        runtime.display(),
        names[0],
        problems.concat()
    );
    let doing = "look for HIP's compiler, hiprtc";
    Err(
        Error::new(ErrorKind::NotFound, doing, why).next_step(format!(
            "install hiprtc of the runtime's release, or name its folder in {FIRST}"
        )),
    )
}

/// The libraries of products that are there, in the order of the search: their functions, or what is wrong with them.
pub(crate) fn blas_libraries() -> impl Iterator<Item = (PathBuf, Result<Blas, String>)> {
    let there = |(path, loaded): &(PathBuf, Result<Blas, String>)| loaded.is_ok() || path.is_file();
    let candidates = search().candidates(BLAS).into_iter();
    candidates
        .map(|path| (path.clone(), load_blas(&path)))
        .filter(there)
}

/// That there is no library of products.
pub(crate) fn no_blas() -> Error {
    let why = format!("there is no {}: {}", BLAS[..4].join(" or "), search());
    let doing = "look for the library of products, rocBLAS";
    Error::new(ErrorKind::NotFound, doing, why).next_step(format!(
        "install rocBLAS of the runtime's release, or name its folder in {FIRST}"
    ))
}

fn load_blas(path: &Path) -> Result<Blas, String> {
    Blas::new(load(path)?).map_err(|name| format!("it has no {name}"))
}

fn load_compiler(path: &Path) -> Result<Compiler, String> {
    load_beside(path, &["libhiprtc-builtins.so", "libamd_comgr.so"]);
    Compiler::new(load(path)?).map_err(|name| format!("it has no {name}"))
}

/// Where ROCm and DTK put libraries.
fn folders() -> Vec<PathBuf> {
    folders_of(Path::new("/opt"), &|name| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    })
}

/// As [`folders`], of a machine whose environment is `set` and whose toolkits lie in `opt`.
fn folders_of(opt: &Path, set: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut toolkits = Vec::new();
    for toolkit in ["ROCM_PATH", "HIP_PATH"].into_iter().filter_map(set) {
        // DTK 26 names this part of it.
        let whole = toolkit.ends_with(".hyhal").then(|| toolkit.parent());
        toolkits.extend(whole.flatten().map(Path::to_path_buf));
        toolkits.push(toolkit);
    }
    for name in ["rocm", "dtk"] {
        toolkits.push(opt.join(name));
        let newest_first = matching(opt, &format!("{name}-")).into_iter().rev();
        toolkits.extend(newest_first);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for toolkit in toolkits {
        for part in ["", "hip", ".hyhal", ".hyhal/hip"] {
            for folder in ["lib", "lib64"] {
                let folder = toolkit.join(part).join(folder);
                if !found.contains(&folder) {
                    found.push(folder);
                }
            }
        }
    }
    // The libraries that come with the driver of the kernel.
    found.push(opt.join("hyhal/lib"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_rocm_and_dtk_are_found_in_that_order() {
        let root = std::env::temp_dir().join(format!("glm-hip-folders-{}", std::process::id()));
        let made = [
            "own/dtk/lib",
            "own/dtk/.hyhal/lib",
            "opt/rocm/lib",
            "opt/rocm-6.4.1/lib",
            "opt/rocm-5.7.0/hip/lib",
            "opt/dtk/.hyhal/hip/lib",
            "opt/dtk-24.04/hip/lib",
            "opt/hyhal/lib",
        ];
        for folder in made {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let set = |name: &str| (name == "ROCM_PATH").then(|| root.join("own/dtk/.hyhal"));
        let mut found = folders_of(&root.join("opt"), &set);
        found.retain(|folder| folder.is_dir());
        assert_eq!(found, made.map(|folder| root.join(folder)));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
