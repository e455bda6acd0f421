//! Planners of our own in place of the portable ones, for what they can and where there is what they need.

mod matmul;
#[cfg(test)]
mod tests;
pub(crate) mod units;

use std::sync::{Arc, OnceLock};

use backend_simt::SimtDriver;
use backend_simt::kit::Chip;
use backend_simt::library::{Cut, Library};
use hal::Result;
use ops::{Matmul, Ops, Planner};

use units::Units;

/// Chips, by what their names begin with, whose matrix and dot units take f16 numbers below 2⁻¹⁴ for zero (AMD says so of the
/// MI200), and bf16 ones below 2⁻¹²⁶. The first would be wrong by more than rounding: there, f16 goes by the portable kernels.
const FLUSHES: [&str; 1] = ["gfx90a"];

/// Whether matrix units of a chip take subnormal numbers for zero.
pub(crate) fn flushes(target: &str) -> bool {
    FLUSHES.iter().any(|name| target.starts_with(name))
}

/// Puts the planners of this crate before those of `ops`, which stay for what these decline, on a chip that calls itself
/// `target` and has the `units` that are asked for when a product is first planned. Products of many rows go by `library`. For
/// [`crate::open`], and for those who compile the kernels without a chip.
pub fn put_own<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    ops: &mut Ops,
    target: &str,
    units: impl Fn(&Arc<Chip<D>>) -> Result<Units> + Send + Sync + 'static,
    library: Option<Arc<dyn Library<D>>>,
) {
    put_cut(chip, ops, target, units, library, Cut::default());
}

/// As [`put_own`], with other slabs.
fn put_cut<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    ops: &mut Ops,
    target: &str,
    units: impl Fn(&Arc<Chip<D>>) -> Result<Units> + Send + Sync + 'static,
    library: Option<Arc<dyn Library<D>>>,
    cut: Cut,
) {
    let Some(portable) = ops.matmul.take() else {
        return;
    };
    let (chip, flushes, known) = (Arc::clone(chip), flushes(target), OnceLock::new());
    let plan = move |op: &Matmul| {
        let Some(launch) = portable.plan(op)? else {
            return Ok(None);
        };
        let units = match known.get() {
            Some(units) => *units,
            None => *known.get_or_init({
                let units = units(&chip)?;
                move || units
            }),
        };
        let has = matmul::Has {
            units: if flushes { units.without_f16() } else { units },
            library: library
                .as_deref()
                .filter(|_| !flushes || op.x != hal::DType::F16),
            cut,
        };
        matmul::plan(&chip, op, launch, has)
    };
    let plan: Arc<dyn Planner<Matmul>> = Arc::new(plan);
    ops.matmul = Some(plan);
}
