//! `glm plan`: what it says of memory, operations and types is what loading the model does.

use std::process::{Command, Output};

use crate::common::{golden, golden_config, golden_shapes, write_checkpoint};
use glm::backends;
use glm::checkpoint::Checkpoint;
use glm::model::{Model, Options};
use glm::shapes;
use hal::WeightFormat;
use ops::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

fn glm(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    // The tester's own language may be another.
    command.env("GLM_LANG", "en");
    command.args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The document of `glm plan`, and the exit code.
fn plan(args: &[&str]) -> (Value, i32) {
    let output = glm(&[&["plan", "--json"], args].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    let document: Value = serde_json::from_slice(&output.stdout).expect(&error);
    assert_eq!(document["schema"], "glm/plan/1");
    (document, output.status.code().unwrap())
}

#[test]
fn memory_is_what_loading_counts() {
    for (sequences, length) in [(1, 4096), (3, 100)] {
        let (batch, length_text) = (sequences.to_string(), length.to_string());
        let args = ["--shape", "tiny", "-b", &batch, "-c", &length_text];
        let (document, code) = plan(&args);
        assert_eq!((code, &document["runs"]), (0, &json!(true)));
        let a = shapes::architecture("tiny", None).unwrap();
        let dense = WeightFormat::Dense(a.dtype);
        let checkpoint = Checkpoint::random(&a, dense, dense, 1).unwrap();
        let cpu = backends::open("cpu", &backends::Options::default()).unwrap();
        let options = Options {
            context: Some(length),
            max_sequences: sequences,
            max_logits: sequences,
            ..Options::default()
        };
        let model = Model::load(&Context::new(cpu), &a, &checkpoint, &options, |_, _| {}).unwrap();
        let footprint = model.footprint();
        for (name, bytes) in [
            ("weights_bytes", footprint.weights),
            ("cache_bytes", footprint.cache),
            ("buffers_bytes", footprint.buffers),
            ("needed_bytes", footprint.total()),
        ] {
            assert_eq!(document[name], bytes, "{name}");
        }
        assert_eq!(document["context"], length);
    }
}

#[test]
fn published_shapes_are_planned_without_their_files() {
    let (document, _) = plan(&["--shape", "chatglm-6b", "--dtype", "int4", "-c", "2048"]);
    // 6.2 billion parameters: 0.53 billion in a table of 16 bits and the rest in 4.
    let weights = document["weights_bytes"].as_f64().unwrap() / f64::from(1 << 30);
    assert!((3.5..5.0).contains(&weights), "{weights}");
    assert_eq!(document["weights"], json!(["int4"]));
    let operations = document["operations"].as_array().unwrap();
    assert!(operations.iter().all(|op| op["how"] == "native"));
    for name in ["embedding", "matmul", "attention", "layer_norm", "sample"] {
        assert!(operations.iter().any(|op| op["op"] == name), "{name}");
    }
}

#[test]
fn the_model_inside_fits_and_text_says_so() {
    let output = glm(&["plan"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    for words in ["embedded", "FITS", "native, 0 composed, 0 missing"] {
        assert!(text.contains(words), "{text}");
    }
}

/// The same figures in both languages, and no English word but those that name something.
#[test]
fn text_is_chinese_where_that_is_asked_for() {
    let output = glm(&["plan", "--shape", "tiny", "--lang", "zh"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    for words in ["模型     tiny", "类型     激活", "放得下", "组合 0，缺少 0"] {
        assert!(text.contains(words), "{text}");
    }
    for words in ["weights", "memory", "types", "ops ", "native", "FITS"] {
        assert!(!text.contains(words), "{words}: {text}");
    }
    let en = glm(&["plan", "--shape", "tiny", "--lang", "en"]);
    let bytes = |text: &str| {
        let line = text.lines().nth(2).unwrap_or_default();
        let figures = line.chars().filter(|c| c.is_ascii_digit() || *c == '.');
        figures.collect::<String>()
    };
    assert_eq!(bytes(text), bytes(stdout(&en)));
}

#[cfg(feature = "emulator")]
#[test]
fn what_does_not_fit_exits_with_5_and_says_what_would() {
    let args = ["--shape", "glm-edge-1.5b", "--device", "emulator:mem2g"];
    let (document, code) = plan(&args);
    assert_eq!((code, &document["fits"]), (5, &json!(false)));
    assert_eq!(document["memory_total_bytes"], 2_u64 << 30);
    let instead = document["instead"].as_array().unwrap();
    assert!(!instead.is_empty());
    for proposal in instead {
        // What is proposed does fit.
        let flags: Vec<&str> = proposal["flags"].as_str().unwrap().split(' ').collect();
        let (proposed, code) = plan(&[&args[..], &flags].concat());
        assert_eq!((code, &proposed["fits"]), (0, &json!(true)), "{flags:?}");
        assert_eq!(proposed["needed_bytes"], proposal["needed_bytes"]);
    }
    let none = ["--shape", "glm-130b", "--device", "emulator:mem1m"];
    let zh = glm(&[&["plan", "--lang", "zh"], &none[..]].concat());
    assert!(stdout(&zh).contains("放不下") && stdout(&zh).contains("换一个设备"));
    let output = glm(&[&["plan"], &none[..]].concat());
    assert_eq!(output.status.code(), Some(5));
    let text = stdout(&output);
    assert!(
        text.contains("DOES NOT FIT") && text.contains("another device"),
        "{text}"
    );
}

#[cfg(feature = "emulator")]
#[test]
fn operations_that_a_device_lacks_exit_with_3() {
    let args = ["--shape", "tiny", "--device", "emulator:nobf16", "--dtype"];
    let (document, code) = plan(&[&args[..], &["bf16"]].concat());
    assert_eq!((code, &document["runs"]), (3, &json!(false)));
    let operations = document["operations"].as_array().unwrap();
    let missing = operations.iter().filter(|op| op["how"] == "missing");
    assert!(missing.clone().count() > 3);
    // It is how loading ends.
    let output = glm(&[
        "chat",
        "-p",
        "1",
        "--device",
        "emulator:nobf16",
        "--dtype",
        "bf16",
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(plan(&[&args[..], &["f16"]].concat()).1, 0);
}

#[test]
fn types_that_a_model_overflows_are_refused_with_the_alternative() {
    let (dir, case) = (TempDir::new().unwrap(), golden("glm4"));
    let config = golden_config(&case, "glm4");
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, false);
    let path = dir.path().to_str().unwrap();
    let (document, code) = plan(&[path]);
    assert_eq!(code, 0);
    assert!(
        document["types"]["f16"]["refused"]
            .as_str()
            .unwrap()
            .contains("overflow")
    );
    assert_eq!(document["types"]["bf16"]["refused"], Value::Null);
    let (document, code) = plan(&[path, "--dtype", "f16"]);
    assert_eq!((code, &document["runs"]), (4, &json!(false)));
    assert_eq!(document["refused"]["next"], "choose bf16 or f32");
    // Running it is refused in the same words.
    let output = glm(&["logits", path, "--ids", "1", "--dtype", "f16"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        error.contains(document["refused"]["why"].as_str().unwrap()),
        "{error}"
    );
    assert!(error.contains("next: choose bf16 or f32"), "{error}");
}

#[test]
fn bad_input_exits_as_other_commands_do() {
    for (args, code, word) in [
        (&["plan", "--shape", "glm-5"][..], 2, "glm-4-9b"),
        (&["plan", "/no/such/model"], 4, "/no/such/model"),
        (&["plan", "--device", "toaster"], 3, "toaster"),
        (&["plan", "--shape", "tiny", "-c", "999999"], 4, "999999"),
        (&["plan", "--shape", "tiny", "-b", "0"], 2, "0"),
    ] {
        let output = glm(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(word), "{args:?}: {error}");
        assert_eq!(stdout(&output), "");
    }
}
