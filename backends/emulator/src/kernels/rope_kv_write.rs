//! Rotary positions and the write to the cache.

use ops::reference::Tensor;
use ops::{Op, RopeKvWrite};

use super::{Kernel, Math};

impl Kernel for RopeKvWrite {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [qkv, k_pages, v_pages, slots, angles @ ..] = inputs else {
            unreachable!("seven inputs")
        };
        // All heads are turned, and those of values put back.
        let turned = [std::slice::from_ref(qkv), angles].concat();
        let mut out = self
            .rope()
            .compute(math, &shapes[..1], &turned)
            .swap_remove(0);
        let values = self.heads + self.kv_heads;
        let all = values + self.kv_heads;
        for row in (0..out.rows()).filter(|row| row % all >= values) {
            out.row_mut(row).copy_from_slice(qkv.row(row));
        }
        let heads = |from: usize| {
            let rows =
                (0..shapes[0][0]).flat_map(|t| t * all + from..t * all + from + self.kv_heads);
            let data = rows.flat_map(|row| out.row(row).to_vec()).collect();
            Tensor::new(&[shapes[0][0], self.kv_heads, self.head_dim], data)
        };
        let new = [heads(self.heads), heads(values), slots.clone()];
        let written = [&[k_pages.clone(), v_pages.clone()], &new[..]].concat();
        let caches = self.kv_write().reference(&shapes[1..], &written);
        [out].into_iter().chain(caches).collect()
    }
}
