//! Cases of [`Embedding`]: dense tables bit-exact, quantised ones within the rounding of `q · scale`, ids outside;
//! plain tables and those that share memory with an output layer.

use hal::{Numerics, WeightFormat};
use ops::reference::Tensor;
use ops::{Embedding, Op};

use super::{Conformance, FLOATS};
use crate::bound::{U, stored};
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks, Rng};

impl Conformance for Embedding {
    fn case(picks: &mut Picks) -> Case<Self> {
        let table = picks.one(&WeightFormat::ALL);
        let (rows, dim) = (picks.size(65), picks.size(1025));
        let vocab = picks.one(&[151, 1, 2, 1000, 66_000]);
        // Ids beyond 16 bits, of short rows.
        let (vocab, dim) = match (vocab, table) {
            (66_000, WeightFormat::Int4Group(_)) => (1000, dim),
            (66_000, _) => (vocab, dim.min(8)),
            _ => (vocab, dim),
        };
        let op = Embedding {
            vocab,
            dim: dim.next_multiple_of(table.cols_multiple()),
            table,
            out: picks.one(&FLOATS),
            tied: picks.one(&[false, true]),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Integers,
            Generator::SignedZeros,
            Generator::Subnormals,
            Generator::HalfSubnormals,
        ]);
        let out = picks.one(&Layout::ROWS);
        let mut rng = Rng::of(&format!("{op:?} {rows}"));
        let ids = (0..rows).map(|t| match t {
            1 => -1.0,
            2 => vocab as f64,
            3 => f64::from(i32::MAX),
            4 => vocab as f64 - 1.0,
            _ => rng.below(vocab) as f64,
        });
        let ids = ids.collect();
        Case::new(
            op.clone(),
            vec![
                Operand::out(&[rows, op.dim]).layout(out),
                Operand::values(&[rows], ids),
                Operand::random(&[vocab, op.dim], generator),
            ],
        )
    }

    fn weight_shape(&self) -> Option<[usize; 2]> {
        self.plain().is_none().then_some([self.vocab, self.dim])
    }

    fn model_cases(sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::embedding(sizes)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        if let WeightFormat::Dense(_) = self.table {
            return vec![Expected::Bits(want)];
        }
        let bound = |&y: &f64| Bound::of(|_| stored(self.out, y, U * y.abs()));
        let bounds = want.data.iter().map(bound).collect();
        vec![Expected::Within(want, bounds)]
    }
}
