//! A back end to copy. **Its memory is the host's and its one kernel runs on the host: placeholders, so that the copy
//! is green at level 0 from the first minute.** Lines marked `REPLACE` are where your chip comes in.
//!
//! 1. Copy the folder, rename the crate in `Cargo.toml`, and add it to the workspace's members.
//! 2. `src/device.rs`: memory, streams and events of your runtime. `cargo test memory_and_streams` stays green.
//! 3. `src/ops/`: one file per operation, after `rms_norm.rs`; enter each in [`open`] and in `tests/conformance.rs`. The order that shows
//!    progress soonest is in `docs/adding-a-backend.md`.
//! 4. An arm in `glm/src/backends.rs` and a cargo feature: `glm conform --device mychip` and `glm chat` work.
//!
//! Who validates what: `ops` has checked shapes, types and devices before a launch. Kernels bound what they read from
//! memory (ids, page numbers, lengths).
#![forbid(unsafe_code)] // REPLACE: calls of a driver need `unsafe`, one block and one SAFETY comment each.

mod device;
mod ops;

use std::sync::Arc;

use ::ops::{Accelerator, Ops, RmsNorm};
use hal::Result;

/// Opens the device.
///
/// # Errors
/// None yet. REPLACE: `NotFound` without the vendor's library or a device, each with the next step.
pub fn open() -> Result<Accelerator> {
    Ok(Accelerator {
        device: Arc::new(device::TemplateDevice::new()),
        ops: Ops {
            rms_norm: Some(Arc::new(|op: &RmsNorm| ops::rms_norm::plan(op))),
            // Everything else composes where it can, and is Unsupported where it cannot: never wrong, never on the host.
            ..Ops::none()
        },
    })
}
