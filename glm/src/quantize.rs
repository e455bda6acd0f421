//! A checkpoint with quantised linear layers, from one with float weights.
//!
//! The matrices of the layers are quantised; embedding, output layer, norms and biases stay as they
//! are, as in the official int4 and int8 checkpoints. One tensor is in memory at a time.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use hal::{DType, Error, Result, WeightFormat};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::architecture::Architecture;
use crate::checkpoint::{Checkpoint, INDEX_FILE, SCALE_SUFFIX, SINGLE_FILE, StoredType};
use crate::files::{self, io_error};

/// The size of a shard that no second tensor may exceed.
const SHARD_BYTES: u64 = 2 << 30;
/// Files beside the weights that belong to a model, by the end of their names.
const COMPANIONS: [&str; 6] = [".json", ".jinja", ".model", ".txt", ".md", "LICENSE"];

/// What [`quantize`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quantised {
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
}

/// Writes the model of folder `source` to the new or empty folder `target`, with the matrices of
/// its layers in `format`. Weights are written under temporary names and appear, `config.json`
/// last, when all is written; on failure the files that were begun are removed, and nothing else.
///
/// # Errors
/// `InvalidArgument` when `target` holds files, or a weight is not finite or does not fit the
/// format; `Unsupported` for a dense `format` or a source that is quantised already; `Io` when the
/// disk is full; those of [`Checkpoint::open`] and [`Architecture::load`].
pub fn quantize(source: &Path, target: &Path, format: WeightFormat) -> Result<Quantised> {
    quantize_in_shards(source, target, format, SHARD_BYTES)
}

/// As [`quantize`], with the size of shards given.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_in_shards(
    source: &Path,
    target: &Path,
    format: WeightFormat,
    shard_bytes: u64,
) -> Result<Quantised> {
    let doing = || format!("quantise {} to {format}", source.display());
    if let WeightFormat::Dense(_) = format {
        return Err(
            Error::unsupported(doing(), "this is not a quantised format")
                .next_step("choose int8, int4 or int4 in groups"),
        );
    }
    let checkpoint = Checkpoint::open(source)?;
    let mut config = files::read_json(&source.join("config.json"))?;
    let architecture = Architecture::from_config(&config)?;
    let plan = plan(&checkpoint, &architecture, format).map_err(|e| in_context(&doing(), e))?;
    claim(target)?;

    let mut written = Written::default();
    let report = write_shards(
        &checkpoint,
        &plan,
        format,
        shard_bytes,
        target,
        &mut written,
    )
    .map_err(|e| in_context(&doing(), e))?;
    for path in companions(source)? {
        let name = path.file_name().unwrap_or_default();
        written.copy(&path, &target.join(name))?;
    }
    config["quantization_config"] = description(format);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    written.file(&target.join("config.json"), text.as_bytes())?;
    written.publish()?;
    Ok(report)
}

/// What the configuration says of a format.
fn description(format: WeightFormat) -> Value {
    let (bits, group) = match format {
        WeightFormat::Int8Row => (8, None),
        WeightFormat::Int4Group(group) => (4, Some(group)),
        _ => (4, None),
    };
    json!({
        "quant_method": "glm", "bits": bits, "group_size": group, "symmetric": true,
        "scale_suffix": SCALE_SUFFIX
    })
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
    /// Key of the matrix when it is quantised.
    key: Option<String>,
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
    architecture: &Architecture,
    format: WeightFormat,
) -> Result<Vec<Unit>> {
    let matrices: HashSet<String> = (0..architecture.layers)
        .flat_map(|i| architecture.matrices(i))
        .map(|(key, _)| key)
        .collect();
    for key in &matrices {
        let weight = checkpoint.linear(key)?;
        if !matches!(weight.format, WeightFormat::Dense(_)) {
            return Err(Error::unsupported(
                format!("read {key}"),
                format!("it is {} already", weight.format),
            )
            .next_step("start from the original checkpoint"));
        }
        if !weight.cols.is_multiple_of(format.cols_multiple()) {
            return Err(Error::invalid(
                format!("convert {key}"),
                format!("{} columns do not fit {format}", weight.cols),
            )
            .next_step("choose a smaller group, or one scale per row"));
        }
    }
    let ignored = |name: &str| {
        let ignored = architecture.names.ignored;
        ignored.iter().any(|part| name.contains(part))
    };
    let names = checkpoint.names().filter(|name| !ignored(name));
    names
        .map(|name| {
            let key = name.strip_suffix(".weight");
            match key.filter(|key| matrices.contains(*key)) {
                Some(key) => quantised_unit(checkpoint, name, key, format),
                None => copied_unit(checkpoint, name),
            }
        })
        .collect()
}

fn info(dtype: Dtype, shape: Vec<usize>, bytes: usize) -> TensorInfo {
    TensorInfo {
        dtype,
        shape,
        data_offsets: (0, bytes),
    }
}

fn quantised_unit(
    checkpoint: &Checkpoint,
    name: &str,
    key: &str,
    format: WeightFormat,
) -> Result<Unit> {
    let weight = checkpoint.linear(key)?;
    let (rows, row_bytes) = (weight.rows, format.row_bytes(weight.cols));
    let (scales, scale_type) = format.row_scales(weight.cols);
    let data_type = if format == WeightFormat::Int8Row {
        Dtype::I8
    } else {
        Dtype::U8
    };
    let (scale_dtype, scale_shape) = match format {
        WeightFormat::Int4Group(_) => (Dtype::F16, vec![rows, scales]),
        _ => (Dtype::F32, vec![rows]),
    };
    let scale_bytes = rows * scales * scale_type.bytes();
    Ok(Unit {
        source: name.to_owned(),
        key: Some(key.to_owned()),
        outputs: vec![
            (
                name.to_owned(),
                info(data_type, vec![rows, row_bytes], rows * row_bytes),
            ),
            (
                format!("{name}{SCALE_SUFFIX}"),
                info(scale_dtype, scale_shape, scale_bytes),
            ),
        ],
    })
}

fn copied_unit(checkpoint: &Checkpoint, name: &str) -> Result<Unit> {
    let tensor = checkpoint.tensor(name)?;
    let dtype = match tensor.dtype {
        StoredType::Known(DType::F32) => "F32".to_owned(),
        StoredType::Known(DType::F16) => "F16".to_owned(),
        StoredType::Known(DType::BF16) => "BF16".to_owned(),
        StoredType::Known(DType::I8) => "I8".to_owned(),
        StoredType::Known(DType::U8) => "U8".to_owned(),
        StoredType::Known(DType::I32) => "I32".to_owned(),
        other => other.to_string(),
    };
    let dtype: Dtype = serde_json::from_value(json!(dtype)).map_err(|e| {
        Error::unsupported(format!("copy tensor {name}"), e.to_string())
            .next_step("remove the tensor from the source")
    })?;
    Ok(Unit {
        source: name.to_owned(),
        key: None,
        outputs: vec![(
            name.to_owned(),
            info(dtype, tensor.shape.to_vec(), tensor.data.len()),
        )],
    })
}

fn write_shards(
    checkpoint: &Checkpoint,
    plan: &[Unit],
    format: WeightFormat,
    shard_bytes: u64,
    target: &Path,
    written: &mut Written,
) -> Result<Quantised> {
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
            match &unit.key {
                Some(key) => {
                    let weight = checkpoint.linear(key)?;
                    let weight = weight.convert(format).map_err(|e| in_context(key, e))?;
                    out.write_all(&weight.data).map_err(failed)?;
                    out.write_all(&weight.scales).map_err(failed)?;
                }
                None => {
                    let tensor = checkpoint.tensor(&unit.source)?;
                    out.write_all(tensor.data).map_err(failed)?;
                }
            }
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
    let matrices = plan.iter().filter(|unit| unit.key.is_some()).count();
    Ok(Quantised {
        matrices,
        copied: plan.len() - matrices,
        shards: total,
        source_bytes: checkpoint.total_bytes(),
        bytes,
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
        let replaced = name == "config.json" || name.ends_with(".index.json");
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
