//! One case: an operation's specification, and for each argument its shape, layout and data.

use std::fmt;
use std::sync::Arc;

use ops::HostWeight;

use ops::Role;

use crate::{Generator, Rng};

/// Where the elements of an argument lie in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major, at an aligned address.
    Contiguous,
    /// Row-major, this many elements past an aligned address.
    Offset(usize),
    /// Dense rows with this many elements between them.
    Padded(usize),
    /// Row-major with every second element unused, so that no dimension is dense.
    Spread,
    /// Dimensions stored in reverse order.
    Transposed,
    /// Every index of the first dimension names the same elements. Inputs only.
    Repeated,
    /// The very view of this argument. Outputs only.
    InPlace(usize),
}

impl Layout {
    /// Layouts of an argument with dense rows.
    pub(crate) const ROWS: [Layout; 3] = [Layout::Contiguous, Layout::Padded(3), Layout::Offset(1)];

    /// Layouts of an output with any strides.
    pub(crate) const STRIDED: [Layout; 5] = [
        Layout::Contiguous,
        Layout::Padded(5),
        Layout::Transposed,
        Layout::Spread,
        Layout::Offset(1),
    ];

    /// Layouts of an input with any strides.
    pub(crate) const ANY: [Layout; 6] = [
        Layout::Contiguous,
        Layout::Padded(5),
        Layout::Repeated,
        Layout::Transposed,
        Layout::Spread,
        Layout::Offset(1),
    ];

    /// Offset and strides, in elements, of an argument of this shape.
    pub fn place(self, shape: &[usize]) -> (usize, Vec<usize>) {
        let mut strides = vec![0; shape.len()];
        let mut next = if self == Layout::Spread { 2 } else { 1 };
        let last = shape.len().saturating_sub(1);
        for i in 0..shape.len() {
            let dim = if self == Layout::Transposed {
                i
            } else {
                last - i
            };
            strides[dim] = next;
            next *= shape[dim].max(1);
            if let Layout::Padded(gap) = self
                && dim == last
            {
                next += gap;
            }
        }
        if self == Layout::Repeated && !shape.is_empty() {
            strides[0] = 0;
        }
        match self {
            Layout::Offset(elements) => (elements, strides),
            _ => (0, strides),
        }
    }
}

/// Where the data of an argument come from.
#[derive(Clone, Debug)]
pub(crate) enum Fill {
    /// Nowhere: a pure output.
    None,
    /// A generator, seeded by the case.
    Random(Generator),
    /// These, row-major.
    Values(Vec<f64>),
    /// This one, as it is.
    Weight(Arc<HostWeight<'static>>),
}

/// One argument of a case.
#[derive(Clone)]
pub struct Operand {
    /// Lengths of the dimensions; of a weight, rows and columns.
    pub shape: Vec<usize>,
    /// Where the elements lie.
    pub layout: Layout,
    pub(crate) fill: Fill,
}

impl Operand {
    fn new(shape: &[usize], fill: Fill) -> Self {
        Self {
            shape: shape.to_vec(),
            layout: Layout::Contiguous,
            fill,
        }
    }

    /// An output.
    pub fn out(shape: &[usize]) -> Self {
        Self::new(shape, Fill::None)
    }

    /// An input, or a weight `[rows, cols]`, of random numbers.
    pub fn random(shape: &[usize], generator: Generator) -> Self {
        Self::new(shape, Fill::Random(generator))
    }

    /// An input of given numbers, row-major.
    pub fn values(shape: &[usize], values: Vec<f64>) -> Self {
        Self::new(shape, Fill::Values(values))
    }

    /// A given weight.
    pub fn weight(weight: HostWeight<'static>) -> Self {
        let shape = [weight.rows, weight.cols];
        Self::new(&shape, Fill::Weight(Arc::new(weight)))
    }

    /// Places it in another layout.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }
}

impl fmt::Debug for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shape)?;
        match &self.fill {
            Fill::None => {}
            Fill::Random(generator) => write!(f, " {generator}")?,
            Fill::Values(_) | Fill::Weight(_) => f.write_str(" given")?,
        }
        match self.layout {
            Layout::Contiguous => Ok(()),
            layout => write!(f, " {layout:?}"),
        }
    }
}

/// One launch of one operation, and the data for it.
#[derive(Clone, Debug)]
pub struct Case<O> {
    /// What is computed.
    pub op: O,
    /// The arguments in the signature's order.
    pub operands: Vec<Operand>,
    /// Chooses among the random numbers that this case may have. Weights do not depend on it.
    pub(crate) draw: u32,
}

impl<O: ops::Op> Case<O> {
    /// A case of `op` with its arguments in the signature's order.
    ///
    /// # Panics
    /// When their number does not fit.
    pub fn new(op: O, operands: Vec<Operand>) -> Self {
        assert_eq!(op.signature().len(), operands.len(), "arguments of {op:?}");
        Self {
            op,
            operands,
            draw: 0,
        }
    }

    /// Elements of all arguments.
    pub fn elements(&self) -> usize {
        let lengths = self
            .operands
            .iter()
            .map(|o| o.shape.iter().product::<usize>());
        lengths.sum()
    }

    /// The same with normal random numbers in place of every generator's.
    #[must_use]
    pub fn normal(mut self) -> Self {
        for operand in &mut self.operands {
            if let Fill::Random(generator) = &mut operand.fill {
                *generator = Generator::Normal;
            }
        }
        self
    }

    /// Names the case within one version of the suite, and seeds its data.
    pub fn id(&self) -> String {
        format!("{:?} {:?}", self.op, self.operands)
    }

    /// The random numbers of argument `i`.
    pub(crate) fn rng(&self, i: usize) -> Rng {
        let id = self.id();
        match (self.draw, &self.op.signature()[i].role) {
            (0, _) | (_, Role::Weight(_)) => Rng::of(&format!("{id} {i}")),
            (draw, _) => Rng::of(&format!("{id} {i} {draw}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_place_elements_apart() {
        for layout in Layout::STRIDED {
            for shape in [&[2, 3][..], &[1], &[], &[2, 1, 3, 2], &[0, 4]] {
                let (offset, strides) = layout.place(shape);
                let mut seen = std::collections::BTreeSet::new();
                for at in crate::bench::offsets(shape, &strides) {
                    assert!(seen.insert(offset + at), "{layout:?} {shape:?} {strides:?}");
                }
                assert_eq!(seen.len(), shape.iter().product::<usize>());
            }
        }
        assert_eq!(Layout::Padded(3).place(&[2, 5]), (0, vec![8, 1]));
        assert_eq!(Layout::Transposed.place(&[2, 5]), (0, vec![1, 2]));
        assert_eq!(Layout::Repeated.place(&[2, 5]), (0, vec![0, 1]));
        assert_eq!(Layout::Offset(1).place(&[2, 5]), (1, vec![5, 1]));
        assert_eq!(Layout::Spread.place(&[2, 5]), (0, vec![10, 2]));
    }
}
