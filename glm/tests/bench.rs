//! `glm bench`: what it writes, what it refuses, and that its counts are those of the shapes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Runs `glm bench` without any setting of the tester's own environment.
fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    command.arg("bench").args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The document that a call with `-o json` writes.
fn document(args: &[&str]) -> Value {
    let output = bench(&[args, &["-o", "json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(stdout(&output)).unwrap()
}

fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = bench(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert_eq!(stdout(&output), "", "{args:?}");
    for word in words {
        assert!(text.contains(word), "{args:?} does not name {word}: {text}");
    }
}

fn results(document: &Value) -> &Vec<Value> {
    document["runs"][0]["results"].as_array().unwrap()
}

fn keys(document: &Value) -> Vec<&str> {
    let results = results(document).iter();
    results.map(|r| r["key"].as_str().unwrap()).collect()
}

const TINY: [&str; 10] = [
    "--shape", "tiny", "--dtype", "bf16", "-p", "16", "-n", "4", "-r", "2",
];

#[test]
fn tests_of_a_model_are_all_combinations() {
    let document = document(&[&TINY[..], &["-d", "0,8", "-b", "1,2", "-t", "1"]].concat());
    assert_eq!(document["schema"], "glm/bench/1");
    let run = &document["runs"][0];
    assert_eq!(run["device"]["spec"], "cpu");
    assert_eq!(run["threads"], 1);
    assert!(run["limits"]["bytes_per_second"].as_f64().unwrap() > 1e8);
    let model = &run["model"];
    assert_eq!(
        (&model["name"], &model["format"]),
        (&"tiny".into(), &"bf16".into())
    );
    assert_eq!(model["weights"], "random, seed 1");
    let mut wanted = Vec::new();
    for batch in [1, 2] {
        for depth in [0, 8] {
            for test in ["pp16", "tg4"] {
                wanted.push(format!("tiny/bf16/b{batch}/d{depth}/{test}/t1"));
            }
        }
    }
    assert_eq!(keys(&document), wanted);
    // A layer's matrices: qkv 256, o 128, gate and up 512 rows of 128 columns, down 128 of 256; the head 512 of 128.
    let layers = 2 * (128 * (256 + 128 + 512) + 256 * 128);
    let (head, slot, attended) = (512 * 128, 2 * 2 * 2 * 32 * 2, 2 * 2 * 4 * 32);
    for result in results(&document) {
        let number = |key: &str| result[key].as_f64().unwrap();
        let [batch, depth, n] = {
            let key = result["key"].as_str().unwrap();
            let numbers = key.split('/').skip(2).map(|part| {
                part.trim_start_matches(char::is_alphabetic)
                    .parse::<u64>()
                    .unwrap()
            });
            let numbers: Vec<u64> = numbers.collect();
            [numbers[0], numbers[1], numbers[2]]
        };
        let seen = batch * (n * depth + n * (n + 1) / 2);
        let (steps, rows, slots) = match n {
            16 => (1, batch, batch * (depth + 2 * n)),
            _ => (n, batch * n, seen),
        };
        let bytes = steps * 2 * (layers + head) + slots * slot;
        let operations = 2 * (batch * n * layers + rows * head + seen * attended);
        assert_eq!(number("bytes"), bytes as f64, "{result}");
        assert_eq!(number("operations"), operations as f64, "{result}");
        assert_eq!(number("tokens"), (batch * n) as f64);
        let median = result["seconds"]["median"].as_f64().unwrap();
        let rate = number("tokens_per_second") * median;
        assert!((rate - number("tokens")).abs() < 1e-6);
        assert!(result["seconds"]["least"].as_f64().unwrap() <= median);
        assert!(number("host_seconds") <= median * 1.0001 && number("share") > 0.0);
    }
}

#[test]
fn depths_in_any_order_and_beyond_the_published_context() {
    let more = [
        "--context",
        "5000",
        "-d",
        "4990,0,16",
        "-n",
        "4,12",
        "-p",
        "0",
    ];
    let args = [&TINY[..4], &["-r", "1"], &more].concat();
    let filled = self::document(&[&args[..], &["--random-cache"]].concat());
    let document = document(&args);
    let model = |document: &Value| document["runs"][0]["model"].clone();
    assert_eq!(model(&document)["context"], 4994);
    assert_eq!(model(&document)["random_cache"], false);
    assert_eq!(model(&filled)["random_cache"], true);
    assert_eq!(keys(&filled), keys(&document));
    let wanted = [
        "d4990/tg4",
        "d4990/tg12",
        "d0/tg4",
        "d0/tg12",
        "d16/tg4",
        "d16/tg12",
    ];
    let wanted: Vec<_> = wanted.iter().map(|w| format!("tiny/bf16/b1/{w}")).collect();
    assert_eq!(keys(&document), wanted);
    for result in results(&document) {
        let skipped = result["key"] == wanted[1].as_str();
        assert_eq!(result["skipped"].is_string(), skipped, "{result}");
    }
}

/// Where a product rounds activations to integers, the limit is that of integers.
#[test]
fn a_share_is_of_the_limit_of_the_numbers_multiplied() {
    for (activations, numbers) in [("f32", "f32"), ("int8", "i8")] {
        let args = [
            "--shape",
            "tiny",
            "--dtype",
            "int8",
            "--activations",
            activations,
        ];
        let document = document(&[&args[..], &["-p", "512", "-n", "0", "-r", "1"]].concat());
        let run = &document["runs"][0];
        assert_eq!(run["model"]["products"], numbers);
        let [result] = &results(&document)[..] else {
            panic!("{document}")
        };
        let number = |value: &Value| value.as_f64().unwrap();
        let amount = number(&result[result["limit"].as_str().unwrap()]);
        let [lowest, highest] = [0, 1].map(|i| number(&result["limit_range"][i]) * 1e9);
        let least = number(&result["share"]) * number(&result["seconds"]["median"]);
        let rate = amount / least;
        // Attention and the output layer multiply floats in either case: with integers, the limit is one of a mixture.
        match activations {
            "f32" => assert!((rate / (lowest + highest) * 2.0 - 1.0).abs() < 1e-9),
            _ => assert!((lowest * 0.9..=highest * 1.1).contains(&rate)),
        }
    }
}

#[test]
fn several_numbers_of_threads_are_several_runs() {
    let document = document(&[&TINY[..], &["-t", "1,2"]].concat());
    let threads = document["runs"].as_array().unwrap().iter();
    let threads: Vec<u64> = threads.map(|r| r["threads"].as_u64().unwrap()).collect();
    assert_eq!(threads, [1, 2]);
    let output = Command::new(env!("CARGO_BIN_EXE_glm"))
        .args(["devices", "-t", "1,2"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("glm bench"), "{}", stderr(&output));
}

#[test]
fn the_embedded_model_and_every_format_run() {
    let embedded = document(&["-p", "8", "-n", "2", "-r", "1"]);
    assert_eq!(
        keys(&embedded),
        ["embedded/stored/b1/d0/pp8", "embedded/stored/b1/d0/tg2"]
    );
    for dtype in [
        "f32",
        "f16",
        "int8",
        "int8-g32",
        "int4",
        "int4-g32",
        "int4-g64",
        "int4-g128",
    ] {
        let document = document(
            &[
                &TINY[..2],
                &["--dtype", dtype, "-p", "4", "-n", "1", "-r", "1"],
            ]
            .concat(),
        );
        assert_eq!(results(&document).len(), 2, "{dtype}");
    }
    let slice = [
        "--shape",
        "glm-edge-1.5b",
        "--layers",
        "1",
        "--dtype",
        "int4",
    ];
    let document = document(&[&slice[..], &["-p", "2", "-n", "1", "-r", "1"]].concat());
    let wanted = ["pp2", "tg1"].map(|test| format!("glm-edge-1.5b-1-layers/int4/b1/d0/{test}"));
    assert_eq!(keys(&document), wanted);
}

#[test]
fn rows_come_as_a_table_as_values_and_as_json_lines() {
    let args = |format| [&TINY[..], &["-o", format]].concat();
    let md = bench(&args("md"));
    let text = stdout(&md);
    assert!(text.contains("weights random, seed 1"), "{text}");
    assert!(text.contains("| tiny/bf16/b1/d0/pp16 | "), "{text}");
    assert!(text.contains(" tok/s | "), "{text}");
    assert!(text.contains("limits: "), "{text}");
    let csv = bench(&args("csv"));
    let lines: Vec<&str> = stdout(&csv).lines().collect();
    assert_eq!(lines.len(), 3);
    let columns = lines[0].split(',').count();
    assert!(
        lines.iter().all(|line| line.split(',').count() == columns),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("cpu,,tiny/bf16/b1/d0/pp16,"),
        "{lines:?}"
    );
    let jsonl = bench(&args("jsonl"));
    for line in stdout(&jsonl).lines() {
        let figure: Value = serde_json::from_str(line).unwrap();
        assert_eq!(figure["device"], "cpu");
        assert_eq!(figure["model"]["layers"], 2);
        assert!(figure["limits"]["bytes_per_second"].as_f64().unwrap() > 0.0);
    }
    // Progress is not part of the results, and can be left out.
    assert!(stderr(&md).contains("bench: "));
    let quiet = bench(&[&args("md")[..], &["-q"]].concat());
    assert_eq!(stderr(&quiet), "");
}

#[test]
fn operations_are_counted_and_chosen() {
    let args = [
        "ops", "--shape", "tiny", "-m", "1,4", "-p", "32", "-d", "64", "-b", "2", "--mib", "1",
        "-r", "1",
    ];
    let document = document(&args);
    let names: Vec<&str> = keys(&document)
        .iter()
        .map(|k| k.split('/').next().unwrap())
        .collect();
    for name in [
        "matmul",
        "attention",
        "copy",
        "rms_norm",
        "add_rms_norm",
        "rope",
        "glu",
        "dispatch",
        "replay",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let figure = |key: &str| {
        let found = results(&document).iter().find(|r| r["key"] == key);
        found
            .unwrap_or_else(|| panic!("no {key}: {:?}", keys(&document)))
            .clone()
    };
    let amounts = |key: &str| {
        let figure = figure(key);
        [
            figure["bytes"].as_f64().unwrap(),
            figure["operations"].as_f64().unwrap(),
        ]
    };
    // n 512, k 128: int4 has half a byte per weight and an f32 scale per row.
    let weight = 512 * 64 + 512 * 4;
    let x_and_out = 4 * (128 + 512) * 2;
    assert_eq!(
        amounts("matmul/m4/n512/k128/int4"),
        [f64::from(weight + x_and_out), f64::from(2 * 4 * 512 * 128)]
    );
    // 32 tokens see 1 to 32 slots; 4 heads of 32 elements over 2 key-value heads.
    let bytes = 2 * 32 * 2 * 32 * 2 + 2 * 32 * 4 * 32 * 2;
    assert_eq!(
        amounts("attention/prefill/n32/h4/kv2/d32/bf16"),
        [f64::from(bytes), f64::from(4 * (32 * 33 / 2) * 4 * 32)]
    );
    let bytes = 2 * 2 * 64 * 2 * 32 * 2 + 2 * 2 * 4 * 32 * 2;
    assert_eq!(
        amounts("attention/decode/n64/b2/h4/kv2/d32/bf16"),
        [f64::from(bytes), f64::from(4 * 2 * 64 * 4 * 32)]
    );
    // A MiB of x is 4096 rows.
    assert_eq!(
        amounts("add_rms_norm/4096x128/bf16")[0],
        f64::from((4 << 20) + 512)
    );
    assert_eq!(
        amounts("glu/1024x256/bf16")[0],
        f64::from(3 * 1024 * 256 * 2)
    );
    assert_eq!(figure("matmul/m1/n256/k128/bf16")["how"], "native");
    assert!(
        figure("dispatch/rms_norm/1x64")["seconds"]["median"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    // Streams of the CPU record nothing: said, not left out.
    let replay = figure("replay/320x/rms_norm/1x64");
    let why = replay["skipped"].as_str().unwrap();
    assert!(why.contains("record nothing"), "{why}");

    let only = bench(&[&args[..], &["--only", "glu*,matmul/m1/*int8", "-o", "csv"]].concat());
    let lines: Vec<&str> = stdout(&only).lines().collect();
    // The head has the shape of the gate and up matrix: measured once.
    assert_eq!(lines.len(), 1 + 4 + 1, "{lines:?}");
}

#[cfg(feature = "emulator")]
#[test]
fn devices_that_record_launches_are_timed_by_graphs() {
    let args = [
        "ops", "--device", "emulator", "--shape", "tiny", "-m", "1", "-p", "8",
    ];
    let more = [
        "-d",
        "16",
        "--mib",
        "1",
        "-r",
        "1",
        "--only",
        "replay*,matmul/m1/n256*",
    ];
    let document = document(&[&args[..], &more].concat());
    let [products @ .., replay] = &results(&document)[..] else {
        panic!("{document}")
    };
    assert_eq!(products.len(), 4);
    for figure in products.iter().chain([replay]) {
        assert!(
            figure["seconds"]["median"].as_f64().unwrap() > 0.0,
            "{figure}"
        );
    }
    let limits = &document["runs"][0]["limits"];
    assert!(
        limits["bytes_by"].as_str().unwrap().contains("a copy of"),
        "{limits}"
    );
    assert!(limits["operations_per_second"]["bf16"].as_f64().unwrap() > 0.0);
}

#[cfg(feature = "emulator")]
#[test]
fn what_does_not_fit_is_skipped() {
    let args = [
        "ops", "--shape", "tiny", "-m", "1", "-p", "8", "-d", "16", "--mib", "64", "-r", "1", "-q",
    ];
    let small = ["--device", "emulator:mem64m", "--only", "copy*,rms_norm*"];
    let output = bench(&[&args[..], &small, &["-o", "json"]].concat());
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    for result in results(&document) {
        assert!(
            result["skipped"].as_str().unwrap().contains("are free"),
            "{result}"
        );
    }
}

#[test]
fn two_results_are_compared() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, factor: f64| {
        let path = folder.path().join(name);
        let result = |key: &str, seconds: f64| {
            serde_json::json!({
                "key": key,
                "seconds": {"median": seconds, "least": seconds, "most": seconds, "runs": 1},
            })
        };
        let mut tokens = result("m/bf16/b1/d0/tg4", 2.0 * factor);
        tokens["tokens"] = 4.into();
        tokens["tokens_per_second"] = (4.0 / (2.0 * factor)).into();
        let document = serde_json::json!({
            "schema": "glm/bench/1", "version": "0", "command": [],
            "runs": [{"device": {}, "results": [
                tokens,
                result("glu/1x1/bf16", 1e-3),
                result(&format!("only/{name}"), 1.0),
                {"key": "skipped", "skipped": "no kernel"},
            ]}],
        });
        std::fs::write(&path, document.to_string()).unwrap();
        path
    };
    let (a, b) = (file("a.json", 1.0), file("b.json", 1.25));
    let compare = |a: &Path, b: &Path, more: &[&str]| {
        let paths = [a, b].map(|path| path.to_str().unwrap());
        bench(&[&["--compare"], &paths[..], more].concat())
    };
    let output = compare(&a, &b, &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["schema"], "glm/bench-comparison/1");
    let pairs = json["pairs"].as_array().unwrap();
    let ratios: Vec<f64> = pairs.iter().map(|p| p["ratio"].as_f64().unwrap()).collect();
    assert_eq!(ratios, [0.8, 1.0]);
    assert_eq!((&json["only_a"], &json["only_b"]), (&2.into(), &2.into()));
    // 0.8 of the rate: below 0.9, not below 0.75.
    let output = compare(&a, &b, &["--least", "0.9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("0.800 SLOWER"),
        "{}",
        stdout(&output)
    );
    assert!(compare(&a, &b, &["--least", "0.75"]).status.success());
    // What a run writes can be compared with itself.
    let own = folder.path().join("own.json");
    let output = bench(&[&TINY[..], &["-o", "json"]].concat());
    std::fs::write(&own, &output.stdout).unwrap();
    assert!(stdout(&compare(&own, &own, &[])).contains("2 in both"));
    // Nothing in common must not look like a pass.
    assert_eq!(compare(&own, &a, &[]).status.code(), Some(7));
    // Other files are refused.
    let other = folder.path().join("other.json");
    std::fs::write(
        &other,
        r#"{"schema":"glm/bench/2","version":"","command":[],"runs":[]}"#,
    )
    .unwrap();
    let output = compare(&a, &other, &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        stderr(&output).contains("glm/bench/2"),
        "{}",
        stderr(&output)
    );
    std::fs::write(&other, "[]").unwrap();
    assert_eq!(compare(&other, &a, &[]).status.code(), Some(4));
    let missing = folder.path().join("missing.json");
    let output = compare(&missing, &a, &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("missing.json"));
}

#[test]
fn what_cannot_be_measured_is_refused_or_said() {
    fails(&["--shape", "chatglm4"], 2, &["chatglm4", "glm-4-9b"]);
    fails(&["--shape", "tiny", "--layers", "3"], 2, &["3 layers"]);
    fails(&["--layers", "3"], 2, &["--shape"]);
    fails(&["--shape", "tiny", "-b", "0"], 2, &["0"]);
    fails(&["--shape", "tiny", "model"], 2, &["[MODEL]"]);
    fails(&["ops", "--shape", "nothing"], 2, &["nothing"]);
    fails(&["--compare", "a.json"], 2, &["2 values"]);
    fails(&["--least", "0.9"], 2, &["--compare"]);
    fails(
        &["--shape", "tiny", "--device", "nothing:0"],
        3,
        &["nothing:0"],
    );
    fails(&["no-such-folder", "-q"], 4, &["no-such-folder"]);
    fails(&["--context", "64"], 2, &["--shape"]);
    // Beyond the context: each test says so, and a run of such tests alone measured nothing.
    let output = bench(&[
        "--shape", "tiny", "-p", "8", "-n", "5000", "-r", "1", "-o", "json",
    ]);
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    let [measured, skipped] = &results(&document)[..] else {
        panic!("{document}")
    };
    assert!(measured["seconds"].is_object());
    assert!(skipped["skipped"].as_str().unwrap().contains("4096 tokens"));
    let output = bench(&["--shape", "tiny", "-p", "5000", "-n", "0", "-r", "1"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(stdout(&output).contains("SKIPPED: "));
    let output = bench(&["ops", "--shape", "tiny", "--only", "nothing*"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
}

/// The script that checks GPUs, on the CPU: its parts, its files and its table; the peers are skipped where there is no torch.
#[cfg(unix)]
#[test]
fn the_check_of_gpus_runs_on_any_device() {
    for tool in ["python3", "timeout"] {
        if let Err(e) = Command::new(tool).arg("--version").output() {
            return conformance::skip(tool, e);
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = TempDir::new().unwrap();
    let output = Command::new("sh")
        .arg(root.join("scripts/gpu-check.sh"))
        .args(["--small", "cpu"])
        .arg(folder.path())
        .env("GLM", env!("CARGO_BIN_EXE_glm"))
        .env("LEVELS", "0")
        .env("PYTHON", "python3")
        .env("SECONDS_IN_ALL", "300")
        .output()
        .unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    for part in [
        "answers",
        "level-0",
        "ops",
        "model-tiny-bf16",
        "model-tiny-int8",
        "model-tiny-int4",
    ] {
        let passed = |line: &str| line.starts_with(part) && line.contains("passed");
        assert!(text.lines().any(passed), "{part}: {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("peers")), "{text}");
    for line in [
        "matmul/m8/n256/k128/int4 ",
        "glu/1024x256/bf16 ",
        "tiny/int8/b2/d0/tg4 ",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}: {text}");
    }
    assert!(text.contains("say nothing about speed"), "{text}");
    for file in [
        "about.txt",
        "commands.log",
        "ops.jsonl",
        "report.txt",
        "level-0/report.json",
    ] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}
