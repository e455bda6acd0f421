//! `glm conform`: runs the conformance suite on a device, in worker processes, and writes the report.

mod models;
#[cfg(feature = "emulator")]
mod mutation;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conformance::report::{Document, Key, Timing, Verdict, difference, now};
use conformance::runner::{Driver, ProcessWorker, Progress, Worker, serve};
use conformance::waivers::{self, Waivers};
use conformance::{Asked, Catalogue, Depth, DeviceFacts, Record, Selection, Status};
use glm::backends;
use hal::{Error, ErrorKind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::{Activations, Conform, Global};
use crate::failure::Failure;
use crate::{load, output};

/// Failures that are printed; the report holds all.
const PRINTED: usize = 20;

pub(crate) fn run(global: &Global, args: &Conform) -> Result<(), Failure> {
    if let Some(report) = &args.verify {
        return verify(global, args, report);
    }
    let selection = Selection {
        levels: args.level,
        ops: args.ops.clone(),
        depth: match (args.quick, args.full) {
            (true, _) => Depth::Quick,
            (_, true) => Depth::Full,
            _ => Depth::Standard,
        },
        soak_seconds: args.soak,
    };
    #[cfg(feature = "emulator")]
    if args.mutation_score {
        return mutation::run(global, args, &selection);
    }
    // What the user typed, not what a file holds: usage.
    let catalogue =
        Catalogue::new(&selection, models::checks()).map_err(|e| Failure::Error(e, 2))?;
    if args.worker {
        return work(global, &catalogue);
    }
    if args.list {
        let mut out = std::io::stdout().lock();
        for check in catalogue.checks() {
            writeln!(out, "{} {}  {}", check.level, check.name, check.about)?;
        }
        return Ok(());
    }
    if catalogue.checks().is_empty() {
        let chosen = format!(
            "levels {} and --ops {:?} have no check in common",
            args.level, args.ops
        );
        let e = Error::new(ErrorKind::NotFound, "choose what to test", chosen);
        return Err(Failure::Error(
            e.next_step("`glm conform --list --level 0..7` lists all"),
            7,
        ));
    }
    let known = match &args.waivers {
        Some(path) => Waivers::read(path, waivers::today())?,
        None => Waivers::default(),
    };
    let key = match &args.sign_key {
        Some(path) => Some(Key::parse(&load::text(path)?)?),
        None => None,
    };
    let (first, device) = start(global, &selection)?;
    let asked = Asked {
        suite: env!("CARGO_PKG_VERSION").into(),
        device,
        selection,
        order_seed: args.order_seed.unwrap_or_else(clock_seed),
    };
    let (progress, done) = match &args.report {
        Some(folder) => {
            create(folder)?;
            let path = folder.join("progress.jsonl");
            match args.resume {
                true => Progress::resume(&path, &asked).map(|(p, done)| (Some(p), done))?,
                false => (Some(Progress::create(&path, &asked)?), Vec::new()),
            }
        }
        None => (None, Vec::new()),
    };
    let run = Run {
        global,
        args,
        catalogue: &catalogue,
        asked: &asked,
    };
    let (started, start) = (now(), Instant::now());
    let (mut results, interrupted) = run.drive(first, done, progress.as_ref())?;
    let applied = known.apply(&asked.device, &mut results);
    let vanished = |r: &Record| r.outcome.why.starts_with("the device vanished");
    let vanished = !interrupted && results.iter().any(vanished);
    let timing = Timing {
        started,
        seconds: start.elapsed().as_secs_f64(),
        jobs: args.jobs.into(),
        timeout_seconds: args.timeout,
        partial: interrupted || vanished,
    };
    let mut document = Document::new(asked, timing, applied, results);
    if let Some(key) = key {
        document.sign(&key);
    }
    if let Some(folder) = &args.report {
        document.write(folder)?;
    }
    match global.json {
        true => output::json(&document)?,
        false => print(&document, args.report.as_deref())?,
    }
    match document.summary.verdict {
        _ if interrupted => Err(Failure::Interrupted),
        _ if vanished => Err(Failure::Checked(3)),
        Verdict::Passed => Ok(()),
        Verdict::Failed | Verdict::Partial => Err(Failure::Checked(1)),
        Verdict::NothingTested => Err(Failure::Checked(7)),
        Verdict::TimedOut => Err(Failure::Checked(8)),
    }
}

/// One run, or one sample.
struct Run<'a> {
    global: &'a Global,
    args: &'a Conform,
    catalogue: &'a Catalogue,
    asked: &'a Asked,
}

impl Run<'_> {
    /// The results, and whether the user interrupted.
    fn drive(
        &self,
        first: ProcessWorker,
        done: Vec<Record>,
        progress: Option<&Progress>,
    ) -> Result<(Vec<Record>, bool), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&stop);
        let result = ctrlc::set_handler(move || handler.store(true, Ordering::Relaxed));
        result.map_err(|e| Error::new(ErrorKind::Unexpected, "catch Ctrl-C", e.to_string()))?;
        let bar = bar(self.global, self.catalogue.checks().len(), done.len());
        bar.println(format!("order seed {}", self.asked.order_seed));
        let lost = AtomicBool::new(false);
        let on_result = |record: &Record| {
            if !record.outcome.status.is_pass() && record.outcome.status != Status::Unsupported {
                bar.println(format!("{} {}", record.outcome.status, record.name));
            }
            bar.inc(1);
            bar.set_message(record.name.clone());
            if let Some(Err(_)) = progress.map(|p| p.add(record)) {
                lost.store(true, Ordering::Relaxed);
            }
        };
        let first = std::sync::Mutex::new(Some(first));
        let launch = || -> hal::Result<Box<dyn Worker>> {
            let first = first
                .lock()
                .map(|mut first| first.take())
                .unwrap_or_default();
            let worker = match first {
                Some(worker) => worker,
                None => ProcessWorker::start(command(self.global, &self.asked.selection)?)?.0,
            };
            Ok(Box::new(worker))
        };
        let results = Driver {
            catalogue: self.catalogue,
            launch: &launch,
            jobs: self.args.jobs.into(),
            timeout: Duration::from_secs_f64(self.args.timeout),
            order_seed: self.asked.order_seed,
            on_result: &on_result,
            stop: &stop,
        }
        .run(done);
        bar.finish_and_clear();
        if lost.into_inner() {
            eprintln!("warning: the results so far could not be kept for --resume");
        }
        Ok((results, stop.load(Ordering::Relaxed)))
    }
}

/// The other side: checks on stdin, results on stdout.
fn work(global: &Global, catalogue: &Catalogue) -> Result<(), Failure> {
    // Ctrl-C reaches the whole process group: the driver decides.
    let _ = ctrlc::set_handler(|| {});
    let options = load::device_options(global);
    let open = || backends::open(&global.device, &options);
    Ok(serve(
        catalogue,
        open,
        std::io::stdin().lock(),
        std::io::stdout(),
    )?)
}

/// A command that calls [`work`] with the same selection.
fn command(global: &Global, selection: &Selection) -> hal::Result<Command> {
    let program = std::env::current_exe()
        .map_err(|e| Error::new(ErrorKind::Io, "find this program", e.to_string()))?;
    let mut command = Command::new(program);
    command.args(["conform", "--worker", "--device", &global.device]);
    command.args(["--level", &selection.levels.to_string()]);
    for pattern in &selection.ops {
        command.args(["--ops", pattern]);
    }
    match selection.depth {
        Depth::Quick => command.arg("--quick"),
        Depth::Standard => &mut command,
        Depth::Full => command.arg("--full"),
    };
    if let Some(seconds) = selection.soak_seconds {
        command.args(["--soak", &seconds.to_string()]);
    }
    if let Some(threads) = global.threads() {
        command.args(["--threads", &threads.to_string()]);
    }
    if global.activations == Activations::Int8 {
        command.args(["--activations", "int8"]);
    }
    Ok(command)
}

fn start(global: &Global, selection: &Selection) -> Result<(ProcessWorker, DeviceFacts), Failure> {
    ProcessWorker::start(command(global, selection)?).map_err(Failure::device)
}

/// Checks digest and signature, then runs a sample again.
fn verify(global: &Global, args: &Conform, path: &Path) -> Result<(), Failure> {
    let document = Document::read(&load::text(path)?)?;
    let seed = args.order_seed.unwrap_or_else(clock_seed);
    let names: Vec<&str> = document
        .sample(args.sample.0, seed)
        .iter()
        .map(|r| &*r.name)
        .collect();
    let asked = &document.asked;
    let catalogue = Catalogue::new(&asked.selection, models::checks())?;
    let catalogue = catalogue.only(|check| names.contains(&&*check.name));
    let (first, device) = start(global, &asked.selection)?;
    let same = (&device.name, &device.detail) == (&asked.device.name, &asked.device.detail);
    let again = Asked {
        order_seed: seed,
        device,
        ..asked.clone()
    };
    let run = Run {
        global,
        args,
        catalogue: &catalogue,
        asked: &again,
    };
    let (results, interrupted) = run.drive(first, Vec::new(), None)?;
    if interrupted {
        return Err(Failure::Interrupted);
    }
    let mut differences = Vec::new();
    for name in &names {
        let then = document.results.iter().find(|r| r.name == *name);
        let now = results.iter().find(|r| r.name == *name);
        let why = match (then, now) {
            (Some(then), Some(now)) => difference(then, &now.outcome, same),
            _ => Some("this version has no such check".into()),
        };
        differences.extend(why.map(|why| (*name, why)));
    }
    let signed = document.signature.as_ref().map(|s| s.key.clone());
    if global.json {
        let differences: Vec<_> = differences
            .iter()
            .map(|(n, w)| json!({"name": n, "why": w}))
            .collect();
        output::json(&json!({
            "schema": "glm/conformance-verify/1",
            "digest": document.digest,
            "signed_by": signed,
            "same_device": same,
            "sample_seed": seed,
            "checked": names.len(),
            "differences": differences,
        }))?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "digest ok: {}", document.digest)?;
        match signed {
            Some(key) => writeln!(
                out,
                "signature ok, by key {key}: compare it with the one you trust"
            )?,
            None => writeln!(out, "not signed")?,
        }
        writeln!(
            out,
            "{} of {} results ran again (seed {seed}) on {}: {} differ",
            names.len(),
            document.results.len(),
            match same {
                true => "the same device, outputs compared".into(),
                false => format!("{}, outputs not compared", again.device.name),
            },
            differences.len()
        )?;
        for (name, why) in &differences {
            writeln!(out, "  {name}: {why}")?;
        }
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Failure::Checked(1)),
    }
}

/// Levels, failures, and where the report is.
fn print(document: &Document, report: Option<&Path>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let device = &document.asked.device;
    writeln!(out, "{} ({}; {})", device.spec, device.name, device.detail)?;
    let mut levels: Vec<_> = document.results.iter().map(|r| r.level).collect();
    levels.dedup();
    for level in levels {
        let of = document.results.iter().filter(|r| r.level == level);
        let all: Vec<Status> = of.map(|r| r.outcome.status).collect();
        let passed = all.iter().filter(|s| s.is_pass()).count();
        write!(
            out,
            "{level} {:<42} {passed:>5}/{}",
            level.title(),
            all.len()
        )?;
        for status in Status::ALL.into_iter().skip(1) {
            match all.iter().filter(|s| **s == status).count() {
                0 => {}
                n => write!(out, "  {status} {n}")?,
            }
        }
        writeln!(out)?;
    }
    let bad: Vec<&Record> = document
        .results
        .iter()
        .filter(|r| r.outcome.status.is_failure())
        .collect();
    for record in bad.iter().take(PRINTED) {
        writeln!(out, "{}: {}", record.name, record.outcome)?;
    }
    if bad.len() > PRINTED {
        writeln!(out, "and {} more", bad.len() - PRINTED)?;
    }
    for waiver in document
        .waivers
        .iter()
        .filter(|w| w.waived + w.unexpected == 0)
    {
        writeln!(out, "waiver {} matches nothing that ran", waiver.id)?;
    }
    if !document.asked.selection.depth.certifies() {
        writeln!(out, "a quick run: it certifies nothing")?;
    }
    writeln!(
        out,
        "{} in {:.1} s, order seed {}",
        document.summary.verdict.title(),
        document.timing.seconds,
        document.asked.order_seed
    )?;
    if let Some(folder) = report {
        writeln!(out, "report: {}", folder.join("report.html").display())?;
    }
    Ok(())
}

fn bar(global: &Global, checks: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:32}] {pos}/{len} {elapsed} {wide_msg}")
        .expect("a valid template")
        .progress_chars("=> ");
    let target = match global.quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    ProgressBar::with_draw_target(Some(checks as u64), target)
        .with_style(style)
        .with_position(done as u64)
}

fn create(folder: &Path) -> hal::Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| {
        let doing = format!("create {}", folder.display());
        Error::new(ErrorKind::Io, doing, e.to_string())
            .next_step("name another folder with --report")
    })
}

/// Short enough to be typed again.
fn clock_seed() -> u64 {
    load::clock_seed() & 0xffff_ffff
}
