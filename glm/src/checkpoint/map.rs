//! A file's bytes, mapped: the only unsafe code of this crate.

use std::fs::{File, Metadata};
use std::ops::{Deref, Range};
use std::path::Path;

use hal::{Error, Result};
use memmap2::Mmap;

use crate::files;

/// The bytes of one file.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Mapped from disk; pages are read when touched and given back under memory pressure.
    Mapped {
        map: Mmap,
        /// [`Self::state`].
        state: String,
    },
    /// Part of this executable.
    Static(&'static [u8]),
    /// In memory.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Corrupt` when the file is empty.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let doing = format!("map {}", path.display());
        let file = File::open(path).map_err(|e| files::io_error(&doing, e))?;
        let metadata = file.metadata().map_err(|e| files::io_error(&doing, e))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(Error::corrupt(doing, "not a file with contents")
                .next_step("copy or download it again"));
        }
        // SAFETY: the map is read-only and private to this value; the documentation of `Checkpoint`
        // asks that nobody changes the file while it is open, which no process can rule out for
        // another.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
        let map = unsafe { Mmap::map(&file) };
        Ok(Self::Mapped {
            map: map.map_err(|e| files::io_error(&doing, e))?,
            state: state(&metadata),
        })
    }

    /// What changes when another file takes the place of this one, or somebody writes to it; `None` where there is no file.
    pub(crate) fn state(&self) -> Option<&str> {
        match self {
            Self::Mapped { state, .. } => Some(state),
            Self::Static(_) | Self::Owned(_) => None,
        }
    }

    /// Asks the system to read `range`, and so many bytes after it, before it is touched.
    pub(crate) fn ask(&self, range: Range<usize>, ahead_bytes: usize) {
        #[cfg(unix)]
        if let Self::Mapped { map, .. } = self {
            let end = range.end.saturating_add(ahead_bytes).min(map.len());
            let advice = memmap2::Advice::WillNeed;
            // Only time is lost when the system does not.
            let _ = map.advise_range(advice, range.start, end.saturating_sub(range.start));
        }
        #[cfg(not(unix))]
        let _ = (range, ahead_bytes);
    }

    /// Gives the pages of `range` back to the system; they are read again when touched again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped { map, .. } = self
            && !range.is_empty()
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            #[expect(
                unsafe_code,
                reason = "dropping pages is unsafe for other kinds of maps"
            )]
            // SAFETY: the map is private, read-only and of a file: nothing was ever written to its
            // pages, so a page that is dropped (whole ones, those at the ends included) comes back
            // with the same bytes, and slices of it stay valid.
            let advised = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
            // Only memory is lost when the system does not take them.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Number, size and times of a file. The system sets the time of the last change to any of them itself: no program can keep it.
#[cfg(unix)]
fn state(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!(
        "file {} of {} B, written {}.{:09}, changed {}.{:09}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

/// Size and times of a file.
#[cfg(not(unix))]
fn state(metadata: &Metadata) -> String {
    format!(
        "file of {} B, written {:?}, made {:?}",
        metadata.len(),
        metadata.modified(),
        metadata.created()
    )
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, .. } => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
