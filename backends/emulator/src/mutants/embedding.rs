//! Mutants of the embedding.

use hal::DType;
use ops::Embedding;

use super::{Change, common, matmul};

pub(super) fn mutants() -> Vec<Change<Embedding>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::output_strides());
    mutants.extend(common::index_wraps());
    mutants.extend(matmul::quantised());
    let own: Vec<Change<Embedding>> = vec![
        Change::run("ids-off-by-one", |at| {
            at.launch_with(1, |ids| ids.iter_mut().for_each(|id| *id += 1.0))
        }),
        Change::run("id-beyond-the-table-takes-the-last-row", |at| {
            let last = at.op().vocab as f64 - 1.0;
            at.launch_with(1, |ids| ids.iter_mut().for_each(|id| *id = id.min(last)))
        }),
        Change::run("negative-id-takes-the-first-row", |at| {
            at.launch_with(1, |ids| ids.iter_mut().for_each(|id| *id = id.max(0.0)))
        }),
        Change::run("negative-id-counts-from-the-end", |at| {
            let vocab = at.op().vocab as f64;
            at.launch_with(1, |ids| {
                ids.iter_mut()
                    .filter(|id| **id < 0.0)
                    .for_each(|id| *id += vocab);
            })
        }),
        Change::run("unknown-rows-not-cleared", |at| {
            let (before, vocab) = (at.read(0)?, at.op().vocab as f64);
            let (ids, dim) = (at.read(1)?, at.op().dim);
            at.launch()?;
            at.edit(0, |out| {
                for (t, id) in ids.iter().enumerate() {
                    if !(0.0..vocab).contains(id) {
                        out[t * dim..][..dim].copy_from_slice(&before[t * dim..][..dim]);
                    }
                }
            })
        }),
        Change::run("first-id-for-all", |at| {
            at.launch_with(1, |ids| {
                if let Some(&first) = ids.first() {
                    ids.fill(first);
                }
            })
        }),
        Change::run("ids-in-16-bits", |at| {
            at.launch_with(1, |ids| {
                ids.iter_mut()
                    .for_each(|id| *id = f64::from(*id as i32 as i16));
            })
        }),
        Change::run("columns-beyond-1024-dropped", |at| {
            let dim = at.op().dim.max(1);
            at.launch()?;
            at.edit(0, |out| {
                let tail = out.iter_mut().enumerate().filter(|(i, _)| i % dim >= 1024);
                tail.for_each(|(_, y)| *y = 0.0);
            })
        }),
        Change::run("subnormals-flushed", |at| {
            at.after(|op, _, out| {
                if op.out == DType::F16 {
                    let tiny = out.iter_mut().filter(|y| y.abs() < 6.103_515_625e-5);
                    tiny.for_each(|y| *y *= 0.0);
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
