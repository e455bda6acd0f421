//! A file's bytes, mapped: the only unsafe code of this crate.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use hal::{Error, Result};
use memmap2::Mmap;

use crate::files;

/// The bytes of one file.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Mapped from disk; pages are read when touched and given back under memory pressure.
    Mapped(Mmap),
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
        Ok(Self::Mapped(map.map_err(|e| files::io_error(&doing, e))?))
    }

    /// Asks the system to read `range`, and what follows it, before it is touched: tensors mostly lie in the order in which they
    /// are used, so the next one is read while this one is packed.
    pub(crate) fn ask(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            /// Enough to keep a disk busy, little beside the weights.
            const AHEAD_BYTES: usize = 64 << 20;
            let end = range.end.saturating_add(AHEAD_BYTES).min(map.len());
            let advice = memmap2::Advice::WillNeed;
            // Only time is lost when the system does not.
            let _ = map.advise_range(advice, range.start, end.saturating_sub(range.start));
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Gives the pages of `range` back to the system; they are read again when touched again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
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

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
