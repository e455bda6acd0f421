//! The tool as its users meet it: output, errors, exit codes.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{golden, golden_config, golden_shapes, torch, write_checkpoint};
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
    let (dir, two) = (
        checkpoint("glm", "glm"),
        checkpoint("chatglm_v1_gmask", "chatglm"),
    );
    let run_in = |dir: &TempDir, more: &[&str]| -> Value {
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
    let run = |more: &[&str]| run_in(&dir, more);
    let all = run(&["--rows", "all"]);
    let some = run(&["--rows", "3,1"]);
    assert_eq!(some["rows"], json!([all["rows"][3], all["rows"][1]]));
    assert_eq!(run(&[])["rows"], json!([all["rows"][3]]));
    assert_eq!(run(&["--rows", "all", "--positions", "0,1,2,3"]), all);
    assert_ne!(run(&["--rows", "all", "--positions", "0,2,4,6"]), all);
    let given = run_in(&two, &["--positions", "0,1,2,3,0,0,0,0"]);
    assert_eq!(run_in(&two, &[]), given);
    assert_ne!(run_in(&two, &["--positions", "0,1,2,3,0,0,0,1"]), given);
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
    // A back end that this build lacks, and a device that no machine has.
    for (device, words) in [
        ("sunway:0", ["sunway:0", "cpu"]),
        ("cuda:77", ["cuda:77", "next"]),
    ] {
        fails(
            &["--device", device, "logits", text(dir.path()), "--ids", "1"],
            3,
            &words,
        );
    }
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
fn accelerators_answer_as_the_cpu_does() {
    let document: Value = serde_json::from_slice(&glm(&["devices", "--json"]).stdout).unwrap();
    let ask = ["chat", "-q", "-p", "What is 16 mod 12?", "--seed", "1"];
    let wanted = stdout(&glm(&ask)).to_owned();
    for name in ["opencl", "wgpu"] {
        let mut ok = Vec::new();
        for device in document["devices"].as_array().unwrap() {
            let spec = device["id"].as_str().unwrap();
            if spec.starts_with(name) && device["status"] == "ok" {
                ok.push(spec);
            }
        }
        if ok.is_empty() {
            conformance::skip(
                name,
                format!("this build or machine has no device of {name}"),
            );
        }
        for device in ok {
            let got = glm(&[&ask[..], &["--device", device]].concat());
            assert!(got.status.success(), "{device}: {}", stderr(&got));
            assert_eq!(stdout(&got), wanted, "{device}");
        }
    }
}

#[test]
fn opencl_compiles_aloud_and_is_tuned() {
    let document: Value = serde_json::from_slice(&glm(&["devices", "--json"]).stdout).unwrap();
    let devices = document["devices"].as_array().unwrap();
    let opencl = |d: &&Value| d["id"].as_str().unwrap().starts_with("opencl:");
    let Some(device) = devices.iter().filter(opencl).find(|d| d["status"] == "ok") else {
        return conformance::skip("opencl", "no OpenCL device");
    };
    let device = device["id"].as_str().unwrap();
    let cache = TempDir::new().unwrap();
    let env = [("GLM_CACHE", text(cache.path()))];
    let ask = ["logits", "--ids", "1,2,3", "--device", device];
    let first = glm_with(&ask, &env, "");
    assert!(first.status.success(), "{}", stderr(&first));
    let programs = cache.path().join("programs");
    for line in [
        format!("compiling kernels for {device}"),
        format!("compiled kernels for {device}: "),
        format!(" s; kept in {}", programs.display()),
    ] {
        assert!(stderr(&first).contains(&line), "{}", stderr(&first));
    }
    let again = glm_with(&ask, &env, "");
    assert_eq!(stdout(&again), stdout(&first));
    assert!(!stderr(&again).contains("compil"), "{}", stderr(&again));
    let tune = ["tune", "--seconds", "0", "--json", "--device", device];
    let tuned = glm_with(&tune, &env, "");
    assert!(tuned.status.success(), "{}", stderr(&tuned));
    let tuned: Value = serde_json::from_str(stdout(&tuned)).unwrap();
    let tuned = tuned.as_array().unwrap();
    assert!(tuned.len() > 2, "{tuned:?}");
    for product in tuned {
        assert_eq!(product["times"].as_array().unwrap().len(), 3);
        let kept = product["kept"].as_str().unwrap();
        assert!(Path::new(kept).starts_with(cache.path().join("tuning")));
    }
    fails(&["tune"], 3, &["nothing to choose"]);
    std::fs::remove_dir_all(&programs).unwrap();
    let quiet = glm_with(&[&ask[..], &["--quiet"]].concat(), &env, "");
    assert!(quiet.status.success(), "{}", stderr(&quiet));
    assert_eq!(stderr(&quiet), "");
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

/// A golden model with `vocab` tokens and a tokenizer of `vectors`.
fn talker(case: &str, vocab: usize, more: &Value, tokenizer: [&str; 2]) -> TempDir {
    let (dir, case) = (TempDir::new().unwrap(), golden(case));
    let mut config = golden_config(&case, "chatglm");
    for key in ["vocab_size", "padded_vocab_size"] {
        if !config[key].is_null() {
            config[key] = json!(vocab);
        }
    }
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let mut shapes = golden_shapes(&case);
    for (name, shape) in &mut shapes {
        if name.contains("word_embeddings") || name.contains("output_layer") {
            shape[0] = vocab;
        }
    }
    write_checkpoint(dir.path(), &shapes, &config, false);
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let [from, to] = tokenizer;
    std::fs::copy(vectors.join(from), dir.path().join(to)).unwrap();
    dir
}

fn chatglm(name: &str) -> TempDir {
    let more = json!({"_name_or_path": name, "seq_length": 512, "eos_token_id": 2});
    talker("chatglm3", 720, &more, ["bpe.model", "tokenizer.model"])
}

fn chatglm_6b() -> TempDir {
    let more = json!({"position_encoding_2d": true, "max_sequence_length": 512});
    talker(
        "chatglm_v1_gmask",
        130_528,
        &more,
        ["ice.model", "ice_text.model"],
    )
}

fn document(args: &[&str]) -> Value {
    let output = glm(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(stdout(&output)).unwrap()
}

#[test]
fn models_without_template_are_talked_to_as_their_code_does() {
    let tokens = |dir: &TempDir, text: &str| -> usize {
        let ids = document(&[
            "inspect",
            self::text(dir.path()),
            "--tokens",
            text,
            "--json",
        ]);
        ids["ids"].as_array().unwrap().len()
    };
    let of = |dir: &TempDir, form: &str, parts: &[&str], special: usize| {
        let path = text(dir.path());
        let args = [
            "chat",
            path,
            "-p",
            "hello",
            "-n",
            "4",
            "--temperature",
            "0",
            "--json",
        ];
        let answer = document(&args);
        let parts: usize = parts.iter().map(|part| tokens(dir, part)).sum();
        assert_eq!(answer["prompt_tokens"], json!(parts + special), "{answer}");
        assert!(answer["completion_tokens"].as_u64().unwrap() <= 4 && answer["answer"].is_string());
        assert_eq!(document(&["inspect", path, "--json"])["template"], form);
        let output = glm(&["inspect", path, "--template"]);
        assert!(stdout(&output).contains("[gMASK]"), "{}", stderr(&output));
    };
    of(&chatglm_6b(), "chatglm_6b", &["hello"], 2);
    of(
        &chatglm("chatglm2-6b"),
        "chatglm2",
        &["[Round 1]\n\n问：hello\n\n答："],
        2,
    );
    of(&chatglm("chatglm3-6b"), "chatglm3", &["\n", "hello"], 4);
    let base = chatglm("codegeex2-6b");
    fails(&["chat", text(base.path()), "-p", "x"], 4, &["glm fill"]);
}

#[test]
fn tools_are_offered_and_results_awaited() {
    let (dir, files) = (chatglm("chatglm3-6b"), TempDir::new().unwrap());
    let path = text(dir.path());
    let file = files.path().join("tools.json");
    let tools =
        json!([{"name": "weather", "description": "of a city", "parameters": {"type": "object"}}]);
    std::fs::write(&file, tools.to_string()).unwrap();
    let ask = |more: &[&str]| {
        let args = [
            "chat",
            path,
            "-p",
            "hello",
            "-n",
            "4",
            "--temperature",
            "0",
            "--json",
        ];
        document(&[&args[..], more].concat())
    };
    let (with, without) = (ask(&["--tools", text(&file)]), ask(&[]));
    assert!(with["prompt_tokens"].as_u64() > without["prompt_tokens"].as_u64());
    assert_eq!(
        (&with["tool_calls"], &without["tool_calls"]),
        (&json!([]), &Value::Null)
    );
    // Nothing was called.
    let output = glm_with(&["chat", path, "-n", "2"], &[], "/result 22\n");
    assert!(output.status.success() && stderr(&output).contains("no tool was called"));

    for (content, word) in [
        ("{", "tools.json"),
        ("[{}]", "no name"),
        ("[{\"type\": \"x\"}]", "function"),
    ] {
        std::fs::write(&file, content).unwrap();
        fails(
            &["chat", path, "-p", "x", "--tools", text(&file)],
            4,
            &[word],
        );
    }
    fails(
        &["chat", path, "-p", "x", "--tools", "/no/such"],
        4,
        &["/no/such"],
    );
    std::fs::write(&file, tools.to_string()).unwrap();
    let v2 = chatglm("chatglm2-6b");
    fails(
        &["chat", text(v2.path()), "-p", "x", "--tools", text(&file)],
        4,
        &["tools"],
    );
}

#[test]
fn texts_are_filled_and_completed() {
    let dir = chatglm_6b();
    let path = text(dir.path());
    let args = [
        "fill",
        path,
        "a[MASK]b[gMASK]",
        "-n",
        "3",
        "--temperature",
        "0",
        "--json",
    ];
    let filled = document(&args);
    assert_eq!(filled["schema"], "glm/fill/1");
    let blanks = filled["blanks"].as_array().unwrap();
    assert_eq!(blanks.len(), 2);
    for blank in blanks {
        assert!(blank["tokens"].as_u64().unwrap() <= 3 && blank["text"].is_string());
        assert!(["stop", "length"].contains(&blank["finish"].as_str().unwrap()));
    }
    let whole = filled["text"].as_str().unwrap();
    assert!(whole.starts_with('a') && whole.contains('b'), "{whole}");
    let plain = glm(&args[..args.len() - 1]);
    assert_eq!(stdout(&plain), format!("{whole}\n"));
    assert_eq!(
        document(&["fill", path, "no blank", "-n", "1", "--json"])["blanks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    fails(&["fill", path, "x", "--language", "python"], 4, &["python"]);

    let base = chatglm("codegeex2-6b");
    let path = text(base.path());
    let code = document(&[
        "fill",
        path,
        "def f",
        "--language",
        "python",
        "-n",
        "3",
        "--json",
    ]);
    let written = code["text"].as_str().unwrap();
    assert!(
        written.starts_with("# language: Python\ndef f"),
        "{written}"
    );
    assert_eq!(code["blanks"].as_array().unwrap().len(), 1);
    fails(
        &["fill", path, "x", "--language", "klingon"],
        4,
        &["klingon", "python"],
    );
    fails(&["fill", path, ""], 4, &["empty"]);
    fails(&["fill", path], 2, &["TEXT"]);
}

#[test]
fn beams_search_one_text() {
    let dir = chatglm("chatglm2-6b");
    let path = text(dir.path());
    let args = ["fill", path, "hello", "-n", "6", "--beams", "3", "--json"];
    let (one, again) = (document(&args), document(&args));
    assert_eq!(one["blanks"], again["blanks"]);
    let more = ["--length-penalty", "-0.5", "--no-repeat-ngram", "1"];
    let blank = document(&[&args[..], &more].concat());
    assert!(blank["blanks"][0]["tokens"].as_u64().unwrap() <= 6);
    let chat = document(&[
        "chat", path, "-p", "hello", "-n", "4", "--beams", "2", "--json",
    ]);
    assert!(chat["completion_tokens"].as_u64().unwrap() <= 4);
    fails(&["fill", path, "x", "--beams", "0"], 4, &["max_sequences"]);
    fails(
        &["fill", path, "x", "--length-penalty", "1"],
        2,
        &["--beams"],
    );
    fails(
        &["fill", path, "x", "--beams", "2", "--top-k", "3"],
        2,
        &["--top-k"],
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
fn what_is_kept_is_told_and_removed_by_kind() {
    let cache = tempfile::tempdir().unwrap();
    let folder = |name: &str| cache.path().join(name);
    for (file, bytes) in [
        ("packed/a.weight", 5),
        ("packed/b.weight", 2000),
        ("packed/own/file", 1),
        ("programs/p", 7),
        ("notes", 3),
    ] {
        std::fs::create_dir_all(folder(file).parent().unwrap()).unwrap();
        std::fs::write(folder(file), vec![0; bytes]).unwrap();
    }
    let env = [("GLM_CACHE", cache.path().to_str().unwrap())];
    let sizes = |args: &[&str]| {
        let output = glm_with(&[&["cache"], args, &["--json"]].concat(), &env, "");
        assert!(output.status.success(), "{}", stderr(&output));
        let document: Value = serde_json::from_str(stdout(&output)).unwrap();
        assert_eq!(document["removed"], !args.is_empty());
        let kinds = document["kinds"].as_array().unwrap().iter();
        let size = |kind: &Value| {
            let [files, bytes] = ["files", "bytes"].map(|name| kind[name].as_u64().unwrap());
            (kind["kind"].as_str().unwrap().to_owned(), files, bytes)
        };
        let sizes = kinds.map(size).filter(|(_, files, _)| *files > 0);
        sizes.collect::<Vec<_>>()
    };
    let (packed, programs) = (("packed".into(), 2, 2005), ("programs".into(), 1, 7));
    assert_eq!(sizes(&[]), [packed.clone(), programs.clone()]);
    assert_eq!(sizes(&["clear", "packed", "tuning"]), [packed]);
    assert_eq!(sizes(&[]), [programs]);
    assert!(!folder("packed/a.weight").exists());
    assert!(folder("packed/own/file").exists() && folder("notes").exists());
    let told = glm_with(&["cache"], &env, "");
    assert!(stdout(&told).contains("1 files         7 B  compiled kernels"));
    for (args, code) in [
        (&["cache", "clear"][..], 2),
        (&["cache", "clear", "all"], 2),
    ] {
        assert_eq!(glm_with(args, &env, "").status.code(), Some(code));
    }
    let nowhere = [("GLM_CACHE", ""), ("XDG_CACHE_HOME", ""), ("HOME", "")];
    let output = glm_with(&["cache"], &nowhere, "");
    assert!(stderr(&output).contains("GLM_CACHE"), "{}", stderr(&output));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = glm(&["completions", shell]);
        assert!(output.status.success());
        for command in [
            "chat", "fill", "logits", "inspect", "devices", "convert", "quantize", "tune", "bench",
            "cache",
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
