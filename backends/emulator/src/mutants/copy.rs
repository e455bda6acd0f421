//! Mutants of the copy.

use hal::{DType, View};
use ops::StridedCopy;

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<StridedCopy>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<StridedCopy>> = vec![
        Change::run("gap-between-elements-written", |at| {
            at.launch()?;
            let view = at.args[0];
            if view.is_empty() || view.strides().iter().any(|&s| s <= 1) {
                return Ok(());
            }
            let size = view.dtype().bytes();
            let next = view.offset_bytes() + size;
            let gap = View::at(view.buffer(), next, DType::U8, &[size])?;
            at.stream.upload(&gap, &vec![0; size])
        }),
        Change::run("first-element-for-all", |at| {
            at.launch()?;
            at.edit(0, |out| {
                if let Some(&first) = out.first() {
                    out.fill(first);
                }
            })
        }),
        Change::run("block-copied-over-itself", |at| {
            // An overlapping move in the wrong direction: elements 64 to 71 are those before them.
            at.launch()?;
            at.edit(0, |out| {
                if out.len() >= 72 {
                    out.copy_within(56..64, 64);
                }
            })
        }),
        Change::run("last-two-dimensions-swapped", |at| {
            at.after(|_, inputs, out| {
                let shape = &inputs[0].shape;
                let [.., rows, cols] = shape[..] else { return };
                for (i, y) in out.iter_mut().enumerate() {
                    let (at, batch) = (i % (rows * cols), i / (rows * cols));
                    let from = at % rows * cols + at / rows;
                    *y = inputs[0].data[batch * rows * cols + from];
                }
            })
        }),
        Change::run("halves-pass-through-f32-and-lose-subnormals", |at| {
            at.after(|op, _, out| {
                if op.dtype == DType::F16 {
                    let tiny = out.iter_mut().filter(|y| y.abs() < 6.103_515_625e-5);
                    tiny.for_each(|y| *y *= 0.0);
                }
            })
        }),
        Change::run("negative-zero-loses-its-sign", |at| {
            at.after(|_, _, out| out.iter_mut().filter(|y| **y == 0.0).for_each(|y| *y = 0.0))
        }),
        Change::run("bytes-are-signed", |at| {
            at.after(|op, _, out| {
                if op.dtype == DType::U8 {
                    out.iter_mut().for_each(|y| *y = y.min(127.0));
                }
            })
        }),
        Change::run("integers-pass-through-f32", |at| {
            at.after(|op, _, out| {
                if op.dtype == DType::I32 {
                    out.iter_mut().for_each(|y| *y = f64::from(*y as f32));
                }
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
