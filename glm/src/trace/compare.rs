//! Where two traces part.
//!
//! A launch *diverges* when its outputs are further apart than its inputs explain: more than [`GAIN`] times as far, counted
//! from the rounding of its types. Errors that grow little by little diverge at no launch; they *drift* where an output is
//! further apart than a limit. Distances are shares of the tensor's norm.

use hal::{DType, Error, Result};
use serde::Serialize;

use super::{Call, Role, Trace};

/// How much further apart outputs may be than inputs. Products, norms and attention of a model pass a distance on about as
/// it is; only sums that cancel make more of it.
pub const GAIN: f64 = 8.0;

/// The distance that sums of thousands of f32 terms in another order make.
const F32_SUMS: f64 = 1.0 / (1 << 20) as f64;

/// One launch in both traces.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Number of the launch, from 0.
    pub call: usize,
    /// Step of the model.
    pub step: usize,
    /// Where in the model.
    pub place: String,
    /// Name of the operation.
    pub op: String,
    /// The largest distance of an input. Infinite (null in JSON) where NaN or infinities differ.
    pub inputs: f64,
    /// The largest distance of an output.
    pub outputs: f64,
    /// Outputs in the first and in the second trace that are NaN or infinite.
    pub not_finite: [usize; 2],
    /// The largest magnitude of an output in the first trace.
    pub magnitude: f64,
    /// Element type of the first output in each trace.
    pub dtypes: [DType; 2],
}

/// Two traces, launch by launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The launches that were compared.
    pub pairs: Vec<Pair>,
    /// The first that diverges.
    pub divergence: Option<usize>,
    /// The first whose outputs are further apart than the limit.
    pub drift: Option<usize>,
    /// The step from which the two were given other tokens; nothing was compared there.
    pub other_tokens: Option<usize>,
    /// Places whose weights are of other formats in the two.
    pub other_formats: usize,
}

impl Comparison {
    /// Whether the two agree.
    pub fn agrees(&self) -> bool {
        self.divergence.is_none() && self.drift.is_none()
    }

    /// The launch to look at first.
    pub fn first(&self) -> Option<&Pair> {
        let at = [self.divergence, self.drift].into_iter().flatten().min()?;
        self.pairs.get(at)
    }
}

/// Compares `b` with the reference `a`; outputs that are `limit` of their norm apart are too far.
///
/// # Errors
/// `InvalidArgument` when the two are not of the same model and prompt.
pub fn compare(a: &Trace, b: &Trace, limit: f64) -> Result<Comparison> {
    let other = |why: String| {
        Err(Error::invalid("compare two traces", why)
            .next_step("trace the same model with the same prompt on both devices"))
    };
    if a.run.model != b.run.model {
        return other(format!(
            "one is of a {} model, one of a {}",
            a.run.model, b.run.model
        ));
    }
    if a.run.ids != b.run.ids {
        return other("their prompts have other tokens".into());
    }
    let mut comparison = Comparison {
        pairs: Vec::with_capacity(a.calls.len()),
        divergence: None,
        drift: None,
        other_tokens: None,
        other_formats: 0,
    };
    for (call, (x, y)) in a.calls.iter().zip(&b.calls).enumerate() {
        if (x.step, &x.place, &x.op) != (y.step, &y.place, &y.op) || x.args.len() != y.args.len() {
            let name = |c: &Call| format!("{} at {} in step {}", c.op, c.place, c.step);
            return other(format!("launch {call} is {} and {}", name(x), name(y)));
        }
        let first_of_step = call == 0 || a.calls[call - 1].step < x.step;
        if first_of_step && call > 0 && other_integers(x, y) {
            comparison.other_tokens = Some(x.step);
            break;
        }
        let formats = |c: &Call| c.args.iter().map(|arg| arg.format).collect::<Vec<_>>();
        comparison.other_formats += usize::from(formats(x) != formats(y));
        let Some(pair) = pair(call, x, y) else {
            let shapes = |c: &Call| {
                c.args
                    .iter()
                    .map(|arg| arg.shape.clone())
                    .collect::<Vec<_>>()
            };
            return other(format!(
                "launch {call}, {} at {}, has shapes {:?} and {:?}",
                x.op,
                x.place,
                shapes(x),
                shapes(y)
            ));
        };
        let roundoff = |d: DType| d.unit_roundoff().max(F32_SUMS);
        let types = x
            .args
            .iter()
            .chain(&y.args)
            .filter(|arg| arg.dtype.is_float());
        let floor = types
            .map(|arg| roundoff(arg.dtype))
            .fold(F32_SUMS, f64::max);
        let explained = GAIN * pair.inputs.max(floor);
        if comparison.divergence.is_none() && pair.outputs > explained {
            comparison.divergence = Some(call);
        }
        if comparison.drift.is_none() && pair.outputs > limit {
            comparison.drift = Some(call);
        }
        comparison.pairs.push(pair);
    }
    if comparison.other_tokens.is_none() && a.calls.len() != b.calls.len() {
        return other(format!("{} and {} launches", a.calls.len(), b.calls.len()));
    }
    Ok(comparison)
}

/// Whether an integer input differs: the token ids, at the beginning of a step.
fn other_integers(x: &Call, y: &Call) -> bool {
    x.args.iter().zip(&y.args).any(|(p, q)| {
        let checksum = |arg: &super::Argument| arg.before.as_ref().map(|s| s.checksum.clone());
        p.dtype == DType::I32 && p.role == Role::In && checksum(p) != checksum(q)
    })
}

/// The distances of one launch; `None` when shapes differ.
fn pair(call: usize, x: &Call, y: &Call) -> Option<Pair> {
    let (mut inputs, mut outputs) = (0.0f64, 0.0f64);
    let (mut not_finite, mut magnitude) = ([0, 0], 0.0f64);
    let mut dtypes = None;
    for (p, q) in x.args.iter().zip(&y.args) {
        // The bytes of a packed weight are the device's own.
        if p.role != Role::Weight && p.shape != q.shape {
            return None;
        }
        // Integers are choices, which near ties may make differ: what led to them is compared.
        let float = p.dtype.is_float();
        if let (true, Some(s), Some(t)) = (float, &p.before, &q.before) {
            inputs = inputs.max(s.distance(t, p.len()));
        }
        if let (Some(s), Some(t)) = (&p.after, &q.after) {
            dtypes.get_or_insert([p.dtype, q.dtype]);
            if !float {
                continue;
            }
            outputs = outputs.max(s.distance(t, p.len()));
            not_finite[0] += s.nan + s.inf;
            not_finite[1] += t.nan + t.inf;
            magnitude = magnitude.max(s.min.abs()).max(s.max.abs());
        }
    }
    Some(Pair {
        call,
        step: x.step,
        place: x.place.clone(),
        op: x.op.clone(),
        inputs,
        outputs,
        not_finite,
        magnitude,
        dtypes: dtypes?,
    })
}
