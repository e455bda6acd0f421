//! Level 6: what was captured and is launched again gives what a plain launch gives, also when the values in its
//! buffers have changed since.

use hal::ErrorKind;
use ops::How;

use crate::bench::{Bench, Looked, POISON};
use crate::case::{Case, Fill};
use crate::{Check, Conformance, Fault, Level, Suite, discipline};

/// One check per operation.
pub(crate) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    macro_rules! each {
        ($($name:ident $op:ident),*) => {
            $(checks.push(Check::new(
                Level::Robustness,
                "capture",
                stringify!($name),
                "a captured launch, repeated on the same values and on others, gives the bits of a plain one",
                replays::<ops::$op>,
            ));)*
        };
    }
    crate::for_each_op!(each);
    checks
}

fn replays<O: Conformance>(suite: &Suite) -> Result<String, Fault> {
    let (mut replayed, mut changed) = (0, false);
    for case in discipline::sample::<O>() {
        if let Some(changes) = replay(suite, &case)? {
            replayed += 1;
            changed |= changes;
        }
    }
    match (replayed, changed) {
        (0, _) => Err(Fault::Unsupported(
            "the device has no way to do it by itself".into(),
        )),
        (_, false) => Err(Fault::Wrong(
            "the suite is wrong: other values gave no other results".into(),
        )),
        _ => Ok(format!("{replayed} cases")),
    }
}

/// Whether other values gave other results; `None` when the device has no way to do it by itself.
fn replay<O: Conformance>(suite: &Suite, case: &Case<O>) -> Result<Option<bool>, Fault> {
    let plan = match suite.context().plan(case.op.clone()) {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(None),
        plan => plan?,
    };
    if plan.how() == How::Host {
        return Ok(None);
    }
    let here = Bench::new(suite.context(), &plan, case)?;
    let other = Bench::new(suite.context(), &plan, &later(case))?;
    let plain = right(here.run(&plan, POISON[0])?)?;
    let plain_other = right(other.run(&plan, POISON[0])?)?;

    let mut stream = suite.device().stream()?;
    let workspace = here.workspace(&plan)?;
    stream.begin_capture()?;
    let launched = plan.run_list(&mut *stream, &here.args()?, &workspace.view()?);
    let graph = stream.end_capture()?;
    launched?;
    for (round, values, want, poison) in [
        ("first replay", &here, &plain, POISON[0]),
        ("replay on other values", &other, &plain_other, POISON[1]),
        ("replay on the first values again", &here, &plain, POISON[0]),
    ] {
        let before = here.fill(&mut *stream, &workspace, values, poison)?;
        graph.launch(&mut *stream)?;
        stream.synchronize()?;
        let got = right(here.look(&mut *stream, &workspace, &before, poison)?)?;
        if let Some((out, i)) = difference(&got, want) {
            let why = format!(
                "{}: the {round} gives {:e} in element {i} of output {out}, a plain run {:e}",
                case.id(),
                got[out][i],
                want[out][i]
            );
            return Err(Fault::Wrong(why));
        }
    }
    Ok(Some(difference(&plain, &plain_other).is_some()))
}

fn right((outputs, disturbed): Looked) -> Result<Vec<Vec<f64>>, Fault> {
    match disturbed {
        None => Ok(outputs),
        Some(why) => Err(Fault::Wrong(why)),
    }
}

/// The first output and element whose bits differ.
fn difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> Option<(usize, usize)> {
    a.iter().zip(b).enumerate().find_map(|(out, (a, b))| {
        let differs = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits();
        Some((out, a.iter().zip(b).position(differs)?))
    })
}

/// The same launch some tokens later: other random numbers, and other values in what a decode step reads from device
/// memory. Specification, shapes, layouts and weights stay.
fn later<O: Conformance>(case: &Case<O>) -> Case<O> {
    let mut later = case.clone();
    later.draw = 1;
    let signature = case.op.signature();
    let pages = signature.iter().position(|arg| arg.name == "k_pages");
    let pages = pages.map_or(1, |i| case.operands[i].shape[0]) as f64;
    // First tokens of sequences, and the end of the last.
    let bounds = signature.iter().zip(&case.operands);
    let bounds = bounds
        .filter(|(arg, _)| matches!(arg.name, "q_start" | "q_range"))
        .find_map(|(_, operand)| match &operand.fill {
            Fill::Values(values) => Some(values.clone()),
            _ => None,
        })
        .unwrap_or_default();
    for (arg, operand) in signature.iter().zip(&mut later.operands) {
        let Fill::Values(values) = &mut operand.fill else {
            continue;
        };
        match arg.name {
            // What stands for one token may stand for another.
            "ids" | "positions" | "slots" | "history" => values.reverse(),
            // Other pages: a permutation of all.
            "block_table" => {
                let used = values.iter_mut().filter(|page| **page >= 0.0);
                used.for_each(|page| *page = (*page + 1.0) % pages);
            }
            // One slot fewer, where the tokens of the step leave one.
            "kv_len" => {
                for (slots, tokens) in values.iter_mut().zip(bounds.windows(2)) {
                    *slots = (*slots - 1.0).max(tokens[1] - tokens[0]);
                }
            }
            // The next step of each row.
            "ints" => values.iter_mut().skip(3).step_by(4).for_each(|x| *x += 1.0),
            _ => {}
        }
    }
    later
}
