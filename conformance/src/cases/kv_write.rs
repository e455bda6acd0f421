//! Cases of [`KvWrite`]: slots in any order, tokens that are skipped. Bit-exact, but for a row of int8, which must be within half a
//! step of what it stands for.

use hal::{DType, Numerics};
use ops::kv_cache::{LARGEST, decode};
use ops::reference::Tensor;
use ops::{KvWrite, Op};

use super::{Conformance, FLOATS, with_int8_cache};
use crate::bound::U;
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks, Rng};

impl Conformance for KvWrite {
    fn case(picks: &mut Picks) -> Case<Self> {
        let tokens = picks.size(65);
        let op = KvWrite {
            kv_heads: picks.one(&[1, 2, 3, 8]),
            head_dim: picks.one(&[64, 1, 7, 80, 128, 256]),
            pages: picks.one(&[5, 1, 9]),
            page_size: picks.one(&[16, 1, 7, 32]),
            dtype: picks.one(&FLOATS),
            kv: picks.one(&FLOATS),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Wide,
            Generator::Subnormals,
            Generator::SignedZeros,
            Generator::Nan,
            Generator::NearMax,
            Generator::HalfSubnormals,
        ]);
        let (k, v) = (picks.one(&Layout::ROWS), picks.one(&Layout::ROWS));
        let slots = slots(&op, tokens);
        let cache = [op.pages, op.kv_heads, op.page_size, op.head_dim];
        let new = [tokens, op.kv_heads, op.head_dim];
        Case::new(
            op,
            vec![
                Operand::random(&cache, Generator::Normal),
                Operand::random(&cache, Generator::Normal),
                Operand::random(&new, generator).layout(k),
                Operand::random(&new, generator).layout(v),
                slots,
            ],
        )
    }

    fn cache_dtype(&self) -> Option<DType> {
        Some(self.kv)
    }

    fn with_int8_cache(case: &Case<Self>) -> Option<Case<Self>> {
        with_int8_cache(case, [0, 1], |op| &mut op.kv)
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::kv_write(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        if self.kv.is_float() {
            let caches = self.reference(shapes, inputs);
            return caches.into_iter().map(Expected::Bits).collect();
        }
        let [k_pages, v_pages, k, v, slots] = inputs else {
            unreachable!("five inputs")
        };
        let caches = [(k_pages, k), (v_pages, v)];
        let expect = |(pages, x): (&Tensor, &Tensor)| {
            let mut cache = Int8Cache::new(pages);
            for (t, h, row) in written(self, slots) {
                cache.write(row, x.row(t * self.kv_heads + h), |_| 0.0);
            }
            cache.expected()
        };
        caches.map(expect).into()
    }
}

/// Token, head and row of the cache of each row that is written.
pub(super) fn written(op: &KvWrite, slots: &Tensor) -> impl Iterator<Item = (usize, usize, usize)> {
    let (heads, size, all) = (op.kv_heads, op.page_size, (op.pages * op.page_size) as f64);
    let slots = slots.data.iter().enumerate();
    let inside = slots.filter(move |(_, slot)| (0.0..all).contains(*slot));
    inside.flat_map(move |(t, &slot)| {
        let (page, at) = (slot as usize / size, slot as usize % size);
        (0..heads).map(move |h| (t, h, (page * heads + h) * size + at))
    })
}

/// What the rows of an int8 cache must stand for.
pub(super) struct Int8Cache {
    want: Tensor,
    bounds: Vec<Bound>,
}

impl Int8Cache {
    /// As it is before.
    pub(super) fn new(pages: &Tensor) -> Self {
        let want = decode(DType::I8, pages);
        let bounds = vec![Bound::EXACT; want.data.len()];
        Self { want, bounds }
    }

    /// With `x` in a row, whose element `d` may be wrong by `error(d)` before it is stored.
    pub(super) fn write(&mut self, row: usize, x: &[f64], error: impl Fn(usize) -> f64) {
        let n = x.len();
        let bounds = &mut self.bounds[row * n..(row + 1) * n];
        let want = self.want.row_mut(row);
        if !x.iter().all(|x| x.is_finite()) {
            want.fill(f64::NAN);
            return bounds.fill(Bound::EXACT);
        }
        want.copy_from_slice(x);
        let farthest = x.iter().enumerate().map(|(d, x)| x.abs() + error(d));
        let largest = farthest.fold(0.0, f64::max);
        let step = largest / f64::from(LARGEST);
        for (d, bound) in bounds.iter_mut().enumerate() {
            // The scale, its inverse and the product with it are rounded, each of which moves 127 steps by so much.
            let rounded = (0.5 + 4.0 * U * f64::from(LARGEST)) * step;
            let stored = match step < 2.0 * f64::from(f32::MIN_POSITIVE) {
                // The scale may be below the normal range, and the row zeros.
                true => largest,
                false => rounded,
            };
            *bound = Bound::of(|_| stored + error(d));
        }
    }

    pub(super) fn expected(self) -> Expected {
        Expected::Within(self.want, self.bounds)
    }
}

/// A slot for each of so many tokens, in any order. Tokens without one of their own are skipped: a negative slot, one past
/// the last, a huge one.
pub(super) fn slots(op: &KvWrite, tokens: usize) -> Operand {
    let mut rng = Rng::of(&format!("{op:?} {tokens}"));
    let mut slots: Vec<f64> = (0..op.pages * op.page_size).map(|s| s as f64).collect();
    rng.shuffle(&mut slots);
    let outside = [-1.0, slots.len() as f64, f64::from(i32::MAX), -1e9];
    let slots = (0..tokens).map(|t| match t % 5 {
        3 => outside[t / 5 % 4],
        _ => slots.get(t).copied().unwrap_or(-1.0),
    });
    Operand::values(&[tokens], slots.collect())
}
