//! `glm plan`: whether a model fits a device and what would run how, before anything is loaded.

use std::collections::BTreeMap;
use std::io::{self, Write};

use glm::architecture::Architecture;
use glm::backends;
use glm::checkpoint::Checkpoint;
use glm::model::{Model, Options, PlannedOperation, Preview, refused};
use glm::shapes;
use hal::{DType, Error, MemoryInfo, WeightFormat};
use ops::{Accelerator, Context, How};
use serde_json::{Value, json};

use crate::args::{CacheType, Global, Plan, Precision};
use crate::codes::{Code, Lang};
use crate::failure::Failure;
use crate::{compiling, load, output};

/// What is tried where a model does not fit, smaller and smaller.
const SMALLER: [Precision; 2] = [Precision::Int8, Precision::Int4G32];
/// No shorter context is proposed.
const LEAST_CONTEXT: usize = 512;

pub(crate) fn run(global: &Global, args: &Plan) -> Result<(), Failure> {
    let subject = Subject::new(global, args)?;
    let device = Device::open(global)?;
    let types: Vec<(DType, Option<Error>)> = [DType::F32, DType::F16, DType::BF16]
        .into_iter()
        .map(|dtype| (dtype, refused(&subject.architecture, dtype)))
        .collect();
    let planned = device.plan(&subject, global.dtype, args);
    compiling::finish();
    let verdict = match planned {
        Ok(preview) => Verdict::new(&device, &subject, global.dtype, args, preview),
        // A type that is refused is a result; everything else is an error of input or device.
        Err(e) => match global.dtype.and_then(Precision::activations) {
            Some(dtype) if refused(&subject.architecture, dtype).is_some() => Verdict::Refused(e),
            _ => return Err(e.into()),
        },
    };
    if global.json {
        output::json(&document(&subject, &device, &types, &verdict))?;
    } else {
        print(&subject, &device, &types, &verdict, global.lang())?;
    }
    match verdict.exit_code() {
        0 => Ok(()),
        code => Err(Failure::Checked(code)),
    }
}

/// What is planned.
struct Subject {
    name: String,
    architecture: Architecture,
    /// `None`: a published shape, whose tensors are made up for each format.
    checkpoint: Option<Checkpoint>,
    tuned: Option<Checkpoint>,
    /// The type of the KV cache that was asked for.
    kv: Option<DType>,
}

impl Subject {
    fn new(global: &Global, args: &Plan) -> Result<Self, Failure> {
        let kv = global.kv_cache_dtype.map(CacheType::dtype);
        if let Some(shape) = &args.shape {
            return Ok(Self {
                name: shape.clone(),
                // What the user typed, not what a file holds: usage.
                architecture: shapes::architecture(shape, None)
                    .map_err(|e| Failure::Error(e, 2))?,
                checkpoint: None,
                tuned: None,
                kv,
            });
        }
        let source = load::source(args.model.as_deref());
        let folder = args.model.as_deref().and_then(|path| path.file_name());
        Ok(Self {
            name: folder.map_or("embedded".into(), |name| {
                name.to_string_lossy().into_owned()
            }),
            architecture: source.architecture()?,
            checkpoint: Some(source.checkpoint()?),
            tuned: args.ptuning.as_deref().map(Checkpoint::open).transpose()?,
            kv,
        })
    }
}

/// Where it is planned.
struct Device {
    accelerator: Accelerator,
    /// Stands in for what the device lacks, so that planning goes on; it runs nothing.
    host: Option<Accelerator>,
    memory: Option<MemoryInfo>,
}

impl Device {
    fn open(global: &Global) -> Result<Self, Failure> {
        let accelerator = load::accelerator(global, &global.device)?;
        Ok(Self {
            memory: accelerator.device.memory(),
            host: backends::open("cpu", &backends::Options::default()).ok(),
            accelerator,
        })
    }

    fn spec(&self) -> &str {
        &self.accelerator.device.info().spec
    }

    fn plan(
        &self,
        subject: &Subject,
        precision: Option<Precision>,
        args: &Plan,
    ) -> hal::Result<Preview> {
        let context = Context::new(self.accelerator.clone());
        let context = match &self.host {
            Some(host) => context.with_host_fallback(host.clone()),
            None => context,
        };
        let a = &subject.architecture;
        let options = Options {
            kv: subject.kv,
            ..options(args)
        };
        let options = load::with_precision(precision, options);
        let made_up;
        let checkpoint = match &subject.checkpoint {
            Some(checkpoint) => checkpoint,
            None => {
                let dense = precision.and_then(Precision::activations);
                let dense = WeightFormat::Dense(dense.unwrap_or(a.dtype));
                let weights = precision.map_or(dense, Precision::weights);
                made_up = Checkpoint::zeros(a, weights, dense)?;
                &made_up
            }
        };
        let own = a.prefix.map(|_| checkpoint);
        let prefix = subject.tuned.as_ref().or(own);
        Model::preview(&context, a, checkpoint, prefix, &options)
    }

    fn fits(&self, preview: &Preview) -> Option<bool> {
        self.memory
            .map(|memory| preview.needed_bytes <= memory.free_bytes)
    }
}

fn options(args: &Plan) -> Options {
    let sequences = args.batch.get();
    Options {
        context: args.context,
        max_sequences: sequences,
        max_logits: sequences,
        ..Options::default()
    }
}

/// What came out.
enum Verdict {
    Planned {
        preview: Preview,
        /// `None`: the device does not tell its memory.
        fits: Option<bool>,
        /// Flags with which it would fit, and what is needed then.
        instead: Vec<(String, usize)>,
    },
    /// The model is known to overflow the type that was asked for.
    Refused(Error),
}

impl Verdict {
    fn new(
        device: &Device,
        subject: &Subject,
        precision: Option<Precision>,
        args: &Plan,
        preview: Preview,
    ) -> Self {
        let fits = device.fits(&preview);
        let mut instead = Vec::new();
        if fits == Some(false) {
            let mut proposed = |flags: String, precision: Option<Precision>, args: &Plan| {
                if let Ok(preview) = device.plan(subject, precision, args)
                    && device.fits(&preview) == Some(true)
                {
                    instead.push((flags, preview.needed_bytes));
                    return true;
                }
                false
            };
            // The longest context that fits, of those that halve it.
            let contexts = std::iter::successors(Some(preview.context / 2), |c| Some(c / 2));
            for context in contexts.take_while(|c| *c >= LEAST_CONTEXT) {
                let args = Plan {
                    context: Some(context),
                    ..args.clone()
                };
                if proposed(format!("--context {context}"), precision, &args) {
                    break;
                }
            }
            for smaller in SMALLER {
                if precision != Some(smaller) {
                    proposed(format!("--dtype {}", smaller.name()), Some(smaller), args);
                }
            }
        }
        Verdict::Planned {
            preview,
            fits,
            instead,
        }
    }

    /// As `glm chat` would end: 3 for an operation that the device lacks, 5 for memory.
    fn exit_code(&self) -> u8 {
        match self {
            Verdict::Refused(_) => 4,
            Verdict::Planned { preview, .. } if lacking(preview).next().is_some() => 3,
            Verdict::Planned { fits, .. } => match fits {
                Some(false) => 5,
                _ => 0,
            },
        }
    }
}

/// Operations that the device has neither a kernel nor a composition for.
fn lacking(preview: &Preview) -> impl Iterator<Item = &PlannedOperation> {
    preview.operations.iter().filter(|op| op.how == How::Host)
}

/// How an operation is carried out, as a word. The host is asked only to go on planning.
fn how(op: &PlannedOperation) -> &'static str {
    match op.how {
        How::Native => "native",
        How::Composed => "composed",
        How::Host => "missing",
    }
}

fn document(
    subject: &Subject,
    device: &Device,
    types: &[(DType, Option<Error>)],
    verdict: &Verdict,
) -> Value {
    let types: BTreeMap<&str, Value> = types
        .iter()
        .map(|(dtype, refused)| {
            let why = refused.as_ref().map(Error::detail);
            (dtype.name(), json!({ "refused": why }))
        })
        .collect();
    let mut document = json!({
        "schema": "glm/plan/1",
        "model": subject.name,
        "model_type": subject.architecture.model_type,
        "device": device.spec(),
        "memory_free_bytes": device.memory.map(|m| m.free_bytes),
        "memory_total_bytes": device.memory.map(|m| m.total_bytes),
        "types": types,
    });
    let more = match verdict {
        Verdict::Refused(e) => json!({
            "runs": false,
            "refused": { "why": e.detail(), "next": e.next(), "code": Code::of_kind(e.kind()).map(|c| c.id) },
        }),
        Verdict::Planned {
            preview,
            fits,
            instead,
        } => {
            let operations: Vec<Value> = preview
                .operations
                .iter()
                .map(|op| json!({ "op": op.op, "how": how(op), "spec": op.spec }))
                .collect();
            let instead: Vec<Value> = instead
                .iter()
                .map(|(flags, bytes)| json!({ "flags": flags, "needed_bytes": bytes }))
                .collect();
            let formats = preview.weights.iter().map(|w| w.to_string());
            json!({
                "runs": verdict.exit_code() == 0,
                "fits": fits,
                "dtype": preview.dtype.name(),
                "weights": formats.collect::<Vec<_>>(),
                "kv": preview.kv.name(),
                "context": preview.context,
                "cache_tokens": preview.cache_tokens,
                "weights_bytes": preview.footprint.weights,
                "cache_bytes": preview.footprint.cache,
                "buffers_bytes": preview.footprint.buffers,
                "needed_bytes": preview.needed_bytes,
                "operations": operations,
                "instead": instead,
            })
        }
    };
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}

fn print(
    subject: &Subject,
    device: &Device,
    types: &[(DType, Option<Error>)],
    verdict: &Verdict,
    lang: Lang,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let bytes = |n: usize| output::bytes(n as u64);
    let (model, kind) = (&subject.name, &subject.architecture.model_type);
    let spec = device.spec();
    // Heads are nine columns wide; a Chinese character takes two.
    let next = lang.choose("next     ", "建议     ");
    match lang {
        Lang::En => writeln!(out, "model    {model} ({kind}) on {spec}")?,
        Lang::Zh => writeln!(out, "模型     {model}（{kind}），设备 {spec}")?,
    }
    if let Verdict::Planned {
        preview,
        fits,
        instead,
    } = verdict
    {
        let formats: Vec<String> = preview.weights.iter().map(|w| w.to_string()).collect();
        let formats = formats.join(lang.choose(" and ", " 与 "));
        let (dtype, kv) = (preview.dtype, preview.kv);
        match lang {
            Lang::En => writeln!(
                out,
                "types    activations {dtype}, weights {formats}, KV cache {kv}"
            )?,
            Lang::Zh => writeln!(out, "类型     激活 {dtype}，权重 {formats}，KV 缓存 {kv}")?,
        }
        let footprint = &preview.footprint;
        let [weights, cache, buffers] =
            [footprint.weights, footprint.cache, footprint.buffers].map(bytes);
        let tokens = preview.cache_tokens;
        match lang {
            Lang::En => writeln!(
                out,
                "memory   weights {weights} + KV cache {cache} ({tokens} tokens) + buffers {buffers}"
            )?,
            Lang::Zh => writeln!(
                out,
                "内存     权重 {weights} + KV 缓存 {cache}（{tokens} 个词元）+ 缓冲区 {buffers}"
            )?,
        }
        let needed = bytes(preview.needed_bytes);
        match (device.memory, fits) {
            (Some(memory), Some(fits)) => {
                let free = bytes(memory.free_bytes);
                let word = match fits {
                    true => lang.choose("FITS", "放得下"),
                    false => lang.choose("DOES NOT FIT", "放不下"),
                };
                match lang {
                    Lang::En => writeln!(out, "         {needed} of {free} free: {word}")?,
                    Lang::Zh => writeln!(out, "         需要 {needed}，空闲 {free}：{word}")?,
                }
            }
            _ => match lang {
                Lang::En => writeln!(
                    out,
                    "         {needed}; the device does not tell what is free"
                )?,
                Lang::Zh => writeln!(out, "         需要 {needed}；设备没有报告空闲内存")?,
            },
        }
        let of = |word: &str| {
            preview
                .operations
                .iter()
                .filter(|op| how(op) == word)
                .count()
        };
        let all = preview.operations.len();
        let [native, composed, missing] = ["native", "composed", "missing"].map(of);
        match lang {
            Lang::En => writeln!(
                out,
                "ops      {native} of {all} native, {composed} composed, {missing} missing"
            )?,
            Lang::Zh => writeln!(
                out,
                "算子     共 {all} 个：原生 {native}，组合 {composed}，缺少 {missing}"
            )?,
        }
        for op in preview.operations.iter().filter(|op| op.how != How::Native) {
            let word = match op.how {
                How::Composed => lang.choose("composed", "组合"),
                _ => lang.choose("missing", "缺少"),
            };
            writeln!(out, "         {word}: {}", op.spec)?;
        }
        if lacking(preview).next().is_some() {
            let text = lang.choose(
                "choose another --dtype or --device",
                "换一个 --dtype 或 --device",
            );
            writeln!(out, "{next}{text}")?;
        }
        for (flags, needed) in instead {
            writeln!(out, "{next}{flags}: {}", bytes(*needed))?;
        }
        if *fits == Some(false) && instead.is_empty() {
            let text = lang.choose(
                "choose another device: no smaller --context or --dtype fits",
                "换一个设备：更小的 --context 或 --dtype 也放不下",
            );
            writeln!(out, "{next}{text}")?;
        }
    }
    for (dtype, refused) in types {
        let Some(e) = refused else { continue };
        match lang {
            Lang::En => {
                let next = e.next().unwrap_or_default();
                writeln!(out, "refused  --dtype {dtype}: {} ({next})", e.detail())?;
            }
            // The one reason for which a type is refused.
            Lang::Zh => writeln!(
                out,
                "拒绝     --dtype {dtype}：该模型的激活值在 {dtype} 下会溢出成为 NaN（请选 bf16 或 f32）"
            )?,
        }
    }
    if let Verdict::Refused(e) = verdict
        && let Some(code) = Code::of_kind(e.kind())
    {
        let more = lang.choose("more     ", "详情     ");
        writeln!(out, "{more}glm errors {}", code.id)?;
    }
    Ok(())
}
