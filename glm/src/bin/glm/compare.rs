//! `glm compare`: where two traces part, or how two conformance reports differ.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use conformance::report::{Document, difference};
use glm::trace::Trace;
use glm::trace::compare::{Comparison, Pair, compare};
use hal::{DType, Error, ErrorKind};
use serde_json::json;

use crate::args::{Compare, Global};
use crate::failure::Failure;
use crate::{load, output, replay};

/// Differences that are printed; `--json` has all.
const PRINTED: usize = 20;
/// The largest finite f16.
const F16_MAX: f64 = 65504.0;

pub(crate) fn run(global: &Global, args: &Compare) -> Result<(), Failure> {
    match (is_json(&args.a)?, is_json(&args.b)?) {
        (true, true) if args.isolate => {
            let e = Error::invalid("isolate launches", "these are reports, not traces");
            Err(Failure::Error(
                e.next_step("`glm trace` records launches"),
                2,
            ))
        }
        (true, true) => reports(global, args),
        (false, false) => traces(global, args),
        _ => Err(
            Error::invalid("compare two files", "one is a report, the other is a trace")
                .next_step("give two traces, or two report.json")
                .into(),
        ),
    }
}

/// Whether a file begins as a JSON object does; a trace begins with a length.
fn is_json(path: &Path) -> hal::Result<bool> {
    let mut first = [0];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    match read {
        Ok(()) => Ok(first == *b"{"),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            };
            let doing = format!("read {}", path.display());
            Err(Error::new(kind, doing, e.to_string()).next_step("check the path"))
        }
    }
}

fn traces(global: &Global, args: &Compare) -> Result<(), Failure> {
    let (a, b) = (Trace::read(&args.a)?, Trace::read(&args.b)?);
    if args.isolate {
        return replay::replay(global, &b.run.device, &a, |_| true);
    }
    let comparison = compare(&a, &b, args.limit.0)?;
    if global.json {
        output::json(&json!({
            "schema": "glm/comparison/1",
            "a": a.run,
            "b": b.run,
            "limit": args.limit.0,
            "agree": comparison.agrees(),
            "comparison": comparison,
        }))?;
    } else {
        print(&comparison, args.limit.0)?;
    }
    match comparison {
        _ if comparison.pairs.is_empty() => Err(Failure::Checked(7)),
        _ if comparison.agrees() => Ok(()),
        _ => Err(Failure::Checked(1)),
    }
}

fn print(comparison: &Comparison, limit: f64) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let launches = comparison.pairs.len();
    let name = |p: &Pair| {
        format!(
            "{} ({}, launch {} of {launches}, step {})",
            p.place, p.op, p.call, p.step
        )
    };
    match (comparison.first(), comparison.divergence) {
        (Some(first), divergence) => {
            let kind = match divergence == Some(first.call) {
                true => "first divergence",
                false => "drift",
            };
            writeln!(out, "{kind}  {}", name(first))?;
            writeln!(
                out,
                "  outputs differ by {} of their norm, inputs by {}",
                share(first.outputs),
                share(first.inputs)
            )?;
            if first.not_finite != [0, 0] {
                let [a, b] = first.not_finite;
                writeln!(out, "  NaN or infinite: {a} and {b} elements")?;
            }
            if first.magnitude > F16_MAX && first.dtypes.contains(&DType::F16) {
                writeln!(
                    out,
                    "  hint: |x| reaches {:.0}, f16 ends at {F16_MAX:.0}: use --dtype bf16 or f32",
                    first.magnitude
                )?;
            }
            if kind == "drift" {
                writeln!(
                    out,
                    "  no launch before is wrong by itself: small errors grew beyond {}",
                    share(limit)
                )?;
            }
            writeln!(
                out,
                "  next: trace the reference with --tensors {}, then compare --isolate",
                first.place
            )?;
        }
        (None, _) => writeln!(out, "{launches} launches agree")?,
    }
    let worst = |a: &&Pair, b: &&Pair| a.outputs.total_cmp(&b.outputs);
    if let Some(worst) = comparison.pairs.iter().max_by(worst) {
        writeln!(
            out,
            "largest distance {}: {}",
            share(worst.outputs),
            name(worst)
        )?;
    }
    if comparison.other_formats > 0 {
        writeln!(
            out,
            "{} launches read weights of other formats: part of the distance is theirs",
            comparison.other_formats
        )?;
    }
    if let Some(step) = comparison.other_tokens {
        writeln!(
            out,
            "from step {step} on the two were given other tokens: not compared"
        )?;
    }
    Ok(())
}

fn share(x: f64) -> String {
    match x {
        _ if x.is_infinite() => "infinitely much".into(),
        0.0 => "nothing".into(),
        _ => format!("{x:.1e}"),
    }
}

fn reports(global: &Global, args: &Compare) -> Result<(), Failure> {
    let read = |path: &Path| Document::read(&load::text(path)?);
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let facts = |d: &Document| (d.asked.device.name.clone(), d.asked.device.detail.clone());
    let same = facts(&a) == facts(&b);
    let mut differences = Vec::new();
    let (mut common, mut only_a) = (0, 0);
    for then in &a.results {
        match b.results.iter().find(|r| r.name == then.name) {
            Some(now) => {
                common += 1;
                let why = difference(then, &now.outcome, same);
                differences.extend(why.map(|why| (&*then.name, why)));
            }
            None => only_a += 1,
        }
    }
    let only_b = b.results.len() - common;
    if global.json {
        let list = differences
            .iter()
            .map(|(n, w)| json!({"name": n, "why": w}));
        output::json(&json!({
            "schema": "glm/report-comparison/1",
            "same_device": same,
            "common": common,
            "only_a": only_a,
            "only_b": only_b,
            "differences": list.collect::<Vec<_>>(),
        }))?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{common} checks in both, {only_a} only in the first, {only_b} only in the second; {} differ",
            differences.len()
        )?;
        for (name, why) in differences.iter().take(PRINTED) {
            writeln!(out, "  {name}: {why}")?;
        }
        if differences.len() > PRINTED {
            writeln!(
                out,
                "  and {} more: --json has all",
                differences.len() - PRINTED
            )?;
        }
    }
    match (common, differences.is_empty()) {
        (0, _) => Err(Failure::Checked(7)),
        (_, true) => Ok(()),
        _ => Err(Failure::Checked(1)),
    }
}
