//! Cases of [`KvWrite`]: bit-exact, slots in any order, tokens that are skipped.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{KvWrite, Op};

use super::{Conformance, FLOATS};
use crate::shapes::Sizes;
use crate::{Case, Expected, Generator, Layout, Operand, Picks, Rng};

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

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::kv_write(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let caches = self.reference(shapes, inputs);
        caches.into_iter().map(Expected::Bits).collect()
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
