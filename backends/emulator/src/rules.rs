//! Tolerance rules of other projects, as they publish them, to be tried on the same mutants.
//!
//! Each compares a result with the reference rounded to the result's type.

use hal::DType;
use serde::Serialize;

/// A rule by which a tensor passes or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Normalised mean square error of the whole tensor, 5·10⁻⁴ for every operation.
    Nmse,
    /// The same with ggml's own limits: 5·10⁻⁴ for products and attention, 0 for indices, 10⁻⁷ for the rest.
    NmsePerOperation,
    /// `torch.testing.assert_close` with its default tolerances.
    Allclose,
    /// DIOPI's: rtol and atol, exceeded by at most one element in a thousand.
    Diopi,
    /// burn's `Tolerance::default()`.
    Burn,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 5] = [
        Rule::Nmse,
        Rule::NmsePerOperation,
        Rule::Allclose,
        Rule::Diopi,
        Rule::Burn,
    ];

    /// Name, formula and source.
    pub const fn describe(self) -> [&'static str; 3] {
        match self {
            Rule::Nmse => [
                "NMSE 5e-4",
                "Σ(got − want)² / Σgot² ≤ 5e-4 over the tensor; NaN fails, infinities must agree",
                "ggml, tests/test-backend-ops.cpp, the limit of MUL_MAT and FLASH_ATTN_EXT",
            ],
            Rule::NmsePerOperation => [
                "ggml",
                "the same: 5e-4 for products and attention, 0 for argmax and top-k, else 1e-7",
                "ggml, tests/test-backend-ops.cpp, max_nmse_err",
            ],
            Rule::Allclose => [
                "PyTorch",
                "|got − want| ≤ atol + rtol·|want|: rtol 1.3e-6, 1e-3, 1.6e-2 (f32, f16, bf16), atol 1e-5; \
                 integers equal",
                "torch.testing.assert_close, default tolerances",
            ],
            Rule::Diopi => [
                "DIOPI",
                "|got − want| ≤ atol + rtol·|want| but for 0.1 %: 1e-5 and 1e-5 (f32), 1e-2 and 5e-2 (16 bits)",
                "DIOPI, diopi_test/python/conformance/global_settings.py",
            ],
            Rule::Burn => [
                "burn",
                "|got − want| < max(1e-5, 0.005·max(|got|, |want|))",
                "burn, crates/burn-backend/src/data/compare.rs, Tolerance::default",
            ],
        }
    }

    /// Whether `got`, of an output of operation `op` stored as `dtype`, passes for `want`.
    pub fn accepts(self, op: &str, dtype: DType, got: &[f64], want: &[f64]) -> bool {
        let pairs = || got.iter().copied().zip(want.iter().copied());
        let close = |rtol: f64, atol: f64| {
            move |(got, want): &(f64, f64)| {
                got == want || (got - want).abs() <= atol + rtol * want.abs()
            }
        };
        match self {
            Rule::Nmse => nmse(got, want, 5e-4),
            Rule::NmsePerOperation => {
                let limit = match op {
                    "matmul" | "batched_matmul" | "attention" => 5e-4,
                    _ if !dtype.is_float() => 0.0,
                    _ => 1e-7,
                };
                nmse(got, want, limit)
            }
            Rule::Allclose => match dtype {
                DType::F32 => pairs().all(|pair| close(1.3e-6, 1e-5)(&pair)),
                DType::F16 => pairs().all(|pair| close(1e-3, 1e-5)(&pair)),
                DType::BF16 => pairs().all(|pair| close(1.6e-2, 1e-5)(&pair)),
                _ => got == want,
            },
            Rule::Diopi => {
                let (rtol, atol) = match dtype {
                    DType::F16 | DType::BF16 => (5e-2, 1e-2),
                    _ => (1e-5, 1e-5),
                };
                // NaN equals NaN.
                let both_nan = |(got, want): &(f64, f64)| got.is_nan() && want.is_nan();
                let apart = pairs()
                    .filter(|pair| !close(rtol, atol)(pair) && !both_nan(pair))
                    .count();
                apart as f64 <= 1e-3 * got.len() as f64
            }
            Rule::Burn => pairs().all(|(got, want)| {
                let scale = got.abs().max(want.abs());
                got == want
                    || (got.is_nan() && want.is_nan())
                    || (got - want).abs() < (0.005 * scale).max(1e-5)
            }),
        }
    }
}

fn nmse(got: &[f64], want: &[f64], limit: f64) -> bool {
    // As ggml does, the largest finite f32 counts as an infinity.
    let infinite = |x: f64| x.is_infinite() || x.abs() == f64::from(f32::MAX);
    let (mut error, mut power) = (0.0, 0.0);
    for (&a, &b) in got.iter().zip(want) {
        if a.is_nan() || b.is_nan() {
            return false;
        }
        match (infinite(a), infinite(b)) {
            (true, true) if a.is_sign_negative() == b.is_sign_negative() => continue,
            (false, false) => {}
            _ => return false,
        }
        error += (a - b) * (a - b);
        power += a * a;
    }
    let nmse = error / power;
    // 0/0 is no number, which is not above the limit.
    nmse.is_nan() || nmse <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_judge_as_published() {
        let accepts =
            |rule: Rule, got: &[f64], want: &[f64]| rule.accepts("rms_norm", DType::F32, got, want);
        let want = vec![1.0; 2000];
        let with = |n: usize, x: f64| {
            let mut got = want.clone();
            got[..n].fill(x);
            got
        };
        // One zero in 2000 is an error of 5.003e-4 of the power, two units of 2e-5 are far below.
        for (rule, got, passes) in [
            (Rule::Nmse, with(1, 0.0), false),
            (Rule::Nmse, with(1, 0.5), true),
            (Rule::NmsePerOperation, with(1, 0.5), false),
            (Rule::Nmse, with(1, f64::NAN), false),
            (Rule::Allclose, with(1, 1.0 + 1.1e-5), true),
            (Rule::Allclose, with(1, 1.0 + 1.2e-5), false),
            (Rule::Diopi, with(2, 7.0), true),
            (Rule::Diopi, with(3, 7.0), false),
            (Rule::Burn, with(1, 1.0049), true),
            (Rule::Burn, with(1, 1.0051), false),
        ] {
            assert_eq!(accepts(rule, &got, &want), passes, "{rule:?}");
        }
        assert!(accepts(Rule::Nmse, &[0.0], &[0.0]) && accepts(Rule::Burn, &[], &[]));
        assert!(!Rule::Allclose.accepts("argmax", DType::I32, &[1.0], &[2.0]));
    }
}
