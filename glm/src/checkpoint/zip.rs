//! The entries of a zip file, found and not unpacked.
//!
//! Torch stores its entries without compression, so that an entry is a range of the file. Whatever
//! is compressed or encrypted is refused: nothing can grow when it is read.
//! Source: PKWARE APPNOTE.TXT; torch `caffe2/serialize/inline_container.cc`.

use std::collections::BTreeMap;
use std::ops::Range;

use hal::{Error, Result};
use rawzip::{CompressionMethod, ZipArchive};

/// Names of all entries and where their bytes lie in the file.
///
/// # Errors
/// `Corrupt`: no zip file, equal names, an entry that is not inside the file; `Unsupported`: a
/// compressed or encrypted entry.
pub(super) fn entries(file: &str, bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>> {
    let corrupt = |why: String| {
        Error::corrupt(format!("read {file}"), why).next_step("copy or download the file again")
    };
    let damaged = |e: rawzip::Error| corrupt(format!("as a zip file: {e}")).with_source(e);
    let archive = ZipArchive::from_slice(bytes).map_err(damaged)?;
    let mut found = BTreeMap::new();
    for entry in archive.entries() {
        let entry = entry.map_err(damaged)?;
        let path = entry.file_path();
        let name = str::from_utf8(path.as_bytes())
            .map_err(|e| corrupt("the name of an entry is not UTF-8".to_owned()).with_source(e))?;
        let stored = entry.compression_method() == CompressionMethod::STORE
            && entry.compressed_size_hint() == entry.uncompressed_size_hint();
        if !stored || entry.flags().is_encrypted() {
            return Err(Error::unsupported(
                format!("read {file}"),
                format!(
                    "entry {name} is compressed or encrypted; torch stores entries as they are"
                ),
            )
            .next_step("save the file again with torch.save"));
        }
        // Compares the entry's place with the file's length.
        let data = archive.get_entry(entry.wayfinder()).map_err(|e| {
            corrupt(format!("entry {name} does not lie in the file: {e}")).with_source(e)
        })?;
        let (start, end) = data.compressed_data_range();
        let range = start as usize..end as usize;
        if found.insert(name.to_owned(), range).is_some() {
            return Err(corrupt(format!("entry {name} appears twice")));
        }
    }
    if found.len() as u64 != archive.entries_hint() {
        return Err(corrupt(format!(
            "{} entries are listed, {} announced",
            found.len(),
            archive.entries_hint()
        )));
    }
    Ok(found)
}
