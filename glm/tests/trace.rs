//! Traces: what is recorded, how two are compared, and single launches run again.
#![cfg(feature = "emulator")]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use glm::backends;
use glm::engine::{Engine, GenerationParams};
use glm::model::{Model, Options};
use glm::trace::compare::compare;
use glm::trace::timeline::Timeline;
use glm::trace::{Recorder, Role, Trace};
use hal::{DType, ErrorKind};
use ops::Context;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: f64 = 0.25;

/// What the model inside the program computes in f32 on `device` for three tokens.
fn trace(device: &str, tensors: &[&str]) -> Trace {
    let places: Vec<String> = tensors.iter().map(|p| p.to_string()).collect();
    let recorder = Arc::new(Recorder::new(&places));
    let context = context(device).with_observer(recorder.clone());
    let ids = generate(&context, || recorder.begin());
    recorder.finish(context.device().info(), "glm", ids)
}

fn context(device: &str) -> Context {
    Context::new(backends::open(device, &backends::Options::default()).unwrap())
}

fn generate(context: &Context, loaded: impl FnOnce()) -> Vec<u32> {
    let source = glm::demo::folder_files();
    let tokenizer = source.tokenizer().unwrap();
    let ids = tokenizer.encode("12 + 30 = ").unwrap();
    let options = Options {
        dtype: Some(DType::F32),
        context: Some(64),
        ..Options::default()
    };
    let architecture = source.architecture().unwrap();
    let checkpoint = source.checkpoint().unwrap();
    let model = Model::load(context, &architecture, &checkpoint, &options, |_, _| {}).unwrap();
    let engine = Engine::new(context, model, tokenizer).unwrap();
    loaded();
    let params = GenerationParams {
        max_new_tokens: 3,
        ..GenerationParams::default()
    };
    let mut session = engine.session().unwrap();
    // NaN ends it: what was recorded until then is what counts.
    let _ = session.generate(&ids, &params, |_| ControlFlow::Continue(()));
    ids
}

#[test]
fn every_launch_is_recorded_under_the_name_of_its_weight() {
    let trace = trace("cpu", &[]);
    let steps = trace.calls.last().unwrap().step + 1;
    assert_eq!(steps, 3);
    let of_step = |step| trace.calls.iter().filter(move |call| call.step == step);
    let names = |step| {
        of_step(step)
            .map(|c| (&*c.op, &*c.place))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(0), names(1));
    assert_eq!(names(0).len() * 3, trace.calls.len());
    let layer: Vec<(&str, &str)> = names(0)
        .into_iter()
        .filter(|(_, place)| place.starts_with("model.layers.1"))
        .collect();
    let at = |name: &'static str| format!("model.layers.1.{name}");
    let slash = |op: &'static str| format!("model.layers.1/{op}");
    let expected = [
        ("add_rms_norm", at("input_layernorm")),
        ("matmul", at("self_attn.{q_proj,k_proj,v_proj}")),
        ("rope_kv_write", slash("rope_kv_write")),
        ("attention", slash("attention")),
        ("matmul", at("self_attn.o_proj")),
        ("add_rms_norm", at("post_attention_layernorm")),
        ("matmul", at("mlp.gate_up_proj")),
        ("glu", slash("glu")),
        ("matmul", at("mlp.down_proj")),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(op, p)| (*op, p.as_str())).collect();
    assert_eq!(layer, expected);
    for call in &trace.calls {
        for arg in &call.args {
            assert_eq!(arg.after.is_some(), arg.role.is_written(), "{call:?}");
            let read = matches!(arg.role, Role::In | Role::InOut);
            assert_eq!(arg.before.is_some(), read, "{call:?}");
        }
    }
    assert!((0..trace.calls.len()).all(|i| !trace.is_replayable(i)));
}

/// The model inside, as a folder, with an infinity in the matrix `name`, stored in bf16.
fn with_an_infinity(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    for file in std::fs::read_dir(model).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    assert_eq!(tensors[name]["dtype"], "BF16");
    let at = 8 + header + tensors[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 2].copy_from_slice(&0x7f80_u16.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
    dir
}

#[test]
fn the_operation_that_wrote_the_first_nan_is_named() {
    let dir = with_an_infinity("model.layers.1.self_attn.o_proj.weight");
    let (model, path) = (dir.path().to_str().unwrap(), dir.path().join("x.trc"));
    let path = path.to_str().unwrap();
    let ids = ["--ids", "5,6,7", "--dtype", "f32"];
    let args = [&["trace", model, "-o", path][..], &ids].concat();
    let output = glm(&args);
    assert_eq!(output.status.code(), Some(6));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("written by model.layers.1.self_attn.o_proj (matmul)"),
        "{text}"
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("`glm trace` with the same prompt"),
        "{error}"
    );
    // A run of numbers names nothing.
    let output = glm(&[&["trace", "-o", path, "--json"][..], &ids].concat());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["first_not_finite"], Value::Null);
}

#[test]
fn a_trace_is_a_safetensors_file_and_comes_back_as_it_was() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.trc");
    let recorded = trace("cpu", &["layers.0"]);
    recorded.write(&path).unwrap();
    let read = Trace::read(&path).unwrap();
    assert_eq!((&read.run, &read.calls), (&recorded.run, &recorded.calls));
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(!file.is_empty());
    let mut kept = 0;
    for (i, call) in recorded.calls.iter().enumerate() {
        assert_eq!(
            read.is_replayable(i),
            call.place.starts_with("model.layers.0")
        );
        kept += usize::from(read.is_replayable(i));
        for arg in &call.args {
            assert_eq!(read.input(i, &arg.name), recorded.input(i, &arg.name));
            assert_eq!(read.output(i, &arg.name), recorded.output(i, &arg.name));
            let weights = [&read, &recorded].map(|t| t.weight(i, arg).unwrap());
            let [a, b] = weights.map(|w| w.map(|w| w.dequantise()));
            assert_eq!(a, b);
        }
    }
    assert_eq!(kept, 3 * 9);
    // Statistics of a whole run are small.
    trace("cpu", &[]).write(&path).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 500_000);
}

#[test]
fn devices_that_compute_right_agree() {
    let cpu = trace("cpu", &[]);
    for device in ["emulator", "emulator:wave64", "emulator:ftz,async"] {
        let comparison = compare(&cpu, &trace(device, &[]), LIMIT).unwrap();
        assert!(comparison.agrees(), "{device}: {:?}", comparison.first());
        assert_eq!(comparison.pairs.len(), cpu.calls.len());
        let worst = comparison
            .pairs
            .iter()
            .map(|p| p.outputs)
            .fold(0.0, f64::max);
        assert!(worst > 0.0 && worst < 1e-4, "{device}: {worst}");
    }
}

#[test]
fn the_first_launch_that_is_wrong_is_found() {
    let cpu = trace("cpu", &[]);
    let mut missed = Vec::new();
    for mutant in [
        "rms_norm/sum-without-the-last-element",
        "add_rms_norm/weight-forgotten",
        "rope_kv_write/pairs-of-the-other-layout",
        "rope_kv_write/positions-off-by-one",
        "attention/pages-in-order",
        "attention/causal-mask-sees-the-next-slot",
        "attention/scores-through-f16",
        "rope_kv_write/keys-and-values-swapped",
        "glu/halves-swapped",
        "glu/gelu-by-tanh-instead-of-erf",
        "matmul/weight-transposed",
        "matmul/operands-in-bf16",
        "matmul/sums-in-f16",
    ] {
        let broken = trace(&format!("emulator:mutant={mutant}"), &[]);
        let comparison = compare(&cpu, &broken, LIMIT).unwrap();
        let found = comparison
            .divergence
            .map(|at| comparison.pairs[at].op.clone());
        let expected = mutant.split_once('/').map(|(op, _)| op);
        if found.as_deref() != expected {
            missed.push((mutant, found));
        }
    }
    // One page is in order anyway, and GELU is not this model's.
    let meets_not = [
        ("attention/pages-in-order", None::<String>),
        ("glu/gelu-by-tanh-instead-of-erf", None),
    ];
    assert_eq!(missed, meets_not);
}

#[test]
fn traces_of_different_runs_are_not_compared() {
    let (a, b) = (trace("cpu", &[]), trace("cpu", &[]));
    let fails = |b: &Trace| compare(&a, b, LIMIT).unwrap_err().kind();
    let mut other = trace("cpu", &[]);
    other.run.ids.push(1);
    assert_eq!(fails(&other), ErrorKind::InvalidArgument);
    let mut other = trace("cpu", &[]);
    other.run.model = "chatglm".into();
    assert_eq!(fails(&other), ErrorKind::InvalidArgument);
    let mut other = b;
    other.calls.pop();
    assert_eq!(fails(&other), ErrorKind::InvalidArgument);
    other.calls[3].op = "softmax".into();
    assert_eq!(fails(&other), ErrorKind::InvalidArgument);
}

#[test]
fn other_tokens_end_the_comparison() {
    let (a, mut b) = (trace("cpu", &[]), trace("cpu", &[]));
    let second = b.calls.iter().position(|call| call.step == 1).unwrap();
    let ids = b.calls[second]
        .args
        .iter_mut()
        .find(|arg| arg.name == "ids");
    ids.unwrap().before.as_mut().unwrap().checksum = "another".into();
    let comparison = compare(&a, &b, LIMIT).unwrap();
    assert_eq!(comparison.other_tokens, Some(1));
    assert_eq!(comparison.pairs.len(), second);
}

#[test]
fn small_errors_that_grow_are_drift() {
    let (a, mut b) = (trace("cpu", &[]), trace("cpu", &[]));
    // Each launch a little further off than the one before, by less than a launch may add.
    let first_step = b.calls.iter_mut().filter(|call| call.step == 0);
    for (i, call) in first_step.enumerate() {
        let error = |i: usize| (1e-6 * 1.5f64.powi(i as i32)).min(0.5);
        for arg in call.args.iter_mut().filter(|arg| arg.dtype.is_float()) {
            for (stats, error) in [(&mut arg.before, error(i)), (&mut arg.after, error(i + 1))] {
                if let Some(stats) = stats {
                    stats.checksum = "another".into();
                    stats.sketch.iter_mut().for_each(|x| *x *= 1.0 + error);
                }
            }
        }
    }
    let comparison = compare(&a, &b, LIMIT).unwrap();
    assert_eq!(comparison.divergence, None, "{:?}", comparison.first());
    assert!(comparison.drift.is_some());
}

/// Where `words` begin, from byte `from` on.
fn find(bytes: &[u8], from: usize, words: &[u8]) -> usize {
    let mut windows = bytes[from..].windows(words.len());
    from + windows.position(|window| window == words).unwrap()
}

#[test]
fn what_is_no_trace_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.trc");
    trace("cpu", &["layers.0/glu"]).write(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Trace::read(&path)
    };
    let kind = |bytes: &[u8]| read(bytes).unwrap_err().kind();
    for end in [0, 4, 8, 100, good.len() / 2, good.len() - 1] {
        assert_eq!(kind(&good[..end]), ErrorKind::Corrupt, "{end} bytes");
    }
    let at = find(&good, 0, b"glm/trace/1");
    let mut newer = good.clone();
    newer[at + "glm/trace/".len()] = b'9';
    assert_eq!(kind(&newer), ErrorKind::Unsupported);
    assert_eq!(
        Trace::read(&dir.path().join("none")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    // Any byte of the header changed: an error, or a trace that can be looked at; never a panic.
    for at in (0..good.len().min(6000)).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x15;
        let Ok(trace) = read(&bytes) else { continue };
        for (i, call) in trace.calls.iter().enumerate() {
            trace.is_replayable(i);
            for arg in &call.args {
                let _ = trace.weight(i, arg);
            }
        }
        let _ = compare(&trace, &trace, LIMIT);
    }
}

#[test]
fn a_timeline_has_every_launch_on_host_and_device() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("t.json");
    for device in ["cpu", "emulator:async"] {
        let timeline = Arc::new(Timeline::default());
        let context = context(device).with_observer(timeline.clone());
        generate(&context, || {});
        timeline.write(&path, context.device().info()).unwrap();
        let events: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = events.as_array().unwrap();
        assert_eq!(events.len(), 2 + 2 * timeline.len(), "{device}");
        let mut last = [0.0; 2];
        for event in events.iter().filter(|e| e["ph"] == "X") {
            let tid = event["tid"].as_u64().unwrap() as usize;
            let (start, length) = (
                event["ts"].as_f64().unwrap(),
                event["dur"].as_f64().unwrap(),
            );
            assert!(
                length >= 0.0 && start + 1.0 >= last[tid - 1],
                "{device}: {event}"
            );
            last[tid - 1] = start;
        }
    }
}

fn glm(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

/// Runs `glm`, expects this exit code, and gives stdout.
#[track_caller]
fn glm_ends(code: i32, args: &[&str]) -> String {
    let output = glm(args);
    let error = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{error}");
    out
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn from_two_traces_to_the_operation_that_is_wrong() {
    let dir = TempDir::new().unwrap();
    let [reference, broken, timeline] =
        ["ref.trc", "dcu.trc", "t.json"].map(|name| dir.path().join(name));
    let (a, b) = (path(&reference), path(&broken));
    let question = ["trace", "-p", "What is 12 plus 30?", "--dtype", "f32"];
    let with = |more: &[&'static str]| [&question[..], more].concat();
    let on = |device: &'static str, file: &Path, more: &[&'static str]| {
        let mut args = with(more);
        args.extend(["--device", device, "-o"]);
        glm_ends(0, &[&args[..], &[path(file)]].concat())
    };
    let device = "emulator:mutant=glu/halves-swapped";
    assert!(on("cpu", &reference, &["--tensors", "layers.0"]).contains("launches"));
    on(device, &broken, &[]);
    let out = glm_ends(1, &["compare", a, b]);
    for words in [
        "first divergence  model.layers.0/glu",
        "(glu, launch",
        "--isolate",
    ] {
        assert!(out.contains(words), "{out}");
    }
    // Fed with the reference's inputs, only that operation is wrong.
    let out = glm_ends(1, &["compare", a, b, "--isolate"]);
    let wrong: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert!(wrong.len() == 1 && wrong[0].contains("glu"), "{out}");
    assert!(out.contains("8 of 9 launches are right"), "{out}");
    let out = glm_ends(
        1,
        &["replay", a, "--device", device, "--ops", "glu", "--json"],
    );
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&0.into(), &1.into()));
    assert_eq!(json["launches"][0]["place"], "model.layers.0/glu");
    // The same launches are right where the kernels are.
    for device in ["cpu", "emulator:wave64"] {
        let out = glm_ends(0, &["replay", a, "--device", device]);
        assert!(out.contains("9 of 9 launches are right"), "{out}");
    }
    let out = glm_ends(0, &["compare", a, a]);
    assert!(out.contains("launches agree"), "{out}");
    let json: Value = serde_json::from_str(&glm_ends(1, &["compare", a, b, "--json"])).unwrap();
    assert_eq!(json["agree"], false);
    glm_ends(
        0,
        &with(&["-n", "2", "--timeline"])
            .into_iter()
            .chain([path(&timeline)])
            .collect::<Vec<_>>(),
    );
    assert!(
        std::fs::read_to_string(&timeline)
            .unwrap()
            .starts_with("[{")
    );
}

#[test]
fn errors_of_traces_say_what_to_do() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.trc");
    let x = path(&file);
    let fails = |code: i32, args: &[&str], words: &[&str]| {
        let output = glm(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        for word in words {
            assert!(
                error.contains(word),
                "{args:?} does not name {word}: {error}"
            );
        }
    };
    fails(2, &["trace", "-p", "x"], &["--output"]);
    fails(2, &["trace", "-o", x], &["--prompt"]);
    fails(4, &["compare", x, x], &["next: "]);
    fails(
        4,
        &["trace", "--ids", "1,2", "-o", "/nowhere/x.trc"],
        &["/nowhere", "next: "],
    );
    glm_ends(0, &["trace", "--ids", "1,2,3", "-o", x]);
    fails(7, &["replay", x], &["--tensors", "next: "]);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    fails(4, &["replay", x], &["x.trc", "next: "]);
    std::fs::write(&file, "{}").unwrap();
    fails(4, &["compare", x, x], &["next: "]);
    fails(2, &["compare", x, x, "--isolate"], &["next: "]);
}

#[test]
fn a_changed_specification_ends_in_an_error() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.trc");
    let text = [
        "trace",
        "--ids",
        "1,2,3",
        "--tensors",
        "layers.0/glu",
        "--dtype",
        "f32",
        "-o",
    ];
    glm_ends(0, &[&text[..], &[path(&file)]].concat());
    let bytes = std::fs::read(&file).unwrap();
    // The document is JSON in JSON: its quotes are escaped.
    let glu = find(&bytes, 0, br#"\"op\":\"glu\""#);
    let dim = br#"\"dim\":"#;
    let at = find(&bytes, glu, dim) + dim.len();
    for digit in [b'0', b'9'] {
        let mut changed = bytes.clone();
        let digits = changed[at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        assert!(digits > 0);
        changed[at..at + digits].fill(b' ');
        changed[at] = digit;
        std::fs::write(&file, &changed).unwrap();
        let output = glm(&["replay", path(&file), "--ops", "glu"]);
        let error = String::from_utf8_lossy(&output.stderr);
        let out = String::from_utf8_lossy(&output.stdout);
        let code = output.status.code();
        assert!(code == Some(4) || code == Some(1), "{code:?} {error}{out}");
    }
}
