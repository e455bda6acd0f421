//! Properties that right results have among themselves: no reference is computed, so they cost what the device costs.
//!
//! Where a property says *equal*, every arithmetic class must make it so (small integers, powers of two, copies);
//! otherwise results agree up to a few roundings of their type.
//!
//! One file per family of operations.

mod attention;
mod elementwise;
mod exact;
mod matmul;
mod norm;
mod rope;
mod sample;

use std::collections::BTreeMap;
use std::fmt;

use hal::{DType, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Argmax};

use crate::lab::Lab;

/// What became of one property.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not: where, and by how much.
    Broken(String),
    /// The device has no way to do the operation.
    Unsupported,
    /// The device reported this.
    Failed(String),
}

/// One property of one operation.
#[derive(Clone, Debug)]
pub struct Property {
    /// The operation.
    pub op: &'static str,
    /// What should hold.
    pub name: &'static str,
    /// Whether it does.
    pub verdict: Verdict,
}

impl Property {
    /// Whether it holds, or could not be asked.
    pub fn is_fine(&self) -> bool {
        matches!(self.verdict, Verdict::Holds | Verdict::Unsupported)
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.op, self.name)?;
        match &self.verdict {
            Verdict::Holds => f.write_str("holds"),
            Verdict::Broken(why) => write!(f, "broken: {why}"),
            Verdict::Unsupported => f.write_str("unsupported"),
            Verdict::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// `Some(Ok)` when it holds, `None` when it could not be asked.
type Held = Result<Option<Result<(), String>>>;
type Test = fn(&Lab) -> Held;

/// An operation, what should hold of it, and how that is tried.
type Row = (&'static str, &'static str, Test);

/// Every property, by family.
fn tests() -> impl Iterator<Item = &'static Row> {
    [
        matmul::TESTS,
        attention::TESTS,
        rope::TESTS,
        norm::TESTS,
        elementwise::TESTS,
        exact::TESTS,
        sample::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Every property, tried on `accelerator`.
pub fn properties(accelerator: &Accelerator) -> Vec<Property> {
    properties_of(accelerator, |_| true)
}

/// The properties of operations that `keep` keeps.
pub fn properties_of(accelerator: &Accelerator, keep: impl Fn(&str) -> bool) -> Vec<Property> {
    let lab = Lab::new(accelerator);
    let ask = |&(op, name, test): &Row| Property {
        op,
        name,
        verdict: match test(&lab) {
            Ok(Some(Ok(()))) => Verdict::Holds,
            Ok(Some(Err(why))) => Verdict::Broken(why),
            Ok(None) => Verdict::Unsupported,
            Err(e) => Verdict::Failed(format!("{e:?}")),
        },
    };
    tests().filter(|test| keep(test.0)).map(ask).collect()
}

/// What became of one property: `None` when the device could not be asked.
type Answer = (&'static str, Option<Result<(), String>>);

/// The properties of `op`, with the device's errors as errors.
pub(crate) fn ask(accelerator: &Accelerator, op: &str) -> Result<Vec<Answer>> {
    let lab = Lab::new(accelerator);
    tests()
        .filter(|test| test.0 == op)
        .map(|(_, name, test)| Ok((*name, test(&lab)?)))
        .collect()
}

/// The operations, and what should hold of each.
pub(crate) fn names() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for (op, name, _) in tests() {
        names.entry(*op).or_default().push(*name);
    }
    names
}

/// Requires equal bits.
fn equal(got: &[f64], want: &[f64]) -> Result<(), String> {
    close(got, want, 0.0)
}

/// Requires agreement up to `tolerance` times the largest magnitude.
fn close(got: &[f64], want: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, not {}", got.len(), want.len()));
    }
    let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (&a, &b)) in got.iter().zip(want).enumerate() {
        let same = match tolerance {
            0.0 => {
                a.to_bits() == b.to_bits() || (a == 0.0 && b == 0.0) || (a.is_nan() && b.is_nan())
            }
            _ => (a - b).abs() <= tolerance * scale,
        };
        if !same {
            return Err(format!("element {i} is {a:e}, expected {b:e}"));
        }
    }
    Ok(())
}

/// The first output, or "could not be asked".
macro_rules! first {
    ($outputs:expr) => {
        match $outputs? {
            Some(mut outputs) => outputs.swap_remove(0),
            None => return Ok(None),
        }
    };
}
use first;

/// Stops at the first thing that does not hold.
macro_rules! require {
    ($held:expr) => {
        if let Err(why) = $held {
            return Ok(Some(Err(why)));
        }
    };
}
use require;

const HOLDS: Held = Ok(Some(Ok(())));
const F32: WeightFormat = WeightFormat::Dense(DType::F32);

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec())
}

/// `m` rows of `tensor` from row `start`.
fn rows(tensor: &Tensor, start: usize, m: usize) -> Tensor {
    let per = tensor.data.len() / tensor.shape[0].max(1);
    let mut shape = tensor.shape.clone();
    shape[0] = m;
    Tensor::new(&shape, tensor.data[start * per..(start + m) * per].to_vec())
}

/// Rows of the first dimension in this order.
fn reordered(tensor: &Tensor, order: &[usize]) -> Tensor {
    let picked = order.iter().flat_map(|&r| rows(tensor, r, 1).data);
    let mut shape = tensor.shape.clone();
    shape[0] = order.len();
    Tensor::new(&shape, picked.collect())
}

/// One tensor after the other along the first dimension.
fn joined(a: &Tensor, b: &Tensor) -> Tensor {
    let mut shape = a.shape.clone();
    shape[0] += b.shape[0];
    Tensor::new(&shape, [&a.data[..], &b.data].concat())
}

fn backwards(n: usize) -> Vec<usize> {
    (0..n).rev().collect()
}

fn largest(lab: &Lab, x: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let op = Argmax { dtype: DType::F32 };
    lab.run(op, &[&[x.shape[0]]], std::slice::from_ref(x))
}
