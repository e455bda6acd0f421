//! A model at work on some sequences at a time, timed as a user waits for it.

use std::time::Instant;

use hal::{Buffer, DType, Error, ErrorKind, Result, View};
use ops::{Argmax, ArgmaxArgs, Context, Plan, philox};

use crate::cache::Sequence;
use crate::model::{Chunk, Model, Rows};

/// A model and the sequences that it computes together.
///
/// A step is a forward pass, the likeliest token of each sequence chosen on the device, and the download of their ids.
#[derive(Debug)]
pub struct Running<'m> {
    model: &'m mut Model,
    argmax: Plan<Argmax>,
    chosen: Buffer,
    workspace: Buffer,
    sequences: Vec<Sequence>,
    /// What each sequence goes on with.
    next: Vec<u32>,
}

/// Times of some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Took {
    /// Until the last ids were here.
    pub seconds: f64,
    /// Of these, until the forward passes were queued.
    pub host_seconds: f64,
}

impl<'m> Running<'m> {
    /// `batch` empty sequences.
    ///
    /// # Errors
    /// `InvalidArgument` for more sequences than the model was loaded for; `Unsupported` when the device cannot choose;
    /// `OutOfMemory`.
    pub fn new(context: &Context, model: &'m mut Model, batch: usize) -> Result<Self> {
        if !(1..=model.max_sequences().min(model.max_logits())).contains(&batch) {
            let detail = format!(
                "{batch} sequences at a time; the model was loaded for {}",
                model.max_sequences().min(model.max_logits())
            );
            return Err(Error::invalid("run a batch", detail)
                .next_step("load it with larger max_sequences and max_logits"));
        }
        let device = context.device();
        let argmax = context.plan(Argmax { dtype: DType::F32 })?;
        let logits = [batch, model.architecture().vocab];
        Ok(Self {
            chosen: device.alloc(4 * batch)?,
            workspace: device.alloc(argmax.workspace_bytes(&[&[batch], &logits]))?,
            argmax,
            sequences: (0..batch).map(|_| model.sequence()).collect(),
            next: vec![0; batch],
            model,
        })
    }

    /// Forgets all tokens but the first `len` of each sequence.
    pub fn rewind(&mut self, len: usize) {
        self.sequences.iter_mut().for_each(|s| s.truncate(len));
    }

    /// Makes each sequence `len` tokens long without computing them: keys and values are random numbers. What a step over them
    /// costs is the same.
    ///
    /// # Errors
    /// `InvalidArgument` beyond the model's context; `OutOfMemory`; what writing reports.
    pub fn fill(&mut self, context: &Context, len: usize) -> Result<()> {
        let mut stream = context.device().stream()?;
        self.model.cache().randomise(&mut *stream)?;
        for sequence in &mut self.sequences {
            sequence.truncate(0);
            sequence.reserve(len)?;
            sequence.advance(len);
        }
        Ok(())
    }

    /// Appends `tokens` random tokens to each sequence, in as few steps as the model allows, and chooses what follows.
    ///
    /// # Errors
    /// As [`Model::forward`]; `Unexpected` when the device chooses an id that does not exist.
    pub fn prefill(&mut self, tokens: usize, seed: u64) -> Result<Took> {
        let (vocab, most) = (
            self.model.architecture().vocab as u32,
            self.model.max_tokens(),
        );
        let ids: Vec<u32> = (0..tokens as u64)
            .map(|i| philox(seed, i)[0] % vocab)
            .collect();
        let start = Instant::now();
        let mut host_seconds = 0.0;
        let mut done = vec![0; self.sequences.len()];
        while done.iter().any(|&n| n < tokens) {
            let (mut room, mut last) = (most, false);
            let mut pieces = Vec::with_capacity(done.len());
            for (i, done) in done.iter_mut().enumerate() {
                let piece = *done..tokens.min(*done + room);
                if !piece.is_empty() {
                    room -= piece.len();
                    *done = piece.end;
                    last |= piece.end == tokens;
                    pieces.push((i, &ids[piece]));
                }
            }
            host_seconds += self.step(&pieces, last)?;
        }
        Ok(Took {
            seconds: start.elapsed().as_secs_f64(),
            host_seconds,
        })
    }

    /// Decodes `tokens` tokens of each sequence.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, tokens: usize) -> Result<Took> {
        let start = Instant::now();
        let mut host_seconds = 0.0;
        for _ in 0..tokens {
            let ids = self.next.clone();
            let pieces: Vec<_> = ids.chunks(1).enumerate().collect();
            host_seconds += self.step(&pieces, true)?;
        }
        Ok(Took {
            seconds: start.elapsed().as_secs_f64(),
            host_seconds,
        })
    }

    /// Appends ids to some sequences; chooses what follows them if that is `wanted`. Gives the seconds that the host queued
    /// the forward pass for.
    fn step(&mut self, pieces: &[(usize, &[u32])], wanted: bool) -> Result<f64> {
        let streams = self.model.architecture().blank.streams();
        // Models with two streams get 0, 1, 2, … and 0 everywhere: any positions cost the same.
        let positions: Vec<Vec<u32>> = match streams {
            1 => Vec::new(),
            _ => (pieces.iter())
                .map(|&(i, ids)| {
                    let start = self.sequences[i].len() as u32;
                    let mut positions: Vec<u32> = (start..start + ids.len() as u32).collect();
                    positions.resize(streams * ids.len(), 0);
                    positions
                })
                .collect(),
        };
        let mut sequences = self.sequences.iter_mut().enumerate();
        let mut chunks: Vec<Chunk<'_>> = Vec::with_capacity(pieces.len());
        for (p, &(i, ids)) in pieces.iter().enumerate() {
            if let Some((_, sequence)) = sequences.find(|(s, _)| *s == i) {
                chunks.push(Chunk {
                    sequence,
                    ids,
                    positions: positions.get(p).map(Vec::as_slice),
                });
            }
        }
        let rows = if wanted { Rows::Last } else { Rows::None };
        let start = Instant::now();
        self.model.forward(&mut chunks, rows)?;
        let host_seconds = start.elapsed().as_secs_f64();
        let (stream, logits) = self.model.output()?;
        if !wanted {
            stream.synchronize()?;
            return Ok(host_seconds);
        }
        let out = View::new(&self.chosen, DType::I32, &[pieces.len()])?;
        let workspace = View::of_bytes(&self.workspace);
        let args = ArgmaxArgs { out, x: logits };
        self.argmax.run(stream, args, &workspace)?;
        let mut ids = vec![0i32; pieces.len()];
        stream.download(bytemuck::cast_slice_mut(&mut ids), &out)?;
        for (&(i, _), id) in pieces.iter().zip(ids) {
            let vocab = self.model.architecture().vocab;
            self.next[i] = u32::try_from(id)
                .ok()
                .filter(|&id| (id as usize) < vocab)
                .ok_or_else(|| {
                    let detail = format!("the device chose id {id} of {vocab}");
                    Error::new(ErrorKind::Unexpected, "run a batch", detail)
                        .next_step("run `glm conform` on this device")
                })?;
        }
        Ok(host_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::model::Options;
    use crate::shapes;
    use hal::WeightFormat;

    const PROMPT: usize = 17;

    fn model(context: &Context, batch: usize, max_tokens: usize) -> Model {
        let (a, dense) = (shapes::architecture("tiny", None).unwrap(), DType::F32);
        let dense = WeightFormat::Dense(dense);
        let checkpoint = Checkpoint::random(&a, dense, dense, 1).unwrap();
        let options = Options {
            context: Some(64),
            max_tokens: Some(max_tokens),
            max_sequences: batch,
            max_logits: batch,
            ..Options::default()
        };
        Model::load(context, &a, &checkpoint, &options, |_, _| {}).unwrap()
    }

    #[test]
    fn pieces_and_batches_choose_the_tokens_of_whole_prompts() {
        let cpu = backend_cpu::open(&backend_cpu::Options::default()).unwrap();
        let context = Context::new(cpu);
        // The prompt and what follows it by plain forward passes, one token at a time.
        let mut plain = model(&context, 1, 64);
        let (mut sequence, mut wanted) = (plain.sequence(), Vec::new());
        let mut ids: Vec<u32> = (0..PROMPT as u64).map(|i| philox(2, i)[0] % 512).collect();
        for _ in 0..5 {
            let chunk = Chunk {
                sequence: &mut sequence,
                ids: &ids,
                positions: None,
            };
            plain.forward(&mut [chunk], Rows::Last).unwrap();
            let logits = plain.read_logits().unwrap();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            wanted.push(best.unwrap() as u32);
            ids = vec![best.unwrap() as u32];
        }
        for (batch, max_tokens) in [(1, 64), (1, 5), (3, 7), (3, 64)] {
            let mut model = model(&context, batch, max_tokens);
            let mut running = Running::new(&context, &mut model, batch).unwrap();
            running.prefill(PROMPT, 2).unwrap();
            assert_eq!(running.next, vec![wanted[0]; batch]);
            running.decode(4).unwrap();
            assert_eq!(
                running.next,
                vec![wanted[4]; batch],
                "{batch} by {max_tokens}"
            );
            // Back, and the same again.
            running.rewind(0);
            let took = running.prefill(PROMPT, 2).unwrap();
            assert_eq!(running.next, vec![wanted[0]; batch]);
            assert!(took.host_seconds <= took.seconds && took.host_seconds > 0.0);
        }
    }

    #[test]
    fn a_filled_cache_is_one_of_so_many_tokens() {
        let cpu = backend_cpu::open(&backend_cpu::Options::default()).unwrap();
        let context = Context::new(cpu);
        let mut model = model(&context, 2, 64);
        let mut running = Running::new(&context, &mut model, 2).unwrap();
        running.prefill(3, 1).unwrap();
        running.fill(&context, 40).unwrap();
        running.decode(4).unwrap();
        assert!(running.sequences.iter().all(|s| s.len() == 44));
        // Another cache, so other tokens than after the same number of computed ones.
        let chosen = running.next.clone();
        running.rewind(0);
        running.prefill(40, 1).unwrap();
        running.decode(4).unwrap();
        assert_ne!(running.next, chosen);
        let e = running.fill(&context, 65).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn more_sequences_than_the_model_was_loaded_for_are_refused() {
        let cpu = backend_cpu::open(&backend_cpu::Options::default()).unwrap();
        let context = Context::new(cpu);
        let mut model = model(&context, 2, 64);
        for batch in [0, 3] {
            let e = Running::new(&context, &mut model, batch).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        }
    }
}
