//! Mutants of the cache write.

use conformance::number::round;
use hal::DType;
use ops::KvWrite;

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<KvWrite>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::input_layout::<2, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<KvWrite>> = vec![
        Change::run("skipped-token-written-to-slot-0", |at| {
            at.launch_with(4, |slots| {
                slots
                    .iter_mut()
                    .filter(|s| **s < 0.0)
                    .for_each(|s| *s = 0.0);
            })
        }),
        Change::run("slot-beyond-the-cache-wraps", |at| {
            let all = (at.op().pages * at.op().page_size) as f64;
            at.launch_with(4, |slots| {
                slots
                    .iter_mut()
                    .filter(|s| **s >= all)
                    .for_each(|s| *s %= all);
            })
        }),
        Change::run("values-not-written", |at| {
            let before = at.read(1)?;
            at.launch()?;
            at.edit(1, |v| v.copy_from_slice(&before))
        }),
        Change::run("keys-and-values-swapped", |at| {
            let (k, v) = (at.args[2], at.args[3]);
            let (k_values, v_values) = (at.read(2)?, at.read(3)?);
            let _ = (k, v);
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                (inputs[2].data, inputs[3].data) = (v_values, k_values);
                ops::Op::reference(op, shapes, &inputs)
            })
        }),
        Change::run("slot-and-page-swapped", |at| {
            let (pages, size) = (at.op().pages as f64, at.op().page_size as f64);
            at.launch_with(4, |slots| {
                for s in slots
                    .iter_mut()
                    .filter(|s| **s >= 0.0 && **s < pages * size)
                {
                    *s = *s % pages * size + (*s / pages).floor() % size;
                }
            })
        }),
        Change::run("pages-of-16-assumed", |at| {
            let size = at.op().page_size as f64;
            at.launch_with(4, |slots| {
                for s in slots.iter_mut().filter(|s| **s >= 0.0 && **s < 1e6) {
                    *s = (*s / 16.0).floor() * size + (*s % 16.0).min(size - 1.0);
                }
            })
        }),
        Change::run("heads-in-reverse", |at| {
            let (heads, dim) = (at.op().kv_heads, at.op().head_dim);
            at.launch_with(2, |k| {
                for token in k.chunks_mut((heads * dim).max(1)) {
                    let reversed = token.chunks(dim.max(1)).rev().flatten().copied();
                    let reversed: Vec<f64> = reversed.collect();
                    token.copy_from_slice(&reversed);
                }
            })
        }),
        Change::run("last-head-not-written", |at| {
            let before = at.read(0)?;
            let [_, heads, size, row] = at.op().cache();
            let page = size * row;
            at.launch()?;
            at.edit(0, |k| {
                for (i, k) in k.iter_mut().enumerate() {
                    if i / page.max(1) % heads == heads - 1 {
                        *k = before[i];
                    }
                }
            })
        }),
        Change::run("stored-through-bf16", |at| {
            at.launch_with(3, |v| {
                v.iter_mut().for_each(|v| *v = round(DType::BF16, *v))
            })
        }),
        Change::run("int8-rows-lose-a-bit", |at| {
            let (before, n) = (at.read(0)?, at.op().head_dim);
            let [.., row] = at.op().cache();
            let int8 = at.op().kv == DType::I8;
            at.launch()?;
            at.edit(0, |k| {
                let rows = k.chunks_mut(row).zip(before.chunks(row));
                for (k, _) in rows.filter(|(k, before)| int8 && k != before) {
                    k[..n]
                        .iter_mut()
                        .for_each(|q| *q = (*q / 2.0).trunc() * 2.0);
                }
            })
        }),
        Change::run("rounded-toward-zero", |at| {
            let kv = at.op().kv;
            at.launch_with(2, |k| {
                k.iter_mut()
                    .for_each(|k| *k = super::cast::truncated(kv, *k))
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
