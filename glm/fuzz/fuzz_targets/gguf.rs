//! GGUF files: what is accepted lies in the file, and its configuration is read or refused.
#![no_main]

use glm::architecture::Architecture;
use glm::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes([b"GGUF", file].concat()) else {
        return;
    };
    if let Ok(Some(config)) = checkpoint.config() {
        let _ = Architecture::from_config(&config);
    }
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).expect("it is listed");
        let data = tensor.data().expect("it was checked");
        assert_eq!(data.len(), tensor.bytes());
        let _ = tensor.to_f32();
        let _ = checkpoint.linear(name.trim_end_matches(".weight"), 256);
    }
});
