//! Kernels of our own in place of the portable ones, for what they can and where the chip has what they need.

mod attention;
mod matmul;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use backend_simt::SimtDriver;
use backend_simt::kit::{Chip, first};
use backend_simt::library::{Cut, Library};
use hal::DType;
use ops::{Attention, Matmul, Ops};

/// Compute capability from which on matrix units take bf16, and copies to shared memory go on by themselves.
const MATRIX_UNITS: i32 = 80;

/// Whether there are kernels of our own for a chip of this compute capability (90: 9.0).
pub(crate) fn are_for(capability: i32) -> bool {
    capability >= MATRIX_UNITS
}

/// Puts the planners of this crate before those of `ops`, which stay for what these decline, on a chip of this compute
/// capability. Products of many rows go by `library`; on sm_90 prompts attend by `wgmma` unless that is not wanted. For
/// [`crate::open`], and for those who compile the kernels without a chip.
pub fn put_own<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    ops: &mut Ops,
    capability: i32,
    library: Option<Arc<dyn Library<D>>>,
    wgmma: bool,
) {
    put_cut(chip, ops, capability, library, wgmma, Cut::default());
}

/// As [`put_own`], with other slabs.
pub(crate) fn put_cut<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    ops: &mut Ops,
    capability: i32,
    library: Option<Arc<dyn Library<D>>>,
    wgmma: bool,
    cut: Cut,
) {
    if !are_for(capability) {
        return;
    }
    let plan_matmul =
        move |chip: &Arc<Chip<D>>, op: &Matmul| matmul::plan(chip, op, library.as_deref(), cut);
    ops.matmul = first(chip, plan_matmul, ops.matmul.take());
    let wgmma = wgmma && capability == attention::HOPPER;
    let plan_attention =
        move |chip: &Arc<Chip<D>>, op: &Attention| attention::plan(chip, op, wgmma);
    ops.attention = first(chip, plan_attention, ops.attention.take());
    ops.kv_write = first(chip, rows::kv_write, ops.kv_write.take());
    ops.rms_norm = first(chip, rows::rms_norm, ops.rms_norm.take());
    ops.layer_norm = first(chip, rows::layer_norm, ops.layer_norm.take());
    ops.add_rms_norm = first(chip, rows::add_rms_norm, ops.add_rms_norm.take());
    ops.add_layer_norm = first(chip, rows::add_layer_norm, ops.add_layer_norm.take());
    ops.glu = first(chip, rows::glu, ops.glu.take());
    ops.rope = first(chip, rows::rope, ops.rope.take());
    ops.rope_kv_write = first(chip, rows::rope_kv_write, ops.rope_kv_write.take());
}

/// The definition by which kernels know a type at compile time.
fn x_is(dtype: DType) -> (&'static str, String) {
    let name = if dtype == DType::BF16 {
        "X_IS_bf16"
    } else {
        "X_IS_f16"
    };
    (name, "1".into())
}

/// The definition by which a kernel gets the registers that so many groups on a multiprocessor leave it. Without a number the
/// compiler spills some to fit more groups.
fn resident(groups: usize) -> (&'static str, String) {
    ("RESIDENT", groups.to_string())
}
