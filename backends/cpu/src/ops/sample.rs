//! Draws the next token. Exponentials in f32, their sums in f64.
//!
//! The vocabulary is not sorted: tokens are taken and sorted in bands of falling probability, and most draws end in
//! the first, which holds a few hundred.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use hal::{Result, Stream, View};
use ops::{Launch, Sample, SampleControl};

use super::argmax::argmax;
use super::native::Planned;
use super::tensor::{Row, Tensor, fold};
use super::top_k::{index, key};
use super::vector::{Kernel, Lanes};
use crate::device::Cpu;
use crate::isa::Isa;
use crate::memory::address;

/// Where bands end: distances below the largest logit, over the temperature. e⁻⁵ = 0.7 %.
const BANDS: [f32; 4] = [5.0, 12.0, 30.0, f32::INFINITY];
/// Logits that are looked at together.
const BLOCK: usize = 128;

pub(super) fn plan(cpu: &Cpu, op: &Sample) -> Planned {
    Ok(Some(Arc::new(Native {
        cpu: cpu.clone(),
        vocab: op.vocab,
    })))
}

struct Native {
    cpu: Cpu,
    vocab: usize,
}

/// Per token: a key, the penalised logit, its exponential.
const BYTES: usize = 8 + 4 + 4;

impl Launch for Native {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        // 8 more, to align the keys.
        8 + BYTES * self.vocab * self.cpu.parts(shapes[0][0])
    }

    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let base: *mut u8 = address(workspace);
        let base = Base(base.wrapping_add(base.align_offset(8)));
        // SAFETY: each row of `out` is written by the thread that has it.
        let out = unsafe { Tensor::<i32>::new(&args[0]) };
        // SAFETY: only read.
        let [logits, floats] = [1, 2].map(|i| unsafe { Tensor::<f32>::new(&args[i]) });
        // SAFETY: only read.
        let [ints, history, history_len] =
            [3, 4, 5].map(|i| unsafe { Tensor::<i32>::new(&args[i]) });
        self.cpu.rows_in_parts(out.dim(0), |part, rows| {
            // SAFETY: each part has one user.
            let scratch = unsafe { base.scratch(part, self.vocab) };
            self.cpu.isa.run(Rows {
                rows,
                out,
                logits,
                floats,
                ints,
                history,
                history_len,
                scratch,
                isa: self.cpu.isa,
            });
        });
        Ok(())
    }
}

struct Base(*mut u8);

// SAFETY: `scratch` demands one user per part.
unsafe impl Sync for Base {}

impl Base {
    /// # Safety
    /// The workspace has this part, and it has one user.
    unsafe fn scratch(&self, part: usize, vocab: usize) -> Scratch<'_> {
        let base = self.0.wrapping_add(part * vocab * BYTES);
        let floats: *mut f32 = base.wrapping_add(vocab * 8).cast();
        // SAFETY: the caller's promise.
        unsafe {
            Scratch {
                keys: std::slice::from_raw_parts_mut(base.cast(), vocab),
                logits: Row::of(std::slice::from_raw_parts_mut(floats, vocab)),
                weights: Row::of(std::slice::from_raw_parts_mut(floats.add(vocab), vocab)),
            }
        }
    }
}

struct Scratch<'a> {
    keys: &'a mut [u64],
    logits: Row<'a, f32>,
    /// `exp((logit − largest) / temperature)`
    weights: Row<'a, f32>,
}

struct Rows<'a, 's> {
    rows: Range<usize>,
    out: Tensor<'a, i32>,
    logits: Tensor<'a, f32>,
    floats: Tensor<'a, f32>,
    ints: Tensor<'a, i32>,
    history: Tensor<'a, i32>,
    history_len: Tensor<'a, i32>,
    scratch: Scratch<'s>,
    isa: Isa,
}

impl Kernel for Rows<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for r in self.rows.clone() {
            let (f, i) = (self.floats.row([r]), self.ints.row([r]));
            let control = SampleControl {
                temperature: f.get(0),
                top_p: f.get(1),
                repetition_penalty: f.get(2),
                top_k: i.get(0) as u32,
                seed: u64::from(i.get(1) as u32) | u64::from(i.get(2) as u32) << 32,
                step: i.get(3) as u32,
            };
            self.penalise::<V>(r, control.repetition_penalty);
            let token = match control.temperature {
                0.0 => argmax::<V, f32>(self.scratch.logits),
                _ => self.scratch.draw::<V>(self.isa, &control),
            };
            self.out.flat().set(r, token as i32);
        }
    }
}

impl Rows<'_, '_> {
    /// The logits of row `r`, those of tokens in its history penalised once.
    #[inline(always)]
    fn penalise<V: Lanes>(&self, r: usize, penalty: f32) {
        let (from, to) = (self.logits.row([r]), self.scratch.logits);
        to.copy_from::<V, f32>(from);
        let history = self.history.row([r]);
        let len = (self.history_len.flat().get(r).max(0) as usize).min(history.len());
        for id in history.part(0..len).0.iter().map(Cell::get) {
            // Ids outside the vocabulary mean nothing.
            if let Some(l) = usize::try_from(id).ok().and_then(|id| from.0.get(id)) {
                let l = l.get();
                to.set(id as usize, if l > 0.0 { l / penalty } else { l * penalty });
            }
        }
    }
}

impl Scratch<'_> {
    /// Rules 3 to 5 of [`Sample`].
    #[inline(always)]
    fn draw<V: Lanes>(&mut self, isa: Isa, control: &SampleControl) -> usize {
        let vocab = self.logits.len();
        let kept = match control.top_k as usize {
            0 => vocab,
            k => k.min(vocab),
        };
        let logits = self.logits;
        let max = fold!(V, logits, f32::NEG_INFINITY, max, |x, max| max.max(x)).largest();
        let all = self.weigh::<V>(max, control.temperature);
        if !(all > 0.0 && all.is_finite()) {
            return self.last_of(kept);
        }
        let bands = BANDS.map(|distance| max - distance * control.temperature);
        let mut sorted = Sorted {
            isa,
            keys: self.keys,
            logits: self.logits,
            ready: 0,
            bands: bands.into_iter(),
            above: f32::INFINITY,
        };
        let weights = self.weights;
        let mut weight = |i: usize| {
            sorted.reach(i);
            f64::from(weights.get(index(sorted.keys[i])))
        };
        let total = match kept < vocab {
            true => (0..kept).map(&mut weight).sum(),
            false => all,
        };
        let (mut stay, mut mass) = (kept, total);
        if control.top_p < 1.0 {
            (stay, mass) = (0, 0.0);
            while stay < kept && (stay == 0 || mass < f64::from(control.top_p) * total) {
                mass += weight(stay);
                stay += 1;
            }
        }
        let target = f64::from(control.uniform()) * mass;
        let mut cumulative = 0.0;
        for i in 0..stay {
            cumulative += weight(i);
            if cumulative > target {
                return index(self.keys[i]);
            }
        }
        index(self.keys[stay - 1])
    }

    /// Fills in the weights and returns their sum.
    #[inline(always)]
    fn weigh<V: Lanes>(&self, max: f32, temperature: f32) -> f64 {
        let (max, temperature) = (V::splat(max), V::splat(temperature));
        let mut sum = 0.0;
        for start in (0..self.logits.len()).step_by(BLOCK) {
            let block = start..self.logits.len().min(start + BLOCK);
            let (to, from) = (self.weights.part(block.clone()), self.logits.part(block));
            for i in (0..to.len()).step_by(V::N) {
                to.store(i, ((from.load::<V>(i) - max) / temperature).exp());
            }
            sum += f64::from(fold!(V, to, 0.0, add, |x, sum| sum + x).sum());
        }
        sum
    }

    /// The last of the `kept` largest: what the rules give when no probability is a number, or all are 0.
    fn last_of(&mut self, kept: usize) -> usize {
        for (i, (to, l)) in self.keys.iter_mut().zip(self.logits.0).enumerate() {
            *to = key(l.get(), i);
        }
        index(*self.keys.select_nth_unstable(kept - 1).1)
    }
}

/// Keys of the largest logits, in order, as far as they were asked for.
struct Sorted<'a> {
    isa: Isa,
    keys: &'a mut [u64],
    logits: Row<'a, f32>,
    ready: usize,
    /// Lower ends of the bands that are left.
    bands: std::array::IntoIter<f32, 4>,
    /// Logits from here on are sorted already.
    above: f32,
}

impl Sorted<'_> {
    /// Makes `keys[i]` ready.
    fn reach(&mut self, i: usize) {
        while self.ready <= i {
            let Some(least) = self.bands.next() else {
                return;
            };
            let from = self.ready;
            self.isa.run(Band {
                sorted: self,
                least,
            });
            self.keys[from..self.ready].sort_unstable();
            self.above = least;
        }
    }
}

/// Collects the keys of one band.
struct Band<'s, 'a> {
    sorted: &'s mut Sorted<'a>,
    least: f32,
}

impl Kernel for Band<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { sorted, least } = self;
        let logits = sorted.logits;
        for start in (0..logits.len()).step_by(BLOCK) {
            let block = logits.part(start..logits.len().min(start + BLOCK));
            if fold!(V, block, f32::NEG_INFINITY, max, |x, max| max.max(x)).largest() < least {
                continue;
            }
            for (i, l) in block.0.iter().map(Cell::get).enumerate() {
                if l >= least && l < sorted.above {
                    sorted.keys[sorted.ready] = key(l, start + i);
                    sorted.ready += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Arg, check_exact};
    use crate::testing::Random;

    const CONTROL: SampleControl = SampleControl {
        temperature: 0.8,
        top_p: 0.8,
        repetition_penalty: 1.1,
        top_k: 50,
        seed: 0x1234_5678_9abc_def0,
        step: 0,
    };

    /// Every row its own control, all with the same history of known and unknown ids.
    fn agrees(vocab: usize, spread: f64, controls: &[SampleControl]) {
        let rows = controls.len();
        let floats = controls.iter().flat_map(|c| c.floats().map(f64::from));
        let ints: Vec<i32> = controls.iter().flat_map(SampleControl::ints).collect();
        let last = vocab as i32 - 1;
        let history = [last, 3, last, 0, i32::MAX, 1].repeat(rows);
        let args = [
            Arg::out(&[rows]),
            Arg::random(&[rows, vocab], spread, 5).padded(),
            Arg::new(&[rows, 3], floats.collect()),
            Arg::ints(&[rows, 4], &ints),
            Arg::ints(&[rows, 6], &history).padded(),
            Arg::ints(&[rows], &vec![5; rows]),
        ];
        check_exact(&Sample { vocab }, &args);
    }

    /// The draws' margins to the next token are far wider than what f32 exponentials lose, for these seeds.
    #[test]
    fn agrees_with_the_reference() {
        let mut random = Random::new(7);
        let mut controls = Vec::new();
        for temperature in [0.0, 0.01, 0.8, 3.0] {
            for top_p in [0.0, 0.3, 0.8, 1.0] {
                for top_k in [0, 1, 50, 5000] {
                    let step = controls.len() as u32;
                    let seed = random.bits();
                    controls.push(SampleControl {
                        temperature,
                        top_p,
                        top_k,
                        seed,
                        step,
                        ..CONTROL
                    });
                }
            }
        }
        for vocab in [1, 2, 7, 1000] {
            for spread in [0.0, 1.0, 8.0] {
                agrees(vocab, spread, &controls);
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_alone_and_with_others() {
        agrees(300, 2.0, &[CONTROL]);
        agrees(300, 2.0, &[]);
    }

    #[test]
    fn logits_that_are_no_numbers_do_not_fault() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let args = [
                Arg::out(&[1]),
                Arg::new(&[1, 40], vec![x; 40]),
                Arg::new(&[1, 3], CONTROL.floats().map(f64::from).to_vec()),
                Arg::ints(&[1, 4], &CONTROL.ints()),
                Arg::ints(&[1, 0], &[]),
                Arg::ints(&[1], &[-3]),
            ];
            check_exact(&Sample { vocab: 40 }, &args);
        }
    }
}
