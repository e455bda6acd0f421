//! Mutants of softmax.

use conformance::number::round;
use hal::DType;
use ops::{Mask, Softmax};

use super::{Change, common, math};

pub(super) fn mutants() -> Vec<Change<Softmax>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<Softmax>> = vec![
        Change::run("maximum-not-subtracted", |at| {
            at.after(|op, inputs, out| {
                let cols = inputs[0].shape[2].max(1);
                for (x, y) in inputs[0].data.chunks(cols).zip(out.chunks_mut(cols)) {
                    // Which columns are seen shows in the right result, underflow aside.
                    let e = |x: f64| (x as f32 * op.scale).exp();
                    let seen = x.iter().zip(y.iter()).filter(|(_, y)| **y != 0.0);
                    let total = math().sum(seen.map(|(x, _)| e(*x)));
                    for (x, y) in x.iter().zip(y).filter(|(_, y)| **y != 0.0) {
                        *y = f64::from(e(*x) / total);
                    }
                }
            })
        }),
        Change::run("nan-eating-maximum", |at| {
            at.launch_with(1, |x| {
                x.iter_mut()
                    .filter(|x| x.is_nan())
                    .for_each(|x| *x = f64::NEG_INFINITY);
            })
        }),
        Change::run("rows-that-see-nothing-are-nan", |at| {
            let cols = at.args[0].dim(2).max(1);
            at.launch()?;
            at.edit(0, |out| {
                let blind = out
                    .chunks_mut(cols)
                    .filter(|row| row.iter().all(|&p| p == 0.0));
                blind.for_each(|row| row.fill(f64::NAN));
            })
        }),
        Change::op("scale-missing", |op| Softmax {
            scale: 1.0,
            ..op.clone()
        }),
        Change::op("scale-of-the-other-sign", |op| Softmax {
            scale: op.scale.abs(),
            ..op.clone()
        }),
        Change::run("block-edge-sees-one-too-many", |at| match at.op().mask {
            Some(_) => at.launch_with(3, |kv_len| {
                if kv_len[0] % 16.0 == 15.0 {
                    kv_len[0] += 1.0;
                }
            }),
            None => at.launch(),
        }),
        Change::run("diagonal-hidden", |at| match at.op().mask {
            Some(Mask::Causal) => {
                at.launch_with(3, |kv_len| kv_len[0] = (kv_len[0] - 1.0).max(0.0))
            }
            _ => at.launch(),
        }),
        Change::run("prefix-ignored", |at| match at.op().mask {
            Some(Mask::Prefix) => at.launch_with(4, |prefix| prefix.fill(0.0)),
            _ => at.launch(),
        }),
        // Prefix masks have one argument more: those stay as they are.
        Change::op("causal-mask-ignored", |op| Softmax {
            mask: op.mask.map(|mask| match mask {
                Mask::Prefix => Mask::Prefix,
                _ => Mask::Full,
            }),
            ..op.clone()
        }),
        Change::run("rows-before-the-sequence-computed", |at| {
            match at.op().mask {
                Some(_) => at.launch_with(2, |range| range[0] = 0.0),
                None => at.launch(),
            }
        }),
        Change::run("hidden-columns-not-cleared", |at| {
            let before = at.read(0)?;
            at.launch()?;
            at.edit(0, |out| {
                for (p, old) in out.iter_mut().zip(before).filter(|(p, _)| **p == 0.0) {
                    *p = old;
                }
            })
        }),
        Change::run("sum-without-the-last-column", |at| {
            let cols = at.args[0].dim(2).max(1);
            at.launch()?;
            at.edit(0, |out| {
                for row in out.chunks_mut(cols) {
                    let last = row[cols - 1];
                    row.iter_mut().for_each(|p| *p /= 1.0 - last);
                }
            })
        }),
        Change::run("probabilities-through-f16", |at| {
            at.launch()?;
            at.edit(0, |out| {
                out.iter_mut().for_each(|p| *p = round(DType::F16, *p))
            })
        }),
        Change::run("sum-in-f16", |at| {
            let cols = at.args[0].dim(2).max(1);
            at.launch()?;
            at.edit(0, |out| {
                for row in out.chunks_mut(cols) {
                    let largest = row.iter().copied().fold(0.0, f64::max);
                    if largest > 0.0 {
                        let add = |sum: f64, p: &f64| round(DType::F16, sum + p / largest);
                        let total = row.iter().fold(0.0, add) * largest;
                        row.iter_mut().for_each(|p| *p /= total);
                    }
                }
            })
        }),
        Change::run("exponential-to-11-bits", |at| {
            at.launch()?;
            at.edit(0, |out| {
                out.iter_mut().enumerate().for_each(|(i, p)| {
                    *p *= 1.0 + if i % 2 == 0 { 1.0 } else { -1.0 } / 4096.0;
                });
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
