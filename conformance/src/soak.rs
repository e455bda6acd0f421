//! Level 6: thousands of launches of all operations on two streams, while buffers come and go. Every result must have
//! the bits of the first round, and memory must be at the end what it was at the start.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hal::{Device, ErrorKind, Result, Stream, View};
use ops::ArgList;

use crate::bench::{Bench, POISON, Workspace};
use crate::check::Found;
use crate::rng::{FNV_OFFSET, fnv_step};
use crate::{Check, Conformance, Fault, Level, Rng, Suite};

/// Launches at least, however slow the device is: what goes wrong after some thousands must come to light.
const LEAST: usize = 5000;

/// Cases of each operation.
const CASES: usize = 4;

/// Elements of all arguments of a case: launches, not sizes, are what is tried.
const ELEMENTS: std::ops::RangeInclusive<usize> = 64..=8192;

const MIB: usize = 1 << 20;

/// The check, of at least this long.
pub(crate) fn checks(lasts: Duration) -> Vec<Check> {
    let mut check = Check::new(
        Level::Robustness,
        "soak",
        "mixed",
        "thousands of launches on two streams give the bits of the first round and keep no memory",
        move |suite| soak(suite, lasts),
    );
    check.lasts = lasts;
    vec![check]
}

type Launch<'a> = dyn Fn(&mut dyn Stream, &ArgList<'_>, &View<'_>) -> Result<()> + 'a;

/// One case, ready to run as often as one likes.
struct Job<'a> {
    name: String,
    bench: Bench<'a>,
    workspace_bytes: usize,
    launch: Box<Launch<'a>>,
    /// Of the first round's outputs.
    checksum: Option<u64>,
}

/// A stream, and the job that it is at.
struct Lane<'a> {
    stream: Box<dyn Stream>,
    running: Option<Running<'a>>,
}

struct Running<'a> {
    job: usize,
    bench: Bench<'a>,
    workspace: Workspace,
    before: Vec<Vec<u8>>,
    poison: u8,
}

fn soak(suite: &Suite, lasts: Duration) -> Found {
    let device = &**suite.device();
    let mut jobs = Vec::new();
    macro_rules! each {
        ($($name:ident $op:ident),*) => { $(add::<ops::$op>(suite, &mut jobs)?;)* };
    }
    crate::for_each_op!(each);
    if jobs.is_empty() {
        return Err(Fault::Unsupported("the device has no operation".into()));
    }
    let lane = || -> Result<Lane<'_>> {
        Ok(Lane {
            stream: device.stream()?,
            running: None,
        })
    };
    let mut lanes = [lane()?, lane()?];
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    let mut rng = Rng::of("soak");
    let counts = counts_memory(device)?;
    let (start, mut launches, mut bytes) = (Instant::now(), 0, 0);
    let mut free_at_first = None;
    loop {
        for (n, &job) in order.iter().enumerate() {
            let [first, second] = &mut lanes;
            let (lane, other) = match n % 2 {
                0 => (first, second),
                _ => (second, first),
            };
            lane.finish(&mut jobs, launches)?;
            bytes += lane.start(job, &jobs[job], launches)?;
            bytes += let_go(device, &mut *other.stream, launches)?;
            if launches % 16 == 0 {
                let event = lane.stream.record()?;
                other.stream.wait(&event)?;
            }
            launches += 1;
        }
        for lane in &mut lanes {
            lane.finish(&mut jobs, launches)?;
            lane.stream.synchronize()?;
        }
        if free_at_first.is_none() {
            // Pools and caches are filled by now.
            (free_at_first, bytes) = (device.memory().map(|m| m.free_bytes), 0);
        }
        if launches >= LEAST && start.elapsed() >= lasts {
            break;
        }
        rng.shuffle(&mut order);
    }
    let seconds = start.elapsed().as_secs_f64();
    let ran = format!(
        "{launches} launches of {} cases in {seconds:.1} s",
        jobs.len()
    );
    let (Some(before), Some(after)) = (free_at_first, device.memory().map(|m| m.free_bytes)) else {
        return Ok(format!("{ran}; the device does not tell its memory"));
    };
    if !counts {
        return Ok(format!(
            "{ran}; the device's account of its memory moves by itself"
        ));
    }
    let kept = before.saturating_sub(after);
    if kept > MIB.max(bytes / 64) {
        return Err(Fault::Wrong(format!(
            "{ran}: of {bytes} B that were allocated and freed, {kept} B did not come back"
        )));
    }
    Ok(format!(
        "{ran}; of {} MiB allocated and freed, {kept} B did not come back",
        bytes / MIB
    ))
}

/// Adds some small cases of `O`, as far as the device has a way to do them.
fn add<'a, O: Conformance>(suite: &'a Suite, jobs: &mut Vec<Job<'a>>) -> Result<()> {
    let mut cases = O::cases();
    cases.retain(|case| {
        let writes = case.operands[0].shape.iter().all(|&n| n > 0);
        writes && ELEMENTS.contains(&case.elements())
    });
    let step = cases.len().div_ceil(CASES).max(1);
    for case in cases.into_iter().step_by(step) {
        let plan = match suite.context().plan(case.op.clone()) {
            Err(e) if e.kind() == ErrorKind::Unsupported => continue,
            plan => plan?,
        };
        let bench = Bench::new(suite.context(), &plan, &case)?;
        jobs.push(Job {
            name: case.id(),
            workspace_bytes: plan.workspace_bytes(&bench.shapes()),
            bench,
            launch: Box::new(move |stream, args, workspace| plan.run_list(stream, args, workspace)),
            checksum: None,
        });
    }
    Ok(())
}

impl<'a> Lane<'a> {
    /// Allocates, fills and launches; the bytes allocated.
    fn start(&mut self, at: usize, job: &Job<'a>, launches: usize) -> Result<usize> {
        let poison = POISON[launches / 7 % 2];
        let bench = job.bench.elsewhere()?;
        let workspace = bench.scratch(job.workspace_bytes)?;
        let before = bench.fill(&mut *self.stream, &workspace, &bench, poison)?;
        (job.launch)(&mut *self.stream, &bench.args()?, &workspace.view()?)?;
        let bytes = before.iter().map(Vec::len).sum();
        self.running = Some(Running {
            job: at,
            bench,
            workspace,
            before,
            poison,
        });
        Ok(bytes)
    }

    /// Looks at what the last launch gave, and frees its memory.
    fn finish(&mut self, jobs: &mut [Job<'_>], launches: usize) -> Result<(), Fault> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let job = &mut jobs[running.job];
        let wrong = |why: &str| Fault::Wrong(format!("{}, launch {launches}: {why}", job.name));
        let (outputs, disturbed) = running.bench.look(
            &mut *self.stream,
            &running.workspace,
            &running.before,
            running.poison,
        )?;
        if let Some(why) = disturbed {
            return Err(wrong(&why));
        }
        let elements = outputs.iter().flatten();
        let bytes = elements.flat_map(|x| x.to_bits().to_le_bytes());
        let checksum = bytes.fold(FNV_OFFSET, fnv_step);
        match job.checksum {
            Some(first) if first != checksum => {
                Err(wrong("the outputs are not those of the first round"))
            }
            _ => {
                job.checksum = Some(checksum);
                Ok(())
            }
        }
    }
}

/// A buffer that is dropped while its work is queued; its bytes.
fn let_go(device: &dyn Device, stream: &mut dyn Stream, launches: usize) -> Result<usize> {
    let bytes = 1 + launches * 37 % 5000;
    let buffer = device.alloc(bytes)?;
    let view = View::at(&buffer, 0, hal::DType::U8, &[bytes])?;
    stream.upload(&view, &vec![launches as u8; bytes])?;
    Ok(bytes)
}

/// Whether free memory moves with what this process allocates, and with nothing else: then a loss is a leak.
fn counts_memory(device: &dyn Device) -> Result<bool> {
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let Some(before) = device.memory() else {
            return Ok(false);
        };
        let buffer = device.alloc(4 * MIB)?;
        let during = device.memory().map_or(0, |m| m.free_bytes);
        drop(buffer);
        let after = device.memory().map_or(0, |m| m.free_bytes);
        let taken = before.free_bytes.checked_sub(during);
        if after != before.free_bytes || taken.is_none_or(|taken| taken < 4 * MIB) {
            return Ok(false);
        }
        seen.insert(after);
    }
    Ok(seen.len() == 1)
}
