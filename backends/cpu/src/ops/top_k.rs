//! The k largest elements of each row: selection, then a sort of what was selected.

use std::sync::Arc;

use hal::{Result, Stream, View};
use ops::{Launch, TopK};

use super::native::{Planned, with_float};
use super::tensor::{Row, Tensor};
use super::vector::Element;
use crate::device::Cpu;
use crate::memory::address;

pub(super) fn plan(cpu: &Cpu, op: &TopK) -> Planned {
    let launch = |run: Run| -> Arc<dyn Launch> {
        Arc::new(Native {
            cpu: cpu.clone(),
            k: op.k,
            run,
        })
    };
    Ok(with_float!(op.dtype, T => launch(run::<T>)))
}

type Run = fn(&Cpu, usize, &[View<'_>], &View<'_>);

struct Native {
    cpu: Cpu,
    k: usize,
    run: Run,
}

impl Launch for Native {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        // A key per element of one row; 8 more to align them.
        8 + 8 * shapes[2][1] * self.cpu.parts(shapes[2][0])
    }

    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        (self.run)(&self.cpu, self.k, args, workspace);
        Ok(())
    }
}

fn run<T: Element>(cpu: &Cpu, k: usize, args: &[View<'_>], workspace: &View<'_>) {
    // SAFETY: each row is written by the thread that has it.
    let (values, indices) = unsafe { (Tensor::<T>::new(&args[0]), Tensor::<i32>::new(&args[1])) };
    // SAFETY: only read.
    let x = unsafe { Tensor::<T>::new(&args[2]) };
    let keys = Keys::new(workspace, x.dim(1));
    cpu.rows_in_parts(x.dim(0), |part, rows| {
        // SAFETY: each part has one user.
        let keys = unsafe { keys.of(part) };
        for r in rows {
            let row = x.row([r]);
            rank(row, keys, k);
            let (values, indices) = (values.row([r]), indices.row([r]));
            for (j, &key) in keys[..k].iter().enumerate() {
                let i = index(key);
                values.set(j, row.get(i));
                indices.set(j, i as i32);
            }
        }
    });
}

/// A key per column, for each part of the rows.
#[derive(Clone, Copy)]
struct Keys {
    base: *mut u64,
    cols: usize,
}

// SAFETY: `of` demands one user per part.
unsafe impl Sync for Keys {}

impl Keys {
    fn new(workspace: &View<'_>, cols: usize) -> Self {
        let base: *mut u8 = address(workspace);
        Self {
            base: base.wrapping_add(base.align_offset(8)).cast(),
            cols,
        }
    }

    /// # Safety
    /// The workspace has this part, and it has one user.
    #[expect(clippy::mut_from_ref, reason = "parts of a workspace")]
    unsafe fn of(&self, part: usize) -> &mut [u64] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(part * self.cols), self.cols) }
    }
}

/// The key of element `i` with value `x`. Keys ascend as values descend, those of equal values as the indices ascend;
/// NaN comes first.
#[inline(always)]
pub(super) fn key(x: f32, i: usize) -> u64 {
    // −0 and 0 are equal.
    let bits = (x + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    let descending = if x.is_nan() { 0 } else { !ascending };
    u64::from(descending) << 32 | i as u64
}

/// The element that a key is of.
pub(super) fn index(key: u64) -> usize {
    key as u32 as usize
}

/// Makes the first `k` of `keys` those of the largest elements of `x`, in order.
fn rank<T: Element>(x: Row<'_, T>, keys: &mut [u64], k: usize) {
    for (i, (key_, x)) in keys.iter_mut().zip(x.0).enumerate() {
        *key_ = key(x.get().widen(), i);
    }
    if k < keys.len() {
        keys.select_nth_unstable(k);
    }
    keys[..k].sort_unstable();
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check_exact};

    #[test]
    fn agrees_with_the_reference() {
        let special = [
            0.0,
            -0.0,
            f64::NAN,
            3.0,
            f64::INFINITY,
            3.0,
            f64::NEG_INFINITY,
            f64::NAN,
            -1.0,
        ];
        for (rows, cols, k) in [
            (1, 9, 9),
            (3, 9, 4),
            (2, 9, 0),
            (0, 4, 2),
            (5, 1000, 8),
            (4, 300, 300),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let mut x = Arg::random(&[rows, cols], 2.0, cols as u64).padded();
                if cols == special.len() {
                    x.set(&special.repeat(rows));
                }
                let args = [Arg::out(&[rows, k]), Arg::out(&[rows, k]), x];
                check_exact(&TopK { k, dtype }, &args);
            }
        }
    }
}
