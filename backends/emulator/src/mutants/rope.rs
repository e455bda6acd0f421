//! Mutants of the rotary embedding.

use conformance::number::round;
use hal::DType;
use ops::{Rope, RopeLayout};

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<Rope>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    let own: Vec<Change<Rope>> = vec![
        Change::op("pairs-of-the-other-layout", |op| Rope {
            layout: match op.layout {
                RopeLayout::Interleaved => RopeLayout::HalfSplit,
                RopeLayout::HalfSplit => RopeLayout::Interleaved,
            },
            ..op.clone()
        }),
        Change::run("rotation-backwards", |at| {
            at.launch_with(4, |sin| sin.iter_mut().for_each(|s| *s = -*s))
        }),
        Change::run("sine-and-cosine-swapped", |at| {
            let sin = at.read(4)?;
            let cos = at.read(3)?;
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                (inputs[2].data, inputs[3].data) = (sin, cos);
                ops::Op::reference(op, shapes, &inputs)
            })
        }),
        Change::run("second-stream-takes-the-first-ones-positions", |at| {
            let streams = at.op().streams;
            at.launch_with(2, |positions| {
                let tokens = positions.len() / streams;
                let first = positions[..tokens].to_vec();
                positions
                    .chunks_mut(tokens.max(1))
                    .for_each(|p| p.copy_from_slice(&first));
            })
        }),
        Change::run("positions-off-by-one", |at| {
            at.launch_with(2, |positions| positions.iter_mut().for_each(|p| *p += 1.0))
        }),
        Change::run("first-tokens-position-for-all", |at| {
            let tokens = at.args[1].dim(0).max(1);
            at.launch_with(2, |positions| {
                for stream in positions.chunks_mut(tokens) {
                    let first = stream[0];
                    stream.fill(first);
                }
            })
        }),
        Change::run("position-beyond-the-table-wraps", |at| {
            let rows = at.args[3].dim(0) as f64;
            at.launch_with(2, |positions| {
                positions.iter_mut().for_each(|p| *p = p.rem_euclid(rows));
            })
        }),
        Change::run("only-the-first-head-is-rotated", |at| {
            at.after(|op, inputs, out| {
                let heads = inputs[0].shape[1].max(1);
                for (i, y) in out.iter_mut().enumerate() {
                    if i / op.head_dim % heads > 0 {
                        *y = inputs[0].data[i];
                    }
                }
            })
        }),
        Change::run("rest-of-the-head-is-zero", |at| {
            at.after(|op, _, out| {
                let part = op.head_dim / op.streams;
                let rest = out.iter_mut().enumerate();
                rest.filter(|(i, _)| i % part >= op.rotary_dim)
                    .for_each(|(_, y)| *y = 0.0);
            })
        }),
        Change::run("rest-of-the-head-is-not-copied", |at| {
            let before = at.read(0)?;
            if at.in_place() {
                return at.launch();
            }
            at.after(|op, _, out| {
                let part = op.head_dim / op.streams;
                for (i, y) in out.iter_mut().enumerate() {
                    if i % part >= op.rotary_dim {
                        *y = before[i];
                    }
                }
            })
        }),
        Change::run("last-pair-not-rotated", |at| {
            at.after(|op, inputs, out| {
                if let Some(last) = op.rotary_dim.checked_sub(1) {
                    let part = op.head_dim / op.streams;
                    for (i, y) in out.iter_mut().enumerate().filter(|(i, _)| i % part == last) {
                        *y = inputs[0].data[i];
                    }
                }
            })
        }),
        Change::run("cosines-through-f16", |at| {
            at.launch_with(3, |cos| {
                cos.iter_mut().for_each(|c| *c = round(DType::F16, *c))
            })
        }),
        Change::run("second-half-reads-the-rotated-first", |at| {
            // In-place code that has overwritten its operand.
            at.instead(|op, shapes, inputs| {
                let mut out = ops::Op::reference(op, shapes, inputs);
                let (heads, pairs) = (shapes[0][1], op.rotary_dim / 2);
                let [_, positions, cos, sin] = inputs else {
                    unreachable!("four inputs")
                };
                for row in 0..out[0].rows() {
                    let position = positions.row(0)[row / heads];
                    let position = position.clamp(0.0, cos.shape[0] as f64 - 1.0) as usize;
                    if let Some(cos) = cos.row(position).first() {
                        let (b, sin) = (
                            if op.layout == RopeLayout::Interleaved {
                                1
                            } else {
                                pairs
                            },
                            sin.row(position)[0],
                        );
                        let first = out[0].row(row)[0];
                        out[0].row_mut(row)[b] = inputs[0].row(row)[b] * cos + first * sin;
                    }
                }
                out
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
