//! Numbers to compute with: each generator provokes another kind of mistake.

use std::fmt;

use hal::{DType, Error, Result, WeightFormat};
use ops::HostWeight;

use crate::Rng;
use crate::number::{encode, overflow, power_of_two, spacing};

/// How the elements of a float argument are chosen. Rows are those of the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// Integers in [−8, 8]: sums are exact, so results must be.
    Integers,
    /// U(−1, 1).
    Uniform,
    /// Nearly N(0, 1).
    Normal,
    /// Normal, with one element in 128 a thousand times larger, as in activations of language models.
    Outliers,
    /// Adjacent elements nearly cancel.
    Cancelling,
    /// One positive number per row: roundings do not average out.
    Constant,
    /// Few distinct values, so that most elements tie.
    Ties,
    /// Zeros of both signs among normal numbers.
    SignedZeros,
    /// Numbers below the normal range.
    Subnormals,
    /// Some −∞, as masks hold; the last row is all −∞.
    NegInf,
    /// A single NaN.
    Nan,
    /// Grows along the row, so that a running maximum changes at every block.
    Rising,
    /// Mean 1000 times the spread.
    Shifted,
    /// Log-uniform magnitudes from 2⁻³⁰ to 2³⁰, beyond the range of f16.
    Wide,
    /// From half the largest finite number of the type to the largest itself.
    NearMax,
    /// Up to 60000 whatever the type: sums of them are beyond f16.
    Large,
    /// Numbers around the smallest normal one of f16, whatever the type.
    HalfSubnormals,
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Generator {
    /// `len` elements in rows of `row` for storage as `dtype` (not rounded yet).
    pub(crate) fn fill(self, dtype: DType, len: usize, row: usize, rng: &mut Rng) -> Vec<f64> {
        let special = rng.below(len.max(1));
        let mut level = 0.0;
        let mut previous = 0.0;
        (0..len)
            .map(|i| {
                let (r, c) = (i / row.max(1), i % row.max(1));
                if c == 0 {
                    level = 0.5 + rng.uniform().abs();
                }
                let x = match self {
                    Generator::Integers => rng.below(17) as f64 - 8.0,
                    Generator::Uniform => rng.uniform(),
                    Generator::Normal => rng.normal(),
                    Generator::Outliers if rng.below(128) == 0 => 1000.0 * rng.normal(),
                    Generator::Cancelling if c % 2 == 1 => {
                        -previous * (1.0 + rng.uniform() / 512.0)
                    }
                    Generator::Constant => level,
                    Generator::Ties => rng.below(4) as f64 / 2.0,
                    Generator::SignedZeros if rng.below(2) == 0 => 0.0f64.copysign(rng.uniform()),
                    Generator::Subnormals => spacing(dtype, 0.0) * (rng.below(255) as f64 - 127.0),
                    Generator::NegInf if rng.below(4) == 0 || r + 1 == len / row.max(1) => {
                        f64::NEG_INFINITY
                    }
                    Generator::Nan if i == special => f64::NAN,
                    Generator::Rising => c as f64 / 8.0 + rng.uniform() / 16.0,
                    Generator::Shifted => 1000.0 + rng.normal(),
                    Generator::Wide => {
                        let exponent = rng.below(60) as i32 - 30;
                        (1.0 + rng.uniform().abs()).copysign(rng.uniform()) * power_of_two(exponent)
                    }
                    Generator::NearMax => {
                        let largest = if dtype.is_float() {
                            overflow(dtype)
                        } else {
                            2147483648.0
                        };
                        // Below the threshold of overflow by more than a rounding.
                        (0.5 + 0.499 * rng.uniform().abs()) * largest.copysign(rng.uniform())
                    }
                    Generator::Large => 60000.0 * rng.uniform(),
                    Generator::HalfSubnormals => {
                        let exponent = rng.below(14) as i32 - 25;
                        (1.0 + rng.uniform().abs()).copysign(rng.uniform()) * power_of_two(exponent)
                    }
                    _ => rng.normal(),
                };
                previous = x;
                x
            })
            .collect()
    }

    /// A weight `[rows, cols]` in `format`.
    ///
    /// # Errors
    /// `InvalidArgument` when the columns do not fit the format or an element is not finite.
    pub(crate) fn weight(
        self,
        format: WeightFormat,
        [rows, cols]: [usize; 2],
        rng: &mut Rng,
    ) -> Result<HostWeight<'static>> {
        if self == Generator::Integers && !matches!(format, WeightFormat::Dense(_)) {
            return raw_weight(format, [rows, cols], rng);
        }
        let values = self.fill(DType::F32, rows * cols, cols, rng);
        weight(format, [rows, cols], &values)
    }
}

/// The weight `[rows, cols]` of these values, converted from f32 to `format`.
pub(crate) fn weight(
    format: WeightFormat,
    [rows, cols]: [usize; 2],
    values: &[f64],
) -> Result<HostWeight<'static>> {
    let mut data = Vec::new();
    for &x in values {
        encode(DType::F32, x, &mut data);
    }
    let dense = WeightFormat::Dense(DType::F32);
    let weight = HostWeight::new(dense, rows, cols, data, Vec::new())?;
    let HostWeight { data, scales, .. } = weight.convert(format)?;
    HostWeight::new(format, rows, cols, data.into_owned(), scales.into_owned())
}

/// Every integer of a quantised format, and scales that are powers of two: products stay exact.
fn raw_weight(
    format: WeightFormat,
    [rows, cols]: [usize; 2],
    rng: &mut Rng,
) -> Result<HostWeight<'static>> {
    let data: Vec<u8> = (0..rows * format.row_bytes(cols))
        .map(|_| {
            let byte = rng.bits() as u8;
            match format {
                WeightFormat::Int8Row => (byte as i8).max(-127) as u8,
                // −8 and, in 8 bits, −128 belong to the group formats alone.
                WeightFormat::Int4Row => {
                    let high = if byte >> 4 == 8 { 0x90 } else { byte & 0xf0 };
                    let low = if byte & 15 == 8 { 9 } else { byte & 15 };
                    high | low
                }
                _ => byte,
            }
        })
        .collect();
    if !cols.is_multiple_of(format.cols_multiple()) {
        return Err(Error::invalid(
            format!("generate a {format} weight"),
            format!(
                "{cols} columns are not a multiple of {}",
                format.cols_multiple()
            ),
        ));
    }
    let (count, dtype) = format.row_scales(cols);
    let mut scales = Vec::new();
    for _ in 0..rows * count {
        encode(dtype, [0.25, 0.5, 1.0, 2.0][rng.below(4)], &mut scales);
    }
    HostWeight::new(format, rows, cols, data, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::round;

    fn fill(generator: Generator, dtype: DType) -> Vec<f64> {
        let values = generator.fill(dtype, 4096, 64, &mut Rng::of("generate"));
        values.into_iter().map(|x| round(dtype, x)).collect()
    }

    #[test]
    fn each_generator_makes_what_it_says() {
        let f16 = DType::F16;
        let count = |g, f: fn(&f64) -> bool| fill(g, f16).iter().filter(|x| f(x)).count();
        assert_eq!(count(Generator::Integers, |x| x.fract() == 0.0), 4096);
        assert!((10..80).contains(&count(Generator::Outliers, |x| x.abs() > 10.0)));
        assert!(
            count(Generator::SignedZeros, |x| x.to_bits()
                == (-0.0f64).to_bits())
                > 500
        );
        assert_eq!(count(Generator::Subnormals, |x| x.abs() < 6.2e-5), 4096);
        assert!(count(Generator::Subnormals, |x| *x != 0.0) > 4000);
        assert!(count(Generator::NegInf, |x| x.is_infinite()) > 900);
        assert_eq!(count(Generator::Nan, |x| x.is_nan()), 1);
        let near_max = |x: &f64| x.is_finite() && x.abs() > 32000.0;
        assert_eq!(count(Generator::NearMax, near_max), 4096);
        assert!(count(Generator::HalfSubnormals, |x| x.abs() < 6.2e-5 && *x != 0.0) > 2500);
        let pairs = fill(Generator::Cancelling, DType::F32);
        assert!(
            pairs
                .chunks(2)
                .all(|p| (p[0] + p[1]).abs() <= p[0].abs() / 256.0)
        );
        assert!(
            fill(Generator::Constant, f16)
                .chunks(64)
                .all(|r| r.iter().all(|x| *x == r[0]))
        );
    }

    #[test]
    fn integer_weights_use_the_whole_range() {
        for format in WeightFormat::ALL {
            let weight = Generator::Integers
                .weight(format, [16, 128], &mut Rng::of("weight"))
                .unwrap();
            let (low, high) = match format {
                WeightFormat::Dense(_) => (-8.0, 8.0),
                WeightFormat::Int8Row => (-127.0, 127.0),
                WeightFormat::Int8Group(_) => (-128.0, 127.0),
                WeightFormat::Int4Row => (-7.0, 7.0),
                _ => (-8.0, 7.0),
            };
            let elements = (0..16).flat_map(|r| (0..128).map(move |c| (r, c)));
            let elements: Vec<f32> = elements.map(|(r, c)| weight.element(r, c)).collect();
            assert_eq!(
                elements.iter().copied().fold(0.0, f32::min),
                low,
                "{format}"
            );
            assert_eq!(
                elements.iter().copied().fold(0.0, f32::max),
                high,
                "{format}"
            );
        }
    }
}
