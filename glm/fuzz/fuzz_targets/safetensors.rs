//! Safetensors files: we accept no more than the official reader, and see the same bytes.
#![no_main]

use glm::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|file: &[u8]| {
    // Other containers have fuzzers of their own.
    if file.starts_with(b"GGUF") || file.starts_with(b"PK") {
        return;
    }
    let Ok(checkpoint) = Checkpoint::from_bytes(file.to_vec()) else {
        return;
    };
    let official = SafeTensors::deserialize(file).expect("the official reader accepts it");
    assert_eq!(checkpoint.names().len(), official.len());
    for name in checkpoint.names() {
        let ours = checkpoint.tensor(name).expect("it is listed");
        let theirs = official.tensor(name).expect("it is listed");
        assert_eq!(ours.shape, theirs.shape());
        assert_eq!(*ours.data().expect("it lies in the file"), *theirs.data());
        let _ = checkpoint.linear(name.trim_end_matches(".weight"), 8);
    }
});
