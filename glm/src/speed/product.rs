//! Products with the weights of a GLM.

use hal::{Buffer, DType, Result, WeightFormat};
use ops::{Context, Matmul, Plan};

use super::operation::{COLD_BYTES, MOST_COPIES, Placed, expect_room};
use super::{Amounts, Operation};
use crate::architecture::Architecture;
use crate::checkpoint::random::random_weight;

/// Names, output and input features of the matrices of a model's layer, and of its output layer.
pub fn matrices(a: &Architecture) -> [(&'static str, usize, usize); 5] {
    [
        ("qkv", a.qkv_rows(), a.hidden),
        ("o", a.hidden, a.heads * a.head_dim),
        ("up", a.up_rows(), a.hidden),
        ("down", a.hidden, a.ffn),
        ("head", a.vocab, a.hidden),
    ]
}

/// A weight in the device's layout, several times, so that the one whose turn it is lies in no cache.
#[derive(Debug)]
pub struct Product {
    plan: Plan<Matmul>,
    weights: Vec<Buffer>,
}

impl Product {
    /// A weight `[n, k]` of random numbers in `format`, for `x`.
    ///
    /// # Errors
    /// What planning, packing and allocating report; `OutOfMemory` before anything is made.
    pub fn new(
        context: &Context,
        [n, k]: [usize; 2],
        x: DType,
        format: WeightFormat,
    ) -> Result<Self> {
        Self::repeated(context, [n, k], x, format, COLD_BYTES)
    }

    /// As [`Self::new`], the weight only once: for products that computing bounds.
    pub(super) fn warm(
        context: &Context,
        shape: [usize; 2],
        x: DType,
        format: WeightFormat,
    ) -> Result<Self> {
        Self::repeated(context, shape, x, format, 0)
    }

    /// The weight, again and again until there are `least` bytes of it.
    fn repeated(
        context: &Context,
        [n, k]: [usize; 2],
        x: DType,
        format: WeightFormat,
        least: usize,
    ) -> Result<Self> {
        let plan = context.plan(Matmul::new(n, k, x, format))?;
        let bytes = crate::weights::weight_bytes(format, n, k);
        expect_room(context, "pack a weight", bytes.max(least))?;
        let host = random_weight(n, k, format, 1)?;
        let mut weights = vec![plan.pack(&host)?];
        while weights.len() * weights[0].bytes() < least && weights.len() < MOST_COPIES {
            weights.push(plan.pack(&host)?);
        }
        Ok(Self { plan, weights })
    }

    /// The product of `m` rows with the weight.
    ///
    /// # Errors
    /// What allocating reports.
    pub fn rows(&self, context: &Context, m: usize) -> Result<Operation> {
        let (device, op) = (&**context.device(), self.plan.op());
        let [x_bytes, out_bytes] = [m * op.k * op.x.bytes(), m * op.n * op.out.bytes()];
        expect_room(context, "multiply", x_bytes + out_bytes)?;
        let mut stream = device.stream()?;
        let weight = Placed {
            places: self.weights.iter().map(|w| (w.clone(), 0)).collect(),
            dtype: DType::U8,
            shape: vec![self.weights[0].bytes()],
        };
        let args = vec![
            Placed::unwritten(device, op.out, &[m, op.n])?,
            Placed::random(device, &mut *stream, op.x, &[m, op.k])?,
            weight,
        ];
        stream.synchronize()?;
        let bytes = self.weight_bytes() + x_bytes + out_bytes;
        let amounts = Amounts {
            bytes: bytes as f64,
            ..Amounts::product(op, m as f64, &device.info().numerics)
        };
        Operation::new(context, &self.plan, args, amounts)
    }

    /// Bytes of the weight as its format has them, without a back end's padding.
    pub fn weight_bytes(&self) -> usize {
        let Matmul { n, k, weight, .. } = *self.plan.op();
        crate::weights::weight_bytes(weight, n, k)
    }
}
