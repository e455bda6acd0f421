//! What a trace keeps of a tensor: a few numbers that tell where two chips part, without the tensor.

use hal::DType;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Signed sums per tensor. Their number sets how well a distance is known: to about 1/√(2n), here 18 %.
pub const SKETCH: usize = 16;

/// A tensor in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Smallest finite element.
    pub min: f64,
    /// Largest finite element.
    pub max: f64,
    /// Mean of the finite elements.
    pub mean: f64,
    /// Root of the mean square of the finite elements.
    pub rms: f64,
    /// Elements that are not a number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nan: usize,
    /// Infinite elements.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inf: usize,
    /// FNV-1a of the bytes: equal bits have equal checksums.
    pub checksum: String,
    /// Sums of all finite elements with signs that depend on the index alone. For two tensors of one shape, the mean square
    /// of the sums' differences is an unbiased estimate of the squared distance of the tensors (Alon, Matias, Szegedy,
    /// "The space complexity of approximating the frequency moments", 1999).
    pub sketch: [f64; SKETCH],
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Stats {
    /// Of row-major little-endian elements.
    pub fn of(dtype: DType, bytes: &[u8]) -> Self {
        let mut sketch = [0.0; SKETCH];
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut sum, mut squares, mut nan, mut inf, mut finite) = (0.0, 0.0, 0, 0, 0usize);
        for (i, x) in elements(dtype, bytes).enumerate() {
            if !x.is_finite() {
                *(if x.is_nan() { &mut nan } else { &mut inf }) += 1;
                continue;
            }
            finite += 1;
            (min, max) = (min.min(x), max.max(x));
            sum += x;
            squares += x * x;
            let signs = mix(i as u64);
            for (j, sum) in sketch.iter_mut().enumerate() {
                *sum += f64::from_bits(x.to_bits() ^ (signs >> j & 1) << 63);
            }
        }
        if finite == 0 {
            (min, max) = (0.0, 0.0);
        }
        let n = finite.max(1) as f64;
        Self {
            min,
            max,
            mean: sum / n,
            rms: (squares / n).sqrt(),
            nan,
            inf,
            checksum: format!("{:016x}", fnv1a(bytes)),
            sketch,
        }
    }

    /// How far two tensors of `len` elements each are apart, as a share of the norm of `self`. Infinite where one has NaN or
    /// infinities and the other has not.
    pub fn distance(&self, other: &Stats, len: usize) -> f64 {
        if self.checksum == other.checksum {
            return 0.0;
        }
        if (self.nan, self.inf) != (other.nan, other.inf) {
            return f64::INFINITY;
        }
        let pairs = self.sketch.iter().zip(&other.sketch);
        let squares: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
        let distance = (squares / SKETCH as f64).sqrt();
        let norm = self.rms * ((len - self.nan - self.inf) as f64).sqrt();
        match distance {
            0.0 => 0.0,
            _ => distance / norm,
        }
    }
}

/// The values of row-major little-endian elements.
pub(super) fn elements(dtype: DType, bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.chunks_exact(dtype.bytes()).map(move |x| match *x {
        [a, b, c, d] if dtype == DType::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b] if dtype == DType::F16 => f16::from_le_bytes([a, b]).to_f64(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f64(),
        [a] if dtype == DType::I8 => f64::from(a as i8),
        _ => f64::from(x[0]),
    })
}

/// 64 well mixed bits of an index: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[f32]) -> Stats {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Stats::of(DType::F32, &bytes)
    }

    #[test]
    fn a_sketch_knows_the_distance() {
        let a: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.7).sin()).collect();
        let norm = a.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let of_a = stats(&a);
        assert_eq!(of_a.distance(&of_a, a.len()), 0.0);
        // One element, every element a little, two exchanged, all reversed.
        let mut changed: Vec<Vec<f32>> = vec![a.clone(); 4];
        changed[0][77] += 3.0;
        changed[1].iter_mut().for_each(|x| *x *= 1.0 + 1e-3);
        changed[2].swap(10, 900);
        changed[3].reverse();
        for b in changed {
            let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
            let truth = squares.sum::<f64>().sqrt() / norm;
            let estimate = of_a.distance(&stats(&b), a.len());
            assert!(
                (0.4..2.0).contains(&(estimate / truth)),
                "{estimate} {truth}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_is_counted() {
        let a = stats(&[1.0, f32::NAN, -3.0, f32::INFINITY]);
        assert_eq!(
            (a.nan, a.inf, a.min, a.max, a.mean),
            (1, 1, -3.0, 1.0, -1.0)
        );
        assert_eq!(a.distance(&stats(&[1.0, 0.0, -3.0, 0.0]), 4), f64::INFINITY);
        let empty = stats(&[]);
        assert_eq!((empty.min, empty.rms), (0.0, 0.0));
        let zeros = stats(&[0.0; 3]);
        assert_eq!(zeros.distance(&stats(&[1.0; 3]), 3), f64::INFINITY);
    }

    #[test]
    fn every_type_is_read() {
        for (dtype, bytes, value) in [
            (DType::F32, (-1.5f32).to_le_bytes().to_vec(), -1.5),
            (DType::F16, f16::from_f32(-1.5).to_le_bytes().to_vec(), -1.5),
            (
                DType::BF16,
                bf16::from_f32(-1.5).to_le_bytes().to_vec(),
                -1.5,
            ),
            (DType::I32, (-7i32).to_le_bytes().to_vec(), -7.0),
            (DType::I8, vec![0xff], -1.0),
            (DType::U8, vec![0xff], 255.0),
        ] {
            assert_eq!(
                elements(dtype, &bytes).collect::<Vec<_>>(),
                [value],
                "{dtype}"
            );
        }
    }
}
