//! Files of torch: what is accepted lies in the file, and is read without more memory than it has.
#![no_main]

use glm::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes(file.to_vec()) else {
        return;
    };
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).expect("it is listed");
        assert!(tensor.bytes() <= file.len());
        let data = tensor.data().expect("its parts are in one file");
        assert_eq!(data.len(), tensor.bytes());
        let _ = checkpoint.linear(name.trim_end_matches(".weight"), 8);
    }
    let _ = checkpoint.implied_config();
});
