//! Cases of [`StridedCopy`]: bit-exact, any strides, any type.

use hal::{DType, Numerics};
use ops::StridedCopy;
use ops::reference::Tensor;

use super::{Conformance, EXACT_GENERATORS, strided_shape};
use crate::{Case, Expected, Layout, Operand, Picks};

impl Conformance for StridedCopy {
    fn case(picks: &mut Picks) -> Case<Self> {
        let shape = strided_shape(picks);
        let dtype = picks.one(&DType::ALL);
        let generator = picks.one(&EXACT_GENERATORS);
        let (out, x) = (picks.one(&Layout::STRIDED), picks.one(&Layout::ANY));
        Case::new(
            StridedCopy { dtype },
            vec![
                Operand::out(&shape).layout(out),
                Operand::random(&shape, generator).layout(x),
            ],
        )
    }

    fn expect(&self, _shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        vec![Expected::Bits(inputs[0].clone())]
    }
}
