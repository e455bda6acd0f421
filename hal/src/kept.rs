//! What is kept between runs: compiled programs, pipelines, choices of a tuner. Every file carries a checksum.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, ErrorKind, Result};

/// Weights as a device uses them, of every model and version, in this folder of [`folder`].
pub const PACKED: &str = "packed";
/// Compiled kernels; likewise the others.
pub const PROGRAMS: &str = "programs";
/// Pipelines of graphics drivers.
pub const PIPELINES: &str = "pipelines";
/// Choices of a tuner.
pub const TUNING: &str = "tuning";
/// Kernels compiled for the emulator.
pub const EMULATOR: &str = "emulator";

/// Bytes of the checksum before what was kept.
const SUM_BYTES: usize = 32;

/// The folder: `$GLM_CACHE`, else `glm` in the user's cache folder; `None` where there is neither.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("GLM_CACHE") {
        return Some(folder.into());
    }
    let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
    // The specification of base directories: relative paths are to be ignored.
    let caches = caches.filter(|path| path.is_absolute());
    let caches = caches.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    Some(caches?.join("glm"))
}

/// [`folder`], where `doing` cannot do without.
///
/// # Errors
/// `NotFound` when there is none.
pub fn needed_folder(doing: &str) -> Result<PathBuf> {
    folder().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, doing, "there is no cache folder")
            .next_step("set GLM_CACHE to a folder")
    })
}

/// What was kept in a file, if it is there and its checksum is right.
pub fn read(place: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(place).ok()?;
    let kept = bytes.split_off(SUM_BYTES.min(bytes.len()));
    (bytes[..] == Sha256::digest(&kept)[..]).then_some(kept)
}

/// Keeps `bytes` in a file, whose folder is made.
///
/// # Errors
/// What the file system reports. A cache that cannot be written is no reason to fail: most callers ignore it.
pub fn write(place: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Another process may be writing the same: the last rename wins, and every reader sees a whole file.
    let part = place.with_extension(format!("part{}", std::process::id()));
    let mut whole = Sha256::digest(bytes).to_vec();
    whole.extend(bytes);
    std::fs::write(&part, whole)?;
    std::fs::rename(&part, place)
}

/// A name for what depends on these `parts`, in this order: the hexadecimal digest of them and of their lengths.
pub fn name<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_as_none() {
        let folder = std::env::temp_dir().join(format!("glm-kept-{}", std::process::id()));
        let place = folder.join("inner").join("file");
        assert_eq!(read(&place), None);
        for bytes in [&b"program"[..], b""] {
            write(&place, bytes).unwrap();
            assert_eq!(read(&place).as_deref(), Some(bytes));
            let whole = std::fs::read(&place).unwrap();
            let mut flipped = whole.clone();
            *flipped.last_mut().unwrap() ^= 1;
            for damaged in [&flipped[..], &whole[..whole.len() - 1], b""] {
                std::fs::write(&place, damaged).unwrap();
                assert_eq!(read(&place), None);
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(write(Path::new("/dev/null/inner"), b"x").is_err());
    }

    #[test]
    fn names_tell_parts_apart() {
        assert_ne!(name(["ab", "c"]), name(["a", "bc"]));
        assert_eq!(name(["ab", "c"]), name(["ab", "c"]));
        assert_eq!(name([]).len(), 64);
    }
}
