//! What a device is: memory, streams, events, graphs, views, errors. Knows no operation.
//!
//! Design choices:
//! - `dyn` at the seam: a vendor adds a device without touching this crate; inside a backend everything is static.
//! - [`Buffer`] is a shared handle, [`View`] a borrowed window that has been checked against its buffer once,
//!   so a kernel that respects its views cannot leave its memory.
//! - A [`Stream`] is in order and may be asynchronous. `upload` gives the host bytes back on return,
//!   `download` has filled them on return: nothing else crosses between host and device.
//! - Dropping a buffer right after work was queued is safe: the backend delays the free.
//! - A [`Graph`] repeats launches that a stream recorded once, on whatever their buffers hold by then.
//! - A method enters this crate when two unlike backends need it.
//!
//! Who validates what: constructors of views check bounds; `ops` checks shapes and dtypes of an operation's
//! arguments; a backend reports only what the caller could not foresee (memory, compilation, loss).
//! After `DeviceLost` every call on that device fails with `DeviceLost`.
//!
//! ```
//! use hal::{DType, Device, View, null::NullDevice};
//! # fn main() -> hal::Result<()> {
//! let device = NullDevice::new();
//! let buffer = device.alloc(2 * 3 * 4)?;
//! let view = View::new(&buffer, DType::F32, &[2, 3])?;
//! let mut stream = device.stream()?;
//! stream.upload(&view, &[0u8; 24])?;
//! stream.synchronize()?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod buffer;
mod device;
mod dtype;
mod error;
pub mod kept;
pub mod null;
mod stream;
mod view;

pub use buffer::{Buffer, DeviceId, Memory};
pub use device::{Device, DeviceInfo, MemoryInfo, Numerics};
pub use dtype::{DType, WeightFormat};
pub use error::{Error, ErrorKind, Result};
pub use stream::{Event, EventState, Graph, GraphState, Stream, check_transfer};
pub use view::{MAX_RANK, View};
