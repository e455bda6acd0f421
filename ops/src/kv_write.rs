//! Appends keys and values to a paged cache: `k_pages[slot / page_size, :, slot % page_size, :] = k[t]` with
//! `slot = slots[t]`, and likewise v; rounded to the cache's type, an i8 cache's row as a whole ([`crate::kv_cache`]).
//!
//! A slot outside the cache (−1, say) skips the token. Two tokens must not name one slot.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::kv_cache::{encode, row_elements};
use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, op_args, signature,
};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of a cache write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvWrite {
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Slots per page.
    pub page_size: usize,
    /// Element type of `k` and `v`.
    pub dtype: DType,
    /// Element type of the cache: a float, or i8.
    pub kv: DType,
}

op_args! {
    /// Arguments of [`KvWrite`].
    KvWriteArgs {
        /// `[pages, kv_heads, page_size, row]`, see [`KvWrite::cache`]
        k_pages,
        /// `[pages, kv_heads, page_size, row]`
        v_pages,
        /// `[tokens, kv_heads, head_dim]`
        k,
        /// `[tokens, kv_heads, head_dim]`
        v,
        /// i32 `[tokens]`
        slots,
    }
}

impl KvWrite {
    /// Shape of the keys or values: a row has `head_dim` elements and, if they are i8, their scale.
    pub fn cache(&self) -> [usize; 4] {
        let row = row_elements(self.kv, self.head_dim);
        [self.pages, self.kv_heads, self.page_size, row]
    }

    /// The rules on pages and slots, for the operation `name`.
    pub(crate) fn check_cache(
        &self,
        name: &str,
        [k_pages, v_pages, slots]: [&View<'_>; 3],
    ) -> Result<()> {
        let cache = self.cache();
        for (pages_name, pages) in [("k_pages", k_pages), ("v_pages", v_pages)] {
            expect_shape(name, pages_name, pages, &cache)?;
            expect_contiguous(name, pages_name, pages)?;
        }
        expect_rank(name, "slots", slots, 1)?;
        expect_contiguous(name, "slots", slots)
    }
}

impl Op for KvWrite {
    const NAME: &'static str = "kv_write";
    type Args<'a> = KvWriteArgs<'a>;

    fn signature(&self) -> Signature {
        signature![
            k_pages: InOut, self.kv; v_pages: InOut, self.kv;
            k: In, self.dtype; v: In, self.dtype; slots: In, DType::I32
        ]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [k_pages, v_pages, k, v, slots] = args else {
            unreachable!("counted by check_args")
        };
        self.check_cache(Self::NAME, [k_pages, v_pages, slots])?;
        for (name, view) in [("k", k), ("v", v)] {
            expect_shape(
                Self::NAME,
                name,
                view,
                &[slots.dim(0), self.kv_heads, self.head_dim],
            )?;
            expect_dense_rows(Self::NAME, name, view)?;
        }
        Ok(())
    }

    fn reference(&self, _shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [k_pages, v_pages, k, v, slots] = inputs else {
            unreachable!("five inputs")
        };
        let mut caches = [k_pages.clone(), v_pages.clone()];
        for (cache, x) in caches.iter_mut().zip([k, v]) {
            let x = encode(self.kv, x);
            for (t, &slot) in slots.data.iter().enumerate() {
                if slot < 0.0 || slot >= (self.pages * self.page_size) as f64 {
                    continue;
                }
                let (page, at) = (
                    slot as usize / self.page_size,
                    slot as usize % self.page_size,
                );
                for h in 0..self.kv_heads {
                    cache
                        .row_mut((page * self.kv_heads + h) * self.page_size + at)
                        .copy_from_slice(x.row(t * self.kv_heads + h));
                }
            }
        }
        caches.into()
    }
}
