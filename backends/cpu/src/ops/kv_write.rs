//! Appends keys and values to the cache, a token at a time.

use std::ops::Range;

use ops::KvWrite;

use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &KvWrite) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(
        with_float!(op.dtype, T => with_float!(op.kv, Kv => native(move |args| {
            // SAFETY: each token has its slot, as the operation demands, and each token its thread.
            let pages = [0, 1].map(|i| unsafe { Tensor::<Kv>::new(&args[i]) });
            // SAFETY: only read.
            let new = [2, 3].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
            // SAFETY: as above.
            let slots = unsafe { Tensor::<i32>::new(&args[4]) };
            cpu.rows(slots.dim(0), 2 * op.kv_heads * op.head_dim, |tokens| {
                cpu.isa.run(Tokens { tokens, pages, new, slots, op: &op });
            });
        })))
        .flatten(),
    )
}

pub(super) struct Tokens<'a, 'op, T, Kv> {
    pub tokens: Range<usize>,
    pub pages: [Tensor<'a, Kv>; 2],
    pub new: [Tensor<'a, T>; 2],
    pub slots: Tensor<'a, i32>,
    pub op: &'op KvWrite,
}

impl<T: Element, Kv: Element> Kernel for Tokens<'_, '_, T, Kv> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let page_size = self.op.page_size;
        for t in self.tokens {
            // A slot outside the cache skips the token.
            let Ok(slot) = usize::try_from(self.slots.flat().get(t)) else {
                continue;
            };
            if slot >= self.op.pages * page_size {
                continue;
            }
            for (pages, new) in self.pages.iter().zip(&self.new) {
                for h in 0..self.op.kv_heads {
                    let x = new.row([t, h]);
                    let out = pages.row([slot / page_size, h, slot % page_size]);
                    out.copy_from::<V, T>(x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check_exact};

    #[test]
    fn writes_its_slots_and_nothing_else() {
        for (dtype, kv) in [
            (DType::F32, DType::F32),
            (DType::F32, DType::F16),
            (DType::F16, DType::F16),
            (DType::BF16, DType::F16),
            (DType::BF16, DType::BF16),
        ] {
            for (kv_heads, head_dim, page_size) in [(1, 1, 1), (2, 33, 5), (3, 64, 4), (2, 600, 9)]
            {
                let op = KvWrite {
                    kv_heads,
                    head_dim,
                    pages: 4,
                    page_size,
                    dtype,
                    kv,
                };
                let slots = [3, -1, 0, 4 * page_size as i32, i32::MAX, i32::MIN, 1];
                let cache = [4, kv_heads, page_size, head_dim];
                let new = [slots.len(), kv_heads, head_dim];
                let args = [
                    Arg::random(&cache, 1.0, 1),
                    Arg::random(&cache, 1.0, 2),
                    Arg::random(&new, 1.0, 3).padded(),
                    Arg::random(&new, 1.0, 4).padded(),
                    Arg::ints(&[slots.len()], &slots),
                ];
                check_exact(&op, &args);
            }
        }
    }
}
