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
        let op = Rope {
            head_dim,
            rotary_dim: rotated(head_dim / streams, share),
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
        let shape = [tokens, heads, head_dim];
        let mut operands = vec![
            Operand::out(&shape).layout(out),
            Operand::random(&shape, generator).layout(x),
        ];
        operands.extend(angles(&op, tokens));
        Case::new(op, operands)
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::rope(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let bound = |(y, error): (&f64, Option<f64>)| match error {
            Some(error) => Bound::of(|_| stored(self.dtype, *y, error)),
            None => Bound::EXACT,
        };
        let errors = errors(self, [&inputs[0], &inputs[1], &inputs[2], &inputs[3]]);
        let bounds = want.data.iter().zip(errors).map(bound).collect();
        vec![Expected::Within(want, bounds)]
    }
}

/// How much of a stream's part of a head is turned: its `share`-th part, at least two elements where it has them.
pub(super) fn rotated(part: usize, share: usize) -> usize {
    (part / share.min(part)).next_multiple_of(2).min(part & !1)
}

/// Positions, some outside the table, and the tables of cosines and sines.
pub(super) fn angles(op: &Rope, tokens: usize) -> [Operand; 3] {
    let mut rng = Rng::of(&format!("{op:?} {tokens}"));
    let positions = (0..op.streams * tokens)
        .map(|i| match i {
            0 => -5.0,
            1 => 1e6,
            _ => rng.below(POSITIONS) as f64,
        })
        .collect();
    let [cos, sin] = tables(&mut rng, POSITIONS, op.rotary_dim / 2);
    [Operand::values(&[op.streams, tokens], positions), cos, sin]
}

/// Tables of cosines and sines: points of the unit circle by its rational parametrisation, so that no platform's sine enters.
pub(crate) fn tables(rng: &mut Rng, positions: usize, pairs: usize) -> [Operand; 2] {
    let points = (0..positions * pairs).map(|_| rng.uniform()).map(|t| {
        let r = 1.0 + t * t;
        ((1.0 - t * t) / r, 2.0 * t / r)
    });
    let (cos, sin) = points.unzip();
    [cos, sin].map(|values| Operand::values(&[positions, pairs], values))
}

/// The error of each turned element of `x`, `[tokens, heads, head_dim]`, before it is stored; `None` where it is only
/// copied.
pub(super) fn errors(op: &Rope, [x, positions, cos, sin]: [&Tensor; 4]) -> Vec<Option<f64>> {
    let (part, pairs) = (op.head_dim / op.streams, op.rotary_dim / 2);
    let error = |i: usize| {
        let (row, c) = (i / op.head_dim, i % op.head_dim);
        let (stream, at) = (c / part, c % part);
        if at >= op.rotary_dim {
            return None;
        }
        let (pair, partner) = match op.layout {
            RopeLayout::Interleaved => (at / 2, at ^ 1),
            RopeLayout::HalfSplit => (at % pairs, (at + pairs) % op.rotary_dim),
        };
        let position = positions.row(stream)[row / x.shape[1]];
        let position = position.clamp(0.0, cos.shape[0] as f64 - 1.0) as usize;
        let (cos, sin) = (cos.row(position)[pair], sin.row(position)[pair]);
        let terms = (x.row(row)[c] * cos).abs() + (x.row(row)[stream * part + partner] * sin).abs();
        Some(3.0 * U * terms + 3.0 * TINY)
    };
    (0..x.data.len()).map(error).collect()
}
