//! Probes, properties and disciplines: right devices have them, liars and broken ones do not.

use conformance::discipline::discipline;
use conformance::metamorphic::properties;
use conformance::probe::probe;
use conformance::{Catalogue, Check, Level, Selection, Status, Suite};

fn open(spec: &str) -> ops::Accelerator {
    backend_emulator::open(spec).unwrap()
}

/// What the probes hold against the card.
fn contradictions(spec: &str) -> Vec<String> {
    let accelerator = open(spec);
    let findings = probe(&accelerator).unwrap();
    findings.contradictions(&accelerator.device.info().numerics)
}

#[test]
fn an_honest_card_is_believed() {
    for spec in [
        "emulator",
        "emulator:wave1,async",
        "emulator:tf32",
        "emulator:bf16ops",
        "emulator:f16acc",
        "emulator:ftz",
        "emulator:nobf16",
    ] {
        assert_eq!(contradictions(spec), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn a_card_that_lies_is_found_out() {
    for (spec, word) in [
        (
            "emulator:tf32,lies",
            "operands keep 24 bits, the probe finds 11",
        ),
        (
            "emulator:bf16ops,lies",
            "operands keep 24 bits, the probe finds 8",
        ),
        (
            "emulator:f16acc,lies",
            "scores are summed in f32 (24 bits), the probe finds 11",
        ),
        (
            "emulator:ftz,lies",
            "f32 products keep numbers below 2^-126, the probe finds zero",
        ),
        (
            "emulator:mutant=softmax/maximum-not-subtracted",
            "softmax must be right",
        ),
        (
            "emulator:mutant=softmax/nan-swallowed",
            "NaN and infinities",
        ),
        (
            "emulator:mutant=attention/scores-through-f16",
            "scores are summed in f32 (24 bits)",
        ),
        ("emulator:mutant=cast/ties-away-from-zero", "ties to even"),
        (
            "emulator:mutant=matmul/subnormal-operands-flushed",
            "smallest f16 number",
        ),
    ] {
        let found = contradictions(spec);
        assert!(
            found.iter().any(|why| why.contains(word)),
            "{spec}: {found:?}"
        );
    }
}

#[test]
fn right_devices_have_every_property() {
    for accelerator in [
        open("emulator:wave64,async"),
        open("emulator:ftz,wave1"),
        open("emulator:nobf16"),
        open("emulator:tf32"),
        open("emulator:bf16ops"),
        open("emulator:f16acc"),
        conformance::reference_device::open(),
    ] {
        let spec = &accelerator.device.info().spec;
        for property in properties(&accelerator) {
            assert!(property.is_fine(), "{spec}: {property}");
        }
    }
}

/// Each property tells which operation is wrong.
#[test]
fn broken_devices_lack_a_property_of_the_broken_operation() {
    for mutant in [
        "matmul/last-k-dropped",
        "matmul/nibbles-swapped",
        "matmul/residual-before-the-activation",
        "batched_matmul/b-of-the-first-batch-for-all",
        "softmax/rows-before-the-sequence-computed",
        "attention/heads-grouped-by-remainder",
        "attention/page-ids-off-by-one",
        "attention/causal-mask-sees-the-next-slot",
        "kv_write/slot-and-page-swapped",
        "rope/pairs-of-the-other-layout",
        "rope_kv_write/keys-written-before-they-turn",
        "rms_norm/eps-outside-the-root",
        "layer_norm/mean-not-subtracted",
        "add_rms_norm/factor-ignored",
        "add_layer_norm/sum-not-written",
        "activation/relu-instead-of-silu",
        "glu/halves-swapped",
        "elementwise/difference-reversed",
        "copy/block-copied-over-itself",
        "cast/subnormals-flushed",
        "argmax/last-of-ties",
        "top_k/unsorted",
        "embedding/ids-off-by-one",
        "sample/controls-of-the-first-row-for-all",
    ] {
        let op = mutant.split('/').next().unwrap();
        let broken = properties(&open(&format!("emulator:mutant={mutant}")));
        let broken: Vec<_> = broken
            .iter()
            .filter(|property| !property.is_fine())
            .collect();
        assert!(
            broken.iter().any(|property| property.op == op),
            "{mutant}: {broken:?}"
        );
    }
}

#[test]
fn discipline_is_found() {
    for found in discipline(&open("emulator:async")).unwrap() {
        assert_eq!(found.deterministic, Some(true), "{found}");
        assert_ne!(found.batch_invariant, Some(false), "{found}");
    }
    let rows = discipline(&conformance::reference_device::open()).unwrap();
    assert_eq!(
        rows.iter()
            .filter(|d| d.batch_invariant == Some(true))
            .count(),
        13
    );
    let lottery = discipline(&open("emulator:mutant=matmul/second-run-differs")).unwrap();
    let matmul = lottery.iter().find(|d| d.op == "matmul").unwrap();
    assert_eq!(matmul.deterministic, Some(false));
    let mixed = discipline(&open(
        "emulator:mutant=rms_norm/scale-of-the-first-row-for-all",
    ))
    .unwrap();
    let norm = mixed.iter().find(|d| d.op == "rms_norm").unwrap();
    assert_eq!(norm.batch_invariant, Some(false));
}

/// What level 0 finds wrong.
fn wrong_streams(spec: &str) -> Vec<String> {
    let report = Suite::new(open(spec)).run_level(Level::Memory);
    let wrong = report.outcomes.iter().filter(|o| !o.status.is_pass());
    wrong.map(ToString::to_string).collect()
}

#[test]
fn streams_keep_their_promises_or_are_found_out() {
    for spec in ["emulator", "emulator:async"] {
        assert_eq!(wrong_streams(spec), Vec::<String>::new(), "{spec}");
    }
    for (fault, found) in [
        ("waits-ignored", "did not wait"),
        ("downloads-early", "not give what was uploaded last"),
        ("uploads-short", "came back changed"),
        ("replay-stale", "the first buffer held by then"),
        ("replay-short", "the first buffer held by then"),
    ] {
        let wrong = wrong_streams(&format!("emulator:async,{fault}"));
        assert!(
            wrong.iter().any(|why| why.contains(found)),
            "{fault}: {wrong:?}"
        );
    }
}

/// What the checks of these names find: the name, the status, and why.
fn found(spec: &str, names: &str) -> Vec<(String, Status, String)> {
    let selection = Selection {
        ops: vec![names.into()],
        soak_seconds: Some(0),
        ..Selection::default()
    };
    let suite = Suite::new(open(spec));
    let catalogue = Catalogue::new(&selection, Vec::new()).unwrap();
    let run = |check: &Check| {
        let outcome = check.run(&suite);
        (check.name.clone(), outcome.status, outcome.why)
    };
    catalogue.checks().iter().map(run).collect()
}

#[test]
fn replays_are_plain_runs_or_are_found_out() {
    let right = found("emulator:async", "capture/*");
    assert_eq!(right.len(), 20);
    for (op, status, why) in right {
        assert_eq!(status, Status::Pass, "{op}: {why}");
    }
    for (op, status, why) in found("emulator:replay-stale", "capture/*") {
        assert_eq!(status, Status::Fail, "{op}: {why}");
    }
    for (op, status, why) in found("emulator:replay-short,async", "capture/*") {
        assert_eq!(status, Status::Fail, "{op}: {why}");
    }
    // A device that cannot capture says so, and that is all.
    let suite = Suite::new(conformance::reference_device::open());
    let catalogue = Catalogue::new(&Selection::default(), Vec::new()).unwrap();
    for name in ["memory/capture", "capture/matmul"] {
        let outcome = catalogue.find(name).unwrap().run(&suite);
        assert_eq!(
            outcome.status,
            Status::Unsupported,
            "{name}: {}",
            outcome.why
        );
    }
}

#[test]
fn a_long_run_tells_what_a_short_one_does_not() {
    for (spec, status, why) in [
        (
            "emulator:async,mem256m",
            Status::Pass,
            "B did not come back",
        ),
        ("emulator", Status::Pass, "does not tell its memory"),
        (
            "emulator:wrong@4000",
            Status::Fail,
            "not those of the first round",
        ),
        ("emulator:mem256m,leak", Status::Fail, "B did not come back"),
        // Sooner or later nothing is left.
        ("emulator:mem2m,leak,async", Status::Fail, "OutOfMemory"),
    ] {
        let [(_, found, said)] = &found(spec, "soak/*")[..] else {
            panic!("one soak")
        };
        assert!(
            *found == status && said.contains(why),
            "{spec}: {found} {said}"
        );
    }
}
