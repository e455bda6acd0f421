//! Beam search: the likeliest text instead of a drawn one, as GLM-130B's `BeamSearchStrategy` finds it, without its
//! dice.
//!
//! A beam is a text with the sum of its tokens' log probabilities. Each step extends all beams by all tokens and keeps
//! the best extensions; those that end with a stop id are done and compete by
//! `score / ((5 + tokens) / 6)^length_penalty`, prompt and stop id counted. The search is over when no beam can still
//! win against the worst of as many finished ones as there are beams.
//!
//! Equal scores: the earlier beam, then the smaller id, comes first, so a search has one result. (The original draws
//! the extensions by their probabilities, unless told not to.)
//!
//! Source: `generation/strategies.py` of <https://github.com/THUDM/GLM-130B>; the penalty is that of OpenNMT.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use hal::{Error, ErrorKind, Result};

use super::{
    FinishReason, Generation, GenerationParams, Session, Stats, StopFilter, Token, positions_of,
};
use crate::cache::Sequence;
use crate::model::{Chunk, Rows};

/// How a search is done. GLM-130B's own script has 4 beams, a penalty of 1 and no run of 3 tokens twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSearch {
    /// Texts that are followed at a time. The model must be loaded for as many sequences and rows of logits.
    pub beams: usize,
    /// Above 0 favours longer texts, below 0 shorter ones.
    pub length_penalty: f64,
    /// No run of so many tokens is generated twice; 0: any may be.
    pub no_repeat_ngram: usize,
}

/// A text that is being followed.
#[derive(Debug)]
struct Beam {
    sequence: Sequence,
    /// Generated ids.
    ids: Vec<u32>,
    score: f64,
}

/// A text that has ended.
#[derive(Debug)]
struct Finished {
    ids: Vec<u32>,
    /// Penalised.
    score: f64,
    reason: FinishReason,
}

/// A beam and a token.
#[derive(Clone, Copy, Debug)]
struct Extension {
    beam: usize,
    id: u32,
    score: f64,
}

impl Extension {
    /// Best first.
    fn order(&self, other: &Self) -> Ordering {
        let score = other.score.total_cmp(&self.score);
        score.then((self.beam, self.id).cmp(&(other.beam, other.id)))
    }
}

impl BeamSearch {
    fn check(&self, sequences: usize) -> Result<()> {
        let fail = |why: String| Err(Error::invalid("search with beams", why));
        if self.beams == 0 {
            return fail("there must be one at least".into());
        }
        if !self.length_penalty.is_finite() {
            return fail(format!("length penalty {}", self.length_penalty));
        }
        if self.beams > sequences {
            let detail = format!("{} beams; the model was loaded for {sequences}", self.beams);
            return Err(Error::invalid("search with beams", detail)
                .next_step("load it with as many max_sequences and max_logits"));
        }
        Ok(())
    }

    fn penalised(&self, score: f64, tokens: usize) -> f64 {
        score / ((5.0 + tokens as f64) / 6.0).powf(self.length_penalty)
    }

    /// The best of the extensions by each row of `logits`, in order: as many as may be needed when every stop id is
    /// among the best of every beam.
    fn best_extensions(
        &self,
        beams: &[Beam],
        prompt: &[u32],
        logits: &[f32],
        stop_ids: usize,
    ) -> Result<Vec<Extension>> {
        let wanted = (stop_ids.max(1) + 1) * self.beams;
        let vocab = logits.len() / beams.len();
        let mut best = Vec::new();
        for (b, (beam, logits)) in beams.iter().zip(logits.chunks_exact(vocab)).enumerate() {
            let banned = banned(prompt, &beam.ids, self.no_repeat_ngram);
            let allowed = || {
                let ids = (0u32..).zip(logits.iter().map(|&logit| f64::from(logit)));
                ids.filter(|(id, _)| !banned.contains(id))
            };
            let largest = allowed().fold(f64::NEG_INFINITY, |max, (_, logit)| logit.max(max));
            let sum: f64 = allowed().map(|(_, logit)| (logit - largest).exp()).sum();
            let base = beam.score - largest - sum.ln();
            if !base.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
                let doing = format!("search with beams, token {}", beam.ids.len());
                let detail = "the probabilities of the tokens are not finite";
                return Err(Error::new(ErrorKind::Numeric, doing, detail).next_step(
                    "load the model in bf16 or f32; if it is, the weights are damaged",
                ));
            }
            let start = best.len();
            best.extend(allowed().map(|(id, logit)| Extension {
                beam: b,
                id,
                score: base + logit,
            }));
            let own = &mut best[start..];
            if own.len() > wanted {
                own.select_nth_unstable_by(wanted - 1, Extension::order);
                best.truncate(start + wanted);
            }
        }
        best.sort_unstable_by(Extension::order);
        best.truncate(wanted);
        Ok(best)
    }
}

/// Tokens that would repeat a generated run of `n` tokens. The beginning of a run may lie in the prompt, as in the
/// original.
fn banned(prompt: &[u32], ids: &[u32], n: usize) -> Vec<u32> {
    let total = prompt.len() + ids.len();
    if n == 0 || total < n {
        return Vec::new();
    }
    let token = |i: usize| match i.checked_sub(prompt.len()) {
        None => prompt[i],
        Some(i) => ids[i],
    };
    let begins_as_now = |end: &usize| (1..n).all(|k| token(end - k) == token(total - k));
    let ends = prompt.len().max(n - 1)..total;
    ends.filter(begins_as_now).map(token).collect()
}

impl Session<'_> {
    /// Searches the likeliest continuation of the session's prompt. `on_token` hears each step, then the tokens of
    /// the result.
    pub(super) fn search(
        &mut self,
        search: &BeamSearch,
        params: &GenerationParams,
        mut stats: Stats,
        start: Instant,
        mut on_token: impl FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let engine = self.engine;
        let prompt_len = self.ids.len();
        let logits = {
            let mut model = engine.model();
            search.check(model.max_sequences().min(model.max_logits()))?;
            self.compute(&mut model, prompt_len, Rows::Last)?;
            model.read_logits()?
        };
        stats.prefill_seconds = start.elapsed().as_secs_f64();
        let empty = engine.model().sequence();
        let first = Beam {
            sequence: std::mem::replace(&mut self.sequence, empty),
            ids: Vec::new(),
            score: 0.0,
        };
        let mut beams = vec![first];
        let found = self.follow(search, params, &mut beams, logits, &mut on_token);
        let (best, steps) = match found {
            Ok(found) => found,
            Err(e) => {
                if e.kind() == ErrorKind::Numeric {
                    let mut model = engine.model();
                    for beam in &mut beams {
                        model.scrub(&mut beam.sequence)?;
                    }
                }
                self.clear();
                return Err(e);
            }
        };
        stats.new_tokens = steps;
        stats.decode_seconds = start.elapsed().as_secs_f64() - stats.prefill_seconds;
        // The prompt stays in the cache. Its last token is computed again when nothing follows it.
        if let Some(beam) = beams.into_iter().next() {
            self.sequence = beam.sequence;
        }
        self.ids.extend_from_slice(&best.ids);
        self.sequence.truncate(prompt_len.min(self.ids.len() - 1));

        let mut decoder = engine.tokenizer.stream(true);
        let mut filter = StopFilter::new(&params.stop);
        let (mut ids, mut text, mut finish) = (Vec::new(), String::new(), best.reason);
        let mut stopped = false;
        let mut give = |id: Option<u32>, new: &str| {
            text.push_str(new);
            // It is over: whether the caller wants more no longer matters.
            if id.is_some() || !new.is_empty() {
                let _ = on_token(Token { id, text: new });
            }
        };
        for id in best.ids {
            ids.push(id);
            let (new, ended) = filter.push(&decoder.push(id)?);
            give(Some(id), &new);
            if ended {
                (stopped, finish) = (true, FinishReason::Stop);
                break;
            }
        }
        if !stopped {
            let (mut new, ended) = filter.push(&decoder.finish()?);
            if !ended {
                new += &filter.finish();
            }
            give(None, &new);
        }
        Ok(Generation {
            ids,
            text,
            finish,
            stats,
        })
    }

    /// Follows `beams`, which begins as the prompt alone with its `logits`, to the end. Returns the best text and the
    /// number of steps.
    fn follow(
        &self,
        search: &BeamSearch,
        params: &GenerationParams,
        beams: &mut Vec<Beam>,
        mut logits: Vec<f32>,
        on_token: &mut impl FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<(Finished, usize)> {
        let (engine, prompt) = (self.engine, &self.ids);
        let mut finished: Vec<Finished> = Vec::new();
        let add = |finished: &mut Vec<Finished>, ids, score, tokens, reason| {
            let score = search.penalised(score, tokens);
            let at = finished.partition_point(|other| score < other.score);
            finished.insert(at, Finished { ids, score, reason });
            finished.truncate(search.beams);
        };
        // As in `Session::generate`: the last token drawn need not fit into the cache.
        let room = engine.context + 1 - prompt.len();
        let steps = params.max_new_tokens.min(room);
        let (mut step, mut reason) = (0, FinishReason::Length);
        while step < steps {
            let stops = params.stop_ids.len();
            let extensions = search.best_extensions(beams, prompt, &logits, stops)?;
            step += 1;
            let tokens = prompt.len() + step;
            let mut chosen: Vec<Extension> = Vec::with_capacity(search.beams);
            for extension in extensions {
                let Extension { beam, id, score } = extension;
                if params.stop_ids.contains(&id) {
                    let ids = beams[beam].ids.clone();
                    add(&mut finished, ids, score, tokens, FinishReason::Stop);
                } else if chosen.len() < search.beams {
                    chosen.push(extension);
                } else {
                    break;
                }
            }
            *beams = extend(std::mem::take(beams), &chosen);
            let cancelled = on_token(Token { id: None, text: "" }).is_break();
            if cancelled {
                reason = FinishReason::Cancelled;
            }
            let done = match (finished.last(), beams.first()) {
                (Some(worst), Some(best)) if finished.len() == search.beams => {
                    worst.score >= search.penalised(best.score, tokens)
                }
                (_, best) => best.is_none(),
            };
            if done || cancelled || step == steps {
                if done {
                    reason = FinishReason::Stop;
                }
                break;
            }
            let mut model = engine.model();
            let streams = engine.blanks.streams();
            let mut buffers = vec![Vec::with_capacity(streams); beams.len()];
            let chunks = beams.iter_mut().zip(&mut buffers);
            let mut chunks: Vec<Chunk<'_>> = chunks
                .map(|(beam, buffer)| {
                    let at = beam.sequence.len();
                    Chunk {
                        sequence: &mut beam.sequence,
                        ids: &beam.ids[beam.ids.len() - 1..],
                        positions: positions_of(engine.blanks, self.blank, at..at + 1, buffer),
                    }
                })
                .collect();
            model.forward(&mut chunks, Rows::Last)?;
            logits = model.read_logits()?;
        }
        if reason != FinishReason::Stop {
            for beam in beams.iter() {
                let tokens = prompt.len() + beam.ids.len();
                add(&mut finished, beam.ids.clone(), beam.score, tokens, reason);
            }
        }
        let best = finished.into_iter().next();
        let best = best.unwrap_or(Finished {
            ids: Vec::new(),
            score: 0.0,
            reason,
        });
        Ok((best, step))
    }
}

/// The `chosen` extensions of `beams`. A beam that is extended more than once is forked.
fn extend(beams: Vec<Beam>, chosen: &[Extension]) -> Vec<Beam> {
    let mut uses: HashMap<usize, usize> = HashMap::new();
    for extension in chosen {
        *uses.entry(extension.beam).or_default() += 1;
    }
    let mut parents: Vec<Option<Beam>> = beams.into_iter().map(Some).collect();
    let mut extended = Vec::with_capacity(chosen.len());
    for &Extension { beam, id, score } in chosen {
        let left = uses.entry(beam).or_default();
        *left = left.saturating_sub(1);
        let parent = match *left {
            0 => parents[beam].take(),
            _ => parents[beam].as_ref().map(|parent| Beam {
                sequence: parent.sequence.fork(),
                ids: parent.ids.clone(),
                score: parent.score,
            }),
        };
        extended.extend(parent.map(|mut parent| {
            parent.ids.push(id);
            parent.score = score;
            parent
        }));
    }
    extended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_not_generated_twice() {
        let prompt = [1, 2, 3];
        for (n, ids, expected) in [
            (0, &[4, 5, 4][..], &[][..]),
            (1, &[4, 5], &[4, 5]),
            // 4 was followed by 5; the prompt's own runs do not count.
            (2, &[4, 5, 4], &[5]),
            (2, &[1], &[]),
            // Its beginning, 3, lies in the prompt.
            (2, &[7, 3], &[7]),
            (3, &[4, 5, 6, 4, 5, 7, 4, 5], &[6, 7]),
            (9, &[4], &[]),
        ] {
            assert_eq!(banned(&prompt, ids, n), expected, "{n} {ids:?}");
        }
    }
}
