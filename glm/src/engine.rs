//! From prompts to text: sessions of one model, each a conversation with its own cache.
//!
//! Design choices:
//! - A session keeps the tokens that it has computed. A prompt that begins with them costs only
//!   what is new, so the history of a chat is computed once.
//! - Sessions share the model and take turns on it, a step at a time.
//! - A prompt may have a blank ([`Prompt`]): its tokens before `sop` see each other, so they are computed in one
//!   step, and kept for the next prompt only when that has the very same ones.
//! - Every drawn token is checked: one that is not a number ends the generation with a typed error.

mod beam;
mod stop;

use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hal::{Error, ErrorKind, Result};
use ops::{Context, Plan, Sample};

pub use self::beam::BeamSearch;
use crate::blank::{Blank, BlankPositions};
use crate::cache::Sequence;
use crate::config::GenerationConfig;
use crate::model::{Chunk, Model, Rows};
use crate::prompt::Prompt;
use crate::sampler::{Request, Sampler, Sampling};
use crate::tokenizer::Tokenizer;
use stop::StopFilter;

/// What a generation does.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationParams {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens to generate; the context ends it too.
    pub max_new_tokens: usize,
    /// Ids that end it; they are no part of the result.
    pub stop_ids: Vec<u32>,
    /// Strings that end it; neither they nor what follows is part of the text.
    pub stop: Vec<String>,
    /// Searches the likeliest text instead of drawing one; `sampling` has no part in it then.
    pub beams: Option<BeamSearch>,
}

impl Default for GenerationParams {
    /// Greedy, until the context is full.
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            max_new_tokens: usize::MAX,
            stop_ids: Vec::new(),
            stop: Vec::new(),
            beams: None,
        }
    }
}

impl From<&GenerationConfig> for GenerationParams {
    /// What the publisher recommends, with seed 0.
    fn from(config: &GenerationConfig) -> Self {
        let sampling = Sampling {
            temperature: if config.do_sample {
                config.temperature
            } else {
                0.0
            },
            top_k: config.top_k as u32,
            top_p: config.top_p,
            repetition_penalty: config.repetition_penalty,
            seed: 0,
        };
        Self {
            sampling,
            stop_ids: config.eos_ids.clone(),
            ..Self::default()
        }
    }
}

/// A piece of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The token; `None` for text that was held back until the end, and for a step of a search, whose text is empty.
    pub id: Option<u32>,
    /// The text that became certain: whole characters, no part of a stop string. Often empty.
    pub text: &'a str,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id or a stop string.
    Stop,
    /// `max_new_tokens`, or the context is full.
    Length,
    /// The caller wanted no more.
    Cancelled,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Generated ids, without a stop id.
    pub ids: Vec<u32>,
    /// Their text, as it was given token by token.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Counts and times.
    pub stats: Stats,
}

/// Counts and times of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache already.
    pub reused_tokens: usize,
    /// Tokens drawn, a stop id included.
    pub new_tokens: usize,
    /// Seconds until the first token.
    pub prefill_seconds: f64,
    /// Seconds for all further tokens.
    pub decode_seconds: f64,
}

/// A model with its tokenizer, ready to generate.
#[derive(Debug)]
pub struct Engine {
    model: Mutex<Model>,
    tokenizer: Tokenizer,
    sample: Plan<Sample>,
    context: usize,
    vocab: usize,
    blanks: BlankPositions,
}

impl Engine {
    /// An engine for `model`, which was loaded with `context`.
    ///
    /// # Errors
    /// `Corrupt` when the tokenizer has ids that the model lacks; `Unsupported` when the device
    /// cannot sample.
    pub fn new(context: &Context, model: Model, tokenizer: Tokenizer) -> Result<Self> {
        let architecture = model.architecture();
        let vocab = architecture.vocab;
        tokenizer.check_fits(vocab)?;
        let blanks = architecture.blank;
        Ok(Self {
            tokenizer,
            sample: context.plan(Sample { vocab })?,
            context: model.context(),
            vocab,
            blanks,
            model: Mutex::new(model),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The most tokens of a session.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The model, for this thread alone while the guard lives.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session with an empty cache.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    pub fn session(&self) -> Result<Session<'_>> {
        let model = self.model();
        let device = &**model.device();
        Ok(Session {
            sequence: model.sequence(),
            sampler: Sampler::new(device, self.sample.clone(), 1, self.context)?,
            ids: Vec::with_capacity(self.context + 1),
            blank: None,
            positions: Vec::with_capacity(self.blanks.streams() * model.max_tokens()),
            drawn: 0,
            engine: self,
        })
    }
}

/// A conversation: tokens, their cache, and what draws the next one.
#[derive(Debug)]
pub struct Session<'e> {
    engine: &'e Engine,
    sequence: Sequence,
    sampler: Sampler,
    /// All tokens; those beyond the sequence's length are not in the cache yet. There is always
    /// one, once there is any: its logits draw the next.
    ids: Vec<u32>,
    /// The blank that they are filling.
    blank: Option<Blank>,
    /// Positions of the tokens of one step `[streams, tokens]`.
    positions: Vec<u32>,
    /// Tokens drawn since the prompt.
    drawn: u32,
}

impl Session<'_> {
    /// All tokens: the last prompt and what was drawn after it.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens in the cache.
    pub fn cached(&self) -> usize {
        self.sequence.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.blank = None;
        self.sequence.truncate(0);
        self.sampler.rewind(0, 0);
    }

    /// Makes `prompt` the tokens of the session and computes all but the last one, which
    /// [`Self::decode`] needs. Returns how many were in the cache already.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty prompt, one longer than the context, ids that do not
    /// exist, or a blank that the model or the prompt does not have; `OutOfMemory` when the cache is full;
    /// `DeviceLost`.
    pub fn prefill(&mut self, prompt: impl Into<Prompt>) -> Result<usize> {
        let reused = self.assign(&prompt.into())?;
        let engine = self.engine;
        self.compute(&mut engine.model(), self.ids.len() - 1, Rows::None)?;
        Ok(reused)
    }

    /// Computes what is not in the cache yet, draws the next token and appends it.
    ///
    /// # Errors
    /// `InvalidArgument` before any prompt, when the context is full, or for sampling values;
    /// `Numeric` when the drawn token's logit is not finite; `OutOfMemory` when the cache is full;
    /// `DeviceLost`.
    pub fn decode(&mut self, sampling: &Sampling) -> Result<u32> {
        let doing = |step: u32| format!("generate token {step}");
        sampling.check()?;
        if self.ids.is_empty() {
            return Err(Error::invalid(doing(self.drawn), "there is no prompt"));
        }
        // One lock for both: another session's step would leave other logits.
        let engine = self.engine;
        let mut model = engine.model();
        self.compute(&mut model, self.ids.len(), Rows::Last)?;
        let request = Request {
            control: sampling.control(self.drawn),
            history: &self.ids,
        };
        let (stream, logits) = model.output()?;
        let drawn = self.sampler.draw(stream, logits, &[request])?[0];
        if !drawn.logit.is_finite() {
            model.scrub(&mut self.sequence)?;
            self.clear();
            let detail = format!("the logit of id {} is {}", drawn.id, drawn.logit);
            return Err(Error::new(ErrorKind::Numeric, doing(self.drawn), detail)
                .next_step(
                    "load the model in bf16 or f32; if it is, the weights are damaged: `glm trace` with the same prompt names \
                     the first operation that wrote such a number",
                ));
        }
        self.ids.push(drawn.id);
        self.drawn += 1;
        Ok(drawn.id)
    }

    /// Generates text after `prompt`; `on_token` hears every token and may end it.
    ///
    /// # Errors
    /// As [`Self::prefill`] and [`Self::decode`]; `InvalidArgument` for parameters out of their
    /// range.
    pub fn generate(
        &mut self,
        prompt: impl Into<Prompt>,
        params: &GenerationParams,
        mut on_token: impl FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        params.sampling.check()?;
        if params.stop.iter().any(String::is_empty) {
            return Err(Error::invalid("generate text", "a stop string is empty"));
        }
        let start = Instant::now();
        let prompt = prompt.into();
        let mut stats = Stats {
            prompt_tokens: prompt.ids.len(),
            reused_tokens: self.assign(&prompt)?,
            ..Stats::default()
        };
        if let Some(beams) = &params.beams {
            return self.search(beams, params, stats, start, on_token);
        }
        let engine = self.engine;
        let mut decoder = engine.tokenizer.stream(true);
        let mut filter = StopFilter::new(&params.stop);
        let (mut new_ids, mut all_text) = (Vec::new(), String::new());
        // Why it ended, and whether text that is held back still counts.
        let (finish, has_tail) = loop {
            if new_ids.len() >= params.max_new_tokens || self.ids.len() > engine.context {
                break (FinishReason::Length, true);
            }
            let id = self.decode(&params.sampling)?;
            stats.new_tokens += 1;
            if stats.new_tokens == 1 {
                stats.prefill_seconds = start.elapsed().as_secs_f64();
            }
            if params.stop_ids.contains(&id) {
                break (FinishReason::Stop, true);
            }
            new_ids.push(id);
            let (text, stopped) = filter.push(&decoder.push(id)?);
            all_text.push_str(&text);
            let (id, text) = (Some(id), &*text);
            if on_token(Token { id, text }).is_break() {
                break (FinishReason::Cancelled, false);
            }
            if stopped {
                break (FinishReason::Stop, false);
            }
        };
        if has_tail {
            let (mut text, stopped) = filter.push(&decoder.finish()?);
            if !stopped {
                text += &filter.finish();
            }
            if !text.is_empty() {
                all_text.push_str(&text);
                let (id, text) = (None, &*text);
                // It is over: whether the caller wants more no longer matters.
                let _ = on_token(Token { id, text });
            }
        }
        stats.decode_seconds = start.elapsed().as_secs_f64() - stats.prefill_seconds;
        Ok(Generation {
            ids: new_ids,
            text: all_text,
            finish,
            stats,
        })
    }

    /// Makes `prompt` the tokens of the session; keeps what the cache has of them. Returns how many
    /// those are.
    fn assign(&mut self, prompt: &Prompt) -> Result<usize> {
        let fail = |why: String| Error::invalid("read a prompt", why);
        let (context, vocab) = (self.engine.context, self.engine.vocab);
        let ids = &prompt.ids;
        if ids.is_empty() {
            return Err(fail("it has no tokens".into()));
        }
        if ids.len() > context {
            let detail = format!("{} tokens; the context is {context}", ids.len());
            return Err(
                fail(detail).next_step("shorten it, or load the model with a longer context")
            );
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            let detail = format!("token id {id}; the model has {vocab}");
            return Err(fail(detail).next_step("use the tokenizer of this very model"));
        }
        if let Some(blank) = prompt.blank {
            if self.engine.blanks == BlankPositions::None {
                return Err(fail("it has a blank, and the model fills none".into())
                    .next_step("give the text alone; the model continues it"));
            }
            if blank.mask >= blank.start || blank.start >= ids.len() {
                let detail = format!("{blank:?} in {} tokens", ids.len());
                return Err(fail(detail).next_step("put the mask token before `sop`"));
            }
        }
        let mut common = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // What the tokens of a prefix are depends on all of it.
        let prefix = prompt.blank.map_or(0, |blank| blank.start);
        if self.blank != prompt.blank || common < prefix {
            common = 0;
        }
        self.sampler.rewind(0, common);
        // The last token is computed in any case: its logits draw the next.
        self.sequence.truncate(common.min(ids.len() - 1));
        if self.sequence.is_empty() {
            self.sequence.set_prefix(prefix)?;
        }
        self.ids.clear();
        self.ids.extend_from_slice(ids);
        self.blank = prompt.blank;
        self.drawn = 0;
        Ok(self.sequence.len())
    }

    /// Brings the first `end` tokens into the cache; logits are those of the last step's `rows`.
    fn compute(&mut self, model: &mut Model, end: usize, rows: Rows<'_>) -> Result<()> {
        let step = model.max_tokens();
        while self.sequence.len() < end {
            let from = self.sequence.len();
            let to = end.min((from + step).max(self.sequence.prefix()));
            let rows = if to == end { rows } else { Rows::None };
            let positions = &mut self.positions;
            let chunk = Chunk {
                sequence: &mut self.sequence,
                ids: &self.ids[from..to],
                positions: positions_of(self.engine.blanks, self.blank, from..to, positions),
            };
            model.forward(&mut [chunk], rows)?;
        }
        Ok(())
    }
}

/// The positions of tokens `range`, row-major, in `positions`; `None` for models whose positions count on.
fn positions_of(
    blanks: BlankPositions,
    blank: Option<Blank>,
    range: Range<usize>,
    positions: &mut Vec<u32>,
) -> Option<&[u32]> {
    if blanks == BlankPositions::None {
        return None;
    }
    positions.clear();
    for stream in 0..blanks.streams() {
        // Positions are below the context, which is below 2^28.
        positions.extend(range.clone().map(|i| blanks.of(blank, i)[stream] as u32));
    }
    Some(positions)
}
