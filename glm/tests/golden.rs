//! Logits of tiny models against those of the official code, through real files and the normal load
//! path.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::common::sat::{self, Family};
use crate::common::watched::watched;
use crate::common::{
    Shapes, golden, golden_config, golden_shapes, tensor, torch, write_checkpoint,
};
use glm::architecture::{Architecture, TrainedPrefix};
use glm::backends;
use glm::blank::{Blank, BlankPositions};
use glm::cache::Sequence;
use glm::checkpoint::Checkpoint;
use glm::inspect::inspect;
use glm::model::{Chunk, Model, Options, Rows};
use glm::source::ModelSource;
use hal::{DType, ErrorKind, Result, WeightFormat};
use ops::{Accelerator, Context, Embedding, HostWeight, Ops};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Golden cases of causal models and their `model_type`.
const CASES: [(&str, &str); 4] = [
    ("chatglm3", "chatglm"),
    ("glm", "glm"),
    ("glm4", "glm4"),
    ("codegeex", "codegeex"),
];

/// Those of models that fill blanks.
const FIRST: [(&str, &str); 6] = [
    ("glm130b_gmask", "glm130b"),
    ("glm130b_mask", "glm130b"),
    ("glm10b_sat", "glm10b"),
    ("chatglm_v1_gmask", "chatglm"),
    ("chatglm_v1_mask", "chatglm"),
    ("chatglm_v1_28layers", "chatglm"),
];

/// Those with a trained prefix.
const PREFIXES: [&str; 4] = [
    "chatglm1_prefix",
    "chatglm1_prefix_projection",
    "chatglm3_prefix",
    "chatglm3_prefix_projection",
];

/// One of every kind.
const KINDS: [(&str, &str); 9] = [
    CASES[0],
    CASES[1],
    CASES[2],
    CASES[3],
    FIRST[1],
    FIRST[2],
    FIRST[3],
    (PREFIXES[0], "chatglm"),
    (PREFIXES[3], "chatglm"),
];

/// The blank of made-up prompts.
const BLANK: Blank = Blank {
    start: 4,
    mask: 2,
    to_the_end: false,
};

fn cpu() -> Context {
    let options = backend_cpu::Options {
        threads: Some(2),
        ..backend_cpu::Options::default()
    };
    Context::new(backend_cpu::open(&options).unwrap())
}

/// The CPU, the reference, and what else this build and machine have.
fn devices() -> Vec<(&'static str, Context)> {
    let mut all = vec![("cpu", cpu()), ("reference", reference())];
    for name in ["opencl", "wgpu"] {
        match backends::open(name, &backends::Options::default()) {
            Ok(accelerator) => all.push((name, Context::new(accelerator))),
            Err(e) if e.kind() == ErrorKind::NotFound => conformance::skip(name, e),
            Err(e) => panic!("{name}: {e:?}"),
        }
    }
    all
}

/// Every operation in f64, rounded once.
fn reference() -> Context {
    Context::new(conformance::reference_device::open())
}

/// In f32, with all rows of logits at once.
fn options() -> Options {
    Options {
        dtype: Some(DType::F32),
        max_logits: 64,
        max_sequences: 4,
        ..Options::default()
    }
}

fn load(context: &Context, folder: &Path, options: &Options) -> Result<Model> {
    let architecture = Architecture::load(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    Model::load(context, &architecture, &checkpoint, options, |_, _| {})
}

/// The files of a case, one or sharded.
fn files(case: &str, model_type: &str, sharded: bool) -> TempDir {
    let (dir, case) = (TempDir::new().unwrap(), golden(case));
    let config = golden_config(&case, model_type);
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, sharded);
    dir
}

fn model(case: &str, model_type: &str, options: &Options) -> Model {
    load(&cpu(), files(case, model_type, false).path(), options).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let rows = value.as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap())
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

/// Positions `[streams, indices]` of tokens.
fn positions(rule: BlankPositions, blank: Option<Blank>, indices: Range<usize>) -> Vec<u32> {
    (0..rule.streams())
        .flat_map(|stream| {
            indices
                .clone()
                .map(move |i| rule.of(blank, i)[stream] as u32)
        })
        .collect()
}

/// The blank of made-up prompts, for models that fill blanks.
fn made_up_blank(model: &Model) -> Option<Blank> {
    (model.architecture().blank != BlankPositions::None).then_some(BLANK)
}

/// A new sequence for a made-up prompt.
fn sequence(model: &Model) -> Sequence {
    let mut sequence = model.sequence();
    let prefix = made_up_blank(model).map_or(0, |blank| blank.start);
    sequence.set_prefix(prefix).unwrap();
    sequence
}

/// Appends `ids` of a text with `blank` to `sequence`; their logits.
fn run(
    model: &mut Model,
    sequence: &mut Sequence,
    ids: &[u32],
    blank: Option<Blank>,
) -> Result<Vec<f32>> {
    let at = sequence.len();
    let positions = positions(model.architecture().blank, blank, at..at + ids.len());
    let chunk = Chunk {
        sequence,
        ids,
        positions: Some(&positions),
    };
    model.forward(&mut [chunk], Rows::All)?;
    model.read_logits()
}

/// Appends `ids` of a made-up prompt to `sequence`; their logits.
fn step(model: &mut Model, sequence: &mut Sequence, ids: &[u32]) -> Vec<f32> {
    let blank = made_up_blank(model);
    run(model, sequence, ids, blank).unwrap()
}

fn full(model: &mut Model, ids: &[u32]) -> Vec<f32> {
    let mut sequence = sequence(model);
    step(model, &mut sequence, ids)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // `max` would drop a NaN.
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[track_caller]
fn assert_near(a: &[f32], b: &[f32], bound: f32, what: &str) {
    let worst = worst(a, b);
    println!("{what}: worst difference {worst:.2e}, bound {bound:.1e}");
    assert!(worst <= bound, "{what}: {worst:e} > {bound:e}");
}

#[test]
fn logits_are_those_of_the_official_code() {
    for (device, context) in devices() {
        for (name, model_type) in CASES {
            for sharded in [false, true] {
                let dir = files(name, model_type, sharded);
                let mut model = load(&context, dir.path(), &options()).unwrap();
                let case = golden(name);
                let (prompt, expected) = (ids(&case["input_ids"]), floats(&case["logits"]));
                let got = full(&mut model, &prompt);
                let what = format!("{name} on {device}, sharded: {sharded}");
                assert_near(&got, &expected, 2e-4, &what);
                // Other kernels are made for single tokens.
                let mut sequence = sequence(&model);
                let (first, rest) = prompt.split_at(prompt.len() / 2);
                let mut got = step(&mut model, &mut sequence, first);
                for &id in rest {
                    got.extend(step(&mut model, &mut sequence, &[id]));
                }
                assert_near(&got, &expected, 2e-4, &format!("{what}, token by token"));
            }
        }
    }
}

#[test]
fn positions_and_prefix_of_a_blank_are_those_of_the_official_code() {
    for (device, context) in devices() {
        for (name, model_type) in FIRST {
            fills_its_blank(device, &context, name, model_type);
        }
    }
}

fn fills_its_blank(device: &str, context: &Context, name: &str, model_type: &str) {
    let (case, dir) = (golden(name), files(name, model_type, false));
    let mut model = load(context, dir.path(), &options()).unwrap();
    let rule = model.architecture().blank;
    let prompt = ids(&case["input_ids"]);
    let blank = blank_of(name, &case);
    let expected: Vec<u32> = match rule.streams() {
        1 => ids(&case["position_ids"]),
        _ => case["position_ids"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(ids)
            .collect(),
    };
    assert_eq!(
        positions(rule, Some(blank), 0..prompt.len()),
        expected,
        "{name}"
    );

    let mut sequence = model.sequence();
    sequence.set_prefix(visible(&case, blank)).unwrap();
    // Tokens of the prefix see each other: a piece of it would silently see less.
    let piece = run(&mut model, &mut sequence, &prompt[..2], Some(blank));
    assert_eq!(piece.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let got = run(&mut model, &mut sequence, &prompt, Some(blank)).unwrap();
    assert_near(
        &got,
        &floats(&case["logits"]),
        2e-4,
        &format!("{name} on {device}"),
    );
    if case["decode_ids"].is_null() {
        return;
    }
    let expected = floats(&case["decode_logits"]);
    for (i, id) in ids(&case["decode_ids"]).into_iter().enumerate() {
        let at = sequence.len();
        let expected_positions = ids(&case["decode_position_ids"][i]);
        assert_eq!(positions(rule, Some(blank), at..at + 1), expected_positions);
        let got = run(&mut model, &mut sequence, &[id], Some(blank)).unwrap();
        let expected = &expected[i * 64..(i + 1) * 64];
        assert_near(
            &got,
            expected,
            2e-4,
            &format!("{name} on {device}, token {i}"),
        );
    }
}

/// Contexts in which a tied output layer and the embedding cannot share their memory.
fn apart() -> [(&'static str, Context); 2] {
    let cpu = || {
        let options = backend_cpu::Options {
            threads: Some(2),
            ..backend_cpu::Options::default()
        };
        backend_cpu::open(&options).unwrap()
    };
    let declines_tied = |ops: Ops| {
        let whole = ops.embedding.clone().unwrap();
        let planner = move |op: &Embedding| match op.tied {
            true => Ok(None),
            false => whole.plan(op),
        };
        Ops {
            embedding: Some(Arc::new(planner)),
            ..ops
        }
    };
    let lacks = |ops: Ops| Ops {
        embedding: None,
        ..ops
    };
    let with = |change: &dyn Fn(Ops) -> Ops| {
        let Accelerator { device, ops } = cpu();
        Context::new(Accelerator {
            device,
            ops: change(ops),
        })
    };
    [
        ("declined", with(&declines_tied)),
        ("on the host", with(&lacks).with_host_fallback(cpu())),
    ]
}

#[test]
fn a_device_that_cannot_share_the_table_gets_two() {
    let (case, dir) = (golden(FIRST[3].0), files(FIRST[3].0, FIRST[3].1, false));
    let blank = blank_of(FIRST[3].0, &case);
    let shared = load(&cpu(), dir.path(), &options()).unwrap();
    for (what, context) in apart() {
        let mut model = load(&context, dir.path(), &options()).unwrap();
        let table = 64 * 32 * 4;
        let weights = shared.footprint().weights + table;
        assert_eq!(model.footprint().weights, weights, "{what}");
        let mut sequence = model.sequence();
        sequence.set_prefix(visible(&case, blank)).unwrap();
        let prompt = ids(&case["input_ids"]);
        let got = run(&mut model, &mut sequence, &prompt, Some(blank)).unwrap();
        assert_near(&got, &floats(&case["logits"]), 2e-4, what);
    }
}

/// Writes a case as its publisher did, `parts` files of it; without `config.json`.
fn write_published(dir: &Path, model_type: &str, shapes: &Shapes, parts: usize) {
    match model_type {
        "glm130b" => sat::write(dir, shapes, Family::Glm130b, parts, DType::F32),
        "glm10b" => sat::write(dir, shapes, Family::Glm10b, parts, DType::F32),
        "codegeex" => {
            // Dictionaries in dictionaries down to the layers, whose names are whole.
            let tensors = torch::tensors(shapes, DType::F32);
            let names = |t: &torch::Tensor| t.name.splitn(3, '.').map(str::to_owned).collect();
            let named: Vec<(Vec<String>, _)> = tensors.iter().map(|t| (names(t), t)).collect();
            let mut pickle = torch::Pickle::new();
            pickle.op(b"}(").text("module");
            nest(&mut pickle, &named, 0);
            pickle.op(b"u");
            let file = torch::archive(&pickle.end(), &tensors);
            std::fs::write(dir.join("codegeex_13b.pt"), file).unwrap();
        }
        _ => {
            let mut map = serde_json::Map::new();
            for (i, part) in shapes.chunks(shapes.len().div_ceil(parts)).enumerate() {
                let file = format!("pytorch_model-{:05}-of-{parts:05}.bin", i + 1);
                torch::write_bin(&dir.join(&file), &part.to_vec());
                map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
            }
            let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
            let path = dir.join("pytorch_model.bin.index.json");
            std::fs::write(path, index.to_string()).unwrap();
        }
    }
}

/// A dictionary of the tensors by their name `depth`, with one in it for each that has more.
fn nest(pickle: &mut torch::Pickle, tensors: &[(Vec<String>, &torch::Tensor)], depth: usize) {
    pickle.op(b"}(");
    let mut at = 0;
    while let Some((names, tensor)) = tensors.get(at) {
        let same = |other: &&(Vec<String>, _)| other.0[depth] == names[depth];
        let group = tensors[at..].iter().take_while(same).count();
        pickle.text(&names[depth]);
        match depth + 1 < names.len() {
            true => nest(pickle, &tensors[at..at + group], depth + 1),
            false => drop(pickle.tensor(tensor)),
        }
        at += group;
    }
    pickle.op(b"u");
}

#[test]
fn the_containers_of_the_publishers_give_the_same_logits() {
    for (name, model_type) in FIRST.into_iter().chain([CASES[0], CASES[3]]) {
        let case = golden(name);
        let mut shapes = golden_shapes(&case);
        // Dictionaries are made of neighbours.
        shapes.sort();
        let (prompt, expected) = (ids(&case["input_ids"]), floats(&case["logits"]));
        let blank = FIRST
            .contains(&(name, model_type))
            .then(|| blank_of(name, &case));
        for parts in [1, 2, 4] {
            let dir = TempDir::new().unwrap();
            write_published(dir.path(), model_type, &shapes, parts);
            let config = golden_config(&case, model_type);
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            let source = ModelSource::Folder(dir.path().into());
            let (architecture, checkpoint) =
                (source.architecture().unwrap(), source.checkpoint().unwrap());
            let options = options();
            let model = Model::load(&cpu(), &architecture, &checkpoint, &options, |_, _| {});
            let (model, what) = (&mut model.unwrap(), format!("{name} in {parts}"));
            let mut sequence = model.sequence();
            let prefix = blank.map_or(0, |blank| visible(&case, blank));
            sequence.set_prefix(prefix).unwrap();
            let got = run(model, &mut sequence, &prompt, blank).unwrap();
            assert_near(&got, &expected, 2e-4, &what);
        }
    }
}

/// The prompt of a first-generation case: 59 is the mask of those without ids in their configuration.
fn blank_of(name: &str, case: &Value) -> Blank {
    let prompt = ids(&case["input_ids"]);
    let index = |key: &str, default: u32| {
        let id = case["config"][key].as_u64().map_or(default, |id| id as u32);
        prompt.iter().position(|other| *other == id)
    };
    let gmask = index("gmask_token_id", 59);
    let to_the_end = gmask.is_some() && !name.ends_with("_mask");
    Blank {
        start: index("bos_token_id", 60).unwrap(),
        mask: gmask.or_else(|| index("mask_token_id", 58)).unwrap(),
        to_the_end,
    }
}

/// Tokens that all see. The cases of GLM-130B were recorded with `sop` among them.
fn visible(case: &Value, blank: Blank) -> usize {
    let given = case["context_visible"].as_u64();
    given.map_or(blank.start, |n| n as usize)
}

#[test]
fn inspection_knows_every_tensor() {
    for (name, model_type) in KINDS {
        let dir = files(name, model_type, false);
        let found = inspect(&ModelSource::Folder(dir.path().into())).unwrap();
        let problems = [found.missing, found.unexpected, found.misshapen].concat();
        assert!(problems.is_empty(), "{name}: {problems:?}");
        let shapes = golden_shapes(&golden(name)).into_iter();
        let elements = shapes.map(|(_, shape)| shape.iter().product::<usize>() as u64);
        assert_eq!(found.parameters, elements.sum::<u64>(), "{name}");
    }
}

#[test]
fn a_trained_prefix_comes_before_the_first_token() {
    for name in PREFIXES {
        let case = golden(name);
        let (prompt, expected) = (ids(&case["input_ids"]), floats(&case["logits"]));
        let v1 = name.starts_with("chatglm1");
        let blank = v1.then(|| blank_of(name, &case));
        let check = |mut model: Model, what: &str| {
            for turn in ["new", "truncated", "scrubbed"] {
                let mut sequence = model.sequence();
                if turn != "new" {
                    step(&mut model, &mut sequence, &[1, 2, 3, 4, 5, 6, 7]);
                    sequence.truncate(0);
                }
                if turn == "scrubbed" {
                    model.scrub(&mut sequence).unwrap();
                }
                sequence.set_prefix(blank.map_or(0, |b| b.start)).unwrap();
                let got = run(&mut model, &mut sequence, &prompt, blank).unwrap();
                assert_eq!(sequence.len(), prompt.len());
                assert_near(&got, &expected, 2e-4, &format!("{name}, {what}, {turn}"));
            }
            // The prefix takes slots, but none of the context.
            let mut sequence = model.sequence();
            let full: Vec<u32> = (0..64).collect();
            step(&mut model, &mut sequence, &full);
            assert_eq!((sequence.len(), sequence.max_tokens()), (64, 64));
        };
        let pages = Options {
            page_size: Some(3),
            ..options()
        };
        check(model(name, "chatglm", &pages), "its own");

        // Model and prefix in two folders, as a fine-tune leaves them.
        let [base, tuned] = [0, 1].map(|_| TempDir::new().unwrap());
        let (of_prefix, of_model) = golden_shapes(&case)
            .into_iter()
            .partition(|(name, _)| name.contains("prefix_encoder"));
        let mut config = case["config"].clone();
        write_checkpoint(tuned.path(), &of_prefix, &config, false);
        config["pre_seq_len"] = Value::Null;
        write_checkpoint(base.path(), &of_model, &config, false);
        let [checkpoint, prefix] = [&base, &tuned].map(|dir| Checkpoint::open(dir.path()).unwrap());
        let architecture = Architecture::load(base.path()).unwrap();
        let load = |architecture: &Architecture, prefix: Option<&Checkpoint>| {
            let (context, options) = (cpu(), options());
            Model::load_tuned(
                &context,
                architecture,
                &checkpoint,
                prefix,
                &options,
                |_, _| {},
            )
        };
        check(load(&architecture, Some(&prefix)).unwrap(), "another's");
        let mut plain = load(&architecture, None).unwrap();
        assert!(
            worst(&full(&mut plain, &prompt), &expected) > 1e-2,
            "{name}"
        );

        // What contradicts itself: another number of layers, of slots, no projection where one is said.
        let mut wrong = architecture.clone();
        wrong.prefix = Some(TrainedPrefix {
            tokens: 5,
            projects: !name.ends_with("projection"),
        });
        let e = load(&wrong, Some(&prefix)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        let e = load(&wrong, Some(&checkpoint)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        wrong.prefix = None;
        wrong.kv_heads = 1;
        assert!(load(&wrong, Some(&prefix)).is_err());
    }
}

#[test]
fn the_original_glm_has_its_names_in_three_forms() {
    let case = golden("glm10b_sat");
    let (prompt, expected) = (ids(&case["input_ids"]), floats(&case["logits"]));
    let blank = blank_of("glm10b_sat", &case);
    for prefix in ["glm.", ""] {
        let dir = TempDir::new().unwrap();
        let rename = |name: &str| {
            let name = name
                .replace("mixins.block_position_embedding.", "transformer.")
                .replace("transformer.word_embeddings", "word_embeddings");
            format!("{prefix}{name}")
        };
        let tensors = golden_shapes(&case)
            .into_iter()
            .map(|(name, shape)| (rename(&name), tensor(&name, &shape), shape));
        let mut config = golden_config(&case, "glm");
        // Its tables have a row more than it says; four times the width goes without saying.
        config["max_sequence_length"] = json!(63);
        config.as_object_mut().unwrap().remove("inner_hidden_size");
        write_values(dir.path(), tensors, &config);
        let mut model = load(&cpu(), dir.path(), &options()).unwrap();
        let mut sequence = model.sequence();
        sequence.set_prefix(blank.start).unwrap();
        let got = run(&mut model, &mut sequence, &prompt, Some(blank)).unwrap();
        assert_near(&got, &expected, 2e-4, &format!("`{prefix}`"));
    }
}

#[test]
fn a_whole_prompt_fits_into_one_step_by_default() {
    for (name, model_type) in [("chatglm_v1_gmask", "chatglm"), ("glm", "glm")] {
        let dir = files(name, model_type, false);
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for key in ["max_sequence_length", "max_position_embeddings"] {
            config[key] = json!(2048);
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let model = load(&cpu(), dir.path(), &Options::default()).unwrap();
        let whole = if model_type == "glm" { 512 } else { 2048 };
        assert_eq!(model.max_tokens(), whole, "{name}");
    }
}

#[test]
fn decoding_from_the_cache_equals_one_prefill() {
    for (name, model_type) in KINDS {
        let pages = Options {
            page_size: Some(3),
            ..options()
        };
        let mut model = model(name, model_type, &pages);
        // Longer than two pages, so that slots are found across their borders.
        let prompt: Vec<u32> = (0..17).map(|i| (i * 29 + 5) % 64).collect();
        let expected = full(&mut model, &prompt);
        for size in [1, 3] {
            let mut sequence = sequence(&model);
            let (whole, rest) = prompt.split_at(sequence.prefix());
            let pieces = Some(whole).filter(|whole| !whole.is_empty()).into_iter();
            let got: Vec<f32> = pieces
                .chain(rest.chunks(size))
                .flat_map(|chunk| step(&mut model, &mut sequence, chunk))
                .collect();
            assert_near(&got, &expected, 1e-4, &format!("{name}, chunks of {size}"));
            // Rewound, it computes the same again.
            sequence.truncate(7);
            let again = step(&mut model, &mut sequence, &prompt[7..]);
            assert_near(
                &again,
                &expected[7 * 64..],
                1e-4,
                &format!("{name}, rewound"),
            );
        }
    }
}

#[test]
fn a_sequence_does_not_notice_its_neighbours() {
    for (name, model_type) in KINDS {
        let mut model = model(name, model_type, &options());
        let (a, b): (Vec<u32>, Vec<u32>) = ((1..12).collect(), (20..29).collect());
        // Two prompts, then a token of one beside several of the other.
        let steps = [(&a[..10], &b[..6]), (&a[10..], &b[6..])];
        // Prefixes of two lengths, with their masks at two places.
        let rule = model.architecture().blank;
        let blanks = [4, 3].map(|start| {
            made_up_blank(&model).map(|blank| Blank {
                start,
                mask: start - 2,
                ..blank
            })
        });
        let new = |model: &Model, blank: Option<Blank>| {
            let mut sequence = model.sequence();
            sequence
                .set_prefix(blank.map_or(0, |blank| blank.start))
                .unwrap();
            sequence
        };
        let alone = |model: &mut Model, blank, pieces: [&[u32]; 2]| {
            let mut sequence = new(model, blank);
            pieces
                .map(|ids| run(model, &mut sequence, ids, blank).unwrap())
                .concat()
        };
        let expected = [
            alone(&mut model, blanks[0], steps.map(|(a, _)| a)),
            alone(&mut model, blanks[1], steps.map(|(_, b)| b)),
        ];
        let [mut s, mut t] = blanks.map(|blank| new(&model, blank));
        let mut got = [Vec::new(), Vec::new()];
        for (a, b) in steps {
            let positions_of = |s: &Sequence, blank, ids: &[u32]| {
                positions(rule, blank, s.len()..s.len() + ids.len())
            };
            let of_s = positions_of(&s, blanks[0], a);
            let of_t = positions_of(&t, blanks[1], b);
            let chunk = |sequence, ids, positions| Chunk {
                sequence,
                ids,
                positions: Some(positions),
            };
            let mut chunks = [chunk(&mut s, a, &of_s[..]), chunk(&mut t, b, &of_t[..])];
            model.forward(&mut chunks, Rows::All).unwrap();
            let logits = model.read_logits().unwrap();
            let (of_a, of_b) = logits.split_at(a.len() * 64);
            got[0].extend_from_slice(of_a);
            got[1].extend_from_slice(of_b);
        }
        for (got, expected) in got.iter().zip(&expected) {
            // A product may sum in another order when it has more rows; a leak would be no rounding.
            assert_near(got, expected, 5e-5, name);
        }
    }
}

#[test]
fn logits_come_for_the_rows_that_are_asked_for() {
    let mut model = model("glm", "glm", &options());
    let prompt: Vec<u32> = (3..11).collect();
    let all = full(&mut model, &prompt);
    let row = |r: usize| &all[r * 64..(r + 1) * 64];
    let cases: [(Rows<'_>, &[usize]); 5] = [
        (Rows::None, &[]),
        (Rows::Last, &[7]),
        (Rows::Given(&[2, 3, 4]), &[2, 3, 4]),
        (Rows::Given(&[6, 1]), &[6, 1]),
        (Rows::Given(&[]), &[]),
    ];
    for (rows, expected) in cases {
        let mut sequence = model.sequence();
        let chunk = Chunk {
            sequence: &mut sequence,
            ids: &prompt,
            positions: None,
        };
        model.forward(&mut [chunk], rows).unwrap();
        let expected: Vec<f32> = expected.iter().flat_map(|&r| row(r)).copied().collect();
        assert_eq!(model.read_logits().unwrap(), expected, "{rows:?}");
    }
}

#[test]
fn sixteen_bit_activations_stay_within_their_rounding() {
    for dtype in [DType::F16, DType::BF16] {
        for (name, model_type) in KINDS {
            if (dtype, name) == (DType::F16, "glm4") {
                continue;
            }
            let sixteen = Options {
                dtype: Some(dtype),
                ..options()
            };
            let prompt = ids(&golden(name)["input_ids"]);
            let expected = full(&mut model(name, model_type, &options()), &prompt);
            let got = full(&mut model(name, model_type, &sixteen), &prompt);
            // The reference device rounds once per operation: what 16-bit storage costs at least. A
            // good kernel rounds elsewhere too, so its errors are other ones, but not of another
            // size.
            let dir = files(name, model_type, false);
            let mut ideal = load(&reference(), dir.path(), &sixteen).unwrap();
            let least = worst(&full(&mut ideal, &prompt), &expected);
            assert_near(&got, &expected, 2.0 * least, &format!("{name} in {dtype}"));
            assert!(worst(&got, &expected) > 1e-6, "{dtype} was not used");
        }
    }
}

/// Writes the case with the layers' matrices replaced by what `format` stands for.
fn write_dequantised(dir: &Path, case: &Value, config: &Value, format: WeightFormat) {
    let architecture = Architecture::from_config(config).unwrap();
    let matrices: Vec<String> = (0..architecture.layers)
        .flat_map(|i| architecture.matrices(i))
        .map(|(key, _)| key + ".weight")
        .collect();
    let tensors = golden_shapes(case).into_iter().map(|(name, shape)| {
        let mut values = tensor(&name, &shape);
        if matrices.contains(&name) {
            let dense = WeightFormat::Dense(DType::F32);
            let (rows, cols) = (shape[0], shape[1]);
            let weight =
                HostWeight::new(dense, rows, cols, crate::common::le_bytes(&values), vec![]);
            let weight = weight.unwrap();
            let back = weight.convert(format).unwrap().dequantise();
            values = back.data.iter().map(|&x| x as f32).collect();
        }
        (name, values, shape)
    });
    write_values(dir, tensors, config);
}

/// Writes one file of these tensors (name, values, shape) and `config.json`.
fn write_values(
    dir: &Path,
    tensors: impl Iterator<Item = (String, Vec<f32>, Vec<usize>)>,
    config: &Value,
) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<_> = tensors
        .map(|(name, values, shape)| (name, shape, crate::common::le_bytes(&values)))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

#[test]
fn quantised_weights_compute_what_they_stand_for() {
    for format in [WeightFormat::Int8Row, WeightFormat::Int4Row] {
        for (name, model_type) in KINDS {
            let (case, dir) = (golden(name), TempDir::new().unwrap());
            let config = golden_config(&case, model_type);
            write_dequantised(dir.path(), &case, &config, format);
            let prompt = ids(&case["input_ids"]);
            let mut expected = load(&cpu(), dir.path(), &options()).unwrap();
            let expected = full(&mut expected, &prompt);
            let quantised = Options {
                weights: Some(format),
                ..options()
            };
            let got = full(&mut model(name, model_type, &quantised), &prompt);
            assert_near(&got, &expected, 1e-3, &format!("{name} in {format}"));
            // The weights really are others than those of the file.
            let dense = full(&mut model(name, model_type, &options()), &prompt);
            assert!(worst(&got, &dense) > 1e-3, "{format}");
        }
    }
}

#[test]
fn refuses_what_would_go_wrong() {
    let context = cpu();
    let refused = |case: &str, model_type: &str, options: Options| {
        let dir = files(case, model_type, false);
        load(&context, dir.path(), &options).unwrap_err()
    };
    let with = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        options
    };
    let e = refused("glm4", "glm4", with(|o| o.dtype = Some(DType::F16)));
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.next().unwrap().contains("bf16 or f32"));
    let e = refused("glm", "glm", with(|o| o.dtype = Some(DType::I8)));
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    let e = refused("glm", "glm", with(|o| o.context = Some(65)));
    assert!(e.to_string().contains("it was made for 64"), "{e}");
    let e = refused("glm", "glm", with(|o| o.page_size = Some(0)));
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    let group = |o: &mut Options| o.weights = Some(WeightFormat::Int4Group(32));
    let e = refused("glm", "glm", with(group));
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(
        e.to_string().contains("layers.0.mlp.down_proj.weight"),
        "{e}"
    );

    let (case, dir) = (golden("glm"), TempDir::new().unwrap());
    let config = golden_config(&case, "glm");
    for (name, change, kind) in [
        ("model.norm.weight", None, ErrorKind::NotFound),
        (
            "model.layers.1.self_attn.q_proj.bias",
            Some(vec![31]),
            ErrorKind::Corrupt,
        ),
        ("lm_head.weight", Some(vec![63, 32]), ErrorKind::Corrupt),
        (
            "model.layers.0.mlp.gate_up_proj.weight",
            Some(vec![48, 32]),
            ErrorKind::Corrupt,
        ),
    ] {
        let mut shapes = golden_shapes(&case);
        let at = shapes.iter().position(|(n, _)| n == name).unwrap();
        match change {
            Some(shape) => shapes[at].1 = shape,
            None => drop(shapes.remove(at)),
        }
        write_checkpoint(dir.path(), &shapes, &config, false);
        let e = load(&context, dir.path(), &options()).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(name) && e.next().is_some(), "{e}");
    }
}

#[test]
fn refuses_batches_beyond_its_limits() {
    let limits = Options {
        max_tokens: Some(8),
        max_logits: 4,
        max_sequences: 1,
        page_size: Some(16),
        cache_tokens: Some(16),
        ..options()
    };
    let (mut model, other) = (model("glm", "glm", &limits), model("glm", "glm", &limits));
    let (mut foreign, mut sequence) = (other.sequence(), model.sequence());
    let mut run = |sequence: &mut Sequence, ids: &[u32], rows: Rows<'_>| {
        let chunk = Chunk {
            sequence,
            ids,
            positions: None,
        };
        model.forward(&mut [chunk], rows).map_err(|e| e.kind())
    };
    let invalid = Err(ErrorKind::InvalidArgument);
    assert_eq!(run(&mut foreign, &[1], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[64], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[1; 9], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[1; 5], Rows::All), invalid);
    assert_eq!(run(&mut sequence, &[1; 5], Rows::Given(&[5])), invalid);
    assert_eq!(sequence.len(), 0);
    assert_eq!(run(&mut sequence, &[1; 8], Rows::Last), Ok(()));
    assert_eq!(run(&mut sequence, &[1; 8], Rows::None), Ok(()));
    let full = Err(ErrorKind::OutOfMemory);
    assert_eq!(run(&mut sequence, &[1], Rows::Last), full);
    assert_eq!(sequence.len(), 16);
}

#[test]
fn asks_for_memory_before_loading_and_never_after() {
    for (name, model_type) in KINDS {
        let dir = files(name, model_type, false);
        let (context, device) = watched(usize::MAX);
        let mut model = load(&context, dir.path(), &options()).unwrap();
        let needed = model.footprint().total();
        let loaded = device.allocations();
        let mut sequence = sequence(&model);
        step(&mut model, &mut sequence, &[1, 2, 3, 4, 5]);
        for id in 0..40 {
            step(&mut model, &mut sequence, &[id]);
        }
        let after = device.allocations();
        assert_eq!(after, loaded, "{name}");

        let (context, _) = watched(needed);
        load(&context, dir.path(), &options()).unwrap();
        let (context, device) = watched(needed - 1);
        let e = load(&context, dir.path(), &options()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{name}");
        assert!(e.to_string().contains("MiB are needed"), "{e}");
        assert!(e.next().unwrap().contains("int4"));
        assert_eq!(device.allocations(), 0, "{name}");
    }
}

#[test]
fn progress_ends_at_the_announced_total() {
    for (name, model_type) in [CASES[0], CASES[3], FIRST[2], FIRST[3]] {
        let dir = files(name, model_type, false);
        let architecture = Architecture::load(dir.path()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let mut heard = Vec::new();
        let progress = |done, total| heard.push((done, total));
        let model = Model::load(&cpu(), &architecture, &checkpoint, &options(), progress).unwrap();
        let total = model.footprint().weights;
        // A tied table is stored once.
        assert_eq!(total as u64, checkpoint.total_bytes(), "{name}");
        assert!(heard.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == total));
        assert_eq!(heard.last(), Some(&(total, total)));
    }
}
