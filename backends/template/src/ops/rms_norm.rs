//! RMS normalisation, the model for every other operation: a planner that takes or declines a specification, and a launch.

use std::sync::Arc;

use hal::{DType, Result, Stream, View};
use half::{bf16, f16};
use ops::{Launch, RmsNorm, SafeLaunch};

use crate::device::{access, memory_of};

/// A kernel for `op`; `None` for a type without one.
pub(crate) fn plan(op: &RmsNorm) -> Result<Option<Arc<dyn Launch>>> {
    // REPLACE: compile or look up the kernel here, once; a launch must not.
    match op.dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(Some(Arc::new(Planned(op.clone())))),
        _ => Ok(None),
    }
}

struct Planned(RmsNorm);

// REPLACE: implement `Launch` instead when the kernel needs a workspace or an unsafe call.
impl SafeLaunch for Planned {
    fn run(&self, _stream: &mut dyn Stream, args: &[View<'_>]) -> Result<()> {
        // REPLACE: queue your kernel on your stream (`stream.downcast::<…>()`), with these sizes, strides and offsets.
        let [out, x, weight] = args else {
            unreachable!("counted by ops::check_args")
        };
        for r in 0..x.dim(0) {
            let row = read(x, r * x.strides()[0], self.0.dim)?;
            let weight = read(weight, 0, self.0.dim)?;
            let squares: f32 = row.iter().map(|x| x * x).sum();
            let scale = 1.0 / (squares / self.0.dim as f32 + self.0.eps).sqrt();
            let values = row.iter().zip(&weight).map(|(x, w)| x * scale * w);
            write(out, r * out.strides()[0], values)?;
        }
        Ok(())
    }
}

/// `len` elements from element `at` of a view on. A placeholder: real kernels read on the chip.
fn read(view: &View<'_>, at: usize, len: usize) -> Result<Vec<f32>> {
    let (size, memory) = (view.dtype().bytes(), memory_of("read", view)?);
    let start = view.offset_bytes() + at * size;
    let bytes = access(memory);
    let elements = bytes[start..start + len * size].chunks_exact(size);
    Ok(elements
        .map(|b| match view.dtype() {
            DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            DType::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        })
        .collect())
}

/// Writes elements from element `at` of a view on.
fn write(view: &View<'_>, at: usize, values: impl Iterator<Item = f32>) -> Result<()> {
    let (size, memory) = (view.dtype().bytes(), memory_of("write", view)?);
    let mut bytes = access(memory);
    for (i, x) in values.enumerate() {
        let start = view.offset_bytes() + (at + i) * size;
        let to = &mut bytes[start..start + size];
        match view.dtype() {
            DType::F16 => to.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            DType::BF16 => to.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
            _ => to.copy_from_slice(&x.to_le_bytes()),
        }
    }
    Ok(())
}
