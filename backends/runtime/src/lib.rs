//! Vendors' runtimes of streams, events, modules and graphs under the portable kernels of `backend-simt`.
//!
//! Not a back end by itself: CUDA's driver, HIP and their like have the same calls under other names. A back end gives them as
//! an [`Api`], and [`Runtime`] is the driver that the portable kernels need.
//!
//! An operator library needs no kernels: its back end leaves these calls out, and queues operators on the stream, and in the
//! scratch memory, that a [`Queue`] gives.
//!
//! Design choices:
//! - Memory is taken and given back in the order of one stream of its own. That stream waits for the queues before it gives
//!   memory back, and queues wait for it before they use new memory: dropping a buffer never waits. Devices without pools
//!   wait instead.
//! - Transfers go through page-locked memory, so uploads return when their bytes are copied there.
//! - A capture is the runtime's own; it keeps the memory of its launches alive.
//! - After a code that a device does not survive (illegal address, …) the accelerator is poisoned: every later call gives
//!   `DeviceLost` with the first reason, the process lives, and the device can be opened again.
//! - Libraries are looked for when a device is first asked for ([`Search`]), and never unloaded.
//!
//! Who validates what: as in `backend-simt`. Here are only the runtime's own errors, which the back end puts into words.

mod api;
mod compiler;
mod context;
mod driver;
mod memory;
pub mod search;
pub mod spec;
mod staging;
pub mod symbols;

pub use api::{ABSENT, Api, Code, Handle, NOT_READY, OUT_OF_MEMORY, SUCCESS};
pub use compiler::{Compilation, Rtc, compile};
pub use driver::{Abilities, Queue, Runtime};
pub use memory::Allocation;
pub use search::{Libraries, Place, Search};
