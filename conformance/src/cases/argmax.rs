//! Cases of [`Argmax`]. Nothing is rounded, so indices are exact, ties included.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Argmax, Op};

use super::{Conformance, FLOATS, RANK_GENERATORS};
use crate::{Case, Expected, Layout, Operand, Picks};

impl Conformance for Argmax {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, cols) = (picks.size(33), picks.size_from_1(4097));
        let op = Argmax {
            dtype: picks.one(&FLOATS),
        };
        let generator = picks.one(&RANK_GENERATORS);
        let x = picks.one(&Layout::ROWS);
        Case::new(
            op,
            vec![
                Operand::out(&[rows]),
                Operand::random(&[rows, cols], generator).layout(x),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let outputs = self.reference(shapes, inputs);
        outputs.into_iter().map(Expected::Bits).collect()
    }
}
