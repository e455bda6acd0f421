//! Mutants of the product.

use conformance::number::round;
use hal::{DType, Result, WeightFormat};
use ops::{Act, HostWeight, Matmul};

use super::{At, Change, common, math, owned};
use crate::kernels::{Math, act, matmul};

/// The product with another arithmetic.
fn with_math(at: &mut At<'_, Matmul>, change: fn(&mut Math)) -> Result<()> {
    let mut math = math();
    change(&mut math);
    at.instead(|op, shapes, inputs| matmul(op, &math, shapes, inputs, |_, _, x, w| math.dot(x, w)))
}

/// The product with other inner sums.
fn with_dot(
    at: &mut At<'_, Matmul>,
    dot: fn(m: usize, n: usize, x: &[f64], w: &[f64]) -> f32,
) -> Result<()> {
    at.instead(|op, shapes, inputs| matmul(op, &math(), shapes, inputs, dot))
}

/// Changes the bytes of scales and elements of quantised weights.
fn scales(weight: &HostWeight<'_>, change: fn(&HostWeight<'_>) -> Vec<u8>) -> HostWeight<'static> {
    let mut changed = owned(weight);
    if !matches!(weight.format, WeightFormat::Dense(_)) {
        changed.scales = change(weight).into();
    }
    changed
}

pub(super) fn quantised<O: conformance::Conformance>() -> Vec<Change<O>> {
    vec![
        Change::weight("scale-missing", |weight| {
            scales(weight, |weight| match weight.format {
                format if format.group().is_some() => {
                    half::f16::ONE.to_le_bytes().repeat(weight.scales.len() / 2)
                }
                _ => 1f32.to_le_bytes().repeat(weight.rows),
            })
        }),
        Change::weight("scale-of-the-next-row", |weight| {
            scales(weight, |weight| {
                let mut scales = weight.scales.to_vec();
                let row = scales.len().checked_div(weight.rows).unwrap_or(0);
                scales.rotate_left(row);
                scales
            })
        }),
        Change::weight("nibbles-swapped", |weight| {
            let mut weight = owned(weight);
            if let WeightFormat::Int4Row | WeightFormat::Int4Group(_) = weight.format {
                weight.data = weight.data.iter().map(|b| b.rotate_left(4)).collect();
            }
            weight
        }),
        Change::weight("group-scales-reversed", |weight| {
            let mut weight = owned(weight);
            if weight.format.group().is_some() {
                let row = weight.scales.len().checked_div(weight.rows).unwrap_or(0);
                let rows = weight.scales.chunks(row.max(1));
                let reversed = rows.flat_map(|row| row.chunks(2).rev().flatten().copied());
                weight.scales = reversed.collect::<Vec<u8>>().into();
            }
            weight
        }),
        Change::weight("last-group-by-the-first-scale", |weight| {
            let mut weight = owned(weight);
            if weight.format.group().is_some() {
                let row = weight.scales.len().checked_div(weight.rows).unwrap_or(0);
                let rows = weight.scales.to_mut().chunks_exact_mut(row.max(2));
                rows.for_each(|row| row.copy_within(..2, row.len() - 2));
            }
            weight
        }),
        Change::weight("row-scale-through-f16", |weight| {
            scales(weight, |weight| match weight.format {
                format if format.group().is_some() => weight.scales.to_vec(),
                _ => (0..weight.rows)
                    .flat_map(|r| {
                        half::f16::from_f32(weight.scale(r, 0))
                            .to_f32()
                            .to_le_bytes()
                    })
                    .collect(),
            })
        }),
        Change::weight("sign-of-int4-lost", |weight| {
            let mut weight = owned(weight);
            if let WeightFormat::Int4Row | WeightFormat::Int4Group(_) = weight.format {
                weight.data = weight.data.iter().map(|b| b & 0x77).collect();
            }
            weight
        }),
        Change::weight("sign-of-int8-lost", |weight| {
            let mut weight = owned(weight);
            if let WeightFormat::Int8Row | WeightFormat::Int8Group(_) = weight.format {
                weight.data = weight.data.iter().map(|b| b & 0x7f).collect();
            }
            weight
        }),
    ]
}

pub(super) fn mutants() -> Vec<Change<Matmul>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    mutants.extend(common::nan());
    mutants.extend(quantised());
    let own: Vec<Change<Matmul>> = vec![
        Change::weight("lowest-int8-of-a-group-raised", |weight| {
            let mut weight = owned(weight);
            if let WeightFormat::Int8Group(_) = weight.format {
                let raised = weight.data.iter().map(|&b| (b as i8).max(-127) as u8);
                weight.data = raised.collect();
            }
            weight
        }),
        Change::run("last-k-dropped", |at| {
            let k = at.op().k.max(1);
            at.launch_with(1, |x| {
                x.iter_mut().skip(k - 1).step_by(k).for_each(|x| *x = 0.0)
            })
        }),
        Change::run("last-k-dropped-in-the-last-row-of-long-products", |at| {
            let k = at.op().k;
            at.launch_with(1, |x| {
                if let Some(last) = x.last_mut().filter(|_| k > 1024) {
                    *last = 0.0;
                }
            })
        }),
        Change::run("last-k-dropped-in-one-output-of-1000", |at| {
            with_dot(at, |m, n, x, w| {
                let k = x.len() - usize::from((m * 31 + n) % 1000 == 7 && !x.is_empty());
                math().dot(&x[..k], &w[..k])
            })
        }),
        Change::run("tail-of-k-beyond-32-dropped", |at| {
            with_dot(at, |_, _, x, w| {
                let k = if x.len() > 32 {
                    x.len() / 32 * 32
                } else {
                    x.len()
                };
                math().dot(&x[..k], &w[..k])
            })
        }),
        Change::run("k-beyond-4096-dropped", |at| {
            with_dot(at, |_, _, x, w| {
                let k = x.len().min(4096);
                math().dot(&x[..k], &w[..k])
            })
        }),
        Change::run("second-half-of-split-k-lost-in-row-0", |at| {
            with_dot(at, |m, _, x, w| {
                let k = if m == 0 && x.len() >= 1024 {
                    x.len() / 2
                } else {
                    x.len()
                };
                math().dot(&x[..k], &w[..k])
            })
        }),
        Change::run("sums-in-f16", |at| {
            with_math(at, |m| m.accumulator = DType::F16)
        }),
        Change::run("blocks-of-64-summed-in-f16", |at| {
            with_dot(at, |_, _, x, w| {
                let blocks = x.chunks(64).zip(w.chunks(64));
                blocks.fold(0.0, |sum, (x, w)| {
                    let part = math().dot(x, w);
                    round(DType::F16, f64::from(sum + part)) as f32
                })
            })
        }),
        Change::run("sums-in-bf16", |at| {
            with_dot(at, |_, _, x, w| {
                let sum = |sum: f64, (x, w): (&f64, &f64)| round(DType::BF16, sum + x * w);
                x.iter().zip(w).fold(0.0, sum) as f32
            })
        }),
        Change::run("operands-in-tf32", |at| {
            with_math(at, |m| m.operand_bits = 11)
        }),
        Change::run("operands-in-bf16", |at| {
            with_math(at, |m| m.operand_bits = 8)
        }),
        Change::run("operands-in-bf16-where-the-result-is", |at| {
            match at.op().out {
                DType::BF16 => with_math(at, |m| m.operand_bits = 8),
                _ => at.launch(),
            }
        }),
        Change::run("activations-in-int8", |at| {
            // Quantised per row on the way in, as integer kernels do; undeclared here.
            let k = at.op().k.max(1);
            at.launch_with(1, |x| {
                for row in x.chunks_mut(k) {
                    let scale = row.iter().fold(0.0f64, |m, x| m.max(x.abs())) / 127.0;
                    if scale > 0.0 && scale.is_finite() {
                        row.iter_mut()
                            .for_each(|x| *x = (*x / scale).round_ties_even() * scale);
                    }
                }
            })
        }),
        Change::run("subnormal-operands-flushed", |at| {
            let normal = if at.op().x == DType::F16 {
                6.103_515_625e-5
            } else {
                0.0
            };
            at.launch_with(1, |x| {
                x.iter_mut()
                    .filter(|x| x.abs() < normal)
                    .for_each(|x| *x = 0.0);
            })
        }),
        Change::weight("weight-transposed", |weight| {
            let mut changed = owned(weight);
            if let WeightFormat::Dense(dtype) = weight.format {
                let (rows, cols, size) = (weight.rows, weight.cols, dtype.bytes());
                let source = |i: usize| i % cols * rows + i / cols;
                let element = |i: usize| weight.data[source(i) * size..][..size].to_vec();
                changed.data = (0..rows * cols).flat_map(element).collect();
            }
            changed
        }),
        Change::run("bias-forgotten", |at| match at.op().bias {
            true => at.launch_with(3, |bias| bias.fill(0.0)),
            false => at.launch(),
        }),
        Change::run("bias-of-the-next-column", |at| match at.op().bias {
            true => at.launch_with(3, |bias| {
                if !bias.is_empty() {
                    bias.rotate_left(1);
                }
            }),
            false => at.launch(),
        }),
        Change::run("bias-after-the-activation", |at| {
            at.instead(|op, shapes, inputs| {
                let plain = Matmul {
                    bias: false,
                    residual: false,
                    ..op.clone()
                };
                let dot = |_: usize, _: usize, x: &[f64], w: &[f64]| math().dot(x, w);
                let mut out = matmul(&plain, &math(), shapes, inputs, dot);
                for (i, y) in out[0].data.iter_mut().enumerate() {
                    *y += if op.bias {
                        inputs[2].data[i % op.n]
                    } else {
                        0.0
                    };
                    *y += if op.residual {
                        inputs[inputs.len() - 1].data[i]
                    } else {
                        0.0
                    };
                }
                out
            })
        }),
        Change::run("residual-before-the-activation", |at| {
            at.instead(|op, shapes, inputs| {
                let plain = Matmul {
                    activation: None,
                    ..op.clone()
                };
                let dot = |_: usize, _: usize, x: &[f64], w: &[f64]| math().dot(x, w);
                let mut out = matmul(&plain, &math(), shapes, inputs, dot);
                if let Some(f) = op.activation {
                    out[0] = out[0].map(|z| f64::from(act(f, z as f32)));
                }
                out
            })
        }),
        Change::run("residual-forgotten", |at| match at.op().residual {
            true => at.launch_with(3 + usize::from(at.op().bias), |r| r.fill(0.0)),
            false => at.launch(),
        }),
        Change::op("activation-forgotten", |op| Matmul {
            activation: None,
            ..op.clone()
        }),
        Change::op("gelu-by-tanh-instead-of-erf", |op| Matmul {
            activation: op.activation.map(|act| match act {
                Act::GeluErf => Act::GeluTanh,
                act => act,
            }),
            ..op.clone()
        }),
        Change::op("silu-instead-of-quick-gelu", |op| Matmul {
            activation: op.activation.map(|act| match act {
                Act::GeluQuick => Act::Silu,
                act => act,
            }),
            ..op.clone()
        }),
        Change::run("rows-beyond-128-not-computed", |at| {
            let n = at.op().n;
            at.launch()?;
            at.edit(0, |out| {
                if let Some(rest) = out.get_mut(128 * n..) {
                    rest.fill(0.0);
                }
            })
        }),
        Change::run("overflow-saturates", |at| {
            at.launch()?;
            at.edit(0, |out| {
                for x in out.iter_mut().filter(|x| x.is_infinite()) {
                    *x = 65504.0f64.copysign(*x);
                }
            })
        }),
        Change {
            elsewhere: true,
            ..Change::run("silently-on-the-host", |at| at.instead(ops::Op::reference))
        },
    ];
    mutants.extend(own);
    mutants
}
