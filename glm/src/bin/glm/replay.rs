//! `glm replay`: recorded launches, run again on a device and judged by the bounds of their operations.

use std::io::Write;

use conformance::number::decode;
use conformance::{Layout, Operand, Outcome, Status, Suite};
use glm::trace::{Call, Role, Trace};
use hal::{Error, ErrorKind};
use serde::Serialize;
use wildmatch::WildMatch;

use crate::args::{Global, Replay};
use crate::failure::Failure;
use crate::{load, output};

pub(crate) fn run(global: &Global, args: &Replay) -> Result<(), Failure> {
    let trace = Trace::read(&args.trace)?;
    let patterns: Vec<WildMatch> = args.ops.iter().map(|p| WildMatch::new(p)).collect();
    let chosen = |call: &Call| {
        let matches = |p: &WildMatch| p.matches(&call.op) || p.matches(&call.place);
        patterns.is_empty() || patterns.iter().any(matches)
    };
    replay(global, &global.device, &trace, chosen)
}

/// One launch and what became of it.
#[derive(Serialize)]
struct Replayed<'a> {
    call: usize,
    step: usize,
    place: &'a str,
    outcome: Outcome,
}

/// Runs the launches of `trace` that `chosen` chooses on `device`.
pub(crate) fn replay(
    global: &Global,
    device: &str,
    trace: &Trace,
    chosen: impl Fn(&Call) -> bool,
) -> Result<(), Failure> {
    let calls: Vec<usize> = (0..trace.calls.len())
        .filter(|&i| trace.is_replayable(i) && chosen(&trace.calls[i]))
        .collect();
    if calls.is_empty() {
        let e = Error::new(
            ErrorKind::NotFound,
            "replay a trace",
            "it has no tensors for what was chosen",
        );
        let next = "trace with --tensors layers.0, or another place";
        return Err(Failure::Error(e.next_step(next), 7));
    }
    let suite = Suite::new(load::accelerator(global, device)?);
    let mut replayed = Vec::with_capacity(calls.len());
    for i in calls {
        let call = &trace.calls[i];
        let outcome = match operands(trace, i) {
            Ok(operands) => suite.replay(&call.op, &call.spec, operands),
            Err(e) => Err(e),
        };
        let outcome = match outcome {
            // One launch that is too large is no reason not to try the others.
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                Outcome::new(call.op.clone(), call.spec.to_string())
                    .ended(Status::NotRun, e.to_string())
            }
            outcome => outcome?,
        };
        let lost = outcome.status == Status::DeviceLost;
        replayed.push(Replayed {
            call: i,
            step: call.step,
            place: &call.place,
            outcome,
        });
        if lost {
            break;
        }
    }
    let info = suite.accelerator().device.info();
    let of = |f: fn(Status) -> bool| replayed.iter().filter(|r| f(r.outcome.status)).count();
    let (passed, failed) = (of(Status::is_pass), of(Status::is_failure));
    if global.json {
        output::json(&serde_json::json!({
            "schema": "glm/replay/1",
            "recorded_on": trace.run.device_name,
            "device": info.spec,
            "device_name": info.name,
            "passed": passed,
            "failed": failed,
            "launches": replayed,
        }))?;
    } else {
        print(&replayed)?;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{passed} of {} launches are right on {} ({}), {failed} are wrong",
            replayed.len(),
            info.spec,
            info.name
        )?;
    }
    match (passed, failed) {
        (0, 0) => Err(Failure::Checked(7)),
        (_, 0) => Ok(()),
        _ => Err(Failure::Checked(1)),
    }
}

fn print(replayed: &[Replayed<'_>]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for r in replayed {
        let share = r.outcome.worst.as_ref().map_or(0.0, |w| w.utilisation);
        let status = r.outcome.status;
        writeln!(
            out,
            "{status:<10} {:>6} {:<16} {}  {share:.3} of the bound",
            r.call, r.outcome.op, r.place
        )?;
        if status.is_pass() {
            continue;
        }
        if !r.outcome.why.is_empty() {
            writeln!(out, "           {}", r.outcome.why)?;
        }
        if let Some(w) = &r.outcome.worst {
            writeln!(
                out,
                "           worst {}{:?}: got {:e}, want {:e}, bound {:.2e}",
                w.arg, w.index, w.got, w.want, w.bound
            )?;
        }
    }
    Ok(())
}

/// The arguments of launch `i` as they were.
fn operands(trace: &Trace, i: usize) -> hal::Result<Vec<Operand>> {
    let call = &trace.calls[i];
    let mut operands = Vec::with_capacity(call.args.len());
    for (at, arg) in call.args.iter().enumerate() {
        if let Some(weight) = trace.weight(i, arg)? {
            operands.push(Operand::weight(weight));
            continue;
        }
        if arg.role == Role::Out {
            let twin = call.args.iter().position(|a| a.same_as == Some(at));
            let out = Operand::out(&arg.shape);
            operands.push(match twin {
                Some(input) => out.layout(Layout::InPlace(input)),
                None => out,
            });
            continue;
        }
        let bytes = trace.input(i, &arg.name).unwrap_or_default();
        let elements = bytes.chunks_exact(arg.dtype.bytes());
        let values = elements.map(|x| decode(arg.dtype, x)).collect();
        operands.push(Operand::values(&arg.shape, values));
    }
    Ok(operands)
}
