//! What a model computed, launch by launch: to find where two chips part, and to run single operations again.
//!
//! Design choices:
//! - A [`Recorder`] observes a context ([`ops::Observer`]): every model on every back end is traced, and none knows of it.
//! - Every argument is kept as [`Stats`], about 300 bytes, signed sums among them that tell the distance of two tensors
//!   without the tensors. Whole tensors, inputs and weights included, are kept for the places that the user names.
//! - A trace is a safetensors file whose metadata has the launches as JSON (`trace`), so that any language reads it. With
//!   tensors it holds everything that an operation needs to run again, without the model.
//! - [`compare`](compare::compare) looks for the first launch whose outputs differ more than its inputs explain.
//! - A [`Timeline`](timeline::Timeline) has no numbers, only times, and costs two events per launch.

pub mod compare;
mod recorder;
mod stats;
pub mod timeline;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use hal::{DType, Error, Result, WeightFormat};
use ops::HostWeight;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::checkpoint::map::Bytes;
use crate::files::{self, io_error};

pub use recorder::Recorder;
pub use stats::{SKETCH, Stats};

/// The version of the format, in every trace.
pub const SCHEMA: &str = "glm/trace/1";
/// The key of the document in the file's metadata.
const DOCUMENT: &str = "trace";

/// A traced run.
#[derive(Debug)]
pub struct Trace {
    /// What ran, and where.
    pub run: Run,
    /// The launches in order.
    pub calls: Vec<Call>,
    tensors: Tensors,
}

/// What ran, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// `model_type` of the model's configuration.
    pub model: String,
    /// The device spec that opened the device.
    pub device: String,
    /// The vendor's name of the device.
    pub device_name: String,
    /// Token ids that went in.
    pub ids: Vec<u32>,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Which step of the model: 0 is the prompt.
    pub step: usize,
    /// Where in the model: see [`ops::Call::place`].
    pub place: String,
    /// Name of the operation.
    pub op: String,
    /// The specification, as JSON of its type in `ops`.
    pub spec: serde_json::Value,
    /// How it was carried out.
    pub how: ops::How,
    /// The arguments in the signature's order.
    pub args: Vec<Argument>,
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Argument {
    /// Its name in the operation's signature.
    pub name: String,
    /// How the operation uses it.
    pub role: Role,
    /// Element type.
    pub dtype: DType,
    /// Lengths of the dimensions; of a weight, rows and columns where its values are kept.
    pub shape: Vec<usize>,
    /// Encoding of a packed weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<WeightFormat>,
    /// The argument that is the very same view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<usize>,
    /// Before the launch, of what is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Stats>,
    /// After the launch, of what is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Stats>,
}

/// How an operation uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Written.
    Out,
    /// Read, and written in part.
    InOut,
    /// Read.
    In,
    /// Read; a parameter of the model, of which no statistics are kept.
    Weight,
}

impl Role {
    /// Whether the operation writes it.
    pub fn is_written(self) -> bool {
        matches!(self, Role::Out | Role::InOut)
    }
}

impl Argument {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When the bytes of a kept tensor were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Before,
    After,
    /// Elements of a weight.
    Data,
    /// Scales of a weight.
    Scales,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::Before => "before",
            Kept::After => "after",
            Kept::Data => "data",
            Kept::Scales => "scales",
        })
    }
}

/// Kept tensors: in memory while they are recorded, in the file once it is read.
enum Tensors {
    Memory(BTreeMap<String, Stored>),
    File(Bytes, HashMap<String, Range<usize>>),
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tensors::Memory(tensors) => write!(f, "{} tensors", tensors.len()),
            Tensors::File(bytes, _) => write!(f, "a file of {} B", bytes.len()),
        }
    }
}

#[derive(Clone, Debug)]
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// `12.x.before`: the key of a tensor of launch 12.
fn key(call: usize, argument: &str, kept: Kept) -> String {
    format!("{call}.{argument}.{kept}")
}

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    run: Cow<'a, Run>,
    calls: Cow<'a, [Call]>,
}

impl Trace {
    /// The first launch that wrote a NaN or an infinity: an operation whose numbers left their type, or that is wrong.
    pub fn first_not_finite(&self) -> Option<&Call> {
        let not_finite = |stats: &Stats| stats.nan + stats.inf > 0;
        // Of what is written in part, the rest may hold anything.
        let of = |arg: &Argument| match arg.role {
            Role::Out => arg.after.as_ref().is_some_and(not_finite),
            Role::InOut | Role::In | Role::Weight => false,
        };
        self.calls.iter().find(|call| call.args.iter().any(of))
    }

    /// Reads a trace.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Corrupt` for a file that is no trace or contradicts itself; `Unsupported` for a trace of another
    /// version.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path)?;
        let doing = || format!("read the trace {}", path.display());
        let corrupt = |why: String| {
            Error::corrupt(doing(), why).next_step("give a file that `glm trace -o` wrote")
        };
        let (length, header) =
            SafeTensors::read_metadata(&bytes).map_err(|e| corrupt(e.to_string()))?;
        let Some(document) = header.metadata().as_ref().and_then(|m| m.get(DOCUMENT)) else {
            return Err(corrupt("its metadata has no `trace`".into()));
        };
        #[derive(Deserialize)]
        struct Version {
            run: Schema,
        }
        #[derive(Deserialize)]
        struct Schema {
            schema: String,
        }
        let file = path.display().to_string();
        let version: Version = files::parse_json(&file, document.as_bytes())?;
        if version.run.schema != SCHEMA {
            let why = format!("it is {}, this version reads {SCHEMA}", version.run.schema);
            return Err(Error::unsupported(doing(), why).next_step("trace again with this version"));
        }
        // `read_metadata` has checked that they lie in the file.
        let data = length + size_of::<u64>();
        let ranges = header.tensors().into_iter().map(|(key, info)| {
            let (start, end) = info.data_offsets;
            (key, data + start..data + end)
        });
        let ranges = ranges.collect();
        let Document { run, calls } = files::parse_json(&file, document.as_bytes())?;
        Ok(Self {
            run: run.into_owned(),
            calls: calls.into_owned(),
            tensors: Tensors::File(bytes, ranges),
        })
    }

    /// Writes the trace; `path` appears when all is written, readable by its owner: a trace tells prompts and weights.
    ///
    /// # Errors
    /// `Io`; `Unsupported` when there are more launches than the format's header holds (100 MB).
    pub fn write(&self, path: &Path) -> Result<()> {
        let doing = format!("write the trace {}", path.display());
        let document = Document {
            run: Cow::Borrowed(&self.run),
            calls: Cow::Borrowed(&self.calls),
        };
        let document = serde_json::to_string(&document)
            .map_err(|e| Error::new(hal::ErrorKind::Unexpected, doing.clone(), e.to_string()))?;
        let too_large = |why: String| {
            Error::unsupported(doing.clone(), why)
                .next_step("trace fewer steps (-n), or keep fewer tensors (--tensors)")
        };
        if document.len() > 90_000_000 {
            return Err(too_large(format!("{} B of launches", document.len())));
        }
        let Tensors::Memory(tensors) = &self.tensors else {
            return Err(Error::invalid(doing, "it was read from a file: copy that"));
        };
        let views = tensors.iter().map(|(key, t)| {
            let view = TensorView::new(safetensors_type(t.dtype), t.shape.clone(), &t.bytes);
            Ok((key.as_str(), view.map_err(|e| too_large(e.to_string()))?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([(DOCUMENT.to_owned(), document)]);
        safetensors::serialize_to_file(views, Some(metadata), path).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => io_error(&doing, e),
            e => too_large(e.to_string()),
        })
    }

    /// Whether everything is kept that launch `call` needs to run again.
    pub fn is_replayable(&self, call: usize) -> bool {
        self.calls.get(call).is_some_and(|c| {
            let has = |(name, kept)| self.tensor(call, name, kept).is_some();
            c.args.iter().all(|a| match a.role {
                Role::Out => true,
                _ if a.format.is_some() => has((&*a.name, Kept::Data)),
                _ => has((&*a.name, Kept::Before)),
            })
        })
    }

    /// What argument `name` of launch `call` held before it: row-major little-endian elements.
    pub fn input(&self, call: usize, name: &str) -> Option<Cow<'_, [u8]>> {
        self.tensor(call, name, Kept::Before)
    }

    /// What argument `name` of launch `call` held after it: row-major little-endian elements.
    pub fn output(&self, call: usize, name: &str) -> Option<Cow<'_, [u8]>> {
        self.tensor(call, name, Kept::After)
    }

    /// The weight `argument` of launch `call`.
    ///
    /// # Errors
    /// `Corrupt` when its parts do not fit together.
    pub fn weight(&self, call: usize, argument: &Argument) -> Result<Option<HostWeight<'static>>> {
        let part = |kept| self.tensor(call, &argument.name, kept);
        let (Some(format), Some(data)) = (argument.format, part(Kept::Data)) else {
            return Ok(None);
        };
        let doing = || format!("read the weight of launch {call}");
        let &[rows, cols] = &argument.shape[..] else {
            return Err(Error::corrupt(
                doing(),
                format!("its shape is {:?}", argument.shape),
            ));
        };
        let scales = part(Kept::Scales).unwrap_or_default();
        HostWeight::new(format, rows, cols, data.into_owned(), scales.into_owned())
            .map(Some)
            .map_err(|e| Error::corrupt(doing(), e.detail().to_owned()).with_source(e))
    }

    fn tensor(&self, call: usize, argument: &str, kept: Kept) -> Option<Cow<'_, [u8]>> {
        let key = key(call, argument, kept);
        match &self.tensors {
            Tensors::Memory(tensors) => tensors.get(&key).map(|t| Cow::Borrowed(&t.bytes[..])),
            Tensors::File(bytes, ranges) => bytes.get(ranges.get(&key)?.clone()).map(Cow::Borrowed),
        }
    }
}

fn safetensors_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::I32 => Dtype::I32,
        _ => Dtype::U8,
    }
}
