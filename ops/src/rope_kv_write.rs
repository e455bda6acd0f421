//! Rotary positions and the write to the cache in one visit: the heads of queries and keys are turned in place as
//! [`Rope`] says, then the keys, as turned, and the values go to their slots as [`KvWrite`] says.
//!
//! What lies between the projection and attention in every GLM with rotary positions. A key goes to the cache as it
//! was rounded to storage, or before rounding.

use std::sync::Arc;

use hal::{DType, Result, Stream, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_dense_rows, expect_shape, op_args, signature};
use crate::reference::Tensor;
use crate::*;

/// Specification of a rotary embedding with a cache write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeKvWrite {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Rotated elements per stream, see [`Rope`].
    pub rotary_dim: usize,
    /// Position streams, see [`Rope`].
    pub streams: usize,
    /// Pairing.
    pub layout: RopeLayout,
    /// Pages of the cache.
    pub pages: usize,
    /// Slots per page.
    pub page_size: usize,
    /// Element type of `qkv`.
    pub dtype: DType,
    /// Element type of the cache: a float, or i8.
    pub kv: DType,
}

op_args! {
    /// Arguments of [`RopeKvWrite`].
    RopeKvWriteArgs {
        /// `[tokens, heads + 2 · kv_heads, head_dim]`: heads of queries, keys and values, the first two turned in place
        qkv,
        /// `[pages, kv_heads, page_size, row]`, see [`KvWrite::cache`]
        k_pages,
        /// `[pages, kv_heads, page_size, row]`
        v_pages,
        /// i32 `[tokens]`
        slots,
        /// i32 `[streams, tokens]`
        positions,
        /// f32 `[max_positions, rotary_dim / 2]`
        cos,
        /// f32 `[max_positions, rotary_dim / 2]`
        sin,
    }
}

impl RopeKvWrite {
    /// The first of its two parts, on the heads of queries and keys.
    pub fn rope(&self) -> Rope {
        Rope {
            head_dim: self.head_dim,
            rotary_dim: self.rotary_dim,
            streams: self.streams,
            layout: self.layout,
            dtype: self.dtype,
        }
    }

    /// The second of its two parts.
    pub fn kv_write(&self) -> KvWrite {
        KvWrite {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            pages: self.pages,
            page_size: self.page_size,
            dtype: self.dtype,
            kv: self.kv,
        }
    }

    /// Of `qkv`: queries and keys, keys, values.
    pub fn parts<'a>(&self, qkv: &View<'a>) -> Result<[View<'a>; 3]> {
        let (q, k) = (self.heads, self.heads + self.kv_heads);
        Ok([
            qkv.slice(1, 0..k)?,
            qkv.slice(1, q..k)?,
            qkv.slice(1, k..k + self.kv_heads)?,
        ])
    }
}

impl Op for RopeKvWrite {
    const NAME: &'static str = "rope_kv_write";
    type Args<'a> = RopeKvWriteArgs<'a>;

    fn signature(&self) -> Signature {
        signature![
            qkv: InOut, self.dtype; k_pages: InOut, self.kv; v_pages: InOut, self.kv;
            slots: In, DType::I32; positions: In, DType::I32; cos: In, DType::F32; sin: In, DType::F32
        ]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [qkv, k_pages, v_pages, slots, positions, cos, sin] = args else {
            unreachable!("counted by check_args")
        };
        self.kv_write()
            .check_cache(Self::NAME, [k_pages, v_pages, slots])?;
        let tokens = slots.dim(0);
        let heads = [tokens, self.heads + 2 * self.kv_heads, self.head_dim];
        expect_shape(Self::NAME, "qkv", qkv, &heads)?;
        expect_dense_rows(Self::NAME, "qkv", qkv)?;
        self.rope()
            .check_angles(Self::NAME, tokens, [positions, cos, sin])
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [qkv, k_pages, v_pages, slots, positions, cos, sin] = inputs else {
            unreachable!("seven inputs")
        };
        let (tokens, all) = (shapes[0][0], self.heads + 2 * self.kv_heads);
        let heads = |of: &Tensor, from: usize, n: usize| {
            let rows = (0..tokens).flat_map(|t| t * all + from..t * all + from + n);
            let data = rows.flat_map(|row| of.row(row).iter().copied()).collect();
            Tensor::new(&[tokens, n, self.head_dim], data)
        };
        let turned = self.heads + self.kv_heads;
        let angles = [positions, cos, sin].map(Tensor::clone);
        let angles = angles.into_iter();
        let rope_inputs: Vec<Tensor> = [heads(qkv, 0, turned)].into_iter().chain(angles).collect();
        let shape = [tokens, turned, self.head_dim];
        let rotated = self
            .rope()
            .reference(&[&shape], &rope_inputs)
            .swap_remove(0);
        let mut out = qkv.clone();
        for (t, h) in (0..tokens).flat_map(|t| (0..turned).map(move |h| (t, h))) {
            out.row_mut(t * all + h)
                .copy_from_slice(rotated.row(t * turned + h));
        }
        let kv_inputs = [
            k_pages.clone(),
            v_pages.clone(),
            heads(&out, self.heads, self.kv_heads),
            heads(&out, turned, self.kv_heads),
            slots.clone(),
        ];
        let caches = self.kv_write().reference(&shapes[1..], &kv_inputs);
        [out].into_iter().chain(caches).collect()
    }

    fn compose(&self, context: &Context) -> Result<Option<Arc<dyn Launch>>> {
        Ok(Some(Arc::new(Composed {
            op: self.clone(),
            rope: context.plan(self.rope())?,
            kv_write: context.plan(self.kv_write())?,
        })))
    }
}

struct Composed {
    op: RopeKvWrite,
    rope: Plan<Rope>,
    kv_write: Plan<KvWrite>,
}

impl Launch for Composed {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let [qkv, k_pages, v_pages, slots, positions, cos, sin] = *shapes else {
            unreachable!("counted by check_args")
        };
        let op = &self.op;
        let turned = [qkv[0], op.heads + op.kv_heads, op.head_dim];
        let new = [qkv[0], op.kv_heads, op.head_dim];
        let rope = [&turned, &turned, positions, cos, sin];
        let kv_write = [k_pages, v_pages, &new, &new, slots];
        self.rope
            .workspace_bytes(&rope)
            .max(self.kv_write.workspace_bytes(&kv_write))
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [qkv, k_pages, v_pages, slots, positions, cos, sin] = *args else {
            unreachable!("counted by check_args")
        };
        let [qk, k, v] = self.op.parts(&qkv)?;
        let rope = RopeArgs {
            out: qk,
            x: qk,
            positions,
            cos,
            sin,
        };
        self.rope.run(stream, rope, workspace)?;
        let kv_write = KvWriteArgs {
            k_pages,
            v_pages,
            k,
            v,
            slots,
        };
        self.kv_write.run(stream, kv_write, workspace)
    }
}
