//! Cases of [`Sample`]. Every comparison inside is of rounded numbers, so near ties may fall either way: a token is
//! accepted when it is drawn for some choice of roundings within their bounds, which for nearly all rows is one token.

use std::collections::BTreeSet;

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Sample, SampleControl};

use super::Conformance;
use crate::bound::{Model, U};
use crate::{Case, Expected, Generator, Layout, Operand, Picks, Rng};

impl Conformance for Sample {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, vocab) = (picks.size(7), picks.size_from_1(1025));
        let op = Sample { vocab };
        let control = SampleControl {
            temperature: picks.one(&[1.0, 0.0, 0.8, 0.1, 2.0]),
            top_p: picks.one(&[1.0, 0.0, 0.5, 0.8]),
            repetition_penalty: picks.one(&[1.0, 1.2, 0.5]),
            top_k: picks.one(&[0, 1, 2, 50, 5000]),
            seed: picks.one(&[0, 42, u64::MAX - 1]),
            step: 0,
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Ties,
            Generator::Rising,
            Generator::Constant,
        ]);
        let capacity = picks.one(&[0, 1, 40]);
        let layout = picks.one(&Layout::ROWS);
        let mut rng = Rng::of(&format!("{op:?} {control:?} {rows} {capacity}"));
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let control = SampleControl {
                step: rng.below(100_000) as u32,
                // Rows of one batch differ: the last one is always greedy.
                temperature: if r + 1 == rows && r > 0 {
                    0.0
                } else {
                    control.temperature
                },
                ..control
            };
            floats.extend(control.floats().map(f64::from));
            ints.extend(control.ints().map(f64::from));
        }
        let history = (0..rows * capacity)
            .map(|i| match i % 13 {
                5 => -1.0,
                7 => vocab as f64,
                _ => rng.below(vocab) as f64,
            })
            .collect();
        let history_len = (0..rows).map(|r| match r {
            1 => -1.0,
            2 => capacity as f64 + 5.0,
            _ => (capacity - capacity / 4) as f64,
        });
        Case::new(
            op,
            vec![
                Operand::out(&[rows]),
                Operand::random(&[rows, vocab], generator).layout(layout),
                Operand::values(&[rows, 3], floats),
                Operand::values(&[rows, 4], ints),
                Operand::values(&[rows, capacity], history),
                Operand::values(&[rows], history_len.collect()),
            ],
        )
    }

    fn expect(&self, _shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let [logits, floats, ints, history, history_len] = inputs else {
            unreachable!("five inputs")
        };
        let row = |r: usize| {
            let len = history_len.data[r].max(0.0) as usize;
            let ids = history.row(r).iter().take(len);
            let ids = ids
                .filter(|&&id| id >= 0.0)
                .map(|&id| id as usize)
                .collect();
            let (f, i) = (floats.row(r), ints.row(r));
            let half = |x: f64| u64::from(x as i32 as u32);
            let control = SampleControl {
                temperature: f[0] as f32,
                top_p: f[1] as f32,
                repetition_penalty: f[2] as f32,
                top_k: i[0] as u32,
                seed: half(i[1]) | half(i[2]) << 32,
                step: i[3] as i32 as u32,
            };
            acceptable(logits.row(r), &ids, &control)
        };
        vec![Expected::OneOf((0..logits.rows()).map(row).collect())]
    }
}

/// One token's part in the draw.
#[derive(Clone, Copy)]
struct Token {
    raw: f64,
    penalised: bool,
    /// Logit after penalty and temperature, and how far it may be off.
    score: f64,
    error: f64,
    /// `exp(score − max)`.
    weight: f64,
    /// Tokens that come before it in descending order: surely, and possibly.
    before: [usize; 2],
}

/// The tokens that a correct kernel may draw.
fn acceptable(logits: &[f64], history: &BTreeSet<usize>, control: &SampleControl) -> Vec<i64> {
    let (penalty, greedy) = (
        f64::from(control.repetition_penalty),
        control.temperature == 0.0,
    );
    let temperature = if greedy {
        1.0
    } else {
        f64::from(control.temperature)
    };
    let mut tokens: Vec<Token> = logits
        .iter()
        .enumerate()
        .map(|(id, &raw)| {
            let penalised = history.contains(&id) && penalty != 1.0;
            let logit = match penalised {
                true if raw > 0.0 => raw / penalty,
                true => raw * penalty,
                false => raw,
            };
            let roundings =
                f64::from(u8::from(penalised)) + f64::from(u8::from(temperature != 1.0));
            let score = logit / temperature;
            Token {
                raw,
                penalised,
                score,
                error: roundings * U * score.abs(),
                weight: 0.0,
                before: [0, 0],
            }
        })
        .collect();
    let max = tokens
        .iter()
        .map(|t| t.score)
        .fold(f64::NEG_INFINITY, f64::max);
    for token in &mut tokens {
        token.weight = (token.score - max).exp();
    }
    // Whether a is before b: surely, and possibly. Equal logits with equal treatment stay equal in any arithmetic.
    let order = |(i, a): (usize, &Token), (j, b): (usize, &Token)| {
        if (a.raw, a.penalised) == (b.raw, b.penalised) {
            return [i < j; 2];
        }
        let (gap, error) = (a.score - b.score, a.error + b.error);
        [
            gap > error || (gap == 0.0 && error == 0.0 && i < j),
            gap >= -error && i != j,
        ]
    };
    let all: Vec<Token> = tokens.clone();
    for (j, token) in tokens.iter_mut().enumerate() {
        for (i, other) in all.iter().enumerate() {
            let [surely, possibly] = order((i, other), (j, &all[j]));
            token.before[0] += usize::from(surely);
            token.before[1] += usize::from(possibly);
        }
    }
    let ids = |keep: &dyn Fn(&Token) -> bool| {
        let kept = tokens.iter().enumerate().filter(|(_, t)| keep(t));
        kept.map(|(id, _)| id as i64).collect()
    };
    if greedy {
        return ids(&|t| t.before[0] == 0);
    }
    let k = match control.top_k as usize {
        0 => tokens.len(),
        k => k,
    };
    let scale = tokens.iter().map(|t| t.score.abs()).fold(0.0, f64::max);
    // Error of a cumulative probability: the exponentials' arguments, the exponentials, the sums.
    let delta = 2.0 * Model::Probable.g(tokens.len()) + (16.0 + 6.0 * scale) * U;
    let (u, top_p) = (f64::from(control.uniform()), f64::from(control.top_p));
    // The kept tokens' mass, at least and at most.
    let mass = |keep: &dyn Fn(&Token) -> bool| -> f64 {
        tokens.iter().filter(|t| keep(t)).map(|t| t.weight).sum()
    };
    let kept = [mass(&|t| t.before[1] < k), mass(&|t| t.before[0] < k)];
    // The mass before each kept token, at least and at most.
    let ahead: Vec<[f64; 2]> = (0..tokens.len())
        .map(|j| {
            let mut ahead = [0.0; 2];
            for (i, other) in tokens.iter().enumerate().filter(|(_, t)| t.before[0] < k) {
                let [surely, possibly] = order((i, other), (j, &tokens[j]));
                ahead[0] += if surely { other.weight } else { 0.0 };
                ahead[1] += if possibly { other.weight } else { 0.0 };
            }
            ahead
        })
        .collect();
    let stays = |j: usize| {
        let (token, [least, most]) = (&tokens[j], ahead[j]);
        let surely =
            token.before[1] == 0 || (token.before[1] < k && most < (top_p - delta) * kept[0]);
        let possibly =
            token.before[0] == 0 || (token.before[0] < k && least < (top_p + delta) * kept[1]);
        [surely, possibly]
    };
    let mut staying = [0.0; 2];
    for (j, token) in tokens.iter().enumerate() {
        for (sum, stays) in staying.iter_mut().zip(stays(j)) {
            *sum += if stays { token.weight } else { 0.0 };
        }
    }
    let slack = delta * kept[1];
    (0..tokens.len())
        .filter(|&j| {
            let [least, most] = ahead[j];
            stays(j)[1]
                && least <= u * staying[1] + slack
                && most + tokens[j].weight >= u * staying[0] - slack
        })
        .map(|j| j as i64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::cases_expectations;

    #[test]
    fn nearly_every_row_allows_one_token_and_the_reference_draws_it() {
        let (mut rows, mut single) = (0, 0);
        for (got, expected) in cases_expectations::<Sample>() {
            let [Expected::OneOf(sets)] = &expected[..] else {
                panic!("one output")
            };
            for (set, drawn) in sets.iter().zip(&got[0].data) {
                assert!(set.contains(&(*drawn as i64)), "{drawn} not in {set:?}");
                rows += 1;
                single += usize::from(set.len() == 1);
            }
        }
        assert!(single * 100 > rows * 90, "{single} of {rows}");
    }
}
