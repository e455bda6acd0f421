//! What results must not depend on: the run, other streams, and what else is in the batch.
//!
//! Determinism and batch invariance are *found*, per operation, not required: a device may trade them for speed, but a
//! report must say so.

use std::fmt;

use hal::{DType, ErrorKind, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{
    Accelerator, Act, Activation, AddLayerNorm, AddRmsNorm, Argmax, Embedding, Glu, Half,
    LayerNorm, Matmul, RmsNorm, Rope, RopeLayout, Sample, SampleControl, Softmax, TopK,
};

use crate::lab::{Lab, normal};
use crate::{Case, Conformance, Suite};

/// What one operation's results depend on; `None` where the device could not be asked, or where rows have no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// The operation.
    pub op: &'static str,
    /// Whether runs, one after the other and two at once on two streams, give the same bits.
    pub deterministic: Option<bool>,
    /// Whether a row gives the same bits alone and in a batch.
    pub batch_invariant: Option<bool>,
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |found: Option<bool>, yes: &'static str, no: &'static str| match found {
            Some(true) => yes,
            Some(false) => no,
            None => "-",
        };
        write!(
            f,
            "{}: {}, {}",
            self.op,
            say(self.deterministic, "deterministic", "NOT deterministic"),
            say(
                self.batch_invariant,
                "batch-invariant",
                "NOT batch-invariant"
            )
        )
    }
}

/// Every operation's discipline.
///
/// # Errors
/// What the device reports, `Unsupported` aside.
pub fn discipline(accelerator: &Accelerator) -> Result<Vec<Discipline>> {
    let lab = Lab::new(accelerator);
    let invariance = batch_invariance(&lab)?;
    let of_op = |op: &'static str| {
        let found = invariance.iter().find(|(name, _)| *name == op);
        found.and_then(|(_, invariant)| *invariant)
    };
    let mut all = Vec::new();
    macro_rules! each {
        ($($name:ident $op:ident),*) => {
            $(all.push(Discipline {
                op: stringify!($name),
                deterministic: determinism::<ops::$op>(&lab.suite)?,
                batch_invariant: of_op(stringify!($name)),
            });)*
        };
    }
    crate::for_each_op!(each);
    Ok(all)
}

/// Three runs of some standard cases: one alone, then two at once on two threads' streams.
pub(crate) fn determinism<O: Conformance>(suite: &Suite) -> Result<Option<bool>> {
    let mut found = None;
    for case in sample::<O>() {
        let run = || bits(suite, &case);
        let Some(alone) = run()? else { continue };
        let at_once = std::thread::scope(|scope| {
            let others = [scope.spawn(run), scope.spawn(run)];
            others.map(|other| other.join().expect("running a case does not panic"))
        });
        for other in at_once {
            let same = other?.as_ref() == Some(&alone);
            found = Some(found.unwrap_or(true) && same);
        }
    }
    Ok(found)
}

/// Some standard cases, from all over the list.
pub(crate) fn sample<O: Conformance>() -> Vec<Case<O>> {
    const CASES: usize = 6;
    let cases = O::cases();
    let step = cases.len().div_ceil(CASES).max(1);
    cases.into_iter().step_by(step).collect()
}

/// The outputs' bits.
fn bits<O: Conformance>(suite: &Suite, case: &Case<O>) -> Result<Option<Vec<Vec<u64>>>> {
    let of = |t: Tensor| t.data.iter().map(|x| x.to_bits()).collect();
    match suite.outputs(case) {
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
        outputs => Ok(Some(outputs?.into_iter().map(of).collect())),
    }
}

/// Rows of a batch that are also run alone.
const BATCH: usize = 9;

/// Inputs that have one row per row of the result, as the dimension that counts rows; others are the same for all.
type Rows<'a> = &'a [(Tensor, Option<usize>)];

/// Whether each row alone gives what it gives in the batch. `out` makes the outputs' shapes for a number of rows, with
/// rows in the dimension that is given.
fn alone<O: Conformance>(
    lab: &Lab,
    op: O,
    out: impl Fn(usize) -> Vec<Vec<usize>>,
    out_dim: usize,
    inputs: Rows<'_>,
) -> Result<(&'static str, Option<bool>)> {
    let run = |m: usize, inputs: Vec<Tensor>| {
        let shapes = out(m);
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        lab.run(op.clone(), &shapes, &inputs)
    };
    let all = inputs.iter().map(|(tensor, _)| tensor.clone()).collect();
    let Some(batch) = run(BATCH, all)? else {
        return Ok((O::NAME, None));
    };
    for r in 0..BATCH {
        let of_row = |(tensor, dim): &(Tensor, Option<usize>)| match dim {
            Some(dim) => slice(tensor, *dim, r),
            None => tensor.clone(),
        };
        let Some(single) = run(1, inputs.iter().map(of_row).collect())? else {
            return Ok((O::NAME, None));
        };
        for (batch, single) in batch.iter().zip(&single) {
            let row = slice(batch, out_dim, r);
            let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
            if !row.data.iter().zip(&single.data).all(same) {
                return Ok((O::NAME, Some(false)));
            }
        }
    }
    Ok((O::NAME, Some(true)))
}

/// Index `r` of dimension `dim`.
fn slice(tensor: &Tensor, dim: usize, r: usize) -> Tensor {
    let inner: usize = tensor.shape[dim + 1..].iter().product();
    let n = tensor.shape[dim];
    let mut shape = tensor.shape.clone();
    shape[dim] = 1;
    let kept = tensor
        .data
        .iter()
        .enumerate()
        .filter(|(i, _)| i / inner % n == r);
    Tensor::new(&shape, kept.map(|(_, &x)| x).collect())
}

pub(crate) fn batch_invariance(lab: &Lab) -> Result<Vec<(&'static str, Option<bool>)>> {
    const DIM: usize = 515;
    let dtype = DType::F32;
    let matrix = |label: &str, cols: usize| (normal(&[BATCH, cols], label), Some(0));
    let shared = |shape: &[usize], label: &str| (normal(shape, label), None);
    let rows = |cols: usize| move |m: usize| vec![vec![m, cols]];
    let two = |m: usize| vec![vec![m, DIM]; 2];
    let ids: Vec<f64> = (0..BATCH).map(|r| (r * 5 % 20) as f64).collect();
    let control = |r: usize| SampleControl {
        temperature: 0.9,
        top_p: 0.95,
        repetition_penalty: 1.0,
        top_k: 0,
        seed: 11,
        step: r as u32,
    };
    let floats = (0..BATCH).flat_map(|r| control(r).floats().map(f64::from));
    let ints = (0..BATCH).flat_map(|r| control(r).ints().map(f64::from));
    let list = |data: Vec<f64>, cols: usize| (Tensor::new(&[BATCH, cols], data), Some(0));
    Ok(vec![
        alone(
            lab,
            Matmul::new(70, DIM, dtype, WeightFormat::Dense(dtype)),
            rows(70),
            0,
            &[matrix("x", DIM), shared(&[70, DIM], "w")],
        )?,
        alone(
            lab,
            Softmax {
                dtype,
                scale: 0.5,
                mask: None,
            },
            |m| vec![vec![1, m, DIM]],
            1,
            &[(normal(&[1, BATCH, DIM], "softmax"), Some(1))],
        )?,
        alone(
            lab,
            RmsNorm {
                dim: DIM,
                dtype,
                eps: 1e-5,
            },
            rows(DIM),
            0,
            &[matrix("x", DIM), shared(&[DIM], "w")],
        )?,
        alone(
            lab,
            LayerNorm {
                dim: DIM,
                dtype,
                eps: 1e-5,
            },
            rows(DIM),
            0,
            &[matrix("x", DIM), shared(&[DIM], "w"), shared(&[DIM], "b")],
        )?,
        alone(
            lab,
            AddRmsNorm {
                dim: DIM,
                dtype,
                eps: 1e-5,
                alpha: 1.0,
            },
            two,
            0,
            &[matrix("x", DIM), matrix("r", DIM), shared(&[DIM], "w")],
        )?,
        alone(
            lab,
            AddLayerNorm {
                dim: DIM,
                dtype,
                eps: 1e-5,
                alpha: 1.0,
            },
            two,
            0,
            &[
                matrix("x", DIM),
                matrix("r", DIM),
                shared(&[DIM], "w"),
                shared(&[DIM], "b"),
            ],
        )?,
        alone(
            lab,
            Glu {
                dim: DIM,
                act: Act::Silu,
                gate: Half::First,
                limit: None,
                dtype,
            },
            rows(DIM),
            0,
            &[matrix("x", 2 * DIM)],
        )?,
        alone(
            lab,
            Activation {
                act: Act::GeluErf,
                dtype,
            },
            rows(DIM),
            0,
            &[matrix("x", DIM)],
        )?,
        alone(
            lab,
            Rope {
                head_dim: 64,
                rotary_dim: 32,
                streams: 1,
                layout: RopeLayout::Interleaved,
                dtype,
            },
            |m| vec![vec![m, 3, 64]],
            0,
            &[
                (normal(&[BATCH, 3, 64], "x"), Some(0)),
                (Tensor::new(&[1, BATCH], ids.clone()), Some(1)),
                shared(&[20, 16], "cos"),
                shared(&[20, 16], "sin"),
            ],
        )?,
        alone(
            lab,
            Embedding {
                vocab: 20,
                dim: DIM,
                table: WeightFormat::Dense(dtype),
                out: dtype,
                tied: false,
            },
            rows(DIM),
            0,
            &[
                (Tensor::new(&[BATCH], ids), Some(0)),
                shared(&[20, DIM], "table"),
            ],
        )?,
        alone(
            lab,
            Argmax { dtype },
            |m| vec![vec![m]],
            0,
            &[matrix("x", DIM)],
        )?,
        alone(
            lab,
            TopK { k: 7, dtype },
            |m| vec![vec![m, 7]; 2],
            0,
            &[matrix("x", DIM)],
        )?,
        alone(
            lab,
            Sample { vocab: DIM },
            |m| vec![vec![m]],
            0,
            &[
                matrix("logits", DIM),
                list(floats.collect(), 3),
                list(ints.collect(), 4),
                list(vec![1.0; BATCH], 1),
                (Tensor::new(&[BATCH], vec![1.0; BATCH]), Some(0)),
            ],
        )?,
    ])
}
