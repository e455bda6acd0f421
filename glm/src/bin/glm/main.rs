//! `glm`: chat with any GLM on any chip, and see what the chip computes.
//!
//! Results go to stdout, everything else to stderr. Exit codes are in [`failure`].
#![forbid(unsafe_code)]

mod args;
mod bench;
mod cache;
mod chat;
mod codes;
mod compare;
mod compiling;
mod conform;
mod convert;
mod devices;
mod doctor;
mod errors;
mod failure;
mod fill;
mod inspect;
mod load;
mod logits;
mod output;
mod plan;
mod replay;
mod support;
mod trace;
mod tune;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use hal::Error;

use args::{Args, Command};
use failure::Failure;

fn main() -> ExitCode {
    failure::report_panics();
    let args = Args::parse();
    let result = run(&args);
    compiling::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let global = &args.global;
    if global.threads.len() > 1 && !matches!(args.command, Command::Bench(_)) {
        let e = Error::invalid(
            "choose threads",
            "several numbers; only `glm bench` takes them",
        );
        return Err(Failure::Error(e, 2));
    }
    match &args.command {
        Command::Chat(chat) => chat::run(global, chat),
        Command::Fill(fill) => fill::run(global, fill),
        Command::Logits(logits) => logits::run(global, logits),
        Command::Inspect(inspect) => inspect::run(global, inspect),
        Command::Devices => devices::run(global),
        Command::Doctor(doctor) => doctor::run(global, doctor),
        Command::Plan(plan) => plan::run(global, plan),
        Command::Support(support) => support::run(global, support),
        Command::Errors(errors) => errors::run(global, errors),
        Command::Conform(conform) => conform::run(global, conform),
        Command::Trace(trace) => trace::run(global, trace),
        Command::Compare(compare) => compare::run(global, compare),
        Command::Replay(replay) => replay::run(global, replay),
        Command::Tune(tune) => tune::run(global, tune),
        Command::Bench(bench) => bench::run(global, bench),
        Command::Convert(args) => convert::run(global, args),
        Command::Quantize(args) => convert::quantize(global, args),
        Command::Cache(cache) => cache::run(global, cache),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "glm", &mut std::io::stdout());
            Ok(())
        }
    }
}
