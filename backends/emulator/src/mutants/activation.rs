//! Mutants of activations.

use conformance::number::round;
use hal::DType;
use ops::{Act, Activation};

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<Activation>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    mutants.extend(common::nan());
    let own: Vec<Change<Activation>> = vec![
        Change::op("gelu-by-tanh-instead-of-erf", |op| Activation {
            act: common::replaced(op.act, Act::GeluErf, Act::GeluTanh),
            ..op.clone()
        }),
        Change::op("gelu-by-erf-instead-of-tanh", |op| Activation {
            act: common::replaced(op.act, Act::GeluTanh, Act::GeluErf),
            ..op.clone()
        }),
        Change::op("silu-instead-of-quick-gelu", |op| Activation {
            act: common::replaced(op.act, Act::GeluQuick, Act::Silu),
            ..op.clone()
        }),
        Change::run("function-forgotten", |at| {
            at.after(|_, inputs, out| out.copy_from_slice(&inputs[0].data))
        }),
        Change::run("relu-instead-of-silu", |at| {
            at.after(|op, inputs, out| {
                if op.act == Act::Silu {
                    for (y, x) in out.iter_mut().zip(&inputs[0].data) {
                        *y = if *x > 0.0 { *x } else { x * 0.0 };
                    }
                }
            })
        }),
        Change::run("erf-by-a-short-polynomial", |at| {
            // Abramowitz & Stegun 7.1.25, good to 2.5·10⁻⁵.
            at.after(|op, inputs, out| {
                if op.act == Act::GeluErf {
                    for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                        let z = x.abs() / 2f64.sqrt();
                        let t = 1.0 / (1.0 + 0.47047 * z);
                        let series = t * (0.3480242 + t * (-0.0958798 + t * 0.7478556));
                        let erf = (1.0 - series * (-z * z).exp()).copysign(x);
                        *y = if x.is_finite() {
                            0.5 * x * (1.0 + erf)
                        } else {
                            *y
                        };
                    }
                }
            })
        }),
        Change::run("exponential-overflows-to-nan", |at| {
            at.after(|op, inputs, out| {
                if op.act == Act::Silu {
                    for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                        // x·e^x/(1 + e^x) in place of x/(1 + e^−x).
                        let e = (x as f32).exp();
                        *y = f64::from(x as f32 * (e / (1.0 + e)));
                    }
                }
            })
        }),
        Change::run("operand-through-bf16", |at| {
            at.launch_with(1, |x| {
                x.iter_mut().for_each(|x| *x = round(DType::BF16, *x))
            })
        }),
        Change::run("polynomial-to-12-bits", |at| {
            at.launch()?;
            at.edit(0, |out| {
                out.iter_mut().for_each(|y| *y *= 1.0 + 1.0 / 4096.0)
            })
        }),
        Change::run("large-inputs-pass-unchanged-from-4", |at| {
            at.after(|_, inputs, out| {
                for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                    *y = if x > 4.0 { x } else { *y };
                }
            })
        }),
        Change::run("negative-inputs-below-4-are-zero", |at| {
            at.after(|_, inputs, out| {
                for (y, &x) in out.iter_mut().zip(&inputs[0].data) {
                    *y = if x < -4.0 { 0.0 } else { *y };
                }
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
