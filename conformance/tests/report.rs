//! The document of a run, its views, and what happens when someone changes it.

use conformance::report::{Document, Key, Timing, Verdict, difference};
use conformance::{
    Asked, Catalogue, Depth, DeviceFacts, Level, Outcome, Record, Selection, Speed, Status, Suite,
    Worst, reference_device,
};
use hal::ErrorKind;
use serde_json::Value;

fn asked(levels: &str, ops: &[&str], depth: Depth) -> Asked {
    Asked {
        suite: "test".into(),
        device: DeviceFacts::of(&reference_device::open()),
        selection: Selection {
            levels: levels.parse().unwrap(),
            ops: ops.iter().map(|s| s.to_string()).collect(),
            depth,
            ..Selection::default()
        },
        order_seed: 3,
    }
}

fn timing(partial: bool) -> Timing {
    Timing {
        started: "2026-11-25T12:00:00Z".into(),
        seconds: 1.5,
        jobs: 2,
        timeout_seconds: 30.0,
        partial,
    }
}

fn record(name: &str, level: Level, status: Status) -> Record {
    let op = name.split('/').next().unwrap().to_owned();
    Record {
        name: name.into(),
        level,
        dtype: Some("f16".into()),
        weight: None,
        waiver: None,
        unwaived: None,
        outcome: Outcome::new(op, format!("case of {name}")).ended(status, ""),
    }
}

/// Real results of quick cases, and one of everything that can go wrong.
fn document() -> Document {
    let asked = asked("0..7", &[], Depth::Quick);
    let selection = Selection {
        ops: vec!["copy".into(), "rms_norm".into(), "memory".into()],
        levels: "0..4".parse().unwrap(),
        ..asked.selection.clone()
    };
    let run = conformance::run(|| Ok(reference_device::open()), &selection, Vec::new());
    let mut results = run.unwrap().results;
    let failed: Vec<_> = results
        .iter()
        .filter(|r| r.outcome.status.is_failure())
        .collect();
    assert!(failed.is_empty(), "the reference device fails: {failed:#?}");
    for status in Status::ALL {
        let mut record = record(&format!("glu/f16/{status}"), Level::Elementwise, status);
        record.outcome.why = "<script>alert(1)</script> & \u{1} \"quoted\"".into();
        record.outcome.worst = Some(Worst {
            arg: "out".into(),
            index: vec![1, 2],
            got: f64::NAN,
            want: 1.0,
            bound: 1e-3,
            utilisation: f64::INFINITY,
        });
        results.push(record);
    }
    let mut fast = record("matmul/speed", Level::Speed, Status::Pass);
    fast.outcome.speed = Some(Speed {
        seconds: 1e-3,
        bytes: 1e6,
        flops: 1e8,
        of_roofline: 0.5,
        bandwidth: 1e10,
        peak: 2e11,
    });
    results.push(fast);
    Document::new(asked, timing(false), Vec::new(), results)
}

#[test]
fn the_document_fits_its_schema_and_survives_the_journey() {
    let document = document();
    let text = document.json().unwrap();
    let schema: Value = serde_json::from_str(include_str!("../report.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let mut wrong = value;
    wrong["results"][0]["status"] = "FINE".into();
    assert!(!validator.is_valid(&wrong));
    assert_eq!(Document::read(&text).unwrap().json().unwrap(), text);
}

#[test]
fn a_changed_document_is_found_out() {
    let mut document = document();
    let kind = |text: &str| Document::read(text).unwrap_err().kind();
    let text = document.json().unwrap();
    let fail = text.replacen("\"status\":\"FAIL\"", "\"status\":\"PASS\"", 1);
    assert_ne!(fail, text);
    for broken in [
        &fail,
        &text[..text.len() / 2],
        "",
        "[]",
        "{\"schema\":\"glm/conformance/2\"}",
    ] {
        assert_eq!(kind(broken), ErrorKind::Corrupt);
    }
    // Deep nesting ends in an error, not in a stack overflow.
    assert_eq!(kind(&"[".repeat(100_000)), ErrorKind::Corrupt);

    document.sign(&Key::parse(&"07".repeat(32)).unwrap());
    let signed = document.json().unwrap();
    assert!(Document::read(&signed).unwrap().signature.is_some());
    let mut other = document.clone();
    other.sign(&Key::parse(&"08".repeat(32)).unwrap());
    let value = &document.signature.as_ref().unwrap().value;
    let forged = signed.replace(value, &other.signature.as_ref().unwrap().value);
    assert_eq!(kind(&forged), ErrorKind::Corrupt);
    for key in ["", "xyz", &"7".repeat(63), &"é".repeat(32)] {
        assert_eq!(Key::parse(key).err().unwrap().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_sample_runs_again_and_differences_are_told() {
    let document = document();
    assert_eq!(document.sample(0.0, 1).len(), 1);
    let names = |seed| -> Vec<String> {
        let sample = document.sample(0.2, seed);
        sample.iter().map(|r| r.name.clone()).collect()
    };
    assert_eq!(names(4), names(4));
    assert_ne!(names(4), names(5));
    let suite = Suite::new(reference_device::open());
    let all = Catalogue::new(&document.asked.selection, Vec::new()).unwrap();
    let real = document
        .results
        .iter()
        .find(|r| r.outcome.metrics.is_some())
        .unwrap();
    let again = all.find(&real.name).unwrap().run(&suite);
    assert_eq!(difference(real, &again, true), None);
    let mut other = again.clone();
    other.metrics.as_mut().unwrap().checksum = "0".repeat(16);
    assert!(difference(real, &other, true).unwrap().contains("outputs"));
    assert_eq!(difference(real, &other, false), None);
    let failed = again.ended(Status::Fail, "off");
    assert!(
        difference(real, &failed, false)
            .unwrap()
            .contains("PASS then, FAIL now")
    );
}

#[test]
fn verdicts_tell_the_classes_apart() {
    let verdict = |partial, statuses: &[Status]| {
        let results = statuses
            .iter()
            .map(|&s| record("matmul/f16/x", Level::Matmul, s));
        let asked = asked("0..6", &[], Depth::Standard);
        Document::new(asked, timing(partial), Vec::new(), results.collect()).summary
    };
    use Status::*;
    for (partial, statuses, expected) in [
        (
            false,
            &[Pass, PassWeak, Waived, Unsupported][..],
            Verdict::Passed,
        ),
        (false, &[Pass, Fail], Verdict::Failed),
        (false, &[Pass, XPass], Verdict::Failed),
        (false, &[Pass, Host], Verdict::Failed),
        (false, &[Pass, ClaimedButUnsupported], Verdict::Failed),
        (false, &[Pass, Timeout], Verdict::TimedOut),
        (false, &[Crash, Timeout], Verdict::Failed),
        (false, &[Unsupported, NotRun], Verdict::NothingTested),
        (false, &[], Verdict::NothingTested),
        (true, &[Pass, NotRun], Verdict::Partial),
        (true, &[Fail, NotRun], Verdict::Failed),
    ] {
        let summary = verdict(partial, statuses);
        assert_eq!(summary.verdict, expected, "{statuses:?}");
        assert_eq!(
            summary.certifies,
            expected == Verdict::Passed,
            "{statuses:?}"
        );
    }
    assert_eq!(verdict(false, &[Fail]).missing, ["matmul"]);
    let passed = vec![record("matmul/f16/x", Level::Matmul, Pass)];
    for asked in [
        asked("0..6", &[], Depth::Quick),
        asked("0..6", &["matmul"], Depth::Standard),
        asked("0..4", &[], Depth::Full),
        asked("1..5", &[], Depth::Full),
    ] {
        let document = Document::new(asked, timing(false), Vec::new(), passed.clone());
        assert!(!document.summary.certifies);
        assert!(document.markdown().contains("certifies nothing: "));
    }
}

#[test]
fn views_hold_what_matters_and_escape_what_devices_say() {
    let mut document = document();
    let html = document.html();
    for part in [
        "<svg",
        "Support",
        "Error budget",
        "Closest to their bounds",
        "Speed",
        "rms_norm",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // One file: no script runs, nothing is fetched.
    for part in ["<script", "http:", "https:", "src=", "url(", "@import"] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains("&lt;script&gt;") && html.contains(&document.digest));
    let xml = document.junit();
    assert!(xml.starts_with("<?xml") && !xml.contains("<script") && !xml.contains('\u{1}'));
    assert_eq!(xml.matches("<testcase ").count(), document.results.len());
    assert_eq!(xml.matches("<failure ").count(), 8);

    let folder = tempfile::tempdir().unwrap();
    document.write(folder.path()).unwrap();
    for file in ["report.json", "report.html", "junit.xml", "summary.md"] {
        assert!(folder.path().join(file).metadata().unwrap().len() > 100);
    }
    let nowhere = folder.path().join("report.json/no");
    assert_eq!(document.write(&nowhere).unwrap_err().kind(), ErrorKind::Io);

    // What changes from run to run and machine to machine.
    document.tool.git = "revision".into();
    document.digest = "digest".into();
    document.results.retain(|r| r.name.starts_with("glu"));
    insta::assert_snapshot!(document.markdown());
}
