//! Checkpoints: named tensors in files, as they lie on disk.
//!
//! A container is a function from a file's bytes to a table of its tensors; everything above that
//! table is the same for all containers. Tensors are borrowed from mapped files: opening costs the
//! headers, reading costs the pages that are touched, and no length of a header is trusted before
//! it has been compared with the file. Only a tensor that lies in pieces (a view with strides, the
//! shards of tensor parallelism) is put together in memory, when it is read and not before.
//!
//! ```no_run
//! # fn main() -> hal::Result<()> {
//! let checkpoint = glm::checkpoint::Checkpoint::open("glm-4-9b-chat-hf".as_ref())?;
//! let norm = checkpoint.tensor("model.norm.weight")?.to_f32()?;
//! let qkv = [
//!     "model.layers.0.self_attn.q_proj",
//!     "model.layers.0.self_attn.k_proj",
//!     "model.layers.0.self_attn.v_proj",
//! ];
//! let qkv = checkpoint.linear_rows(&qkv, 4096, hal::WeightFormat::Int8Row)?;
//! # Ok(())
//! # }
//! ```

mod gguf;
mod implied;
mod index;
mod linear;
pub(crate) mod map;
mod pickle;
pub(crate) mod random;
mod safetensors;
mod sat;
mod torch;
mod zip;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hal::{DType, Error, ErrorKind, Result};
use half::{bf16, f16};

use crate::files;
use map::Bytes;

pub use gguf::Block;
pub(crate) use gguf::{Metadata, model_file};
pub(crate) use implied::is_known;
pub use linear::{SCALE_SUFFIX, StoredMatrix};

/// The single file of a small checkpoint.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The list of the files of a sharded checkpoint.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The same two of PyTorch.
const TORCH_FILE: &str = "pytorch_model.bin";
const TORCH_INDEX_FILE: &str = "pytorch_model.bin.index.json";

/// Checks what [`Checkpoint::open`] checks of `model.safetensors.index.json`, and gives the names
/// of the files that it lists. For tools and fuzzers.
///
/// # Errors
/// `Corrupt`.
pub fn check_index(json: &[u8]) -> Result<Vec<String>> {
    Ok(index::parse(INDEX_FILE, json, &[".safetensors"])?.files)
}

/// An open checkpoint: one or more files of tensors. The files must not change while it is open.
#[derive(Debug)]
pub struct Checkpoint {
    /// What was opened, for messages.
    source: String,
    folder: Option<PathBuf>,
    files: Vec<(String, Bytes)>,
    tensors: BTreeMap<String, Place>,
    /// Of a GGUF file, the first of several.
    metadata: Option<Metadata>,
    /// Where its matrices are kept as devices hold them.
    packed: Option<PathBuf>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    dtype: StoredType,
    shape: Vec<usize>,
    /// Bytes of the whole tensor.
    bytes: usize,
    /// One, or one per rank of tensor parallelism.
    parts: Vec<Part>,
    join: Join,
}

/// A piece of a tensor.
#[derive(Debug)]
struct Part {
    file: usize,
    entry: Entry,
}

/// How the parts of a tensor make the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    /// Every part is the whole; the first is read.
    Same,
    /// As `Same`, and the others must be equal to it: checked when it is read.
    Equal,
    /// Rows, in this many sections: section 0 of all parts, section 1 of all parts, …
    Sections(usize),
    /// Columns: a row is the concatenation of the parts' rows.
    Columns,
}

/// A row of a container's table.
#[derive(Debug)]
struct Entry {
    dtype: StoredType,
    shape: Vec<usize>,
    /// Bytes of the file, from the first element to the last.
    range: Range<usize>,
    /// Where the elements lie within the range; `None`: row-major, without gaps.
    strides: Option<Strides>,
}

/// The layout of a tensor that is not row-major.
#[derive(Debug)]
struct Strides {
    /// From one element to the next along each dimension, in elements. No two elements coincide,
    /// in that there are at most as many as the range has room for.
    steps: Vec<usize>,
    element_bytes: usize,
}

impl Entry {
    /// Bytes of the elements, gaps not counted.
    fn bytes(&self) -> usize {
        match &self.strides {
            None => self.range.len(),
            Some(strides) => self.shape.iter().product::<usize>() * strides.element_bytes,
        }
    }

    /// The elements, row-major.
    fn read<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        let bytes = &file[self.range.clone()];
        match &self.strides {
            None => Cow::Borrowed(bytes),
            Some(strides) => Cow::Owned(gather(bytes, &self.shape, strides)),
        }
    }
}

/// The elements of a strided tensor, row-major.
fn gather(bytes: &[u8], shape: &[usize], strides: &Strides) -> Vec<u8> {
    let size = strides.element_bytes;
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        out.extend_from_slice(&bytes[at * size..][..size]);
        // The next index, last dimension first, as an odometer counts.
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides.steps[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides.steps[d] * shape[d];
            index[d] = 0;
        }
    }
    out
}

/// The element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// A type that operations know.
    Known(DType),
    /// Integers with scales, in blocks, of a GGUF file.
    Blocks(Block),
    /// Another one, by its name in safetensors: `I64`, `F8_E4M3`, `BOOL`.
    Other(String),
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Known(dtype) => dtype.fmt(f),
            StoredType::Blocks(block) => block.fmt(f),
            StoredType::Other(name) => f.write_str(name),
        }
    }
}

/// A tensor of a checkpoint: what the headers say of it, and the way to its elements.
#[derive(Clone)]
pub struct StoredTensor<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// Element type.
    pub dtype: &'a StoredType,
    /// Lengths of the dimensions.
    pub shape: &'a [usize],
    place: &'a Place,
    checkpoint: &'a Checkpoint,
}

impl fmt::Debug for StoredTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}

impl<'a> StoredTensor<'a> {
    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.place.bytes
    }

    /// The elements, row-major, little-endian, aligned to nothing: borrowed from the file where they
    /// lie so, else put together now.
    ///
    /// # Errors
    /// `Corrupt` when parts that must be equal differ.
    pub fn data(&self) -> Result<Cow<'a, [u8]>> {
        let files = &self.checkpoint.files;
        let read = |part: &Part| part.entry.read(&files[part.file].1);
        let parts = &self.place.parts;
        match self.place.join {
            Join::Same => Ok(read(&parts[0])),
            Join::Equal => {
                let first = read(&parts[0]);
                match parts.iter().find(|part| read(part) != first) {
                    None => Ok(first),
                    Some(other) => Err(Error::corrupt(
                        format!("read tensor {}", self.name),
                        format!(
                            "{} and {} hold different values of it",
                            files[parts[0].file].0, files[other.file].0
                        ),
                    )
                    .next_step("take all shards from one checkpoint")),
                }
            }
            Join::Sections(sections) => {
                let mut whole = Vec::with_capacity(self.place.bytes);
                for section in 0..sections {
                    for part in parts {
                        let data = read(part);
                        let bytes = data.len() / sections;
                        whole.extend_from_slice(&data[section * bytes..][..bytes]);
                    }
                }
                Ok(whole.into())
            }
            Join::Columns => {
                let rows = self.shape[0];
                let parts: Vec<_> = parts.iter().map(read).collect();
                let mut whole = Vec::with_capacity(self.place.bytes);
                for row in 0..rows {
                    for part in &parts {
                        let bytes = part.len() / rows;
                        whole.extend_from_slice(&part[row * bytes..][..bytes]);
                    }
                }
                Ok(whole.into())
            }
        }
    }

    /// The elements of a float tensor in f32, exact for f16 and bf16; the values of blocks.
    ///
    /// # Errors
    /// `Unsupported` for other types; as [`StoredTensor::data`].
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let data = self.data()?;
        let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.dtype {
            StoredType::Known(DType::F32) => Ok(data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            StoredType::Known(DType::F16) => {
                Ok(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect())
            }
            StoredType::Known(DType::BF16) => {
                Ok(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect())
            }
            StoredType::Blocks(block) => {
                let mut values = vec![0.0; self.shape.iter().product()];
                block.decode(&data, &mut values);
                Ok(values)
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
    /// Opens a folder or a file. Of a folder, the first of these that it has:
    /// 1. `model.safetensors`, or `model.safetensors.index.json` and its shards;
    /// 2. `pytorch_model.bin`, or `pytorch_model.bin.index.json` and its shards;
    /// 3. `latest` (or `latest_checkpointed_iteration.txt`), and in the folder that it names
    ///    `mp_rank_00_model_states.pt` to the last rank, or these files themselves (GLM-130B,
    ///    GLM-10B): the shards of one model are merged;
    /// 4. one GGUF model: a file `*.gguf`, or all of `…-00001-of-00003.gguf`;
    /// 5. one file `*.pt`, `*.pth` or `*.bin` (CodeGeeX).
    ///
    /// # Errors
    /// `NotFound` when there is no such path, checkpoint or shard; `Unsupported` for contents that
    /// we do not read; `Corrupt`, naming file and tensor, when a file contradicts its format, the
    /// index or the other shards; `Io` when the system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            source: path.display().to_string(),
            folder: None,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: None,
            packed: None,
        };
        if !path.is_dir() {
            checkpoint.folder = path.parent().map(Path::to_path_buf);
            for file in gguf::siblings(path) {
                checkpoint.add_file(&file)?;
            }
            return checkpoint.complete_gguf();
        }
        checkpoint.folder = Some(path.to_path_buf());
        let has = |name: &str| path.join(name).is_file();
        // The order of transformers: safetensors before PyTorch, a single file before an index.
        if has(SINGLE_FILE) {
            checkpoint.add_file(&path.join(SINGLE_FILE))?;
        } else if has(INDEX_FILE) {
            checkpoint.add_shards(path, INDEX_FILE, &[".safetensors"])?;
        } else if has(TORCH_FILE) {
            checkpoint.add_file(&path.join(TORCH_FILE))?;
        } else if has(TORCH_INDEX_FILE) {
            checkpoint.add_shards(path, TORCH_INDEX_FILE, &[".bin"])?;
        } else if let Some(ranks) = sat::ranks(path)? {
            checkpoint.add_ranks(&ranks)?;
        } else if let Some(first) = model_file(path)? {
            for file in gguf::siblings(&first) {
                checkpoint.add_file(&file)?;
            }
        } else {
            checkpoint.add_file(&only_torch_file(path)?)?;
        }
        checkpoint.complete_gguf()
    }

    /// A checkpoint that is part of the executable: the bytes of one file.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        Self::in_memory("the embedded model", Bytes::Static(bytes))
    }

    /// A checkpoint in memory: the bytes of one file.
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
            metadata: None,
            packed: None,
        };
        checkpoint.add(source.to_owned(), bytes)?;
        checkpoint.complete_gguf()
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
        let Some((name, place)) = self.tensors.get_key_value(name) else {
            return Err(self.not_found(name));
        };
        Ok(StoredTensor {
            name,
            dtype: &place.dtype,
            shape: &place.shape,
            place,
            checkpoint: self,
        })
    }

    /// Asks for a tensor, which is read soon, to be brought from the disk, and for what follows it: tensors mostly lie in the order
    /// in which they are used, so the next one is read while this one is packed.
    pub fn ask(&self, name: &str) {
        /// Enough to keep a disk busy, little beside the weights.
        const AHEAD_BYTES: usize = 64 << 20;
        self.ask_places(self.tensors.get(name), AHEAD_BYTES);
    }

    /// Asks for all vectors but scales: what is read of a checkpoint whose matrices are kept. One after the other, each would wait
    /// for the disk.
    pub(crate) fn ask_vectors(&self) {
        let is_vector = |(name, place): &(&String, &Place)| {
            place.shape.len() == 1 && !name.ends_with(SCALE_SUFFIX)
        };
        let vectors = self.tensors.iter().filter(is_vector);
        self.ask_places(vectors.map(|(_, place)| place), 0);
    }

    fn ask_places<'p>(&self, places: impl IntoIterator<Item = &'p Place>, ahead_bytes: usize) {
        for part in places.into_iter().flat_map(|place| &place.parts) {
            let (_, bytes) = &self.files[part.file];
            bytes.ask(part.entry.range.clone(), ahead_bytes);
        }
    }

    /// Gives the memory of a tensor's pages back, once it has been read and is not soon read again:
    /// the file is mapped, and pages that were touched count as ours until the system wants them.
    pub fn release(&self, name: &str) {
        for part in self.tensors.get(name).into_iter().flat_map(|p| &p.parts) {
            self.files[part.file].1.release(part.entry.range.clone());
        }
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|p| p.bytes as u64).sum()
    }

    /// The folder in which the files lie; `None` for a model in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Keeps what a device makes of the matrices in `folder`, and takes from there what an earlier start has kept: loading then
    /// takes the time of reading, and processes share the memory. Models on devices that do not use memory of files
    /// ([`hal::Device::map`]) are then refused.
    ///
    /// The files are good for this program, device and checkpoint; others lie beside them. Each may be deleted, also while it
    /// is in use, and none may be changed.
    #[must_use]
    pub fn keep_packed(self, folder: PathBuf) -> Self {
        Self {
            packed: Some(folder),
            ..self
        }
    }

    /// The folder of [`Self::keep_packed`].
    pub(crate) fn packed(&self) -> Option<&Path> {
        self.packed.as_deref()
    }

    /// What tells whether the files are still the same ones; `None` for a model in memory.
    pub(crate) fn states(&self) -> Option<Vec<&str>> {
        let bytes = self.files.iter().map(|(_, bytes)| bytes);
        bytes.map(Bytes::state).collect()
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        self.add(path.display().to_string(), Bytes::map(path)?)
    }

    fn add(&mut self, file: String, bytes: Bytes) -> Result<()> {
        let entries = match gguf::begins(&bytes) {
            true => self.add_metadata(gguf::read(&file, &bytes)?)?,
            false => table(&file, &bytes)?,
        };
        for (name, entry) in entries {
            let place = Place {
                dtype: entry.dtype.clone(),
                shape: entry.shape.clone(),
                bytes: entry.bytes(),
                join: Join::Same,
                parts: vec![Part {
                    file: self.files.len(),
                    entry,
                }],
            };
            if let Some(first) = self.tensors.insert(name.clone(), place) {
                let first = self.files.get(first.parts[0].file);
                let first = first.map_or(&file, |(first, _)| first);
                return Err(Error::corrupt(
                    format!("open {}", self.source),
                    format!("tensor `{name}` is in {first} and in {file}"),
                )
                .next_step("keep the files of one model only in this folder"));
            }
        }
        self.files.push((file, bytes));
        Ok(())
    }

    /// Keeps the metadata of a model's first GGUF file, and checks that the others follow in order.
    fn add_metadata(
        &mut self,
        (metadata, entries): (Metadata, Vec<(String, Entry)>),
    ) -> Result<Vec<(String, Entry)>> {
        let place = self.files.len() as u64;
        let number = metadata.number("split.no")?.unwrap_or(0);
        if number != place {
            return Err(
                metadata.corrupt("split.no", format!("{number}, where {place} was expected"))
            );
        }
        if place == 0 {
            self.metadata = Some(metadata);
        }
        Ok(entries)
    }

    /// Checks that a GGUF model is whole, and gives its tensors the names of GLM's own checkpoints.
    fn complete_gguf(mut self) -> Result<Self> {
        let Some(metadata) = &self.metadata else {
            return Ok(self);
        };
        for (key, found) in [
            ("split.count", self.files.len()),
            ("split.tensors.count", self.tensors.len()),
        ] {
            // A single file may say that it is one of none.
            let wanted = metadata.number(key)?.filter(|n| *n > 0);
            if wanted.is_some_and(|n| n != found as u64) {
                return Err(metadata.corrupt(key, format!("{wanted:?}, found are {found}")));
            }
        }
        self.tensors = gguf::rename(metadata, std::mem::take(&mut self.tensors))?;
        Ok(self)
    }

    /// The configuration that is part of the weights' own file, as GGUF has it.
    ///
    /// # Errors
    /// `Unsupported` for another architecture, or an option that the layers do not compute;
    /// `Corrupt` for a key that is missing or of the wrong type.
    pub fn config(&self) -> Result<Option<serde_json::Value>> {
        let config = self.metadata.as_ref().map(|m| gguf::config(self, m));
        config.transpose()
    }

    /// What a GGUF file says besides its tensors.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    fn add_shards(&mut self, folder: &Path, index_file: &str, endings: &[&str]) -> Result<()> {
        let path = folder.join(index_file);
        let listed = index::parse(&path.display().to_string(), &files::read(&path)?, endings)?;
        let first = self.files.len();
        for file in &listed.files {
            self.add_file(&folder.join(file)).map_err(|e| {
                if e.kind() != ErrorKind::NotFound {
                    return e;
                }
                Error::new(
                    ErrorKind::NotFound,
                    format!("open {}", self.source),
                    format!("shard {file} is listed in {index_file} but is not there"),
                )
                .next_step("download the missing file")
                .with_source(e)
            })?;
        }
        for (name, file) in &listed.tensors {
            let found = self.tensors.get(name).map(|p| p.parts[0].file - first);
            if found != Some(*file) {
                return Err(Error::corrupt(
                    format!("open {}", self.source),
                    format!(
                        "{index_file} lists tensor `{name}` in {}, which does not have it",
                        listed.files[*file]
                    ),
                )
                .next_step("download index and shards again, from one revision"));
            }
        }
        Ok(())
    }

    /// Adds the shards of tensor parallelism, rank 0 first, merged.
    fn add_ranks(&mut self, paths: &[PathBuf]) -> Result<()> {
        let mut tables = Vec::with_capacity(paths.len());
        for path in paths {
            let (file, bytes) = (path.display().to_string(), Bytes::map(path)?);
            tables.push(table(&file, &bytes)?);
            self.files.push((file, bytes));
        }
        let names: Vec<&str> = self.files.iter().map(|(file, _)| file.as_str()).collect();
        self.tensors = sat::merge(&format!("open {}", self.source), &names, tables)?;
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

/// The table of tensors of a file, by what it begins with or is called.
fn table(file: &str, bytes: &[u8]) -> Result<Vec<(String, Entry)>> {
    let torch = torch::begins(bytes) || TORCH_ENDINGS.iter().any(|end| file.ends_with(end));
    match torch {
        true => torch::table(file, bytes),
        false => safetensors::table(file, bytes),
    }
}

/// How the names of PyTorch's files end.
const TORCH_ENDINGS: [&str; 3] = [".bin", ".pt", ".pth"];
/// What training leaves beside the weights, in the same format.
const NOT_WEIGHTS: [&str; 4] = ["training_args", "optimizer", "scheduler", "rng_state"];

/// The file of PyTorch in a folder that has one.
fn only_torch_file(folder: &Path) -> Result<PathBuf> {
    let doing = format!("open {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| files::io_error(&doing, e))? {
        let entry = entry.map_err(|e| files::io_error(&doing, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let torch = TORCH_ENDINGS.iter().any(|end| name.ends_with(end));
        if torch && !NOT_WEIGHTS.iter().any(|other| name.starts_with(other)) {
            found.push(name);
        }
    }
    found.sort();
    match &found[..] {
        [file] => Ok(folder.join(file)),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            doing,
            format!("neither {SINGLE_FILE} nor {INDEX_FILE}, and no file of PyTorch"),
        )
        .next_step("give the folder of a downloaded model")),
        [first, .., last] => Err(Error::new(
            ErrorKind::NotFound,
            doing,
            format!("{} files from {first} to {last} and no index", found.len()),
        )
        .next_step(format!("download {TORCH_INDEX_FILE} too, or give one file"))),
    }
}
