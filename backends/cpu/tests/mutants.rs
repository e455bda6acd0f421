//! The suite catches bugs: each mutant of a real kernel must fail at least one standard case, and the kernel itself,
//! through the same wrapper, must pass.

#[expect(dead_code, reason = "mutants are of native kernels")]
mod wrapped;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conformance::number::round;
use conformance::{Conformance, Status, Suite};
use hal::{DType, Result, Stream, View, WeightFormat};
use ops::{
    Argmax, Attention, Cast, Elementwise, KvWrite, LayerNorm, Mask, Matmul, Ops, Planner, RmsNorm,
    Rope, RopeLayout, Softmax, StridedCopy,
};

use wrapped::{Change, cpu, edit, owned, read, with};

type Table<O> = fn(Arc<dyn Planner<O>>) -> Ops;

/// Requires that every mutant fails and the original passes. Every sixth case is enough for the original, which
/// passes them all elsewhere.
fn hunt<O: Conformance>(table: Table<O>, mutants: Vec<Change<O>>) {
    let original = Suite::new(with(cpu(), Change::none("original"), table));
    let report = original.run_where::<O>(|case| case.id().len() % 6 == 0);
    report.require_pass().unwrap();
    let mut survivors = Vec::new();
    for mutant in mutants {
        let name = mutant.name;
        let suite = Suite::new(with(cpu(), mutant, table));
        let mut outcomes = O::cases().into_iter().map(|case| suite.run_case(&case));
        match outcomes.find(|outcome| outcome.status == Status::Fail) {
            Some(outcome) => println!("{name}: {outcome}"),
            None => survivors.push(name),
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

fn leave_last_unwritten<O: Conformance>() -> Change<O> {
    Change {
        run: |kernel, stream, args, workspace| {
            let before = read(stream, &args[0])?;
            kernel.launch(stream, args, workspace)?;
            edit(stream, &args[0], |out| {
                if let (Some(last), Some(old)) = (out.last_mut(), before.last()) {
                    *last = *old;
                }
            })
        },
        ..Change::none("the last element is not written")
    }
}

fn leave_last_zero<O: Conformance>() -> Change<O> {
    Change {
        run: |kernel, stream, args, workspace| {
            kernel.launch(stream, args, workspace)?;
            edit(stream, &args[0], |out| {
                if let Some(last) = out.last_mut() {
                    *last = 0.0;
                }
            })
        },
        ..Change::none("the last element is zero")
    }
}

fn overrun_workspace<O: Conformance>() -> Change<O> {
    Change {
        run: |kernel, stream, args, workspace| {
            kernel.launch(stream, args, workspace)?;
            let end = workspace.range_bytes().end;
            let next = View::at(workspace.buffer(), end, DType::U8, &[1])?;
            stream.upload(&next, &[1])
        },
        ..Change::none("one byte after the workspace is written")
    }
}

fn overrun_output<O: Conformance>() -> Change<O> {
    Change {
        run: |kernel, stream, args, workspace| {
            kernel.launch(stream, args, workspace)?;
            let end = args[0].range_bytes().end;
            let next = View::at(args[0].buffer(), end, DType::U8, &[1])?;
            stream.upload(&next, &[0])
        },
        ..Change::none("one byte after the output is written")
    }
}

fn change_input<O: Conformance>() -> Change<O> {
    Change {
        run: |kernel, stream, args, workspace| {
            kernel.launch(stream, args, workspace)?;
            edit(stream, &args[1], |x| x.iter_mut().for_each(|x| *x = 0.0))
        },
        ..Change::none("the input is zeroed")
    }
}

fn vary_between_runs<O: Conformance>() -> Change<O> {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    Change {
        run: |kernel, stream, args, workspace| {
            kernel.launch(stream, args, workspace)?;
            let odd = RUNS.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            let dtype = args[0].dtype();
            edit(stream, &args[0], |out| {
                if let Some(x) = out.first_mut().filter(|_| odd) {
                    *x = round(dtype, *x * (1.0 + 2.0 * dtype.unit_roundoff()));
                }
            })
        },
        ..Change::none("the second run differs in the last bit")
    }
}

/// Runs the kernel for chunks of k and adds their results in `dtype`.
fn accumulate_in<const CHUNK: usize>(
    dtype: DType,
    kernel: &wrapped::Wrapped<Matmul>,
    stream: &mut dyn Stream,
    args: &[View<'_>],
    workspace: &View<'_>,
) -> Result<()> {
    let op = &kernel.op;
    // Where the result is f16 anyway, so that only the sums differ.
    if op.out != dtype || op.bias || op.residual || op.activation.is_some() {
        return kernel.launch(stream, args, workspace);
    }
    let mut total = vec![0.0; args[0].len()];
    for start in (0..op.k.max(1)).step_by(CHUNK) {
        kernel.launch_with(stream, args, workspace, 1, |x| {
            let outside = |i: &usize| !(start..start + CHUNK).contains(&(i % op.k.max(1)));
            (0..x.len()).filter(outside).for_each(|i| x[i] = 0.0);
        })?;
        for (sum, part) in total.iter_mut().zip(read(stream, &args[0])?) {
            *sum = round(dtype, *sum + part);
        }
    }
    edit(stream, &args[0], |out| out.copy_from_slice(&total))
}

#[test]
fn matmul() {
    hunt::<Matmul>(
        |matmul| Ops {
            matmul: Some(matmul),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            overrun_workspace(),
            overrun_output(),
            change_input(),
            vary_between_runs(),
            Change {
                run: |kernel, stream, args, workspace| {
                    let k = kernel.op.k.max(1);
                    kernel.launch_with(stream, args, workspace, 1, |x| {
                        x.iter_mut().skip(k - 1).step_by(k).for_each(|x| *x = 0.0);
                    })
                },
                ..Change::none("the last k is dropped everywhere")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    let k = kernel.op.k;
                    kernel.launch_with(stream, args, workspace, 1, |x| {
                        if let Some(last) = x.last_mut().filter(|_| k > 1024) {
                            *last = 0.0;
                        }
                    })
                },
                ..Change::none("the last k is dropped in the last row of long products")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    accumulate_in::<64>(DType::F16, kernel, stream, args, workspace)
                },
                ..Change::none("blocks of 64 are summed in f16")
            },
            Change {
                run: |kernel, stream, args, workspace| match kernel.op.out {
                    DType::BF16 => kernel.launch_with(stream, args, workspace, 1, |x| {
                        x.iter_mut().for_each(|x| *x = round(DType::BF16, *x));
                    }),
                    _ => kernel.launch(stream, args, workspace),
                },
                ..Change::none("operands are rounded to bf16 where the result is")
            },
            Change {
                weight: |weight| {
                    let mut weight = owned(weight);
                    if let WeightFormat::Int8Row | WeightFormat::Int4Row = weight.format {
                        let ones = 1f32.to_le_bytes().repeat(weight.rows);
                        weight.scales = ones.into();
                    }
                    weight
                },
                ..Change::none("the scale of rows is missing")
            },
            Change {
                weight: |weight| {
                    let mut weight = owned(weight);
                    if weight.format.group().is_some() {
                        let groups = weight.scales.chunks_exact(2);
                        weight.scales = groups.rev().flatten().copied().collect();
                    }
                    weight
                },
                ..Change::none("the scales of groups are in the wrong order")
            },
            Change {
                weight: |weight| {
                    let mut weight = owned(weight);
                    if let WeightFormat::Int8Group(_) = weight.format {
                        let clamped = weight.data.iter().map(|&b| (b as i8).max(-127) as u8);
                        weight.data = clamped.collect();
                    }
                    weight
                },
                ..Change::none("-128 is taken for -127 in groups of int8")
            },
            Change {
                weight: |weight| {
                    let mut weight = owned(weight);
                    if let WeightFormat::Int8Group(_) = weight.format {
                        let row = weight.scales.len() / weight.rows.max(1);
                        let scales = weight.scales.to_mut().chunks_exact_mut(row.max(2));
                        scales.for_each(|row| row.copy_within(..2, row.len() - 2));
                    }
                    weight
                },
                ..Change::none("the last group of int8 takes the first one's scale")
            },
            Change {
                weight: |weight| {
                    let mut weight = owned(weight);
                    if let WeightFormat::Int4Row | WeightFormat::Int4Group(_) = weight.format {
                        weight.data = weight.data.iter().map(|b| b.rotate_left(4)).collect();
                    }
                    weight
                },
                ..Change::none("nibbles are in the wrong order")
            },
            Change {
                run: |kernel, stream, args, workspace| match kernel.op.bias {
                    true => kernel.launch_with(stream, args, workspace, 3, |b| b.fill(0.0)),
                    false => kernel.launch(stream, args, workspace),
                },
                ..Change::none("the bias is forgotten")
            },
            Change {
                op: |op| Matmul {
                    activation: op.activation.map(|act| match act {
                        ops::Act::GeluErf => ops::Act::GeluTanh,
                        act => act,
                    }),
                    ..op.clone()
                },
                ..Change::none("gelu by tanh instead of erf")
            },
        ],
    );
}

#[test]
fn softmax() {
    hunt::<Softmax>(
        |softmax| Ops {
            softmax: Some(softmax),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            overrun_workspace(),
            Change {
                op: |op| Softmax {
                    scale: 1.0,
                    ..op.clone()
                },
                ..Change::none("the scale is missing")
            },
            Change {
                run: |kernel, stream, args, workspace| match kernel.op.mask {
                    Some(_) => kernel.launch_with(stream, args, workspace, 3, |kv_len| {
                        if kv_len[0] % 16.0 == 15.0 {
                            kv_len[0] += 1.0;
                        }
                    }),
                    None => kernel.launch(stream, args, workspace),
                },
                ..Change::none("one slot too many at the edge of a block of 16")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    edit(stream, &args[0], |out| {
                        out.iter_mut().for_each(|p| *p = round(DType::F16, *p));
                    })
                },
                ..Change::none("probabilities pass through f16")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    // NaN is skipped, as a maximum and a sum that ignore it would.
                    kernel.launch(stream, args, workspace)?;
                    edit(stream, &args[0], |out| {
                        out.iter_mut().filter(|p| p.is_nan()).for_each(|p| *p = 0.0);
                    })
                },
                ..Change::none("NaN is swallowed")
            },
        ],
    );
}

#[test]
fn attention() {
    hunt::<Attention>(
        |attention| Ops {
            attention: Some(attention),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            overrun_workspace(),
            change_input(),
            Change {
                op: |op| Attention {
                    scale: 1.0,
                    ..op.clone()
                },
                ..Change::none("the scale is missing")
            },
            Change {
                op: |op| Attention {
                    scale: op.scale * (1.0 + 1.0 / 1024.0),
                    ..op.clone()
                },
                ..Change::none("the scale is rounded to f16")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    let page = kernel.op.page_size as f64;
                    kernel.launch_with(stream, args, workspace, 6, |lengths| {
                        for n in lengths
                            .iter_mut()
                            .filter(|n| **n > 1.0 && **n % page == 0.0)
                        {
                            *n -= 1.0;
                        }
                    })
                },
                ..Change::none("the last slot of a full page is not seen")
            },
            Change {
                run: |kernel, stream, args, workspace| match kernel.op.mask {
                    Mask::Prefix => kernel.launch_with(stream, args, workspace, 7, |p| p.fill(0.0)),
                    _ => kernel.launch(stream, args, workspace),
                },
                ..Change::none("the prefix is causal")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 4, |table| {
                        let pages = kernel.op.pages;
                        table
                            .iter_mut()
                            .for_each(|id| *id = (*id + 1.0) % pages as f64);
                    })
                },
                ..Change::none("each page is taken for its neighbour")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 2, |k| {
                        k.iter_mut().for_each(|k| *k = round(DType::BF16, *k));
                    })
                },
                ..Change::none("keys are rounded to bf16")
            },
        ],
    );
}

#[test]
fn rms_norm() {
    hunt::<RmsNorm>(
        |rms_norm| Ops {
            rms_norm: Some(rms_norm),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            change_input(),
            vary_between_runs(),
            Change {
                op: |op| RmsNorm {
                    eps: 0.0,
                    ..op.clone()
                },
                ..Change::none("eps is forgotten")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    let dim = kernel.op.dim;
                    kernel.launch(stream, args, workspace)?;
                    let x = read(stream, &args[1])?;
                    if args[0].same(&args[1]) || dim < 2 {
                        return Ok(());
                    }
                    // The mean square without the last element.
                    edit(stream, &args[0], |out| {
                        for (out, x) in out.chunks_mut(dim).zip(x.chunks(dim)) {
                            let all = x.iter().map(|x| x * x).sum::<f64>();
                            let but_last = all - x[dim - 1] * x[dim - 1];
                            out.iter_mut().for_each(|y| *y *= (all / but_last).sqrt());
                        }
                    })
                },
                ..Change::none("the sum misses the last element")
            },
        ],
    );
}

#[test]
fn layer_norm() {
    hunt::<LayerNorm>(
        |layer_norm| Ops {
            layer_norm: Some(layer_norm),
            ..Ops::none()
        },
        vec![Change {
            run: |kernel, stream, args, workspace| {
                let (x, weight) = (read(stream, &args[1])?, read(stream, &args[2])?);
                let bias = read(stream, &args[3])?;
                kernel.launch(stream, args, workspace)?;
                let dim = kernel.op.dim;
                edit(stream, &args[0], |out| {
                    for (out, x) in out.chunks_mut(dim).zip(x.chunks(dim)) {
                        let n = dim as f32;
                        let mean = x.iter().map(|&x| x as f32).sum::<f32>() / n;
                        let square = x.iter().map(|&x| (x * x) as f32).sum::<f32>() / n;
                        let var = (square - mean * mean).max(0.0);
                        let scale = 1.0 / (var + kernel.op.eps).sqrt();
                        for (i, y) in out.iter_mut().enumerate() {
                            let y_f32 = (x[i] as f32 - mean) * scale;
                            *y = f64::from(y_f32 * weight[i] as f32 + bias[i] as f32);
                        }
                    }
                })
            },
            ..Change::none("the variance is mean(x²) − mean²")
        }],
    );
}

#[test]
fn rope() {
    hunt::<Rope>(
        |rope| Ops {
            rope: Some(rope),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            Change {
                op: |op| Rope {
                    layout: match op.layout {
                        RopeLayout::Interleaved => RopeLayout::HalfSplit,
                        RopeLayout::HalfSplit => RopeLayout::Interleaved,
                    },
                    ..op.clone()
                },
                ..Change::none("pairs of the other layout")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 4, |sin| {
                        sin.iter_mut().for_each(|s| *s = -*s);
                    })
                },
                ..Change::none("the rotation is backwards")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 2, |positions| {
                        let tokens = positions.len() / kernel.op.streams;
                        let first = positions[..tokens].to_vec();
                        positions
                            .chunks_mut(tokens.max(1))
                            .for_each(|p| p.copy_from_slice(&first));
                    })
                },
                ..Change::none("the second stream takes the first one's positions")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 3, |cos| {
                        cos.iter_mut().for_each(|c| *c = round(DType::F16, *c));
                    })
                },
                ..Change::none("cosines are rounded to f16")
            },
        ],
    );
}

#[test]
fn cast() {
    hunt::<Cast>(
        |cast| Ops {
            cast: Some(cast),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            overrun_output(),
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    let (x, to) = (read(stream, &args[1])?, kernel.op.to);
                    edit(stream, &args[0], |out| {
                        for (y, x) in out.iter_mut().zip(x) {
                            // Toward zero: one step back when rounding went outward.
                            if y.is_finite() && y.abs() > x.abs() {
                                *y = round(to, *y * (1.0 - 1.5 * to.unit_roundoff()));
                            }
                        }
                    })
                },
                ..Change::none("rounded toward zero")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    let smallest = match kernel.op.to {
                        DType::F16 => 6.103_515_625e-5,
                        _ => f64::from(f32::MIN_POSITIVE),
                    };
                    edit(stream, &args[0], |out| {
                        let tiny = out.iter_mut().filter(|y| y.abs() < smallest);
                        tiny.for_each(|y| *y *= 0.0);
                    })
                },
                ..Change::none("subnormals are flushed")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    edit(stream, &args[0], |out| {
                        let huge = out.iter_mut().filter(|y| **y == f64::INFINITY);
                        huge.for_each(|y| *y = 65504.0);
                    })
                },
                ..Change::none("overflow saturates")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    edit(stream, &args[0], |out| {
                        out.iter_mut().filter(|y| **y == 0.0).for_each(|y| *y = 0.0);
                    })
                },
                ..Change::none("−0 loses its sign")
            },
        ],
    );
}

#[test]
fn argmax() {
    hunt::<Argmax>(
        |argmax| Ops {
            argmax: Some(argmax),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            Change {
                run: |_, stream, args, _| {
                    let (x, cols) = (read(stream, &args[1])?, args[1].dim(1));
                    edit(stream, &args[0], |out| {
                        for (out, row) in out.iter_mut().zip(x.chunks(cols)) {
                            let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                            let last = row.iter().rposition(|&x| x >= best);
                            *out = last.unwrap_or(0) as f64;
                        }
                    })
                },
                ..Change::none("the last of equals wins")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 1, |x| {
                        x.iter_mut()
                            .filter(|x| x.is_nan())
                            .for_each(|x| *x = f64::NEG_INFINITY);
                    })
                },
                ..Change::none("NaN is never the largest")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    let cols = args[1].dim(1);
                    kernel.launch_with(stream, args, workspace, 1, |x| {
                        let tails = x.chunks_mut(cols).map(|row| &mut row[cols / 16 * 16..]);
                        tails.for_each(|tail| tail.fill(f64::NEG_INFINITY));
                    })
                },
                ..Change::none("the tail beyond a multiple of 16 is not looked at")
            },
        ],
    );
}

#[test]
fn copies() {
    hunt::<StridedCopy>(
        |copy| Ops {
            copy: Some(copy),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            overrun_output(),
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch(stream, args, workspace)?;
                    let range = args[0].range_bytes();
                    if args[0].is_contiguous() || args[0].is_empty() {
                        return Ok(());
                    }
                    // The gap after the first element.
                    let size = args[0].dtype().bytes();
                    let gap = View::at(args[0].buffer(), range.start + size, DType::U8, &[size])?;
                    match args[0].strides().iter().all(|&s| s != 1) {
                        true => stream.upload(&gap, &vec![0; size]),
                        false => Ok(()),
                    }
                },
                ..Change::none("a gap between elements is written")
            },
        ],
    );
    hunt::<KvWrite>(
        |kv_write| Ops {
            kv_write: Some(kv_write),
            ..Ops::none()
        },
        vec![
            Change {
                run: |kernel, stream, args, workspace| {
                    kernel.launch_with(stream, args, workspace, 4, |slots| {
                        slots
                            .iter_mut()
                            .filter(|s| **s < 0.0)
                            .for_each(|s| *s = 0.0);
                    })
                },
                ..Change::none("a skipped token is written to slot 0")
            },
            Change {
                run: |kernel, stream, args, workspace| {
                    let before = read(stream, &args[1])?;
                    kernel.launch(stream, args, workspace)?;
                    edit(stream, &args[1], |v| v.copy_from_slice(&before))
                },
                ..Change::none("values are not written")
            },
        ],
    );
    hunt::<Elementwise>(
        |elementwise| Ops {
            elementwise: Some(elementwise),
            ..Ops::none()
        },
        vec![
            leave_last_unwritten(),
            leave_last_zero(),
            Change {
                op: |op| Elementwise {
                    alpha: 1.0,
                    ..op.clone()
                },
                ..Change::none("alpha is ignored")
            },
            vary_between_runs(),
        ],
    );
}
