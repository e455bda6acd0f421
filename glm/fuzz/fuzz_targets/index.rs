//! `model.safetensors.index.json`: no shard may lie outside the model's folder.
#![no_main]

use std::path::Path;

use glm::checkpoint::check_index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    for file in check_index(json).unwrap_or_default() {
        assert_eq!(Path::new(&file).file_name(), Some(file.as_ref()));
    }
});
