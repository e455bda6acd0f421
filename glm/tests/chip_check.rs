//! `scripts/chip-check.sh`: its folder and summary; on a device that is right, on wrong ones, and where there is none.
#![cfg(all(unix, feature = "emulator"))]

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What a run left.
struct Run {
    /// Holds the folder.
    _parent: TempDir,
    folder: PathBuf,
    summary: String,
    code: Option<i32>,
}

impl Run {
    /// The cells of the summary's row of a step: result, why, next.
    fn step(&self, name: &str) -> Vec<&str> {
        let head = format!("| {name} | ");
        let row = self.summary.lines().find_map(|l| l.strip_prefix(&head));
        let row = row.unwrap_or_else(|| panic!("{name}: {}", self.summary));
        row.split(" | ")
            .map(|cell| cell.trim_matches([' ', '|']))
            .collect()
    }
}

/// Runs the script on `device`; `None` where the system lacks what it needs.
fn check(device: &str, levels: &str, seconds: u32) -> Option<Run> {
    for tool in ["timeout", "tar", "awk"] {
        if let Err(e) = Command::new(tool).arg("--version").output() {
            conformance::skip(tool, e);
            return None;
        }
    }
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("check");
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    let output = command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/chip-check.sh"))
        .arg(device)
        .arg(&folder)
        .env("GLM", env!("CARGO_BIN_EXE_glm"))
        .env("LEVELS", levels)
        .env("SHAPE", "tiny")
        .env("PATIENCE", "15")
        .env("SECONDS_IN_ALL", seconds.to_string())
        .output()
        .unwrap();
    let said = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
    let summary = std::fs::read_to_string(folder.join("summary.md"));
    let summary = summary.unwrap_or_else(|e| panic!("{e}: {said:?}"));
    println!("{}{summary}", said[1]);
    assert!(said[0].contains(&summary));
    Some(Run {
        _parent: parent,
        folder,
        summary,
        code: output.status.code(),
    })
}

#[test]
fn a_device_that_is_right_passes_every_step() {
    let Some(run) = check("cpu", "0 1", 300) else {
        return;
    };
    for step in [
        "doctor",
        "devices",
        "level-0",
        "support",
        "plan",
        "level-1",
        "trace",
        "compare",
        "answers",
        "bench-ops",
        "bench-model",
    ] {
        // What other devices of this machine are like is not the script's fault.
        assert!(run.step(step)[0] == "passed" || step == "doctor", "{step}");
    }
    assert!(run.summary.contains("Measured limits: "));
    for file in [
        "about.txt",
        "doctor.json",
        "level-0/report.json",
        "level-1/report.html",
        "chip.trc",
        "answers.log",
        "commands.log",
    ] {
        assert!(run.folder.join(file).is_file(), "{file}");
    }
    let archive = Command::new("tar")
        .arg("-tzf")
        .arg(run.folder.with_extension("tar.gz"))
        .output()
        .unwrap();
    let names = String::from_utf8_lossy(&archive.stdout).into_owned();
    assert!(
        names.contains("check/summary.md") && names.contains("check/level-1/report.html"),
        "{names}"
    );
    // Nothing of the machine's owner.
    let home = std::env::var("HOME").unwrap_or_default();
    for entry in std::fs::read_dir(&run.folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned());
        let here = run.folder.to_str().unwrap();
        let text = text.unwrap_or_default();
        assert!(!text.contains(here), "{}", path.display());
        assert!(
            home.len() < 2 || !text.contains(&format!("{home}/")),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_fault_fails_its_steps_and_not_the_others() {
    // Sums in f16, which the device declares: operations pass by what it declares, models do not.
    let Some(run) = check("emulator:f16acc", "0 5", 300) else {
        return;
    };
    assert_eq!(run.code, Some(1));
    assert_eq!(run.step("level-0")[0], "passed");
    let level = run.step("level-5");
    assert!(
        level[0].starts_with("FAILED") && level[1].contains("first: model/"),
        "{level:?}"
    );
    assert!(
        level[2].starts_with("glm conform --device emulator:f16acc --level 5 --ops 'model/"),
        "{level:?}"
    );
    assert!(run.summary.contains("Look at this first: **level-5**"));
    assert_eq!(run.step("answers").len(), 3);
}

#[test]
fn a_wrong_kernel_is_named_by_the_trace() {
    let device = "emulator:mutant=glu/halves-swapped";
    let Some(run) = check(device, "0 2", 200) else {
        return;
    };
    assert_eq!(run.code, Some(1));
    assert!(run.step("level-2")[1].contains("first: glu/"));
    let compare = run.step("compare");
    assert!(
        compare[0].starts_with("FAILED") && compare[1].contains("model.layers.0/glu"),
        "{compare:?}"
    );
    assert!(
        compare[2].contains("--tensors 'model.layers.0/glu'"),
        "{compare:?}"
    );
    assert!(run.step("answers")[0].starts_with("FAILED"));
}

#[test]
fn a_process_that_dies_is_one_failed_step() {
    let Some(run) = check("emulator:crash@3", "0 1", 120) else {
        return;
    };
    assert_eq!(run.code, Some(1));
    for (step, word) in [("level-0", "CRASH"), ("level-1", "CRASH")] {
        assert!(run.step(step)[1].contains(word), "{step}: {}", run.summary);
    }
    assert!(run.step("trace")[0].contains("signal"), "{}", run.summary);
}

#[test]
fn where_there_is_no_device_the_summary_is_short() {
    let Some(run) = check("cuda:99", "0 1", 120) else {
        return;
    };
    assert_eq!(run.code, Some(3));
    assert!(run.summary.contains("**cuda:99 does not open**"));
    assert!(run.step("doctor")[1].contains("GLM-D030"));
    assert!(run.step("level-0")[1].contains("cuda:99"));
    let rest = "support plan level-1 trace answers bench-ops bench-model";
    assert_eq!(run.step(rest)[0], "not run: the device does not open");
}
