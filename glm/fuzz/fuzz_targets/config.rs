//! `config.json` and `generation_config.json`.
#![no_main]

use glm::architecture::Architecture;
use glm::config::GenerationConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(value) = serde_json::from_slice(json) else {
        return;
    };
    let _ = GenerationConfig::from_configs(&value, Some(&value));
    if let Ok(architecture) = Architecture::from_config(&value) {
        // What is accepted has no product that overflows.
        let _ = architecture.parameters();
        let _ = architecture.matrices(architecture.layers - 1);
    }
});
