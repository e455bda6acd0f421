//! What a measurement gave, and what of a limit that is.

use std::ops::{Add, Mul};

use hal::{DType, Numerics};
use ops::{How, Matmul};
use serde::{Deserialize, Serialize};

use super::Limits;

/// Times of some runs of the same, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The shortest.
    pub least: f64,
    /// The longest.
    pub most: f64,
    /// How many there were.
    pub runs: usize,
}

impl Spread {
    /// Of at least one time.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |i: usize| seconds.get(i).copied().unwrap_or(f64::NAN);
        Self {
            median: at(seconds.len() / 2),
            least: at(0),
            most: at(seconds.len().saturating_sub(1)),
            runs: seconds.len(),
        }
    }
}

/// What must be moved and computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amounts {
    /// Bytes read and written.
    pub bytes: f64,
    /// Operations with floats, two for each multiply-add.
    pub floats: f64,
    /// Operations with integers of eight bits, two for each multiply-add.
    pub integers: f64,
}

impl Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            floats: self.floats + other.floats,
            integers: self.integers + other.integers,
        }
    }
}

impl Mul<f64> for Amounts {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self {
            bytes: self.bytes * times,
            floats: self.floats * times,
            integers: self.integers * times,
        }
    }
}

impl From<[f64; 2]> for Amounts {
    /// Of bytes and operations with floats.
    fn from([bytes, floats]: [f64; 2]) -> Self {
        Self {
            bytes,
            floats,
            integers: 0.0,
        }
    }
}

impl Amounts {
    /// The operations of `rows` rows of a product on a device with this card.
    pub fn product(op: &Matmul, rows: f64, card: &Numerics) -> Self {
        let operations = 2.0 * rows * op.n as f64 * op.k as f64;
        match op.multiplies_integers(card) {
            true => Self {
                integers: operations,
                ..Self::default()
            },
            false => Self::from([0.0, operations]),
        }
    }

    /// Operations of either kind.
    pub fn operations(&self) -> f64 {
        self.floats + self.integers
    }

    /// The least seconds by bytes, and by operations, those with floats in `dtype`.
    fn seconds(&self, dtype: DType, limits: &Limits) -> [f64; 2] {
        let computing = |amount: f64, dtype| limits.peak(dtype).map_or(0.0, |peak| amount / peak);
        [
            self.bytes / limits.bytes_per_second,
            computing(self.floats, dtype) + computing(self.integers, DType::I8),
        ]
    }
}

/// One line of a report. Absent fields do not apply, or were not measured: then [`Self::skipped`] says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: the same text in every report that measures the same.
    pub key: String,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Times of one launch, or of one test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Spread>,
    /// Tokens of one test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Of the seconds, those that the host queued work for: the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_seconds: Option<f64>,
    /// Bytes that must be read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// Bytes per second / 10⁹.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_second: Option<f64>,
    /// Operations that must be carried out, two for each multiply-add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<f64>,
    /// Operations per second / 10⁹.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gflop_per_second: Option<f64>,
    /// The limit that binds: `bytes` or `operations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// The lowest and the highest of that limit, bytes or operations per second / 10⁹, where it was measured around each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_range: Option<[f64; 2]>,
    /// The least time by that limit over the median time; where limits were measured around each run, the median of the runs'
    /// shares, each by the mean of the two around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// How the operation was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<How>,
}

impl Figure {
    /// What was not measured.
    pub fn skipped(key: impl Into<String>, why: impl ToString) -> Self {
        Self {
            key: key.into(),
            skipped: Some(why.to_string()),
            ..Self::default()
        }
    }

    /// Times alone, of what no limit is known for.
    pub fn timed(key: impl Into<String>, seconds: Spread) -> Self {
        Self {
            key: key.into(),
            seconds: Some(seconds),
            ..Self::default()
        }
    }

    /// Times of what moves and computes `amounts`, with floats of `dtype`, beside `limits`.
    pub fn measured(
        key: impl Into<String>,
        seconds: Spread,
        amounts: impl Into<Amounts>,
        dtype: DType,
        limits: &Limits,
    ) -> Self {
        let amounts = amounts.into();
        let (bytes, operations) = (amounts.bytes, amounts.operations());
        let rate = |amount: f64| amount / seconds.median / 1e9;
        let [moving, computing] = amounts.seconds(dtype, limits);
        let limit = if computing > moving {
            "operations"
        } else {
            "bytes"
        };
        Self {
            bytes: Some(bytes),
            gb_per_second: Some(rate(bytes)),
            operations: Some(operations),
            gflop_per_second: Some(rate(operations)),
            limit: Some(limit.into()),
            share: Some(moving.max(computing) / seconds.median),
            ..Self::timed(key, seconds)
        }
    }

    /// As [`Self::measured`], of runs in `seconds` each, and limits that were measured before the first run and after each.
    ///
    /// # Panics
    /// Without a run, or a limit for the start and each end of a run.
    pub fn measured_between(
        key: impl Into<String>,
        seconds: &[f64],
        amounts: impl Into<Amounts>,
        dtype: DType,
        limits: &[Limits],
    ) -> Self {
        assert!(!seconds.is_empty() && limits.len() == seconds.len() + 1);
        let amounts = amounts.into();
        let spread = Spread::of(seconds.to_vec());
        let figure = Self::measured(key, spread, amounts, dtype, &limits[0]);
        let around = limits.windows(2).map(|pair| pair[0].mean(&pair[1]));
        let share = |(seconds, limits): (&f64, Limits)| {
            let [moving, computing] = amounts.seconds(dtype, &limits);
            moving.max(computing) / seconds
        };
        let shares = Spread::of(seconds.iter().zip(around).map(share).collect());
        let of = |limits: &Limits| match figure.limit.as_deref() {
            Some("bytes") => limits.bytes_per_second / 1e9,
            _ => amounts.operations() / amounts.seconds(dtype, limits)[1] / 1e9,
        };
        let range = Spread::of(limits.iter().map(of).collect());
        Self {
            limit_range: Some([range.least, range.most]),
            share: Some(shares.median),
            ..figure
        }
    }

    /// The rate that two reports compare: tokens per second where there are tokens, else runs per second.
    pub fn rate(&self) -> Option<f64> {
        let per_second = |s: Spread| (s.median > 0.0).then(|| 1.0 / s.median);
        self.tokens_per_second.or(self.seconds.and_then(per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            bytes_per_second: 1e9,
            bytes_by: "a test".into(),
            operations_per_second: [("f32".to_owned(), 1e12)].into(),
            operations_by: "a test".into(),
        }
    }

    #[test]
    fn the_slower_limit_binds() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        let moves = Figure::measured("moves", spread, [1e9, 1e9], DType::F32, &limits());
        assert_eq!(
            (moves.limit.as_deref(), moves.share),
            (Some("bytes"), Some(0.5))
        );
        assert_eq!(moves.gb_per_second, Some(0.5));
        let computes = Figure::measured("computes", spread, [1e6, 1e12], DType::F32, &limits());
        assert_eq!(computes.limit.as_deref(), Some("operations"));
        assert_eq!(
            (computes.share, computes.gflop_per_second),
            (Some(0.5), Some(500.0))
        );
        assert_eq!(computes.rate(), Some(0.5));
    }

    #[test]
    fn a_share_is_of_the_limits_around_its_run() {
        let times = |factor: f64| {
            let mut limits = limits();
            limits.bytes_per_second *= factor;
            let peaks = limits.operations_per_second.values_mut();
            peaks.for_each(|peak| *peak *= factor);
            limits
        };
        // Means of 1, 2 and 3 times the limits.
        let around = [1.0, 1.0, 3.0, 3.0].map(times);
        let seconds = [4.0, 1.0, 1.0];
        let figure = |amounts: [f64; 2]| {
            Figure::measured_between("a", &seconds, amounts, DType::F32, &around)
        };
        for (figure, limit, range) in [
            (figure([2e9, 1.0]), "bytes", [1.0, 3.0]),
            (figure([1.0, 2e12]), "operations", [1000.0, 3000.0]),
        ] {
            assert_eq!(figure.limit.as_deref(), Some(limit));
            assert_eq!(figure.limit_range, Some(range));
            // 2/4, 1/1 and 2/3.
            assert_eq!(figure.share, Some(2.0 / 3.0));
            assert_eq!(figure.seconds.map(|s| s.median), Some(1.0));
        }
    }

    #[test]
    fn what_does_not_apply_is_not_written() {
        let skipped = Figure::skipped("a", "no kernel");
        let text = serde_json::to_string(&skipped).unwrap();
        assert_eq!(text, r#"{"key":"a","skipped":"no kernel"}"#);
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), skipped);
    }
}
