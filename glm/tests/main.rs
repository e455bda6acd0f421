//! Tests of the library and of the tool: one program, so that one link and all cores serve them.

#[cfg(feature = "ascend")]
#[path = "common/cann.rs"]
mod cann;
mod common;

mod beams;
mod bench;
mod chip_check;
mod cli;
mod conform;
mod demo;
#[cfg(feature = "cpu")]
mod devices;
mod doctor;
mod files;
mod generate;
mod gguf;
mod golden;
mod packed;
mod plan;
mod prompts;
mod support;
mod tokenizer_vectors;
mod torch;
mod trace;
