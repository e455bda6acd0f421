//! Draws the next token of each row from its logits, by the rules of transformers 4.x in their order:
//!
//! 1. repetition penalty p over the distinct ids of the row's history: `l ← l/p` where l > 0, else `l·p`; ids outside
//!    the vocabulary are skipped;
//! 2. temperature 0: the largest logit wins, of equal ones the lowest id. Otherwise `l ← l/temperature`;
//! 3. top-k: the k largest stay (0: all), of equal ones the lowest ids;
//! 4. top-p: in descending order, a token stays when the probability before it is below p (so the first always stays);
//! 5. the first token, in descending order, whose cumulative probability exceeds `u` times that of all that stayed.
//!
//! `u` in [0, 1) is a function of the row's seed and step alone, so a request gives the same tokens in any batch.
//!
//! Source of the generator: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Philox4x32-10).

use std::collections::BTreeSet;

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::argmax::ranking;
use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, invalid, op_args, signature,
};
use crate::reference::{Tensor, softmax};
use crate::{Op, Signature};

/// Specification of sampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of logits per row.
    pub vocab: usize,
}

/// How one row is sampled; its two halves are rows of `floats` and `ints`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleControl {
    /// 0 for greedy.
    pub temperature: f32,
    /// 1 for all.
    pub top_p: f32,
    /// 1 for none.
    pub repetition_penalty: f32,
    /// 0 for all.
    pub top_k: u32,
    /// Of the request.
    pub seed: u64,
    /// Of this token within the request.
    pub step: u32,
}

impl SampleControl {
    /// The row of `floats`.
    pub fn floats(&self) -> [f32; 3] {
        [self.temperature, self.top_p, self.repetition_penalty]
    }

    /// The row of `ints`.
    pub fn ints(&self) -> [i32; 4] {
        [
            self.top_k as i32,
            self.seed as i32,
            (self.seed >> 32) as i32,
            self.step as i32,
        ]
    }

    /// The number in [0, 1) that decides the draw.
    pub fn uniform(&self) -> f32 {
        (philox(self.seed, u64::from(self.step))[0] >> 8) as f32 / (1 << 24) as f32
    }
}

op_args! {
    /// Arguments of [`Sample`].
    SampleArgs {
        /// i32 `[rows]`
        out,
        /// f32 `[rows, vocab]`
        logits,
        /// f32 `[rows, 3]`: temperature, top-p, repetition penalty
        floats,
        /// i32 `[rows, 4]`: top-k, low and high half of the seed, step
        ints,
        /// i32 `[rows, capacity]`: ids so far
        history,
        /// i32 `[rows]`: how many of them count
        history_len,
    }
}

impl Op for Sample {
    const NAME: &'static str = "sample";
    type Args<'a> = SampleArgs<'a>;

    fn signature(&self) -> Signature {
        signature![
            out: Out, DType::I32; logits: In, DType::F32; floats: In, DType::F32; ints: In, DType::I32;
            history: In, DType::I32; history_len: In, DType::I32
        ]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, logits, floats, ints, history, history_len] = args else {
            unreachable!("counted by check_args")
        };
        if self.vocab == 0 {
            return Err(invalid(Self::NAME, "the vocabulary is empty"));
        }
        expect_rank(Self::NAME, "out", out, 1)?;
        let rows = out.dim(0);
        expect_shape(Self::NAME, "logits", logits, &[rows, self.vocab])?;
        expect_dense_rows(Self::NAME, "logits", logits)?;
        expect_shape(Self::NAME, "floats", floats, &[rows, 3])?;
        expect_shape(Self::NAME, "ints", ints, &[rows, 4])?;
        expect_rank(Self::NAME, "history", history, 2)?;
        expect_shape(Self::NAME, "history", history, &[rows, history.dim(1)])?;
        expect_dense_rows(Self::NAME, "history", history)?;
        expect_shape(Self::NAME, "history_len", history_len, &[rows])?;
        for (name, view) in [
            ("out", out),
            ("floats", floats),
            ("ints", ints),
            ("history_len", history_len),
        ] {
            expect_contiguous(Self::NAME, name, view)?;
        }
        Ok(())
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [logits, floats, ints, history, history_len] = inputs else {
            unreachable!("five inputs")
        };
        let draw = |r: usize| {
            let ids = history
                .row(r)
                .iter()
                .take(history_len.data[r].max(0.0) as usize);
            let ids = ids.filter(|&&id| id >= 0.0);
            let ids: BTreeSet<usize> = ids.map(|&id| id as usize).collect();
            let (f, i) = (floats.row(r), ints.row(r));
            let control = SampleControl {
                temperature: f[0] as f32,
                top_p: f[1] as f32,
                repetition_penalty: f[2] as f32,
                top_k: i[0] as u32,
                seed: u64::from(i[1] as i32 as u32) | u64::from(i[2] as i32 as u32) << 32,
                step: i[3] as i32 as u32,
            };
            choose(logits.row(r).to_vec(), &ids, &control) as f64
        };
        vec![Tensor::new(
            shapes[0],
            (0..shapes[0][0]).map(draw).collect(),
        )]
    }
}

fn choose(mut logits: Vec<f64>, history: &BTreeSet<usize>, control: &SampleControl) -> usize {
    let (vocab, penalty) = (logits.len(), f64::from(control.repetition_penalty));
    for id in history.iter().copied().filter(|&id| id < vocab) {
        let l = &mut logits[id];
        *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
    }
    let order = ranking(&logits);
    if control.temperature == 0.0 {
        return order[0];
    }
    let kept = match control.top_k as usize {
        0 => order.len(),
        k => k.min(order.len()),
    };
    let mut p: Vec<f64> = order[..kept]
        .iter()
        .map(|&i| logits[i] / f64::from(control.temperature))
        .collect();
    softmax(&mut p);
    let mut before = 0.0;
    let mut stay = 0;
    for &p in &p {
        if stay > 0 && before >= f64::from(control.top_p) {
            break;
        }
        before += p;
        stay += 1;
    }
    let target = f64::from(control.uniform()) * before;
    let mut cumulative = 0.0;
    for (&i, &p) in order[..stay].iter().zip(&p) {
        cumulative += p;
        if cumulative > target {
            return i;
        }
    }
    order[stay - 1]
}

/// Four random words of Philox4x32-10 with key `seed` and counter `(counter, 0)`.
pub fn philox(seed: u64, counter: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut x = [counter as u32, (counter >> 32) as u32, 0, 0];
    for _ in 0..10 {
        let a = u64::from(x[0]) * 0xD251_1F53;
        let b = u64::from(x[2]) * 0xCD9E_8D57;
        x = [
            (b >> 32) as u32 ^ x[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ x[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_words() {
        // Random123 1.14, kat_vectors: philox4x32-10 with zero counter and key.
        assert_eq!(
            philox(0, 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
    }

    const CONTROL: SampleControl = SampleControl {
        temperature: 1.0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        top_k: 0,
        seed: 1,
        step: 0,
    };

    #[test]
    fn greedy_takes_the_first_of_equals_and_obeys_the_penalty() {
        let greedy = SampleControl {
            temperature: 0.0,
            repetition_penalty: 2.0,
            ..CONTROL
        };
        let logits = vec![1.0, 3.0, 3.0, -1.0];
        assert_eq!(choose(logits.clone(), &BTreeSet::new(), &greedy), 1);
        assert_eq!(choose(logits, &BTreeSet::from([1, 9]), &greedy), 2);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = vec![0.5f64.ln(), 0.3f64.ln(), 0.2f64.ln()];
        let mut counts = [0.0f64; 3];
        for step in 0..20_000 {
            counts[choose(
                logits.clone(),
                &BTreeSet::new(),
                &SampleControl { step, ..CONTROL },
            )] += 1.0;
        }
        for (count, p) in counts.into_iter().zip([0.5, 0.3, 0.2]) {
            // Five standard deviations of a binomial count.
            assert!(
                (count - 20_000.0 * p).abs() < 5.0 * (20_000.0 * p * (1.0 - p)).sqrt(),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn top_p_and_top_k_cut_the_tail() {
        let logits = vec![0.5f64.ln(), 0.3f64.ln(), 0.2f64.ln()];
        for step in 0..200 {
            let top_p = SampleControl {
                top_p: 0.5,
                step,
                ..CONTROL
            };
            assert_eq!(choose(logits.clone(), &BTreeSet::new(), &top_p), 0);
            let top_k = SampleControl {
                top_k: 2,
                step,
                ..CONTROL
            };
            assert_ne!(choose(logits.clone(), &BTreeSet::new(), &top_k), 2);
        }
    }
}
