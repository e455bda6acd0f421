//! `glm cache`: what is kept between starts, how much of the disk that takes, and its removal.

use std::io::{self, Write};
use std::path::Path;

use hal::{Error, ErrorKind, kept};
use serde_json::{Value, json};

use crate::args::{Cache, CacheWhat, Global, Kept};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(global: &Global, args: &Cache) -> Result<(), Failure> {
    let folder = kept::needed_folder("look into the cache")?;
    let (removed, kinds) = match &args.what {
        Some(CacheWhat::Clear { kinds }) => (true, &kinds[..]),
        None => (false, &Kept::ALL[..]),
    };
    let mut found = Vec::with_capacity(kinds.len());
    for &kind in kinds {
        let folder = folder.join(kind.folder());
        let size = match removed {
            true => remove(&folder)?,
            false => size(&folder)?,
        };
        found.push((kind, size));
    }
    if global.json {
        return output::json(&json!({
            "schema": "glm/cache/1",
            "folder": folder,
            "removed": removed,
            "kinds": found.iter().map(|(kind, size)| json!({
                "kind": kind.folder(), "files": size.files, "bytes": size.bytes,
            })).collect::<Vec<Value>>(),
        }));
    }
    let mut out = io::stdout().lock();
    match removed {
        true => writeln!(out, "removed from {}", folder.display())?,
        false => writeln!(out, "{}", folder.display())?,
    }
    for (kind, size) in found {
        let (name, what) = (kind.folder(), kind.what());
        let bytes = output::bytes(size.bytes);
        writeln!(
            out,
            "{name:<10} {:>6} files {bytes:>11}  {what}",
            size.files
        )?;
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Size {
    files: u64,
    bytes: u64,
}

fn size(folder: &Path) -> Result<Size, Error> {
    each_file(folder, "look into", |_| Ok(()))
}

/// Removes the files of `folder`. Programs that use one go on with it.
fn remove(folder: &Path) -> Result<Size, Error> {
    each_file(folder, "remove what is kept in", |file| {
        match std::fs::remove_file(file) {
            // Somebody else was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    })
}

/// Does something with each file that lies in `folder` itself; nothing where there is no folder.
fn each_file(
    folder: &Path,
    doing: &str,
    each: impl Fn(&Path) -> io::Result<()>,
) -> Result<Size, Error> {
    let failed = |e: io::Error| {
        let doing = format!("{doing} {}", folder.display());
        Error::new(ErrorKind::Io, doing, e.to_string()).next_step("check the permissions")
    };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Size::default()),
        entries => entries.map_err(failed)?,
    };
    let mut size = Size::default();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let metadata = match entry.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(failed)?,
        };
        if metadata.is_file() {
            each(&entry.path()).map_err(failed)?;
            size.files += 1;
            size.bytes += metadata.len();
        }
    }
    Ok(size)
}
