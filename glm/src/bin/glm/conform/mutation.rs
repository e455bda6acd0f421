//! `glm conform --mutation-score`: how many wrong kernels the suite finds, and how many right ones it blames.

use std::io::Write;

use backend_emulator::{Options, Score, mutation_score};
use conformance::Selection;
use hal::{Error, ErrorKind};
use serde::Serialize;

use crate::args::{Conform, Global};
use crate::failure::Failure;
use crate::{load, output};

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(flatten)]
    score: &'a Score,
}

/// Breaks the kernels of the chosen device, which is taken to be right.
pub(super) fn run(global: &Global, args: &Conform, selection: &Selection) -> Result<(), Failure> {
    let accelerator = load::accelerator(global, &global.device)?;
    let score = mutation_score(
        &accelerator,
        &Options {
            rules: !args.quick,
            random_cases: args.random_cases,
            threads: global.threads().unwrap_or(Options::default().threads),
        },
        |op| selection.names(op, op),
    );
    if score.mutants == 0 {
        let chosen = format!("--ops {:?} name no operation", args.ops);
        let e = Error::new(ErrorKind::NotFound, "choose what to break", chosen);
        return Err(Failure::Error(e.next_step("leave out --ops"), 7));
    }
    match global.json {
        true => output::json(&Document {
            schema: "glm/mutation-score/1",
            score: &score,
        })?,
        false => writeln!(std::io::stdout().lock(), "{score}")?,
    }
    match score.killed == score.mutants && score.false_alarms == 0 {
        true => Ok(()),
        false => Err(Failure::Checked(1)),
    }
}
