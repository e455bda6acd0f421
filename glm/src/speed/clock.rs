//! Times launches by the device's own events.

use std::time::Instant;

use hal::{Device, ErrorKind, Result, Stream};

use super::operation::MOST_COPIES;
use super::{Operation, Spread};

/// Launches that together take less than this are too short for a clock.
const LEAST_SECONDS: f64 = 2e-3;
/// Launches between two marks, at most: a graph of more is slow to make. As many as there are copies of an argument.
const MOST_LAUNCHES: usize = MOST_COPIES;

/// Times launches on one stream.
#[derive(Debug)]
pub struct Clock {
    stream: Box<dyn Stream>,
    runs: usize,
    seconds: f64,
    records: bool,
}

impl Clock {
    /// Times are medians of `runs` rounds, of fewer where those take more than `seconds`.
    ///
    /// # Errors
    /// As [`Device::stream`].
    pub fn new(device: &dyn Device, runs: usize, seconds: f64) -> Result<Self> {
        let mut stream = device.stream()?;
        let records = match stream.begin_capture() {
            Ok(()) => {
                stream.end_capture()?;
                true
            }
            Err(e) if e.kind() == ErrorKind::Unsupported => false,
            Err(e) => return Err(e),
        };
        Ok(Self {
            stream,
            runs: runs.max(1),
            seconds,
            records,
        })
    }

    /// The stream that is timed, for what must be there before.
    pub fn stream(&mut self) -> &mut dyn Stream {
        &mut *self.stream
    }

    /// The seconds that one operation may take.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Seconds of one launch of `operation`.
    ///
    /// Devices that record launches repeat them as one graph, so that the host's time to queue them is not part of it.
    ///
    /// # Errors
    /// What the launches report.
    pub fn time(&mut self, operation: &mut Operation) -> Result<Spread> {
        let stream = &mut *self.stream;
        // The first touches memory, and compiles.
        operation.launch(stream)?;
        stream.synchronize()?;
        let one = between(stream, |stream| operation.launch(stream))?;
        if one >= self.seconds {
            return Ok(Spread::of(vec![one]));
        }
        // Each copy of an argument once, where a round of that many is no eighth of the time.
        let turns = (operation.turns as f64).min(self.seconds / 8.0 / one.max(1e-9));
        let launches = (LEAST_SECONDS / one.max(1e-9)).ceil().max(turns);
        let launches = (launches as usize).clamp(1, MOST_LAUNCHES);
        let several = |stream: &mut dyn Stream, operation: &mut Operation| -> Result<()> {
            (0..launches).try_for_each(|_| operation.launch(stream))
        };
        let graph = match self.records && launches > 1 {
            true => {
                stream.begin_capture()?;
                let launched = several(stream, operation);
                let graph = stream.end_capture();
                // A launch that cannot be recorded is launched one by one.
                launched.ok().and(graph.ok())
            }
            false => None,
        };
        let mut round = |stream: &mut dyn Stream| match &graph {
            Some(graph) => graph.launch(stream),
            None => several(stream, operation),
        };
        let (mut times, start) = (Vec::with_capacity(self.runs), Instant::now());
        between(stream, &mut round)?;
        while times.len() < self.runs {
            times.push(between(stream, &mut round)? / launches as f64);
            if start.elapsed().as_secs_f64() > self.seconds {
                break;
            }
        }
        Ok(Spread::of(times))
    }
}

/// The device's seconds for what `queue` queues.
fn between(
    stream: &mut dyn Stream,
    queue: impl FnOnce(&mut dyn Stream) -> Result<()>,
) -> Result<f64> {
    let start = stream.record()?;
    queue(stream)?;
    let end = stream.record()?;
    stream.synchronize()?;
    Ok(end.since(&start)?.as_secs_f64())
}
