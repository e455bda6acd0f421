//! Packed weights, kept as files: what a back end once made of a matrix is mapped at the next start, not made again.
//!
//! One file per matrix: a header of whole pages that says in words what the matrix was made of, by what and for what, then the
//! bytes as the device holds them. A header is compared, never parsed: where it or the length is not what is wanted, the
//! matrix is made again and the file replaced. A checkpoint counts as the same while its files have the same number, size and
//! times in the file system: reading it through would take as long as packing it. The elements have no checksum, for the same reason.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hal::{Buffer, DType, Device, Error, Result, Stream, View, kept};

use crate::checkpoint::Checkpoint;
use crate::files::io_error;

/// Headers are of whole ones, so that elements start on a page.
const PAGE: usize = 4096;

/// Bytes that are written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The kept matrices of one checkpoint on one device.
pub(crate) struct Packed<'a> {
    folder: &'a Path,
    device: &'a dyn Device,
    /// The lines that the headers of all matrices begin with.
    origin: String,
}

impl<'a> Packed<'a> {
    /// The matrices kept in `folder`, which is made. What else is read of the checkpoint is on its way after this.
    ///
    /// # Errors
    /// `Unsupported` for a checkpoint that is not in files, and on a device that does not map them; `Io`.
    pub(crate) fn open(
        folder: &'a Path,
        device: &'a dyn Device,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let doing = || format!("keep packed weights in {}", folder.display());
        let info = device.info();
        let Some(states) = checkpoint.states() else {
            let why = "the model is not in files";
            return Err(Error::unsupported(doing(), why)
                .next_step("leave out --keep-packed, or load the model from its folder"));
        };
        std::fs::create_dir_all(folder).map_err(|e| io_error(&doing(), e))?;
        let program = program().map_err(|e| io_error(&doing(), e))?;
        let packed = Self {
            folder,
            device,
            origin: format!(
                "packed weight of glm {program}\nfor {}: {}\nfrom {}\n",
                info.spec,
                info.detail,
                states.join(", ")
            ),
        };
        // Whether the device maps files, asked of a small one before anything is packed.
        let probe = packed.part("probe");
        let mapped = std::fs::write(&probe, [0; PAGE])
            .and_then(|()| File::open(&probe))
            .map_err(|e| io_error(&doing(), e))
            .and_then(|file| device.map(&file, 0, PAGE));
        let _ = std::fs::remove_file(&probe);
        if mapped?.is_none() {
            let why = format!("{} does not use memory of files", info.spec);
            return Err(Error::unsupported(doing(), why).next_step("leave out --keep-packed"));
        }
        checkpoint.ask_vectors();
        Ok(packed)
    }

    /// The matrix that `what` says everything of but its checkpoint: mapped where it is kept, else made by `pack` and kept.
    ///
    /// # Errors
    /// Those of `pack` and of the device; `Io` when it cannot be kept.
    pub(crate) fn get(
        &self,
        what: &str,
        stream: &mut dyn Stream,
        pack: impl FnOnce(&mut dyn Stream) -> Result<Buffer>,
    ) -> Result<Buffer> {
        let made_of = format!("{}{what}\n", self.origin);
        let place = self.folder.join(kept::name([&*made_of]) + ".weight");
        if let Some(kept) = self.map(&place, &made_of)? {
            return Ok(kept);
        }
        let buffer = pack(stream)?;
        self.keep(&place, &made_of, &buffer, stream)?;
        // Of what was packed, no more than one matrix is in memory that the system cannot take back.
        Ok(self.map(&place, &made_of)?.unwrap_or(buffer))
    }

    /// The elements in the file `place`, if it is there and whole.
    fn map(&self, place: &Path, made_of: &str) -> Result<Option<Buffer>> {
        let Ok(mut file) = File::open(place) else {
            return Ok(None);
        };
        let mut found = vec![0; header_bytes(made_of)];
        let bytes = file.metadata().ok().and_then(|metadata| {
            let len = usize::try_from(metadata.len()).ok()?;
            len.checked_sub(found.len())
        });
        match (bytes, file.read_exact(&mut found)) {
            (Some(bytes), Ok(())) if found == header(made_of, bytes) => {
                self.device.map(&file, found.len() as u64, bytes)
            }
            _ => Ok(None),
        }
    }

    fn keep(
        &self,
        place: &Path,
        made_of: &str,
        buffer: &Buffer,
        stream: &mut dyn Stream,
    ) -> Result<()> {
        let failed = |e| io_error(&format!("keep a packed weight in {}", place.display()), e);
        let part = self.part("weight");
        let mut write = || {
            let mut file = File::create(&part).map_err(failed)?;
            file.write_all(&header(made_of, buffer.bytes()))
                .map_err(failed)?;
            let mut chunk = vec![0; CHUNK_BYTES.min(buffer.bytes())];
            for at in (0..buffer.bytes()).step_by(CHUNK_BYTES) {
                let chunk_bytes = CHUNK_BYTES.min(buffer.bytes() - at);
                let chunk = &mut chunk[..chunk_bytes];
                stream.download(chunk, &View::at(buffer, at, DType::U8, &[chunk_bytes])?)?;
                file.write_all(chunk).map_err(failed)?;
            }
            // On the disk before it has its name: what is found under the name is whole, whenever the power fails.
            file.sync_data().map_err(failed)?;
            std::fs::rename(&part, place).map_err(failed)
        };
        let written = write();
        if written.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        written
    }

    /// A name that only this loading uses.
    fn part(&self, kind: &str) -> PathBuf {
        let address = std::ptr::from_ref(self).addr();
        let process = std::process::id();
        self.folder.join(format!("{kind}-{process}-{address}.part"))
    }
}

/// The header of a file with so many bytes of elements.
fn header(made_of: &str, bytes: usize) -> Vec<u8> {
    let mut header = format!("{made_of}{bytes:20} bytes\n").into_bytes();
    header.resize(header_bytes(made_of), 0);
    header
}

fn header_bytes(made_of: &str) -> usize {
    (made_of.len() + "18446744073709551615 bytes\n".len()).next_multiple_of(PAGE)
}

/// The program that packs. Another build may pack in another way, whatever its version says.
fn program() -> std::io::Result<String> {
    let metadata = std::env::current_exe()?.metadata()?;
    let time = metadata.modified()?.duration_since(UNIX_EPOCH);
    let nanoseconds = time.map_or(0, |time| time.as_nanos());
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!("{version}, {} B of {nanoseconds}", metadata.len()))
}
