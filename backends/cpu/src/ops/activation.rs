//! Activation functions of f32 vectors, and the operation.

use std::ops::Range;

use ops::{Act, Activation};

use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &Activation) -> Planned {
    let (cpu, act) = (cpu.clone(), op.act);
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        cpu.rows(out.dim(0), out.dim(1), |rows| {
            cpu.isa.run(Rows { rows, out, x, act });
        });
    })))
}

struct Rows<'a, T> {
    rows: Range<usize>,
    out: Tensor<'a, T>,
    x: Tensor<'a, T>,
    act: Act,
}

impl<T: Element> Kernel for Rows<'_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        with_act!(self.act, F => for r in self.rows.clone() {
            let (out, x) = (self.out.row([r]), self.x.row([r]));
            for i in (0..out.len()).step_by(V::N) {
                out.store(i, F::of(x.load::<V>(i)));
            }
        });
    }
}

/// `with_act!(act, F => body)`: the body once per activation, with `F` its [`Function`].
macro_rules! with_act {
    ($act:expr, $f:ident => $body:expr) => {{
        use $crate::ops::activation::{self as functions, Function};
        match $act {
            ops::Act::Silu => {
                type $f = functions::Silu;
                $body
            }
            ops::Act::GeluErf => {
                type $f = functions::GeluErf;
                $body
            }
            ops::Act::GeluTanh => {
                type $f = functions::GeluTanh;
                $body
            }
            ops::Act::GeluQuick => {
                type $f = functions::GeluQuick;
                $body
            }
        }
    }};
}
pub(super) use with_act;

/// A function of lanes.
pub(super) trait Function {
    fn of<V: Lanes>(x: V) -> V;
}

pub(super) struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        times_sigmoid(x, x)
    }
}

pub(super) struct GeluQuick;

impl Function for GeluQuick {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        times_sigmoid(x, x * V::splat(1.702))
    }
}

/// `(1 + tanh z)/2` is the sigmoid of 2z, which does not cancel for negative z.
pub(super) struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        const TWICE: f32 = 1.595_769; // 2·√(2/π)
        let x2 = x * x;
        times_sigmoid(
            x,
            x * x2.mul_add(V::splat(0.044_715 * TWICE), V::splat(TWICE)),
        )
    }
}

/// `x / (1 + exp(−z))` for z of x's sign, by `exp(−|z|)`, which cannot overflow.
#[inline(always)]
fn times_sigmoid<V: Lanes>(x: V, z: V) -> V {
    let zero = V::splat(0.0);
    let e = (zero - z.abs()).exp();
    // −∞·0 would be NaN; below −200 the product is 0 anyway.
    let x = x.max(V::splat(-200.0));
    z.less(zero, x * e, x) / (e + V::splat(1.0))
}

/// `max(x, 0) − |x|·Φ(−|x|)` with the normal distribution's tail `Φ(−a) = exp(−a²/2) · t·P(t)`, `t = 1/(1 + 0.26·a)`:
/// no cancellation for negative x.
///
/// P is a minimax fit of relative error 3e-8 on [0, 14.6]; beyond, the tail is below the least f32.
pub(super) struct GeluErf;

impl Function for GeluErf {
    #[inline(always)]
    fn of<V: Lanes>(x: V) -> V {
        const P: [f32; 9] = [
            0.030_175_757,
            -0.151_230_11,
            0.248_188_6,
            -0.147_167_73,
            0.158_329_9,
            0.052_147_515,
            0.102_741_85,
            0.103_057_56,
            0.103_756_63,
        ];
        let a = x.abs().min(V::splat(20.0));
        let square = a * a;
        // What the square lost in rounding counts: the exponential multiplies it by a²/2.
        let lost = V::residue(a, a, square);
        let e = (square * V::splat(-0.5)).exp();
        let e = (e * V::splat(-0.5)).mul_add(lost, e);
        let t = V::splat(1.0) / a.mul_add(V::splat(0.26), V::splat(1.0));
        let mut p = V::splat(P[0]);
        for k in &P[1..] {
            p = p.mul_add(t, V::splat(*k));
        }
        x.max(V::splat(0.0)) - a * e * (p * t)
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    /// Roundings of the result, in units in the last place; and of the exponent, which counts times its size.
    fn relative(act: Act, x: f64) -> f64 {
        let units = match act {
            Act::Silu => 6.0,
            Act::GeluQuick => 6.0 + 2.0 * (1.702 * x).abs(),
            Act::GeluTanh => 6.0 + 4.0 * (1.6 * x * (1.0 + 0.0447 * x * x)).abs(),
            Act::GeluErf => 16.0,
        };
        units * 2f64.powi(-24)
    }

    fn agrees(dtype: DType, values: Vec<f64>) {
        let shape = [2, values.len() / 2];
        for act in Act::ALL {
            let x = Arg::new(&shape, values[..shape[0] * shape[1]].to_vec());
            for out in [Arg::out(&shape), Arg::same(1)] {
                check(
                    &Activation { act, dtype },
                    &[out, x.clone()],
                    |_, i, expected| {
                        // An exponential below the normal range errs by half the least number.
                        let x = values[i];
                        let floor = (1.0 + x.abs().min(200.0)) * 2f64.powi(-148);
                        relative(act, x) * expected.abs() + floor
                    },
                );
            }
        }
    }

    #[test]
    fn every_f16_and_bf16() {
        for dtype in [DType::F16, DType::BF16] {
            let value = |bits: u16| match dtype {
                DType::F16 => half::f16::from_bits(bits).to_f64(),
                _ => half::bf16::from_bits(bits).to_f64(),
            };
            agrees(dtype, (0..=u16::MAX).map(value).collect());
        }
    }

    #[test]
    fn dense_f32() {
        let values = (0..u32::MAX).step_by(65_521 * 2);
        let values = values.map(|bits| f64::from(f32::from_bits(bits)));
        let close = (-30_000..30_000).map(|i| f64::from(i as f32 / 1024.0));
        agrees(DType::F32, values.chain(close).collect());
    }
}
