//! Which of our own readers a model folder is for.

use std::path::Path;

use hal::{Error, Result};
use serde_json::Value;

use super::chatglm::{
    CHATGLM2_SPECIALS, CHATGLM3_SPECIALS, ChatGlm, ChatGlm6b, GLM_130B_IMAGE_TOKENS,
};
use super::glm_chinese::GlmChinese;
use super::gpt2::Gpt2;
use super::rank_bpe::{GLM4_SPECIALS, RankBpe};
use super::vocabulary::Vocabulary;
use crate::config::ChatGlmCode;
use crate::files::{self, UniqueMap};

/// What GLM-10B adds to the tokens of GPT-2, whose last one is `<|endoftext|>`.
const GLM_10B_SPECIALS: [&str; 8] = [
    "<|startofpiece|>",
    "<|endofpiece|>",
    "[CLS]",
    "[MASK]",
    "[SEP]",
    "[UNK]",
    "[gMASK]",
    "[sMASK]",
];

/// The vocabulary of a folder without `tokenizer.json`, by the files that it has:
///
/// | files | of |
/// |---|---|
/// | `ice_text.model` | ChatGLM-6B; GLM-130B when there is no `config.json`, or one that is not `chatglm`'s |
/// | `cog-pretrain.model` | GLM-10B-chinese |
/// | `tokenizer.model`, SentencePiece | ChatGLM2, ChatGLM3 |
/// | `tokenizer.model`, ranks | GLM-4 |
/// | `vocab.json`, `merges.txt` | GLM-10B; CodeGeeX when it has tokens of spaces |
///
/// `None`: it has none of these.
///
/// # Errors
/// `NotFound` and `Corrupt`, naming the file.
pub(super) fn vocabulary(folder: &Path) -> Result<Option<Box<dyn Vocabulary>>> {
    let has = |name: &str| folder.join(name).is_file();
    let read = |name: &str| files::read(&folder.join(name));
    // GLM-130B was published without one.
    let config = match has("config.json") {
        true => files::read_json(&folder.join("config.json"))?,
        false => Value::Null,
    };
    if has("ice_text.model") {
        let (name, bytes) = ("ice_text.model", read("ice_text.model")?);
        let vocabulary = match config["model_type"].as_str() {
            Some("chatglm") => ChatGlm6b::from_bytes(name, &bytes, image_tokens(&config)?)?,
            _ => ChatGlm6b::glm_130b(name, &bytes)?,
        };
        return Ok(Some(Box::new(vocabulary)));
    }
    if has("cog-pretrain.model") {
        let added = match has("added_tokens.json") {
            true => Some(read("added_tokens.json")?),
            false => None,
        };
        let vocabulary = GlmChinese::from_bytes(&read("cog-pretrain.model")?, added.as_deref())?;
        return Ok(Some(Box::new(vocabulary)));
    }
    if has("tokenizer.model") {
        let bytes = read("tokenizer.model")?;
        // The tag of a first piece is a line break, and no line of ranks is empty.
        if bytes.first() != Some(&b'\n') {
            return Ok(Some(Box::new(ranks(folder, &bytes)?)));
        }
        // Nothing else tells ChatGLM2 from ChatGLM3.
        let config = files::read_json(&folder.join("config.json"))?;
        let specials = match ChatGlmCode::of(&config) {
            ChatGlmCode::V2 => CHATGLM2_SPECIALS,
            ChatGlmCode::V3 => CHATGLM3_SPECIALS,
        };
        let vocabulary = ChatGlm::from_bytes("tokenizer.model", &bytes, specials)?;
        return Ok(Some(Box::new(vocabulary)));
    }
    if has("vocab.json") && has("merges.txt") {
        let added = match has("added_tokens.json") {
            true => read("added_tokens.json")?,
            // The vocabulary itself is GPT-2's, with or without them.
            false if config["vocab_size"] == 50_304 => glm_10b_added(&read("vocab.json")?)?,
            false => b"{}".to_vec(),
        };
        let mut vocabulary = Gpt2::from_bytes(&read("vocab.json")?, &read("merges.txt")?, &added)?;
        if vocabulary.special("<|extratoken_10|>").is_some() {
            vocabulary = vocabulary.with_blanks()?;
        }
        return Ok(Some(Box::new(vocabulary)));
    }
    Ok(None)
}

/// The image tokens before the pieces of `ice_text.model`, which only the size of the vocabulary tells.
fn image_tokens(config: &Value) -> Result<u32> {
    match config["vocab_size"].as_u64() {
        Some(150_528) => Ok(GLM_130B_IMAGE_TOKENS),
        Some(130_528) => Ok(0),
        _ => Err(Error::corrupt(
            "read config.json",
            format!("vocab_size is {}", config["vocab_size"]),
        )
        .next_step("ChatGLM-6B has 130528, its first checkpoints 150528")),
    }
}

/// GLM-10B's special tokens after those of `vocab.json`, as its own code adds them.
fn glm_10b_added(vocab: &[u8]) -> Result<Vec<u8>> {
    let UniqueMap(vocab) = files::parse_json::<UniqueMap<u32>>("vocab.json", vocab)?;
    let first = vocab.iter().map(|(_, id)| id.saturating_add(1)).max();
    let added = (u64::from(first.unwrap_or(0))..).zip(GLM_10B_SPECIALS);
    let added: serde_json::Map<String, Value> = added
        .map(|(id, name)| (name.to_owned(), id.into()))
        .collect();
    Ok(Value::Object(added).to_string().into_bytes())
}

/// GLM-4's ranks, with the special tokens that `tokenizer_config.json` names, else those of GLM-4-9B.
fn ranks(folder: &Path, bytes: &[u8]) -> Result<RankBpe> {
    const CONFIG: &str = "tokenizer_config.json";
    let path = folder.join(CONFIG);
    let config = match path.is_file() {
        true => files::read_json(&path)?,
        false => Value::Null,
    };
    let Some(added) = config["added_tokens_decoder"].as_object() else {
        return RankBpe::from_bytes("tokenizer.model", bytes, GLM4_SPECIALS);
    };
    let corrupt = |why: String| {
        Error::corrupt(format!("read {CONFIG}"), why)
            .next_step("use the files that were published with this model")
    };
    let mut specials = Vec::new();
    for (id, token) in added {
        match (id.parse::<u32>(), token["content"].as_str()) {
            (Ok(id), Some(name)) => specials.push((id, name)),
            _ => return Err(corrupt(format!("added_tokens_decoder: `{id}` is no token"))),
        }
    }
    specials.sort_unstable();
    let names: Vec<&str> = specials.iter().map(|(_, name)| *name).collect();
    let ranks = RankBpe::from_bytes("tokenizer.model", bytes, &names)?;
    match specials
        .iter()
        .find(|(id, name)| ranks.special(name) != Some(*id))
    {
        None => Ok(ranks),
        Some((id, name)) => Err(corrupt(format!(
            "added_tokens_decoder: `{name}` has id {id}, tokenizer.model has {} ranks",
            ranks.vocab_size() - names.len(),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use hal::ErrorKind;
    use serde_json::json;

    use super::*;

    /// A folder with these files, of the vectors (by name) or of JSON.
    fn folder(files: &[(&str, &str)], json: &[(&str, Value)]) -> tempfile::TempDir {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let dir = tempfile::tempdir().unwrap();
        for (name, source) in files {
            std::fs::copy(vectors.join(source), dir.path().join(name)).unwrap();
        }
        for (name, value) in json {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        dir
    }

    fn special(files: &[(&str, &str)], json: &[(&str, Value)], name: &str) -> Option<u32> {
        let dir = folder(files, json);
        vocabulary(dir.path()).unwrap().unwrap().special(name)
    }

    #[test]
    fn files_choose_the_reader() {
        let ice = [("ice_text.model", "ice.model")];
        let size = |size: u32| {
            let config = json!({"model_type": "chatglm", "vocab_size": size});
            [("config.json", config)]
        };
        assert_eq!(special(&ice, &size(130_528), "[gMASK]"), Some(351));
        assert_eq!(special(&ice, &size(150_528), "[gMASK]"), Some(20351));
        assert_eq!(special(&ice, &[], "[gMASK]"), Some(20351));
        let ids = |config: &[(&str, Value)]| {
            let dir = folder(&ice, config);
            vocabulary(dir.path()).unwrap().unwrap().encode("a\nb")
        };
        let first: Vec<u32> = ids(&size(130_528)).iter().map(|id| id + 20_000).collect();
        assert_eq!(ids(&size(150_528)), first);
        // GLM-130B ignores line breaks.
        assert_ne!(ids(&[]), first);

        let chinese = [("cog-pretrain.model", "unigram.model")];
        let last = special(&chinese, &[], "[gMASK]").unwrap();
        assert_eq!(special(&chinese, &[], "<|endoftext|>"), Some(last - 9));
        let added = |id: u32| [("added_tokens.json", json!({ "[gMASK]": id }))];
        assert_eq!(
            special(&chinese, &added(last + 7), "[gMASK]"),
            Some(last + 7)
        );
        let dir = folder(&chinese, &added(5));
        assert_eq!(
            vocabulary(dir.path()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );

        let bpe = [("tokenizer.model", "bpe.model")];
        let made_for = |name: &str| [("config.json", json!({"_name_or_path": name}))];
        assert_eq!(special(&bpe, &made_for("chatglm2-6b"), "<|user|>"), None);
        assert_eq!(
            special(&bpe, &made_for("chatglm3-6b"), "<|user|>"),
            Some(706)
        );

        let ranks = [("tokenizer.model", "ranks.txt")];
        let first = special(&ranks, &[], "<|endoftext|>").unwrap();
        let added = |id: u32| json!({"added_tokens_decoder": {id.to_string(): {"content": "<x>"}}});
        let config = [("tokenizer_config.json", added(first))];
        assert_eq!(special(&ranks, &config, "<x>"), Some(first));
        let dir = folder(&ranks, &[("tokenizer_config.json", added(first + 1))]);
        let e = vocabulary(dir.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(e.detail().contains(&format!("{first} ranks")), "{e}");

        let gpt2 = [("vocab.json", "vocab.json"), ("merges.txt", "merges.txt")];
        let end = special(&gpt2, &[], "<|endoftext|>").unwrap();
        assert_eq!(special(&gpt2, &[], "[gMASK]"), None);
        let config = [(
            "config.json",
            json!({"model_type": "glm", "vocab_size": 50_304}),
        )];
        for (name, after) in [
            ("<|startofpiece|>", 1),
            ("<|endofpiece|>", 2),
            ("[sMASK]", 8),
        ] {
            assert_eq!(special(&gpt2, &config, name), Some(end + after), "{name}");
        }
        let blanks = (10..19).map(|i| (format!("<|extratoken_{i}|>"), json!(1000 + i)));
        let dir = folder(
            &gpt2,
            &[("added_tokens.json", Value::Object(blanks.collect()))],
        );
        let codegeex = vocabulary(dir.path()).unwrap().unwrap();
        assert_eq!(codegeex.encode("  "), [1010]);

        assert!(vocabulary(folder(&[], &[]).path()).unwrap().is_none());
    }

    #[test]
    fn other_sizes_are_refused() {
        let config = json!({"model_type": "chatglm", "vocab_size": 65024});
        let config = [("config.json", config)];
        let dir = folder(&[("ice_text.model", "ice.model")], &config);
        assert_eq!(
            vocabulary(dir.path()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
}
