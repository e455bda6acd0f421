//! Cases of [`RopeKvWrite`]: those of its two parts together.

use hal::{DType, Numerics};
use ops::reference::Tensor;
use ops::{Op, RopeKvWrite, RopeLayout};

use super::kv_write::Int8Cache;
use super::{Conformance, FLOATS, kv_write, rope, with_int8_cache};
use crate::bound::stored;
use crate::number::round;
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for RopeKvWrite {
    fn case(picks: &mut Picks) -> Case<Self> {
        let tokens = picks.size(33);
        let head_dim = picks.one(&[64, 2, 20, 80, 128, 256]);
        let streams = picks.one(&[1, 2]);
        // Of a stream's part: all, half, or two elements more than none.
        let share = picks.one(&[1, 2, usize::MAX]);
        let op = RopeKvWrite {
            heads: picks.one(&[3, 0, 1, 32]),
            kv_heads: picks.one(&[1, 2, 3]),
            head_dim,
            rotary_dim: rope::rotated(head_dim / streams, share),
            streams,
            layout: picks.one(&[RopeLayout::Interleaved, RopeLayout::HalfSplit]),
            pages: picks.one(&[5, 1]),
            page_size: picks.one(&[16, 1, 7]),
            dtype: picks.one(&FLOATS),
            kv: picks.one(&FLOATS),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Subnormals,
        ]);
        let layout = picks.one(&Layout::ROWS);
        let heads = [tokens, op.heads + 2 * op.kv_heads, head_dim];
        let cache = [op.pages, op.kv_heads, op.page_size, head_dim];
        let mut operands = vec![
            Operand::random(&heads, generator).layout(layout),
            Operand::random(&cache, Generator::Normal),
            Operand::random(&cache, Generator::Normal),
            kv_write::slots(&op.kv_write(), tokens),
        ];
        operands.extend(rope::angles(&op.rope(), tokens));
        Case::new(op, operands)
    }

    fn cache_dtype(&self) -> Option<DType> {
        Some(self.kv)
    }

    fn with_int8_cache(case: &Case<Self>) -> Option<Case<Self>> {
        with_int8_cache(case, [1, 2], |op| &mut op.kv)
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::rope_kv_write(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let [qkv, k_before, v_before, slots, positions, cos, sin] = inputs else {
            unreachable!("seven inputs")
        };
        let [heads, mut k_pages, v_pages] =
            <[Tensor; 3]>::try_from(self.reference(shapes, inputs)).expect("three outputs");
        let (all, turned) = (self.heads + 2 * self.kv_heads, self.heads + self.kv_heads);
        // Of every head; those of values are not turned.
        let errors = rope::errors(&self.rope(), [qkv, positions, cos, sin]);
        let bounds = heads.data.iter().zip(&errors).enumerate();
        let bounds = bounds.map(|(i, (&y, error))| match error {
            Some(error) if i / self.head_dim % all < turned => {
                Bound::of(|_| stored(self.dtype, y, *error))
            }
            _ => Bound::EXACT,
        });
        let bounds = bounds.collect();

        let kv_write = self.kv_write();
        if !self.kv.is_float() {
            let [mut keys, mut values] = [k_before, v_before].map(Int8Cache::new);
            for (t, h, row) in kv_write::written(&kv_write, slots) {
                let [k, v] = [self.heads, turned].map(|first| t * all + first + h);
                let key = heads.row(k);
                // A key may be rounded to storage before it is written.
                keys.write(row, key, |d| match errors[k * self.head_dim + d] {
                    Some(error) => stored(self.dtype, key[d], error),
                    None => 0.0,
                });
                values.write(row, heads.row(v), |_| 0.0);
            }
            return vec![
                Expected::Within(heads, bounds),
                keys.expected(),
                values.expected(),
            ];
        }
        // A slot that is not written keeps its bits, and what was only copied is rounded once.
        let mut of_keys = vec![Bound::EXACT; k_pages.data.len()];
        for (t, h, row) in kv_write::written(&kv_write, slots) {
            let (to, from) = (
                row * self.head_dim,
                (t * all + self.heads + h) * self.head_dim,
            );
            for d in 0..self.head_dim {
                let y = &mut k_pages.data[to + d];
                match errors[from + d] {
                    Some(error) => {
                        let once = stored(self.dtype, *y, error);
                        of_keys[to + d] = Bound::of(|_| stored(self.kv, *y, once));
                    }
                    None => *y = round(self.kv, *y),
                }
            }
        }
        vec![
            Expected::Within(heads, bounds),
            Expected::Within(k_pages, of_keys),
            Expected::Bits(v_pages),
        ]
    }
}
