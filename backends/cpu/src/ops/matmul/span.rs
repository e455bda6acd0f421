//! What of a panel is added up at a time.

use std::ops::Range;

use super::kernel::Call;
use super::tile::Span;
use crate::simd::{Arith, Format};

/// Steps of weights that are decoded at once, to be used by many tiles: 16 KiB, half of a first-level cache.
pub(super) const BLOCK_STEPS: usize = 64;

/// Steps of the shortest run: a group of 32 columns, four at a time.
const MIN_RUN_STEPS: usize = 8;

/// The most spans of one block.
pub(super) const MAX_SPANS: usize = BLOCK_STEPS / MIN_RUN_STEPS;

/// Cuts a panel into stretches, what is added up before it meets other sums: nothing longer than a block, a run, or a part of x.
/// Those that follow each other are one span.
///
/// Stretches are the same for any number of rows, so that a row's results do not depend on its neighbours.
pub(super) struct Spans {
    /// How many bytes ahead of its use a stream is asked for.
    ahead: usize,
    /// Where the run starts, and its bytes.
    run: *const u8,
    run_bytes: usize,
    panel_bytes: usize,
    /// Where its scales are, from its start, if it has any.
    scales: Option<usize>,
    unit_steps: usize,
    unit_bytes: usize,
    steps: usize,
    /// Spans end where a multiple of so many steps does.
    block_steps: usize,
    run_steps: usize,
    part_steps: usize,
    block_parts: usize,
    /// The next step: of the panel, of its run, of its part.
    at: [usize; 3],
}

impl Spans {
    /// Of a panel of format `F`, whose spans may be longer than a block if they are `long`.
    #[inline(always)]
    pub(super) fn new<A: Arith, F: Format<A>>(call: &Call<'_>, panel: usize, long: bool) -> Self {
        let layout = call.layout;
        // Stretches that end where blocks do follow each other in one span.
        let (part_steps, run_steps) = (layout.part_steps.min(BLOCK_STEPS), layout.run_steps);
        let long = long
            && BLOCK_STEPS.is_multiple_of(part_steps)
            && (run_steps == layout.steps || run_steps.is_multiple_of(part_steps));
        let (block_steps, part_steps) = match long {
            true => (layout.steps, part_steps),
            false => (BLOCK_STEPS, layout.part_steps),
        };
        Self {
            ahead: call.isa.stream_ahead(),
            run: call.weight.wrapping_add(panel * layout.panel_bytes()),
            run_bytes: layout.run_bytes(),
            panel_bytes: layout.panel_bytes(),
            scales: layout.has_group_scales().then(|| layout.run_data_bytes()),
            unit_steps: F::STEPS,
            unit_bytes: F::BYTES * (layout.panel / A::LANES),
            steps: layout.steps,
            block_steps,
            run_steps,
            part_steps,
            block_parts: layout.block_parts,
            at: [0; 3],
        }
    }

    /// Bytes of the elements of `steps` steps.
    #[inline(always)]
    fn bytes(&self, steps: usize) -> usize {
        steps / self.unit_steps * self.unit_bytes
    }

    /// The next one that starts before step `end`, with its first step.
    #[inline(always)]
    pub(super) fn next(&mut self, end: usize) -> Option<(usize, Span)> {
        let [step, in_run, in_part] = self.at;
        if step >= end.min(self.steps) {
            return None;
        }
        let in_block = (self.block_steps - step % self.block_steps).min(self.steps - step);
        let whole = self.part_steps == self.run_steps && in_run == 0;
        let runs = if whole { in_block / self.run_steps } else { 0 };
        // Whole runs with their scales; or of one run whole parts, or what is left of a part or of the block.
        let of_run = in_block.min(self.run_steps - in_run);
        let parts = if in_part == 0 {
            of_run / self.part_steps
        } else {
            0
        };
        let (stretches, steps) = match (runs, parts) {
            (0, 0) => (1, of_run.min(self.part_steps - in_part)),
            (0, parts) => (parts, self.part_steps),
            (runs, _) => (runs, self.run_steps),
        };
        let run_step = if runs > 0 { self.run_bytes } else { 0 };
        let weight = self.run.wrapping_add(self.bytes(in_run));
        let span = Span {
            stretches,
            weight,
            panel_step: self.panel_bytes,
            weight_step: run_step.max(self.bytes(steps)),
            units: steps / self.unit_steps,
            block: self.block_parts,
            ask: weight.wrapping_add(self.ahead),
            scales: match self.scales {
                Some(at) => self.run.wrapping_add(at).cast(),
                None => std::ptr::null(),
            },
            scales_step: run_step,
        };
        let taken = stretches * steps;
        if runs > 0 || in_run + taken == self.run_steps {
            self.run = self.run.wrapping_add(runs.max(1) * self.run_bytes);
            self.at = [step + taken, 0, 0];
        } else {
            let in_part = (in_part + taken) % self.part_steps;
            self.at = [step + taken, in_run + taken, in_part];
        }
        Some((step, span))
    }

    /// About where the block lies that starts at the next step.
    #[inline(always)]
    pub(super) fn block(&self) -> Range<*const u8> {
        let start = self.run.wrapping_add(self.bytes(self.at[1]));
        start..start.wrapping_add(BLOCK_STEPS * self.run_bytes / self.run_steps)
    }
}

/// The span as operands: where it lies, or decoded to `to`.
///
/// # Safety
/// The CPU has `A`; the span is one of format `F`; `to` has room for its operands.
#[inline(always)]
pub(super) unsafe fn decode<A: Arith, F: Format<A>, const NV: usize>(
    span: Span,
    to: *mut u8,
) -> Span {
    if F::NATIVE {
        return span;
    }
    let mut at = to;
    for stretch in 0..span.stretches {
        let mut from = span.weight.wrapping_add(stretch * span.weight_step);
        for _ in 0..span.units {
            for v in 0..NV {
                // SAFETY: inside the stretch and, operand by operand, inside `to`.
                unsafe {
                    let mut raw = F::load(from);
                    for s in 0..F::STEPS {
                        let operand = at.add((s * NV + v) * A::OPERAND_BYTES);
                        A::store_operand(operand, F::operand(raw));
                        raw = F::next(raw);
                    }
                    from = from.add(F::BYTES);
                }
            }
            at = at.wrapping_add(F::STEPS * NV * A::OPERAND_BYTES);
        }
    }
    let units = span.units * F::STEPS;
    Span {
        weight: to,
        weight_step: units * NV * A::OPERAND_BYTES,
        units,
        ask: to,
        ..span
    }
}
