//! Where the vendor's libraries are: the driver's, the compiler's (NVRTC), and the one of products (cuBLASLt).

use std::path::{Path, PathBuf};

use backend_runtime::Libraries;
use backend_runtime::search::{Search, entries, load, load_beside, matching};
use hal::{Error, ErrorKind, Result};

use crate::symbols::{Blas, Compiler, Driver};
use crate::vendor::{NVIDIA, Part, Vendor};

/// File names of the library of products, newest first.
const BLAS: &[&str] = match cfg!(windows) {
    true => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
    false => &["libcublasLt.so.13", "libcublasLt.so.12"],
};

fn search(vendor: &Vendor) -> Search {
    Search::new(vendor.variable, (vendor.folders)())
}

/// Looks for the libraries and tries to load each, whatever the search for a device would have stopped at.
pub fn libraries() -> Libraries {
    let products = search(&NVIDIA).places(BLAS, |path| load_blas(path).map(drop));
    Libraries {
        products,
        ..libraries_of(&NVIDIA)
    }
}

/// As [`libraries`], of another vendor, for which no library of products is known.
pub(crate) fn libraries_of(vendor: &'static Vendor) -> Libraries {
    let search = search(vendor);
    Libraries {
        driver: search.places(vendor.driver.files, |path| {
            let driver = Driver::new(vendor, load(path)?);
            driver.map(drop).map_err(lacks)
        }),
        compiler: search.places(vendor.compiler.files, |path| {
            load_compiler(vendor, path).map(drop)
        }),
        products: Vec::new(),
        folders: search.folders(),
    }
}

fn lacks(name: String) -> String {
    format!("it has no {name}")
}

/// The driver.
///
/// # Errors
/// `NotFound` when there is none, or when it is too old to have what is needed.
pub(crate) fn driver(vendor: &'static Vendor) -> Result<Driver> {
    let Part {
        what,
        files,
        install,
    } = vendor.driver;
    let missing = |why| Error::new(ErrorKind::NotFound, format!("look for the {what}"), why);
    let (path, library) = search(vendor).first(files).map_err(|why| {
        let variable = vendor.variable;
        missing(why).next_step(format!("{install}, or name its folder in {variable}"))
    })?;
    Driver::new(vendor, library).map_err(|name| {
        missing(format!("{} has no {name}", path.display())).next_step(vendor.oldest_driver.1)
    })
}

/// The compilers that load, in the order of the search.
pub(crate) fn compilers(vendor: &'static Vendor) -> impl Iterator<Item = (PathBuf, Compiler)> {
    let candidates = search(vendor).candidates(vendor.compiler.files);
    let loaded = move |path: PathBuf| Some((path.clone(), load_compiler(vendor, &path).ok()?));
    candidates.into_iter().filter_map(loaded)
}

/// That there is no compiler.
pub(crate) fn no_compiler(vendor: &Vendor) -> Error {
    let Part {
        what,
        files,
        install,
    } = vendor.compiler;
    let names = files[..2].join(" or ");
    let why = format!("there is no {names}: {}", search(vendor));
    let doing = format!("look for the compiler {what}");
    let variable = vendor.variable;
    Error::new(ErrorKind::NotFound, doing, why)
        .next_step(format!("{install}, or name its folder in {variable}"))
}

/// The libraries of products that are there, in the order of the search: their functions, or what is wrong with them.
pub(crate) fn blas_libraries() -> impl Iterator<Item = (PathBuf, Result<Blas, String>)> {
    let there = |(path, loaded): &(PathBuf, Result<Blas, String>)| loaded.is_ok() || path.is_file();
    let candidates = search(&NVIDIA).candidates(BLAS).into_iter();
    candidates
        .map(|path| (path.clone(), load_blas(&path)))
        .filter(there)
}

/// That there is no library of products.
pub(crate) fn no_blas() -> Error {
    let why = format!("there is no {}: {}", BLAS.join(" or "), search(&NVIDIA));
    Error::new(
        ErrorKind::NotFound,
        "look for NVIDIA's library of products, cuBLASLt",
        why,
    )
    .next_step(format!(
        "install the CUDA toolkit or `pip install nvidia-cublas`, or name its folder in {}",
        NVIDIA.variable
    ))
}

fn load_blas(path: &Path) -> Result<Blas, String> {
    Blas::new(&NVIDIA, load(path)?).map_err(lacks)
}

fn load_compiler(vendor: &'static Vendor, path: &Path) -> Result<Compiler, String> {
    load_beside(path, &["libnvrtc-builtins.so"]);
    Compiler::new(vendor, load(path)?).map_err(lacks)
}

/// Where toolkits, conda and Python's wheels put libraries.
pub(crate) fn folders() -> Vec<PathBuf> {
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
