//! Levels: the order in which a new port comes to life.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One step of a port. Each needs those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Level {
    /// Memory, streams, events, errors.
    Memory,
    /// Operations that move or compare numbers.
    Exact,
    /// Operations on single elements.
    Elementwise,
    /// Matrix products, plain and quantised.
    Matmul,
    /// Softmax, norms, rotary embeddings, attention, the KV cache, sampling.
    Attention,
    /// Layers and whole small models.
    Models,
    /// Determinism, injected faults, long runs.
    Robustness,
    /// Speed, against what the device itself can reach.
    Speed,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 8] = [
        Level::Memory,
        Level::Exact,
        Level::Elementwise,
        Level::Matmul,
        Level::Attention,
        Level::Models,
        Level::Robustness,
        Level::Speed,
    ];

    /// The level of an operation.
    pub fn of(op: &str) -> Self {
        match op {
            "copy" | "cast" | "embedding" | "argmax" | "top_k" => Level::Exact,
            "elementwise" | "activation" | "glu" => Level::Elementwise,
            "matmul" | "batched_matmul" => Level::Matmul,
            _ => Level::Attention,
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What it is about, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Level::Memory => "memory and streams",
            Level::Exact => "exact operations",
            Level::Elementwise => "elementwise",
            Level::Matmul => "matrix products",
            Level::Attention => "softmax, norms, rope, attention, sampling",
            Level::Models => "small models",
            Level::Robustness => "determinism, faults, soak",
            Level::Speed => "speed",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.number())
    }
}

impl From<Level> for u8 {
    fn from(level: Level) -> u8 {
        level.number()
    }
}

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let level = Level::ALL.get(usize::from(number));
        level
            .copied()
            .ok_or_else(|| format!("there is no level {number}: levels are 0 to 7"))
    }
}

/// Levels from the first to the last of a range: `0..4`, or `3` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The first.
    pub first: Level,
    /// The last, included.
    pub last: Level,
}

impl Levels {
    /// What a certificate needs.
    pub const CERTIFYING: Levels = Levels {
        first: Level::Memory,
        last: Level::Robustness,
    };

    /// Whether `level` is one of them.
    pub fn contain(self, level: Level) -> bool {
        (self.first..=self.last).contains(&level)
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = |text: &str| {
            let number = text.trim().parse::<u8>();
            let number =
                number.map_err(|_| format!("'{text}' is not a level: write 3, or 0..4"))?;
            Level::try_from(number)
        };
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let levels = Levels {
            first: level(first)?,
            last: level(last.strip_prefix('=').unwrap_or(last))?,
        };
        match levels.first <= levels.last {
            true => Ok(levels),
            false => Err(format!("'{text}' ends before it starts")),
        }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first.number()),
            false => write!(f, "{}..{}", self.first.number(), self.last.number()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_as_they_print() {
        for text in ["0..4", "3", "7", "0..7"] {
            assert_eq!(text.parse::<Levels>().unwrap().to_string(), text);
        }
        assert_eq!("0..=4".parse::<Levels>().unwrap().to_string(), "0..4");
        for text in ["", "8", "4..2", "a", "-1", "1..", "0..9"] {
            assert!(text.parse::<Levels>().is_err(), "{text}");
        }
    }

    /// A new operation must be given its level aloud.
    #[test]
    fn every_operation_has_the_level_of_the_documentation() {
        macro_rules! names {
            ($($name:ident $op:ident),*) => { [$(<ops::$op as ops::Op>::NAME),*] };
        }
        let names = crate::for_each_op!(names);
        let at = |level| names.iter().filter(|op| Level::of(op) == level).count();
        assert_eq!(at(Level::Exact), 5);
        assert_eq!(at(Level::Elementwise), 3);
        assert_eq!(at(Level::Matmul), 2);
        assert_eq!(at(Level::Attention), names.len() - 10);
    }
}
