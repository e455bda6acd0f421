//! Changes that any operation may suffer.

use std::sync::atomic::{AtomicUsize, Ordering};

use conformance::Conformance;
use conformance::number::round;
use hal::{DType, View};
use ops::Role;

use super::Change;

/// Those that make sense for every operation.
pub(super) fn everywhere<O: Conformance>() -> Vec<Change<O>> {
    vec![
        Change::run("last-element-unwritten", |at| {
            let before = at.read(0)?;
            at.launch()?;
            at.edit(0, |out| {
                if let (Some(last), Some(old)) = (out.last_mut(), before.last()) {
                    *last = *old;
                }
            })
        }),
        Change::run("last-element-zero", |at| {
            at.launch()?;
            at.edit(0, |out| {
                if let Some(last) = out.last_mut() {
                    *last = if *last == 0.0 { 1.0 } else { 0.0 };
                }
            })
        }),
        Change::run("tail-beyond-16-unwritten", |at| {
            let before = at.read(0)?;
            at.launch()?;
            at.edit(0, |out| {
                let whole = out.len() / 16 * 16;
                out[whole..].copy_from_slice(&before[whole..]);
            })
        }),
        Change::run("output-overrun", |at| {
            at.launch()?;
            let end = at.args[0].range_bytes().end;
            // Where the buffer ends too, nothing is to be seen.
            match View::at(at.args[0].buffer(), end, DType::U8, &[1]) {
                Ok(next) => at.stream.upload(&next, &[0]),
                Err(_) => Ok(()),
            }
        }),
        Change::run("output-underrun", |at| {
            at.launch()?;
            let Some(before) = at.args[0].offset_bytes().checked_sub(1) else {
                return Ok(());
            };
            let before = View::at(at.args[0].buffer(), before, DType::U8, &[1])?;
            at.stream.upload(&before, &[0])
        }),
        Change::run("workspace-overrun", |at| {
            at.launch()?;
            let end = at.workspace.range_bytes().end;
            match View::at(at.workspace.buffer(), end, DType::U8, &[1]) {
                Ok(next) => at.stream.upload(&next, &[1]),
                Err(_) => Ok(()),
            }
        }),
        Change {
            workspace_bytes: |bytes| bytes + 4,
            ..Change::run("workspace-assumed-zero", |at| {
                // A partial sum is added to what the workspace held before.
                let last = at.workspace.bytes() - 4;
                let stale = at.workspace.slice(0, last..last + 4)?;
                let mut bytes = [0; 4];
                at.stream.download(&mut bytes, &stale)?;
                at.launch()?;
                at.edit(0, |out| {
                    if let Some(x) = out.first_mut() {
                        *x += f64::from(i32::from_le_bytes(bytes));
                    }
                })
            })
        },
        Change::run("input-changed", |at| {
            at.launch()?;
            let roles = at.op().signature();
            let input = roles.iter().position(|arg| arg.role == Role::In);
            match input {
                Some(i) if !at.args[i].same(&at.args[0]) => at.edit(i, |x| {
                    if let Some(x) = x.first_mut() {
                        *x = if *x == 0.0 { 1.0 } else { 0.0 };
                    }
                }),
                _ => Ok(()),
            }
        }),
        Change::run("second-run-differs", |at| {
            static RUNS: AtomicUsize = AtomicUsize::new(0);
            at.launch()?;
            let odd = RUNS.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            let dtype = at.args[0].dtype();
            at.edit(0, |out| {
                if let Some(x) = out.first_mut().filter(|_| odd) {
                    *x = match dtype.is_float() {
                        true => round(dtype, *x * (1.0 + 2.0 * dtype.unit_roundoff())),
                        false => *x + 1.0,
                    };
                }
            })
        }),
    ]
}

/// Of operations that cannot be composed: where they can, a planner may decline what it likes.
pub(super) fn declines<O: Conformance>() -> Vec<Change<O>> {
    vec![Change {
        declines: |op| format!("{op:?}").bytes().map(u32::from).sum::<u32>() % 5 == 0,
        ..Change::none("claims-what-it-declines")
    }]
}

/// Those of operations with a float result that is more than a copy.
pub(super) fn computed<O: Conformance>() -> Vec<Change<O>> {
    vec![
        Change::run("result-through-f16", |at| {
            at.launch()?;
            at.edit(0, |out| {
                out.iter_mut().for_each(|x| *x = round(DType::F16, *x))
            })
        }),
        Change::run("result-through-bf16", |at| {
            at.launch()?;
            at.edit(0, |out| {
                out.iter_mut().for_each(|x| *x = round(DType::BF16, *x))
            })
        }),
        Change::run("result-truncated", |at| {
            // Stored by dropping bits: half a unit further from zero at most becomes a whole one below.
            let u = at.args[0].dtype().unit_roundoff();
            at.launch()?;
            at.edit(0, |out| out.iter_mut().for_each(|x| *x *= 1.0 - 2.0 * u))
        }),
        Change::run("two-rows-swapped", |at| {
            let cols = at.args[0].shape().last().copied().unwrap_or(1);
            at.launch()?;
            at.edit(0, |out| {
                if out.len() >= 2 * cols {
                    out[..2 * cols].rotate_left(cols);
                }
            })
        }),
    ]
}

/// Of operations whose output may have gaps.
pub(super) fn output_strides<O: Conformance>() -> Vec<Change<O>> {
    vec![Change::run("output-strides-ignored", |at| {
        at.launch()?;
        let view = at.args[0];
        if view.is_contiguous() {
            return Ok(());
        }
        let values = at.read(0)?;
        let dense = View::at(
            view.buffer(),
            view.offset_bytes(),
            view.dtype(),
            view.shape(),
        )?;
        super::write(at.stream, &dense, &values)
    })]
}

/// Of operations whose argument `I` may have gaps or start anywhere.
pub(super) fn input_layout<const I: usize, O: Conformance>() -> Vec<Change<O>> {
    vec![
        Change::run("input-strides-ignored", |at| {
            let view = at.args[I];
            if view.is_contiguous() {
                return at.launch();
            }
            // Gaps may reach past a repeated view's end: read what there is.
            let whole = View::of_bytes(view.buffer());
            let mut bytes = vec![0; whole.bytes()];
            at.stream.download(&mut bytes, &whole)?;
            bytes.resize(view.offset_bytes() + view.bytes() + bytes.len(), 0);
            let dense: Vec<f64> = bytes[view.offset_bytes()..]
                .chunks_exact(view.dtype().bytes())
                .map(|element| conformance::number::decode(view.dtype(), element))
                .collect();
            at.launch_with(I, |x| x.copy_from_slice(&dense[..x.len()]))
        }),
        Change::run("input-offset-ignored", |at| {
            // Loads that need an aligned address take the one below.
            let (view, size) = (at.args[I], at.args[I].dtype().bytes());
            let beside = view.offset_bytes() % 64 / size;
            if beside == 0 || view.is_empty() {
                return at.launch();
            }
            let below = View::strided(
                view.buffer(),
                view.offset_bytes() - beside * size,
                view.dtype(),
                view.shape(),
                view.strides(),
            )?;
            let values = super::read(at.stream, &below)?;
            at.launch_with(I, |x| x.copy_from_slice(&values))
        }),
    ]
}

/// Of operations with large outputs: a 32-bit index that wraps, in miniature. 2³¹ elements are more than a test has.
pub(super) fn index_wraps<O: Conformance>() -> Vec<Change<O>> {
    vec![Change::run("index-wraps-at-2^14", |at| {
        let before = at.read(0)?;
        at.launch()?;
        at.edit(0, |out| {
            for i in 1 << 14..out.len() {
                out[i & 0x3fff] = out[i];
                out[i] = before[i];
            }
        })
    })]
}

/// Of operations that must keep NaN.
pub(super) fn nan<O: Conformance>() -> Vec<Change<O>> {
    vec![Change::run("nan-swallowed", |at| {
        at.launch()?;
        at.edit(0, |out| {
            out.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0)
        })
    })]
}

/// `by` in place of `old`; everything else stays.
pub(super) fn replaced<T: PartialEq>(x: T, old: T, by: T) -> T {
    if x == old { by } else { x }
}
