//! What the host pays to queue work.

use std::time::Instant;

use hal::{DType, ErrorKind, Result, Stream};
use ops::{Context, RmsNorm};

use super::operation::Placed;
use super::{Clock, Figure, Operation, Spread};

/// Launches that are queued at a time: about those of a step of a model of 40 layers, and fewer than fill a queue.
const LAUNCHES: usize = 320;
/// Elements of the operation: nothing to compute.
const DIM: usize = 64;

/// Host time of one launch of a tiny operation, and of launching a recorded graph of as many as a step of a model has.
///
/// On devices that work at once on the calling thread, the operation itself is part of it.
///
/// # Errors
/// What launches report.
pub fn dispatch(context: &Context, clock: &mut Clock, runs: usize) -> Result<[Figure; 2]> {
    let device = &**context.device();
    let (launch, replay) = (
        format!("dispatch/rms_norm/1x{DIM}"),
        format!("replay/{LAUNCHES}x/rms_norm/1x{DIM}"),
    );
    let plan = match context.plan(RmsNorm {
        dim: DIM,
        dtype: DType::F32,
        eps: 1e-5,
    }) {
        Ok(plan) => plan,
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            return Ok([Figure::skipped(launch, &e), Figure::skipped(replay, &e)]);
        }
        Err(e) => return Err(e),
    };
    let stream = clock.stream();
    let args = vec![
        Placed::unwritten(device, DType::F32, &[1, DIM])?,
        Placed::random(device, stream, DType::F32, &[1, DIM])?,
        Placed::random(device, stream, DType::F32, &[DIM])?,
    ];
    let mut operation = Operation::new(context, &plan, args, [0.0; 2])?;
    let mut step = |stream: &mut dyn Stream| -> Result<()> {
        (0..LAUNCHES).try_for_each(|_| operation.launch(stream))
    };
    let launched = host_time(stream, runs, &mut step)?;
    let one = Spread {
        median: launched.median / LAUNCHES as f64,
        least: launched.least / LAUNCHES as f64,
        most: launched.most / LAUNCHES as f64,
        ..launched
    };
    let replayed = match stream.begin_capture() {
        Ok(()) => {
            let recorded = step(stream);
            let graph = stream.end_capture()?;
            recorded?;
            let times = host_time(stream, runs, &mut |stream| graph.launch(stream))?;
            Figure::timed(replay, times)
        }
        Err(e) if e.kind() == ErrorKind::Unsupported => Figure::skipped(replay, e),
        Err(e) => return Err(e),
    };
    Ok([Figure::timed(launch, one), replayed])
}

/// Seconds until `queue` returns, on an empty queue each time.
fn host_time(
    stream: &mut dyn Stream,
    runs: usize,
    queue: &mut dyn FnMut(&mut dyn Stream) -> Result<()>,
) -> Result<Spread> {
    let mut times = Vec::with_capacity(runs);
    // The first compiles.
    for run in 0..=runs.max(1) {
        let start = Instant::now();
        queue(stream)?;
        let seconds = start.elapsed().as_secs_f64();
        stream.synchronize()?;
        if run > 0 {
            times.push(seconds);
        }
    }
    Ok(Spread::of(times))
}
