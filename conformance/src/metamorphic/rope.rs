//! Properties of rotary embeddings.

use hal::{DType, Result};
use ops::reference::Tensor;
use ops::{Rope, RopeKvWrite, RopeLayout};

use super::{HOLDS, Held, Row, close, equal, first, require, vector};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
    ("rope", "lengths stay", rope_lengths),
    ("rope", "scores depend on distance alone", rope_distance),
    ("rope", "turning back gives the operand", rope_back),
    (
        "rope_kv_write",
        "the cache has what was turned, and values as they were",
        cached_as_turned,
    ),
];

/// Cosines and sines of six angles at each of 100 positions.
fn tables() -> [Tensor; 2] {
    let angle = |i: usize| (i / 6) as f64 * 0.9f64.powi((i % 6) as i32);
    let table = |f: fn(f64) -> f64| (0..600).map(|i| f(angle(i))).collect();
    [f64::cos, f64::sin].map(|f| Tensor::new(&[100, 6], table(f)))
}

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
    let [cos, sin] = tables();
    let inputs = [
        x.clone(),
        Tensor::new(&[1, positions.len()], positions.to_vec()),
        cos,
        sin.map(|s| direction * s),
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

fn cached_as_turned(lab: &Lab) -> Held {
    for layout in LAYOUTS {
        let op = RopeKvWrite {
            heads: 3,
            kv_heads: 2,
            head_dim: 16,
            rotary_dim: 12,
            streams: 1,
            layout,
            pages: 3,
            page_size: 4,
            dtype: DType::F32,
            kv: DType::F32,
        };
        let x = normal(&[4, 7, 16], "cached");
        let slots = [11.0, -1.0, 2.0, 5.0];
        let [cos, sin] = tables();
        let empty = Tensor::zeros(&[3, 2, 4, 16]);
        let inputs = [
            x.clone(),
            empty.clone(),
            empty,
            vector(&slots),
            Tensor::new(&[1, 4], vec![3.0, 0.0, 99.0, 41.0]),
            cos,
            sin,
        ];
        let Some(out) = lab.run(op, &[], &inputs)? else {
            return Ok(None);
        };
        let [qkv, k_pages, v_pages] = &out[..] else {
            return Ok(Some(Err("not three results".into())));
        };
        for (t, &slot) in slots.iter().enumerate() {
            for h in 0..2 {
                let (k, v) = (qkv.row(t * 7 + 3 + h), qkv.row(t * 7 + 5 + h));
                require!(equal(v, x.row(t * 7 + 5 + h)));
                if slot >= 0.0 {
                    let at = (slot as usize / 4 * 2 + h) * 4 + slot as usize % 4;
                    require!(equal(k_pages.row(at), k));
                    require!(equal(v_pages.row(at), v));
                }
            }
        }
        // One token has no slot: nothing but the others' keys is anywhere.
        let written = |pages: &Tensor| {
            let rows = (0..pages.rows()).filter(|&row| pages.row(row).iter().any(|&x| x != 0.0));
            rows.count() as f64
        };
        require!(equal(&[written(k_pages), written(v_pages)], &[6.0, 6.0]));
    }
    HOLDS
}
