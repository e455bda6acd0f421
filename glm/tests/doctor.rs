//! `glm doctor` and `glm errors`: what they say in both languages, and their exit codes.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `glm` in a place where no variable chooses devices, drivers or languages but those of `env`.
fn glm(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    let choosing = |name: &str| {
        let (begins, ends) = (["GLM_", "LC_"], ["_VISIBLE_DEVICES", "_LAUNCH_BLOCKING"]);
        begins.iter().any(|b| name.starts_with(b))
            || ends.iter().any(|e| name.ends_with(e))
            || ["LANG", "GPU_DEVICE_ORDINAL", "HSA_OVERRIDE_GFX_VERSION"].contains(&name)
    };
    for (name, _) in std::env::vars().filter(|(name, _)| choosing(name)) {
        command.env_remove(name);
    }
    command.args(args).envs(env.iter().copied());
    command.output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What `glm doctor` finds with these variables, and its exit code.
fn doctor(more: &[&str], env: &[(&str, &str)]) -> (Vec<Value>, Option<i32>) {
    let output = glm(&[&["doctor", "--json"], more].concat(), env);
    let error = String::from_utf8_lossy(&output.stderr);
    let document: Value = serde_json::from_slice(&output.stdout).expect(&error);
    assert_eq!(document["schema"], "glm/doctor/1");
    let findings = document["findings"].as_array().unwrap().clone();
    for (name, severity) in [("errors", "error"), ("warnings", "warning")] {
        let of = |f: &&Value| f["severity"] == severity;
        let count = findings.iter().filter(of).count();
        assert_eq!(document["summary"][name], count);
    }
    let bad = findings.iter().any(|f| f["severity"] == "error");
    let code = output.status.code();
    assert_eq!(code, Some(if bad { 3 } else { 0 }), "{error}");
    (findings, code)
}

fn of_code<'f>(findings: &'f [Value], code: &str) -> Vec<&'f Value> {
    findings.iter().filter(|f| f["code"] == code).collect()
}

#[test]
fn every_back_end_is_looked_at_and_the_cpu_computes() {
    let output = glm(&["doctor", "--json"], &[]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let areas: BTreeSet<&str> = findings.iter().filter_map(|f| f["area"].as_str()).collect();
    for name in document["backends"].as_array().unwrap() {
        // Without GLM_PLUGINS there is nothing to look for.
        let name = name.as_str().unwrap();
        assert!(
            name == "plugin" || areas.contains(name),
            "{name}: {areas:?}"
        );
    }
    let ran = of_code(findings, "GLM-D025");
    for device in ["cpu", "emulator"] {
        assert!(
            ran.iter().any(|f| f["values"]["device"] == device),
            "{device}"
        );
    }
    // What is no pass says what to do.
    for finding in findings {
        let told = finding["next"]
            .as_str()
            .is_some_and(|next| !next.is_empty());
        assert_eq!(told, finding["severity"] != "ok", "{finding}");
    }
    let texts = findings.iter().filter_map(|f| f["what"].as_str());
    assert!(texts.clone().count() > 3 && texts.clone().all(|t| !t.contains(['‹', '{'])));
}

#[test]
fn traps_of_variables_are_found() {
    let (clean, _) = doctor(&[], &[]);
    for (env, code, words) in [
        (
            &[("CUDA_VISIBLE_DEVICES", "")][..],
            "GLM-D041",
            "unset CUDA_VISIBLE_DEVICES",
        ),
        (
            &[("ASCEND_RT_VISIBLE_DEVICES", "0, 1")],
            "GLM-D042",
            "ASCEND_RT_VISIBLE_DEVICES=0,1",
        ),
        (
            &[("ASCEND_RT_VISIBLE_DEVICES", "1,0")],
            "GLM-D043",
            "ascending",
        ),
        (
            &[("HIP_VISIBLE_DEVICES", "0"), ("ROCR_VISIBLE_DEVICES", "1")],
            "GLM-D044",
            "Set one of them",
        ),
        (
            &[("HSA_OVERRIDE_GFX_VERSION", "9.0.6")],
            "GLM-D045",
            "unset HSA_OVERRIDE_GFX_VERSION",
        ),
        (
            &[("GLM_HIP_LIBRARIES", "/no/such/folder")],
            "GLM-D047",
            "GLM_HIP_LIBRARIES",
        ),
    ] {
        let (findings, _) = doctor(&[], env);
        let found = of_code(&findings, code);
        assert_eq!(found.len(), 1, "{env:?}");
        let next = found[0]["next"].as_str().unwrap();
        assert!(next.contains(words), "{next}");
        assert_eq!(found[0]["area"], "variables");
        assert!(of_code(&clean, code).is_empty(), "{code} without {env:?}");
    }
}

#[test]
fn more_threads_than_processors_are_a_warning() {
    let (findings, _) = doctor(&["--threads", "999"], &[]);
    let found = of_code(&findings, "GLM-D006");
    assert_eq!(found[0]["severity"], "warning");
    assert!(found[0]["what"].as_str().unwrap().contains("999"));
}

#[cfg(feature = "emulator")]
#[test]
fn broken_devices_are_findings_and_exit_with_3() {
    for (device, code) in [
        // Wrong from the first launch on; lost, crashing and hanging at it.
        ("emulator:wrong@1", "GLM-D027"),
        ("emulator:lost@1", "GLM-D026"),
        ("emulator:crash@1", "GLM-D028"),
        ("emulator:hang@1", "GLM-D029"),
        ("emulator:no-such-word", "GLM-D030"),
        ("cuda:99", "GLM-D030"),
        ("toaster", "GLM-D030"),
    ] {
        // Long enough for the others, which compile.
        let seconds = if device.contains("hang") { "30" } else { "300" };
        let (findings, exit) = doctor(&["--device", device, "--timeout", seconds], &[]);
        assert_eq!(exit, Some(3), "{device}");
        let area = device.split(':').next().unwrap();
        let found = of_code(&findings, code);
        assert!(
            found.iter().any(|f| f["area"] == area),
            "{device}: {findings:?}"
        );
        // The rest was checked all the same.
        let ran = of_code(&findings, "GLM-D025");
        assert!(
            ran.iter().any(|f| f["values"]["device"] == "cpu"),
            "{device}"
        );
    }
}

#[test]
fn the_language_is_that_of_the_flag_or_the_locale() {
    let last = |args: &[&str], env: &[(&str, &str)]| {
        let output = glm(args, env);
        stdout(&output).lines().last().unwrap().to_owned()
    };
    assert!(last(&["doctor"], &[]).starts_with("errors: "));
    assert!(last(&["doctor", "--lang", "zh"], &[]).starts_with("错误 "));
    assert!(last(&["doctor"], &[("LANG", "zh_CN.UTF-8")]).starts_with("错误 "));
    let both = [("LANG", "zh_CN.UTF-8"), ("GLM_LANG", "en")];
    assert!(last(&["doctor"], &both).starts_with("errors: "));
    let all = [("LC_ALL", "C"), ("LANG", "zh_CN.UTF-8")];
    assert!(last(&["errors"], &all).contains("a bug"));
}

/// What a back end says of itself is in Chinese too, but for details, which are its own and the vendor's.
#[test]
fn errors_of_back_ends_have_their_class_and_advice_in_chinese() {
    let zh = |device: &str| doctor(&["--device", device, "--lang", "zh"], &[]).0;
    let is_chinese = |c: char| ('\u{4e00}'..='\u{9fff}').contains(&c);
    let mut seen = 0;
    for device in ["cuda:99", "toaster"] {
        for finding in zh(device) {
            let code = finding["code"].as_str().unwrap();
            if !["GLM-D020", "GLM-D023", "GLM-D026", "GLM-D030"].contains(&code) {
                continue;
            }
            seen += 1;
            let [what, next] = ["what", "next"].map(|key| finding[key].as_str().unwrap());
            assert!(next.contains(is_chinese), "{finding}");
            // The class of the error, with the details in brackets after it.
            let class = what.split('（').next().unwrap();
            let class = class.rsplit('：').next().unwrap();
            assert!(class.contains(is_chinese), "{finding}");
        }
    }
    assert!(seen > 1);
}

#[test]
fn codes_are_listed_and_explained_in_both_languages() {
    let list = glm(&["errors", "--json", "--lang", "en"], &[]);
    let document: Value = serde_json::from_slice(&list.stdout).unwrap();
    let codes = document["codes"].as_array().unwrap();
    assert!(codes.len() > 30);
    let text = glm(&["errors", "--lang", "en"], &[]);
    assert_eq!(stdout(&text).lines().count(), codes.len());
    for code in ["GLM-D042", "d041", "GLM-E003"] {
        let en = glm(&["errors", code, "--lang", "en"], &[]);
        let zh = glm(&["errors", code, "--lang", "zh"], &[]);
        for (output, cause, next) in [(&en, "cause: ", "next: "), (&zh, "原因: ", "建议: ")] {
            let text = stdout(output);
            assert!(output.status.success());
            assert!(text.contains(cause) && text.contains(next), "{text}");
        }
    }
    let unknown = glm(&["errors", "GLM-D999"], &[]);
    assert_eq!(unknown.status.code(), Some(4));
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert!(error.contains("GLM-D999") && error.contains("next: `glm errors`"));
}

#[test]
fn errors_name_their_code() {
    let output = glm(&["logits", "/no/such/model", "--ids", "1"], &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error.lines().last().unwrap();
    let code = line.trim().strip_prefix("more: glm errors ").unwrap();
    let explained = glm(&["errors", code, "--lang", "en"], &[]);
    assert!(stdout(&explained).contains("is not there"), "{error}");
}
