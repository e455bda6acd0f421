//! A process of its own for each back end.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Finding;
use crate::args::Global;

/// The worker tries the device of `--device` instead of a back end.
pub(super) const ASKED: &str = "asked";

/// How often a worker is looked after.
const PATIENCE: Duration = Duration::from_millis(10);

/// What a worker finds of `what`; that it crashed, or did not end in `time`.
pub(super) fn check(global: &Global, what: &str, area: &str, time: Duration) -> Vec<Finding> {
    match run(global, what, time) {
        Ok(found) => found,
        Err(Ended::Late) => {
            let seconds = time.as_secs_f64().to_string();
            vec![Finding::new("GLM-D029", area, [("seconds", seconds)])]
        }
        Err(Ended::Badly(why)) => vec![Finding::new("GLM-D028", area, [("why", why)])],
    }
}

/// How a worker ended that found nothing.
enum Ended {
    Late,
    Badly(String),
}

impl From<std::io::Error> for Ended {
    fn from(e: std::io::Error) -> Self {
        Self::Badly(e.to_string())
    }
}

fn run(global: &Global, what: &str, time: Duration) -> Result<Vec<Finding>, Ended> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["doctor", "--worker", what, "--device", &global.device]);
    if let Some(threads) = global.threads() {
        command.args(["--threads", &threads.to_string()]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let [out, err] = [
        child.stdout.take().map(collect),
        child.stderr.take().map(collect),
    ];
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > time {
            child.kill()?;
            child.wait()?;
            return Err(Ended::Late);
        }
        thread::sleep(PATIENCE);
    };
    let text = |collected: Option<thread::JoinHandle<String>>| {
        collected.and_then(|c| c.join().ok()).unwrap_or_default()
    };
    let (out, err) = (text(out), text(err));
    // Drivers print too.
    let found = out
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok());
    match (status.success(), found) {
        (true, Some(found)) => Ok(found),
        _ => Err(Ended::Badly(how(status, &err))),
    }
}

/// What a process writes, read while it runs: a full pipe would stop it.
fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is worth having.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `signal: 11 (SIGSEGV)`, and the last line that it wrote.
fn how(status: ExitStatus, err: &str) -> String {
    match err.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{status}; {}", line.trim()),
        None => status.to_string(),
    }
}
