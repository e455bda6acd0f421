//! The sizes of GLM's own models, as cases.
//!
//! Lengths that a kernel sums over are those of the model, and so are head widths, groups of heads, rotated parts and
//! the layout of the cache. The number of a product's columns is cut, keeping its remainder by 128, so that the f64
//! reference fits in memory; every vocabulary occurs in full with short rows. [`Sizes::Thin`] keeps a few rows,
//! columns and heads of each.

use hal::{DType, WeightFormat};
use ops::{
    Act, Attention, Embedding, Glu, Half, KvWrite, LayerNorm, Mask, Matmul, RmsNorm, Rope,
    RopeKvWrite, RopeLayout,
};

use crate::cases::rope::tables;
use crate::{Case, Generator, Operand, Rng};

/// How much of a model's sizes a case keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// What a kernel must get right: lengths of sums, heads, pages. Few rows and columns.
    Thin,
    /// All that the f64 reference can hold.
    Whole,
}

/// Sizes of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// The model.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the feed-forward layers; of experts, where there are some.
    pub ffn: &'static [usize],
    /// Whether the feed-forward layers are gated.
    pub gated: bool,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rotated elements of a head; 0: no rotary embedding.
    pub rotary_dim: usize,
    /// Which elements are rotated together.
    pub layout: RopeLayout,
    /// Who sees whom.
    pub mask: Mask,
    /// Tokens.
    pub vocab: usize,
    /// Layer norms with this eps, instead of RMS norms.
    pub layer_norm: bool,
    /// Added under the root of norms.
    pub eps: f32,
}

impl ModelShape {
    /// ChatGLM-6B turns each half of a head by positions of its own.
    fn streams(&self) -> usize {
        if self.name == "ChatGLM-6B" { 2 } else { 1 }
    }
}

const fn model(
    name: &'static str,
    hidden: usize,
    ffn: &'static [usize],
    vocab: usize,
) -> ModelShape {
    ModelShape {
        name,
        hidden,
        ffn,
        gated: true,
        heads: 32,
        kv_heads: 2,
        head_dim: 128,
        rotary_dim: 64,
        layout: RopeLayout::Interleaved,
        mask: Mask::Causal,
        vocab,
        layer_norm: false,
        eps: 1e-5,
    }
}

/// A model of the first generation: layer norms, one key head per query head.
const fn first(
    name: &'static str,
    hidden: usize,
    ffn: &'static [usize],
    vocab: usize,
    heads: usize,
    rotary_dim: usize,
) -> ModelShape {
    ModelShape {
        gated: false,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        rotary_dim,
        layout: RopeLayout::HalfSplit,
        mask: Mask::Prefix,
        layer_norm: true,
        ..model(name, hidden, ffn, vocab)
    }
}

/// Every model of the family.
pub const MODELS: [ModelShape; 20] = [
    ModelShape {
        gated: true,
        ..first("GLM-130B", 12288, &[32768], 150_528, 96, 128)
    },
    first("ChatGLM-6B", 4096, &[16384], 130_528, 32, 64),
    model(
        "ChatGLM2-6B, ChatGLM3-6B, CodeGeeX2-6B",
        4096,
        &[13696],
        65_024,
    ),
    ModelShape {
        eps: 1.562_5e-7,
        ..model("GLM-4-9B, CodeGeeX4-9B", 4096, &[13696], 151_552)
    },
    ModelShape {
        kv_heads: 4,
        eps: 1.562_5e-7,
        ..model("GLM-4-9B-Chat-1M", 4096, &[13696], 151_552)
    },
    model("GLM-4-9B-0414, GLM-4.1V-9B", 4096, &[13696], 151_552),
    ModelShape {
        heads: 48,
        ..model("GLM-4-32B-0414, GLM-Z1-32B", 6144, &[23040], 151_552)
    },
    ModelShape {
        heads: 24,
        kv_heads: 6,
        rotary_dim: 128,
        ..model("GLM-Edge-4B", 3072, &[8192], 59_264)
    },
    ModelShape {
        heads: 16,
        kv_heads: 4,
        rotary_dim: 128,
        ..model("GLM-Edge-1.5B", 2048, &[6144], 59_264)
    },
    ModelShape {
        heads: 96,
        kv_heads: 8,
        layout: RopeLayout::HalfSplit,
        ..model("GLM-4.5, GLM-4.6, GLM-4.7", 5120, &[12288, 1536], 151_552)
    },
    ModelShape {
        heads: 96,
        kv_heads: 8,
        layout: RopeLayout::HalfSplit,
        ..model("GLM-4.5-Air", 4096, &[10944, 1408], 151_552)
    },
    ModelShape {
        heads: 20,
        kv_heads: 20,
        head_dim: 256,
        ..model("GLM-4.7-Flash", 2048, &[10240, 1536], 154_880)
    },
    ModelShape {
        heads: 64,
        kv_heads: 64,
        head_dim: 256,
        ..model("GLM-5, GLM-5.1, GLM-5.2", 6144, &[12288, 2048], 154_880)
    },
    ModelShape {
        heads: 64,
        kv_heads: 64,
        head_dim: 256,
        rotary_dim: 0,
        ..model("GLM-5.3-Flash", 4096, &[12288, 2048], 154_880)
    },
    first("GLM-10B", 4096, &[16384], 50_304, 64, 0),
    first("GLM-2B", 2048, &[8192], 50_304, 32, 0),
    first("GLM-Large", 1024, &[4096], 50_304, 16, 0),
    ModelShape {
        mask: Mask::Causal,
        ..first("CodeGeeX-13B", 5120, &[20480], 52_224, 40, 0)
    },
    ModelShape {
        mask: Mask::Causal,
        ..first("CogView-4B", 2560, &[10240], 58_192, 40, 0)
    },
    ModelShape {
        mask: Mask::Full,
        eps: 1e-6,
        ..first("EVA2-CLIP-E of GLM-4V-9B", 1792, &[15360], 1, 16, 0)
    },
];

/// The model whose sizes stand for all when speed is measured.
pub(crate) const TYPICAL: ModelShape = MODELS[3];

/// Elements of a weight that the reference holds as f64.
const WEIGHT_ELEMENTS: usize = 1 << 22;

/// Rows of a product.
const ROWS: usize = 2;

/// Slots of a page.
const PAGE_SIZE: usize = 16;

/// Tokens that an attention case has cached: no multiple of a page.
const CACHED: usize = 299;

impl Sizes {
    /// Columns of a product over `k` that has `n`.
    fn columns(self, n: usize, k: usize) -> usize {
        let cut = match self {
            Sizes::Thin => 16,
            Sizes::Whole => (WEIGHT_ELEMENTS / k).max(128) / 128 * 128,
        };
        let rest = match self {
            Sizes::Thin => n % 16,
            Sizes::Whole => n % 128,
        };
        n.min(cut + rest)
    }

    /// `m` with this many of its heads: whole groups.
    fn heads(self, m: &ModelShape) -> ModelShape {
        let kv_heads = match self {
            Sizes::Thin => m.kv_heads.min(2),
            Sizes::Whole => m.kv_heads,
        };
        ModelShape {
            heads: m.heads / m.kv_heads * kv_heads,
            kv_heads,
            ..*m
        }
    }
}

fn matmul_of([m, n, k]: [usize; 3], x: DType, weight: WeightFormat, bias: bool) -> Case<Matmul> {
    let op = Matmul {
        n,
        k,
        x,
        weight,
        out: x,
        bias,
        activation: None,
        residual: false,
    };
    matmul_case(op, m)
}

/// `m` rows of normal numbers through `op`.
pub(crate) fn matmul_case(op: Matmul, m: usize) -> Case<Matmul> {
    let (n, k, bias) = (op.n, op.k, op.bias);
    let mut operands = vec![
        Operand::out(&[m, n]),
        Operand::random(&[m, k], Generator::Normal),
        Operand::random(&[n, k], Generator::Normal),
    ];
    if bias {
        operands.push(Operand::random(&[n], Generator::Normal));
    }
    Case::new(op, operands)
}

pub(crate) fn matmul(sizes: Sizes) -> Vec<Case<Matmul>> {
    let formats = [
        (DType::BF16, WeightFormat::Dense(DType::BF16)),
        (DType::F16, WeightFormat::Int8Row),
        (DType::F16, WeightFormat::Int4Row),
        (DType::F16, WeightFormat::Int4Group(128)),
    ];
    let rows = match sizes {
        Sizes::Thin => 1,
        Sizes::Whole => ROWS,
    };
    let mut cases = Vec::new();
    for m in MODELS {
        let attended = m.heads * m.head_dim;
        let qkv = attended + 2 * m.kv_heads * m.head_dim;
        let mut products = vec![(qkv, m.hidden), (m.hidden, attended)];
        for &ffn in m.ffn {
            products.push(((1 + usize::from(m.gated)) * ffn, m.hidden));
            products.push((m.hidden, ffn));
        }
        for (n, k) in products {
            let n = sizes.columns(n, k);
            for (x, weight) in formats {
                if k.is_multiple_of(weight.cols_multiple()) {
                    cases.push(matmul_of([rows, n, k], x, weight, m.layer_norm));
                }
            }
        }
        if sizes == Sizes::Whole {
            let dense = WeightFormat::Dense(DType::F16);
            cases.push(matmul_of([rows, m.vocab, 32], DType::F16, dense, false));
        }
    }
    cases
}

pub(crate) fn embedding(sizes: Sizes) -> Vec<Case<Embedding>> {
    let cases = MODELS.iter().flat_map(|m| {
        let tables = match sizes {
            Sizes::Thin => [(16, m.hidden), (m.vocab, 1)],
            Sizes::Whole => [(WEIGHT_ELEMENTS / m.hidden, m.hidden), (m.vocab, 32)],
        };
        tables.map(|(vocab, dim)| {
            let op = Embedding {
                vocab,
                dim,
                table: WeightFormat::Dense(DType::F16),
                out: DType::F16,
                tied: false,
            };
            let ids = vec![0.0, vocab as f64 - 1.0, (vocab / 2) as f64];
            Case::new(
                op,
                vec![
                    Operand::out(&[3, dim]),
                    Operand::values(&[3], ids),
                    Operand::random(&[vocab, dim], Generator::Normal),
                ],
            )
        })
    });
    cases.collect()
}

pub(crate) fn kv_write(sizes: Sizes) -> Vec<Case<KvWrite>> {
    let pages = match sizes {
        Sizes::Thin => 1,
        Sizes::Whole => 8,
    };
    let cases = MODELS.iter().map(|m| {
        let op = KvWrite {
            kv_heads: m.kv_heads,
            head_dim: m.head_dim,
            pages,
            page_size: PAGE_SIZE,
            dtype: DType::F16,
            kv: DType::F16,
        };
        let cache = [pages, m.kv_heads, PAGE_SIZE, m.head_dim];
        let new = [2, m.kv_heads, m.head_dim];
        Case::new(
            op,
            vec![
                Operand::random(&cache, Generator::Normal),
                Operand::random(&cache, Generator::Normal),
                Operand::random(&new, Generator::Normal),
                Operand::random(&new, Generator::Normal),
                Operand::values(&[2], vec![(pages * PAGE_SIZE - 1) as f64, 0.0]),
            ],
        )
    });
    cases.collect()
}

pub(crate) fn rms_norm() -> Vec<Case<RmsNorm>> {
    let models = MODELS.iter().filter(|m| !m.layer_norm);
    let cases = models.map(|m| {
        let (dim, eps) = (m.hidden, m.eps);
        let op = RmsNorm {
            dim,
            dtype: DType::BF16,
            eps,
        };
        Case::new(
            op,
            vec![
                Operand::out(&[3, dim]),
                Operand::random(&[3, dim], Generator::Outliers),
                Operand::random(&[dim], Generator::Normal),
            ],
        )
    });
    cases.collect()
}

pub(crate) fn layer_norm() -> Vec<Case<LayerNorm>> {
    let models = MODELS.iter().filter(|m| m.layer_norm);
    let cases = models.map(|m| {
        let (dim, eps) = (m.hidden, m.eps);
        let op = LayerNorm {
            dim,
            dtype: DType::F16,
            eps,
        };
        Case::new(
            op,
            vec![
                Operand::out(&[3, dim]),
                Operand::random(&[3, dim], Generator::Outliers),
                Operand::random(&[dim], Generator::Normal),
                Operand::random(&[dim], Generator::Normal),
            ],
        )
    });
    cases.collect()
}

pub(crate) fn glu() -> Vec<Case<Glu>> {
    let models = MODELS.iter().filter(|m| m.gated);
    let widths = models.flat_map(|m| m.ffn.iter().map(|&ffn| (ffn, m.layer_norm)));
    let cases = widths.map(|(dim, first)| {
        let (act, gate) = match first {
            true => (Act::GeluErf, Half::Second),
            false => (Act::Silu, Half::First),
        };
        let op = Glu {
            dim,
            act,
            gate,
            limit: None,
            dtype: DType::BF16,
        };
        Case::new(
            op,
            vec![
                Operand::out(&[ROWS, dim]),
                Operand::random(&[ROWS, 2 * dim], Generator::Normal),
            ],
        )
    });
    cases.collect()
}

pub(crate) fn rope(sizes: Sizes) -> Vec<Case<Rope>> {
    let models = MODELS.iter().filter(|m| m.rotary_dim > 0);
    let cases = models.map(|m| {
        let op = Rope {
            head_dim: m.head_dim,
            rotary_dim: m.rotary_dim,
            streams: m.streams(),
            layout: m.layout,
            dtype: DType::F16,
        };
        rope_case(op, 3, sizes.heads(m).heads)
    });
    cases.collect()
}

/// `tokens` tokens turned by `op`.
pub(crate) fn rope_case(op: Rope, tokens: usize, heads: usize) -> Case<Rope> {
    let shape = [tokens, heads, op.head_dim];
    let mut operands = vec![
        Operand::out(&shape),
        Operand::random(&shape, Generator::Normal),
    ];
    operands.extend(angles(&op, tokens));
    Case::new(op, operands)
}

/// Positions of so many tokens, and tables of cosines and sines.
fn angles(op: &Rope, tokens: usize) -> [Operand; 3] {
    const POSITIONS: usize = 64;
    let mut rng = Rng::of(&format!("{op:?}"));
    let positions = (0..op.streams * tokens)
        .map(|_| rng.below(POSITIONS) as f64)
        .collect();
    let [cos, sin] = tables(&mut rng, POSITIONS, op.rotary_dim / 2);
    [Operand::values(&[op.streams, tokens], positions), cos, sin]
}

pub(crate) fn rope_kv_write(sizes: Sizes) -> Vec<Case<RopeKvWrite>> {
    let models = MODELS.iter().filter(|m| m.rotary_dim > 0);
    let cases = models.map(|m| rope_kv_write_case(&sizes.heads(m), DType::F16, 3));
    cases.collect()
}

/// `tokens` tokens of `m`, turned and written to as many slots from the first on.
pub(crate) fn rope_kv_write_case(m: &ModelShape, dtype: DType, tokens: usize) -> Case<RopeKvWrite> {
    let op = RopeKvWrite {
        heads: m.heads,
        kv_heads: m.kv_heads,
        head_dim: m.head_dim,
        rotary_dim: m.rotary_dim,
        streams: m.streams(),
        layout: m.layout,
        pages: tokens.div_ceil(PAGE_SIZE),
        page_size: PAGE_SIZE,
        dtype,
        kv: dtype,
    };
    let cache = [op.pages, m.kv_heads, PAGE_SIZE, m.head_dim];
    let heads = [tokens, m.heads + 2 * m.kv_heads, m.head_dim];
    let mut operands = vec![
        Operand::random(&heads, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::values(&[tokens], (0..tokens).map(|t| t as f64).collect()),
    ];
    operands.extend(angles(&op.rope(), tokens));
    Case::new(op, operands)
}

pub(crate) fn attention(sizes: Sizes) -> Vec<Case<Attention>> {
    let cached = match sizes {
        Sizes::Thin => PAGE_SIZE + 3,
        Sizes::Whole => CACHED,
    };
    let both = MODELS.iter().flat_map(|m| [(m, 1), (m, 3)]);
    let cases = both.map(|(m, tokens)| attention_case(&sizes.heads(m), DType::F16, tokens, cached));
    cases.collect()
}

/// `tokens` new tokens of one sequence that has `cached` already, in pages in order.
pub(crate) fn attention_case(
    m: &ModelShape,
    dtype: DType,
    tokens: usize,
    cached: usize,
) -> Case<Attention> {
    let (page_size, slots) = (PAGE_SIZE, cached + tokens);
    let pages = slots.div_ceil(page_size);
    let op = Attention {
        heads: m.heads,
        kv_heads: m.kv_heads,
        head_dim: m.head_dim,
        pages,
        page_size,
        scale: 1.0 / (m.head_dim as f32).sqrt(),
        mask: m.mask,
        dtype,
        kv: dtype,
    };
    let shape = [tokens, m.heads, m.head_dim];
    let cache = [pages, m.kv_heads, page_size, m.head_dim];
    let mut operands = vec![
        Operand::out(&shape),
        Operand::random(&shape, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::values(&[1, pages], (0..pages).map(|i| i as f64).collect()),
        Operand::values(&[2], vec![0.0, tokens as f64]),
        Operand::values(&[1], vec![slots as f64]),
    ];
    if m.mask == Mask::Prefix {
        operands.push(Operand::values(&[1], vec![(cached / 2) as f64]));
    }
    Case::new(op, operands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_its_cases() {
        for sizes in [Sizes::Thin, Sizes::Whole] {
            let matmul = matmul(sizes);
            let wide = |k: usize| matmul.iter().filter(|c| c.op.k == k).count();
            // Down projections of GLM-130B, ChatGLM2 to GLM-4, GLM-4-32B: every format that divides them.
            assert!(wide(32768) >= 4 && wide(13696) >= 4 && wide(23040) >= 4);
            let most = match sizes {
                Sizes::Thin => 1 << 20,
                Sizes::Whole => 2 * WEIGHT_ELEMENTS,
            };
            assert!(matmul.iter().all(|c| c.op.n * c.op.k <= most));
            for m in MODELS {
                let head = matmul.iter().any(|c| c.op.n == m.vocab);
                assert!(head || sizes == Sizes::Thin, "{}", m.name);
                assert!(m.heads.is_multiple_of(m.kv_heads) && m.rotary_dim <= m.head_dim);
                // Groups, widths and the cache's layout are those of the model.
                let attends = |c: &Case<Attention>| {
                    c.op.heads / c.op.kv_heads == m.heads / m.kv_heads
                        && (c.op.head_dim, c.op.mask) == (m.head_dim, m.mask)
                };
                assert!(attention(sizes).iter().any(attends), "{}", m.name);
                let writes =
                    |c: &Case<KvWrite>| (c.op.kv_heads, c.op.head_dim) == (m.kv_heads, m.head_dim);
                assert!(kv_write(sizes).iter().any(writes), "{}", m.name);
            }
        }
        assert_eq!(rms_norm().len() + layer_norm().len(), MODELS.len());
        assert_eq!(
            (attention(Sizes::Whole).len(), TYPICAL.name),
            (40, "GLM-4-9B, CodeGeeX4-9B")
        );
    }
}
