//! One operation on given numbers: what probes and properties are made of.

use hal::{DType, ErrorKind, Numerics, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Matmul, Role};

use crate::bound::digits;
use crate::number::power_of_two;
use crate::{Case, Conformance, Operand, Rng, Suite};

/// A device to ask.
pub(crate) struct Lab {
    pub(crate) suite: Suite,
}

impl Lab {
    pub(crate) fn new(accelerator: &Accelerator) -> Self {
        Self {
            suite: Suite::new(accelerator.clone()),
        }
    }

    /// Runs `op`; `out` are the shapes of pure outputs, `inputs` all other arguments, both in order. Inputs are rounded
    /// to storage on the way. `None` when the device has no way to do it.
    ///
    /// # Errors
    /// What the device reports.
    pub(crate) fn run<O: Conformance>(
        &self,
        op: O,
        out: &[&[usize]],
        inputs: &[Tensor],
    ) -> Result<Option<Vec<Tensor>>> {
        let (mut out, mut inputs) = (out.iter(), inputs.iter());
        let signature = op.signature();
        let operand = |arg: &ops::Arg| match arg.role {
            Role::Out => Operand::out(out.next().expect("a shape per output")),
            _ => {
                let input = inputs.next().expect("a tensor per input");
                Operand::values(&input.shape, input.data.clone())
            }
        };
        let operands = signature.iter().map(operand).collect();
        match self.suite.outputs(&Case::new(op, operands)) {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            outputs => outputs.map(Some),
        }
    }

    fn card(&self) -> &Numerics {
        &self.suite.accelerator().device.info().numerics
    }

    /// The float types that the device takes.
    pub(crate) fn floats(&self) -> Vec<DType> {
        self.card().floats.clone()
    }

    /// Whether the device's card says that products are added up in less than f32.
    pub(crate) fn sums_narrowly(&self) -> bool {
        digits(self.card().accumulator) < 24
    }

    /// Bits that products keep by the device's card.
    fn bits(&self) -> u32 {
        self.card()
            .operand_bits
            .min(digits(self.card().accumulator))
    }

    /// Whether products keep less than f32 by the device's card.
    pub(crate) fn keeps_less(&self) -> bool {
        self.bits() < 24
    }

    /// What products lose by the device's card, relatively: nothing in f32.
    pub(crate) fn loss(&self) -> f64 {
        match self.keeps_less() {
            true => power_of_two(-(self.bits() as i32)),
            false => 0.0,
        }
    }

    /// A tolerance for what is f32 but for the products' declared loss: that of some tens of roundings.
    pub(crate) fn tolerance(&self, f32: f64) -> f64 {
        f32.max(64.0 * self.loss())
    }

    /// Normal random numbers that products keep.
    pub(crate) fn normal(&self, shape: &[usize], label: &str) -> Tensor {
        let bits = self.bits() as i32;
        normal(shape, label).map(|x| {
            let grid = power_of_two(f64::log2(x.abs()).floor() as i32 - bits + 1);
            match bits < 24 && x != 0.0 {
                true => (x / grid).round() * grid,
                false => x,
            }
        })
    }

    /// Integers whose sums are exact by the device's card: in [−8, 8], of narrow sums in [−1, 1].
    pub(crate) fn integers(&self, shape: &[usize], label: &str) -> Tensor {
        match self.sums_narrowly() {
            true => integers(shape, label).map(|x| (x / 8.0).round()),
            false => integers(shape, label),
        }
    }

    /// One product `Σ x·w` of operands stored as `dtype`, in f32.
    pub(crate) fn product(&self, dtype: DType, x: &[f64], w: &[f64]) -> Result<Option<f64>> {
        let op = Matmul {
            out: DType::F32,
            ..Matmul::new(1, x.len(), dtype, WeightFormat::Dense(dtype))
        };
        let row = |values: &[f64]| Tensor::new(&[1, values.len()], values.to_vec());
        let outputs = self.run(op, &[&[1, 1]], &[row(x), row(w)])?;
        Ok(outputs.map(|outputs| outputs[0].data[0]))
    }
}

/// Normal random numbers that f32 holds.
pub(crate) fn normal(shape: &[usize], label: &str) -> Tensor {
    let mut rng = Rng::of(label);
    let len = shape.iter().product();
    Tensor::new(
        shape,
        (0..len).map(|_| f64::from(rng.normal() as f32)).collect(),
    )
}

/// Integers in [−8, 8]: their sums are exact in f32, whatever the order.
pub(crate) fn integers(shape: &[usize], label: &str) -> Tensor {
    let mut rng = Rng::of(label);
    let len = shape.iter().product();
    Tensor::new(
        shape,
        (0..len).map(|_| rng.below(17) as f64 - 8.0).collect(),
    )
}
