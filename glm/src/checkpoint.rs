//! Checkpoints: named tensors in files, as they lie on disk.
//!
//! A container is a function from a file's bytes to a table of its tensors; everything above that
//! table is the same for all containers. Tensors are borrowed from mapped files: opening costs the
//! headers, reading costs the pages that are touched, and no length of a header is trusted before
//! it has been compared with the file.
//!
//! ```no_run
//! # fn main() -> hal::Result<()> {
//! let checkpoint = glm::checkpoint::Checkpoint::open("glm-4-9b-chat-hf".as_ref())?;
//! let norm = checkpoint.tensor("model.norm.weight")?.to_f32()?;
//! let qkv = checkpoint.linear_rows(&[
//!     "model.layers.0.self_attn.q_proj",
//!     "model.layers.0.self_attn.k_proj",
//!     "model.layers.0.self_attn.v_proj",
//! ])?;
//! # Ok(())
//! # }
//! ```

mod index;
mod linear;
mod map;
mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hal::{DType, Error, ErrorKind, Result};
use half::{bf16, f16};

use crate::files;
use map::Bytes;

pub use linear::SCALE_SUFFIX;

/// The single file of a small checkpoint.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The list of the files of a sharded checkpoint.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Checks what [`Checkpoint::open`] checks of `model.safetensors.index.json`, and gives the names
/// of the files that it lists. For tools and fuzzers.
///
/// # Errors
/// `Corrupt`.
pub fn check_index(json: &[u8]) -> Result<Vec<String>> {
    Ok(index::parse(INDEX_FILE, json)?.files)
}

/// An open checkpoint: one or more files of tensors. The files must not change while it is open.
#[derive(Debug)]
pub struct Checkpoint {
    /// What was opened, for messages.
    source: String,
    folder: Option<PathBuf>,
    files: Vec<(String, Bytes)>,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    file: usize,
    entry: Entry,
}

/// A row of a container's table.
#[derive(Debug)]
struct Entry {
    dtype: StoredType,
    shape: Vec<usize>,
    /// Bytes of the file.
    range: Range<usize>,
}

/// The element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// A type that operations know.
    Known(DType),
    /// Another one, by its name in the file: `I64`, `F8_E4M3`, `BOOL`.
    Other(String),
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Known(dtype) => dtype.fmt(f),
            StoredType::Other(name) => f.write_str(name),
        }
    }
}

/// A tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// Element type.
    pub dtype: &'a StoredType,
    /// Lengths of the dimensions.
    pub shape: &'a [usize],
    /// Elements, row-major, little-endian; aligned to nothing.
    pub data: &'a [u8],
}

impl StoredTensor<'_> {
    /// The elements of a float tensor in f32, exact for f16 and bf16.
    ///
    /// # Errors
    /// `Unsupported` for other types.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let pairs = || self.data.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.dtype {
            StoredType::Known(DType::F32) => Ok(self
                .data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            StoredType::Known(DType::F16) => {
                Ok(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect())
            }
            StoredType::Known(DType::BF16) => {
                Ok(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect())
            }
            other => Err(Error::unsupported(
                format!("read tensor {}", self.name),
                format!("{other} is not a float type that we compute with"),
            )
            .next_step("use a checkpoint in f32, f16 or bf16")),
        }
    }
}

impl Checkpoint {
    /// Opens a folder (`model.safetensors`, or `model.safetensors.index.json` and its shards) or a
    /// `.safetensors` file.
    ///
    /// # Errors
    /// `NotFound` when there is no such path, checkpoint or shard; `Unsupported` when the folder
    /// has weights only in another container; `Corrupt`, naming file and tensor, when a file
    /// contradicts its format or the index; `Io` when the system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            source: path.display().to_string(),
            folder: None,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if !path.is_dir() {
            checkpoint.folder = path.parent().map(Path::to_path_buf);
            checkpoint.add_file(path)?;
            return Ok(checkpoint);
        }
        checkpoint.folder = Some(path.to_path_buf());
        // The order of transformers: a single file wins over an index.
        if path.join(SINGLE_FILE).is_file() {
            checkpoint.add_file(&path.join(SINGLE_FILE))?;
        } else if path.join(INDEX_FILE).is_file() {
            checkpoint.add_shards(path)?;
        } else {
            return Err(no_weights(path));
        }
        Ok(checkpoint)
    }

    /// A checkpoint that is part of the executable: the bytes of one safetensors file.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        Self::in_memory("the embedded model", Bytes::Static(bytes))
    }

    /// A checkpoint in memory: the bytes of one safetensors file.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::in_memory("the model in memory", Bytes::Owned(bytes))
    }

    fn in_memory(source: &str, bytes: Bytes) -> Result<Self> {
        let mut checkpoint = Self {
            source: source.to_owned(),
            folder: None,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        checkpoint.add(source.to_owned(), bytes)?;
        Ok(checkpoint)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name that exists.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        let Some((name, Place { file, entry })) = self.tensors.get_key_value(name) else {
            return Err(self.not_found(name));
        };
        Ok(StoredTensor {
            name,
            dtype: &entry.dtype,
            shape: &entry.shape,
            data: &self.files[*file].1[entry.range.clone()],
        })
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|p| p.entry.range.len() as u64)
            .sum()
    }

    /// The folder in which the files lie; `None` for a model in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        self.add(path.display().to_string(), Bytes::map(path)?)
    }

    fn add(&mut self, file: String, bytes: Bytes) -> Result<()> {
        for (name, entry) in safetensors::table(&file, &bytes)? {
            let place = Place {
                file: self.files.len(),
                entry,
            };
            if let Some(first) = self.tensors.insert(name.clone(), place) {
                return Err(Error::corrupt(
                    format!("open {}", self.source),
                    format!(
                        "tensor `{name}` is in {} and in {file}",
                        self.files[first.file].0
                    ),
                )
                .next_step("keep the files of one model only in this folder"));
            }
        }
        self.files.push((file, bytes));
        Ok(())
    }

    fn add_shards(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join(INDEX_FILE);
        let listed = index::parse(&path.display().to_string(), &files::read(&path)?)?;
        let first = self.files.len();
        for file in &listed.files {
            self.add_file(&folder.join(file)).map_err(|e| {
                if e.kind() != ErrorKind::NotFound {
                    return e;
                }
                Error::new(
                    ErrorKind::NotFound,
                    format!("open {}", self.source),
                    format!("shard {file} is listed in {INDEX_FILE} but is not there"),
                )
                .next_step("download the missing file")
                .with_source(e)
            })?;
        }
        for (name, file) in &listed.tensors {
            let found = self.tensors.get(name).map(|place| place.file - first);
            if found != Some(*file) {
                return Err(Error::corrupt(
                    format!("open {}", self.source),
                    format!(
                        "{INDEX_FILE} lists tensor `{name}` in {}, which does not have it",
                        listed.files[*file]
                    ),
                )
                .next_step("download index and shards again, from one revision"));
            }
        }
        Ok(())
    }

    fn not_found(&self, name: &str) -> Error {
        let shared = |other: &&String| {
            other
                .bytes()
                .zip(name.bytes())
                .take_while(|(a, b)| a == b)
                .count()
        };
        let detail = match self.tensors.keys().max_by_key(shared) {
            Some(near) => format!("no tensor `{name}`; the nearest is `{near}`"),
            None => "it has no tensors".to_owned(),
        };
        Error::new(ErrorKind::NotFound, format!("read {}", self.source), detail)
            .next_step("compare `glm inspect` with the model's configuration")
    }
}

fn no_weights(folder: &Path) -> Error {
    let doing = format!("open {}", folder.display());
    let is_torch = |name: &str| name.ends_with(".bin") || name.ends_with(".pt");
    let torch = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|f| f.file_name().into_string().ok().filter(|n| is_torch(n)));
    match torch {
        Some(file) => Error::unsupported(doing, format!("{file} is a PyTorch pickle"))
            .next_step("convert it to model.safetensors, or download a safetensors revision"),
        None => Error::new(
            ErrorKind::NotFound,
            doing,
            format!("neither {SINGLE_FILE} nor {INDEX_FILE}"),
        )
        .next_step("give the folder of a downloaded model"),
    }
}
