//! What the tests of kernels share.

use hal::DType;
use half::{bf16, f16};
use ops::Context;

use crate::{Activations, Isa, Level, Options, open_at};

/// The levels of this CPU.
pub(crate) fn all_levels() -> Vec<Level> {
    (Level::ALL.into_iter())
        .filter(|level| level.is_available())
        .collect()
}

/// Those that are tested: all, or what `TEST_CPU_LEVELS` names, for emulated cores, which are slow.
///
/// # Panics
/// If it names one that this CPU does not have.
pub(crate) fn levels() -> Vec<Level> {
    let Ok(names) = std::env::var("TEST_CPU_LEVELS") else {
        return all_levels();
    };
    let levels: Vec<Level> = names.split(',').map(|name| name.parse().unwrap()).collect();
    if let Some(level) = levels.iter().find(|level| !level.is_available()) {
        panic!("TEST_CPU_LEVELS: this CPU has no {level}");
    }
    levels
}

/// This CPU at every one of [`levels`], on one thread and on three.
pub(crate) fn contexts() -> Vec<Context> {
    (levels().into_iter())
        .flat_map(|level| [1, 3].map(|threads| context(level, threads)))
        .collect()
}

/// This CPU at one level.
pub(crate) fn context(level: Level, threads: usize) -> Context {
    opened(of_level(level), threads, Activations::Float)
}

fn of_level(level: Level) -> Isa {
    Isa::at(level).expect("the level is available")
}

fn opened(isa: Isa, threads: usize, activations: Activations) -> Context {
    let options = Options {
        threads: Some(threads),
        level: None,
        activations,
    };
    Context::new(open_at(isa, &options).unwrap())
}

/// Every way through a product: these levels and, with plain Rust, tiles in plain Rust; on one thread and on three.
pub(crate) fn of_products(levels: Vec<Level>, activations: Activations) -> Vec<Context> {
    let tiles = (levels.contains(&Level::Scalar)).then(Isa::with_emulated_tiles);
    (levels.into_iter().map(of_level).chain(tiles))
        .flat_map(|isa| [1, 3].map(|threads| opened(isa, threads, activations)))
        .collect()
}

/// A small generator (SplitMix64): the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Nearly normal: the sum of four uniform numbers, centred.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 1.732
    }
}

/// One element of a float type.
pub(crate) fn encode(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}

/// The value of one element.
pub(crate) fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        DType::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        _ => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
    }
}
