//! What the machine could do, and what the kernels do of it.
//!
//! - [`Limits`]: bytes read and products computed per second by loops that do nothing else.
//! - [`Product`]: one matrix product of a GLM, ready to run again and again with weights that are not in a cache.
//! - [`RandomModel`]: a checkpoint of a GLM's shape; `--bin step` measures it on the CPU, `--bin chip` on an accelerator.
//! - `cargo run --release -p glm-benches --bin roofline` prints both side by side;
//!   `cargo bench -p glm-benches` gives each its distribution.

mod limits;
mod model;
mod product;

pub use limits::{Limit, Limits, best};
pub use model::{RandomModel, decode_bytes, matrix_parameters};
pub use product::{Product, SHAPES, Shape};
