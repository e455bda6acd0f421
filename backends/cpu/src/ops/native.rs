//! From a closure to a planned operation.

use std::ops::Range;
use std::sync::Arc;

use hal::{Result, Stream, View};
use ops::{Launch, Planner};

use crate::device::Cpu;

/// Work on fewer elements than this stays on the calling thread: waking the others takes as long.
const INLINE_ELEMENTS: usize = 1 << 14;

impl Cpu {
    /// Splits `rows` rows, each the work of `cols` elements, among the threads.
    pub(crate) fn rows(&self, rows: usize, cols: usize, f: impl Fn(Range<usize>) + Sync) {
        self.pool.split(rows, 1, INLINE_ELEMENTS / cols.max(1), f);
    }

    /// Splits rows that are much work each; `f(part, rows)` may use the part of the workspace with that number, out of
    /// [`Cpu::parts`].
    pub(crate) fn rows_in_parts(&self, rows: usize, f: impl Fn(usize, Range<usize>) + Sync) {
        match rows {
            0 => {}
            1 => f(0, 0..1),
            _ => self.pool.run(|thread, threads| {
                let at = |i: usize| rows * i / threads;
                f(thread, at(thread)..at(thread + 1));
            }),
        }
    }

    /// Parts of the workspace that [`Cpu::rows_in_parts`] uses.
    pub(crate) fn parts(&self, rows: usize) -> usize {
        if rows > 1 { self.pool.threads() } else { rows }
    }
}

/// What a kernel file's `plan` gives.
pub(crate) type Planned = Result<Option<Arc<dyn Launch>>>;

/// The table's entry for an operation that `plan` plans.
pub(crate) fn planner<O: 'static>(
    cpu: &Cpu,
    plan: fn(&Cpu, &O) -> Planned,
) -> Option<Arc<dyn Planner<O>>> {
    let cpu = cpu.clone();
    Some(Arc::new(move |op: &O| plan(&cpu, op)))
}

/// A launch without workspace.
struct Native<F>(F);

impl<F: Fn(&[View<'_>]) + Send + Sync> Launch for Native<F> {
    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        _workspace: &View<'_>,
    ) -> Result<()> {
        (self.0)(args);
        Ok(())
    }
}

/// A launch that needs no workspace and cannot fail.
pub(crate) fn native(f: impl Fn(&[View<'_>]) + Send + Sync + 'static) -> Arc<dyn Launch> {
    Arc::new(Native(f))
}

/// `with_float!(dtype, T => expression)`: `Some` of the expression with `T` the Rust type, `None` for integers.
macro_rules! with_float {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            hal::DType::F32 => {
                type $t = f32;
                Some($body)
            }
            hal::DType::F16 => {
                type $t = half::f16;
                Some($body)
            }
            hal::DType::BF16 => {
                type $t = half::bf16;
                Some($body)
            }
            _ => None,
        }
    };
}
pub(crate) use with_float;
