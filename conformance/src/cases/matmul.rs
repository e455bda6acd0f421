//! Cases of [`Matmul`]: every weight format and epilogue.

use hal::{Numerics, WeightFormat};
use ops::reference::Tensor;
use ops::{Act, Matmul, Op};

use super::activation::{act_error, act_spread};
use super::batched_matmul::condition;
use super::{Conformance, FLOATS};
use crate::bound::{Products, TINY, U, digits, stored};
use crate::number::{overflow, round, spacing};
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for Matmul {
    fn case(picks: &mut Picks) -> Case<Self> {
        let weight = picks.one(&WeightFormat::ALL);
        let (m, n, k) = (picks.size(257), picks.size(1025), picks.size(4097));
        let k = k.next_multiple_of(weight.cols_multiple());
        let op = Matmul {
            n,
            k,
            x: picks.one(&FLOATS),
            weight,
            out: picks.one(&FLOATS),
            bias: picks.one(&[false, true]),
            activation: picks.one(&[
                None,
                Some(Act::Silu),
                Some(Act::GeluErf),
                Some(Act::GeluTanh),
                Some(Act::GeluQuick),
            ]),
            residual: picks.one(&[false, true]),
        };
        let (x, w) = picks.one(&[
            (Generator::Normal, Generator::Normal),
            (Generator::Integers, Generator::Integers),
            (Generator::Outliers, Generator::Normal),
            (Generator::Cancelling, Generator::Constant),
            (Generator::Constant, Generator::Constant),
            (Generator::Subnormals, Generator::Normal),
            (Generator::Nan, Generator::Uniform),
            // Results beyond f16.
            (Generator::Large, Generator::Normal),
        ]);
        let (x_layout, out) = (picks.one(&Layout::ROWS), picks.one(&Layout::ROWS));
        let in_place = picks.one(&[false, true]);
        // Keep one case below three million products.
        let n = n.min(3_000_000 / k.max(1));
        let m = m.min((3_000_000 / (n * k).max(1)).max(1));
        let op = Matmul { n, ..op };
        let exact = x == Generator::Integers;
        let more = if exact {
            Generator::Integers
        } else {
            Generator::Normal
        };
        let residual_at = 3 + usize::from(op.bias);
        let out = match in_place && op.residual && op.out == op.x {
            true => Layout::InPlace(residual_at),
            false => out,
        };
        let mut operands = vec![
            Operand::out(&[m, n]).layout(out),
            Operand::random(&[m, k], x).layout(x_layout),
            Operand::random(&[n, k], w),
        ];
        if op.bias {
            operands.push(Operand::random(&[n], more));
        }
        if op.residual {
            operands.push(Operand::random(&[m, n], more).layout(x_layout));
        }
        Case::new(op, operands)
    }

    fn weight_shape(&self) -> Option<[usize; 2]> {
        Some([self.n, self.k])
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::matmul(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], card: &Numerics) -> Vec<Expected> {
        let mut inputs = inputs.to_vec();
        let mut terms = self.k;
        if card.rounds_activations {
            inputs[0] = self.rounded_activations(&inputs[0]);
            // Sums of integers are exact where neither scale changes.
            terms = self.activation_block().map_or(terms, |block| {
                terms.div_ceil(self.weight.group().map_or(block, |group| group.min(block)))
            });
        }
        let mut want = self.reference(shapes, &inputs).swap_remove(0);
        let bias = self.bias.then(|| &inputs[2]);
        let residual = self.residual.then(|| &inputs[2 + usize::from(self.bias)]);
        let products = Products::of(card);
        let weight_bits = match self.weight {
            WeightFormat::Dense(dtype) => digits(dtype),
            // A quantised weight is a product with its scale.
            _ => 24,
        };
        let bits = [digits(self.x), weight_bits];
        // Of an element of the weight, relative and below the normal range.
        let quantised = !matches!(self.weight, WeightFormat::Dense(_));
        let rounds = quantised && card.rounds_weights;
        let (rounding, subnormal) = match rounds {
            true => (self.x.unit_roundoff(), spacing(self.x, 0.0) / 2.0),
            false => (0.0, 0.0),
        };
        let kept = |w: &f64| !rounds || round(self.x, *w) == *w;
        let mut bounds = Vec::with_capacity(want.data.len());
        for (i, want) in want.data.iter_mut().enumerate() {
            let (m, n) = (i / self.n, i % self.n);
            let (x, w) = (inputs[0].row(m), inputs[1].row(n));
            let bias = bias.map_or(0.0, |b| b.data[n]);
            let residual = residual.map_or(0.0, |r| r.data[i]);
            let exact = products.are_exact(x, w, &[bias, residual]) && w.iter().all(kept);
            if self.activation.is_none() && exact {
                *want = round(self.out, *want);
                bounds.push(Bound::EXACT);
                continue;
            }
            let (magnitude, flushed) = condition(x, w);
            let overflows = rounds && w.iter().any(|w| w.abs() >= overflow(self.x));
            if overflows || products.may_overflow(magnitude + bias.abs()) {
                bounds.push(Bound::ANYTHING);
                continue;
            }
            // The sum before the activation.
            let z = match self.activation {
                Some(_) => ops::reference::dot(x, w) + bias,
                None => *want - residual,
            };
            bounds.push(Bound::of(|model| {
                // One rounding more for the dequantised weight, one for its scale, one for the bias.
                let lengths: f64 = x.iter().map(|x| x.abs()).sum();
                let rounded = rounding * magnitude + subnormal * lengths;
                let error =
                    products.error(model, terms + 3, magnitude + rounded + bias.abs(), bits)
                        + rounded
                        + TINY * flushed;
                let error = match self.activation {
                    Some(act) => act_spread(act, z, error) + act_error(act, z),
                    None => error,
                };
                let added = if self.residual { U * want.abs() } else { 0.0 };
                stored(self.out, *want, error + added)
            }));
        }
        vec![Expected::Within(want, bounds)]
    }
}
