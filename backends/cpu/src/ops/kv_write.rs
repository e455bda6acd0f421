//! Appends keys and values to the cache, a token at a time.

use std::ops::Range;

use ops::KvWrite;

use super::kv_cache::{Cached, with_cache};
use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &KvWrite) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(
        with_float!(op.dtype, T => with_cache!(op.kv, Kv => native(move |args| {
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

impl<T: Element, Kv: Cached> Kernel for Tokens<'_, '_, T, Kv> {
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
                    Kv::write::<V, T>(out, x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use ops::kv_cache::{decode, encode};
    use ops::reference::Tensor;

    use super::*;
    use crate::ops::testing::{Arg, check_exact, inputs, output};
    use crate::testing::{Random, contexts};

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

    /// Every written row is within half a step of its key; a row that is not finite is NaN; others keep their bytes.
    #[test]
    fn rows_of_int8_stand_for_their_keys() {
        for (dtype, head_dim) in [
            (DType::F32, 1),
            (DType::BF16, 33),
            (DType::F16, 64),
            (DType::F32, 600),
        ] {
            let op = KvWrite {
                kv_heads: 2,
                head_dim,
                pages: 2,
                page_size: 4,
                dtype,
                kv: DType::I8,
            };
            let slots = [3, -1, 0, 6, 1, 7];
            let mut random = Random::new(1);
            let mut normal =
                |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(random.normal())).collect() };
            let cache = Tensor::new(&[2, 2, 4, head_dim], normal(16 * head_dim));
            let cache = encode(DType::I8, &cache);
            let (new, token) = ([slots.len(), 2, head_dim], 2 * head_dim);
            let mut k = normal(slots.len() * token);
            // Of slots 0, 6, 1 and 7: large, tiny, infinite, NaN.
            for (t, factor) in [(2, 1e4), (3, 1e-40), (4, f64::INFINITY), (5, f64::NAN)] {
                k[t * token..][..token]
                    .iter_mut()
                    .for_each(|x| *x *= factor);
            }
            let args = [
                Arg::new(&cache.shape, cache.data.clone()),
                Arg::new(&cache.shape, cache.data.clone()),
                Arg::new(&new, k).padded(),
                Arg::random(&new, 1.0, 4).padded(),
                Arg::ints(&[slots.len()], &slots),
            ];
            let given = inputs(&op, &args);
            for context in contexts() {
                let bytes = output(&op, &args, &context);
                let got = bytes
                    .into_iter()
                    .map(|byte| f64::from(byte as i8))
                    .collect();
                let got = Tensor::new(&cache.shape, got);
                let (rows, before) = (decode(DType::I8, &got), decode(DType::I8, &cache));
                for r in 0..got.rows() {
                    let (page, h, at) = (r / 8, r / 4 % 2, r % 4);
                    let slot = (page * 4 + at) as i32;
                    let Some(t) = slots.iter().position(|s| *s == slot) else {
                        assert_eq!(got.row(r), cache.row(r));
                        assert_eq!(rows.row(r), before.row(r));
                        continue;
                    };
                    let x = given[2].row(t * 2 + h);
                    let most = x.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                    for (x, y) in x.iter().zip(rows.row(r)) {
                        match slot {
                            1 | 7 => assert!(y.is_nan(), "{op:?}: {y} for {x}"),
                            _ if most < 1e-35 => assert!(y.abs() <= most),
                            _ => assert!((x - y).abs() <= 0.5001 * most / 127.0),
                        }
                    }
                }
            }
        }
    }
}
