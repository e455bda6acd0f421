//! Mutants of the gated linear unit.

use hal::Result;
use ops::{Act, Glu, Half};

use super::{At, Change, common};
use crate::kernels::act;

/// The unit with another function of the two halves.
fn with_pair(at: &mut At<'_, Glu>, f: fn(&Glu, f32, f32) -> f32) -> Result<()> {
    at.instead(|op, shapes, inputs| {
        let mut out = ops::reference::Tensor::zeros(shapes[0]);
        let [gate, up] = op.halves();
        for r in 0..out.rows() {
            let x = inputs[0].row(r);
            for (c, y) in out.row_mut(r).iter_mut().enumerate() {
                let (g, u) = (x[gate.start + c] as f32, x[up.start + c] as f32);
                *y = f64::from(f(op, g, u));
            }
        }
        vec![out]
    })
}

pub(super) fn mutants() -> Vec<Change<Glu>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    let own: Vec<Change<Glu>> = vec![
        Change::op("halves-swapped", |op| Glu {
            gate: match op.gate {
                Half::First => Half::Second,
                Half::Second => Half::First,
            },
            ..op.clone()
        }),
        Change::op("gelu-by-tanh-instead-of-erf", |op| Glu {
            act: common::replaced(op.act, Act::GeluErf, Act::GeluTanh),
            ..op.clone()
        }),
        Change::op("quick-gelu-instead-of-silu", |op| Glu {
            act: common::replaced(op.act, Act::Silu, Act::GeluQuick),
            ..op.clone()
        }),
        Change::op("limit-ignored", |op| Glu {
            limit: None,
            ..op.clone()
        }),
        Change::run("limit-on-the-gate-only", |at| {
            with_pair(at, |op, g, u| {
                act(op.act, op.limit.map_or(g, |l| g.min(l))) * u
            })
        }),
        Change::run("gate-clamped-from-below-too", |at| {
            with_pair(at, |op, g, u| match op.limit {
                Some(l) => act(op.act, g.clamp(-l, l)) * u.clamp(-l, l),
                None => act(op.act, g) * u,
            })
        }),
        Change::run("limit-after-the-activation", |at| {
            with_pair(at, |op, g, u| match op.limit {
                Some(l) => act(op.act, g).min(l) * u.clamp(-l, l),
                None => act(op.act, g) * u,
            })
        }),
        Change::run("activation-on-both", |at| {
            with_pair(at, |op, g, u| {
                let (g, u) = match op.limit {
                    Some(l) => (g.min(l), u.clamp(-l, l)),
                    None => (g, u),
                };
                act(op.act, g) * act(op.act, u)
            })
        }),
        Change::run("halves-interleaved", |at| {
            at.instead(|op, shapes, inputs| {
                let mut x = inputs[0].clone();
                for r in 0..x.rows() {
                    for c in 0..op.dim {
                        let (a, b) = (inputs[0].row(r)[2 * c], inputs[0].row(r)[2 * c + 1]);
                        (x.row_mut(r)[c], x.row_mut(r)[op.dim + c]) = (a, b);
                    }
                }
                ops::Op::reference(op, shapes, &[x])
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
