//! How fast a device is at what GLMs compute: single operations, whole models, and the limits that both are held against.
//!
//! Design choices:
//! - Bytes and operations are counted from shapes: what must be read and written once, two operations for each
//!   multiply-add. The least time is that of the slower of the two at the device's own limits, and a share is that over
//!   the median time measured.
//! - Limits are measured first, on the same device ([`Limits`]).
//! - Operations are timed by the device's events, without the host between two launches where the device records launches
//!   ([`Clock`]); whole models by the host, from the call to the ids that come back, as a user waits for them.
//! - Weights are read from memory, never from a cache: launches take turns with copies of them.

mod attention;
mod clock;
mod dispatch;
mod figure;
mod limits;
mod operation;
mod product;
mod rows;
mod running;
mod sizes;

pub use clock::Clock;
pub use dispatch::dispatch;
pub use figure::{Amounts, Figure, Spread};
pub use limits::{Limits, OwnLimits};
pub use operation::Operation;
pub use product::{Product, matrices};
pub use running::{Running, Took};
pub use sizes::{Sizes, Told, operations};
