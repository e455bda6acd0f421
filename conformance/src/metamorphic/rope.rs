//! Properties of rotary embeddings.

use hal::{DType, Result};
use ops::reference::Tensor;
use ops::{Rope, RopeLayout};

use super::{HOLDS, Held, Row, close, equal, first, require};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
    ("rope", "lengths stay", rope_lengths),
    ("rope", "scores depend on distance alone", rope_distance),
    ("rope", "turning back gives the operand", rope_back),
];

/// `tokens` of two heads of 16, of which `rotary_dim` are rotated; angles are `position · 0.9^i`.
fn rotated(
    lab: &Lab,
    layout: RopeLayout,
    x: &Tensor,
    positions: &[f64],
    direction: f64,
) -> Result<Option<Vec<Tensor>>> {
    let op = Rope {
        head_dim: 16,
        rotary_dim: 12,
        streams: 1,
        layout,
        dtype: DType::F32,
    };
    let angle = |i: usize| (i / 6) as f64 * 0.9f64.powi((i % 6) as i32);
    let table = |f: fn(f64) -> f64, sign: f64| {
        Tensor::new(&[100, 6], (0..600).map(|i| sign * f(angle(i))).collect())
    };
    let inputs = [
        x.clone(),
        Tensor::new(&[1, positions.len()], positions.to_vec()),
        table(f64::cos, 1.0),
        table(f64::sin, direction),
    ];
    lab.run(op, &[&x.shape], &inputs)
}

const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Interleaved, RopeLayout::HalfSplit];

fn rope_lengths(lab: &Lab) -> Held {
    let x = normal(&[4, 2, 16], "lengths");
    for layout in LAYOUTS {
        let y = first!(rotated(lab, layout, &x, &[0.0, 1.0, 50.0, 99.0], 1.0));
        for r in 0..8 {
            for i in 0..6 {
                let (a, b) = match layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::HalfSplit => (i, i + 6),
                };
                let length = |t: &Tensor| t.row(r)[a].hypot(t.row(r)[b]);
                require!(close(&[length(&y)], &[length(&x)], 1e-5));
            }
            require!(equal(
                &y.row(r)[12..],
                &x.map(|x| f64::from(x as f32)).row(r)[12..]
            ));
        }
        // Position 0 turns nothing.
        require!(close(&y.data[..32], &x.data[..32], 1e-6));
    }
    HOLDS
}

fn rope_distance(lab: &Lab) -> Held {
    let x = normal(&[2, 2, 16], "distance");
    for layout in LAYOUTS {
        let mut scores = Vec::new();
        for start in [0.0, 13.0, 70.0] {
            let y = first!(rotated(lab, layout, &x, &[start, start + 17.0], 1.0));
            for h in 0..2 {
                scores.push(ops::reference::dot(y.row(h), y.row(2 + h)));
            }
        }
        require!(close(&scores[2..4], &scores[..2], 1e-4));
        require!(close(&scores[4..], &scores[..2], 1e-4));
    }
    HOLDS
}

fn rope_back(lab: &Lab) -> Held {
    let x = normal(&[5, 2, 16], "back");
    let positions = [3.0, 0.0, 99.0, 41.0, 7.0];
    for layout in LAYOUTS {
        let y = first!(rotated(lab, layout, &x, &positions, 1.0));
        let back = first!(rotated(lab, layout, &y, &positions, -1.0));
        require!(close(&back.data, &x.data, 1e-6));
    }
    HOLDS
}
