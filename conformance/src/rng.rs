//! Random numbers that any machine reproduces from a label: Philox counters and integer arithmetic only.

use ops::philox;

/// Where FNV-1a starts.
pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// One byte more in an FNV-1a hash.
pub(crate) fn fnv_step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// FNV-1a of a text.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(FNV_OFFSET, fnv_step)
}

/// A stream of random numbers, a function of its label alone.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    counter: u64,
    words: [u32; 4],
    used: usize,
}

impl Rng {
    /// The stream of `label`: its FNV-1a hash is the Philox key.
    pub fn of(label: &str) -> Self {
        let seed = fnv(label);
        Self {
            seed,
            counter: 0,
            words: [0; 4],
            used: 4,
        }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox(self.seed, self.counter);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// A number in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.bits()) * n as u64) >> 32) as usize
    }

    /// Uniform in [−1, 1).
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.bits()) / f64::from(1u32 << 31) - 1.0
    }

    /// Nearly N(0, 1): the scaled sum of four uniforms, so no platform's logarithm enters. |x| ≤ √12.
    pub fn normal(&mut self) -> f64 {
        (0..4).map(|_| self.uniform()).sum::<f64>() * 0.75f64.sqrt()
    }

    /// `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_gives_the_same_numbers_everywhere() {
        let mut rng = Rng::of("matmul");
        let words: Vec<u32> = (0..5).map(|_| rng.bits()).collect();
        // Computed by an independent implementation in Python.
        assert_eq!(
            words,
            [
                0xf3b1_35a9,
                0x9893_4b12,
                0xe869_8c23,
                0xafc9_218b,
                0xb2d6_89b0
            ]
        );
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut rng = Rng::of("moments");
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = rng.normal();
            sum += x;
            squares += x * x;
        }
        assert!((sum / f64::from(n)).abs() < 0.02);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02);
    }
}
