//! `glm bench --compare`: two results side by side.

use std::io::Write;
use std::path::{Path, PathBuf};

use glm::speed::Figure;
use hal::{Error, ErrorKind, Result};
use serde_json::json;

use super::report::{Document, SCHEMA, time};
use crate::args::Global;
use crate::failure::Failure;
use crate::{load, output};

/// The same figure of both.
struct Pair {
    a: Figure,
    b: Figure,
    /// Rate of B over that of A.
    ratio: f64,
}

pub(super) fn run(
    global: &Global,
    files: &[PathBuf],
    least: Option<f64>,
) -> std::result::Result<(), Failure> {
    let [a, b] = files else {
        return Err(super::usage(
            "two files are compared",
            "--compare A.json B.json",
        ));
    };
    let (a, b) = (read(a)?, read(b)?);
    let mut pairs = Vec::new();
    for a in &a {
        let Some(b) = b.iter().find(|b| b.key == a.key) else {
            continue;
        };
        if let (Some(before), Some(after)) = (a.rate(), b.rate()) {
            pairs.push(Pair {
                a: a.clone(),
                b: b.clone(),
                ratio: after / before,
            });
        }
    }
    let slow = |pair: &Pair| least.is_some_and(|least| pair.ratio < least);
    let slower = pairs.iter().filter(|pair| slow(pair)).count();
    let only = |these: &[Figure]| these.len() - pairs.len();
    if global.json {
        let list = pairs.iter().map(|pair| {
            json!({
                "key": pair.a.key,
                "a": pair.a.seconds,
                "b": pair.b.seconds,
                "ratio": pair.ratio,
            })
        });
        output::json(&json!({
            "schema": "glm/bench-comparison/1",
            "least": least,
            "slower": slower,
            "only_a": only(&a),
            "only_b": only(&b),
            "pairs": list.collect::<Vec<_>>(),
        }))?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "| test | A | B | rate of B / A |")?;
        writeln!(out, "|---|---|---|---|")?;
        for pair in &pairs {
            let mark = if slow(pair) { " SLOWER" } else { "" };
            let (a, b) = (shown(&pair.a), shown(&pair.b));
            writeln!(
                out,
                "| {} | {a} | {b} | {:.3}{mark} |",
                pair.a.key, pair.ratio
            )?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "{} in both, {} not compared in A, {} in B; {slower} below {}",
            pairs.len(),
            only(&a),
            only(&b),
            least.map_or("no limit".into(), |least| least.to_string()),
        )?;
    }
    match (pairs.is_empty(), slower) {
        (true, _) => Err(Failure::Checked(7)),
        (_, 0) => Ok(()),
        _ => Err(Failure::Checked(1)),
    }
}

fn shown(figure: &Figure) -> String {
    match (figure.tokens_per_second, figure.seconds) {
        (Some(rate), _) => format!("{rate:.2} tok/s"),
        (None, Some(seconds)) => time(seconds.median),
        (None, None) => String::new(),
    }
}

/// The figures of all runs of a file.
fn read(path: &Path) -> Result<Vec<Figure>> {
    let doing = || format!("read {}", path.display());
    let next = "`glm bench -o json` writes what can be compared";
    let document: Document = serde_json::from_str(&load::text(path)?)
        .map_err(|e| Error::new(ErrorKind::Corrupt, doing(), e.to_string()).next_step(next))?;
    if document.schema != SCHEMA {
        let detail = format!("its schema is {}, not {SCHEMA}", document.schema);
        return Err(Error::unsupported(doing(), detail).next_step(next));
    }
    Ok(document
        .runs
        .into_iter()
        .flat_map(|run| run.results)
        .collect())
}
