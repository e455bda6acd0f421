//! The GLM models: from official checkpoints to tokens.
//!
//! Design choices:
//! - An architecture is data ([`architecture`]); one set of layers reads it.
//! - Knows operations and devices; only the facade [`backends`] names back ends, one cargo feature each.
#![deny(unsafe_code)]

pub mod architecture;
pub mod backends;
pub mod blank;
pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod demo;
pub mod engine;
pub mod inspect;
pub mod model;
pub mod prompt;
pub mod rope;
pub mod sampler;
pub mod shapes;
pub mod source;
pub mod speed;
pub mod tokenizer;
pub mod trace;
mod weights;

mod files;
mod packed;
