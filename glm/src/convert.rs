//! Any checkpoint as safetensors: from the containers that [`Checkpoint::open`] reads, with shards of
//! tensor parallelism merged and, when asked for, with the matrices in another format.
//!
//! Quantised are the matrices of the layers; embedding, output layer, norms and biases stay as they
//! are, as in the official int4 and int8 checkpoints. A float type is for every matrix, tables
//! included. One tensor is in memory at a time.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use hal::{DType, Error, ErrorKind, Result, WeightFormat};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::architecture::Architecture;
use crate::checkpoint::{
    Checkpoint, INDEX_FILE, Metadata, SCALE_SUFFIX, SINGLE_FILE, StoredMatrix, StoredTensor,
    StoredType,
};
use crate::files::io_error;
use crate::prompt::ChatTemplate;
use crate::source::ModelSource;
use crate::tokenizer;

/// The size of a shard that no second tensor may exceed.
const SHARD_BYTES: u64 = 2 << 30;
/// Files beside the weights that belong to a model, by the end of their names.
const COMPANIONS: [&str; 6] = [".json", ".jinja", ".model", ".txt", ".md", "LICENSE"];

/// What [`convert`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// Matrices in the new format.
    pub matrices: usize,
    /// Tensors that were copied.
    pub copied: usize,
    /// Files of weights.
    pub shards: usize,
    /// Bytes of all tensors before.
    pub source_bytes: u64,
    /// Bytes of all tensors now.
    pub bytes: u64,
    /// Whether what the source has of a tokenizer is in the target; a GGUF file may hold one that is not written.
    pub tokenizer: bool,
}

/// Writes the model of `source`, a folder or one file of weights, to the new or empty folder
/// `target` as safetensors: tensors as they are, or the matrices in `format`. What belongs to the
/// model in its folder (tokenizer, templates) is copied, or written from a GGUF file, and so is
/// `config.json`, also where it only follows from the tensors. Weights are written under temporary names and appear,
/// `config.json` last, when all is written; on failure the files that were begun are removed, and
/// nothing else.
///
/// # Errors
/// `InvalidArgument` when `target` holds files, or a weight is not finite or does not fit the
/// format; `Unsupported` for a format of a source that is quantised already; `Io` when the disk is
/// full; those of [`Checkpoint::open`] and, for a quantised format, [`ModelSource::architecture`].
pub fn convert(source: &Path, target: &Path, format: Option<WeightFormat>) -> Result<Converted> {
    convert_in_shards(source, target, format, SHARD_BYTES)
}

/// As [`convert`], with the size of shards given.
///
/// # Errors
/// As [`convert`].
pub fn convert_in_shards(
    source: &Path,
    target: &Path,
    format: Option<WeightFormat>,
    shard_bytes: u64,
) -> Result<Converted> {
    let doing = || match format {
        Some(format) => format!("convert {} to {format}", source.display()),
        None => format!("convert {}", source.display()),
    };
    let checkpoint = Checkpoint::open(source)?;
    let mut config = match ModelSource::Folder(source.into()).config() {
        Ok(config) => Some(config),
        // The tensors can be copied without knowing what model they are of.
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let plan = plan(&checkpoint, config.as_ref(), format).map_err(|e| in_context(&doing(), e))?;
    claim(target)?;

    let mut written = Written::default();
    let mut report = write_shards(&checkpoint, &plan, shard_bytes, target, &mut written)
        .map_err(|e| in_context(&doing(), e))?;
    if source.is_dir() {
        for path in companions(source)? {
            let name = path.file_name().unwrap_or_default();
            written.copy(&path, &target.join(name))?;
        }
    }
    if let Some(metadata) = checkpoint.metadata() {
        report.tokenizer = write_metadata(metadata, target, &mut written)?;
    }
    if let Some(config) = &mut config {
        describe(config, format);
        let text = serde_json::to_string_pretty(config).unwrap_or_default();
        written.file(&target.join("config.json"), text.as_bytes())?;
    }
    written.publish()?;
    Ok(report)
}

/// Tokenizer and template of a GGUF file, as the files that other checkpoints have; whether there is a tokenizer.
fn write_metadata(metadata: &Metadata, target: &Path, written: &mut Written) -> Result<bool> {
    let mut write = |name: &str, value: &Value| {
        let text = serde_json::to_string(value).unwrap_or_default();
        written.file(&target.join(name), text.as_bytes())
    };
    let Some(tokenizer) = tokenizer::gguf::tokenizer_json(metadata)? else {
        return Ok(false);
    };
    write("tokenizer.json", &tokenizer)?;
    let template = ChatTemplate::config_from_metadata(metadata)?;
    write("tokenizer_config.json", &Value::Object(template))?;
    Ok(true)
}

/// Notes the new format in the configuration.
fn describe(config: &mut Value, format: Option<WeightFormat>) {
    let (bits, group) = match format {
        None => return,
        Some(WeightFormat::Dense(dtype)) => {
            let name = match dtype {
                DType::F16 => "float16",
                DType::BF16 => "bfloat16",
                _ => "float32",
            };
            // The key of transformers 5, or the one before.
            let key = match config.get("dtype") {
                Some(_) => "dtype",
                None => "torch_dtype",
            };
            config[key] = json!(name);
            return;
        }
        Some(WeightFormat::Int8Row) => (8, None),
        Some(WeightFormat::Int8Group(group)) => (8, Some(group)),
        Some(WeightFormat::Int4Group(group)) => (4, Some(group)),
        Some(_) => (4, None),
    };
    config["quantization_config"] = json!({
        "quant_method": "glm", "bits": bits, "group_size": group, "symmetric": true,
        "scale_suffix": SCALE_SUFFIX
    });
}

/// The error of a part, with the whole as what was being done.
fn in_context(doing: &str, e: Error) -> Error {
    let outer = Error::new(e.kind(), doing, format!("{}: {}", e.doing(), e.detail()));
    match e.next().map(str::to_owned) {
        Some(next) => outer.next_step(next).with_source(e),
        None => outer.with_source(e),
    }
}

/// Tensors that one source tensor becomes.
struct Unit {
    /// Its name in the source.
    source: String,
    /// The new format of a matrix that changes it.
    format: Option<WeightFormat>,
    outputs: Vec<(String, TensorInfo)>,
}

impl Unit {
    fn bytes(&self) -> u64 {
        let bytes = |(_, info): &(String, TensorInfo)| info.data_offsets.1 as u64;
        self.outputs.iter().map(bytes).sum()
    }
}

/// What becomes of every tensor, from headers alone: what cannot work fails before anything is
/// written.
fn plan(
    checkpoint: &Checkpoint,
    config: Option<&Value>,
    format: Option<WeightFormat>,
) -> Result<Vec<Unit>> {
    let quantised = match format {
        None | Some(WeightFormat::Dense(_)) => HashSet::new(),
        Some(format) => matrices(checkpoint, config, format)?,
    };
    let units = checkpoint.names().map(|name| {
        let tensor = checkpoint.tensor(name)?;
        // Safetensors has no blocks: what is not converted is written as it runs.
        if let (StoredType::Blocks(block), &[rows, cols]) = (tensor.dtype, tensor.shape) {
            let wanted = match format {
                Some(dense @ WeightFormat::Dense(_)) => dense,
                Some(format) if quantised.contains(name) => format,
                _ => block.runs_as(),
            };
            return Ok(changed_unit(name, wanted, rows, cols));
        }
        match (format, dense_matrix(&tensor)) {
            (Some(WeightFormat::Dense(wanted)), Some((dtype, rows, cols))) if dtype != wanted => {
                Ok(changed_unit(name, WeightFormat::Dense(wanted), rows, cols))
            }
            (Some(WeightFormat::Dense(_)), None) if name.ends_with(SCALE_SUFFIX) => {
                Err(already(name.trim_end_matches(SCALE_SUFFIX), "quantised"))
            }
            (Some(format), Some((_, rows, cols))) if quantised.contains(name) => {
                Ok(changed_unit(name, format, rows, cols))
            }
            _ => copied_unit(&tensor),
        }
    });
    units.collect()
}

/// Names of the layers' matrices, all of them there, dense and fit for `format`.
fn matrices(
    checkpoint: &Checkpoint,
    config: Option<&Value>,
    format: WeightFormat,
) -> Result<HashSet<String>> {
    let Some(config) = config else {
        return Err(Error::new(
            ErrorKind::NotFound,
            "find the matrices of the layers",
            "there is no config.json",
        )
        .next_step("copy it from the publisher, or convert without --dtype"));
    };
    let architecture = Architecture::from_config(config)?.named_as(|name| checkpoint.has(name));
    let mut names = HashSet::new();
    let layers = (0..architecture.layers).flat_map(|i| architecture.matrices(i));
    for (key, [_, cols]) in layers {
        let weight = checkpoint.matrix(&key, cols)?;
        let StoredMatrix { cols, .. } = weight;
        let tensor = checkpoint.tensor(&format!("{key}.weight"))?;
        let blocks = matches!(tensor.dtype, StoredType::Blocks(_));
        if !blocks && !matches!(weight.format, WeightFormat::Dense(_)) {
            return Err(already(&key, weight.format));
        }
        if !cols.is_multiple_of(format.cols_multiple()) {
            return Err(Error::invalid(
                format!("convert {key}"),
                format!("{cols} columns do not fit {format}"),
            )
            .next_step("choose a smaller group, or one scale per row"));
        }
        names.insert(format!("{key}.weight"));
    }
    Ok(names)
}

fn already(name: &str, what: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("read {name}"), format!("it is {what} already"))
        .next_step("start from the original checkpoint")
}

/// Type, rows and columns of a float matrix.
fn dense_matrix(tensor: &StoredTensor<'_>) -> Option<(DType, usize, usize)> {
    match (tensor.dtype, tensor.shape) {
        (StoredType::Known(dtype), &[rows, cols]) if dtype.is_float() => Some((*dtype, rows, cols)),
        _ => None,
    }
}

fn info(dtype: Dtype, shape: Vec<usize>, bytes: usize) -> TensorInfo {
    TensorInfo {
        dtype,
        shape,
        data_offsets: (0, bytes),
    }
}

fn changed_unit(name: &str, format: WeightFormat, rows: usize, cols: usize) -> Unit {
    let row_bytes = format.row_bytes(cols);
    let (data_type, data_cols) = match format {
        WeightFormat::Dense(DType::F16) => (Dtype::F16, cols),
        WeightFormat::Dense(DType::BF16) => (Dtype::BF16, cols),
        WeightFormat::Dense(_) => (Dtype::F32, cols),
        WeightFormat::Int8Row | WeightFormat::Int8Group(_) => (Dtype::I8, cols),
        _ => (Dtype::U8, row_bytes),
    };
    let data = info(data_type, vec![rows, data_cols], rows * row_bytes);
    let mut outputs = vec![(name.to_owned(), data)];
    let (scales, scale_type) = format.row_scales(cols);
    if scales > 0 {
        let (dtype, shape) = match format.group() {
            Some(_) => (Dtype::F16, vec![rows, scales]),
            None => (Dtype::F32, vec![rows]),
        };
        let scale = info(dtype, shape, rows * scales * scale_type.bytes());
        outputs.push((format!("{name}{SCALE_SUFFIX}"), scale));
    }
    Unit {
        source: name.to_owned(),
        format: Some(format),
        outputs,
    }
}

fn copied_unit(tensor: &StoredTensor<'_>) -> Result<Unit> {
    // The names of safetensors are ours in capitals.
    let dtype = tensor.dtype.to_string().to_uppercase();
    let dtype: Dtype = serde_json::from_value(json!(dtype)).map_err(|e| {
        Error::unsupported(format!("copy tensor {}", tensor.name), e.to_string())
            .next_step("remove the tensor from the source")
    })?;
    let name = tensor.name.to_owned();
    Ok(Unit {
        source: name.clone(),
        format: None,
        outputs: vec![(name, info(dtype, tensor.shape.to_vec(), tensor.bytes()))],
    })
}

fn write_shards(
    checkpoint: &Checkpoint,
    plan: &[Unit],
    shard_bytes: u64,
    target: &Path,
    written: &mut Written,
) -> Result<Converted> {
    let shards = divide(plan, shard_bytes);
    let total = shards.len();
    let mut weight_map = Map::new();
    for (i, units) in shards.iter().enumerate() {
        let file = match total {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{:05}-of-{total:05}.safetensors", i + 1),
        };
        for (name, _) in units.iter().flat_map(|unit| &unit.outputs) {
            weight_map.insert(name.clone(), json!(file));
        }
        let path = target.join(file);
        let doing = format!("write {}", path.display());
        let failed = |e| io_error(&doing, e);
        let mut out = BufWriter::with_capacity(1 << 20, written.create(&path)?);
        out.write_all(&header(units)).map_err(failed)?;
        for unit in *units {
            let tensor = checkpoint.tensor(&unit.source)?;
            match unit.format {
                Some(format) => {
                    let weight = tensor.matrix_in(format);
                    let weight = weight.map_err(|e| in_context(&unit.source, e))?;
                    out.write_all(&weight.data).map_err(failed)?;
                    out.write_all(&weight.scales).map_err(failed)?;
                }
                None => out.write_all(&tensor.data()?).map_err(failed)?,
            }
            checkpoint.release(&unit.source);
        }
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
    }
    let bytes = plan.iter().map(Unit::bytes).sum();
    if total > 1 {
        let index = json!({"metadata": {"total_size": bytes}, "weight_map": weight_map});
        let text = serde_json::to_string_pretty(&index).unwrap_or_default();
        written.file(&target.join(INDEX_FILE), text.as_bytes())?;
    }
    let matrices = plan.iter().filter(|unit| unit.format.is_some()).count();
    Ok(Converted {
        matrices,
        copied: plan.len() - matrices,
        shards: total,
        source_bytes: checkpoint.total_bytes(),
        bytes,
        tokenizer: true,
    })
}

/// Consecutive units of at most `shard_bytes` together, or single ones that are larger.
fn divide(plan: &[Unit], shard_bytes: u64) -> Vec<&[Unit]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, unit) in plan.iter().enumerate() {
        if i > start && bytes + unit.bytes() > shard_bytes {
            shards.push(&plan[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += unit.bytes();
    }
    shards.push(&plan[start..]);
    shards
}

/// Length and text of a safetensors header, padded so that the data is aligned to 8 bytes.
fn header(units: &[Unit]) -> Vec<u8> {
    let mut tensors = Map::new();
    tensors.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for (name, info) in units.iter().flat_map(|unit| &unit.outputs) {
        let end = offset + info.data_offsets.1;
        let value = json!({
            "dtype": info.dtype, "shape": info.shape, "data_offsets": [offset, end]
        });
        tensors.insert(name.clone(), value);
        offset = end;
    }
    let mut text = Value::Object(tensors).to_string();
    text.extend(std::iter::repeat_n(
        ' ',
        text.len().next_multiple_of(8) - text.len(),
    ));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Requires that `target` is new or empty.
fn claim(target: &Path) -> Result<()> {
    let doing = format!("write to {}", target.display());
    fs::create_dir_all(target).map_err(|e| io_error(&doing, e))?;
    let mut entries = fs::read_dir(target).map_err(|e| io_error(&doing, e))?;
    if entries.next().is_some() {
        return Err(Error::invalid(doing, "the folder holds files")
            .next_step("choose a new or empty folder"));
    }
    Ok(())
}

/// Small files that belong to the model; `config.json` and lists of weights are written anew.
fn companions(source: &Path) -> Result<Vec<PathBuf>> {
    let doing = format!("list {}", source.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(source).map_err(|e| io_error(&doing, e))? {
        let path = entry.map_err(|e| io_error(&doing, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = COMPANIONS.iter().any(|end| name.ends_with(end));
        let replaced = name == "config.json"
            || name.ends_with(".index.json")
            || name == "latest_checkpointed_iteration.txt";
        if path.is_file() && wanted && !replaced {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Files under temporary names, removed unless they are published.
#[derive(Default)]
struct Written(Vec<(PathBuf, PathBuf)>);

impl Written {
    fn create(&mut self, path: &Path) -> Result<File> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&partial)
            .map_err(|e| io_error(&format!("create {}", partial.display()), e))?;
        self.0.push((partial, path.to_path_buf()));
        Ok(file)
    }

    fn file(&mut self, path: &Path, contents: &[u8]) -> Result<()> {
        let doing = format!("write {}", path.display());
        let mut file = self.create(path)?;
        file.write_all(contents).map_err(|e| io_error(&doing, e))?;
        file.sync_all().map_err(|e| io_error(&doing, e))
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let doing = format!("copy {} to {}", from.display(), to.display());
        let mut source = File::open(from).map_err(|e| io_error(&doing, e))?;
        let mut target = self.create(to)?;
        std::io::copy(&mut source, &mut target).map_err(|e| io_error(&doing, e))?;
        Ok(())
    }

    /// Gives the files their names, in the order in which they were written.
    fn publish(mut self) -> Result<()> {
        for (partial, path) in &self.0 {
            let doing = format!("rename {}", partial.display());
            fs::rename(partial, path).map_err(|e| io_error(&doing, e))?;
        }
        self.0.clear();
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for (partial, _) in &self.0 {
            // The reason of the failure is on its way; what cannot be removed has its own name.
            let _ = fs::remove_file(partial);
        }
    }
}
