//! Instruction sets: what this CPU has, and what it is allowed to use.

use std::fmt;
use std::str::FromStr;

use hal::Error;

/// A family of kernels. Each is tested on any CPU that has it or a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// 128-bit NEON (aarch64).
    Neon,
    /// 256-bit AVX2 with FMA and F16C.
    Avx2,
    /// 512-bit AVX-512 F, BW, DQ, VL.
    Avx512,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 4] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512];

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            _ => false,
        }
    }

    /// The name in `GLM_CPU_LEVEL` and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
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
                Error::invalid(
                    "choose a CPU level",
                    format!("'{s}' is not scalar, neon, avx2 or avx512"),
                )
            })
    }
}

/// What the kernels may use. Holding one with a level is the proof that this CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    bf16: bool,
    vnni: bool,
}

impl Isa {
    /// The best this CPU has.
    pub fn detect() -> Self {
        let level = Level::ALL
            .into_iter()
            .rev()
            .find(|level| level.is_available());
        Self::of(level.unwrap_or(Level::Scalar))
    }

    /// `level`, with the extensions that go with it.
    ///
    /// # Errors
    /// `Unsupported` when this CPU lacks it.
    pub fn at(level: Level) -> Result<Self, Error> {
        if level.is_available() {
            return Ok(Self::of(level));
        }
        Err(
            Error::unsupported("open the CPU", format!("it has no {level}"))
                .next_step(format!("the best here is {}", Self::detect())),
        )
    }

    fn of(level: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            return Self {
                level,
                bf16: is_x86_feature_detected!("avx512bf16"),
                vnni: is_x86_feature_detected!("avx512vnni"),
            };
        }
        Self {
            level,
            bf16: false,
            vnni: false,
        }
    }

    /// The family of kernels.
    pub fn level(self) -> Level {
        self.level
    }

    /// Whether `vdpbf16ps` may be used.
    pub fn has_bf16(self) -> bool {
        self.bf16
    }

    /// Whether `vpdpbusd` may be used.
    pub fn has_vnni(self) -> bool {
        self.vnni
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for (has, name) in [(self.bf16, "bf16"), (self.vnni, "vnni")] {
            if has {
                write!(f, "+{name}")?;
            }
        }
        Ok(())
    }
}
