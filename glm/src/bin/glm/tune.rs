//! `glm tune`: measures how a device computes a model's products best, and keeps it for later starts.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glm::backends;
use glm::model::Options;
use ops::{Context, Matmul};

use crate::args::{Global, Tune};
use crate::failure::Failure;
use crate::{compiling, load, output};

pub(crate) fn run(global: &Global, args: &Tune) -> Result<(), Failure> {
    let options = load::device_options(global);
    let time = Duration::from_secs(args.seconds);
    let tune = |products: &[Matmul]| {
        backends::tune(&global.device, &options, products, time).map_err(Failure::device)
    };
    // A device that has nothing to choose says so before a model is loaded.
    tune(&[])?;
    let tuned = tune(&products(global, args)?)?;
    compiling::finish();
    if global.json {
        return output::json(&tuned);
    }
    let mut out = std::io::stdout().lock();
    for product in &tuned {
        writeln!(out, "{}", product.class)?;
        writeln!(out, "  rule    {}", product.rule)?;
        writeln!(out, "  chosen  {}", product.chosen)?;
        for time in &product.times {
            let [rule, chosen] = [time.rule_seconds, time.chosen_seconds].map(|s| 1e3 * s);
            let (rows, gain) = (time.rows, rule / chosen);
            writeln!(
                out,
                "  {rows:>4} rows  {rule:>9.3} ms  {chosen:>9.3} ms  {gain:.2} times as fast"
            )?;
        }
        for refused in &product.refused {
            writeln!(out, "  refused: {refused}")?;
        }
        if product.left_out > 0 {
            writeln!(
                out,
                "  {} candidates not tried: --seconds",
                product.left_out
            )?;
        }
        match &product.kept {
            Some(place) => writeln!(out, "  kept in {}", place.display())?,
            None => writeln!(
                out,
                "  not kept: this device has no fingerprint, or the cache cannot be written"
            )?,
        }
    }
    Ok(())
}

/// The products that the model plans on the device, each once.
fn products(global: &Global, args: &Tune) -> Result<Vec<Matmul>, Failure> {
    let mut accelerator = load::accelerator(global, &global.device)?;
    let planned = Arc::new(Mutex::new(Vec::new()));
    if let Some(planner) = accelerator.ops.matmul.take() {
        let planned = Arc::clone(&planned);
        accelerator.ops.matmul = Some(Arc::new(move |op: &Matmul| {
            let mut planned = planned.lock().unwrap_or_else(PoisonError::into_inner);
            if !planned.contains(op) {
                planned.push(op.clone());
            }
            planner.plan(op)
        }));
    }
    let options = load::with_dtype(global, Options::default());
    let source = load::source(args.model.as_deref());
    load::model(global, &Context::new(accelerator), &source, None, &options)?;
    let planned = planned.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(planned.clone())
}
