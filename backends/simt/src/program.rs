//! Compiled programs: one per text and set of definitions, kept in memory, and on disk where the driver gives binaries.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hal::Result;
use sha2::{Digest, Sha256};

use crate::driver::{SimtDriver, Source};

/// Bytes of the checksum before a kept binary.
const SUM_BYTES: usize = 32;

type Defines = Vec<(&'static str, String)>;
type Table<D> = HashMap<(&'static str, Defines), Arc<<D as SimtDriver>::Program>>;

/// The programs of one device.
pub(crate) struct Programs<D: SimtDriver>(Mutex<Table<D>>);

impl<D: SimtDriver> Default for Programs<D> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<D: SimtDriver> std::fmt::Debug for Programs<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} programs", table.len())
    }
}

impl<D: SimtDriver> Programs<D> {
    /// The program of `source` with `defines`.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    pub(crate) fn program(
        &self,
        driver: &D,
        source: &Source,
        defines: Defines,
    ) -> Result<Arc<D::Program>> {
        // Held while compiling: two plans of one program compile it once.
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.name, defines);
        if let Some(program) = table.get(&key) {
            return Ok(Arc::clone(program));
        }
        let place = place(driver, source, &key.1);
        let kept = place.as_ref().and_then(read);
        let program = driver.compile(source, &key.1, kept.as_deref())?;
        if kept.is_none()
            && let Some(place) = place
            && let Some(binary) = driver.binary(&program)
        {
            // A cache that cannot be written is no reason to fail.
            let _ = write(&place, &binary);
        }
        let program = Arc::new(program);
        table.insert(key, Arc::clone(&program));
        Ok(program)
    }
}

/// Where the binary of a program is kept: named by everything that it depends on.
fn place<D: SimtDriver>(
    driver: &D,
    source: &Source,
    defines: &[(&str, String)],
) -> Option<PathBuf> {
    let mut hash = Sha256::new();
    let fingerprint = driver.facts().fingerprint.as_ref()?;
    for part in [fingerprint.as_str(), source.text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for (name, value) in defines {
        hash.update(format!("{name}={value}\n"));
    }
    let digest = hex(&hash.finalize());
    Some(
        cache_folder()?
            .join("programs")
            .join(format!("{}-{digest}", source.name)),
    )
}

/// `$GLM_CACHE`, else the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
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

/// A kept binary whose checksum is right.
fn read(place: &PathBuf) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(place).ok()?;
    let binary = bytes.split_off(SUM_BYTES.min(bytes.len()));
    (bytes[..] == Sha256::digest(&binary)[..]).then_some(binary)
}

fn write(place: &PathBuf, binary: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Another process may be writing the same: the last rename wins, and every reader sees a whole file.
    let part = place.with_extension(format!("part{}", std::process::id()));
    let mut bytes = Sha256::digest(binary).to_vec();
    bytes.extend(binary);
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, place)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
