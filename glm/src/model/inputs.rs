//! What changes from step to step: ids, positions, slots, lengths and page tables, in one device
//! buffer.
//!
//! One upload per step; every part keeps its place, so that a step may be replayed.

use std::ops::Range;

use hal::{Buffer, DType, Device, Error, Result, Stream, View};
use ops::Mask;

use super::plans::Limits;
use super::{Chunk, Rows};
use crate::architecture::Architecture;

/// Parts of the buffer, in its order.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Ids,
    Positions,
    Slots,
    Starts,
    Lengths,
    Prefixes,
    Rows,
    Blocks,
}

/// Elements that parts are aligned to: 256 bytes, enough for the binding offsets of every device.
const ALIGN: usize = 64;

/// Pages per sequence that steady steps have room for at least.
const STEADY_PAGES: usize = 4;

#[derive(Debug)]
pub(super) struct Inputs {
    buffer: Buffer,
    host: Vec<i32>,
    /// First element of each part.
    starts: [usize; 8],
    limits: Limits,
    streams: usize,
}

/// Sizes of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Columns of the page table.
    pub(super) pages: usize,
    pub(super) rows: Picked,
}

/// The tokens that logits are wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Picked {
    /// Neighbours.
    Range(Range<usize>),
    /// This many, listed in [`Part::Rows`].
    Listed(usize),
}

impl Step {
    /// Whether each sequence gets one token.
    pub(super) fn decodes(&self) -> bool {
        self.tokens == self.sequences
    }
}

impl Picked {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::Listed(n) => *n,
        }
    }
}

impl Inputs {
    /// Elements of each part.
    fn lens(limits: &Limits, streams: usize) -> [usize; 8] {
        let Limits {
            tokens,
            sequences,
            logits,
            pages_per_sequence,
        } = *limits;
        [
            tokens,
            streams * tokens,
            tokens,
            sequences + 1,
            sequences,
            sequences,
            logits,
            sequences * pages_per_sequence,
        ]
    }

    pub(super) fn bytes(limits: &Limits, streams: usize) -> usize {
        let lens = Self::lens(limits, streams).into_iter();
        4 * lens.map(|n| n.next_multiple_of(ALIGN)).sum::<usize>()
    }

    pub(super) fn new(device: &dyn Device, limits: Limits, streams: usize) -> Result<Self> {
        let mut starts = [0; 8];
        let mut next = 0;
        for (start, len) in starts.iter_mut().zip(Self::lens(&limits, streams)) {
            *start = next;
            next += len.next_multiple_of(ALIGN);
        }
        Ok(Self {
            buffer: device.alloc(next * 4)?,
            host: vec![0; next],
            starts,
            limits,
            streams,
        })
    }

    /// The first `len` elements of a part.
    pub(super) fn vector(&self, part: Part, len: usize) -> Result<View<'_>> {
        View::at(&self.buffer, self.at(part) * 4, DType::I32, &[len])
    }

    /// The positions of one stream, `[tokens]`.
    pub(super) fn positions_of(&self, step: &Step, stream: usize) -> Result<View<'_>> {
        let at = self.at(Part::Positions) + stream * self.limits.tokens;
        View::at(&self.buffer, at * 4, DType::I32, &[step.tokens])
    }

    /// The positions `[streams, tokens]`.
    pub(super) fn positions(&self, step: &Step) -> Result<View<'_>> {
        let at = self.at(Part::Positions) * 4;
        let (shape, strides) = ([self.streams, step.tokens], [self.limits.tokens, 1]);
        View::strided(&self.buffer, at, DType::I32, &shape, &strides)
    }

    /// The page table `[sequences, pages]`.
    pub(super) fn blocks(&self, step: &Step) -> Result<View<'_>> {
        let shape = [step.sequences, step.pages];
        View::at(&self.buffer, self.at(Part::Blocks) * 4, DType::I32, &shape)
    }

    fn at(&self, part: Part) -> usize {
        self.starts[part as usize]
    }

    fn put(&mut self, part: Part, i: usize, value: usize) {
        // Ids, positions, slots and lengths were checked against limits that fit an i32.
        self.host[self.starts[part as usize] + i] = value as i32;
    }

    /// Checks a batch, reserves room for it in its sequences, and uploads what the step needs. `steady`: a decoding step has room
    /// for more pages than it needs, so that those that follow are like it.
    pub(super) fn prepare(
        &mut self,
        stream: &mut dyn Stream,
        architecture: &Architecture,
        chunks: &mut [Chunk<'_>],
        rows: Rows<'_>,
        steady: bool,
    ) -> Result<Step> {
        self.check(architecture, chunks)?;
        for chunk in chunks.iter_mut() {
            chunk.sequence.reserve(chunk.ids.len())?;
        }
        let (mut t, mut pages) = (0, 0);
        for (s, chunk) in chunks.iter().enumerate() {
            let (sequence, stored) = (&*chunk.sequence, chunk.sequence.len());
            self.put(Part::Starts, s, t);
            let base = sequence.base();
            self.put(Part::Lengths, s, base + stored + chunk.ids.len());
            self.put(Part::Prefixes, s, base + sequence.prefix());
            pages = pages.max(sequence.pages().len());
            for (i, &id) in chunk.ids.iter().enumerate() {
                self.put(Part::Ids, t, id as usize);
                self.put(Part::Slots, t, sequence.slot(stored + i));
                for stream in 0..self.streams {
                    let position = match chunk.positions {
                        Some(positions) => positions[stream * chunk.ids.len() + i] as usize,
                        None => stored + i,
                    };
                    self.put(Part::Positions, stream * self.limits.tokens + t, position);
                }
                t += 1;
            }
        }
        self.put(Part::Starts, chunks.len(), t);
        if steady && t == chunks.len() {
            let most = self.limits.pages_per_sequence;
            pages = pages
                .next_power_of_two()
                .clamp(most.min(STEADY_PAGES), most);
        }
        let at = self.at(Part::Blocks);
        for (row, chunk) in self.host[at..].chunks_mut(pages).zip(chunks.iter()) {
            let own = chunk.sequence.pages();
            row[..own.len()].copy_from_slice(own);
            // Beyond the sequence's length, but read by composed attention: any page of the cache
            // will do.
            row[own.len()..].fill(0);
        }
        let step = Step {
            tokens: t,
            sequences: chunks.len(),
            pages,
            rows: self.pick(chunks, rows, t)?,
        };
        let used = self.at(Part::Blocks) + step.sequences * pages;
        let view = View::new(&self.buffer, DType::I32, &[used])?;
        stream.upload(&view, bytemuck::cast_slice(&self.host[..used]))?;
        Ok(step)
    }

    fn check(&self, architecture: &Architecture, chunks: &[Chunk<'_>]) -> Result<()> {
        let fail = |why: String| Error::invalid("run a batch", why);
        let tokens: usize = chunks.iter().map(|chunk| chunk.ids.len()).sum();
        if tokens > self.limits.tokens || !(1..=self.limits.sequences).contains(&chunks.len()) {
            return Err(fail(format!(
                "{tokens} tokens of {} sequences; at most {} of {}, at least one",
                chunks.len(),
                self.limits.tokens,
                self.limits.sequences
            ))
            .next_step("split the batch, or load the model with larger limits"));
        }
        for (s, chunk) in chunks.iter().enumerate() {
            let (n, end) = (chunk.ids.len(), chunk.sequence.len() + chunk.ids.len());
            if n == 0 {
                return Err(fail(format!("sequence {s} has no tokens")));
            }
            if let Some(id) = chunk
                .ids
                .iter()
                .find(|&&id| id as usize >= architecture.vocab)
            {
                let detail = format!("token id {id}; the model has {}", architecture.vocab);
                return Err(fail(detail).next_step("use the tokenizer of this very model"));
            }
            if architecture.mask == Mask::Prefix && chunk.sequence.prefix() > end {
                let prefix = chunk.sequence.prefix();
                return Err(fail(format!("{n} tokens of a prefix of {prefix}"))
                    .next_step("give the prefix in one piece: its tokens see each other"));
            }
            let context = chunk.sequence.max_tokens();
            match chunk.positions {
                None if self.streams > 1 => {
                    let detail = format!("{} position streams are needed", self.streams);
                    return Err(fail(detail).next_step("give positions: see BlankPositions::of"));
                }
                Some(p) if p.len() != self.streams * n => {
                    return Err(fail(format!(
                        "{} positions for {n} tokens and {} streams",
                        p.len(),
                        self.streams
                    ))
                    .next_step("give one position per token and stream"));
                }
                Some(p) if p.iter().any(|&p| p as usize >= context) => {
                    return Err(fail(format!("positions beyond the context of {context}"))
                        .next_step("give smaller positions, or load with a longer context"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn pick(&mut self, chunks: &[Chunk<'_>], rows: Rows<'_>, tokens: usize) -> Result<Picked> {
        let mut n = 0;
        let mut list = |inputs: &mut Self, row: usize| {
            if row >= tokens {
                let detail = format!("logits of token {row} of {tokens}");
                return Err(Error::invalid("run a batch", detail));
            }
            if n < inputs.limits.logits {
                inputs.put(Part::Rows, n, row);
            }
            n += 1;
            Ok(())
        };
        match rows {
            Rows::None => {}
            Rows::All => n = tokens,
            Rows::Given(rows) => rows.iter().try_for_each(|&row| list(self, row))?,
            Rows::Last => {
                let mut end = 0;
                for chunk in chunks {
                    end += chunk.ids.len();
                    list(self, end - 1)?;
                }
            }
        }
        if n > self.limits.logits {
            return Err(Error::invalid(
                "run a batch",
                format!("logits of {n} tokens; at most {}", self.limits.logits),
            )
            .next_step("ask for fewer rows, or load the model with a larger max_logits"));
        }
        let listed = &self.host[self.at(Part::Rows)..][..n];
        let neighbours = |w: &[i32]| w[1] == w[0] + 1;
        Ok(match rows {
            Rows::All | Rows::None => Picked::Range(0..n),
            _ if n > 0 && listed.windows(2).all(neighbours) => {
                let first = listed[0] as usize;
                Picked::Range(first..first + n)
            }
            _ => Picked::Listed(n),
        })
    }
}
