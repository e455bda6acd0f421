//! `glm conform` as its users meet it: reports, verification, errors, exit codes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    command.arg("conform").args(args);
    command
}

fn conform(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Expects an exit code, an empty stdout, and an error that names all of `words`.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = conform(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(code == 2 || error.contains("next: "), "{args:?}: {error}");
    for word in words {
        assert!(
            error.contains(word),
            "{args:?} does not name {word}: {error}"
        );
    }
}

#[test]
fn a_run_writes_a_report_that_verifies_and_a_changed_one_does_not() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("out");
    let key = dir.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let args = [
        "--quick",
        "--level",
        "0..2",
        "--ops",
        "memory,glu,copy",
        "--jobs",
        "2",
    ];
    let more = [
        "--report",
        path(&report),
        "--sign-key",
        path(&key),
        "--order-seed",
        "7",
    ];
    let output = conform(&[&args[..], &more[..]].concat());
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{error}");
    for words in [
        "L0 memory and streams",
        "certifies nothing",
        "order seed 7",
        "report.html",
    ] {
        assert!(out.contains(words), "{out}");
    }
    for file in ["report.html", "junit.xml", "summary.md", "progress.jsonl"] {
        assert!(report.join(file).exists(), "{file}");
    }
    let json = report.join("report.json");
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(document["schema"], "glm/conformance/1");
    assert_eq!(document["summary"]["verdict"], "passed");
    let results = document["results"].as_array().unwrap();
    // The CPU works at once: there is nothing to capture.
    let status = |r: &Value| match r["name"] == "memory/capture" {
        true => "UNSUPPORTED",
        false => "PASS",
    };
    assert!(results.iter().all(|r| r["status"] == status(r)));

    let output = conform(&["--verify", path(&json), "--sample", "30%", "--json"]);
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{verified}");
    assert_eq!(verified["same_device"], true);
    assert!(verified["checked"].as_u64().unwrap() > 5 && verified["signed_by"].is_string());

    let changed = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, changed.replacen("\"PASS\"", "\"FAIL\"", 1)).unwrap();
    fails(&["--verify", path(&json)], 4, &["digest"]);

    // All is done already: going on runs nothing, and says the same.
    let more = ["--report", path(&report), "--resume", "--json"];
    let output = conform(&[&args[..], &more[..]].concat());
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["results"].as_array().unwrap().len(), results.len());
    assert_eq!(again["results"], document["results"]);
    let other = [
        "--quick",
        "--level",
        "0",
        "--report",
        path(&report),
        "--resume",
    ];
    fails(&other, 4, &["another", "selection"]);
}

#[test]
fn small_models_are_right_in_every_format() {
    for activations in ["f32", "int8"] {
        let output = conform(&["--level", "5", "--json", "--activations", activations]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        for result in document["results"].as_array().unwrap() {
            assert_eq!(result["status"], "PASS", "{activations}: {result:#}");
            println!("{}: {}", result["name"], result["why"]);
        }
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn bad_input_ends_in_an_error_that_tells_the_class() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    fails(&["--ops", "matmull"], 2, &["matmull", "batched_matmul"]);
    fails(&["--level", "9"], 2, &["9"]);
    fails(&["--level", "4..2"], 2, &["4..2"]);
    fails(&["--quick", "--full"], 2, &["--full"]);
    fails(&["--jobs", "0"], 2, &["--jobs"]);
    fails(&["--timeout", "0"], 2, &["--timeout"]);
    fails(&["--resume"], 2, &["--report"]);
    fails(&["--verify", "x", "--sample", "200%"], 2, &["share"]);
    fails(
        &["--level", "0", "--ops", "matmul"],
        7,
        &["no check in common"],
    );
    fails(&["--device", "cuda:7", "--quick"], 3, &["cuda:7"]);
    fails(
        &["--verify", "/no/such/report.json"],
        4,
        &["/no/such/report.json"],
    );
    for (name, content) in [
        ("empty", ""),
        ("list", "[]"),
        ("binary", "\u{1}"),
        ("other", "{\"schema\":\"x\"}"),
    ] {
        fails(&["--verify", path(&file(name, content))], 4, &["report"]);
    }
    let waiver =
        "[[waiver]]\nid = \"W9\"\ntest = \"*\"\ndevice = \"*\"\nreason = \"r\"\nowner = \"o\"\n";
    let expired = file("expired.toml", &format!("{waiver}expires = 2020-01-01\n"));
    fails(
        &["--waivers", path(&expired)],
        4,
        &["W9", "expired", "2020-01-01"],
    );
    let broken = file("broken.toml", "[[waiver]\n");
    fails(&["--waivers", path(&broken)], 4, &["broken.toml"]);
    fails(&["--waivers", "/no/such.toml"], 4, &["/no/such.toml"]);
    let key = file("key", "secret");
    let args = [
        "--level",
        "0",
        "--ops",
        "memory/facts",
        "--quiet",
        "--sign-key",
        path(&key),
    ];
    fails(&args, 4, &["64 hexadecimal digits"]);
    let report = file("a_file", "").join("below");
    fails(&["--level", "0", "--report", path(&report)], 4, &["a_file"]);
}

#[test]
fn a_waiver_for_what_passes_fails_the_run() {
    let dir = TempDir::new().unwrap();
    let waivers = dir.path().join("known.toml");
    let text = "[[waiver]]\nid = \"W1\"\ntest = \"memory/far\"\ndevice = \"cpu\"\nreason = \"r\"\n\
        owner = \"o\"\nexpires = 2999-01-01\n";
    std::fs::write(&waivers, text).unwrap();
    let output = conform(&[
        "--level",
        "0",
        "--waivers",
        path(&waivers),
        "--json",
        "--quiet",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let far = document["results"].as_array().unwrap().iter();
    let far = far.clone().find(|r| r["name"] == "memory/far").unwrap();
    assert_eq!(
        (&far["status"], &far["unwaived"]),
        (&"XPASS".into(), &"PASS".into())
    );
    assert_eq!(document["waivers"][0]["unexpected"], 1);
}

#[test]
fn lists_checks_and_runs_one_by_its_name() {
    let output = conform(&["--list", "--level", "1..3", "--ops", "cast"]);
    let list = text(&output.stdout).to_owned();
    let name = list
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    assert!(name.starts_with("cast/"), "{list}");
    let output = conform(&["--level", "0..7", "--ops", name, "--json", "--quiet"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["results"].as_array().unwrap().len(), 1);
    assert_eq!(document["results"][0]["name"], name);
}

#[test]
fn time_outs_have_an_exit_code_of_their_own() {
    // No model answers within a millisecond.
    let args = [
        "--level",
        "5",
        "--ops",
        "model/demo_answers",
        "--timeout",
        "0.001",
        "--json",
    ];
    let output = conform(&args);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["results"][0]["status"], "TIMEOUT", "{document}");
    assert_eq!(output.status.code(), Some(8));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_a_partial_report() {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("out");
    let child = command(&["--level", "3..5", "--report", path(&report), "--quiet"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Once results come, the handler is in place.
    let progress = report.join("progress.jsonl");
    let lines = || {
        std::fs::read_to_string(&progress)
            .unwrap_or_default()
            .lines()
            .count()
    };
    while lines() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let document: Value =
        serde_json::from_slice(&std::fs::read(report.join("report.json")).unwrap()).unwrap();
    assert_eq!(document["timing"]["partial"], true);
    let statuses = &document["summary"]["statuses"];
    assert!(statuses["PASS"].as_u64() > Some(0) && statuses["NOT-RUN"].as_u64() > Some(0));
    assert_eq!(document["summary"]["certifies"], false);
}

/// The statuses of the checks that ran, and the whole document.
fn statuses(args: &[&str]) -> (Option<i32>, Vec<(String, String)>, Value) {
    let output = conform(&[args, &["--json", "--quiet"]].concat());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let results = document["results"].as_array().unwrap().iter();
    let results = results.map(|r| (text(&r["name"]), text(&r["status"])));
    (output.status.code(), results.collect(), document.clone())
}

#[test]
fn properties_probes_and_discipline_are_level_6() {
    for device in ["cpu", "emulator:wave64,async"] {
        let (code, results, document) = statuses(&["--device", device, "--level", "6"]);
        for (name, status) in &results {
            let want = match device == "cpu" && name.starts_with("capture/") {
                true => "UNSUPPORTED",
                false => "PASS",
            };
            assert_eq!(status, want, "{device}: {name}: {document:#}");
        }
        assert_eq!(code, Some(0));
        for kind in ["probe/card", "capture/", "discipline/", "property/"] {
            assert!(
                results.iter().any(|(name, _)| name.starts_with(kind)),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_device_that_is_wrong_fails_and_one_that_dies_ends_the_run_with_results() {
    for (device, check, status) in [
        ("emulator:tf32,lies", "probe/card", "FAIL"),
        ("emulator:tf32", "probe/card", "PASS"),
        (
            "emulator:mutant=matmul/nibbles-swapped",
            "property/matmul",
            "FAIL",
        ),
        (
            "emulator:mutant=matmul/nibbles-swapped",
            "property/softmax",
            "PASS",
        ),
        ("emulator:async,waits-ignored", "memory/events", "FAIL"),
        ("emulator:replay-stale", "capture/rope", "FAIL"),
        ("emulator:lost@20", "property/cast", "DEVICE-LOST"),
        ("emulator:nobf16", "discipline/matmul", "PASS"),
    ] {
        let args = ["--device", device, "--level", "0..6", "--ops", check];
        let (code, results, document) = statuses(&args);
        let want = (check.to_owned(), status.to_owned());
        assert_eq!(results, [want], "{device}: {document:#}");
        assert_eq!(code == Some(0), status == "PASS", "{device}");
    }
}

#[test]
fn the_mutation_score_counts_what_lives() {
    let args = ["--device", "emulator", "--mutation-score", "--quick"];
    let output = conform(&[&args[..], &["--ops", "c*", "--json"]].concat());
    let score: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{score:#}");
    assert_eq!(score["schema"], "glm/mutation-score/1");
    assert!(score["mutants"].as_u64() > Some(20), "{score}");
    assert_eq!(score["killed"], score["mutants"]);
    assert_eq!(score["false_alarms"], 0);
    // What a quick run does not measure, it does not tell.
    assert!(score.get("killed_by_properties").is_none(), "{score}");
    let none = [&args[..], &["--ops", "matmull"]].concat();
    fails(&none, 7, &["matmull"]);
    fails(&["--device", "emulator:fast", "--level", "0"], 3, &["fast"]);
}
