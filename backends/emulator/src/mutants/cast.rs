//! Mutants of the cast.

use conformance::number::round;
use hal::DType;
use ops::Cast;

use super::{Change, common};

/// `x` in `to`, rounded toward zero.
pub(super) fn truncated(to: DType, x: f64) -> f64 {
    let y = round(to, x);
    if y.is_finite() && y.abs() > x.abs() {
        // One step back.
        return round(to, y * (1.0 - 1.5 * to.unit_roundoff()));
    }
    y
}

pub(super) fn mutants() -> Vec<Change<Cast>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    let own: Vec<Change<Cast>> = vec![
        Change::run("rounded-toward-zero", |at| {
            at.after(|op, inputs, out| {
                for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                    *y = truncated(op.to, x);
                }
            })
        }),
        Change::run("ties-away-from-zero", |at| {
            at.after(|op, inputs, out| {
                for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                    // A hair further out decides ties and nothing else: f32 cannot come nearer to one.
                    let out = round(op.to, x * (1.0 + 1e-12));
                    *y = if x.is_finite() { out } else { *y };
                }
            })
        }),
        Change::run("nan-becomes-0", |at| {
            at.after(|_, _, out| out.iter_mut().filter(|y| y.is_nan()).for_each(|y| *y = 0.0))
        }),
        Change::run("nan-becomes-infinity", |at| {
            at.after(|_, _, out| {
                out.iter_mut()
                    .filter(|y| y.is_nan())
                    .for_each(|y| *y = f64::INFINITY);
            })
        }),
        Change::run("overflow-saturates", |at| {
            at.after(|op, _, out| {
                let largest = if op.to == DType::F16 {
                    65504.0f64
                } else {
                    f32::MAX.into()
                };
                for y in out.iter_mut().filter(|y| y.is_infinite()) {
                    *y = largest.copysign(*y);
                }
            })
        }),
        Change::run("subnormals-flushed", |at| {
            at.after(|op, _, out| {
                let normal = match op.to {
                    DType::F16 => 6.103_515_625e-5,
                    _ => f64::from(f32::MIN_POSITIVE),
                };
                out.iter_mut()
                    .filter(|y| y.abs() < normal)
                    .for_each(|y| *y *= 0.0);
            })
        }),
        Change::run("negative-zero-loses-its-sign", |at| {
            at.after(|_, _, out| out.iter_mut().filter(|y| **y == 0.0).for_each(|y| *y = 0.0))
        }),
        Change::run("f32-to-f16-through-bf16", |at| {
            at.after(|op, inputs, out| {
                if (op.from, op.to) == (DType::F32, DType::F16) {
                    for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                        *y = round(op.to, round(DType::BF16, x));
                    }
                }
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
