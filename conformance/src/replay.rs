//! One launch that somebody recorded, run again on a device and judged by the bounds of its operation.
//!
//! A recorded launch has the sizes and the numbers of a real model, where generated cases have small and odd ones.

use hal::{Error, Result};
use ops::{Op, Role};
use serde_json::Value;

use crate::case::{Case, Fill, Layout, Operand};
use crate::cases::Conformance;
use crate::outcome::Outcome;
use crate::suite::{Suite, Truth};

/// The most elements of one launch: the reference holds each in some 30 bytes.
const MAX_ELEMENTS: usize = 1 << 27;

/// The largest size in a specification.
const MAX_SIZE: u64 = 1 << 31;

impl Suite {
    /// Runs the operation named `op` of this specification (JSON, as its type in `ops` is written) and judges the outputs.
    ///
    /// # Errors
    /// `NotFound` for an operation that does not exist; `Corrupt` for a specification or operands that do not fit it;
    /// `Unsupported` for more elements than the reference can hold. What the device does is in the outcome.
    pub fn replay(&self, op: &str, spec: &Value, operands: Vec<Operand>) -> Result<Outcome> {
        macro_rules! by_name {
            ($($name:ident $op:ident),*) => {
                match op {
                    $(ops::$op::NAME => self.replay_as::<ops::$op>(spec, operands),)*
                    _ => Err(Error::new(
                        hal::ErrorKind::NotFound,
                        "replay a launch",
                        format!("there is no operation '{op}'"),
                    )
                    .next_step("trace again with this version")),
                }
            };
        }
        crate::for_each_op!(by_name)
    }

    fn replay_as<O: Conformance>(&self, spec: &Value, operands: Vec<Operand>) -> Result<Outcome> {
        let corrupt = |why: String| {
            Error::corrupt(format!("replay {}", O::NAME), why)
                .next_step("trace again: the file was changed, or another version wrote it")
        };
        let sizes = spec.as_object().into_iter().flat_map(|o| o.values());
        if let Some(size) = sizes
            .filter_map(Value::as_u64)
            .find(|n| !(1..=MAX_SIZE).contains(n))
        {
            return Err(corrupt(format!("a size of {size} in {spec}")));
        }
        let op: O = serde_json::from_value(spec.clone()).map_err(|e| corrupt(e.to_string()))?;
        let signature = op.signature();
        if signature.len() != operands.len() {
            return Err(corrupt(format!(
                "{} arguments, {op:?} has {}",
                operands.len(),
                signature.len()
            )));
        }
        let mut elements = 0usize;
        for (i, (arg, operand)) in signature.iter().zip(&operands).enumerate() {
            let len = operand
                .shape
                .iter()
                .try_fold(1usize, |n, &d| n.checked_mul(d));
            elements = elements.saturating_add(len.unwrap_or(usize::MAX));
            let fits = match (&operand.fill, arg.role) {
                (Fill::None, Role::Out) => true,
                (Fill::Values(values), Role::In | Role::InOut) => len == Some(values.len()),
                (Fill::Weight(weight), Role::Weight(format)) => {
                    weight.format == format && Some([weight.rows, weight.cols]) == op.weight_shape()
                }
                _ => false,
            };
            let placed = match operand.layout {
                Layout::InPlace(input) => operands
                    .get(input)
                    .is_some_and(|o| op.in_place(i, input) && o.shape == operand.shape),
                _ => true,
            };
            if !fits || !placed {
                return Err(corrupt(format!("{} is {operand:?}", arg.name)));
            }
        }
        if elements > MAX_ELEMENTS {
            return Err(Error::unsupported(
                format!("replay {}", O::NAME),
                format!("{elements} elements; the f64 reference takes at most {MAX_ELEMENTS}"),
            )
            .next_step("trace a shorter prompt"));
        }
        Ok(self.judge(&Case::new(op, operands), &Truth::default()))
    }
}
