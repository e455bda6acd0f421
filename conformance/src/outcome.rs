//! What became of a case, with the numbers behind it.

use std::borrow::Cow;
use std::fmt;

use ops::How;
use serde::{Deserialize, Serialize};

use crate::json;

/// What became of a case. Ordered: everything after [`Status::PassWeak`] is no pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Every element within the probable bound.
    #[serde(rename = "PASS")]
    Pass,
    /// Every element within the certain bound, one beyond the probable bound: look at it.
    #[serde(rename = "PASS-weak")]
    PassWeak,
    /// Not right, and a waiver says that this is known.
    #[serde(rename = "WAIVED")]
    Waived,
    /// Not tried; the reason is in `why`: the arguments do not fit in memory, the run was interrupted.
    #[serde(rename = "NOT-RUN")]
    NotRun,
    /// The device has no planner for this operation, and no other way was found.
    #[serde(rename = "UNSUPPORTED")]
    Unsupported,
    /// The device has a planner for this operation that declines this specification. Counts as a failure.
    #[serde(rename = "CLAIMED-BUT-UNSUPPORTED")]
    ClaimedButUnsupported,
    /// Right when it ran again: its result depends on what ran before, or on luck.
    #[serde(rename = "FLAKY")]
    Flaky,
    /// Wrong.
    #[serde(rename = "FAIL")]
    Fail,
    /// Computed on the host without being asked to.
    #[serde(rename = "HOST")]
    Host,
    /// Passed although a waiver says that it cannot: the waiver must go.
    #[serde(rename = "XPASS")]
    XPass,
    /// No answer in time.
    #[serde(rename = "TIMEOUT")]
    Timeout,
    /// The device stopped answering.
    #[serde(rename = "DEVICE-LOST")]
    DeviceLost,
    /// The process died.
    #[serde(rename = "CRASH")]
    Crash,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 13] = [
        Status::Pass,
        Status::PassWeak,
        Status::Waived,
        Status::NotRun,
        Status::Unsupported,
        Status::ClaimedButUnsupported,
        Status::Flaky,
        Status::Fail,
        Status::Host,
        Status::XPass,
        Status::Timeout,
        Status::DeviceLost,
        Status::Crash,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pass => "PASS",
            Status::PassWeak => "PASS-weak",
            Status::Waived => "WAIVED",
            Status::NotRun => "NOT-RUN",
            Status::Unsupported => "UNSUPPORTED",
            Status::ClaimedButUnsupported => "CLAIMED-BUT-UNSUPPORTED",
            Status::Flaky => "FLAKY",
            Status::Fail => "FAIL",
            Status::Host => "HOST",
            Status::XPass => "XPASS",
            Status::Timeout => "TIMEOUT",
            Status::DeviceLost => "DEVICE-LOST",
            Status::Crash => "CRASH",
        }
    }

    /// Whether the result was right.
    pub fn is_pass(self) -> bool {
        self <= Status::PassWeak
    }

    /// Whether it makes a device fail. What a device does not claim, and what was not tried, does not.
    pub fn is_failure(self) -> bool {
        self > Status::Unsupported
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The element that uses most of its bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// The output's name.
    pub arg: Cow<'static, str>,
    /// Where in it.
    pub index: Vec<usize>,
    /// The device's result.
    #[serde(with = "json::float")]
    pub got: f64,
    /// The reference.
    #[serde(with = "json::float")]
    pub want: f64,
    /// The allowed distance, by the probable model.
    #[serde(with = "json::float")]
    pub bound: f64,
    /// Distance over bound.
    #[serde(with = "json::float")]
    pub utilisation: f64,
}

/// How far all outputs of a case are from the reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Elements compared.
    pub elements: u64,
    /// How many of them may be anything, because the narrow sums that the device declares may have overflowed.
    #[serde(default, skip_serializing_if = "json::is_zero")]
    pub unjudged: u64,
    /// Largest error in units in the last place of the result's type.
    #[serde(with = "json::float")]
    pub max_ulp: f64,
    /// Mean of the same.
    #[serde(with = "json::float")]
    pub mean_ulp: f64,
    /// Σ(got − want)² / Σ want², over finite elements: what other suites judge by.
    #[serde(with = "json::float")]
    pub nmse: f64,
    /// How many elements use which share of their bound: see [`Metrics::BINS`].
    pub utilisation: [u64; 10],
    /// How many results lie above the reference.
    pub above: u64,
    /// How many lie below it.
    pub below: u64,
    /// Of the outputs' values, to compare two runs of one device.
    pub checksum: String,
    #[serde(skip)]
    sums: Sums,
}

#[derive(Clone, Debug, PartialEq)]
struct Sums {
    ulp: f64,
    error: f64,
    want: f64,
    hash: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            ulp: 0.0,
            error: 0.0,
            want: 0.0,
            hash: crate::rng::FNV_OFFSET,
        }
    }
}

impl Metrics {
    /// Upper ends of the shares that [`Metrics::utilisation`] counts. The first bin holds exact results, the last
    /// one everything beyond its probable bound.
    pub const BINS: [f64; 10] = [
        0.0,
        1.0 / 1024.0,
        1.0 / 256.0,
        1.0 / 64.0,
        1.0 / 16.0,
        1.0 / 8.0,
        1.0 / 4.0,
        1.0 / 2.0,
        1.0,
        f64::INFINITY,
    ];

    /// Counts one element.
    pub(crate) fn add(&mut self, got: f64, want: f64, ulp: f64, utilisation: f64) {
        self.elements += 1;
        for byte in got.to_bits().to_le_bytes() {
            self.sums.hash = crate::rng::fnv_step(self.sums.hash, byte);
        }
        let bin = Self::BINS.iter().position(|end| utilisation <= *end);
        self.utilisation[bin.unwrap_or(Self::BINS.len() - 1)] += 1;
        if !(got.is_finite() && want.is_finite()) {
            return;
        }
        let error = got - want;
        self.above += u64::from(error > 0.0);
        self.below += u64::from(error < 0.0);
        self.max_ulp = self.max_ulp.max(error.abs() / ulp);
        self.sums.ulp += error.abs() / ulp;
        self.sums.error += error * error;
        self.sums.want += want * want;
    }

    /// Means, once all elements are counted.
    pub(crate) fn finish(mut self) -> Self {
        self.mean_ulp = self.sums.ulp / (self.elements.max(1) as f64);
        self.nmse = match self.sums.error {
            0.0 => 0.0,
            error => error / self.sums.want,
        };
        self.checksum = format!("{:016x}", self.sums.hash);
        self
    }

    /// By how many standard deviations results prefer one side of the reference; 0 without errors. Rounding to
    /// nearest has no side.
    pub fn bias(&self) -> f64 {
        let n = (self.above + self.below) as f64;
        if n == 0.0 {
            return 0.0;
        }
        (self.above as f64 - self.below as f64) / n.sqrt()
    }
}

/// The speed of one operation at one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Median time of one launch.
    pub seconds: f64,
    /// Bytes that must travel at least: every argument once.
    pub bytes: f64,
    /// Operations by formula.
    pub flops: f64,
    /// Share of what this device can do at that intensity.
    pub of_roofline: f64,
    /// Measured copy bandwidth of the device, bytes per second, reads and writes.
    pub bandwidth: f64,
    /// Measured peak of the device's own matrix product, operations per second.
    pub peak: f64,
}

/// The result of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the operation.
    pub op: Cow<'static, str>,
    /// Id of the case.
    pub case: String,
    /// What became of it.
    pub status: Status,
    /// How it was carried out, when it was planned.
    #[serde(with = "json::how", default, skip_serializing_if = "Option::is_none")]
    pub how: Option<How>,
    /// The worst element, when there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<Worst>,
    /// All elements together, when they were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Its speed, when that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Time of the whole case on this machine, reference included.
    pub seconds: f64,
}

impl Outcome {
    /// A pass, until something is found.
    pub fn new(op: impl Into<Cow<'static, str>>, case: impl Into<String>) -> Self {
        Self {
            op: op.into(),
            case: case.into(),
            status: Status::Pass,
            how: None,
            worst: None,
            metrics: None,
            speed: None,
            why: String::new(),
            seconds: 0.0,
        }
    }

    /// The same with this status and reason.
    #[must_use]
    pub fn ended(mut self, status: Status, why: impl Into<String>) -> Self {
        self.status = status;
        self.why = why.into();
        self
    }
}

/// The results of many cases.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One per case, in the order they ran.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// How many cases ended with `status`.
    pub fn count(&self, status: Status) -> usize {
        self.outcomes.iter().filter(|o| o.status == status).count()
    }

    /// The largest share of a bound that any case used, and the case.
    pub fn worst(&self) -> Option<(&Outcome, &Worst)> {
        self.outcomes
            .iter()
            .filter_map(|o| Some((o, o.worst.as_ref()?)))
            .max_by(|a, b| a.1.utilisation.total_cmp(&b.1.utilisation))
    }

    /// `Ok` when at least one case ran and every case passed.
    ///
    /// # Errors
    /// What did not pass, in words: the number of cases of each status, then the first ones that did not pass.
    pub fn require_pass(&self) -> Result<(), String> {
        self.require(Status::is_pass)
    }

    /// `Ok` when at least one case passed and none failed: what the device does not claim may be missing.
    ///
    /// # Errors
    /// As [`Report::require_pass`].
    pub fn require_no_failure(&self) -> Result<(), String> {
        self.require(|status| !status.is_failure())
    }

    fn require(&self, fine: impl Fn(Status) -> bool) -> Result<(), String> {
        let passed = self.outcomes.iter().any(|o| o.status.is_pass());
        let bad = self.outcomes.iter().filter(|o| !fine(o.status));
        let lines: Vec<String> = bad.take(5).map(ToString::to_string).collect();
        match passed && lines.is_empty() {
            true => Ok(()),
            false => Err(format!("{self}\n{}", lines.join("\n"))),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = self.outcomes.first().map_or("nothing", |o| &o.op);
        write!(f, "{op}: {} cases", self.outcomes.len())?;
        for status in Status::ALL {
            match self.count(status) {
                0 => {}
                n => write!(f, ", {n} {status}")?,
            }
        }
        match self.worst() {
            Some((_, worst)) => write!(f, "; at most {:.3} of a bound used", worst.utilisation),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, self.op, self.case)?;
        if !self.why.is_empty() {
            write!(f, "\n    {}", self.why)?;
        }
        match &self.worst {
            Some(w) => write!(
                f,
                "\n    worst {}{:?}: got {:e}, want {:e}, bound {:.2e}, utilisation {:.3}",
                w.arg, w.index, w.got, w.want, w.bound, w.utilisation
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_those_of_their_definitions() {
        let mut m = Metrics::default();
        m.add(1.25, 1.0, 0.125, 0.5);
        m.add(3.0, 3.0, 0.25, 0.0);
        m.add(f64::NAN, f64::NAN, 1.0, 0.0);
        m.add(0.0, 1.0, 0.125, f64::INFINITY);
        let m = m.finish();
        assert_eq!((m.elements, m.max_ulp, m.mean_ulp), (4, 8.0, 10.0 / 4.0));
        assert_eq!(m.nmse, (0.0625 + 1.0) / 11.0);
        assert_eq!((m.above, m.below, m.bias()), (1, 1, 0.0));
        assert_eq!(m.utilisation, [2, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
        let mut other = Metrics::default();
        other.add(-0.0, 0.0, 1.0, 0.0);
        assert_ne!(other.finish().checksum, m.checksum);
    }

    #[test]
    fn survives_json_with_numbers_that_are_none() {
        let mut outcome = Outcome::new("matmul", "a case").ended(Status::Fail, "NaN");
        outcome.how = Some(How::Composed);
        outcome.worst = Some(Worst {
            arg: "out".into(),
            index: vec![0, 3],
            got: f64::NAN,
            want: f64::NEG_INFINITY,
            bound: 0.0,
            utilisation: f64::INFINITY,
        });
        let text = serde_json::to_string(&outcome).unwrap();
        let back: Outcome = serde_json::from_str(&text).unwrap();
        assert!(back.worst.as_ref().unwrap().got.is_nan());
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert!(text.contains(r#""status":"FAIL""#) && text.contains(r#""how":"composed""#));
    }

    #[test]
    fn names_are_those_of_the_document() {
        for status in Status::ALL {
            let text = serde_json::to_string(&status).unwrap();
            assert_eq!(text, format!("\"{status}\""));
        }
        assert!(Status::ALL.is_sorted());
    }
}
