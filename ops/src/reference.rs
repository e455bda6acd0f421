//! Tensors of f64 and the arithmetic of the references: scalar, in a fixed order, with compensated sums.
//!
//! Source of the compensated sum: Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation
//! endlicher Summen", ZAMM 54 (1974). Its error is about 1e-16 relative to the sum of magnitudes,
//! whatever the length.

/// A dense row-major tensor of f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Lengths of the dimensions.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of `shape` with elements `data`.
    ///
    /// # Panics
    /// When the number of elements does not fit the shape.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape {shape:?}"
        );
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    /// Zeros of `shape`.
    pub fn zeros(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            data: vec![0.0; shape.iter().product()],
        }
    }

    /// The elements of row `r`, all dimensions but the last counted as rows.
    pub fn row(&self, r: usize) -> &[f64] {
        let n = self.shape.last().copied().unwrap_or(1);
        &self.data[r * n..(r + 1) * n]
    }

    /// The elements of row `r`, to write.
    pub fn row_mut(&mut self, r: usize) -> &mut [f64] {
        let n = self.shape.last().copied().unwrap_or(1);
        &mut self.data[r * n..(r + 1) * n]
    }

    /// Number of rows, all dimensions but the last counted as rows.
    pub fn rows(&self) -> usize {
        self.shape
            .split_last()
            .map_or(1, |(_, lead)| lead.iter().product())
    }

    /// The element at `index`.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[self.offset(index)]
    }

    /// The element at `index`, to write.
    pub fn at_mut(&mut self, index: &[usize]) -> &mut f64 {
        let offset = self.offset(index);
        &mut self.data[offset]
    }

    /// The row-major offset of `index`.
    ///
    /// # Panics
    /// When the index lies outside.
    pub fn offset(&self, index: &[usize]) -> usize {
        assert_eq!(index.len(), self.shape.len());
        index.iter().zip(&self.shape).fold(0, |offset, (&i, &n)| {
            assert!(i < n, "{index:?} outside {:?}", self.shape);
            offset * n + i
        })
    }

    /// A tensor with `f` of each element.
    #[must_use]
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            shape: self.shape.clone(),
            data: self.data.iter().map(|&x| f(x)).collect(),
        }
    }
}

/// The compensated sum of `terms`. NaN and infinities come out as a plain sum gives them.
pub fn sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost, mut plain) = (0.0f64, 0.0f64, 0.0f64);
    for x in terms {
        plain += x;
        let t = sum + x;
        lost += if sum.abs() >= x.abs() {
            (sum - t) + x
        } else {
            (x - t) + sum
        };
        sum = t;
    }
    if plain.is_finite() { sum + lost } else { plain }
}

/// The compensated dot product of `a` and `b`; products are exact for operands of 26 bits or fewer.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    sum(a.iter().zip(b).map(|(x, y)| x * y))
}

/// Softmax of `row` in place; a row that is all −∞ becomes zeros.
pub fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(
        f64::NEG_INFINITY,
        |m, x| if x > m || x.is_nan() { x } else { m },
    );
    if max == f64::NEG_INFINITY {
        return row.fill(0.0);
    }
    for x in row.iter_mut() {
        *x = (*x - max).exp();
    }
    let total = sum(row.iter().copied());
    for x in row.iter_mut() {
        *x /= total;
    }
}

/// The error function, by the series of erf and the continued fraction of erfc; error below 1e-15.
///
/// Source: NIST DLMF 7.6.2 and 7.9.3.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    let value = if a < 2.5 {
        // erf x = 2/√π · exp(−x²) · Σ 2^n x^(2n+1) / (1·3·…·(2n+1))
        let (mut term, mut total, mut n) = (a, a, 0.0);
        while term > total * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            total += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * total
    } else if a < 6.0 {
        1.0 - erfc(a)
    } else {
        1.0
    };
    value.copysign(x)
}

/// `1 − erf(x)` without its cancellation: relative error below 1e-11.
///
/// Source: as [`erf`].
pub fn erfc(x: f64) -> f64 {
    if x < 2.5 {
        return 1.0 - erf(x);
    }
    // erfc x = exp(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))))
    let fraction = (1..=80)
        .rev()
        .fold(x, |tail, n| x + f64::from(n) / 2.0 / tail);
    (-x * x).exp() / (std::f64::consts::PI.sqrt() * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_lose_small_terms() {
        let terms = std::iter::once(1e16)
            .chain(std::iter::repeat_n(1.0, 1000))
            .chain([-1e16]);
        assert_eq!(sum(terms), 1000.0);
        assert!(sum([f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz & Stegun table 7.1, and erfc(2.6), erfc(4) from DLMF.
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.5, 0.999_593_047_982_555),
            (3.0, 0.999_977_909_503_001_4),
            (4.0, 0.999_999_984_582_742_1),
        ] {
            assert!((erf(x) - y).abs() < 2e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        // As SciPy gives them.
        for (x, y) in [
            (2.0, 4.677_734_981_047_266e-3),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            assert!((erfc(x) / y - 1.0).abs() < 1e-11, "erfc({x}) = {}", erfc(x));
        }
        assert_eq!((erfc(f64::NEG_INFINITY), erfc(f64::INFINITY)), (2.0, 0.0));
    }

    #[test]
    fn softmax_of_masked_rows() {
        let mut row = [f64::NEG_INFINITY; 3];
        softmax(&mut row);
        assert_eq!(row, [0.0; 3]);
        let mut row = [1.0, f64::NEG_INFINITY, 1.0];
        softmax(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
    }
}
