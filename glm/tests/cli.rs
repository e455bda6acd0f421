//! The tool as its users meet it: output, errors, exit codes.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{golden, golden_config, golden_shapes, torch, write_checkpoint};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs `glm` without any setting of the tester's own environment.
fn glm(args: &[&str]) -> Output {
    glm_with(args, &[], "")
}

fn glm_with(args: &[&str], env: &[(&str, &str)], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(args)
        .envs(env.iter().copied())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The child may exit before it reads everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs `glm`, expects an exit code, an empty stdout, and an error that names all of `words` and a next step.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = glm(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert_eq!(stdout(&output), "", "{args:?}");
    assert!(text.contains("error: "), "{text}");
    assert!(
        code == 2 || text.contains("next: "),
        "{args:?} gives no next step: {text}"
    );
    for word in words {
        assert!(text.contains(word), "{args:?} does not name {word}: {text}");
    }
}

fn checkpoint(case: &str, model_type: &str) -> TempDir {
    let (dir, case) = (TempDir::new().unwrap(), golden(case));
    let config = golden_config(&case, model_type);
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, false);
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn logits_equal_those_of_the_official_code() {
    // With the number of tokens that all see, for models that fill blanks.
    let cases = [
        ("chatglm3", "chatglm", None),
        ("glm", "glm", None),
        ("glm4", "glm4", None),
        ("codegeex", "codegeex", None),
        ("glm130b_mask", "glm130b", Some("7")),
        ("glm10b_sat", "glm10b", Some("6")),
        ("chatglm_v1_gmask", "chatglm", Some("6")),
    ];
    for (name, model_type, visible) in cases {
        let (case, dir) = (golden(name), checkpoint(name, model_type));
        // Numbers of nested lists, one after the other.
        let list = |value: &Value| value.to_string().replace(['[', ']'], "");
        let (path, ids) = (text(dir.path()), list(&case["input_ids"]));
        let positions = list(&case["position_ids"]);
        let mut args = vec![
            "logits", path, "--ids", &ids, "--rows", "all", "--dtype", "f32", "--json",
        ];
        if let Some(visible) = visible {
            args.extend(["--positions", &positions, "--context-visible", visible]);
        }
        let output = glm(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        let document: Value = serde_json::from_str(stdout(&output)).unwrap();
        let rows = document["rows"].as_array().unwrap();
        assert_eq!(rows.len(), case["logits"].as_array().unwrap().len());
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row["row"], json!(i));
            let official = case["logits"][i].as_array().unwrap();
            let ours = row["logits"].as_array().unwrap();
            assert_eq!(ours.len(), official.len());
            for (a, b) in ours.iter().zip(official) {
                let delta = (a.as_f64().unwrap() - b.as_f64().unwrap()).abs();
                assert!(delta <= 2e-4, "{name} row {i}: {a} and {b}");
            }
        }
    }
}

#[test]
fn a_trained_prefix_comes_from_its_own_folder() {
    let case = golden("chatglm3_prefix");
    let dirs = [0, 1].map(|_| TempDir::new().unwrap());
    let (tuned, model): (Vec<_>, Vec<_>) = golden_shapes(&case)
        .into_iter()
        .partition(|(name, _)| name.contains("prefix_encoder"));
    let mut config = case["config"].clone();
    config["pre_seq_len"] = Value::Null;
    write_checkpoint(dirs[0].path(), &model, &config, false);
    write_checkpoint(dirs[1].path(), &tuned, &config, false);
    let ids = case["input_ids"].to_string().replace(['[', ']'], "");
    let [model, tuned] = dirs.each_ref().map(|dir| text(dir.path()));
    let output = glm(&[
        "logits",
        model,
        "--ids",
        &ids,
        "--ptuning",
        tuned,
        "--dtype",
        "f32",
        "--json",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    let ours = document["rows"][0]["logits"].as_array().unwrap();
    let official = case["logits"].as_array().unwrap().last().unwrap();
    for (a, b) in ours.iter().zip(official.as_array().unwrap()) {
        assert!(
            (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= 2e-4,
            "{a} and {b}"
        );
    }
    let wrong = ["logits", model, "--ids", &ids, "--ptuning", model];
    fails(&wrong, 4, &["prefix_encoder"]);
}

#[test]
fn logits_of_chosen_rows_and_positions() {
    let dir = checkpoint("glm", "glm");
    let run = |more: &[&str]| -> Value {
        let mut args = vec![
            "logits",
            text(dir.path()),
            "--ids",
            "5,9,33,7",
            "--dtype",
            "f32",
            "--json",
        ];
        args.extend(more);
        let output = glm(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(stdout(&output)).unwrap()
    };
    let all = run(&["--rows", "all"]);
    let some = run(&["--rows", "3,1"]);
    assert_eq!(some["rows"], json!([all["rows"][3], all["rows"][1]]));
    assert_eq!(run(&[])["rows"], json!([all["rows"][3]]));
    assert_eq!(run(&["--rows", "all", "--positions", "0,1,2,3"]), all);
    assert_ne!(run(&["--rows", "all", "--positions", "0,2,4,6"]), all);
}

#[test]
fn bad_input_is_named_and_exits_with_4() {
    let dir = checkpoint("glm", "glm");
    let path = text(dir.path());
    fails(
        &["logits", "/no/such/model", "--ids", "1"],
        4,
        &["/no/such/model"],
    );
    fails(&["logits", path, "--ids", "64"], 4, &["64"]);
    fails(
        &["logits", path, "--ids", "1,2", "--rows", "2"],
        4,
        &["row 2"],
    );
    fails(
        &["logits", path, "--ids", "1,2", "--positions", "0"],
        4,
        &["position"],
    );
    fails(&["chat", path, "-p", "hello"], 4, &["tokenizer"]);

    let file = dir.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    fails(&["logits", path, "--ids", "1"], 4, &["model.safetensors"]);
    std::fs::write(&file, [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()).unwrap();
    fails(&["logits", path, "--ids", "1"], 4, &["model.safetensors"]);
    std::fs::write(&file, &whole).unwrap();

    let config = dir.path().join("config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        config.to_string()
    };
    std::fs::write(&config, with("model_type", json!("llama"))).unwrap();
    fails(&["logits", path, "--ids", "1"], 4, &["llama", "glm4"]);
    std::fs::write(&config, with("hidden_size", json!(48))).unwrap();
    fails(&["logits", path, "--ids", "1"], 4, &["32"]);
    std::fs::write(&config, "{").unwrap();
    fails(&["logits", path, "--ids", "1"], 4, &["config.json"]);
}

#[test]
fn unavailable_devices_exit_with_3() {
    let dir = checkpoint("glm", "glm");
    fails(
        &[
            "--device",
            "cuda:7",
            "logits",
            text(dir.path()),
            "--ids",
            "1",
        ],
        3,
        &["cuda:7", "cpu"],
    );
    fails(
        &["--threads", "0", "logits", text(dir.path()), "--ids", "1"],
        3,
        &["0 threads"],
    );
}

#[test]
fn what_does_not_fit_exits_with_5() {
    let devices: Value = serde_json::from_slice(&glm(&["devices", "--json"]).stdout).unwrap();
    let Some(memory) = devices["devices"][0]["memory_total_bytes"].as_u64() else {
        return println!("SKIPPED: this system does not tell its memory");
    };
    // The longest context that a configuration may have; its KV cache in f32 takes 768 GiB.
    let tokens = (1u64 << 28) - 1;
    if memory > 1 << 39 {
        return println!("SKIPPED: this machine has {memory} B of memory");
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let dir = TempDir::new().unwrap();
    for file in std::fs::read_dir(demo).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let config = dir.path().join("config.json");
    let mut long: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    long["max_position_embeddings"] = json!(tokens);
    std::fs::write(&config, long.to_string()).unwrap();
    let context = tokens.to_string();
    let path = text(dir.path());
    fails(
        &[
            "chat",
            path,
            "-p",
            "x",
            "--dtype",
            "f32",
            "--context",
            &context,
        ],
        5,
        &["KV cache"],
    );
    // More than the model was made for is another error.
    fails(&["chat", "-p", "x", "--context", &context], 4, &["context"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    fails(&["logits", "x"], 2, &["--ids"]);
    fails(&["logits", "x", "--ids", "a"], 2, &["--ids"]);
    fails(&["chat", "--dtype", "int3"], 2, &["int3"]);
    fails(&["nonsense"], 2, &["nonsense"]);
}

#[test]
fn chat_answers_alone_on_stdout() {
    let output = glm(&["chat", "-p", "What is 16 mod 12?"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "16 divided by 12 equals 1 remainder 4. So the answer is 4!\n"
    );
    assert!(stderr(&output).contains("tok/s"), "{}", stderr(&output));
    let output = glm(&["chat", "-q", "-p", "16除以12的余数是多少？"]);
    assert_eq!(stdout(&output), "16除以12等于1余4。所以答案是4！\n");
    assert_eq!(stderr(&output), "");
}

#[test]
fn chat_as_json() {
    let output = glm(&["chat", "--json", "-p", "What is 16 mod 12?"]);
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["schema"], "glm/chat/1");
    assert_eq!(
        document["answer"],
        "16 divided by 12 equals 1 remainder 4. So the answer is 4!"
    );
    assert_eq!(document["finish"], "stop");
    assert!(document["completion_tokens"].as_u64().unwrap() > 10);
}

#[test]
fn settings_come_from_the_environment_and_flags_win() {
    let run = |args: &[&str], device| glm_with(args, &[("GLM_DEVICE", device)], "");
    assert_eq!(run(&["chat", "-p", "hi"], "nowhere").status.code(), Some(3));
    assert!(
        run(&["--device", "cpu", "chat", "-p", "hi"], "nowhere")
            .status
            .success()
    );
}

#[test]
fn a_conversation_from_a_pipe() {
    let dir = TempDir::new().unwrap();
    let saved = dir.path().join("talk.json");
    let input = format!(
        "What is 16 mod 12?\n/clear\n16除以12的余数是多少？\n/seed 7\n/nonsense\n/save {}\n/stop\nnot read\n",
        text(&saved)
    );
    let output = glm_with(&["chat"], &[], &input);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "16 divided by 12 equals 1 remainder 4. So the answer is 4!\n16除以12等于1余4。所以答案是4！\n"
    );
    assert!(stderr(&output).contains("/nonsense"));
    let talk: Value = serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    // What came before /clear is gone.
    assert_eq!(
        talk["messages"],
        json!([
            {"role": "user", "content": "16除以12的余数是多少？"},
            {"role": "assistant", "content": "16除以12等于1余4。所以答案是4！"},
        ])
    );
}

#[test]
fn a_long_conversation_forgets_its_oldest_turns() {
    let input = "What is 47 * 36?\n你是谁？\nWhat is 16 mod 12?\n";
    let output = glm_with(&["chat"], &[], input);
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Vec<&str> = stdout(&output).lines().collect();
    assert!(
        answers[0].ends_with("So the answer is 1692!"),
        "{answers:?}"
    );
    assert!(
        answers[1].starts_with("我是GLM-HAL") && answers[1].ends_with('。'),
        "{answers:?}"
    );
    assert_eq!(
        answers[2],
        "16 divided by 12 equals 1 remainder 4. So the answer is 4!"
    );
    assert!(stderr(&output).contains("forgotten"), "{}", stderr(&output));
}

#[test]
fn stop_text_and_length_end_an_answer() {
    let output = glm(&[
        "chat",
        "-q",
        "-p",
        "What is 16 mod 12?",
        "--stop",
        " remainder",
    ]);
    assert_eq!(stdout(&output), "16 divided by 12 equals 1\n");
    let output = glm(&["chat", "--json", "-p", "What is 16 mod 12?", "-n", "3"]);
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["completion_tokens"], 3);
    assert_eq!(document["finish"], "length");
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let ask = |seed: &str| {
        let output = glm(&[
            "chat",
            "-q",
            "-p",
            "Hello!",
            "--temperature",
            "9",
            "--seed",
            seed,
            "-n",
            "24",
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).to_string()
    };
    assert_eq!(ask("1"), ask("1"));
    let answers: std::collections::BTreeSet<String> = ["1", "2", "3", "4", "5", "6"]
        .into_iter()
        .map(ask)
        .collect();
    assert!(answers.len() > 1, "six seeds gave one answer: {answers:?}");
}

#[test]
fn devices_lists_the_cpu() {
    let output = glm(&["devices"]);
    assert!(output.status.success());
    assert!(
        stdout(&output).lines().any(|line| line.starts_with("cpu ")),
        "{}",
        stdout(&output)
    );
    let document: Value = serde_json::from_slice(&glm(&["devices", "--json"]).stdout).unwrap();
    assert_eq!(document["devices"][0]["id"], "cpu");
    assert_eq!(document["devices"][0]["status"], "ok");
}

#[test]
fn inspect_tells_what_is_missing() {
    let (case, dir) = (golden("glm"), TempDir::new().unwrap());
    let mut shapes = golden_shapes(&case);
    shapes.retain(|(name, _)| name != "model.norm.weight");
    write_checkpoint(dir.path(), &shapes, &golden_config(&case, "glm"), false);
    let output = glm(&["inspect", text(dir.path())]);
    assert!(
        stdout(&output).contains("model.norm.weight"),
        "{}",
        stdout(&output)
    );
    assert_eq!(output.status.code(), Some(1));
    let output = glm(&["inspect", text(dir.path()), "--json"]);
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["missing"], json!(["model.norm.weight"]));
    // The embedded model is whole.
    let output = glm(&["inspect"]);
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn a_quantised_checkpoint_computes_what_quantising_on_load_does() {
    let (dir, out) = (checkpoint("glm", "glm"), TempDir::new().unwrap());
    let target = out.path().join("int8");
    let output = glm(&[
        "quantize",
        text(dir.path()),
        text(&target),
        "--dtype",
        "int8",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let run = |path: &Path, dtype: &[&str]| -> Value {
        let mut args = vec!["logits", text(path), "--ids", "5,9,33", "--json"];
        args.extend(dtype);
        let output = glm(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(stdout(&output)).unwrap()
    };
    assert_eq!(run(&target, &[]), run(dir.path(), &["--dtype", "int8"]));
    // Never onto what is there.
    fails(
        &[
            "quantize",
            text(dir.path()),
            text(dir.path()),
            "--dtype",
            "int8",
        ],
        4,
        &[text(dir.path())],
    );
    fails(
        &["quantize", text(dir.path()), text(&out.path().join("x"))],
        4,
        &["--dtype"],
    );
}

#[test]
fn a_converted_checkpoint_computes_the_same() {
    let case = golden("chatglm3");
    let (dir, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let config = golden_config(&case, "chatglm").to_string();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let file = dir.path().join("pytorch_model.bin");
    torch::write_bin(&file, &golden_shapes(&case));
    let target = out.path().join("safetensors");
    let output = glm(&["convert", text(dir.path()), text(&target), "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["copied"], case["shapes"].as_object().unwrap().len());
    assert_eq!(report["matrices"], 0);
    let logits = |path: &Path| {
        let output = glm(&["logits", text(path), "--ids", "5,9,33", "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).to_owned()
    };
    assert_eq!(logits(&target), logits(dir.path()));
    fails(
        &["convert", text(dir.path()), text(&target)],
        4,
        &["holds files"],
    );
    std::fs::write(&file, "PK").unwrap();
    let target = out.path().join("damaged");
    fails(
        &["convert", text(dir.path()), text(&target)],
        4,
        &["pytorch_model.bin"],
    );
    assert!(!target.exists());
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = glm(&["completions", shell]);
        assert!(output.status.success());
        for command in [
            "chat", "logits", "inspect", "devices", "convert", "quantize",
        ] {
            assert!(stdout(&output).contains(command), "{shell} lacks {command}");
        }
    }
}

#[test]
fn help_tells_the_exit_codes() {
    let output = glm(&["--help"]);
    assert!(
        stdout(&output).contains("Exit codes"),
        "{}",
        stdout(&output)
    );
}
