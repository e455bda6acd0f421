//! The driver against workers that crash, hang, lose their device, and lie.
//!
//! The worker processes are this test program itself: [`acts_as_a_worker`] serves when a variable says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use conformance::runner::{Driver, Launch, ProcessWorker, Progress, ThreadWorker, Worker, serve};
use conformance::{
    Asked, Catalogue, Check, Depth, DeviceFacts, Fault, Level, Record, Selection, Status,
    reference_device,
};
use hal::{Error, ErrorKind, Result};
use tempfile::TempDir;

/// The variable with the folder that workers may write to.
const FOLDER: &str = "CONFORMANCE_TEST_WORKER";

fn selection() -> Selection {
    Selection {
        levels: "5".parse().unwrap(),
        depth: Depth::Quick,
        ..Selection::default()
    }
}

/// Twenty checks that pass and one of each misfortune.
fn catalogue() -> Catalogue {
    let check = |name: &str, run: fn() -> Result<String, Fault>| {
        Check::new(Level::Models, "fake", name, name, move |_| run())
    };
    let mut checks: Vec<Check> = (0..20)
        .map(|i| check(&format!("good{i:02}"), || Ok("fine".into())))
        .collect();
    checks.extend([
        check("crash", || std::process::abort()),
        check("exit", || {
            eprintln!("the driver says goodbye");
            std::process::exit(3)
        }),
        check("hang", || {
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        }),
        check("lost", || {
            Err(Error::new(ErrorKind::DeviceLost, "run", "reset by the watchdog").into())
        }),
        check("wrong", || Err(Fault::Wrong("2 + 2 = 5".into()))),
        check("unsupported", || Err(Fault::Unsupported("no f16".into()))),
        check("noisy", || {
            println!("vendor banner {{\"done\": 1}}");
            Ok(String::new())
        }),
        check("flaky", || {
            once("flaky", || Err(Fault::Wrong("today".into())))
        }),
        check("crashes_once", || {
            once("crashes_once", || std::process::abort())
        }),
    ]);
    Catalogue::new(&selection(), checks).unwrap()
}

/// What `misfortune` says the first time, success later: across processes.
fn once(name: &str, misfortune: fn() -> Result<String, Fault>) -> Result<String, Fault> {
    let mark = Path::new(&std::env::var(FOLDER).unwrap()).join(name);
    if mark.exists() {
        return Ok(String::new());
    }
    std::fs::write(mark, "").unwrap();
    misfortune()
}

#[test]
fn acts_as_a_worker() {
    if std::env::var_os(FOLDER).is_some() {
        let open = || Ok(reference_device::open());
        serve(
            &catalogue(),
            open,
            std::io::stdin().lock(),
            std::io::stdout(),
        )
        .unwrap();
    }
}

fn worker(folder: &Path) -> Result<(ProcessWorker, DeviceFacts)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "acts_as_a_worker", "--nocapture"])
        .env(FOLDER, folder);
    ProcessWorker::start(command)
}

fn statuses(records: &[Record]) -> BTreeMap<&str, Status> {
    let of = |r: &'_ Record| r.outcome.status;
    records
        .iter()
        .map(|r| (r.name.strip_prefix("fake/").unwrap(), of(r)))
        .collect()
}

fn drive(launch: &Launch<'_>, jobs: usize, order_seed: u64) -> Vec<Record> {
    let catalogue = catalogue();
    Driver {
        catalogue: &catalogue,
        launch,
        jobs,
        timeout: Duration::from_secs(2),
        order_seed,
        on_result: &|_| {},
        stop: &AtomicBool::new(false),
    }
    .run(Vec::new())
}

#[test]
fn every_misfortune_is_one_result_and_the_run_goes_on() {
    for (jobs, seed) in [(1, 1), (3, 2)] {
        let folder = TempDir::new().unwrap();
        let launch = || Ok(Box::new(worker(folder.path())?.0) as Box<dyn Worker>);
        let records = drive(&launch, jobs, seed);
        let names: Vec<&str> = records.iter().map(|r| &*r.name).collect();
        assert!(names.is_sorted() && names.len() == 29);
        let mut statuses = statuses(&records);
        for (name, status) in [
            ("crash", Status::Crash),
            ("exit", Status::Crash),
            ("hang", Status::Timeout),
            ("lost", Status::DeviceLost),
            ("wrong", Status::Fail),
            ("unsupported", Status::Unsupported),
            ("flaky", Status::Flaky),
            ("crashes_once", Status::Flaky),
            ("noisy", Status::Pass),
        ] {
            assert_eq!(statuses.remove(name), Some(status), "{name}, {jobs} jobs");
        }
        assert!(
            statuses.values().all(|s| *s == Status::Pass),
            "{statuses:?}"
        );
        let why = |name: &str| {
            let record = records.iter().find(|r| r.name == format!("fake/{name}"));
            &record.unwrap().outcome.why
        };
        assert!(
            why("exit").contains("the driver says goodbye"),
            "{}",
            why("exit")
        );
        assert!(why("hang").contains("no answer in 2 s"), "{}", why("hang"));
        assert!(why("flaky").contains("today") && why("lost").contains("watchdog"));
    }
}

#[test]
fn the_order_follows_from_the_seed() {
    let order = |seed| {
        let all = Arc::new(catalogue());
        let seen = Mutex::new(Vec::new());
        let stop = AtomicBool::new(false);
        let launch = || Ok(Box::new(Always(Status::Pass)) as Box<dyn Worker>);
        Driver {
            catalogue: &all,
            launch: &launch,
            jobs: 1,
            timeout: Duration::from_secs(1),
            order_seed: seed,
            on_result: &|r| seen.lock().unwrap().push(r.name.clone()),
            stop: &stop,
        }
        .run(Vec::new());
        seen.into_inner().unwrap()
    };
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
}

/// A worker that always says the same.
struct Always(Status);

impl Worker for Always {
    fn run(&mut self, check: &str, _: Duration, _: &AtomicBool) -> conformance::runner::Answer {
        let outcome = conformance::Outcome::new("fake", check).ended(self.0, "");
        conformance::runner::Answer::Done(Box::new(outcome))
    }
}

#[test]
fn a_run_ends_early_and_goes_on_later() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("progress.jsonl");
    let all = catalogue();
    let asked = Asked {
        suite: "1".into(),
        device: DeviceFacts::of(&reference_device::open()),
        selection: selection(),
        order_seed: 5,
    };
    let (stop, ran) = (AtomicBool::new(false), AtomicUsize::new(0));
    let launch = || Ok(Box::new(Always(Status::Pass)) as Box<dyn Worker>);
    let progress = Progress::create(&path, &asked).unwrap();
    let mut driver = Driver {
        catalogue: &all,
        launch: &launch,
        jobs: 1,
        timeout: Duration::from_secs(1),
        order_seed: 5,
        on_result: &|r| {
            progress.add(r).unwrap();
            stop.store(ran.fetch_add(1, Ordering::Relaxed) == 9, Ordering::Relaxed);
        },
        stop: &stop,
    };
    let first = driver.run(Vec::new());
    let count = |records: &[Record], s| records.iter().filter(|r| r.outcome.status == s).count();
    assert_eq!(count(&first, Status::Pass), 10);
    assert_eq!(count(&first, Status::NotRun), 19);
    drop(first);
    // As after a power cut: the last line is not whole.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    let (progress, done) = Progress::resume(&path, &asked).unwrap();
    assert_eq!(done.len(), 9);
    let again = AtomicUsize::new(0);
    let on_result = |r: &Record| {
        progress.add(r).unwrap();
        again.fetch_add(1, Ordering::Relaxed);
    };
    let go = AtomicBool::new(false);
    driver.stop = &go;
    driver.on_result = &on_result;
    let all = driver.run(done);
    assert_eq!((count(&all, Status::Pass), again.into_inner()), (29, 20));
    assert_eq!(Progress::resume(&path, &asked).unwrap().1.len(), 29);

    let mut other = asked.clone();
    other.selection.depth = Depth::Full;
    let kind = |path: &Path, asked| Progress::resume(path, asked).unwrap_err().kind();
    assert_eq!(kind(&path, &other), ErrorKind::InvalidArgument);
    std::fs::write(&path, "{\"suite\": 3}\n").unwrap();
    assert_eq!(kind(&path, &asked), ErrorKind::Corrupt);
    assert_eq!(kind(Path::new("no such file"), &asked), ErrorKind::NotFound);
}

#[test]
fn a_device_that_vanishes_leaves_the_rest_untried() {
    let starts = AtomicUsize::new(0);
    let launch = || match starts.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(Box::new(Always(Status::DeviceLost)) as Box<dyn Worker>),
        _ => Err(Error::new(
            ErrorKind::NotFound,
            "open the device",
            "unplugged",
        )),
    };
    let records = drive(&launch, 1, 3);
    let lost = records
        .iter()
        .filter(|r| r.outcome.status == Status::DeviceLost);
    assert_eq!(lost.count(), 1);
    let rest: Vec<&Record> = records
        .iter()
        .filter(|r| r.outcome.status == Status::NotRun)
        .collect();
    assert_eq!(rest.len(), 28);
    assert!(rest.iter().all(|r| r.outcome.why.contains("unplugged")));
    // Two tries, not one per check.
    assert_eq!(starts.into_inner(), 3);
}

#[test]
fn a_worker_that_cannot_open_its_device_says_so() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo '{"refused":"no such chip"}'"#]);
    let e = ProcessWorker::start(command).unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.detail() == "no such chip");
    let mut command = Command::new("sh");
    command.args(["-c", "echo broken >&2; exit 9"]);
    let e = ProcessWorker::start(command).unwrap_err();
    assert!(
        e.detail().contains('9') && e.detail().contains("broken"),
        "{e}"
    );
    assert!(ProcessWorker::start(Command::new("/no/such/program")).is_err());
}

#[test]
fn threads_survive_panics_and_hangs() {
    let check = |name: &str, run: fn() -> Result<String, Fault>| {
        Check::new(Level::Models, "fake", name, name, move |_| run())
    };
    let checks = vec![
        check("a_good", || Ok(String::new())),
        check("b_panic", || panic!("index out of range")),
        check("c_hang", || {
            loop {
                std::thread::park();
            }
        }),
        check("d_good", || Ok(String::new())),
    ];
    let all = Arc::new(Catalogue::new(&selection(), checks).unwrap());
    let launch = || {
        let worker = ThreadWorker::start(Arc::clone(&all), reference_device::open());
        Ok(Box::new(worker) as Box<dyn Worker>)
    };
    let records = Driver {
        catalogue: &all,
        launch: &launch,
        jobs: 2,
        timeout: Duration::from_millis(500),
        order_seed: 0,
        on_result: &|_| {},
        stop: &AtomicBool::new(false),
    }
    .run(Vec::new());
    let got: Vec<Status> = records.iter().map(|r| r.outcome.status).collect();
    assert_eq!(
        got,
        [Status::Pass, Status::Crash, Status::Timeout, Status::Pass]
    );
    assert!(records[1].outcome.why.contains("index out of range"));
}
