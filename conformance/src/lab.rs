//! One operation on given numbers: what probes and properties are made of.

use hal::{DType, ErrorKind, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Matmul, Role};

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
