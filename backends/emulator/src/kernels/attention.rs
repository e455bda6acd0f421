//! Attention over a paged cache.

use hal::DType;
use ops::kv_cache::decode;
use ops::reference::Tensor;
use ops::{Attention, Mask};

use super::{Kernel, Math, softmax_row};

/// The steps of attention that a mutant may take otherwise.
pub(crate) struct Ways {
    /// Key-value head of a query head.
    pub(crate) kv_head: fn(&Attention, usize) -> usize,
    /// Position of token `t` of a sequence of `new` tokens and `kv_len` slots.
    pub(crate) position: fn(t: i64, new: i64, kv_len: i64) -> i64,
    /// The mask: position, slot, slots, prefix.
    pub(crate) sees: fn(Mask, i64, i64, i64, i64) -> bool,
    /// The row of `block_table` that sequence `s` uses.
    pub(crate) table_row: fn(usize) -> usize,
    /// Scores to probabilities.
    pub(crate) softmax: fn(&Math, &mut [f32]),
    /// The type that scores pass through.
    pub(crate) scores: DType,
    /// Whether values are read from the cache of keys.
    pub(crate) values_are_keys: bool,
    /// What tokens of no sequence become.
    pub(crate) beyond: f64,
}

impl Ways {
    pub(crate) const RIGHT: Ways = Ways {
        kv_head: |op, h| h / (op.heads / op.kv_heads),
        position: |t, new, kv_len| kv_len - new + t,
        sees: |mask, position, slot, kv_len, prefix| mask.sees(position, slot, kv_len, prefix),
        table_row: |s| s,
        softmax: softmax_row,
        scores: DType::F32,
        values_are_keys: false,
        beyond: 0.0,
    };
}

/// Attention in these ways.
pub(crate) fn attention(
    op: &Attention,
    math: &Math,
    shapes: &[&[usize]],
    inputs: &[Tensor],
    ways: &Ways,
) -> Vec<Tensor> {
    let [
        q,
        k_pages,
        v_pages,
        block_table,
        q_start,
        kv_len,
        prefix @ ..,
    ] = inputs
    else {
        unreachable!("counted by check_args")
    };
    let [k_pages, v_pages] = &[k_pages, v_pages].map(|pages| decode(op.kv, pages));
    let v_pages = if ways.values_are_keys {
        k_pages
    } else {
        v_pages
    };
    let mut out = Tensor::zeros(shapes[0]);
    out.data.fill(ways.beyond);
    let (tokens, max_pages) = (shapes[0][0], block_table.shape[1]);
    for s in 0..block_table.shape[0] {
        let bound = |x: f64| (x.max(0.0) as usize).min(tokens);
        let (start, end) = (bound(q_start.data[s]), bound(q_start.data[s + 1]));
        let slots = (kv_len.data[s].max(0.0) as usize).min(max_pages * op.page_size);
        let prefix = prefix.first().map_or(0, |p| p.data[s] as i64);
        let rows = |h: usize| -> Vec<usize> {
            let page = |j: usize| {
                let id = block_table.row((ways.table_row)(s))[j / op.page_size];
                id.clamp(0.0, op.pages.saturating_sub(1) as f64) as usize
            };
            let row = |j: usize| {
                (page(j) * op.kv_heads + (ways.kv_head)(op, h)) * op.page_size + j % op.page_size
            };
            (0..slots).map(row).collect()
        };
        for h in 0..op.heads {
            let rows = rows(h);
            for t in start..end {
                let position =
                    (ways.position)((t - start) as i64, (end - start) as i64, slots as i64);
                let score = |(j, &row): (usize, &usize)| match (ways.sees)(
                    op.mask,
                    position,
                    j as i64,
                    slots as i64,
                    prefix,
                ) {
                    true => {
                        let dot = math.dot(q.row(t * op.heads + h), k_pages.row(row));
                        let score = math.flushed(op.scale * dot);
                        conformance::number::round(ways.scores, score.into()) as f32
                    }
                    false => f32::NEG_INFINITY,
                };
                let mut p: Vec<f32> = rows.iter().enumerate().map(score).collect();
                (ways.softmax)(math, &mut p);
                for d in 0..op.head_dim {
                    // Hidden slots may hold anything.
                    let seen = p.iter().zip(&rows).filter(|(p, _)| **p != 0.0);
                    let terms =
                        seen.map(|(p, &row)| math.flushed(p * math.get(v_pages.row(row)[d])));
                    out.row_mut(t * op.heads + h)[d] = math.put(math.sum(terms));
                }
            }
        }
    }
    vec![out]
}

impl Kernel for Attention {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        attention(self, math, shapes, inputs, &Ways::RIGHT)
    }
}
