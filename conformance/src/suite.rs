//! Runs cases on an accelerator and judges the results.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hal::{DType, Device, Error, ErrorKind, Numerics, Result, WeightFormat};
use ops::kv_cache::decode;
use ops::reference::Tensor;
use ops::{Accelerator, Arg, Context, How, Role};

use crate::bench::{Bench, Launches, POISON};
use crate::bound::{Bound, Expected};
use crate::case::Case;
use crate::cases::Conformance;
use crate::number::spacing;
use crate::outcome::{Metrics, Outcome, Report, Status, Worst};
use crate::{Catalogue, Level, Levels, Selection};

/// The cases of all operations, run on one accelerator.
#[derive(Debug)]
pub struct Suite {
    context: Context,
    accelerator: Accelerator,
    /// Whether the user allowed operations on the host.
    host_asked: bool,
    ceilings: OnceLock<[f64; 2]>,
}

impl Suite {
    /// The suite on `accelerator` alone.
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            context: Context::new(accelerator.clone()),
            accelerator,
            host_asked: false,
            ceilings: OnceLock::new(),
        }
    }

    /// What is tried.
    pub fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// Where operations are planned.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The same with operations that the accelerator lacks run on `host`.
    #[must_use]
    pub fn with_host_fallback(self, host: Accelerator) -> Self {
        Self {
            context: self.context.with_host_fallback(host),
            host_asked: true,
            ..self
        }
    }

    /// The standard cases of `O`, without those of a cache of int8 for a device that declares none.
    pub fn cases<O: Conformance>(&self) -> impl Iterator<Item = Case<O>> {
        let takes = |case: &Case<O>| self.takes_cache(&case.op);
        O::cases().into_iter().filter(takes)
    }

    /// Runs every case of `O`.
    pub fn run<O: Conformance>(&self) -> Report {
        self.run_where::<O>(|_| true)
    }

    /// Runs the cases of `O` that `keep` keeps.
    pub fn run_where<O: Conformance>(&self, keep: impl Fn(&Case<O>) -> bool) -> Report {
        let cases = self.cases::<O>().filter(keep);
        Report {
            outcomes: cases.map(|case| self.run_case(&case)).collect(),
        }
    }

    /// Runs the first few cases of `O` that are small: for tools that watch every access and are slow.
    pub fn run_small<O: Conformance>(&self, cases: usize) -> Report {
        /// Elements that all arguments of a case may have together.
        const SMALL: usize = 6000;
        /// One argument at least has more: cases without work show nothing.
        const WORK: usize = 40;
        let is_small = |case: &Case<O>| {
            let lengths = case.operands.iter().map(|o| o.shape.iter().product());
            let lengths: Vec<usize> = lengths.collect();
            lengths.iter().sum::<usize>() < SMALL && lengths.iter().any(|&n| n > WORK)
        };
        let small = self.cases::<O>().filter(is_small).take(cases);
        Report {
            outcomes: small.map(|case| self.run_case(&case)).collect(),
        }
    }

    /// Runs every standard check of one level, operations or not.
    pub fn run_level(&self, level: Level) -> Report {
        let selection = Selection {
            levels: Levels {
                first: level,
                last: level,
            },
            ..Selection::default()
        };
        let catalogue = Catalogue::new(&selection, Vec::new());
        let catalogue = catalogue.expect("no pattern is wrong where there is none");
        Report {
            outcomes: catalogue.checks().iter().map(|c| c.run(self)).collect(),
        }
    }

    /// Runs one case.
    pub fn run_case<O: Conformance>(&self, case: &Case<O>) -> Outcome {
        self.judge(case, &Truth::default())
    }

    /// Runs one case and judges it by `truth`, which is of this case and is filled in when it is empty: what a case
    /// must give depends on the device's card alone, so devices of one card can share it.
    pub fn judge<O: Conformance>(&self, case: &Case<O>, truth: &Truth) -> Outcome {
        let start = Instant::now();
        let mut outcome = Outcome::new(O::NAME, case.id());
        if let Err(wrong) = self.try_case(case, truth, &mut outcome) {
            let claims = O::planner(&self.accelerator.ops).is_some() && !self.lacks_type(&case.op);
            (outcome.status, outcome.why) = match wrong {
                Wrong::Unsupported(e) if claims => (Status::ClaimedButUnsupported, e.to_string()),
                Wrong::Unsupported(e) => (Status::Unsupported, e.to_string()),
                Wrong::Lost(e) => (Status::DeviceLost, e.to_string()),
                Wrong::TooLarge(e) => (Status::NotRun, e.to_string()),
                Wrong::Failed(why) => (Status::Fail, why),
            };
        }
        if outcome.how == Some(How::Host) && !self.host_asked {
            outcome.status = outcome.status.max(Status::Host);
            outcome.why = format!("ran on the host, which nobody asked for. {}", outcome.why);
        }
        outcome.seconds = start.elapsed().as_secs_f64();
        outcome
    }

    /// `case`, to be timed.
    pub(crate) fn launches<O: Conformance>(&self, case: &Case<O>) -> Result<Launches<'_>> {
        let plan = self.context.plan(case.op.clone())?;
        Bench::new(&self.context, &plan, case)?.launches(plan)
    }

    /// What the device reaches by itself: bytes per second and operations per second, measured once.
    pub(crate) fn ceilings(&self) -> Result<[f64; 2]> {
        match self.ceilings.get() {
            Some(ceilings) => Ok(*ceilings),
            None => {
                let measured = crate::speed::ceilings(self)?;
                Ok(*self.ceilings.get_or_init(|| measured))
            }
        }
    }

    /// Whether `op` has an argument of a type that the device's card leaves out.
    fn lacks_type<O: Conformance>(&self, op: &O) -> bool {
        if !self.takes_cache(op) {
            return true;
        }
        let floats = &self.card().floats;
        let type_of = |arg: &Arg| match arg.role {
            Role::Weight(WeightFormat::Dense(dtype)) => dtype,
            _ => arg.dtype,
        };
        let mut types = op.signature().into_iter().map(|arg| type_of(&arg));
        types.any(|dtype| dtype.is_float() && !floats.contains(&dtype))
    }

    /// Whether the device's card says that it takes the cache of `op`, if there is one.
    fn takes_cache<O: Conformance>(&self, op: &O) -> bool {
        op.cache_dtype() != Some(DType::I8) || self.card().int8_cache
    }

    /// The outputs of one case, row-major, without a judgement: for properties that need no reference.
    ///
    /// # Errors
    /// `Unsupported` when the device has no way to do it, `Unexpected` for what the guards found, and what the
    /// device reports.
    pub fn outputs<O: Conformance>(&self, case: &Case<O>) -> Result<Vec<Tensor>> {
        self.run_once(case, true)
    }

    /// The outputs of one case whatever the guards found: what a comparison of numbers alone would see.
    ///
    /// # Errors
    /// `Unsupported` when the device has no way to do it, and what the device reports.
    pub fn unguarded_outputs<O: Conformance>(&self, case: &Case<O>) -> Result<Vec<Tensor>> {
        self.run_once(case, false)
    }

    /// What the device declares of its arithmetic.
    fn card(&self) -> &Numerics {
        &self.context.device().info().numerics
    }

    /// The device under test.
    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        self.context.device()
    }

    fn run_once<O: Conformance>(&self, case: &Case<O>, guarded: bool) -> Result<Vec<Tensor>> {
        let plan = self.context.plan(case.op.clone())?;
        let bench = Bench::new(&self.context, &plan, case)?;
        let (outputs, disturbed) = bench.run(&plan, POISON[0])?;
        if let Some(why) = disturbed.filter(|_| guarded) {
            let doing = format!("run {}", O::NAME);
            return Err(Error::new(ErrorKind::Unexpected, doing, why));
        }
        let shape = |&i: &usize| &case.operands[i].shape;
        let shapes = bench.outputs.iter().map(shape);
        Ok(shapes
            .zip(outputs)
            .map(|(shape, data)| Tensor::new(shape, data))
            .collect())
    }

    fn try_case<O: Conformance>(
        &self,
        case: &Case<O>,
        truth: &Truth,
        outcome: &mut Outcome,
    ) -> Result<(), Wrong> {
        let plan = self
            .context
            .plan(case.op.clone())
            .map_err(|e| match e.kind() {
                ErrorKind::Unsupported => Wrong::Unsupported(e),
                _ => e.into(),
            })?;
        outcome.how = Some(plan.how());
        let bench = Bench::new(&self.context, &plan, case).map_err(|e| match e.kind() {
            ErrorKind::OutOfMemory => Wrong::TooLarge(e),
            _ => e.into(),
        })?;
        let [first, second] = POISON.map(|poison| match bench.run(&plan, poison) {
            Ok((outputs, None)) => Ok(outputs),
            Ok((_, Some(disturbed))) => Err(Wrong::Failed(disturbed)),
            Err(e) => Err(Wrong::from(e)),
        });
        let (first, second) = (first?, second?);
        let signature = case.op.signature();
        let written = signature
            .iter()
            .zip(&case.operands)
            .filter(|(arg, _)| matches!(arg.role, Role::Out | Role::InOut));
        let expected = truth
            .0
            .get_or_init(|| case.op.expect(&bench.shapes(), &bench.inputs, self.card()));
        let outputs = first.into_iter().zip(second).zip(expected);
        let mut metrics = Metrics::default();
        for ((arg, operand), ((got, again), expected)) in written.zip(outputs) {
            let (dtype, [got, again]) = numbers(&case.op, arg.dtype, &operand.shape, [got, again]);
            let shape = got.shape;
            if got.data.len() != expected.len() {
                let lengths = (got.data.len(), expected.len());
                return Err(Wrong::Failed(format!(
                    "the suite is wrong: {} has {} elements, {} are expected",
                    arg.name, lengths.0, lengths.1
                )));
            }
            for (i, (&got, again)) in got.data.iter().zip(again.data).enumerate() {
                let c = expected.compare(dtype, i, got);
                let index = || index_of(&shape, i);
                let ulp = match dtype.is_float() {
                    true => spacing(dtype, c.want),
                    false => 1.0,
                };
                metrics.add(got, c.want, ulp, c.utilisation);
                metrics.unjudged += u64::from(c.bound == Bound::ANYTHING.probable);
                if c.wrong {
                    outcome.status = Status::Fail;
                } else if c.utilisation > 1.0 {
                    outcome.status = outcome.status.max(Status::PassWeak);
                }
                if got.to_bits() != again.to_bits() && outcome.why.is_empty() {
                    outcome.status = Status::Fail;
                    outcome.why = format!(
                        "{}{:?} is {got:e} in the first run and {again:e} in the second: \
                         never written, or not repeatable",
                        arg.name,
                        index()
                    );
                }
                let worse = |worst: &Worst| c.utilisation > worst.utilisation;
                if outcome.worst.as_ref().is_none_or(worse) {
                    outcome.worst = Some(Worst {
                        arg: arg.name.into(),
                        index: index(),
                        got,
                        want: c.want,
                        bound: c.bound,
                        utilisation: c.utilisation,
                    });
                }
            }
        }
        outcome.metrics = Some(metrics.finish());
        Ok(())
    }
}

/// What the outputs of one case must be, computed when first asked for.
#[derive(Debug, Default)]
pub struct Truth(OnceLock<Vec<Expected>>);

impl Truth {
    /// The expectations, one per output, once a case has been judged by it.
    pub fn expected(&self) -> Option<&[Expected]> {
        self.0.get().map(Vec::as_slice)
    }
}

/// What the elements of an output stand for, and their type.
fn numbers<O: Conformance>(
    op: &O,
    dtype: DType,
    shape: &[usize],
    outputs: [Vec<f64>; 2],
) -> (DType, [Tensor; 2]) {
    let outputs = outputs.map(|data| Tensor::new(shape, data));
    match dtype {
        DType::I8 if op.cache_dtype() == Some(DType::I8) => {
            (DType::F32, outputs.map(|rows| decode(dtype, &rows)))
        }
        _ => (dtype, outputs),
    }
}

/// Why a case has no result to compare.
enum Wrong {
    Unsupported(Error),
    /// The device is gone.
    Lost(Error),
    /// The arguments do not fit in the device's memory.
    TooLarge(Error),
    Failed(String),
}

impl From<Error> for Wrong {
    fn from(e: Error) -> Self {
        match e.kind() {
            ErrorKind::DeviceLost => Wrong::Lost(e),
            _ => Wrong::Failed(format!("{e:?}")),
        }
    }
}

/// The index of row-major element `i`.
fn index_of(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &n) in index.iter_mut().zip(shape).rev() {
        (*at, i) = (i % n, i / n);
    }
    index
}

/// For every standard case of `O`: the reference's outputs, and what the suite expects.
#[cfg(test)]
pub(crate) fn cases_expectations<O: Conformance>() -> Vec<(Vec<Tensor>, Vec<crate::Expected>)> {
    let context = Context::new(crate::reference_device::open());
    let of_case = |case: Case<O>| {
        let plan = context.plan(case.op.clone()).unwrap();
        let bench = Bench::new(&context, &plan, &case).unwrap();
        let shapes = bench.shapes();
        let reference = case.op.reference(&shapes, &bench.inputs);
        let card = Numerics::exact();
        (reference, case.op.expect(&shapes, &bench.inputs, &card))
    };
    O::cases().into_iter().map(of_case).collect()
}
