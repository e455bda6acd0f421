//! Attention over a paged KV cache: `out[t, h, :] = Σ_j softmax_j(scale · q[t, h]·k[j, g]) · v[j, g, :]` over the
//! visible slots j of the token's sequence, with key-value head `g = h / (heads / kv_heads)` (GQA; MQA and MHA are
//! its ends).
//!
//! A row of an i8 cache ends with its scale ([`crate::kv_cache`]); there is no composed form for such a cache.
//!
//! Scores and softmax in f32. Prefill, decode and mixed batches are one operation: sequences lie one after the other
//! in the token dimension, `q_start` marks where. Slot j of sequence s lies in page `block_table[s, j / page_size]`
//! at row `j % page_size`. Slots at or beyond `kv_len[s]` are never visible. Tokens of no sequence become zeros.
//!
//! Composed form: gather the pages, `batched_matmul`, `softmax`, `batched_matmul`. It multiplies hidden slots by
//! zero, so every slot of the listed pages must hold finite values: caches are made zeroed.
//!
//! Source of the paged layout: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
//! PagedAttention", SOSP 2023.

use std::sync::Arc;

use hal::{DType, Result, Stream, View, WeightFormat};
use serde::{Deserialize, Serialize};

use crate::kv_cache::{decode, row_elements};
use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, invalid, op_args, signature,
};
use crate::reference::{Tensor, dot, softmax, sum};
use crate::workspace::{Carver, piece_bytes};
use crate::*;

/// Which slots of its sequence a token sees. A token's position is its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Slots up to its own.
    Causal,
    /// Slots up to its own, and the first `prefix` ones (GLM-130B, ChatGLM-6B).
    Prefix,
    /// All slots.
    Full,
}

impl Mask {
    /// Whether the token at `position` sees slot `slot` of a sequence with `kv_len` slots.
    pub fn sees(self, position: i64, slot: i64, kv_len: i64, prefix: i64) -> bool {
        slot < kv_len
            && match self {
                Mask::Causal => slot <= position,
                Mask::Prefix => slot <= position || slot < prefix,
                Mask::Full => true,
            }
    }
}

/// Specification of attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Slots per page.
    pub page_size: usize,
    /// Factor of the scores, usually `1/√head_dim`.
    pub scale: f32,
    /// Visibility.
    pub mask: Mask,
    /// Element type of `q` and `out`.
    pub dtype: DType,
    /// Element type of the cache: a float, or i8.
    pub kv: DType,
}

op_args! {
    /// Arguments of [`Attention`].
    AttentionArgs {
        /// `[tokens, heads, head_dim]`
        out,
        /// `[tokens, heads, head_dim]`
        q,
        /// `[pages, kv_heads, page_size, row]`, see [`Attention::cache`]
        k_pages,
        /// `[pages, kv_heads, page_size, row]`
        v_pages,
        /// i32 `[sequences, max_pages]`: ids of each sequence's pages
        block_table,
        /// i32 `[sequences + 1]`: where each sequence's tokens start, ascending
        q_start,
        /// i32 `[sequences]`: slots in use, the new tokens included
        kv_len,
        ; optional
        /// i32 `[sequences]`: slots visible to every token; with [`Mask::Prefix`]
        prefix,
    }
}

impl Attention {
    /// Shape of the keys or values: a row has `head_dim` elements and, if they are i8, their scale.
    pub fn cache(&self) -> [usize; 4] {
        let row = row_elements(self.kv, self.head_dim);
        [self.pages, self.kv_heads, self.page_size, row]
    }
}

impl Op for Attention {
    const NAME: &'static str = "attention";
    type Args<'a> = AttentionArgs<'a>;

    fn signature(&self) -> Signature {
        let mut list = signature![
            out: Out, self.dtype; q: In, self.dtype; k_pages: In, self.kv; v_pages: In, self.kv;
            block_table: In, DType::I32; q_start: In, DType::I32; kv_len: In, DType::I32
        ];
        if self.mask == Mask::Prefix {
            list.extend(signature![prefix: In, DType::I32]);
        }
        list
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [
            out,
            q,
            k_pages,
            v_pages,
            block_table,
            q_start,
            kv_len,
            prefix @ ..,
        ] = args
        else {
            unreachable!("counted by check_args")
        };
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.page_size == 0 {
            return Err(invalid(
                Self::NAME,
                format_args!("{self:?}: kv_heads must divide heads"),
            ));
        }
        expect_rank(Self::NAME, "q", q, 3)?;
        expect_shape(Self::NAME, "q", q, &[q.dim(0), self.heads, self.head_dim])?;
        expect_shape(Self::NAME, "out", out, q.shape())?;
        expect_dense_rows(Self::NAME, "q", q)?;
        expect_dense_rows(Self::NAME, "out", out)?;
        let cache = self.cache();
        expect_rank(Self::NAME, "block_table", block_table, 2)?;
        let sequences = block_table.dim(0);
        for (name, view, shape) in [("k_pages", k_pages, &cache), ("v_pages", v_pages, &cache)] {
            expect_shape(Self::NAME, name, view, shape)?;
            expect_contiguous(Self::NAME, name, view)?;
        }
        expect_contiguous(Self::NAME, "block_table", block_table)?;
        for (name, view, n) in [
            ("q_start", q_start, sequences + 1),
            ("kv_len", kv_len, sequences),
        ]
        .into_iter()
        .chain(prefix.iter().map(|p| ("prefix", p, sequences)))
        {
            expect_shape(Self::NAME, name, view, &[n])?;
            expect_contiguous(Self::NAME, name, view)?;
        }
        Ok(())
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [
            q,
            k_pages,
            v_pages,
            block_table,
            q_start,
            kv_len,
            prefix @ ..,
        ] = inputs
        else {
            unreachable!("counted by check_args")
        };
        let mut out = Tensor::zeros(shapes[0]);
        let [k_pages, v_pages] = &[k_pages, v_pages].map(|pages| decode(self.kv, pages));
        let group = self.heads / self.kv_heads;
        for s in 0..block_table.shape[0] {
            let (start, end) = (q_start.data[s] as usize, q_start.data[s + 1] as usize);
            let kv_len = kv_len.data[s] as usize;
            let prefix = prefix.first().map_or(0, |p| p.data[s] as i64);
            let row = |pages: &Tensor, h: usize, j: usize| {
                let page = block_table.at(&[s, j / self.page_size]) as usize;
                pages
                    .row((page * self.kv_heads + h) * self.page_size + j % self.page_size)
                    .to_vec()
            };
            for (t, h) in (start..end).flat_map(|t| (0..self.heads).map(move |h| (t, h))) {
                let position = (kv_len + t) as i64 - end as i64;
                let mut scores: Vec<f64> = (0..kv_len)
                    .map(
                        |j| match self.mask.sees(position, j as i64, kv_len as i64, prefix) {
                            true => {
                                f64::from(self.scale)
                                    * dot(q.row(t * self.heads + h), &row(k_pages, h / group, j))
                            }
                            false => f64::NEG_INFINITY,
                        },
                    )
                    .collect();
                softmax(&mut scores);
                let seen: Vec<(f64, Vec<f64>)> = scores
                    .iter()
                    .enumerate()
                    .filter(|(_, p)| **p != 0.0)
                    .map(|(j, &p)| (p, row(v_pages, h / group, j)))
                    .collect();
                for (d, out) in out.row_mut(t * self.heads + h).iter_mut().enumerate() {
                    *out = sum(seen.iter().map(|(p, v)| p * v[d]));
                }
            }
        }
        vec![out]
    }

    fn compose(&self, context: &Context) -> Result<Option<Arc<dyn Launch>>> {
        if !self.kv.is_float() {
            return Ok(None);
        }
        let product = |a, alpha| BatchedMatmul {
            a,
            b: self.kv,
            out: DType::F32,
            alpha,
        };
        Ok(Some(Arc::new(Composed {
            op: self.clone(),
            gather: context.plan(Embedding {
                vocab: self.pages,
                dim: self.kv_heads * self.page_size * self.head_dim,
                table: WeightFormat::Dense(self.kv),
                out: self.kv,
                tied: false,
            })?,
            rearrange: context.plan(StridedCopy { dtype: self.kv })?,
            scores: context.plan(product(self.dtype, self.scale))?,
            softmax: context.plan(Softmax {
                dtype: DType::F32,
                scale: 1.0,
                mask: Some(self.mask),
            })?,
            values: context.plan(product(DType::F32, 1.0))?,
            add: context.plan(Elementwise {
                kind: Binary::Add,
                dtype: DType::F32,
                alpha: 1.0,
            })?,
            cast: context.plan(Cast {
                from: DType::F32,
                to: self.dtype,
            })?,
        })))
    }
}

struct Composed {
    op: Attention,
    gather: Plan<Embedding>,
    rearrange: Plan<StridedCopy>,
    scores: Plan<BatchedMatmul>,
    softmax: Plan<Softmax>,
    values: Plan<BatchedMatmul>,
    add: Plan<Elementwise>,
    cast: Plan<Cast>,
}

/// Temporaries of the composed form, in the order they are carved.
struct Temporaries<'a> {
    gathered: View<'a>,
    k: View<'a>,
    v: View<'a>,
    scores: View<'a>,
    sum: View<'a>,
    part: View<'a>,
}

impl Composed {
    /// Type and shape of each temporary, for `tokens` query tokens and tables of `max_pages` pages.
    fn pieces(&self, tokens: usize, max_pages: usize) -> [(DType, [usize; 4]); 6] {
        let Attention {
            heads,
            kv_heads,
            head_dim,
            page_size,
            kv,
            ..
        } = self.op;
        let page = kv_heads * page_size * head_dim;
        let rearranged = (kv, [kv_heads, max_pages, page_size, head_dim]);
        let result = (DType::F32, [1, tokens, heads, head_dim]);
        [
            (kv, [1, 1, max_pages, page]),
            rearranged,
            rearranged,
            (DType::F32, [1, heads, tokens, max_pages * page_size]),
            result,
            result,
        ]
    }

    fn carve<'a>(
        &self,
        carver: &mut Carver<'a>,
        tokens: usize,
        max_pages: usize,
    ) -> Result<Temporaries<'a>> {
        let mut views = arrayvec::ArrayVec::<View<'a>, 6>::new();
        for (dtype, shape) in self.pieces(tokens, max_pages) {
            views.push(carver.take(dtype, &shape)?);
        }
        let [gathered, k, v, scores, sum, part] = views.into_inner().expect("six pieces");
        Ok(Temporaries {
            gathered,
            k,
            v,
            scores,
            sum,
            part,
        })
    }

    /// `pages` of one sequence as `[kv_heads, slots, head_dim]` in `to`.
    fn gather<'a>(
        &self,
        stream: &mut dyn Stream,
        to: View<'a>,
        through: View<'_>,
        pages: View<'_>,
        ids: View<'_>,
        rest: &View<'_>,
    ) -> Result<View<'a>> {
        let Attention {
            kv_heads,
            head_dim,
            page_size,
            ..
        } = self.op;
        let (max_pages, page) = (ids.dim(0), kv_heads * page_size * head_dim);
        let out = through.reshape(&[max_pages, page])?;
        let table = pages.reshape(&[self.op.pages, page])?;
        self.gather
            .run(stream, EmbeddingArgs { out, ids, table }, rest)?;
        let x = through
            .reshape(&[max_pages, kv_heads, page_size, head_dim])?
            .permute(&[1, 0, 2, 3])?;
        self.rearrange.run(stream, CopyArgs { out: to, x }, rest)?;
        to.reshape(&[kv_heads, max_pages * page_size, head_dim])
    }
}

impl Launch for Composed {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let Attention {
            heads,
            kv_heads,
            head_dim,
            page_size,
            ..
        } = self.op;
        let (tokens, max_pages, group) = (shapes[1][0], shapes[4][1], heads / kv_heads);
        let slots = max_pages * page_size;
        let pieces = self.pieces(tokens, max_pages);
        let page = kv_heads * page_size * head_dim;
        let result: &[usize] = &[tokens, heads, head_dim];
        let (q, k) = (
            [kv_heads, group, tokens, head_dim],
            [kv_heads, group, slots, head_dim],
        );
        let (s, vt) = (
            [kv_heads, group, tokens, slots],
            [kv_heads, group, head_dim, slots],
        );
        let rows: &[usize] = &[heads, tokens, slots];
        let parts = [
            self.gather.workspace_bytes(&[
                &[max_pages, page],
                &[max_pages],
                &[self.op.pages, page],
            ]),
            self.rearrange.workspace_bytes(&[&pieces[1].1[..]; 2]),
            self.scores.workspace_bytes(&[&s, &q, &k]),
            self.softmax
                .workspace_bytes(&[rows, rows, &[2], &[1], &[1]]),
            self.values.workspace_bytes(&[&q, &s, &vt]),
            self.add.workspace_bytes(&[result, result, result]),
            self.cast.workspace_bytes(&[result, result]),
        ];
        pieces
            .iter()
            .map(|(dtype, shape)| piece_bytes(*dtype, shape))
            .sum::<usize>()
            + parts.into_iter().max().unwrap_or(0)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [
            out,
            q,
            k_pages,
            v_pages,
            block_table,
            q_start,
            kv_len,
            prefix @ ..,
        ] = args
        else {
            unreachable!("counted by check_args")
        };
        let Attention {
            heads,
            kv_heads,
            head_dim,
            page_size,
            ..
        } = self.op;
        let (tokens, group) = (q.dim(0), heads / kv_heads);
        let [sequences, max_pages] = *block_table.shape() else {
            unreachable!("checked rank")
        };
        let slots = max_pages * page_size;
        let mut carver = Carver::new(workspace);
        let t = self.carve(&mut carver, tokens, max_pages)?;
        let rest = carver.rest()?;
        let q = q.split(1, kv_heads, group)?.permute(&[1, 2, 0, 3])?;
        for s in 0..sequences {
            let ids = block_table.slice(0, s..s + 1)?.reshape(&[max_pages])?;
            let k = self.gather(stream, t.k, t.gathered, *k_pages, ids, &rest)?;
            let v = self.gather(stream, t.v, t.gathered, *v_pages, ids, &rest)?;
            let scores = t.scores.reshape(&[kv_heads, group, tokens, slots])?;
            let b = k.repeat(1, group)?;
            self.scores.run(
                stream,
                BatchedMatmulArgs {
                    out: scores,
                    a: q,
                    b,
                },
                &rest,
            )?;
            let rows = t.scores.reshape(&[heads, tokens, slots])?;
            let softmax = SoftmaxArgs {
                out: rows,
                x: rows,
                q_range: Some(q_start.slice(0, s..s + 2)?),
                kv_len: Some(kv_len.slice(0, s..s + 1)?),
                prefix: prefix.first().map(|p| p.slice(0, s..s + 1)).transpose()?,
            };
            self.softmax.run(stream, softmax, &rest)?;
            // Rows of other sequences are zero, so the sum over sequences is the result.
            let (sum, part) = (
                t.sum.reshape(&[tokens, heads, head_dim])?,
                t.part.reshape(&[tokens, heads, head_dim])?,
            );
            let to = if s == 0 { sum } else { part };
            let b = v.permute(&[0, 2, 1])?.repeat(1, group)?;
            let args = BatchedMatmulArgs {
                out: to.split(1, kv_heads, group)?.permute(&[1, 2, 0, 3])?,
                a: scores,
                b,
            };
            self.values.run(stream, args, &rest)?;
            if s > 0 {
                self.add.run(
                    stream,
                    ElementwiseArgs {
                        out: sum,
                        a: sum,
                        b: part,
                    },
                    &rest,
                )?;
            }
        }
        if sequences == 0 {
            return Err(invalid(
                Attention::NAME,
                "the composed form needs at least one sequence",
            ));
        }
        let x = t.sum.reshape(&[tokens, heads, head_dim])?;
        self.cast.run(stream, CastArgs { out: *out, x }, &rest)
    }
}
