//! Level 6: what results must not depend on, what the device says of its arithmetic, and properties that need no
//! reference; captured launches. See [`crate::discipline`], [`crate::probe`] and [`crate::metamorphic`].
//!
//! Every case of the levels before runs twice and must give the same bits; here runs overlap too. Batch invariance is
//! noted, not required: a device may trade it for speed.

use crate::check::Found;
use crate::lab::Lab;
use crate::{Check, Conformance, Fault, Level, Suite, capture, discipline, metamorphic, probe};

/// The checks of this level.
pub(crate) fn checks() -> Vec<Check> {
    let level = Level::Robustness;
    let mut checks = Check::table(
        level,
        "probe",
        &[(
            "card",
            "the arithmetic that probes find is the one that the device declares",
            card,
        )],
    );
    checks.extend(Check::table(
        level,
        "discipline",
        &[(
            "batches",
            "whether a row gives the same bits alone and in a batch",
            batches,
        )],
    ));
    checks.extend(capture::checks());
    macro_rules! each {
        ($($name:ident $op:ident),*) => {
            $(checks.push(Check::new(
                level,
                "discipline",
                stringify!($name),
                "runs one after the other and two at once give the same bits",
                determinism::<ops::$op>,
            ));)*
        };
    }
    crate::for_each_op!(each);
    for (op, names) in metamorphic::names() {
        let run = move |suite: &Suite| properties(suite, op);
        checks.push(Check::new(level, "property", op, &names.join("; "), run));
    }
    checks
}

fn card(suite: &Suite) -> Found {
    let accelerator = suite.accelerator();
    let findings = probe::probe(accelerator)?;
    let wrong = findings.contradictions(&accelerator.device.info().numerics);
    match wrong.is_empty() {
        true => Ok(findings.to_string().replace('\n', "; ")),
        false => Err(Fault::Wrong(wrong.join("; "))),
    }
}

fn determinism<O: Conformance>(suite: &Suite) -> Found {
    match discipline::determinism::<O>(suite)? {
        Some(true) => Ok(String::new()),
        Some(false) => Err(Fault::Wrong("runs give different bits".into())),
        None => Err(nothing_to_ask()),
    }
}

fn batches(suite: &Suite) -> Found {
    let found = discipline::batch_invariance(&Lab::new(suite.accelerator()))?;
    let those = |is: bool| {
        let ops = found.iter().filter(|(_, same)| *same == Some(is));
        ops.map(|(op, _)| *op).collect::<Vec<_>>().join(", ")
    };
    match (those(true), those(false)) {
        (same, other) if same.is_empty() && other.is_empty() => Err(nothing_to_ask()),
        (same, other) if other.is_empty() => Ok(format!("the same bits: {same}")),
        (same, other) => Ok(format!("the same bits: {same}; other bits: {other}")),
    }
}

fn properties(suite: &Suite, op: &str) -> Found {
    let (mut held, mut all) = (0, 0);
    for (name, verdict) in metamorphic::ask(suite.accelerator(), op)? {
        all += 1;
        match verdict {
            Some(Ok(())) => held += 1,
            Some(Err(why)) => return Err(Fault::Wrong(format!("{name}: {why}"))),
            None => {}
        }
    }
    match held {
        0 => Err(nothing_to_ask()),
        _ if held == all => Ok(format!("all {all} hold")),
        _ => Ok(format!(
            "{held} of {all} hold, the others could not be asked"
        )),
    }
}

fn nothing_to_ask() -> Fault {
    Fault::Unsupported("the device has no way to do it".into())
}
