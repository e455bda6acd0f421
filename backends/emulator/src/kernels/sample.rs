//! Drawing the next token.

use std::collections::BTreeSet;

use ops::reference::Tensor;
use ops::{Sample, SampleControl};

use super::{Kernel, Math};

/// The steps of a draw that a mutant may take otherwise.
pub(crate) struct Ways {
    /// A logit after the penalty for having been said.
    pub(crate) penalise: fn(logit: f32, penalty: f32) -> f32,
    /// A logit after the temperature.
    pub(crate) heat: fn(logit: f32, temperature: f32) -> f32,
    /// How many of the largest stay.
    pub(crate) top_k: fn(k: usize, vocab: usize) -> usize,
    /// Whether a token stays: probability before it, with it, and p.
    pub(crate) stays: fn(before: f32, with: f32, top_p: f32) -> bool,
    /// The uniform number.
    pub(crate) uniform: fn(&SampleControl) -> f32,
    /// Whether the draw is among what stayed, or among everything.
    pub(crate) renormalises: bool,
    /// Whether the larger of equal ids comes first.
    pub(crate) last_of_ties: bool,
    /// Ids of the history that count: how many of `capacity`.
    pub(crate) said: fn(len: f64, capacity: usize) -> usize,
    /// Whether an id said twice is penalised twice.
    pub(crate) counts_repeats: bool,
    /// Whether temperature 0 takes the largest.
    pub(crate) greedy: bool,
}

impl Ways {
    pub(crate) const RIGHT: Ways = Ways {
        penalise: |logit, penalty| {
            if logit > 0.0 {
                logit / penalty
            } else {
                logit * penalty
            }
        },
        heat: |logit, temperature| logit / temperature,
        top_k: |k, vocab| if k == 0 { vocab } else { k.min(vocab) },
        stays: |before, _, top_p| before < top_p,
        uniform: SampleControl::uniform,
        renormalises: true,
        last_of_ties: false,
        said: |len, capacity| (len.max(0.0) as usize).min(capacity),
        counts_repeats: false,
        greedy: true,
    };
}

/// Draws each row's token in these ways.
pub(crate) fn draw(
    math: &Math,
    shapes: &[&[usize]],
    inputs: &[Tensor],
    ways: &Ways,
) -> Vec<Tensor> {
    let [logits, floats, ints, history, history_len] = inputs else {
        unreachable!("five inputs")
    };
    let row = |r: usize| {
        let (f, i) = (floats.row(r), ints.row(r));
        let control = SampleControl {
            temperature: f[0] as f32,
            top_p: f[1] as f32,
            repetition_penalty: f[2] as f32,
            top_k: i[0] as u32,
            seed: u64::from(i[1] as i32 as u32) | u64::from(i[2] as i32 as u32) << 32,
            step: i[3] as i32 as u32,
        };
        let said = (ways.said)(history_len.data[r], history.shape[1]);
        choose(math, logits.row(r), &history.row(r)[..said], &control, ways) as f64
    };
    vec![Tensor::new(
        shapes[0],
        (0..logits.rows()).map(row).collect(),
    )]
}

fn choose(
    math: &Math,
    logits: &[f64],
    history: &[f64],
    control: &SampleControl,
    ways: &Ways,
) -> usize {
    let mut logits: Vec<f32> = logits.iter().map(|&x| math.get(x)).collect();
    let ids = history
        .iter()
        .filter(|&&id| id >= 0.0 && id < logits.len() as f64);
    let mut ids: Vec<usize> = ids.map(|&id| id as usize).collect();
    if !ways.counts_repeats {
        ids = BTreeSet::from_iter(ids).into_iter().collect();
    }
    for id in ids {
        logits[id] = (ways.penalise)(logits[id], control.repetition_penalty);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| {
        let ties = if ways.last_of_ties {
            b.cmp(&a)
        } else {
            a.cmp(&b)
        };
        // Numbers compare by value: zeros of both signs are equal, NaN comes first.
        let by_value = logits[b].partial_cmp(&logits[a]);
        by_value
            .unwrap_or_else(|| logits[b].is_nan().cmp(&logits[a].is_nan()))
            .then(ties)
    });
    if control.temperature == 0.0 && ways.greedy {
        return order[0];
    }
    let kept = (ways.top_k)(control.top_k as usize, logits.len());
    let heated = order[..kept]
        .iter()
        .map(|&i| (ways.heat)(logits[i], control.temperature));
    let mut p: Vec<f32> = heated.collect();
    super::softmax_row(math, &mut p);
    let (mut before, mut stay) = (0.0f32, 0);
    for &p in &p {
        if stay > 0 && !(ways.stays)(before, before + p, control.top_p) {
            break;
        }
        before += p;
        stay += 1;
    }
    let total = if ways.renormalises { before } else { 1.0 };
    let target = (ways.uniform)(control) * total;
    let mut cumulative = 0.0;
    for (&i, &p) in order[..stay].iter().zip(&p) {
        cumulative += p;
        if cumulative > target {
            return i;
        }
    }
    order[stay - 1]
}

impl Kernel for Sample {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        draw(math, shapes, inputs, &Ways::RIGHT)
    }
}
