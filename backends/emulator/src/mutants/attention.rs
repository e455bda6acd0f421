//! Mutants of attention.

use conformance::number::round;
use hal::{DType, Result};
use ops::{Attention, Mask};

use super::{At, Change, common, math};
use crate::kernels::{AttentionWays, Math, attention, softmax_row};

fn with_ways(at: &mut At<'_, Attention>, ways: AttentionWays) -> Result<()> {
    at.instead(|op, shapes, inputs| attention(op, &math(), shapes, inputs, &ways))
}

/// Softmax in one pass over blocks of 16, the running sum not rescaled when the maximum grows.
fn online_without_rescaling(math: &Math, scores: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    let mut total = 0.0;
    for block in scores.chunks(16) {
        max = block.iter().copied().fold(max, f32::max);
        if max > f32::NEG_INFINITY {
            total += math.sum(block.iter().map(|s| (s - max).exp()));
        }
    }
    if total == 0.0 {
        return softmax_row(math, scores);
    }
    scores
        .iter_mut()
        .for_each(|s| *s = (*s - max).exp() / total);
}

pub(super) fn mutants() -> Vec<Change<Attention>> {
    const RIGHT: AttentionWays = AttentionWays::RIGHT;
    let mut mutants = common::everywhere();
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<Attention>> = vec![
        Change::op("scale-missing", |op| Attention {
            scale: 1.0,
            ..op.clone()
        }),
        Change::op("scale-through-f16", |op| Attention {
            scale: op.scale * (1.0 + 1.0 / 1024.0),
            ..op.clone()
        }),
        Change::op("scale-without-the-root", |op| Attention {
            scale: op.scale * op.scale,
            ..op.clone()
        }),
        Change::run("int8-values-of-one-scale", |at| {
            let (n, int8) = (at.op().head_dim, at.op().kv == DType::I8);
            let [.., row] = at.op().cache();
            at.launch_with(3, |v| {
                let scale = v.get(n..row).map(<[f64]>::to_vec);
                for v in v.chunks_mut(row).filter(|_| int8) {
                    v[n..].copy_from_slice(scale.as_deref().unwrap_or_default());
                }
            })
        }),
        Change::run("last-slot-of-a-full-page-not-seen", |at| {
            let page = at.op().page_size as f64;
            at.launch_with(6, |lengths| {
                let full = lengths
                    .iter_mut()
                    .filter(|n| **n > 1.0 && **n % page == 0.0);
                full.for_each(|n| *n -= 1.0);
            })
        }),
        Change::run("prefix-ignored", |at| match at.op().mask {
            Mask::Prefix => at.launch_with(7, |prefix| prefix.fill(0.0)),
            _ => at.launch(),
        }),
        Change::run("prefix-one-too-long", |at| {
            with_ways(
                at,
                AttentionWays {
                    sees: |mask, position, slot, kv_len, prefix| {
                        let prefix = prefix + i64::from(mask == Mask::Prefix);
                        mask.sees(position, slot, kv_len, prefix)
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("page-ids-off-by-one", |at| {
            let pages = at.op().pages as f64;
            at.launch_with(4, |table| {
                table.iter_mut().for_each(|id| *id = (*id + 1.0) % pages)
            })
        }),
        Change::run("pages-in-order", |at| {
            // As if the cache were contiguous.
            let columns = at.args[4].dim(1).max(1);
            at.launch_with(4, |table| {
                for row in table.chunks_mut(columns) {
                    let first = row[0];
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(i, id)| *id = first + i as f64);
                }
            })
        }),
        Change::run("pages-of-the-first-sequence-for-all", |at| {
            with_ways(
                at,
                AttentionWays {
                    table_row: |_| 0,
                    ..RIGHT
                },
            )
        }),
        Change::run("heads-grouped-by-remainder", |at| {
            with_ways(
                at,
                AttentionWays {
                    kv_head: |op, h| h % op.kv_heads,
                    ..RIGHT
                },
            )
        }),
        Change::run("first-kv-head-for-all", |at| {
            with_ways(
                at,
                AttentionWays {
                    kv_head: |_, _| 0,
                    ..RIGHT
                },
            )
        }),
        Change::run("positions-start-at-0-in-every-call", |at| {
            with_ways(
                at,
                AttentionWays {
                    position: |t, _, _| t,
                    ..RIGHT
                },
            )
        }),
        Change::run("causal-mask-sees-the-next-slot", |at| {
            with_ways(
                at,
                AttentionWays {
                    sees: |mask, position, slot, kv_len, prefix| {
                        mask.sees(position + 1, slot, kv_len, prefix)
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("causal-mask-wrong-at-the-edge-of-64", |at| {
            with_ways(
                at,
                AttentionWays {
                    sees: |mask, position, slot, kv_len, prefix| {
                        mask.sees(position, slot, kv_len, prefix)
                            && !(position % 64 == 0 && slot == position && slot > 0)
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("slots-beyond-128-not-seen", |at| {
            with_ways(
                at,
                AttentionWays {
                    sees: |mask, position, slot, kv_len, prefix| {
                        slot < 128 && mask.sees(position, slot, kv_len, prefix)
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("first-slot-not-seen", |at| {
            with_ways(
                at,
                AttentionWays {
                    sees: |mask, position, slot, kv_len, prefix| {
                        (slot > 0 || kv_len == 1) && mask.sees(position, slot, kv_len, prefix)
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("online-sum-not-rescaled", |at| {
            with_ways(
                at,
                AttentionWays {
                    softmax: online_without_rescaling,
                    ..RIGHT
                },
            )
        }),
        Change::run("maximum-not-subtracted", |at| {
            with_ways(
                at,
                AttentionWays {
                    softmax: |math, scores| {
                        scores.iter_mut().for_each(|s| *s = s.exp());
                        let total = math.sum(scores.iter().copied());
                        scores.iter_mut().for_each(|s| *s /= total);
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("scores-through-f16", |at| {
            with_ways(
                at,
                AttentionWays {
                    scores: DType::F16,
                    ..RIGHT
                },
            )
        }),
        Change::run("sums-in-f16", |at| {
            let mut math = math();
            math.accumulator = DType::F16;
            at.instead(|op, shapes, inputs| attention(op, &math, shapes, inputs, &RIGHT))
        }),
        Change::run("probabilities-through-bf16", |at| {
            with_ways(
                at,
                AttentionWays {
                    softmax: |math, scores| {
                        softmax_row(math, scores);
                        let bf16 = |p: f32| round(DType::BF16, p.into()) as f32;
                        scores.iter_mut().for_each(|p| *p = bf16(*p));
                    },
                    ..RIGHT
                },
            )
        }),
        Change::run("values-read-from-keys", |at| {
            with_ways(
                at,
                AttentionWays {
                    values_are_keys: true,
                    ..RIGHT
                },
            )
        }),
        Change::run("tokens-of-no-sequence-not-cleared", |at| {
            with_ways(
                at,
                AttentionWays {
                    beyond: 1.0,
                    ..RIGHT
                },
            )
        }),
        Change::run("keys-in-bf16", |at| {
            at.launch_with(2, |k| {
                k.iter_mut().for_each(|k| *k = round(DType::BF16, *k))
            })
        }),
        Change::run("values-in-f16", |at| {
            at.launch_with(3, |v| v.iter_mut().for_each(|v| *v = round(DType::F16, *v)))
        }),
        Change::run("head-dim-beyond-128-dropped", |at| {
            let dim = at.op().head_dim;
            at.launch_with(1, |q| {
                let tail = q.iter_mut().enumerate().filter(|(i, _)| i % dim >= 128);
                tail.for_each(|(_, q)| *q = 0.0);
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
