//! Reading small files and JSON with errors that name them.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::path::Path;

use hal::{Error, ErrorKind, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// The largest JSON or template file that is read whole; GLM-4's tokenizer has 20 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// What the operating system said, as our error.
pub(crate) fn io_error(doing: &str, e: io::Error) -> Error {
    let (kind, next) = match e.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "check the path"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Io, "check the permissions"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Io, "free some space, or choose another disk")
        }
        _ => (ErrorKind::Io, "see the system's log"),
    };
    Error::new(kind, doing, e.to_string())
        .next_step(next)
        .with_source(e)
}

/// The contents of a file that is small by nature.
///
/// # Errors
/// `NotFound`, `Io`; `Corrupt` when it is larger than such a file can be.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let doing = format!("read {}", path.display());
    let bytes = std::fs::metadata(path)
        .map_err(|e| io_error(&doing, e))?
        .len();
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::corrupt(
            doing,
            format!("{bytes} bytes; at most {MAX_TEXT_BYTES} are expected"),
        )
        .next_step("check that this is the right file"));
    }
    std::fs::read(path).map_err(|e| io_error(&doing, e))
}

/// Parses JSON; `file` names it in errors.
///
/// # Errors
/// `Corrupt` with line and column.
pub(crate) fn parse_json<'de, T: Deserialize<'de>>(file: &str, json: &'de [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| {
        Error::corrupt(format!("parse {file}"), e.to_string())
            .next_step("copy or download the file again")
            .with_source(e)
    })
}

/// Reads and parses a JSON file.
///
/// # Errors
/// As [`read`] and [`parse_json`].
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value> {
    parse_json(&path.display().to_string(), &read(path)?)
}

/// Whether this is the name of a file in the same folder: not a path, not the folder or its parent.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}

/// A JSON object in file order whose keys differ: other maps keep the last of two equal keys
/// silently.
#[derive(Debug)]
pub(crate) struct UniqueMap<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("`{key}` appears twice")));
                    }
                    entries.push((key, value));
                }
                Ok(UniqueMap(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said() {
        let e = io_error("write x", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(e.kind(), ErrorKind::Io);
        assert!(e.next().is_some_and(|next| next.contains("space")), "{e}");
    }
}
