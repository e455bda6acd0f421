//! What the machine could do, and what the kernels do of it.
//!
//! - [`Limits`]: bytes read and products computed per second by loops that do nothing else.
//! - [`Product`]: one matrix product of a GLM, ready to run again and again with weights that are not in a cache.
//! - `cargo run --release -p glm-benches --bin roofline` prints both side by side;
//!   `cargo bench -p glm-benches` gives each its distribution.

mod limits;
mod product;

pub use limits::{Limit, Limits, best};
pub use product::{Product, SHAPES, Shape};
