//! The GLM models: from official checkpoints to tokens.
//!
//! Design choices:
//! - An architecture is data ([`architecture`]); one set of layers reads it.
//! - Knows operations and devices, never a backend: a caller passes an `ops::Context`.
#![forbid(unsafe_code)]

pub mod architecture;
