//! Where the vendor's libraries are: the driver's, the compiler's (NVRTC), and the one of products (cuBLASLt).

use std::path::{Path, PathBuf};

use backend_runtime::Libraries;
use backend_runtime::search::{Search, entries, load, load_beside, matching};
use hal::{Error, ErrorKind, Result};

use crate::symbols::{Blas, Compiler, Driver};

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

/// File names of the library of products, newest first.
const BLAS: &[&str] = match cfg!(windows) {
    true => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
    false => &["libcublasLt.so.13", "libcublasLt.so.12"],
};

fn search() -> Search {
    Search::new(FIRST, folders())
}

/// Looks for the libraries and tries to load each, whatever the search for a device would have stopped at.
pub fn libraries() -> Libraries {
    let search = search();
    let lacks = |name| format!("it has no {name}");
    Libraries {
        driver: search.places(DRIVER, |path| {
            load(path).and_then(|library| Driver::new(library).map(drop).map_err(lacks))
        }),
        compiler: search.places(COMPILER, |path| load_compiler(path).map(drop)),
        products: search.places(BLAS, |path| load_blas(path).map(drop)),
        folders: search.folders(),
    }
}

/// The driver.
///
/// # Errors
/// `NotFound` when there is none, or when it is too old to have what is needed.
pub(crate) fn driver() -> Result<Driver> {
    let missing = |why| Error::new(ErrorKind::NotFound, "look for the NVIDIA driver", why);
    let (path, library) = search().first(DRIVER).map_err(|why| {
        missing(why).next_step(format!(
            "install the NVIDIA driver, or name its folder in {FIRST}"
        ))
    })?;
    Driver::new(library).map_err(|name| {
        missing(format!("{} has no {name}", path.display()))
            .next_step("install driver 525 or newer")
    })
}

/// The compilers that load, in the order of the search.
pub(crate) fn compilers() -> impl Iterator<Item = (PathBuf, Compiler)> {
    search()
        .candidates(COMPILER)
        .into_iter()
        .filter_map(|path| Some((path.clone(), load_compiler(&path).ok()?)))
}

/// That there is no compiler.
pub(crate) fn no_compiler() -> Error {
    let names = COMPILER[..2].join(" or ");
    let why = format!("there is no {names}: {}", search());
    Error::new(
        ErrorKind::NotFound,
        "look for NVIDIA's compiler, NVRTC",
        why,
    )
    .next_step(format!(
        "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, or name its folder in {FIRST}"
    ))
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
    let why = format!("there is no {}: {}", BLAS.join(" or "), search());
    Error::new(
        ErrorKind::NotFound,
        "look for NVIDIA's library of products, cuBLASLt",
        why,
    )
    .next_step(format!(
        "install the CUDA toolkit or `pip install nvidia-cublas`, or name its folder in {FIRST}"
    ))
}

fn load_blas(path: &Path) -> Result<Blas, String> {
    Blas::new(load(path)?).map_err(|name| format!("it has no {name}"))
}

fn load_compiler(path: &Path) -> Result<Compiler, String> {
    load_beside(path, &["libnvrtc-builtins.so"]);
    Compiler::new(load(path)?).map_err(|name| format!("it has no {name}"))
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
    found
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
        // What this machine has besides, and what it has not.
        found.retain(|folder| folder.starts_with(&root) && folder.is_dir());
        let order = [0, 1, 4, 2, 3, 5, 6].map(|i| root.join(&made[i]));
        assert_eq!(found, order);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
