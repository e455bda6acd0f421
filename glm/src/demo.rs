//! The demo model: a GLM of two million parameters that is part of the executable, so that a chat
//! needs no download.
//!
//! It does small arithmetic in English and Chinese; `glm/demo` holds its files, its training and
//! what it can do.

use crate::source::ModelSource;

/// Tokens that it was trained to follow: a longer conversation confuses it.
pub const CONTEXT: usize = 128;

/// Its files, as a folder would hold them.
pub fn folder_files() -> ModelSource {
    macro_rules! files {
        ($($name:literal),*) => {
            &[$(($name, include_bytes!(concat!("../demo/model/", $name)))),*]
        };
    }
    ModelSource::Embedded(files![
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json"
    ])
}
