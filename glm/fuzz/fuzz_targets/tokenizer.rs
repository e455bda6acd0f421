//! `tokenizer.json`, then encoding with what was accepted.
#![no_main]

use glm::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_bytes(json) else {
        return;
    };
    for text in ["abc <|user|> 你好\n", ""] {
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids, true);
        }
        let _ = tokenizer.encode_with_specials(text);
    }
});
