//! Cases of [`TopK`]. Nothing is rounded, so values and indices are exact, ties included.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Op, TopK};

use super::{Conformance, FLOATS, RANK_GENERATORS};
use crate::{Case, Expected, Layout, Operand, Picks};

impl Conformance for TopK {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, cols) = (picks.size(33), picks.size(4097));
        let k = picks.one(&[1, 0, 2, 7, 40, 64, usize::MAX]).min(cols);
        let op = TopK {
            k,
            dtype: picks.one(&FLOATS),
        };
        let generator = picks.one(&RANK_GENERATORS);
        let x = picks.one(&Layout::ROWS);
        Case::new(
            op,
            vec![
                Operand::out(&[rows, k]),
                Operand::out(&[rows, k]),
                Operand::random(&[rows, cols], generator).layout(x),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let outputs = self.reference(shapes, inputs);
        outputs.into_iter().map(Expected::Bits).collect()
    }
}
