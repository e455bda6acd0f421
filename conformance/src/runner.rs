//! Runs checks in workers that may die: a crash, a hang or a lost device is the result of one check, and the run goes
//! on.
//!
//! - The driver hands a worker one check at a time, so it always knows which one was running. A worker that dies or
//!   does not answer in time is replaced.
//! - A worker is a process of its own ([`ProcessWorker`], [`serve`]) or a thread ([`ThreadWorker`]); a back end
//!   outside this tree brings its own way to start one.
//! - Checks run in random order, from a seed. What failed runs once more at the end, in fixed order, in a new worker:
//!   if it passes then, it is [`Status::Flaky`]. A crash or time-out is thus confirmed alone.
//! - Speed is measured last, one check at a time.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hal::{DType, Error, ErrorKind, Numerics, Result};
use ops::Accelerator;
use serde::{Deserialize, Serialize};

use crate::{Catalogue, Check, Level, Outcome, Rng, Selection, Status, Suite};

/// How long a worker may take to open its device.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How often a waiting driver looks whether it must stop.
const TICK: Duration = Duration::from_millis(50);

/// How many failures run again, and how many of them may be crashes and time-outs, which cost more.
const RERUNS: [usize; 2] = [200, 20];

/// What is known of the device that a worker opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The device spec.
    pub spec: String,
    /// The vendor's name.
    pub name: String,
    /// Instruction sets, driver and compiler versions.
    pub detail: String,
    /// Units that work in parallel.
    pub parallelism: usize,
    /// Float types that it computes with natively.
    pub native_floats: Vec<String>,
    /// All its memory, when it tells.
    pub memory_bytes: Option<usize>,
    /// Operations that it has kernels for.
    pub claims: Vec<String>,
    /// Where its card departs from exact numerics, in words: bounds and properties are those of what it declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl DeviceFacts {
    /// Those of an open device.
    pub fn of(accelerator: &Accelerator) -> Self {
        let info = accelerator.device.info();
        let claims = accelerator.ops.names().filter(|(_, has)| *has);
        Self {
            spec: info.spec.clone(),
            name: info.name.clone(),
            detail: info.detail.clone(),
            parallelism: info.parallelism,
            native_floats: info.native_floats.iter().map(|d| d.name().into()).collect(),
            memory_bytes: accelerator.device.memory().map(|m| m.total_bytes),
            claims: claims.map(|(name, _)| name.to_owned()).collect(),
            remarks: remarks(&info.numerics),
        }
    }
}

fn remarks(card: &Numerics) -> Vec<String> {
    let (exact, mut remarks) = (Numerics::exact(), Vec::new());
    if card.accumulator != exact.accumulator {
        remarks.push(format!("products are summed in {}", card.accumulator));
    }
    if card.operand_bits < exact.operand_bits {
        let bits = card.operand_bits;
        remarks.push(format!("operands of products keep {bits} bits"));
    }
    if card.rounds_probabilities {
        remarks.push("attention rounds its probabilities to the cache's type".into());
    }
    if card.rounds_weights {
        remarks.push("products of many rows round quantised weights to the type of x".into());
    }
    if card.rounds_activations {
        remarks.push("products with quantised weights round x to eight bits".into());
    }
    if !card.flushes.is_empty() {
        let types: Vec<&str> = card.flushes.iter().map(|dtype| dtype.name()).collect();
        let types = types.join(", ");
        remarks.push(format!(
            "products of {types} take numbers below 2^-126 for zero"
        ));
    }
    let lacks = |dtype: &&DType| !card.floats.contains(dtype);
    let lacking: Vec<&str> = exact
        .floats
        .iter()
        .filter(lacks)
        .map(|d| d.name())
        .collect();
    if !lacking.is_empty() {
        remarks.push(format!("kernels take no {}", lacking.join(", ")));
    }
    remarks
}

/// One result as reports hold it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the check.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// The type of activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// The format of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Id of the waiver that changed the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiver: Option<String>,
    /// The status without that waiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwaived: Option<Status>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Record {
    /// `outcome` of `check`.
    pub fn new(check: &Check, outcome: Outcome) -> Self {
        Self {
            name: check.name.clone(),
            level: check.level,
            dtype: check.dtype.clone(),
            weight: check.weight.clone(),
            waiver: None,
            unwaived: None,
            outcome,
        }
    }
}

/// What a worker said to one check.
#[derive(Debug)]
pub enum Answer {
    /// It ran.
    Done(Box<Outcome>),
    /// The worker died of it.
    Died(String),
    /// No answer in time. The worker is useless from now on.
    TimedOut,
    /// The driver was told to stop while it waited.
    Stopped,
}

/// Something that runs checks by name.
pub trait Worker: Send {
    /// Runs one check; gives up after `timeout`, or when `stop` is set.
    fn run(&mut self, check: &str, timeout: Duration, stop: &AtomicBool) -> Answer;
}

/// What the driver writes to a worker process: one JSON document per line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Run(String),
}

/// What a worker process writes: one JSON document per line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// The device is open.
    Ready(DeviceFacts),
    /// The device cannot be opened.
    Refused(String),
    /// This check starts now.
    Started(String),
    /// What became of it.
    Done(Box<Outcome>),
}

/// The other end of a [`ProcessWorker`]: opens the device, then runs the checks that `input` names, until it ends.
///
/// # Errors
/// Those of reading and writing.
pub fn serve(
    catalogue: &Catalogue,
    open: impl FnOnce() -> Result<Accelerator>,
    input: impl BufRead,
    mut output: impl Write,
) -> std::io::Result<()> {
    let mut say = |reply: &Reply| -> std::io::Result<()> {
        serde_json::to_writer(&mut output, reply)?;
        output.write_all(b"\n")?;
        output.flush()
    };
    let suite = match open() {
        Ok(accelerator) => Suite::new(accelerator),
        Err(e) => return say(&Reply::Refused(e.to_string())),
    };
    say(&Reply::Ready(DeviceFacts::of(suite.accelerator())))?;
    for line in input.lines() {
        let Request::Run(name) = serde_json::from_str(&line?)?;
        say(&Reply::Started(name.clone()))?;
        let outcome = match catalogue.find(&name) {
            Some(check) => check.run(&suite),
            None => unknown(&name),
        };
        say(&Reply::Done(Box::new(outcome)))?;
    }
    Ok(())
}

fn unknown(name: &str) -> Outcome {
    Outcome::new("", name).ended(Status::NotRun, "this version has no such check")
}

/// A worker in a process of its own.
#[derive(Debug)]
pub struct ProcessWorker {
    child: Child,
    input: ChildStdin,
    replies: Receiver<Reply>,
    /// The last that it wrote to stderr.
    errors: Arc<Mutex<VecDeque<String>>>,
}

impl ProcessWorker {
    /// Starts `command`, which must call [`serve`], and waits until its device is open.
    ///
    /// # Errors
    /// `Io` when it does not start, `NotFound` when it cannot open the device.
    pub fn start(mut command: Command) -> Result<(Self, DeviceFacts)> {
        const DOING: &str = "start a worker";
        let io = |e: std::io::Error| Error::new(ErrorKind::Io, DOING, e.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let (Some(input), Some(output), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::new(ErrorKind::Unexpected, DOING, "it has no pipes"));
        };
        let (send, replies) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Drivers of devices print to stdout as they like: only what is ours counts.
                if let Ok(reply) = serde_json::from_str(&line)
                    && send.send(reply).is_err()
                {
                    break;
                }
            }
        });
        let errors: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let kept = Arc::clone(&errors);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > 8 {
                    kept.pop_front();
                }
            }
        });
        let mut worker = Self {
            child,
            input,
            replies,
            errors,
        };
        match worker.replies.recv_timeout(START_TIMEOUT) {
            Ok(Reply::Ready(facts)) => Ok((worker, facts)),
            Ok(Reply::Refused(why)) => Err(Error::new(ErrorKind::NotFound, "open the device", why)
                .next_step("`glm devices` lists what can be opened")),
            Ok(reply) => {
                let why = format!("it began with {reply:?}");
                Err(Error::new(ErrorKind::Unexpected, DOING, why))
            }
            Err(_) => {
                let why = worker.epitaph();
                Err(Error::new(ErrorKind::DeviceLost, DOING, why))
            }
        }
    }

    /// How the process ended, and its last words.
    fn epitaph(&mut self) -> String {
        let _ = self.child.kill();
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        // The reader of stderr may still be a moment behind.
        std::thread::sleep(TICK);
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = errors.iter().map(String::as_str).collect();
        match words.is_empty() {
            true => status,
            false => format!("{status}; it said: {}", words.join(" | ")),
        }
    }
}

impl Worker for ProcessWorker {
    fn run(&mut self, check: &str, timeout: Duration, stop: &AtomicBool) -> Answer {
        let request = serde_json::to_string(&Request::Run(check.to_owned()));
        let sent = request
            .map_err(std::io::Error::from)
            .and_then(|line| writeln!(self.input, "{line}"));
        if sent.is_err() {
            return Answer::Died(self.epitaph());
        }
        let end = Instant::now() + timeout;
        loop {
            match self.replies.recv_timeout(TICK) {
                Ok(Reply::Done(outcome)) => return Answer::Done(outcome),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Only a process that closed its pipe without dying must be killed.
                    std::thread::sleep(TICK);
                    let status = self.child.try_wait();
                    return match status {
                        Ok(Some(_)) => Answer::Died(self.epitaph()),
                        _ => Answer::Died(format!("it stopped talking; {}", self.epitaph())),
                    };
                }
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                    return Answer::Stopped;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Answer::TimedOut,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for ProcessWorker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker in a thread of this process: a panic is caught; a hang is reported and its thread left behind; what
/// kills the process kills the run.
#[derive(Debug)]
pub struct ThreadWorker {
    requests: Sender<String>,
    answers: Receiver<Result<Box<Outcome>, String>>,
}

impl ThreadWorker {
    /// A worker on `accelerator`.
    pub fn start(catalogue: Arc<Catalogue>, accelerator: Accelerator) -> Self {
        let (requests, received) = channel::<String>();
        let (send, answers) = channel();
        std::thread::spawn(move || {
            let suite = Suite::new(accelerator);
            for name in received {
                let run = || match catalogue.find(&name) {
                    Some(check) => check.run(&suite),
                    None => unknown(&name),
                };
                let answer = catch_unwind(AssertUnwindSafe(run)).map(Box::new);
                let answer = answer.map_err(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                    format!("panicked: {}", text.unwrap_or("without a word"))
                });
                if send.send(answer).is_err() {
                    break;
                }
            }
        });
        Self { requests, answers }
    }
}

impl Worker for ThreadWorker {
    fn run(&mut self, check: &str, timeout: Duration, stop: &AtomicBool) -> Answer {
        if self.requests.send(check.to_owned()).is_err() {
            return Answer::Died("its thread has ended".into());
        }
        let end = Instant::now() + timeout;
        loop {
            match self.answers.recv_timeout(TICK) {
                Ok(Ok(outcome)) => return Answer::Done(outcome),
                Ok(Err(panic)) => return Answer::Died(panic),
                Err(RecvTimeoutError::Disconnected) => {
                    return Answer::Died("its thread has ended".into());
                }
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                    return Answer::Stopped;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Answer::TimedOut,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// How to start a worker.
pub type Launch<'a> = dyn Fn() -> Result<Box<dyn Worker>> + Sync + 'a;

/// A run of many checks.
pub struct Driver<'a> {
    /// What to run.
    pub catalogue: &'a Catalogue,
    /// How to start a worker.
    pub launch: &'a Launch<'a>,
    /// How many workers work at once.
    pub jobs: usize,
    /// The longest that one check may take.
    pub timeout: Duration,
    /// Chooses the order.
    pub order_seed: u64,
    /// Called with every result as it comes.
    pub on_result: &'a (dyn Fn(&Record) + Sync),
    /// Set from outside to end early; what was not tried is then [`Status::NotRun`].
    pub stop: &'a AtomicBool,
}

impl Driver<'_> {
    /// Runs every check that `done` does not hold yet. The results, `done` included, are in the catalogue's order.
    pub fn run(&self, done: Vec<Record>) -> Vec<Record> {
        let mut results: BTreeMap<String, Record> =
            done.into_iter().map(|r| (r.name.clone(), r)).collect();
        let open = |check: &&Check| !results.contains_key(&check.name);
        let mut order: Vec<&Check> = self.catalogue.checks().iter().filter(open).collect();
        Rng::of(&format!("order {}", self.order_seed)).shuffle(&mut order);
        let (last, first): (Vec<&Check>, Vec<&Check>) = order
            .into_iter()
            .partition(|check| check.level == Level::Speed);
        let vanished = Mutex::new(None);
        for (checks, jobs) in [(first, self.jobs), (last, 1)] {
            let queue = Mutex::new(VecDeque::from(checks));
            let found = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..jobs.max(1) {
                    scope.spawn(|| self.work(&queue, &found, &vanished));
                }
            });
            let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
            results.extend(found.into_iter().map(|r: Record| (r.name.clone(), r)));
        }
        self.run_again(&mut results, &vanished);
        let why = match vanished
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(why) => format!("the device vanished: {why}"),
            None => "the run was interrupted".to_owned(),
        };
        let not_run = |check: &Check| {
            let outcome = Outcome::new(check.group.clone(), check.about.clone());
            Record::new(check, outcome.ended(Status::NotRun, why.clone()))
        };
        let checks = self.catalogue.checks().iter();
        checks
            .map(|check| {
                results
                    .remove(&check.name)
                    .unwrap_or_else(|| not_run(check))
            })
            .collect()
    }

    fn work(
        &self,
        queue: &Mutex<VecDeque<&Check>>,
        found: &Mutex<Vec<Record>>,
        vanished: &Mutex<Option<String>>,
    ) {
        let mut worker = None;
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(check) = next else { break };
            let Some(outcome) = self.one(&mut worker, check, vanished) else {
                break;
            };
            let record = Record::new(check, outcome);
            (self.on_result)(&record);
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(record);
        }
    }

    /// One check, in `worker` or a new one; `None` when the run must end.
    fn one(
        &self,
        worker: &mut Option<Box<dyn Worker>>,
        check: &Check,
        vanished: &Mutex<Option<String>>,
    ) -> Option<Outcome> {
        let gone = || vanished.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.load(Ordering::Relaxed) || gone().is_some() {
            return None;
        }
        let running = match worker {
            Some(worker) => worker,
            None => match (self.launch)().or_else(|_| (self.launch)()) {
                Ok(started) => worker.insert(started),
                Err(e) => {
                    *gone() = Some(e.to_string());
                    return None;
                }
            },
        };
        let start = Instant::now();
        let timeout = self.timeout + check.lasts;
        let answer = running.run(&check.name, timeout, self.stop);
        let outcome = Outcome::new(check.group.clone(), check.about.clone());
        let mut outcome = match answer {
            Answer::Done(outcome) if outcome.status == Status::DeviceLost => *outcome,
            Answer::Done(outcome) => return Some(*outcome),
            // Ctrl-C reaches workers too.
            Answer::Died(_) if self.stop.load(Ordering::Relaxed) => {
                *worker = None;
                return None;
            }
            Answer::Died(why) => outcome.ended(Status::Crash, why),
            Answer::TimedOut => {
                let why = format!("no answer in {} s", timeout.as_secs_f64());
                outcome.ended(Status::Timeout, why)
            }
            Answer::Stopped => {
                *worker = None;
                return None;
            }
        };
        *worker = None;
        outcome.seconds = start.elapsed().as_secs_f64();
        Some(outcome)
    }

    /// Tries failures once more, in fixed order and in a new worker.
    fn run_again(&self, results: &mut BTreeMap<String, Record>, vanished: &Mutex<Option<String>>) {
        let mut worker = None;
        let [mut all, mut costly] = RERUNS;
        for check in self.catalogue.checks() {
            let Some(first) = results.get(&check.name) else {
                continue;
            };
            let status = first.outcome.status;
            if !status.is_failure() || status == Status::Flaky {
                continue;
            }
            if status >= Status::Timeout {
                // Alone: what went before must not be the cause.
                worker = None;
                match costly {
                    0 => continue,
                    _ => costly -= 1,
                }
            }
            match all {
                0 => break,
                _ => all -= 1,
            }
            let Some(mut again) = self.one(&mut worker, check, vanished) else {
                break;
            };
            if again.status.is_pass() {
                let why = &first.outcome.why;
                again.why = format!("first {status}, then right when it ran again. {why}");
                again.status = Status::Flaky;
                let record = Record::new(check, again);
                (self.on_result)(&record);
                results.insert(check.name.clone(), record);
            }
        }
    }
}

/// What a run was asked for: a run that goes on must have been asked for the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Version of the suite.
    pub suite: String,
    /// The device.
    pub device: DeviceFacts,
    /// The checks.
    pub selection: Selection,
    /// The order.
    pub order_seed: u64,
}

/// The file of results so far, one JSON document per line: an interrupted run goes on from it.
#[derive(Debug)]
pub struct Progress(Mutex<BufWriter<File>>);

impl Progress {
    /// A new file, for a run that was asked for `asked`.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(path: &Path, asked: &Asked) -> Result<Self> {
        let file = File::create(path).map_err(|e| io(path, &e))?;
        let progress = Self(Mutex::new(BufWriter::new(file)));
        progress.line(asked)?;
        Ok(progress)
    }

    /// An earlier file, and the results in it. A last line that was cut off is left out.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when it is none of ours; `InvalidArgument` when it is of another run.
    pub fn resume(path: &Path, asked: &Asked) -> Result<(Self, Vec<Record>)> {
        let doing = || format!("resume from {}", path.display());
        let mut text = String::new();
        let mut file = File::open(path).map_err(|e| io(path, &e))?;
        file.read_to_string(&mut text).map_err(|e| io(path, &e))?;
        let mut lines = text.lines();
        let first: Asked = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|e| Error::corrupt(doing(), format!("the first line: {e}")))?;
        // The order may differ: it is of no consequence to what is done already.
        let same = Asked {
            order_seed: first.order_seed,
            ..asked.clone()
        };
        // Free memory and the like may change; the device may not.
        if first.suite != same.suite
            || first.selection != same.selection
            || (&first.device.spec, &first.device.name) != (&same.device.spec, &same.device.name)
        {
            let why = "that run was of another device, version or selection of checks";
            return Err(Error::invalid(doing(), why).next_step("start anew, without --resume"));
        }
        let records: Vec<Record> = lines.map_while(|l| serde_json::from_str(l).ok()).collect();
        let progress = Self::create(path, &first)?;
        for record in &records {
            progress.add(record)?;
        }
        Ok((progress, records))
    }

    /// Appends a result.
    ///
    /// # Errors
    /// `Io`.
    pub fn add(&self, record: &Record) -> Result<()> {
        self.line(record)
    }

    fn line(&self, value: &impl Serialize) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = serde_json::to_writer(&mut *file, value).map_err(std::io::Error::from);
        written
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.flush())
            .map_err(|e| Error::new(ErrorKind::Io, "write the results so far", e.to_string()))
    }
}

fn io(path: &Path, e: &std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("open {}", path.display()), e.to_string())
        .next_step("start without --resume, or name another folder with --report")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_not_exact_is_remarked_on() {
        assert!(remarks(&Numerics::exact()).is_empty());
        let card = Numerics {
            accumulator: DType::F16,
            operand_bits: 11,
            rounds_probabilities: true,
            rounds_weights: true,
            rounds_activations: true,
            int8_cache: false,
            flushes: vec![DType::F32],
            floats: vec![DType::F32, DType::F16],
        };
        assert_eq!(
            remarks(&card),
            [
                "products are summed in f16",
                "operands of products keep 11 bits",
                "attention rounds its probabilities to the cache's type",
                "products of many rows round quantised weights to the type of x",
                "products with quantised weights round x to eight bits",
                "products of f32 take numbers below 2^-126 for zero",
                "kernels take no bf16"
            ]
        );
    }
}
