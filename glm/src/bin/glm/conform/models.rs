//! Level 5: whole models. Tiny ones of random weights against the logits of the official code and against the f64
//! reference in every number format; the model inside this program against its recorded answers.

use std::collections::HashMap;
use std::ops::ControlFlow;

use conformance::{Check, Fault, Level, Suite, reference_device};
use glm::architecture::Architecture;
use glm::checkpoint::Checkpoint;
use glm::engine::GenerationParams;
use glm::model::{Chunk, Model, Options, Rows};
use glm::prompt::{ChatOptions, Message};
use glm::sampler::Sampling;
use hal::{DType, Error, ErrorKind, WeightFormat};
use ops::Context;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// Logits of the official code, by case.
const GOLDEN: &str = include_str!("../../../../tests/golden.json");

/// Answers of the model inside this program, by the code that trained it.
const ANSWERS: &str = include_str!("../../../../demo/model/expected.json");

/// Cases and their `model_type`.
const CASES: [(&str, &str); 3] = [("chatglm3", "chatglm"), ("glm", "glm"), ("glm4", "glm4")];

/// How far f32 logits may be from those of the official code, which computes in f32 too: its own distance from f64
/// is 5e-6, and sums in another order move it less than this.
const F32_BOUND: f64 = 2e-4;

/// A device that rounds activations to eight bits, as its card says, beside the graph that does not: by a block's largest element,
/// about three times its root mean square, so an error of 1/147 of that on average, as of a float type whose unit roundoff is 1/59; and
/// in four products of a layer, not in ten stored results.
const EIGHT_BITS: f64 = 0.63 / 59.0;

/// Types of activations and formats of weights.
const FORMATS: [(&str, DType, Option<WeightFormat>); 5] = [
    ("f16", DType::F16, None),
    ("bf16", DType::BF16, None),
    ("int8", DType::F32, Some(WeightFormat::Int8Row)),
    ("int4", DType::F32, Some(WeightFormat::Int4Row)),
    ("int4_f16", DType::F16, Some(WeightFormat::Int4Row)),
];

/// The checks of this level.
pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (case, model_type) in CASES {
        checks.push(Check::new(
            Level::Models,
            "model",
            &format!("{case}_f32"),
            "logits of a tiny model, at once and token by token, against the official code",
            move |suite| official(suite, case, model_type),
        ));
        // GLM-4-0414 is refused in f16 whatever the device: its activations overflow.
        let formats = FORMATS.into_iter();
        for (name, dtype, weights) in
            formats.filter(|(_, dtype, _)| *dtype != DType::F16 || case != "glm4")
        {
            checks.push(Check::new(
                Level::Models,
                "model",
                &format!("{case}_{name}"),
                "logits of a tiny model against the same graph in f64, rounded once per operation",
                move |suite| rounded(suite, case, model_type, dtype, weights),
            ));
        }
    }
    checks.push(Check::new(
        Level::Models,
        "model",
        "demo_answers",
        "greedy answers of the model inside this program, word for word",
        answers,
    ));
    checks
}

fn official(suite: &Suite, case: &str, model_type: &str) -> Result<String, Fault> {
    let golden = golden(case)?;
    let (ids, want) = (numbers(&golden["input_ids"]), numbers(&golden["logits"]));
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let mut model = load(suite.context(), &golden, model_type, DType::F32, None)?;
    let at_once = logits(&mut model, &ids, ids.len())?;
    let mut stepwise = Vec::new();
    let mut sequence = model.sequence();
    for id in &ids {
        let chunk = Chunk {
            sequence: &mut sequence,
            ids: &[*id],
            positions: None,
        };
        model.forward(&mut [chunk], Rows::All)?;
        stepwise.extend(model.read_logits()?.into_iter().map(f64::from));
    }
    let worst = near("at once", &at_once, &want, F32_BOUND)?;
    let step = near("token by token", &stepwise, &want, F32_BOUND)?;
    Ok(format!(
        "off by {worst:.1e} at once, {step:.1e} token by token, of {F32_BOUND:.0e}"
    ))
}

fn rounded(
    suite: &Suite,
    case: &str,
    model_type: &str,
    dtype: DType,
    weights: Option<WeightFormat>,
) -> Result<String, Fault> {
    let golden = golden(case)?;
    let ids: Vec<u32> = numbers(&golden["input_ids"])
        .into_iter()
        .map(|id| id as u32)
        .collect();
    let reference = Context::new(reference_device::open());
    let mut model = load(&reference, &golden, model_type, dtype, weights)?;
    let want = logits(&mut model, &ids, ids.len())?;
    let mut model = load(suite.context(), &golden, model_type, dtype, weights)?;
    let got = logits(&mut model, &ids, ids.len())?;
    let layers = model.architecture().layers as f64;
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    let stored = match dtype {
        DType::F32 => 0.0,
        dtype => dtype.unit_roundoff(),
    };
    let card = &suite.context().device().info().numerics;
    let rounds = weights.is_some() && card.rounds_activations;
    let unit = stored + if rounds { EIGHT_BITS } else { 0.0 };
    // About ten results are stored per layer, each half a unit off; errors of independent signs grow with the root.
    // Activations that overflow, a wrong scale or a wrong row are off by the size of the logits.
    let bound = F32_BOUND.max(24.0 * unit * layers.sqrt() * rms);
    let worst = near("logits", &got, &want, bound)?;
    Ok(format!("off by {worst:.1e} of {bound:.1e}"))
}

/// The largest distance, if it is within `bound`.
fn near(what: &str, got: &[f64], want: &[f64], bound: f64) -> Result<f64, Fault> {
    if got.len() != want.len() {
        let why = format!("{what}: {} logits, {} expected", got.len(), want.len());
        return Err(Fault::Wrong(why));
    }
    // `max` would drop a NaN.
    let gaps = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    let worst = gaps.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m });
    match worst <= bound {
        true => Ok(worst),
        false => Err(Fault::Wrong(format!(
            "{what}: off by {worst:e}, allowed are {bound:e}"
        ))),
    }
}

/// Logits of all tokens, in one step.
fn logits(model: &mut Model, ids: &[u32], tokens: usize) -> hal::Result<Vec<f64>> {
    let mut sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &ids[..tokens],
        positions: None,
    };
    model.forward(&mut [chunk], Rows::All)?;
    Ok(model.read_logits()?.into_iter().map(f64::from).collect())
}

fn answers(suite: &Suite) -> Result<String, Fault> {
    let source = glm::demo::folder_files();
    let options = Options {
        dtype: Some(DType::F32),
        context: Some(512),
        ..Options::default()
    };
    let engine = source.load(suite.context(), &options, |_, _| {})?;
    let form = source.chat_form(engine.tokenizer())?;
    let params = GenerationParams {
        sampling: Sampling::default(),
        ..GenerationParams::from(&source.generation_config()?)
    };
    let mut session = engine.session()?;
    let expected: Value = serde_json::from_str(ANSWERS).map_err(|e| built_wrong(&e))?;
    let list = expected["answers"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for item in list {
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        let messages = match item["messages"].as_array() {
            Some(messages) => messages
                .iter()
                .filter_map(|m| Some(Message::new(m["role"].as_str()?, m["content"].as_str()?)))
                .collect(),
            None => vec![Message::new("user", text("question"))],
        };
        let chat = ChatOptions {
            add_generation_prompt: true,
            ..ChatOptions::default()
        };
        let prompt = form.encode(engine.tokenizer(), &messages, &chat)?.ids;
        let given = session
            .generate(&prompt, &params, |_| ControlFlow::Continue(()))?
            .text;
        if given != text("answer") {
            let question = messages.last().map_or("", |m| &m.content);
            return Err(Fault::Wrong(format!(
                "to '{question}' it says '{given}', expected is '{}'",
                text("answer")
            )));
        }
    }
    match list.is_empty() {
        true => Err(Fault::Wrong("no answers are recorded".into())),
        false => Ok(format!("{} answers", list.len())),
    }
}

fn built_wrong(e: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unexpected,
        "read what is inside this program",
        e.to_string(),
    )
}

fn golden(case: &str) -> hal::Result<Value> {
    let mut all: Value = serde_json::from_str(GOLDEN).map_err(|e| built_wrong(&e))?;
    Ok(all["cases"][case].take())
}

/// All numbers in nested lists, in order.
fn numbers(value: &Value) -> Vec<f64> {
    match value.as_array() {
        Some(list) => list.iter().flat_map(numbers).collect(),
        None => value.as_f64().into_iter().collect(),
    }
}

/// A tiny model whose tensors follow from their names.
fn load(
    context: &Context,
    golden: &Value,
    model_type: &str,
    dtype: DType,
    weights: Option<WeightFormat>,
) -> hal::Result<Model> {
    let mut config = golden["config"].clone();
    config["model_type"] = json!(model_type);
    let shapes = golden["shapes"].as_object().into_iter().flatten();
    let tensors: HashMap<&str, (Vec<usize>, Vec<u8>)> = shapes
        .map(|(name, shape)| {
            let shape: Vec<usize> = numbers(shape).into_iter().map(|n| n as usize).collect();
            let bytes = tensor(name, &shape)
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect();
            (name.as_str(), (shape, bytes))
        })
        .collect();
    let mut views = Vec::new();
    for (name, (shape, bytes)) in &tensors {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| built_wrong(&e))?;
        views.push((*name, view));
    }
    let file = safetensors::serialize(views, None).map_err(|e| built_wrong(&e))?;
    let options = Options {
        dtype: Some(dtype),
        weights,
        max_logits: 64,
        ..Options::default()
    };
    let architecture = Architecture::from_config(&config)?;
    let checkpoint = Checkpoint::from_bytes(file)?;
    Model::load(context, &architecture, &checkpoint, &options, |_, _| {})
}

/// The tensor `name`, row-major: splitmix64 seeded with the FNV-1a hash of the name, mapped to `u` in [-0.5, 0.5):
/// `u` for matrices, `1 + u/2` for weights of norms, `u/4` for other vectors. All values are exact in f32.
fn tensor(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let is_norm = name.contains("norm") && name.ends_with("weight");
    let count = shape.iter().product::<usize>() as u64;
    let element = |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let u = (z >> 40) as f32 / (1 << 24) as f32 - 0.5;
        match (shape.len(), is_norm) {
            (1, true) => 1.0 + 0.5 * u,
            (1, false) => 0.25 * u,
            _ => u,
        }
    };
    (1..=count).map(element).collect()
}
