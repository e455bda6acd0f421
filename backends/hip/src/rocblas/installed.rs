//! What is installed beside rocBLAS, asked before it is used, because it ends the process where something is missing.

use std::path::{Path, PathBuf};

use backend_runtime::search::entries;

/// The variable that names the folder of the library's kernels.
const KERNELS: &str = "ROCBLAS_TENSILE_LIBPATH";

/// Whether the library at `path` has kernels for a chip that calls itself `target`: a file of theirs has the chip's name.
pub(super) fn kernels_for(path: &Path, target: &str) -> Result<(), String> {
    let set = std::env::var_os(KERNELS).filter(|value| !value.is_empty());
    let folders = match set {
        Some(folder) => vec![PathBuf::from(folder)],
        None => folder_of(path).map_or(Vec::new(), |folder| folders_beside(&folder)),
    };
    let chip = target.split(':').next().unwrap_or(target);
    // Releases since 7 have a folder for each chip.
    let there = |folder: &PathBuf| entries(folder).iter().any(|file| is_for(file, chip));
    if folders.iter().any(there) {
        return Ok(());
    }
    let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    Err(format!(
        "no kernels for {chip} in {}; {KERNELS} names their folder",
        looked.join(", ")
    ))
}

/// Where releases of ROCm and DTK have the kernels of a library in `folder`.
fn folders_beside(folder: &Path) -> Vec<PathBuf> {
    [
        "rocblas/library",
        "library",
        "../lib/rocblas/library",
        "../rocblas/lib/library",
    ]
    .map(|place| folder.join(place))
    .into_iter()
    .filter(|place| place.is_dir())
    .collect()
}

/// Whether a file's name has the chip's in it, and not as the beginning of another's.
fn is_for(file: &Path, chip: &str) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut rest = name.as_ref();
    while let Some(at) = rest.find(chip) {
        rest = &rest[at + chip.len()..];
        if !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return true;
        }
    }
    false
}

/// The folder of a library that was loaded, also by its bare name.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let parent = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = parent {
        return Some(folder.into());
    }
    let name = path.file_name()?.to_string_lossy().into_owned();
    let mut all = mapped(&maps()).into_iter();
    let mine = all.find(|file| begins(file, &name))?;
    mine.parent().map(Path::to_path_buf)
}

/// Whether the file's name begins so.
fn begins(file: &Path, name: &str) -> bool {
    let own = file.file_name().unwrap_or_default().to_string_lossy();
    own.starts_with(name)
}

/// What Linux says of this process's memory; nothing elsewhere.
fn maps() -> String {
    std::fs::read_to_string("/proc/self/maps").unwrap_or_default()
}

/// The files in such a text, each once: a path is the sixth word of a line, and may have spaces.
fn mapped(maps: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])))
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_of_a_chip_and_not_of_its_namesake() {
        for (file, chip, is) in [
            ("TensileLibrary_lazy_gfx90a.dat", "gfx90a", true),
            ("Kernels.so-000-gfx90a-xnack+.hsaco", "gfx90a", true),
            ("library/gfx942", "gfx942", true),
            ("TensileLibrary_gfx1100.co", "gfx110", false),
            ("TensileLibrary_lazy_gfx908.dat", "gfx906", false),
            ("TensileLibrary.dat", "gfx906", false),
            ("gfx1100_gfx110.co", "gfx110", true),
        ] {
            assert_eq!(is_for(Path::new(file), chip), is, "{file} {chip}");
        }
    }

    #[test]
    fn files_are_read_from_what_linux_says() {
        let maps = "7f00-7f01 r--p 00000000 08:01 12   /opt/a folder/librocblas.so.4.2\n\
                    7f01-7f02 r-xp 00001000 08:01 12   /opt/a folder/librocblas.so.4.2\n\
                    7f02-7f03 rw-p 00000000 00:00 0\n";
        let file = PathBuf::from("/opt/a folder/librocblas.so.4.2");
        assert!(begins(&file, "librocblas.so.4"));
        assert_eq!(mapped(maps), [file]);
    }
}
