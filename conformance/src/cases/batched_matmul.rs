//! Cases of [`BatchedMatmul`]: transposed and repeated operands.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{BatchedMatmul, Op};

use super::{Conformance, FLOATS};
use crate::bound::{Products, TINY, digits, stored};
use crate::number::round;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for BatchedMatmul {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (b0, b1) = (picks.one(&[1, 2, 3]), picks.one(&[1, 0, 5]));
        let (m, n, k) = (picks.size(65), picks.size(129), picks.size(257));
        let op = BatchedMatmul {
            a: picks.one(&FLOATS),
            b: picks.one(&FLOATS),
            out: picks.one(&FLOATS),
            alpha: picks.one(&[1.0, 0.125, 0.088_388_35]),
        };
        let (a, b) = picks.one(&[
            (Generator::Normal, Generator::Normal),
            (Generator::Integers, Generator::Integers),
            (Generator::Outliers, Generator::Normal),
            (Generator::Cancelling, Generator::Constant),
            (Generator::Constant, Generator::Constant),
            (Generator::Subnormals, Generator::Normal),
            (Generator::Nan, Generator::Normal),
        ]);
        let out = picks.one(&[Layout::Contiguous, Layout::Transposed, Layout::Spread]);
        let layouts = [picks.one(&Layout::ANY), picks.one(&Layout::ANY)];
        // Keep one case below two million products.
        let m = m.min(2_000_000 / (b0 * b1 * n * k).max(1));
        Case::new(
            op,
            vec![
                Operand::out(&[b0, b1, m, n]).layout(out),
                Operand::random(&[b0, b1, m, k], a).layout(layouts[0]),
                Operand::random(&[b0, b1, n, k], b).layout(layouts[1]),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], card: &Numerics) -> Vec<Expected> {
        let mut want = self.reference(shapes, inputs).swap_remove(0);
        let [_, _, m, n] = *shapes[0] else {
            unreachable!("checked rank")
        };
        let (k, alpha) = (shapes[1][3], f64::from(self.alpha));
        // Multiplying by a power of two is exact.
        let exact_factor = self.alpha.to_bits() << 9 == 0;
        let (products, bits) = (Products::of(card), [digits(self.a), digits(self.b)]);
        let mut bounds = Vec::with_capacity(want.data.len());
        for (i, want) in want.data.iter_mut().enumerate() {
            let (batch, at) = (i / (m * n), i % (m * n));
            let a = inputs[0].row(batch * m + at / n);
            let b = inputs[1].row(batch * n + at % n);
            if exact_factor && products.are_exact(a, b, &[]) {
                *want = round(self.out, *want);
                bounds.push(Bound::EXACT);
                continue;
            }
            let (magnitude, flushed) = condition(a, b);
            if products.may_overflow(magnitude) {
                bounds.push(Bound::ANYTHING);
                continue;
            }
            bounds.push(Bound::of(|model| {
                let error = products.error(model, k + 2, magnitude, bits) + TINY * flushed;
                stored(self.out, *want, alpha.abs() * error + TINY)
            }));
        }
        vec![Expected::Within(want, bounds)]
    }
}

/// `Σ|a·b|`, and how much is lost, in units of the smallest normal number, when subnormal operands and products
/// are flushed: `Σ(1 + |a| + |b|)`.
pub(crate) fn condition(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, lost), (a, b)| {
        (sum + (a * b).abs(), lost + 1.0 + a.abs() + b.abs())
    })
}
