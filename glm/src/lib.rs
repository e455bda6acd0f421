//! The GLM models: from official checkpoints to tokens.
//!
//! Design choices:
//! - An architecture is data ([`architecture`]); one set of layers reads it.
//! - Knows operations and devices, never a backend: a caller passes an `ops::Context`.
#![deny(unsafe_code)]

pub mod architecture;
pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod inspect;
pub mod model;
pub mod prompt;
pub mod quantize;
pub mod rope;
pub mod tokenizer;
mod weights;

mod files;
