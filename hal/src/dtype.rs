//! Element types and weight formats.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The type of one element of a [`View`](crate::View).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer; also the type of packed weights and workspaces.
    U8,
    /// Signed 32-bit integer: token ids, positions, page tables.
    I32,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 6] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::U8,
        DType::I32,
    ];

    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Unit roundoff `u` of a float type: half the gap above 1. Zero for integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::F16 => 1.0 / (1u64 << 11) as f64,
            DType::BF16 => 1.0 / (1u64 << 8) as f64,
            _ => 0.0,
        }
    }

    /// The name used in commands and reports.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the rows of a weight matrix `[rows, cols]` are encoded before a backend packs them.
///
/// The quantised formats are symmetric: `w = q · scale`.
/// Int4 bytes hold two columns, **the even column in the high nibble**, both two's complement:
/// GLM's own order (GLM-130B `quantization/`, ChatGLM-6B `quantization.py`).
///
/// Text and JSON: the name that [`Display`](fmt::Display) gives, `bf16`, `int8`, `int4-g32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum WeightFormat {
    /// f32, f16 or bf16 elements.
    Dense(DType),
    /// i8 elements in [-127, 127], one f32 scale per row.
    Int8Row,
    /// i8 elements in [-128, 127], one f16 scale per group of this many columns (32).
    Int8Group(usize),
    /// i4 elements in [-7, 7], one f32 scale per row.
    Int4Row,
    /// i4 elements in [-8, 7], one f16 scale per group of this many columns (32, 64 or 128).
    Int4Group(usize),
}

impl WeightFormat {
    /// Every format, for tables and tests.
    pub const ALL: [WeightFormat; 9] = [
        WeightFormat::Dense(DType::F32),
        WeightFormat::Dense(DType::F16),
        WeightFormat::Dense(DType::BF16),
        WeightFormat::Int8Row,
        WeightFormat::Int8Group(32),
        WeightFormat::Int4Row,
        WeightFormat::Int4Group(32),
        WeightFormat::Int4Group(64),
        WeightFormat::Int4Group(128),
    ];

    /// Bytes of one row's elements, without scales. `cols` must be a multiple of [`Self::cols_multiple`].
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            WeightFormat::Dense(dtype) => cols * dtype.bytes(),
            WeightFormat::Int8Row | WeightFormat::Int8Group(_) => cols,
            WeightFormat::Int4Row | WeightFormat::Int4Group(_) => cols / 2,
        }
    }

    /// Number of scales of one row, and their type.
    pub const fn row_scales(self, cols: usize) -> (usize, DType) {
        match self {
            WeightFormat::Dense(_) => (0, DType::F32),
            WeightFormat::Int8Row | WeightFormat::Int4Row => (1, DType::F32),
            WeightFormat::Int8Group(group) | WeightFormat::Int4Group(group) => {
                (cols / group, DType::F16)
            }
        }
    }

    /// The number that `cols` must be a multiple of.
    pub const fn cols_multiple(self) -> usize {
        match self {
            WeightFormat::Dense(_) | WeightFormat::Int8Row => 1,
            WeightFormat::Int4Row => 2,
            WeightFormat::Int8Group(group) | WeightFormat::Int4Group(group) => group,
        }
    }

    /// Columns that share a scale; `None`: all columns of a row do, or there are no scales.
    pub const fn group(self) -> Option<usize> {
        match self {
            WeightFormat::Int8Group(group) | WeightFormat::Int4Group(group) => Some(group),
            _ => None,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Dense(dtype) => write!(f, "{dtype}"),
            WeightFormat::Int8Row => f.write_str("int8"),
            WeightFormat::Int8Group(group) => write!(f, "int8-g{group}"),
            WeightFormat::Int4Row => f.write_str("int4"),
            WeightFormat::Int4Group(group) => write!(f, "int4-g{group}"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let named = |format: &Self| format.to_string() == name;
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(Self::to_string).collect();
            Error::invalid(
                format!("read the weight format '{name}'"),
                "there is none of this name",
            )
            .next_step(format!("choose one of {}", names.join(", ")))
        })
    }
}

impl From<WeightFormat> for String {
    fn from(format: WeightFormat) -> Self {
        format.to_string()
    }
}

impl TryFrom<String> for WeightFormat {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}
