//! Huawei Ascend: AscendCL and the aclnn operator library, loaded at run time.
//!
//! Design choices:
//! - The libraries (`libascendcl.so`, `libnnopbase.so`, `libopapi.so` or the parts of it) are looked for when a device is first
//!   asked for, with every function: this crate builds and starts on machines without them. [`libraries`] says what was found.
//! - There are no kernels of ours. An operation is the library's operators one after the other, each in two calls: one that
//!   checks arguments and says what workspace it needs, and one that queues its work.
//! - Memory, streams, transfers, captures and lost devices are as in `backend-runtime`, which does what AscendCL has in common
//!   with its like; every operator works in the scratch memory of its queue.
//! - An operator with arguments of the same types, lengths and strides is prepared once for a queue, and then given other
//!   addresses, where the library can do that: `src/executors.rs`.
//! - What an operator would round to a half type before the last step is computed in f32 and rounded once.
//! - What no operator computes is made of several on the device: [`COMPOSED`].
//! - What operators do not bound (ids, slots, positions) is bounded on the device before they see it.
//! - An operator that this release of CANN lacks is named when an operation is planned.
//! - A 910A or 310P has neither bf16 nor products in f32: bf16 is refused, with f16 named instead.
//!
//! Who validates what: `ops` checks arguments. Here are only the library's own errors, with its codes.
//!
//! No Ascend device was at hand: everything runs against a stand-in for the libraries that computes by plain loops on the host.
//!
//! ```
//! match backend_ascend::open("ascend:0") {
//!     Ok(device) => println!("{}", device.device.info().name),
//!     Err(e) => println!("no Ascend here: {e}"),
//! }
//! ```

mod arguments;
mod device;
mod executors;
mod failure;
mod find;
mod libraries;
mod operators;
mod ops;
mod planned;
mod run;
mod symbols;
mod tensor;

use ::ops::Accelerator;
use backend_runtime::spec;
use hal::Result;

pub use backend_runtime::Place;
pub use find::{Found, Generation};
pub use libraries::{Libraries, libraries};
pub use ops::COMPOSED;

/// Opens the device that `spec` names: `ascend` or `ascend:0` (AscendCL's first), `ascend:1`, …
///
/// # Errors
/// `NotFound` when there is no CANN, or no such device; `InvalidArgument` for another form of `spec`, and for a list of visible
/// devices that AscendCL would cut short; `Unsupported` for a chip that is not known; what AscendCL reports.
pub fn open(spec: &str) -> Result<Accelerator> {
    find::number(spec)?;
    let started = find::Started::new().map_err(|e| spec::not_started(spec, e))?;
    let find::Opened {
        runtime,
        generation,
        weight_quant,
        attention,
        folds,
    } = started.open(spec)?;
    let options = backend_simt::Options::default();
    Ok(backend_simt::open_with_own(
        runtime,
        options,
        |chip, table| {
            *table = ops::table(&planned::Npu {
                device: chip.device(),
                chip: chip.clone(),
                generation,
                weight_quant,
                attention,
                folds,
            });
        },
    ))
}

/// Every Ascend device of this machine, in AscendCL's order.
///
/// # Errors
/// `NotFound` when there is no CANN; what AscendCL reports.
pub fn devices() -> Result<Vec<Found>> {
    find::Started::new()?.devices()
}
