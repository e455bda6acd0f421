//! Mutants of rotary positions with the write to the cache.

use conformance::number::round;
use hal::DType;
use ops::{Op, RopeKvWrite, RopeLayout};

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<RopeKvWrite>> {
    let mut mutants = common::everywhere();
    // The last elements are those of values, which stay as they are.
    mutants.retain(|m| !["last-element-unwritten", "tail-beyond-16-unwritten"].contains(&m.name));
    mutants.extend(common::computed());
    mutants.extend(common::input_layout::<0, _>());
    let own: Vec<Change<RopeKvWrite>> = vec![
        Change::op("pairs-of-the-other-layout", |op| RopeKvWrite {
            layout: match op.layout {
                RopeLayout::Interleaved => RopeLayout::HalfSplit,
                RopeLayout::HalfSplit => RopeLayout::Interleaved,
            },
            ..op.clone()
        }),
        Change::run("rotation-backwards", |at| {
            at.launch_with(6, |sin| sin.iter_mut().for_each(|s| *s = -*s))
        }),
        Change::run("positions-off-by-one", |at| {
            at.launch_with(4, |positions| positions.iter_mut().for_each(|p| *p += 1.0))
        }),
        Change::run("keys-written-before-they-turn", |at| {
            at.instead(|op, shapes, inputs| {
                let mut still = inputs.to_vec();
                still[6] = still[6].map(|_| 0.0);
                still[5] = still[5].map(|_| 1.0);
                let mut out = op.reference(shapes, inputs);
                out[1] = op.reference(shapes, &still).swap_remove(1);
                out
            })
        }),
        Change::run("values-turned-too", |at| {
            at.instead(|op, shapes, inputs| {
                let all = RopeKvWrite {
                    heads: op.heads + op.kv_heads,
                    ..op.clone()
                };
                let mut more = inputs.to_vec();
                let (rows, dim) = (op.heads + 2 * op.kv_heads, op.head_dim);
                let padded = rows + op.kv_heads;
                let mut qkv = vec![0.0; shapes[0][0] * padded * dim];
                for (to, from) in qkv
                    .chunks_mut(padded * dim)
                    .zip(inputs[0].data.chunks(rows * dim))
                {
                    to[..rows * dim].copy_from_slice(from);
                }
                let shape = [shapes[0][0], padded, dim];
                more[0] = ops::reference::Tensor::new(&shape, qkv);
                let turned = all.reference(&[&shape, shapes[1], shapes[2]], &more);
                let mut out = op.reference(shapes, inputs);
                // What the larger operation takes for keys are the values.
                out[2] = turned[1].clone();
                out
            })
        }),
        Change::run("keys-and-values-swapped", |at| {
            at.instead(|op, shapes, inputs| {
                let mut out = op.reference(shapes, inputs);
                let (old, new) = (&inputs[1..3], &mut out[1..3]);
                let pairs = old[0].data.iter().zip(&old[1].data).enumerate();
                for (i, (k, v)) in pairs {
                    if (new[0].data[i], new[1].data[i]) != (*k, *v) {
                        let written = (new[0].data[i], new[1].data[i]);
                        (new[1].data[i], new[0].data[i]) = written;
                    }
                }
                out
            })
        }),
        Change::run("last-element-of-the-keys-not-turned", |at| {
            let before = at.read(0)?;
            let (dim, turned) = (at.op().head_dim, at.op().heads + at.op().kv_heads);
            let (all, rotary_dim) = (turned + at.op().kv_heads, at.op().rotary_dim);
            let last = dim / at.op().streams * (at.op().streams - 1) + rotary_dim;
            at.launch()?;
            at.edit(0, |qkv| {
                for token in 0..qkv.len() / (all * dim) {
                    let i = (token * all + turned - 1) * dim + last.saturating_sub(1);
                    qkv[i] = before[i];
                }
            })
        }),
        Change::run("keys-not-written", |at| {
            let before = at.read(1)?;
            at.launch()?;
            at.edit(1, |k| k.copy_from_slice(&before))
        }),
        Change::run("values-not-written", |at| {
            let before = at.read(2)?;
            at.launch()?;
            at.edit(2, |v| v.copy_from_slice(&before))
        }),
        Change::run("keys-of-the-first-query-head", |at| {
            at.instead(|op, shapes, inputs| {
                let mut first = inputs.to_vec();
                let (rows, dim) = (op.heads + 2 * op.kv_heads, op.head_dim);
                for token in first[0].data.chunks_mut(rows * dim) {
                    let query = token[..dim].to_vec();
                    token[op.heads * dim..(op.heads + 1) * dim].copy_from_slice(&query);
                }
                let mut out = op.reference(shapes, inputs);
                out[1] = op.reference(shapes, &first).swap_remove(1);
                out
            })
        }),
        Change::run("skipped-token-written-to-slot-0", |at| {
            at.launch_with(3, |slots| {
                let skipped = slots.iter_mut().filter(|s| **s < 0.0);
                skipped.for_each(|s| *s = 0.0);
            })
        }),
        Change::run("slot-beyond-the-cache-wraps", |at| {
            let all = (at.op().pages * at.op().page_size) as f64;
            at.launch_with(3, |slots| {
                let beyond = slots.iter_mut().filter(|s| **s >= all);
                beyond.for_each(|s| *s %= all);
            })
        }),
        Change::run("skipped-token-not-turned", |at| {
            let (before, slots) = (at.read(0)?, at.read(3)?);
            let all = (at.op().pages * at.op().page_size) as f64;
            let token = at.args[0].dim(1) * at.op().head_dim;
            at.launch()?;
            at.edit(0, |qkv| {
                for (t, slot) in slots.iter().enumerate() {
                    if *slot < 0.0 || *slot >= all {
                        let token = t * token..(t + 1) * token;
                        qkv[token.clone()].copy_from_slice(&before[token]);
                    }
                }
            })
        }),
        Change::run("rest-of-the-key-not-written", |at| {
            let before = at.read(1)?;
            let (dim, part) = (at.op().head_dim, at.op().head_dim / at.op().streams);
            let rotary_dim = at.op().rotary_dim;
            at.launch()?;
            at.edit(1, |k| {
                let all = k.iter_mut().zip(before).enumerate();
                all.filter(|(i, _)| i % dim % part >= rotary_dim)
                    .for_each(|(_, (k, before))| *k = before);
            })
        }),
        Change::run("values-stored-through-bf16", |at| {
            let before = at.read(2)?;
            at.launch()?;
            at.edit(2, |v| {
                let written = v
                    .iter_mut()
                    .zip(before)
                    .filter(|(v, before)| **v != *before);
                written.for_each(|(v, _)| *v = round(DType::BF16, *v));
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
