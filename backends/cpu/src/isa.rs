//! Instruction sets: what this CPU has, and what it is allowed to use.

use std::fmt;
use std::str::FromStr;

use hal::Error;

#[cfg(target_arch = "x86_64")]
use crate::simd::amx;

/// A family of kernels; of those that one CPU has, each adds to the one before. Each is tested on any CPU that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// 128-bit NEON (aarch64).
    Neon,
    /// With products of fours of integers (`sdot`).
    NeonDot,
    /// With products of bf16 pairs (`bfdot`) too.
    NeonBf16,
    /// 256-bit AVX2 with FMA and F16C.
    Avx2,
    /// With products of fours of integers (AVX-VNNI, `vpdpbusd`).
    Avx2Vnni,
    /// 512-bit AVX-512 F, BW, DQ, VL.
    Avx512,
    /// With products of fours of integers (`vpdpbusd`).
    Avx512Vnni,
    /// With products of bf16 pairs (`vdpbf16ps`) too.
    Avx512Bf16,
    /// With tiles of integers and of bf16 (AMX), in place of `vdpbf16ps`.
    Amx,
}

/// What the lanes of a [`Level`] are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    Scalar,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 10] = [
        Level::Scalar,
        Level::Neon,
        Level::NeonDot,
        Level::NeonBf16,
        Level::Avx2,
        Level::Avx2Vnni,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16,
        Level::Amx,
    ];

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => {
                Level::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Level::NeonBf16 => {
                Level::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => Level::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => {
                Level::Avx512.is_available() && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => {
                Level::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Amx => Level::Avx512Bf16.is_available() && amx::is_allowed(),
            _ => false,
        }
    }

    /// Whether a CPU that has it gains by it: by a rule, since a timing could choose otherwise, and round otherwise, the
    /// next time.
    fn gains(self) -> bool {
        match self {
            // Twice as fast as f32 products on AMD's Zen 4, half as fast on Intel's Sapphire Rapids and its successors.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => is_amd(),
            // Measured nowhere, and each of its sums may lose twice as much as one in f32.
            Level::NeonBf16 => false,
            _ => true,
        }
    }

    /// The name in `GLM_CPU_LEVEL` and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::NeonDot => "neon-dotprod",
            Level::NeonBf16 => "neon-bf16",
            Level::Avx2 => "avx2",
            Level::Avx2Vnni => "avx2-vnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512-vnni",
            Level::Avx512Bf16 => "avx512-bf16",
            Level::Amx => "amx",
        }
    }
}

/// Whether the CPU calls itself one of AMD's.
#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"AuthenticAMD"
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Level::ALL
            .into_iter()
            .find(|level| level.name() == s)
            .ok_or_else(|| {
                let names = Level::ALL.map(Level::name).join(", ");
                Error::invalid("choose a CPU level", format!("'{s}' is none of {names}"))
            })
    }
}

/// How far ahead of its use a stream is asked for: beyond what Intel's prefetchers reach within one page.
const STREAM_AHEAD: usize = 4096;

/// The level that kernels may use. Holding one is the proof that this CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    asks_far: bool,
    has_tiles: bool,
}

impl Isa {
    fn new(level: Level) -> Self {
        // From Zen 4 on.
        #[cfg(target_arch = "x86_64")]
        let asks_far = is_amd() && Level::Avx512.is_available();
        #[cfg(not(target_arch = "x86_64"))]
        let asks_far = false;
        Self {
            level,
            asks_far,
            has_tiles: level == Level::Amx,
        }
    }

    /// Plain Rust, and its tiles.
    #[cfg(test)]
    pub(crate) fn with_emulated_tiles() -> Self {
        Self {
            has_tiles: true,
            ..Self::new(Level::Scalar)
        }
    }

    /// The best of this CPU: the highest level, but for those that it has and does not gain by.
    pub fn detect() -> Self {
        let level = Level::ALL
            .into_iter()
            .rev()
            .find(|level| level.is_available() && level.gains());
        Self::new(level.unwrap_or(Level::Scalar))
    }

    /// `level`, whether this CPU gains by it or not.
    ///
    /// # Errors
    /// `Unsupported` when this CPU lacks it.
    pub fn at(level: Level) -> Result<Self, Error> {
        if level.is_available() {
            return Ok(Self::new(level));
        }
        Err(
            Error::unsupported("open the CPU", format!("it has no {level}"))
                .next_step(format!("the best here is {}", Self::detect())),
        )
    }

    /// The family of kernels.
    pub fn level(self) -> Level {
        self.level
    }

    /// Whether memory is asked for into the second-level cache: on Zen 4 scattered rows come a quarter faster than into the
    /// first, on Zen 3 a tenth slower.
    pub(crate) fn asks_far(self) -> bool {
        self.asks_far
    }

    /// Whether attention reads long pages of a cache faster. On Zen 4 hardware follows their streams by itself where they are
    /// multiplied as pairs; products of floats take so long that asking is better.
    pub(crate) fn reads_long_pages(self) -> bool {
        self.asks_far && self.has_pairs()
    }

    /// How many bytes ahead of its use a stream is asked for. On Zen 4 not at all: hardware follows it across pages, and
    /// is a tenth slower when asked, whatever the distance. Zen 3, which has no AVX-512, is a quarter faster when asked.
    pub(crate) fn stream_ahead(self) -> usize {
        if self.asks_far { 0 } else { STREAM_AHEAD }
    }

    pub(crate) fn vectors(self) -> Vectors {
        match self.level {
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot | Level::NeonBf16 => Vectors::Neon,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx2Vnni => Vectors::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => Vectors::Avx512,
            _ => Vectors::Scalar,
        }
    }

    /// Whether products of bf16 pairs are used.
    pub fn has_bf16(self) -> bool {
        matches!(self.level, Level::Avx512Bf16 | Level::NeonBf16) || self.has_tiles
    }

    /// Whether products are those of tiles of integers and of bf16.
    pub(crate) fn has_tiles(self) -> bool {
        self.has_tiles
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.level.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for level in Level::ALL {
            assert_eq!(level.name().parse::<Level>().unwrap(), level);
        }
        let e = "avx".parse::<Level>().unwrap_err();
        assert!(e.to_string().contains("avx512, avx512-vnni"), "{e}");
    }

    /// The maker as the system tells it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn bf16_products_are_chosen_on_amd_and_allowed_elsewhere() {
        if !Level::Avx512Bf16.is_available() {
            println!("no bf16 products on this CPU");
            return;
        }
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let amd = info.contains("AuthenticAMD");
        assert_eq!(Isa::detect().has_bf16(), amd || Level::Amx.is_available());
        assert!(Isa::at(Level::Avx512Bf16).unwrap().has_bf16());
    }
}
