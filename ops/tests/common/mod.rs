//! Arguments on the null device: valid ones for a case of the conformance suite.

use conformance::{Case, Conformance, Layout};
use hal::null::NullDevice;
use hal::{Buffer, DType, Device, View};
use ops::{Arg, ArgList, Role};

/// One argument, described so that tests can spoil it.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) arg: Arg,
    pub(crate) buffer: Buffer,
    pub(crate) dtype: DType,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl Spec {
    pub(crate) fn view(&self) -> View<'_> {
        let offset_bytes = self.offset * self.dtype.bytes();
        View::strided(
            &self.buffer,
            offset_bytes,
            self.dtype,
            &self.shape,
            &self.strides,
        )
        .unwrap()
    }
}

/// Arguments of `case` on `device`; every buffer has room for one more of each index and for wider elements.
pub(crate) fn arguments<O: Conformance>(case: &Case<O>, device: &NullDevice) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for (arg, operand) in case.op.signature().into_iter().zip(&case.operands) {
        let packed = matches!(arg.role, Role::Weight(_));
        let shape = match packed {
            true => vec![64],
            false => operand.shape.clone(),
        };
        let (offset, strides) = operand.layout.place(&shape);
        let reach: usize = shape.iter().zip(&strides).map(|(n, s)| (n + 1) * s).sum();
        specs.push(Spec {
            arg,
            buffer: device.alloc((offset + reach + 2) * 4).unwrap(),
            dtype: arg.dtype,
            offset,
            shape,
            strides,
        });
    }
    for (i, operand) in case.operands.iter().enumerate() {
        if let Layout::InPlace(input) = operand.layout {
            specs[i] = Spec {
                arg: specs[i].arg,
                ..specs[input].clone()
            };
        }
    }
    specs
}

/// The views of `specs`.
pub(crate) fn views(specs: &[Spec]) -> ArgList<'_> {
    specs.iter().map(Spec::view).collect()
}
