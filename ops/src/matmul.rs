//! Matrix product with a weight: `out[m, n] = act(Σ_k x[m, k] · w[n, k] + bias[n]) + residual[m, n]`.
//!
//! Sums in f32 or wider whatever the storage types; products of x and dequantised w as the device's declared class
//! says. `out` may be the same view as `residual`.

use hal::{DType, Numerics, Result, View, WeightFormat};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, op_args, signature,
};
use crate::reference::{Tensor, dot};
use crate::{Act, Op, Signature};

/// Specification of a product with a weight `[n, k]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matmul {
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Element type of `x`, and of `residual`.
    pub x: DType,
    /// Encoding of the weight.
    pub weight: WeightFormat,
    /// Element type of `out`.
    pub out: DType,
    /// Whether a bias is added.
    pub bias: bool,
    /// Activation after the bias.
    pub activation: Option<Act>,
    /// Whether a residual is added last.
    pub residual: bool,
}

impl Matmul {
    /// A plain product: no epilogue, `out` of the type of `x`.
    pub fn new(n: usize, k: usize, x: DType, weight: WeightFormat) -> Self {
        Self {
            n,
            k,
            x,
            weight,
            out: x,
            bias: false,
            activation: None,
            residual: false,
        }
    }
}

/// Columns of x that share a scale when they are rounded to eight bits.
pub const ACTIVATION_BLOCK: usize = 128;

/// A block of x whose largest magnitude is less than this is rounded to zeros: 2⁻¹⁰⁰.
pub const SMALLEST_ACTIVATION: f32 = 7.888_609e-31;

impl Matmul {
    /// On devices that round x to eight bits ([`hal::Numerics::rounds_activations`]), the columns that share a scale:
    /// [`ACTIVATION_BLOCK`], whatever the weight. `None`: the product takes x as it is.
    ///
    /// With `a` the largest magnitude of a block, in f32: element `x` becomes the integer nearest to `x · (127/a)`, of two
    /// equally near ones the even one, in units of `a/127`. Blocks with `a` < [`SMALLEST_ACTIVATION`] become zeros. An
    /// infinity or a NaN makes every product of its block NaN.
    pub fn activation_block(&self) -> Option<usize> {
        match self.weight {
            WeightFormat::Int8Row | WeightFormat::Int4Row => Some(ACTIVATION_BLOCK),
            // Groups divide a block, or blocks a group.
            WeightFormat::Int8Group(group) | WeightFormat::Int4Group(group) => {
                (group.is_multiple_of(ACTIVATION_BLOCK) || ACTIVATION_BLOCK.is_multiple_of(group))
                    .then_some(ACTIVATION_BLOCK)
            }
            _ => None,
        }
    }

    /// Whether a device with this card multiplies integers: it rounds x.
    pub fn multiplies_integers(&self, card: &Numerics) -> bool {
        card.rounds_activations && self.activation_block().is_some()
    }

    /// `x` as such a device rounds it, for references: the value of each integer in its units.
    pub fn rounded_activations(&self, x: &Tensor) -> Tensor {
        let Some(block) = self.activation_block() else {
            return x.clone();
        };
        let mut rounded = x.clone();
        for block in rounded
            .data
            .chunks_mut(self.k.max(1))
            .flat_map(|row| row.chunks_mut(block))
        {
            let most = block.iter().fold(0.0, |most: f64, x| most.max(x.abs())) as f32;
            if block.iter().any(|x| !x.is_finite()) {
                block.fill(f64::NAN);
            } else if most < SMALLEST_ACTIVATION {
                block.fill(0.0);
            } else {
                for x in block {
                    let units = (*x as f32 * (127.0 / most)).round_ties_even();
                    *x = f64::from(units) * f64::from(most / 127.0);
                }
            }
        }
        rounded
    }
}

op_args! {
    /// Arguments of [`Matmul`].
    MatmulArgs {
        /// `[m, n]`
        out,
        /// `[m, k]`
        x,
        /// packed by the plan from `[n, k]`
        weight,
        ; optional
        /// f32 `[n]`
        bias,
        /// `[m, n]`
        residual,
    }
}

impl Op for Matmul {
    const NAME: &'static str = "matmul";
    type Args<'a> = MatmulArgs<'a>;

    fn signature(&self) -> Signature {
        let mut list =
            signature![out: Out, self.out; x: In, self.x; weight: Weight(self.weight), DType::U8];
        if self.bias {
            list.extend(signature![bias: In, DType::F32]);
        }
        if self.residual {
            list.extend(signature![residual: In, self.x]);
        }
        list
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let (out, x) = (&args[0], &args[1]);
        expect_rank(Self::NAME, "x", x, 2)?;
        let m = x.dim(0);
        expect_shape(Self::NAME, "x", x, &[m, self.k])?;
        expect_shape(Self::NAME, "out", out, &[m, self.n])?;
        expect_dense_rows(Self::NAME, "x", x)?;
        expect_dense_rows(Self::NAME, "out", out)?;
        let mut rest = args[3..].iter();
        if self.bias {
            let bias = rest.next().expect("counted by check_args");
            expect_shape(Self::NAME, "bias", bias, &[self.n])?;
            expect_contiguous(Self::NAME, "bias", bias)?;
        }
        if self.residual {
            let residual = rest.next().expect("counted by check_args");
            expect_shape(Self::NAME, "residual", residual, &[m, self.n])?;
            expect_dense_rows(Self::NAME, "residual", residual)?;
        }
        Ok(())
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        out == 0 && self.residual && input == 3 + usize::from(self.bias) && self.out == self.x
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let bias = self.bias.then(|| &inputs[2]);
        let residual = self.residual.then(|| &inputs[2 + usize::from(self.bias)]);
        let mut out = Tensor::zeros(shapes[0]);
        for m in 0..x.rows() {
            for n in 0..self.n {
                let sum = dot(x.row(m), weight.row(n)) + bias.map_or(0.0, |b| b.data[n]);
                let sum = self.activation.map_or(sum, |act| act.reference(sum));
                out.row_mut(m)[n] = sum + residual.map_or(0.0, |r| r.row(m)[n]);
            }
        }
        vec![out]
    }
}
