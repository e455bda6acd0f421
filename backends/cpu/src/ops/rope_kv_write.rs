//! Rotary positions and the write to the cache, a token at a time: its keys are written while they are near.

use ops::RopeKvWrite;

use super::kv_cache::with_cache;
use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::{kv_write, rope};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &RopeKvWrite) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    let (rope, kv_write) = (op.rope(), op.kv_write());
    Ok(
        with_float!(op.dtype, T => with_cache!(op.kv, Kv => native(move |args| {
            let parts = op.parts(&args[0]).expect("checked by the operation");
            // SAFETY: each token is written by the thread that has it.
            let [qk, k, v] = parts.each_ref().map(|part| unsafe { Tensor::<T>::new(part) });
            // SAFETY: each token has its slot, as the operation demands, and each token its thread.
            let pages = [1, 2].map(|i| unsafe { Tensor::<Kv>::new(&args[i]) });
            // SAFETY: only read.
            let [slots, positions] = [3, 4].map(|i| unsafe { Tensor::<i32>::new(&args[i]) });
            // SAFETY: as above.
            let [cos, sin] = [5, 6].map(|i| unsafe { Tensor::<f32>::new(&args[i]) });
            cpu.rows(qk.dim(0), args[0].dim(1) * op.head_dim, |tokens| {
                let (out, x) = (qk, qk);
                let turn = rope::Tokens { tokens: tokens.clone(), out, x, positions, cos, sin, op: &rope };
                cpu.isa.run(turn);
                let new = [k, v];
                cpu.isa.run(kv_write::Tokens { tokens, pages, new, slots, op: &kv_write });
            });
        })))
        .flatten(),
    )
}
