//! Cases of [`Attention`]: prefill, decode and mixed batches over shuffled pages, long caches, every mask, grouped heads.

use hal::{DType, Numerics};
use ops::kv_cache::decode;
use ops::reference::{Tensor, softmax};
use ops::{Attention, Mask, Op};

use super::batched_matmul::condition;
use super::softmax::EXP;
use super::{Conformance, FLOATS, with_int8_cache};
use crate::bound::{Products, TINY, U, digits, stored};
use crate::number::spacing;
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks, Rng};

impl Conformance for Attention {
    fn case(picks: &mut Picks) -> Case<Self> {
        let mask = picks.one(&[Mask::Causal, Mask::Prefix, Mask::Full]);
        let (heads, kv_heads) = picks.one(&[(2, 2), (1, 1), (4, 2), (3, 1), (16, 2)]);
        let head_dim = picks.one(&[64, 7, 80, 96, 112, 128, 192, 256]);
        let page_size = picks.one(&[16, 1, 5, 32]);
        let (dtype, kv) = (picks.one(&FLOATS), picks.one(&FLOATS));
        // New tokens and tokens already cached, per sequence.
        let (new, cached) = (picks.size(33), picks.size(129));
        let batch = picks.one(&[Batch::One, Batch::Two, Batch::Mixed, Batch::Long]);
        let rising = picks.one(&[false, true]);
        let q_generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::Constant,
            Generator::Nan,
        ]);
        let (q, out) = (picks.one(&Layout::ROWS), picks.one(&Layout::ROWS));
        let sequences: &[(usize, usize)] = match batch {
            Batch::One => &[(new, cached)],
            Batch::Two => &[(new, cached), (1, page_size)],
            Batch::Mixed => &[(1, cached), (0, 0), (new, 0), (1, 2 * page_size - 1)],
            Batch::Long => &[(1, LONG + cached), (new.min(3), LONG / 2)],
        };
        let kv_len: Vec<usize> = sequences.iter().map(|(new, cached)| new + cached).collect();
        let pages_of: Vec<usize> = kv_len.iter().map(|n| n.div_ceil(page_size)).collect();
        // Two pages more than needed, and a column that no sequence uses.
        let pages = pages_of.iter().sum::<usize>() + 2;
        let max_pages = pages_of.iter().max().map_or(1, |n| n + 1);
        let op = Attention {
            heads,
            kv_heads,
            head_dim,
            pages,
            page_size,
            scale: 1.0 / (head_dim as f32).sqrt(),
            mask,
            dtype,
            kv,
        };
        let mut rng = Rng::of(&format!("{op:?} {sequences:?}"));
        let mut ids: Vec<usize> = (0..pages).collect();
        rng.shuffle(&mut ids);
        let mut ids = ids.into_iter();
        let mut block_table = vec![-1.0; sequences.len() * max_pages];
        let mut first_slot = vec![0; pages];
        for (s, &n) in pages_of.iter().enumerate() {
            for (i, id) in ids.by_ref().take(n).enumerate() {
                block_table[s * max_pages + i] = id as f64;
                first_slot[id] = i * page_size;
            }
        }
        let mut q_start = vec![0.0];
        for &(new, _) in sequences {
            q_start.push(q_start[q_start.len() - 1] + new as f64);
        }
        // In batches, one token beyond the sequences, which must become zeros.
        let beyond = usize::from(sequences.len() > 1);
        let tokens = q_start[sequences.len()] as usize + beyond;
        let cache = [pages, kv_heads, page_size, head_dim];
        let k = match rising {
            // Scores grow by about a half from slot to slot, so that a running maximum never rests.
            true => {
                let step = 0.5 / (f64::from(op.scale) * head_dim as f64);
                let row = kv_heads * page_size * head_dim;
                let slot = |i: usize| first_slot[i / row] + i / head_dim % page_size;
                let values = (0..pages * row).map(|i| step * slot(i) as f64 + rng.normal() / 8.0);
                Operand::values(&cache, values.collect())
            }
            false => Operand::random(&cache, Generator::Normal),
        };
        let shape = [tokens, heads, head_dim];
        let count = sequences.len();
        let numbers = |values: &[usize]| values.iter().map(|&x| x as f64).collect();
        let mut operands = vec![
            Operand::out(&shape).layout(out),
            Operand::random(&shape, q_generator).layout(q),
            k,
            Operand::random(&cache, Generator::Normal),
            Operand::values(&[count, max_pages], block_table),
            Operand::values(&[count + 1], q_start),
            Operand::values(&[count], numbers(&kv_len)),
        ];
        if mask == Mask::Prefix {
            let prefix: Vec<usize> = kv_len.iter().map(|&n| rng.below(n + 1)).collect();
            operands.push(Operand::values(&[count], numbers(&prefix)));
        }
        Case::new(op, operands)
    }

    fn cache_dtype(&self) -> Option<DType> {
        Some(self.kv)
    }

    fn with_int8_cache(case: &Case<Self>) -> Option<Case<Self>> {
        with_int8_cache(case, [2, 3], |op| &mut op.kv)
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::attention(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
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
            unreachable!("counted by the case")
        };
        let [k_pages, v_pages] = &[k_pages, v_pages].map(|pages| decode(self.kv, pages));
        let products = Products::of(card);
        let rounded = card.rounds_probabilities;
        let mut bounds = vec![Bound::EXACT; want.data.len()];
        for s in 0..kv_len.data.len() {
            let (start, end) = (q_start.data[s] as usize, q_start.data[s + 1] as usize);
            let slots = kv_len.data[s] as usize;
            let prefix = prefix.first().map_or(0, |p| p.data[s] as i64);
            for (t, h) in (start..end).flat_map(|t| (0..self.heads).map(move |h| (t, h))) {
                let position = (slots + t - end) as i64;
                let g = h / (self.heads / self.kv_heads);
                let rows: Vec<usize> = (0..slots)
                    .filter(|&j| self.mask.sees(position, j as i64, slots as i64, prefix))
                    .map(|j| {
                        let page = block_table.at(&[s, j / self.page_size]) as usize;
                        (page * self.kv_heads + g) * self.page_size + j % self.page_size
                    })
                    .collect();
                let keys: Vec<&[f64]> = rows.iter().map(|&r| k_pages.row(r)).collect();
                let values: Vec<&[f64]> = rows.iter().map(|&r| v_pages.row(r)).collect();
                let at = t * self.heads + h;
                let errors = row_bounds(
                    self,
                    products,
                    rounded,
                    q.row(at),
                    &keys,
                    &values,
                    want.row(at),
                );
                bounds[at * self.head_dim..][..self.head_dim].copy_from_slice(&errors);
            }
        }
        vec![Expected::Within(want, bounds)]
    }
}

/// How many sequences, and of which kind.
#[derive(Clone, Copy)]
enum Batch {
    One,
    Two,
    Mixed,
    Long,
}

/// Slots of a cache that kernels take in parts.
const LONG: usize = 520;

/// Bounds of one token's head over its visible slots; `rounded`: probabilities are rounded to the cache's type.
fn row_bounds(
    op: &Attention,
    products: Products,
    rounded: bool,
    q: &[f64],
    keys: &[&[f64]],
    values: &[&[f64]],
    want: &[f64],
) -> Vec<Bound> {
    let scale = f64::from(op.scale);
    // An element of an int8 cache is a product with its row's scale.
    let (cache_bits, scaled) = match op.kv {
        DType::I8 => (24, 1),
        kv => (digits(kv), 0),
    };
    let (score_bits, value_bits) = ([digits(op.dtype), cache_bits], [24, cache_bits]);
    let scores: Vec<f64> = keys
        .iter()
        .map(|k| scale * ops::reference::dot(q, k))
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut p = scores.clone();
    softmax(&mut p);
    // The least certain score: magnitudes of its terms, and what flushing may cost.
    let (magnitude, flushed) = keys
        .iter()
        .map(|k| condition(q, k))
        .fold((0.0, 0.0), |a: (f64, f64), b| (a.0.max(b.0), a.1.max(b.1)));
    // Of a probability, before it is divided by the sum, which is one at least: relative, and below the normal range.
    let rounded_to = match op.kv {
        DType::I8 => DType::BF16,
        kv => kv,
    };
    let (rounding, subnormal) = match rounded {
        true => (rounded_to.unit_roundoff(), spacing(rounded_to, 0.0) / 2.0),
        false => (0.0, 0.0),
    };
    let largest = |d: usize| values.iter().map(|v| v[d].abs()).sum();
    // Relative error of exp(s − max), given the scores.
    let exp: Vec<f64> = scores.iter().map(|s| U * (s - max).abs() + EXP).collect();
    let total: f64 = p.iter().zip(&exp).map(|(p, e)| p * e).sum();
    let bound = |(d, &y): (usize, &f64)| {
        // Weights may be divided by their sum at the end only.
        if products.may_overflow(magnitude.max(largest(d))) {
            return Bound::ANYTHING;
        }
        let (mut seen, mut uneven, mut lost) = (0.0, 0.0, 1.0);
        for ((p, e), v) in p.iter().zip(&exp).zip(values) {
            seen += p * v[d].abs();
            uneven += p * v[d].abs() * e;
            lost += v[d].abs();
        }
        Bound::of(|model| {
            // A score has the roundings of its dot product, of the scale, and of a change to base 2.
            let score = products.error(model, op.head_dim + 4 + scaled, magnitude, score_bits);
            let score = scale.abs() * (score + TINY * flushed);
            let sums =
                2.0 * products.g(model, keys.len() + 1 + scaled) + products.operands(value_bits);
            let relative = (2.0 * score).exp_m1() + total + sums + 4.0 * U;
            let small = (TINY + subnormal) * lost + products.below_normal(keys.len());
            let error = seen * relative + uneven + small;
            stored(op.dtype, y, error + rounding * (seen + error))
        })
    };
    want.iter().enumerate().map(bound).collect()
}
