//! Mutants of argmax.

use hal::Result;
use ops::Argmax;

use super::{At, Change, common};

/// The index by `best` of each row.
fn with_row(at: &mut At<'_, Argmax>, best: fn(usize, &[f64]) -> usize) -> Result<()> {
    at.instead(|_, shapes, inputs| {
        let rows = (0..shapes[0][0]).map(|r| best(r, inputs[0].row(r)) as f64);
        vec![ops::reference::Tensor::new(shapes[0], rows.collect())]
    })
}

/// The first index at which `better(new, best)` holds for no other.
fn first_by(row: &[f64], better: impl Fn(f64, f64) -> bool) -> usize {
    (1..row.len()).fold(
        0,
        |best, i| if better(row[i], row[best]) { i } else { best },
    )
}

pub(super) fn mutants() -> Vec<Change<Argmax>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::input_layout::<1, _>());
    let own: Vec<Change<Argmax>> = vec![
        Change::run("last-of-ties", |at| {
            with_row(at, |_, row| {
                first_by(row, |x, best| x >= best || x.is_nan())
            })
        }),
        Change::run("nan-never-the-largest", |at| {
            with_row(at, |_, row| {
                first_by(row, |x, best| x > best || (best.is_nan() && !x.is_nan()))
            })
        }),
        Change::run("nan-in-the-first-place-only", |at| {
            with_row(at, |_, row| first_by(row, |x, best| x > best))
        }),
        Change::run("tail-beyond-16-not-looked-at", |at| {
            with_row(at, |_, row| {
                let whole = (row.len() / 16 * 16).max(1);
                first_by(&row[..whole], |x, best| {
                    x > best || (x.is_nan() && !best.is_nan())
                })
            })
        }),
        Change::run("largest-magnitude", |at| {
            with_row(at, |_, row| {
                first_by(row, |x, best| x.abs() > best.abs() || x.is_nan())
            })
        }),
        Change::run("smallest", |at| {
            with_row(at, |_, row| first_by(row, |x, best| x < best || x.is_nan()))
        }),
        Change::run("starts-from-0", |at| {
            // A row without positive numbers has no index of its own.
            with_row(at, |_, row| {
                let mut best = (0, 0.0);
                for (i, &x) in row.iter().enumerate() {
                    if x > best.1 || x.is_nan() {
                        best = (i, if x.is_nan() { f64::INFINITY } else { x });
                    }
                }
                best.0
            })
        }),
        Change::run("index-in-the-tensor", |at| {
            with_row(at, |r, row| {
                let best = first_by(row, |x, best| x > best || (x.is_nan() && !best.is_nan()));
                r * row.len() + best
            })
        }),
        Change::run("negative-zero-is-smaller", |at| {
            with_row(at, |_, row| {
                first_by(row, |x, best| match x.is_nan() || best.is_nan() {
                    true => x.is_nan() && !best.is_nan(),
                    false => x.total_cmp(&best).is_gt(),
                })
            })
        }),
        Change::run("compared-in-f16", |at| {
            with_row(at, |_, row| {
                let half = |x: f64| conformance::number::round(hal::DType::F16, x);
                let better =
                    |x: f64, best: f64| half(x) > half(best) || (x.is_nan() && !best.is_nan());
                first_by(row, better)
            })
        }),
        Change::run("lanes-of-32-merged-without-the-index-rule", |at| {
            // Each lane keeps its first; of equal lanes the later one wins.
            with_row(at, |_, row| {
                let better = |x: f64, best: f64| x > best || (x.is_nan() && !best.is_nan());
                let lane = |l: usize| {
                    let of_lane = (l..row.len()).step_by(32);
                    of_lane.fold(
                        l,
                        |best, i| if better(row[i], row[best]) { i } else { best },
                    )
                };
                let lanes = (0..row.len().min(32)).map(lane);
                lanes.fold(
                    0,
                    |best, i| if better(row[best], row[i]) { best } else { i },
                )
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
