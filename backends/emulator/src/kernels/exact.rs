//! Operations that only move or compare numbers: no arithmetic, so nothing to round.

use hal::WeightFormat;
use ops::reference::Tensor;
use ops::{Argmax, Cast, Embedding, KvWrite, Op, StridedCopy, TopK};

use super::{Kernel, Math};

macro_rules! moved {
    ($($op:ident),*) => {
        $(impl Kernel for $op {
            fn compute(&self, _: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
                self.reference(shapes, inputs)
            }
        })*
    };
}
moved!(Argmax, Cast, KvWrite, StridedCopy, TopK);

impl Kernel for Embedding {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut rows = self.reference(shapes, inputs);
        if !matches!(self.table, WeightFormat::Dense(_)) {
            // The product of an element and its scale.
            rows[0] = rows[0].map(|x| math.put(x as f32));
        }
        rows
    }
}
