//! Mutants of top-k.

use conformance::number::round;
use hal::{DType, Result};
use ops::TopK;
use ops::reference::Tensor;

use super::{At, Change, common};

/// The rows with pairs in the order that `sort` leaves them in.
fn with_order(at: &mut At<'_, TopK>, sort: fn(&mut Vec<(usize, f64)>, usize)) -> Result<()> {
    at.instead(|op, shapes, inputs| {
        let (mut values, mut indices) = (Tensor::zeros(shapes[0]), Tensor::zeros(shapes[1]));
        for r in 0..shapes[0][0] {
            let mut pairs: Vec<(usize, f64)> =
                inputs[0].row(r).iter().copied().enumerate().collect();
            sort(&mut pairs, op.k);
            for (j, (i, x)) in pairs.into_iter().take(op.k).enumerate() {
                values.row_mut(r)[j] = x;
                indices.row_mut(r)[j] = i as f64;
            }
        }
        vec![values, indices]
    })
}

/// Largest first, NaN before all.
fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    b.is_nan()
        .cmp(&a.is_nan())
        .then(b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal))
}

pub(super) fn mutants() -> Vec<Change<TopK>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::input_layout::<2, _>());
    let own: Vec<Change<TopK>> = vec![
        Change::run("unsorted", |at| {
            with_order(at, |pairs, k| {
                pairs.sort_by(|a, b| descending(a.1, b.1));
                pairs.truncate(k);
                pairs.sort_by_key(|pair| pair.0);
            })
        }),
        Change::run("ascending", |at| {
            with_order(at, |pairs, k| {
                pairs.sort_by(|a, b| descending(a.1, b.1));
                pairs.truncate(k);
                pairs.reverse();
            })
        }),
        Change::run("last-of-ties", |at| {
            with_order(at, |pairs, _| {
                pairs.sort_by(|a, b| descending(a.1, b.1).then(b.0.cmp(&a.0)));
            })
        }),
        Change::run("nan-last", |at| {
            with_order(at, |pairs, _| {
                pairs.sort_by(|a, b| a.1.is_nan().cmp(&b.1.is_nan()).then(descending(a.1, b.1)));
            })
        }),
        Change::run("largest-magnitudes", |at| {
            with_order(at, |pairs, _| {
                pairs.sort_by(|a, b| descending(a.1.abs(), b.1.abs()))
            })
        }),
        Change::run("one-too-few", |at| {
            with_order(at, |pairs, k| {
                pairs.sort_by(|a, b| descending(a.1, b.1));
                pairs.truncate(k.saturating_sub(1));
            })
        }),
        Change::run("the-largest-left-out", |at| {
            with_order(at, |pairs, _| {
                pairs.sort_by(|a, b| descending(a.1, b.1));
                pairs.drain(..1.min(pairs.len()));
            })
        }),
        Change::run("indices-of-another-order", |at| {
            at.launch()?;
            let k = at.op().k.max(1);
            at.edit(1, |indices| {
                indices.chunks_mut(k).for_each(<[f64]>::reverse)
            })
        }),
        Change::run("values-through-bf16", |at| {
            at.launch()?;
            at.edit(0, |values| {
                values.iter_mut().for_each(|x| *x = round(DType::BF16, *x))
            })
        }),
        Change::run("tail-beyond-16-not-looked-at", |at| {
            with_order(at, |pairs, k| {
                let whole = (pairs.len() / 16 * 16).max(k.min(pairs.len()));
                pairs.truncate(whole);
                pairs.sort_by(|a, b| descending(a.1, b.1));
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
