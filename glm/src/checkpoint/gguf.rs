//! GGUF, the container of llama.cpp: metadata, a table of tensors, data; versions 2 and 3,
//! little-endian.
//!
//! Source: `docs/gguf.md` of <https://github.com/ggml-org/ggml>. A model is one file, or several
//! that are called `…-00001-of-00003.gguf`; the first has the metadata. Tensors get the names that
//! the model's own checkpoint has, so that everything above the table reads both alike.

mod block;
mod config;
mod metadata;
mod names;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hal::{DType, Error, Result};

use super::{Entry, StoredType};
use crate::files;
pub use block::Block;
pub(super) use config::config;
pub(crate) use metadata::Metadata;
use metadata::Reader;
pub(super) use names::rename;

const MAGIC: &[u8] = b"GGUF";
/// How the names of these files end.
pub(super) const ENDING: &str = ".gguf";
/// Dimensions that ggml has.
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far above every alignment in use.
const MAX_ALIGNMENT: u64 = 1 << 16;
/// The shortest entry of the table: a name of no letters, a number of dimensions, type, offset.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 4 + 8;
/// The most files of one model.
const MAX_FILES: usize = 1000;

/// Whether a file is of this format.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Metadata and tensors of `file`, the tensors in the order of the table.
///
/// # Errors
/// `Unsupported` for another version, byte order or type of elements; `Corrupt`, naming the file and
/// the key or tensor, when anything contradicts the format: a length or number that the file does
/// not have, equal names, data that overlaps or is not aligned.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<(Metadata, Vec<(String, Entry)>)> {
    let unsupported = |why: String, next: &'static str| {
        Err(Error::unsupported(format!("read {file}"), why).next_step(next))
    };
    let corrupt = |why: String| {
        Error::corrupt(format!("read {file}"), why).next_step("copy or download the file again")
    };
    let mut reader = Reader::new(bytes.get(MAGIC.len()..).unwrap_or_default());
    match reader.u32("the version").map_err(corrupt)? {
        2 | 3 => {}
        version if (1..=3).contains(&version.swap_bytes()) => {
            return unsupported(
                "its numbers are big-endian".to_owned(),
                "convert the model again for a little-endian machine",
            );
        }
        version => {
            return unsupported(
                format!("version {version} of GGUF; 2 and 3 are read"),
                "convert the model again with a newer llama.cpp",
            );
        }
    }
    let tensors = reader.u64("the number of tensors").map_err(corrupt)?;
    let metadata = Metadata::read(file, &mut reader).map_err(corrupt)?;
    let alignment = match metadata.number("general.alignment")? {
        None => DEFAULT_ALIGNMENT,
        Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => n,
        Some(n) => {
            let why = format!("general.alignment is {n}, not a power of two up to {MAX_ALIGNMENT}");
            return Err(corrupt(why));
        }
    };
    if tensors > reader.left() as u64 / MIN_ENTRY_BYTES {
        return Err(corrupt(format!(
            "it claims {tensors} tensors; {} bytes are left for their table",
            reader.left()
        )));
    }
    let (mut seen, mut infos) = (HashSet::new(), Vec::new());
    for i in 0..tensors {
        let info = Info::read(&mut reader)
            .map_err(|why| corrupt(format!("entry {i} of the table: {why}")))?;
        if !seen.insert(info.name) {
            return Err(corrupt(format!("tensor `{}` is there twice", info.name)));
        }
        infos.push(info);
    }
    let start = (MAGIC.len() + reader.at()).next_multiple_of(alignment as usize);
    let mut table = Vec::with_capacity(infos.len());
    for info in &infos {
        let Some(dtype) = stored_type(info.type_id) else {
            return unsupported(
                format!(
                    "tensor `{}` is of type {}",
                    info.name,
                    type_name(info.type_id)
                ),
                "use a file in f32, f16, bf16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
            );
        };
        let range = info
            .range(&dtype, start, alignment, bytes.len())
            .map_err(|why| corrupt(format!("tensor `{}`: {why}", info.name)))?;
        table.push((
            info.name.to_owned(),
            Entry {
                dtype,
                shape: info.shape.clone(),
                range,
                strides: None,
            },
        ));
    }
    let mut order: Vec<_> = table.iter().map(|(name, e)| (&e.range, name)).collect();
    order.sort_by_key(|(range, _)| (range.start, range.end));
    for pair in order.windows(2) {
        let [(before, first), (after, second)] = pair else {
            unreachable!("windows of two")
        };
        if after.start < before.end {
            return Err(corrupt(format!(
                "the data of tensors `{first}` and `{second}` overlap"
            )));
        }
    }
    Ok((metadata, table))
}

/// An entry of the table as it lies in the file.
struct Info<'a> {
    name: &'a str,
    /// Slowest dimension first; the file has the fastest first.
    shape: Vec<usize>,
    type_id: u32,
    /// From the start of the data.
    offset: u64,
}

impl<'a> Info<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, String> {
        let name = reader.text("its name")?;
        let dims = reader.u32("its number of dimensions")?;
        if dims > MAX_DIMS {
            return Err(format!("`{name}` has {dims} dimensions, above {MAX_DIMS}"));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let length = reader.u64("a dimension")?;
            let length = usize::try_from(length);
            shape.push(length.map_err(|e| format!("a dimension of `{name}`: {e}"))?);
        }
        shape.reverse();
        Ok(Self {
            name,
            shape,
            type_id: reader.u32("its type")?,
            offset: reader.u64("its offset")?,
        })
    }

    /// Where its bytes lie in a file of `len` bytes.
    fn range(
        &self,
        dtype: &StoredType,
        start: usize,
        alignment: u64,
        len: usize,
    ) -> Result<Range<usize>, String> {
        let (block_cols, block_bytes) = match dtype {
            StoredType::Blocks(block) => block.size(),
            StoredType::Known(dtype) => (1, dtype.bytes()),
            StoredType::Other(_) => unreachable!("every type of the table has a size"),
        };
        let cols = self.shape.last().copied().unwrap_or(1);
        if !cols.is_multiple_of(block_cols) {
            return Err(format!(
                "rows of {cols} are no whole blocks of {block_cols}, as {dtype} has them"
            ));
        }
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = elements.and_then(|n| (n / block_cols).checked_mul(block_bytes));
        let Some(bytes) = bytes else {
            return Err(format!("{dtype} {:?} is beyond all memory", self.shape));
        };
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!(
                "its offset {} is no multiple of {alignment}",
                self.offset
            ));
        }
        let from = usize::try_from(self.offset)
            .ok()
            .and_then(|o| o.checked_add(start));
        let range = from.and_then(|from| Some(from..from.checked_add(bytes)?));
        range.filter(|range| range.end <= len).ok_or_else(|| {
            format!(
                "{bytes} bytes at {} of the data, in a file of {len} (truncated?)",
                self.offset
            )
        })
    }
}

/// The types of ggml that we read, by their numbers in `ggml.h`.
fn stored_type(id: u32) -> Option<StoredType> {
    Some(match id {
        0 => StoredType::Known(DType::F32),
        1 => StoredType::Known(DType::F16),
        30 => StoredType::Known(DType::BF16),
        24 => StoredType::Known(DType::I8),
        26 => StoredType::Known(DType::I32),
        id => StoredType::Blocks(Block::of(id)?),
    })
}

/// How a type that we do not read is called.
fn type_name(id: u32) -> String {
    const NAMES: [(u32, &str); 21] = [
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (25, "I16"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    match NAMES.iter().find(|(known, _)| *known == id) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{id}, which ggml does not have"),
    }
}

/// All files of the model of which `path` is one, in order.
pub(super) fn siblings(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match split_name(&name) {
        Some((stem, _, total)) => (1..=total)
            .map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{total:05}{ENDING}")))
            .collect(),
        None => vec![path.to_path_buf()],
    }
}

/// What the name of one of several files says: stem, number and total of `stem-00001-of-00003.gguf`.
fn split_name(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, total) = name.strip_suffix(ENDING)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| -> Option<usize> {
        let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let (number, total) = (parse(number)?, parse(total)?);
    ((1..=total).contains(&number) && total <= MAX_FILES).then_some((stem, number, total))
}

/// The first file of the GGUF model at `path`: of a folder, when it holds one such model.
///
/// # Errors
/// `InvalidArgument` when the folder holds several; `Io`.
pub(crate) fn model_file(path: &Path) -> Result<Option<PathBuf>> {
    if !path.is_dir() {
        let is_one = path.to_string_lossy().ends_with(ENDING);
        return Ok(is_one.then(|| path.to_path_buf()));
    }
    let doing = format!("open {}", path.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| files::io_error(&doing, e))? {
        let entry = entry.map_err(|e| files::io_error(&doing, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let first = split_name(&name).is_none_or(|(_, number, _)| number == 1);
        if name.ends_with(ENDING) && first {
            found.push(name);
        }
    }
    found.sort();
    match &found[..] {
        [] => Ok(None),
        [file] => Ok(Some(path.join(file))),
        [first, .., last] => Err(Error::invalid(
            doing,
            format!("{} models from {first} to {last}", found.len()),
        )
        .next_step("give one of these files instead of the folder")),
    }
}
