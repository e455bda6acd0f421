//! Softmax of rows in three passes: maximum, sum of exponentials, result.
//!
//! Every mask shows a row its first columns and hides the rest, so a row is `visible` columns and then zeros.

use std::ops::Range;

use ops::{Mask, Softmax};

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor, fold};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &Softmax) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let ints = |i: usize| unsafe { Tensor::<i32>::new(&args[i]) }.flat();
        let sequence = op.mask.map(|mask| Sequence {
            mask,
            rows: i64::from(ints(2).get(0))..i64::from(ints(2).get(1)),
            kv_len: i64::from(ints(3).get(0)),
            prefix: if mask == Mask::Prefix { i64::from(ints(4).get(0)) } else { 0 },
        });
        cpu.rows(out.dim(0) * out.dim(1), out.dim(2), |rows| {
            cpu.isa.run(Rows { rows, out, x, scale: op.scale, sequence: sequence.as_ref() });
        });
    })))
}

struct Sequence {
    mask: Mask,
    rows: Range<i64>,
    kv_len: i64,
    prefix: i64,
}

impl Sequence {
    /// How many of `cols` columns row `r` sees.
    fn visible(&self, r: usize, cols: usize) -> usize {
        if !self.rows.contains(&(r as i64)) {
            return 0;
        }
        let position = self.kv_len - self.rows.end + r as i64;
        visible(self.mask, position, self.kv_len, self.prefix).min(cols)
    }
}

/// How many slots the token at `position` sees: those of [`Mask::sees`], which are always the first ones.
pub(super) fn visible(mask: Mask, position: i64, kv_len: i64, prefix: i64) -> usize {
    let end = match mask {
        Mask::Causal => position + 1,
        Mask::Prefix => prefix.max(position + 1),
        Mask::Full => kv_len,
    };
    end.min(kv_len).max(0) as usize
}

struct Rows<'a, 's, T> {
    rows: Range<usize>,
    out: Tensor<'a, T>,
    x: Tensor<'a, T>,
    scale: f32,
    sequence: Option<&'s Sequence>,
}

impl<T: Element> Kernel for Rows<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            let at = [r / self.out.dim(1), r % self.out.dim(1)];
            let (out, x) = (self.out.row(at), self.x.row(at));
            let seen = self.sequence.map_or(x.len(), |s| s.visible(at[1], x.len()));
            softmax::<V, T>(out.part(0..seen), x.part(0..seen), self.scale);
            out.part(seen..out.len()).fill::<V>(0.0);
        }
    }
}

#[inline(always)]
fn softmax<V: Lanes, T: Element>(out: Row<'_, T>, x: Row<'_, T>, scale: f32) {
    let scale = V::splat(scale);
    let max = fold!(V, x, f32::NEG_INFINITY, max, |x, max| max.max(x * scale)).largest();
    // A row of −∞ alone: the exponentials are 0, or NaN where x is.
    let shift = V::splat(if max == f32::NEG_INFINITY { 0.0 } else { -max });
    let sum = fold!(V, x, 0.0, add, |x, sum| sum + x.mul_add(scale, shift).exp()).sum();
    let factor = V::splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
    for i in (0..out.len()).step_by(V::N) {
        let x = x.load::<V>(i).mul_add(scale, shift);
        out.store(i, x.exp() * factor);
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    /// Relative: two exponentials, the scaled argument's rounding, the sum, the quotient.
    fn bound(op: &Softmax, cols: usize, largest: f64) -> f64 {
        let argument = f64::from(op.scale).abs() * largest * 4.0;
        (argument + cols as f64 + 12.0) * 2f64.powi(-24)
    }

    #[test]
    fn keeps_its_bound() {
        for (shape, scale) in [
            ([1, 1, 1], 1.0),
            ([2, 3, 7], 0.3),
            ([0, 3, 7], 1.0),
            ([2, 3, 0], 1.0),
            ([1, 5, 1027], -2.0),
            ([2, 40, 300], 0.0),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let op = Softmax {
                    dtype,
                    scale,
                    mask: None,
                };
                let x = Arg::random(&shape, 3.0, 1).padded();
                let relative = bound(&op, shape[2], 11.0);
                for out in [Arg::out(&shape).padded(), Arg::same(1)] {
                    let args = [out, x.clone()];
                    check(&op, &args, |_, _, expected| relative * expected);
                }
            }
        }
    }

    #[test]
    fn masks() {
        for (range, kv_len, prefix) in [
            ([1, 4], 9, 6),
            ([0, 5], 5, 0),
            ([3, 3], 2, 1),
            ([2, 5], 40, 99),
        ] {
            for mask in [Mask::Causal, Mask::Prefix, Mask::Full] {
                let op = Softmax {
                    dtype: DType::F32,
                    scale: 0.5,
                    mask: Some(mask),
                };
                let mut args = vec![
                    Arg::out(&[2, 5, 19]),
                    Arg::random(&[2, 5, 19], 1.0, 1),
                    Arg::ints(&[2], &range),
                    Arg::ints(&[1], &[kv_len]),
                ];
                if mask == Mask::Prefix {
                    args.push(Arg::ints(&[1], &[prefix]));
                }
                let relative = bound(&op, 19, 4.0);
                check(&op, &args, |_, _, expected| relative * expected);
            }
        }
    }

    #[test]
    fn special_values() {
        const LOW: f64 = f64::NEG_INFINITY;
        for row in [
            [LOW, LOW, LOW],
            [LOW, 1.0, LOW],
            [f64::NAN, LOW, LOW],
            [f64::NAN, 1.0, 2.0],
            [f64::INFINITY, 1.0, 2.0],
            [1e30, -1e30, 1e30],
        ] {
            let op = Softmax {
                dtype: DType::F32,
                scale: 1.0,
                mask: None,
            };
            let args = [Arg::out(&[1, 1, 3]), Arg::new(&[1, 1, 3], row.to_vec())];
            check(&op, &args, |_, _, expected| 1e-6 * expected);
        }
    }
}
