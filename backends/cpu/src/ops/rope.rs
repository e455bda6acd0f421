//! Rotary embedding, a token at a time: its angles are laid out once and serve every head.

use std::ops::Range;

use ops::{Rope, RopeLayout};

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

/// Elements whose angles are laid out at once. A power of two.
const BLOCK: usize = 256;

pub(super) fn plan(cpu: &Cpu, op: &Rope) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each token is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let positions = unsafe { Tensor::<i32>::new(&args[2]) };
        // SAFETY: as above.
        let [cos, sin] = [3, 4].map(|i| unsafe { Tensor::<f32>::new(&args[i]) });
        cpu.rows(out.dim(0), out.dim(1) * op.head_dim, |tokens| {
            cpu.isa.run(Tokens { tokens, out, x, positions, cos, sin, op: &op });
        });
    })))
}

pub(super) struct Tokens<'a, 'op, T> {
    pub tokens: Range<usize>,
    pub out: Tensor<'a, T>,
    pub x: Tensor<'a, T>,
    pub positions: Tensor<'a, i32>,
    pub cos: Tensor<'a, f32>,
    pub sin: Tensor<'a, f32>,
    pub op: &'op Rope,
}

impl<T: Element> Kernel for Tokens<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let part = self.op.head_dim / self.op.streams.max(1);
        for t in self.tokens.clone() {
            for s in 0..self.op.streams {
                let position = self.positions.row([s]).get(t);
                let position = (position.max(0) as usize).min(self.cos.dim(0) - 1);
                let (cos, sin) = (self.cos.row([position]), self.sin.row([position]));
                let heads = |h: usize| {
                    let columns = s * part..(s + 1) * part;
                    (
                        self.out.row([t, h]).part(columns.clone()),
                        self.x.row([t, h]).part(columns),
                    )
                };
                match self.op.layout {
                    RopeLayout::Interleaved => self.interleaved::<V>(cos, sin, heads),
                    RopeLayout::HalfSplit => self.half_split::<V>(cos, sin, heads),
                }
                for h in 0..self.out.dim(1) {
                    let (out, x) = heads(h);
                    let rest = self.op.rotary_dim..part;
                    out.part(rest.clone()).copy_from::<V, T>(x.part(rest));
                }
            }
        }
    }
}

impl<'a, T: Element> Tokens<'a, '_, T> {
    /// `out = x·(c0, c0, c1, c1, …) + swapped(x)·(−s0, s0, −s1, s1, …)`
    #[inline(always)]
    fn interleaved<V: Lanes>(
        &self,
        cos: Row<'a, f32>,
        sin: Row<'a, f32>,
        heads: impl Fn(usize) -> (Row<'a, T>, Row<'a, T>),
    ) {
        let (mut c, mut s) = ([0.0; BLOCK], [0.0; BLOCK]);
        for start in (0..self.op.rotary_dim).step_by(BLOCK) {
            let block = start..self.op.rotary_dim.min(start + BLOCK);
            for (i, pair) in (block.start / 2..block.end / 2).enumerate() {
                (c[2 * i], c[2 * i + 1]) = (cos.get(pair), cos.get(pair));
                (s[2 * i], s[2 * i + 1]) = (-sin.get(pair), sin.get(pair));
            }
            let (c, s) = (Row::of(&mut c), Row::of(&mut s));
            for h in 0..self.out.dim(1) {
                let (out, x) = heads(h);
                let (out, x) = (out.part(block.clone()), x.part(block.clone()));
                for i in (0..out.len()).step_by(V::N) {
                    let x = x.load::<V>(i);
                    out.store(i, x.mul_add(c.load(i), x.swap_pairs() * s.load(i)));
                }
            }
        }
    }

    #[inline(always)]
    fn half_split<V: Lanes>(
        &self,
        cos: Row<'a, f32>,
        sin: Row<'a, f32>,
        heads: impl Fn(usize) -> (Row<'a, T>, Row<'a, T>),
    ) {
        let pairs = cos.len();
        for h in 0..self.out.dim(1) {
            let (out, x) = heads(h);
            let halves = |row: Row<'a, T>| [row.part(0..pairs), row.part(pairs..2 * pairs)];
            let ([out0, out1], [x0, x1]) = (halves(out), halves(x));
            for i in (0..pairs).step_by(V::N) {
                let (x0, x1) = (x0.load::<V>(i), x1.load::<V>(i));
                let (cos, sin) = (cos.load::<V>(i), sin.load::<V>(i));
                out0.store(i, x0.mul_add(cos, V::splat(-0.0) - x1 * sin));
                out1.store(i, x1.mul_add(cos, x0 * sin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound() {
        for (tokens, heads, head_dim, rotary_dim, streams) in [
            (3, 2, 8, 8, 1),
            (1, 1, 7, 2, 1),
            (5, 3, 64, 32, 1),
            (4, 2, 64, 32, 2),
            (2, 1, 600, 590, 1),
            (9, 32, 128, 64, 1),
            (2, 2, 6, 0, 1),
            (0, 2, 8, 4, 1),
            (2, 0, 8, 4, 1),
        ] {
            for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    let op = Rope {
                        head_dim,
                        rotary_dim,
                        streams,
                        layout,
                        dtype,
                    };
                    let shape = [tokens, heads, head_dim];
                    let x = Arg::random(&shape, 1.0, 1).padded();
                    // Some lie outside the table.
                    let positions: Vec<i32> =
                        (0..streams * tokens).map(|i| i as i32 * 3 - 2).collect();
                    let table = |seed| Arg::random(&[10, rotary_dim / 2], 0.3, seed);
                    for out in [Arg::out(&shape).padded(), Arg::same(1)] {
                        let args = [
                            out,
                            x.clone(),
                            Arg::ints(&[streams, tokens], &positions),
                            table(2),
                            table(3),
                        ];
                        // Products of numbers below 4 and 1.2, two roundings each.
                        check(&op, &args, |_, _, _| 2.0 * 2.0 * 4.0 * 1.2 * 2f64.powi(-24));
                    }
                }
            }
        }
    }
}
