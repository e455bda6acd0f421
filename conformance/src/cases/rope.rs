//! Cases of [`Rope`]: both pairings, partial rotation, two position streams, positions outside the table.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Op, Rope, RopeLayout};

use super::{Conformance, FLOATS};
use crate::bound::{TINY, U, stored};
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks, Rng};

/// Rows of the cos and sin tables.
const POSITIONS: usize = 50;

impl Conformance for Rope {
    fn case(picks: &mut Picks) -> Case<Self> {
        let tokens = picks.size(33);
        let heads = picks.one(&[1, 2, 3, 32]);
        let head_dim = picks.one(&[64, 2, 4, 20, 80, 96, 128, 192, 256]);
        let streams = picks.one(&[1, 2]);
        // Of a stream's part: all, half, or two elements more than none.
        let share = picks.one(&[1, 2, usize::MAX]);
        let part = head_dim / streams;
        let op = Rope {
            head_dim,
            rotary_dim: (part / share.min(part)).next_multiple_of(2).min(part & !1),
            streams,
            layout: picks.one(&[RopeLayout::Interleaved, RopeLayout::HalfSplit]),
            dtype: picks.one(&FLOATS),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Subnormals,
        ]);
        let x = picks.one(&Layout::ROWS);
        let out = picks.one(&[Layout::Contiguous, Layout::InPlace(1), Layout::Padded(3)]);
        let mut rng = Rng::of(&format!("{op:?} {tokens}"));
        let positions = (0..streams * tokens)
            .map(|i| match i {
                0 => -5.0,
                1 => 1e6,
                _ => rng.below(POSITIONS) as f64,
            })
            .collect();
        let (pairs, shape) = (op.rotary_dim / 2, [tokens, heads, head_dim]);
        // Points of the unit circle by its rational parametrisation: no platform's sine enters.
        let points = (0..POSITIONS * pairs).map(|_| rng.uniform()).map(|t| {
            let r = 1.0 + t * t;
            ((1.0 - t * t) / r, 2.0 * t / r)
        });
        let (cos, sin) = points.unzip();
        Case::new(
            op,
            vec![
                Operand::out(&shape).layout(out),
                Operand::random(&shape, generator).layout(x),
                Operand::values(&[streams, tokens], positions),
                Operand::values(&[POSITIONS, pairs], cos),
                Operand::values(&[POSITIONS, pairs], sin),
            ],
        )
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::rope(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let [x, positions, cos, sin] = inputs else {
            unreachable!("four inputs")
        };
        let (part, pairs) = (self.head_dim / self.streams, self.rotary_dim / 2);
        let mut bounds = Vec::with_capacity(want.data.len());
        for (i, &y) in want.data.iter().enumerate() {
            let (row, c) = (i / self.head_dim, i % self.head_dim);
            let (stream, at) = (c / part, c % part);
            if at >= self.rotary_dim {
                bounds.push(Bound::EXACT);
                continue;
            }
            let (pair, partner) = match self.layout {
                RopeLayout::Interleaved => (at / 2, at ^ 1),
                RopeLayout::HalfSplit => (at % pairs, (at + pairs) % self.rotary_dim),
            };
            let position =
                positions.row(stream)[row / shapes[0][1]].clamp(0.0, cos.shape[0] as f64 - 1.0);
            let (cos, sin) = (
                cos.row(position as usize)[pair],
                sin.row(position as usize)[pair],
            );
            let terms =
                (x.row(row)[c] * cos).abs() + (x.row(row)[stream * part + partner] * sin).abs();
            bounds.push(Bound::of(|_| {
                stored(self.dtype, y, 3.0 * U * terms + 3.0 * TINY)
            }));
        }
        vec![Expected::Within(want, bounds)]
    }
}
