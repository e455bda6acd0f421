//! Precision probes: what a device's arithmetic is, found out from outside, and held against its card
//! ([`hal::Numerics`]).
//!
//! - operands: `(1 + 2^−b)·1`: the largest b that comes back tells the bits that products keep;
//! - sums: the ladder `2^p + 1`: the largest p at which the 1 is not lost;
//! - small numbers: `2^−130·1` and `2^−100·2^−30`;
//! - rounding: 2049 and 2051 stored as f16 are ties;
//! - contraction: `(1 + 2^−12)² − (1 + 2^−11)` is 2^−24 only when the product is not rounded;
//! - NaN and infinities; scores beyond f16 in attention; the extremes of softmax.

use std::fmt;

use hal::{DType, Numerics, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Attention, Binary, Cast, Elementwise, Mask, Matmul, Softmax};

use crate::bound::digits;
use crate::lab::Lab;

/// What the probes found; `None` where the device could not be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Bits of the significand of sums of products, by operand type.
    pub accumulator_bits: Vec<(DType, u32)>,
    /// The same of attention's scores.
    pub score_bits: Option<u32>,
    /// Bits that f32 operands of products keep.
    pub operand_bits: Option<u32>,
    /// Whether attention's probabilities were rounded to the cache's type.
    pub rounds_probabilities: Option<bool>,
    /// Whether a product of many rows rounded the elements of a quantised weight to the type of `x`.
    pub rounds_weights: Option<bool>,
    /// Whether a product with a quantised weight rounded `x` to eight bits.
    pub rounds_activations: Option<bool>,
    /// Operand types whose products lost a number below 2⁻¹²⁶.
    pub flushes: Vec<DType>,
    /// Whether the smallest f16 number survives a product.
    pub keeps_half_subnormals: Option<bool>,
    /// Whether results and casts are rounded to nearest, ties to even.
    pub rounds_to_nearest_even: Option<bool>,
    /// Whether `a + alpha·b` is one operation with one rounding.
    pub contracts: Option<bool>,
    /// Whether NaN and infinities come out of products and softmax as IEEE 754 says.
    pub propagates_nan: Option<bool>,
    /// Whether scores beyond 65504 work with f16 queries and keys.
    pub scores_exceed_f16: Option<bool>,
    /// Whether softmax is right for numbers far from zero.
    pub softmax_extremes: Option<bool>,
}

/// Asks the device.
///
/// # Errors
/// What the device reports, but for `Unsupported`, which leaves a finding out.
pub fn probe(accelerator: &Accelerator) -> Result<Findings> {
    let lab = Lab::new(accelerator);
    let mut findings = Findings {
        score_bits: score_bits(&lab)?,
        operand_bits: operand_bits(&lab)?,
        rounds_probabilities: rounded_probabilities(&lab)?,
        rounds_weights: rounded_weights(&lab)?,
        rounds_activations: rounded_activations(&lab)?,
        rounds_to_nearest_even: rounding(&lab)?,
        contracts: contraction(&lab)?,
        propagates_nan: propagation(&lab)?,
        scores_exceed_f16: large_scores(&lab)?,
        softmax_extremes: softmax_extremes(&lab)?,
        ..Findings::default()
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        if let Some(bits) = accumulator_bits(&lab, dtype)? {
            findings.accumulator_bits.push((dtype, bits));
        }
        if dtype != DType::F16 && flushes(&lab, dtype)? == Some(true) {
            findings.flushes.push(dtype);
        }
    }
    let smallest = 2f64.powi(-24);
    let kept = lab.product(DType::F16, &[smallest], &[1.0])?;
    findings.keeps_half_subnormals = kept.map(|y| y == smallest);
    Ok(findings)
}

/// One more than the largest p at which a sum of products holds `2^p + 1`.
fn accumulator_bits(lab: &Lab, dtype: DType) -> Result<Option<u32>> {
    for p in (1..24u32).rev() {
        // 2^p as a product, so that every operand type holds the factors.
        let (a, b) = (2f64.powi(p as i32 / 2), 2f64.powi(p as i32 - p as i32 / 2));
        let Some(sum) = lab.product(dtype, &[a, 1.0], &[b, 1.0])? else {
            return Ok(None);
        };
        if sum == a * b + 1.0 {
            return Ok(Some(p + 1));
        }
    }
    Ok(Some(1))
}

/// The same by two keys whose scores differ by 1: equal weights mean that the 1 was lost.
fn score_bits(lab: &Lab) -> Result<Option<u32>> {
    for p in (1..24i32).rev() {
        let (a, b) = (2f64.powi(p / 2), 2f64.powi(p - p / 2));
        let Some(out) = attend(
            lab,
            DType::F32,
            1,
            &[a, 1.0],
            [&[b, 1.0], &[b, 0.0]],
            [1.0, 0.0],
            1.0,
        )?
        else {
            return Ok(None);
        };
        // Values are 1 and 0: e/(1 + e) against 1/2.
        if (out - 0.731).abs() < 0.01 {
            return Ok(Some(p as u32 + 1));
        }
    }
    Ok(Some(1))
}

/// Attention of `queries` equal queries over two slots with these values. Returns what the first gets. As many slots as there
/// are queries hold them, so all but two have a score far below theirs, and the value zero.
fn attend(
    lab: &Lab,
    dtype: DType,
    queries: usize,
    q: &[f64],
    keys: [&[f64]; 2],
    values: [f64; 2],
    scale: f32,
) -> Result<Option<f64>> {
    let dim = 64;
    let slots = queries.max(2);
    let page_size = slots.next_multiple_of(16);
    let op = Attention {
        heads: 1,
        kv_heads: 1,
        head_dim: dim,
        pages: 1,
        page_size,
        scale,
        mask: Mask::Full,
        dtype,
        kv: dtype,
    };
    let padded = |x: &[f64]| {
        let mut x = x.to_vec();
        x.resize(dim, 0.0);
        x
    };
    let mut k = keys.map(padded).concat();
    k.extend(padded(&[-1000.0]).repeat(slots - 2));
    k.resize(page_size * dim, 0.0);
    let mut v = vec![0.0; page_size * dim];
    v[..dim].fill(values[0]);
    v[dim..2 * dim].fill(values[1]);
    let numbers = |x: &[f64]| Tensor::new(&[x.len()], x.to_vec());
    let cache = [1, 1, page_size, dim];
    let inputs = [
        Tensor::new(&[queries, 1, dim], padded(q).repeat(queries)),
        Tensor::new(&cache, k),
        Tensor::new(&cache, v),
        Tensor::new(&[1, 1], vec![0.0]),
        numbers(&[0.0, queries as f64]),
        numbers(&[slots as f64]),
    ];
    let outputs = lab.run(op, &[&[queries, 1, dim]], &inputs)?;
    Ok(outputs.map(|outputs| outputs[0].data[0]))
}

/// Probabilities 1 and 1/e (before they are divided by their sum), against values that make a sum of zero if 1/e was rounded:
/// of one query, and of many, because devices may round from some number of them on.
fn rounded_probabilities(lab: &Lab) -> Result<Option<bool>> {
    let e = (-1f64).exp();
    for (dtype, rounded) in [
        (DType::BF16, half::bf16::from_f64(e).to_f64()),
        (DType::F16, half::f16::from_f64(e).to_f64()),
    ] {
        let mut found = None;
        for queries in [1, 64] {
            let values = [-rounded, 1.0];
            if let Some(out) = attend(lab, dtype, queries, &[1.0], [&[0.0], &[-1.0]], values, 1.0)?
            {
                // Not rounded, it is 5e-4 in bf16, 3e-5 in f16.
                found = Some(found == Some(true) || out.abs() < 5e-6);
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Many rows of ones, because devices may round from some number of rows on, against int8 numbers with a scale of which the
/// type of `x` does not hold the products.
fn rounded_weights(lab: &Lab) -> Result<Option<bool>> {
    let (m, n, k) = (256, 64, 64);
    for dtype in [DType::BF16, DType::F16] {
        let op = Matmul {
            out: DType::F32,
            ..Matmul::new(n, k, dtype, WeightFormat::Int8Row)
        };
        // 127 times a scale in f32, once in each row.
        let w = 1.0 + 2f64.powi(-13);
        let one = |rows: usize, x: f64| {
            let mut row = vec![0.0; k];
            row[0] = x;
            Tensor::new(&[rows, k], row.repeat(rows))
        };
        let outputs = lab.run(op, &[&[m, n]], &[one(m, 1.0), one(n, w)])?;
        if let Some(outputs) = outputs {
            // Rounded, it is 1.
            return Ok(Some((outputs[0].data[0] - w).abs() > (w - 1.0) / 2.0));
        }
    }
    Ok(None)
}

fn rounded_activations(lab: &Lab) -> Result<Option<bool>> {
    let (n, k) = (64, 64);
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let op = Matmul {
            out: DType::F32,
            ..Matmul::new(n, k, dtype, WeightFormat::Int8Row)
        };
        // 3/8 of a unit, beside the element that makes it one.
        let mut x = vec![0.0; k];
        (x[0], x[1]) = (127.0, 0.375);
        let mut w = vec![0.0; k];
        w[1] = 127.0;
        let inputs = [Tensor::new(&[1, k], x), Tensor::new(&[n, k], w.repeat(n))];
        if let Some(outputs) = lab.run(op, &[&[1, n]], &inputs)? {
            return Ok(Some(outputs[0].data[0] == 0.0));
        }
    }
    Ok(None)
}

fn operand_bits(lab: &Lab) -> Result<Option<u32>> {
    for bits in (2..=24).rev() {
        let x = 1.0 + 2f64.powi(1 - bits);
        // K = 1 and K = 2, on either side.
        for (a, b) in [
            (vec![x], vec![1.0]),
            (vec![1.0], vec![x]),
            (vec![x, 0.0], vec![1.0, 1.0]),
        ] {
            match lab.product(DType::F32, &a, &b)? {
                None => return Ok(None),
                Some(y) if y == x => {}
                Some(_) => break,
            }
            if a.len() == 2 {
                return Ok(Some(bits as u32));
            }
        }
    }
    Ok(Some(1))
}

/// Whether an operand or a product below 2⁻¹²⁶ became zero.
fn flushes(lab: &Lab, dtype: DType) -> Result<Option<bool>> {
    let small = 2f64.powi(-130);
    let operand = lab.product(dtype, &[small], &[1.0])?;
    let product = lab.product(dtype, &[2f64.powi(-100)], &[2f64.powi(-30)])?;
    let (Some(operand), Some(product)) = (operand, product) else {
        return Ok(None);
    };
    Ok(Some(operand != small || product != small))
}

fn rounding(lab: &Lab) -> Result<Option<bool>> {
    let op = Matmul {
        out: DType::F16,
        ..Matmul::new(1, 2, DType::F32, WeightFormat::Dense(DType::F32))
    };
    let row = |a: f64, b: f64| Tensor::new(&[1, 2], vec![a, b]);
    // Sums of operands of few bits, so that rounded operands and narrow sums do not show here.
    for (a, b, want) in [
        (2048.0, 1.0, 2048.0),
        (2048.0, 3.0, 2052.0),
        (-2048.0, -1.0, -2048.0),
    ] {
        let inputs = [row(a, b), row(1.0, 1.0)];
        match lab.run(op.clone(), &[&[1, 1]], &inputs)? {
            None => return Ok(None),
            Some(out) if out[0].data[0] == want => {}
            Some(_) => return Ok(Some(false)),
        }
    }
    let cast = Cast {
        from: DType::F32,
        to: DType::F16,
    };
    let ties = Tensor::new(&[3], vec![2049.0, 2051.0, -2049.0]);
    let cast = lab.run(cast, &[&[3]], &[ties])?;
    Ok(Some(cast.is_none_or(|out| {
        out[0].data == [2048.0, 2052.0, -2048.0]
    })))
}

fn contraction(lab: &Lab) -> Result<Option<bool>> {
    let x = 1.0 + 2f64.powi(-12);
    let op = Elementwise {
        kind: Binary::Add,
        dtype: DType::F32,
        alpha: x as f32,
    };
    let one = |x: f64| Tensor::new(&[1], vec![x]);
    let outputs = lab.run(op, &[&[1]], &[one(-(1.0 + 2f64.powi(-11))), one(x)])?;
    Ok(outputs.map(|outputs| outputs[0].data[0] != 0.0))
}

fn propagation(lab: &Lab) -> Result<Option<bool>> {
    let inf = f64::INFINITY;
    type Right = fn(f64) -> bool;
    let cases: [(f64, f64, Right); 4] = [
        (f64::NAN, 0.0, f64::is_nan),
        (inf, 0.0, f64::is_nan),
        (inf, 2.0, |y| y == f64::INFINITY),
        (-inf, 2.0, |y| y == f64::NEG_INFINITY),
    ];
    for (x, w, right) in cases {
        match lab.product(DType::F32, &[1.0, x], &[1.0, w])? {
            None => return Ok(None),
            Some(y) if right(y) => {}
            Some(_) => return Ok(Some(false)),
        }
    }
    let softmax = softmax(lab, &[1.0, f64::NAN, 2.0])?;
    Ok(Some(softmax.is_none_or(|y| y.iter().all(|p| p.is_nan()))))
}

/// A score of ±320000, with queries and keys of 200.
fn large_scores(lab: &Lab) -> Result<Option<bool>> {
    let (q, k) = ([200.0; 64], [-200.0; 64]);
    let out = attend(lab, DType::F16, 1, &q, [&q, &k], [1.0, 0.0], 0.125)?;
    // A probability near one may have been rounded to f16 before the sum of them all divides it.
    Ok(out.map(|out| (out - 1.0).abs() <= 2f64.powi(-10)))
}

fn softmax(lab: &Lab, x: &[f64]) -> Result<Option<Vec<f64>>> {
    let op = Softmax {
        dtype: DType::F32,
        scale: 1.0,
        mask: None,
    };
    let shape = [1, 1, x.len()];
    let outputs = lab.run(op, &[&shape], &[Tensor::new(&shape, x.to_vec())])?;
    Ok(outputs.map(|mut outputs| outputs.swap_remove(0).data))
}

fn softmax_extremes(lab: &Lab) -> Result<Option<bool>> {
    let e = std::f64::consts::E;
    let [low, high] = [1.0 / (1.0 + e), e / (1.0 + e)];
    let max = f64::from(f32::MAX);
    for (x, want) in [
        ([1000.0, 999.0], [high, low]),
        ([-1000.0, -999.0], [low, high]),
        ([max, -max], [1.0, 0.0]),
        ([f64::NEG_INFINITY, -3e38], [0.0, 1.0]),
        ([f64::NEG_INFINITY; 2], [0.0, 0.0]),
    ] {
        let Some(y) = softmax(lab, &x)? else {
            return Ok(None);
        };
        if !y.iter().zip(want).all(|(y, want)| (y - want).abs() < 1e-6) {
            return Ok(Some(false));
        }
    }
    Ok(Some(true))
}

impl Findings {
    /// Where the card says one thing and the probes found another, and what no device may do.
    pub fn contradictions(&self, card: &Numerics) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut claim = |ok: bool, what: String| {
            if !ok {
                wrong.push(what);
            }
        };
        let bits = digits(card.accumulator);
        for &(dtype, found) in &self.accumulator_bits {
            claim(
                found == bits,
                format!(
                    "the card says that products of {dtype} are summed in {} ({bits} bits), the probe finds {found} bits",
                    card.accumulator
                ),
            );
        }
        if let Some(found) = self.score_bits {
            claim(
                found == bits,
                format!(
                    "the card says that scores are summed in {} ({bits} bits), the probe finds {found} bits",
                    card.accumulator
                ),
            );
        }
        if let Some(found) = self.operand_bits {
            // A narrow sum shows no more of its operands.
            let says = card.operand_bits.min(bits);
            claim(
                found == says,
                format!(
                    "the card says that f32 operands keep {says} bits, the probe finds {found}"
                ),
            );
        }
        // Nor does it show what was rounded before.
        let not = |yes: bool| if yes { "" } else { "not " };
        if let Some(found) = self
            .rounds_weights
            .filter(|_| card.operand_bits.min(bits) == 24)
        {
            claim(
                found == card.rounds_weights,
                format!(
                    "the card says that quantised weights are {}rounded to the type of x, the probe finds {}rounded",
                    not(card.rounds_weights),
                    not(found)
                ),
            );
        }
        if let Some(found) = self.rounds_activations {
            claim(
                found == card.rounds_activations,
                format!(
                    "the card says that activations are {}rounded to eight bits, the probe finds {}rounded",
                    not(card.rounds_activations),
                    not(found)
                ),
            );
        }
        if let Some(found) = self.rounds_probabilities.filter(|_| bits == 24) {
            claim(
                found == card.rounds_probabilities,
                format!(
                    "the card says that attention's probabilities are {}rounded to the cache's type, the probe finds {}rounded",
                    not(card.rounds_probabilities),
                    not(found)
                ),
            );
        }
        // Nor can it hold such numbers.
        for dtype in self.flushes.iter().filter(|_| bits == 24) {
            claim(
                card.flushes.contains(dtype),
                format!(
                    "the card says that {dtype} products keep numbers below 2^-126, the probe finds zero"
                ),
            );
        }
        // Nor do its scores reach further than it does.
        let scores_exceed_f16 = self.scores_exceed_f16.filter(|_| bits == 24);
        for (found, must) in [
            (
                self.keeps_half_subnormals,
                "the smallest f16 number must survive a product",
            ),
            (
                self.rounds_to_nearest_even,
                "results must be rounded to nearest, ties to even",
            ),
            (
                self.propagates_nan,
                "NaN and infinities must come out of products and softmax",
            ),
            (
                scores_exceed_f16,
                "scores beyond 65504 must work with f16 queries and keys",
            ),
            (
                self.softmax_extremes,
                "softmax must be right for numbers far from zero",
            ),
        ] {
            claim(
                found != Some(false),
                format!("{must}; the probe finds otherwise"),
            );
        }
        wrong
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ask = |found: Option<bool>| match found {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not asked",
        };
        for (dtype, bits) in &self.accumulator_bits {
            writeln!(f, "sums of {dtype} products: {bits} bits")?;
        }
        if let Some(bits) = self.score_bits {
            writeln!(f, "sums of scores: {bits} bits")?;
        }
        if let Some(bits) = self.operand_bits {
            writeln!(f, "f32 operands: {bits} bits")?;
        }
        writeln!(
            f,
            "rounds attention's probabilities: {}",
            ask(self.rounds_probabilities)
        )?;
        writeln!(f, "rounds quantised weights: {}", ask(self.rounds_weights))?;
        writeln!(f, "rounds activations: {}", ask(self.rounds_activations))?;
        let flushed: Vec<&str> = self.flushes.iter().map(|dtype| dtype.name()).collect();
        writeln!(f, "flushes numbers below 2^-126 of: {}", flushed.join(", "))?;
        writeln!(
            f,
            "keeps f16 subnormals: {}",
            ask(self.keeps_half_subnormals)
        )?;
        writeln!(
            f,
            "rounds to nearest even: {}",
            ask(self.rounds_to_nearest_even)
        )?;
        writeln!(f, "contracts a + b·c: {}", ask(self.contracts))?;
        writeln!(
            f,
            "propagates NaN and infinities: {}",
            ask(self.propagates_nan)
        )?;
        writeln!(f, "scores beyond f16: {}", ask(self.scores_exceed_f16))?;
        write!(f, "extremes of softmax: {}", ask(self.softmax_extremes))
    }
}
