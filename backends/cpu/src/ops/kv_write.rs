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

struct Tokens<'a, 'op, T, Kv> {
    tokens: Range<usize>,
    pages: [Tensor<'a, Kv>; 2],
    new: [Tensor<'a, T>; 2],
    slots: Tensor<'a, i32>,
    op: &'op KvWrite,
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
                    out.fill_with::<V>(|i| x.load(i));
                }
            }
        }
    }
}
