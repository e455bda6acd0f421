//! Our tokenizers against the Python originals: `vectors/generate.py` says how the vectors were made.

use std::path::{Path, PathBuf};

use glm::tokenizer::Vocabulary;
use glm::tokenizer::chatglm::{CHATGLM2_SPECIALS, CHATGLM3_SPECIALS, ChatGlm, ChatGlm6b};
use glm::tokenizer::gpt2::Gpt2;
use glm::tokenizer::rank_bpe::{GLM4_SPECIALS, RankBpe};
use glm::tokenizer::sentencepiece::SentencePiece;
use hal::ErrorKind;
use proptest::prelude::*;
use serde_json::Value;

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sentencepiece(name: &str) -> SentencePiece {
    SentencePiece::from_bytes(name, &bytes(name)).unwrap()
}

fn ranks() -> RankBpe {
    RankBpe::from_bytes("ranks.txt", &bytes("ranks.txt"), GLM4_SPECIALS).unwrap()
}

fn gpt2() -> Gpt2 {
    Gpt2::from_bytes(&bytes("vocab.json"), &bytes("merges.txt"), b"{}").unwrap()
}

/// The vectors of one tokenizer.
struct Vectors {
    texts: Vec<String>,
    all: Value,
}

impl Vectors {
    fn of(name: &str) -> Self {
        let mut all: Value = serde_json::from_slice(&bytes("vectors.json")).unwrap();
        let texts: Vec<String> = serde_json::from_value(all["texts"].take()).unwrap();
        assert!(texts.len() > 250);
        let all = all[name].take();
        Self { texts, all }
    }

    fn lists(&self, name: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.all[name].clone()).unwrap()
    }

    fn vocab_size(&self) -> Option<u64> {
        self.all["vocab_size"].as_u64()
    }

    /// Checks that each text encodes to the list of the same place in `name`.
    fn check(&self, name: &str, encode: impl Fn(&str) -> Vec<u32>) {
        let lists = self.lists(name);
        assert_eq!(lists.len(), self.texts.len());
        for (text, ids) in self.texts.iter().zip(lists) {
            assert_eq!(encode(text), ids, "{name} of {text:?}");
        }
    }

    /// Checks that each list of `ids` decodes to the text of the same place in `texts`.
    fn check_decode(&self, ids: &str, texts: &str, decode: impl Fn(&[u32]) -> Vec<u8>) {
        let texts: Vec<String> = serde_json::from_value(self.all[texts].clone()).unwrap();
        let lists = self.lists(ids);
        assert_eq!(lists.len(), texts.len());
        for (ids, text) in lists.iter().zip(texts) {
            assert_eq!(replace_invalid(&decode(ids)), text, "{ids:?}");
        }
    }
}

/// Text as SentencePiece shows bytes: each byte that is not part of a character is a replacement character.
fn replace_invalid(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

#[test]
fn sentencepiece_equals_the_original() {
    for name in ["bpe", "unigram", "suffix", "unused"] {
        let model = sentencepiece(&format!("{name}.model"));
        let vectors = Vectors::of(name);
        assert_eq!(vectors.vocab_size(), Some(model.vocab_size() as u64));
        vectors.check("ids", |text| model.encode(text));
        vectors.check_decode("ids", "decoded", |ids| model.decode(ids));
        vectors.check_decode("random_ids", "random_decoded", |ids| model.decode(ids));
    }
}

#[test]
fn chatglm_6b_equals_the_original() {
    let vectors = Vectors::of("ice");
    let model = bytes("ice.model");
    for image_tokens in [0, 20000] {
        let ice = ChatGlm6b::from_bytes("ice.model", &model, image_tokens).unwrap();
        let shift = |ids: Vec<u32>| ids.iter().map(|id| id - image_tokens).collect();
        let size = ice.vocab_size() as u64 - u64::from(image_tokens);
        assert_eq!(vectors.vocab_size(), Some(size));
        vectors.check("ids", |text| shift(ice.encode(text)));
        vectors.check("continued", |text| shift(ice.encode_continued(text)));
        vectors.check_decode("ids", "decoded", |ids| {
            // An image token, where there are such, spells nothing.
            let mut shifted: Vec<u32> = ids.iter().map(|id| id + image_tokens).collect();
            shifted.extend((image_tokens > 0).then_some(7));
            ice.decode(&shifted)
        });
        // 350 pieces; then the special ones, which no text yields.
        for (name, id) in [
            ("[MASK]", 350),
            ("[gMASK]", 351),
            ("<sop>", 354),
            ("<eop>", 355),
        ] {
            let id = id + image_tokens;
            assert_eq!(ice.special(name), Some(id), "{name}");
            assert!(!ice.encode(name).contains(&id), "{name}");
        }
        // Then the tab and blanks of 2 to 80 spaces, which are text.
        let ids = [358, 361].map(|id| id + image_tokens);
        assert_eq!(ice.encode_continued("\t    "), ids);
        assert_eq!(ice.special("<|tab|>"), None);
    }
}

/// Later files have the special pieces, of whatever kind.
#[test]
fn chatglm_6b_special_pieces_of_the_file_are_no_text() {
    let user_defined = b"\x0a\x0b\x0a\x07[gMASK]\x18\x04";
    let model = [&bytes("ice.model")[..], user_defined].concat();
    let ice = ChatGlm6b::from_bytes("ice.model", &model, 0).unwrap();
    assert_eq!((ice.special("[gMASK]"), ice.vocab_size()), (Some(350), 351));
    assert!(!ice.encode("[gMASK]").contains(&350));
}

#[test]
fn chatglm_appends_special_tokens() {
    let model = bytes("bpe.model");
    let v2 = ChatGlm::from_bytes("bpe.model", &model, CHATGLM2_SPECIALS).unwrap();
    let v3 = ChatGlm::from_bytes("bpe.model", &model, CHATGLM3_SPECIALS).unwrap();
    assert_eq!((v2.vocab_size(), v3.vocab_size()), (705, 709));
    assert_eq!(
        (v2.special("[gMASK]"), v2.special("<|user|>")),
        (Some(701), None)
    );
    assert_eq!(
        (v3.special("[gMASK]"), v3.special("<|user|>")),
        (Some(701), Some(706))
    );
    assert_eq!((v3.special("</s>"), v3.special("the")), (Some(2), None));
    let first = v3.special("[MASK]").unwrap();
    for text in ["<|user|>", "[gMASK]sop", "</s>"] {
        let ids = v3.encode(text);
        assert!(
            ids.iter().all(|&id| id > 2 && id < first),
            "{text}: {ids:?}"
        );
        assert_eq!(v3.decode(&ids), text.as_bytes());
    }
    let ids = [
        v3.encode("a b"),
        vec![706, 2],
        v3.encode(" c"),
        vec![64_000],
    ]
    .concat();
    assert_eq!(v3.decode(&ids), b"a b<|user|> c");
}

#[test]
fn ranks_equal_the_original() {
    let bpe = ranks();
    let vectors = Vectors::of("ranks");
    let size = bpe.vocab_size() - GLM4_SPECIALS.len();
    assert_eq!(vectors.vocab_size(), Some(size as u64));
    vectors.check("ids", |text| bpe.encode(text));
}

#[test]
fn gpt2_equals_the_original() {
    let bpe = gpt2();
    let vectors = Vectors::of("gpt2");
    assert_eq!(vectors.vocab_size(), Some(bpe.vocab_size() as u64));
    vectors.check("ids", |text| bpe.encode(text));
}

/// Quadratic time would take an hour here.
#[test]
fn long_words_take_no_quadratic_time() {
    let mut vocabularies: Vec<Box<dyn Vocabulary>> = vec![Box::new(ranks()), Box::new(gpt2())];
    for name in ["bpe.model", "unigram.model", "suffix.model", "unused.model"] {
        vocabularies.push(Box::new(sentencepiece(name)));
    }
    for vocabulary in vocabularies {
        for part in ["a", " ", "ab", "\n", "1", "你", "!"] {
            let ids = vocabulary.encode(&part.repeat(100_000));
            vocabulary.decode(&ids);
        }
    }
}

#[test]
fn other_models_are_refused_by_name() {
    let model = bytes("bpe.model");
    // A field that comes again replaces the one before: trainer_spec.model_type = 4.
    let character = [&model[..], b"\x12\x02\x18\x04"].concat();
    let e = SentencePiece::from_bytes("x.model", &character).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("model type 4 "), "{e}");
    // denormalizer_spec { name: "d", precompiled_charsmap: "x" }
    let denormalizer = [&model[..], b"\x2a\x06\x0a\x01d\x12\x01x"].concat();
    let e = SentencePiece::from_bytes("x.model", &denormalizer).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    // A second `<unk>`, by its own name and by that of a piece.
    for piece in [
        &b"\x0a\x07\x0a\x03<u>\x18\x02"[..],
        b"\x0a\x07\x0a\x03<s>\x18\x03",
    ] {
        let e = SentencePiece::from_bytes("x.model", &[&model[..], piece].concat()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
    }
}

/// ChatGLM3's own file, whose licence keeps it out of this project.
#[test]
fn real_chatglm3() {
    const VARIABLE: &str = "GLM_CHATGLM3_TOKENIZER";
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        eprintln!("SKIPPED: {VARIABLE} does not name ChatGLM3's tokenizer.model");
        return;
    };
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let v3 = ChatGlm::from_bytes("tokenizer.model", &file, CHATGLM3_SPECIALS).unwrap();
    assert_eq!(v3.vocab_size(), 64798);
    for (name, id) in [
        ("<unk>", 0),
        ("<s>", 1),
        ("</s>", 2),
        ("[MASK]", 64789),
        ("[gMASK]", 64790),
        ("sop", 64792),
        ("eop", 64793),
        ("<|system|>", 64794),
        ("<|observation|>", 64797),
    ] {
        assert_eq!(v3.special(name), Some(id), "{name}");
    }
    // From the tests of chatglm.cpp, without the prompt's own ids.
    for (text, ids) in [
        ("你好", &[36474, 54591][..]),
        (
            "[Round 1]\n\n问：你好\n\n答：",
            &[
                790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13, 13, 55437,
                31211,
            ],
        ),
        (
            "def main():\n    print('hello world')\t# greeting",
            &[
                884, 1301, 9427, 13, 296, 4466, 2029, 15616, 30914, 993, 3387, 12, 31010, 30174,
            ],
        ),
        ("Hello world", &[13755, 993]),
        ("\n", &[30910, 13]),
        ("  a\tb", &[265, 260, 12, 30931]),
        ("😀", &[30910, 31385]),
    ] {
        assert_eq!(v3.encode(text), ids, "{text:?}");
        assert_eq!(v3.decode(ids), text.as_bytes());
    }
}

/// A text of what tokenizers trip over.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-zA-Z'0-9 .,!<>|_]{0,8}",
        "[你好世界的，。？]{0,5}",
        "[ \t\r\n]{0,6}",
        "\\PC{0,4}",
        any::<char>().prop_map(String::from),
        Just("</s><|user|>[gMASK]<0x0A>".to_string()),
    ];
    proptest::collection::vec(word, 0..8).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn byte_level_round_trip(text in text()) {
        let (ranks, gpt2) = (ranks(), gpt2());
        prop_assert_eq!(ranks.decode(&ranks.encode(&text)), text.as_bytes());
        prop_assert_eq!(gpt2.decode(&gpt2.encode(&text)), text.as_bytes());
    }

    /// With bytes for what no piece spells and no cleaning, only `▁` itself, which is a space, gets lost.
    #[test]
    fn sentencepiece_round_trip(text in text()) {
        let model = sentencepiece("bpe.model");
        let ids = model.encode(&text);
        let decoded = String::from_utf8(model.decode(&ids)).unwrap();
        prop_assert_eq!(decoded, text.replace('▁', " "));
        prop_assert!(ids.iter().all(|&id| id > 2), "control piece in {:?}", ids);
    }

    /// Whatever the bytes of a file, it is read or refused, and what is read can be used.
    #[test]
    fn broken_files_are_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        text in text(),
        ids in proptest::collection::vec(any::<u32>().prop_map(|id| id % 1000), 0..8),
    ) {
        let broken = |name: &str| {
            let mut bytes = bytes(name);
            for (index, byte) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Some(cut) = &cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        for name in ["bpe.model", "unigram.model", "suffix.model", "unused.model"] {
            let file = broken(name);
            if let Ok(model) = SentencePiece::from_bytes(name, &file) {
                model.encode(&text);
                model.decode(&ids);
            }
            if let Ok(model) = ChatGlm6b::from_bytes(name, &file, 20000) {
                model.encode_continued(&text);
                model.decode(&ids);
            }
        }
        if let Ok(model) = RankBpe::from_bytes("ranks.txt", &broken("ranks.txt"), GLM4_SPECIALS) {
            prop_assert_eq!(model.decode(&model.encode(&text)), text.as_bytes());
            model.decode(&ids);
        }
        let (vocab, merges) = (bytes("vocab.json"), bytes("merges.txt"));
        for (vocab, merges) in [(&broken("vocab.json"), &merges), (&vocab, &broken("merges.txt"))] {
            if let Ok(model) = Gpt2::from_bytes(vocab, merges, b"{}") {
                prop_assert_eq!(model.decode(&model.encode(&text)), text.as_bytes());
                model.decode(&ids);
            }
        }
    }
}
