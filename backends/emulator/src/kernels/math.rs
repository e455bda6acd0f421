//! Arithmetic of an emulated device.

use hal::DType;
use half::{bf16, f16};

use crate::Character;

/// How sums, products and small numbers come out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Math {
    /// Partial sums that run side by side.
    pub(crate) wave: usize,
    /// The type that products are summed in.
    pub(crate) accumulator: DType,
    /// Bits of significand that operands of products keep.
    pub(crate) operand_bits: u32,
    /// Whether numbers below 2⁻¹²⁶ become zero.
    pub(crate) flush: bool,
}

impl Math {
    pub(crate) fn of(character: &Character) -> Self {
        Self {
            wave: character.wave,
            accumulator: character.accumulator,
            operand_bits: character.operand_bits,
            flush: character.flush,
        }
    }

    /// A stored number, as arithmetic reads it.
    pub(crate) fn get(&self, x: f64) -> f32 {
        self.flushed(x as f32)
    }

    /// A result.
    pub(crate) fn flushed(&self, x: f32) -> f32 {
        match self.flush && x.is_subnormal() {
            true => 0.0f32.copysign(x),
            false => x,
        }
    }

    /// A result, to be stored.
    pub(crate) fn put(&self, x: f32) -> f64 {
        f64::from(self.flushed(x))
    }

    /// An operand of a product.
    pub(crate) fn operand(&self, x: f64) -> f32 {
        let x = self.get(x);
        match self.operand_bits {
            24.. => x,
            8 => bf16::from_f32(x).to_f32(),
            bits => {
                // To nearest, ties to even, by the bits that are dropped; infinities and NaN have none.
                let dropped = 24 - bits;
                if !x.is_finite() {
                    return x;
                }
                let half = (1u32 << (dropped - 1)) - 1 + (x.to_bits() >> dropped & 1);
                f32::from_bits(x.to_bits().wrapping_add(half) >> dropped << dropped)
            }
        }
    }

    /// One step of a sum of products.
    fn add(&self, sum: f32, x: f32) -> f32 {
        let sum = self.flushed(sum + x);
        match self.accumulator {
            DType::F16 => f16::from_f32(sum).to_f32(),
            _ => sum,
        }
    }

    /// `Σ a·b`, lane by lane.
    pub(crate) fn dot(&self, a: &[f64], b: &[f64]) -> f32 {
        let products = a.iter().zip(b);
        self.sum_by(
            products.map(|(&a, &b)| self.flushed(self.operand(a) * self.operand(b))),
            |sum, x| self.add(sum, x),
        )
    }

    /// `Σ terms` in f32, lane by lane.
    pub(crate) fn sum(&self, terms: impl IntoIterator<Item = f32>) -> f32 {
        self.sum_by(terms, |sum, x| self.flushed(sum + x))
    }

    fn sum_by(&self, terms: impl IntoIterator<Item = f32>, add: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = vec![0.0f32; self.wave];
        let mut at = 0;
        for x in terms {
            lanes[at] = add(lanes[at], x);
            at += 1;
            if at == self.wave {
                at = 0;
            }
        }
        let mut live = self.wave;
        while live > 1 {
            let half = live.div_ceil(2);
            for i in half..live {
                lanes[i - half] = add(lanes[i - half], lanes[i]);
            }
            live = half;
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_keeps_eleven_bits() {
        let math = Math {
            wave: 4,
            accumulator: DType::F32,
            operand_bits: 11,
            flush: true,
        };
        let one = |ulps: f64| 1.0 + ulps / 1024.0;
        for (x, want) in [
            (one(0.4), 1.0),
            (one(0.5), 1.0),
            (one(1.5), one(2.0)),
            (one(0.6), one(1.0)),
        ] {
            assert_eq!(f64::from(math.operand(x)), want);
        }
        assert_eq!(math.operand(f64::from(f32::MAX)), f32::INFINITY);
        assert_eq!(math.get(-1e-40).to_bits(), (-0.0f32).to_bits());
        let ones = vec![1.0; 11];
        assert_eq!(math.dot(&ones, &ones), 11.0);
    }
}
