//! What a vendor's library of products looks like to the planners, who also plan for devices without one.

mod slabs;

use hal::{DType, Result};

use crate::driver::SimtDriver;
use crate::launch::Call;

pub use slabs::{Around, Cut, Rows, Slabs};

/// A library of products on devices of one kind of driver.
pub trait Library<D: SimtDriver>: Send + Sync {
    /// Bytes of workspace that a launch needs, whatever its operands.
    fn workspace_bytes(&self) -> usize;

    /// Its products of these types.
    fn product(&self, types: Types) -> Box<dyn Product<D>>;
}

/// The types of a product `out[m, n] = Σ_k x[m, k] · w[n, k] + residual[m, n]`, summed up in f32.
#[derive(Clone, Copy, Debug)]
pub struct Types {
    /// Of `x` and the weight.
    pub x: DType,
    /// Of `out` and the residual: that, or f32.
    pub out: DType,
}

/// The lengths of a product; strides are elements from one row to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of `x`.
    pub m: usize,
    /// Rows of the weight.
    pub n: usize,
    /// Columns of both.
    pub k: usize,
    /// Of `out`.
    pub out_stride: usize,
    /// Of `x`.
    pub x_stride: usize,
    /// Of the weight.
    pub weight_stride: usize,
    /// Of what is added, if something is.
    pub residual_stride: Option<usize>,
}

/// Products of one library with the same types. One of them that says `true` for a piece of a product says so for the other
/// pieces too.
pub trait Product<D: SimtDriver>: Send + Sync {
    /// Queues one if `queues`. `call` has the memory of out, x, the weight, what is added (anything if nothing is) and a
    /// workspace; `out` overlaps none of them, but may be what is added. `false`: the library has no kernel for such a shape
    /// or alignment, nothing was queued.
    ///
    /// # Errors
    /// What the library reports.
    fn multiply(&self, call: Call<'_, D>, shape: &Shape, queues: bool) -> Result<bool>;
}
