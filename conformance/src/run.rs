//! A whole run in this process: what a back end outside this tree calls.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hal::Result;
use ops::Accelerator;

use crate::report::{Document, Timing, now};
use crate::runner::{Driver, ThreadWorker, Worker};
use crate::{Asked, Catalogue, Check, DeviceFacts, Selection};

/// The longest that a check may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the checks of `selection`, and `more`, on what `open` opens; in a thread, so that panics and hangs are
/// results. What kills the process needs [`crate::runner::ProcessWorker`].
///
/// # Errors
/// `NotFound` when `selection` names what is not there; what `open` reports.
pub fn run(
    open: impl Fn() -> Result<Accelerator> + Sync,
    selection: &Selection,
    more: Vec<Check>,
) -> Result<Document> {
    let catalogue = Arc::new(Catalogue::new(selection, more)?);
    let asked = Asked {
        suite: env!("CARGO_PKG_VERSION").into(),
        device: DeviceFacts::of(&open()?),
        selection: selection.clone(),
        order_seed: 0,
    };
    let launch = || {
        let worker = ThreadWorker::start(Arc::clone(&catalogue), open()?);
        Ok(Box::new(worker) as Box<dyn Worker>)
    };
    let (started, start) = (now(), Instant::now());
    let results = Driver {
        catalogue: &catalogue,
        launch: &launch,
        jobs: 1,
        timeout: TIMEOUT,
        order_seed: asked.order_seed,
        on_result: &|_| {},
        stop: &AtomicBool::new(false),
    }
    .run(Vec::new());
    let timing = Timing {
        started,
        seconds: start.elapsed().as_secs_f64(),
        jobs: 1,
        timeout_seconds: TIMEOUT.as_secs_f64(),
        partial: false,
    };
    Ok(Document::new(asked, timing, Vec::new(), results))
}
