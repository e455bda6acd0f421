//! The vocabulary in the metadata of a GGUF file.
//!
//! | `tokenizer.ggml.model` | `tokenizer.ggml.pre` | of |
//! |---|---|---|
//! | `gpt2` | `chatglm-bpe`, `glm4` | GLM-4: byte-level BPE with rules and GLM-4's words |
//! | `llama` | `chatglm-spm` | ChatGLM3: the pieces of its SentencePiece model |
//!
//! Source: `conversion/{chatglm,glm}.py` and `src/llama-vocab.cpp` of
//! <https://github.com/ggml-org/llama.cpp>.

use hal::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::chatglm::{CHATGLM2_SPECIALS, CHATGLM3_SPECIALS, ChatGlm};
use super::gpt2::{Gpt2, Marked};
use super::sentencepiece::{Kind, Piece};
use super::vocabulary::Vocabulary;
use crate::checkpoint::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// The vocabulary of a GGUF file.
///
/// # Errors
/// `Corrupt` for lists that do not fit together; `Unsupported` for a vocabulary that no GLM has.
pub(super) fn vocabulary(metadata: &Metadata) -> Result<Box<dyn Vocabulary>> {
    let model = metadata.required(MODEL, metadata.text(MODEL)?)?;
    let pre = metadata.text(PRE)?.unwrap_or_default();
    match (model, pre) {
        ("gpt2", "chatglm-bpe" | "glm4") => Ok(Box::new(byte_level(metadata)?)),
        ("llama", "chatglm-spm") => Ok(Box::new(pieces(metadata)?)),
        _ => Err(Error::unsupported(
            format!("read {}", metadata.file()),
            format!("a tokenizer `{model}` with words `{pre}`"),
        )
        .next_step("use a file of a GLM whose tokenizer is `gpt2` with `chatglm-bpe` or `glm4`")),
    }
}

/// The rule of GLM-4's words, as `tokenizer.json` of its `-hf` repositories has it.
const GLM4_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The vocabulary as a `tokenizer.json`, the format of HF tokenizers; `None` when the file has none that we read, and
/// for pieces of SentencePiece, whose `tokenizer.model` it does not hold.
///
/// # Errors
/// `Corrupt`, as [`vocabulary`].
pub(crate) fn tokenizer_json(metadata: &Metadata) -> Result<Option<Value>> {
    if metadata.text(MODEL)? != Some("gpt2") {
        return Ok(None);
    }
    match vocabulary(metadata) {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(None),
        checked => drop(checked?),
    }
    let (mut text, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens(metadata)?.into_iter().enumerate() {
        match kind {
            Kind::Normal => drop(text.insert(token.to_owned(), json!(id))),
            Kind::Unused => {}
            _ => added.push(json!({
                "id": id, "content": token, "special": kind != Kind::UserDefined, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })),
        }
    }
    let byte_level = |splits: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits,
        })
    };
    let words = json!({
        "type": "Split", "pattern": {"Regex": GLM4_WORDS}, "behavior": "Isolated", "invert": false,
    });
    Ok(Some(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, byte_level(false)]},
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": text, "merges": metadata.texts(MERGES)?,
        },
    })))
}

/// Tokens with their kinds; their places are their ids.
fn tokens(metadata: &Metadata) -> Result<Vec<(&str, Kind)>> {
    let tokens = metadata.required(TOKENS, metadata.texts(TOKENS)?)?;
    let kinds = metadata.required(TYPES, metadata.floats(TYPES)?)?;
    if tokens.len() != kinds.len() {
        let why = format!("{} types of {} tokens", kinds.len(), tokens.len());
        return Err(metadata.corrupt(TYPES, why));
    }
    let kind = |(id, number): (usize, &f64)| match *number as i64 {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        _ => Err(metadata.corrupt(TYPES, format!("token {id} is of type {number}"))),
    };
    let kinds = kinds
        .iter()
        .enumerate()
        .map(kind)
        .collect::<Result<Vec<_>>>()?;
    Ok(tokens.into_iter().zip(kinds).collect())
}

fn byte_level(metadata: &Metadata) -> Result<Gpt2> {
    let mut marked = Marked {
        names: [TOKENS, MERGES],
        text: Vec::new(),
        merges: metadata.required(MERGES, metadata.texts(MERGES)?)?,
        specials: Vec::new(),
        whole: Vec::new(),
    };
    for (id, (token, kind)) in (0u32..).zip(tokens(metadata)?) {
        match kind {
            Kind::Normal => marked.text.push((token, id)),
            Kind::Control | Kind::Unknown => marked.specials.push((token, id)),
            Kind::UserDefined => marked.whole.push((token, id)),
            // Rows of the embedding without a token.
            Kind::Unused => {}
            Kind::Byte => return Err(metadata.corrupt(TYPES, format!("token {id} is a byte"))),
        }
    }
    Gpt2::glm4(marked)
}

/// ChatGLM's pieces; the special tokens that its Python code appends follow them in the file.
fn pieces(metadata: &Metadata) -> Result<ChatGlm> {
    let tokens = tokens(metadata)?;
    let scores = metadata.required(SCORES, metadata.floats(SCORES)?)?;
    if tokens.len() != scores.len() {
        let why = format!("{} scores of {} tokens", scores.len(), tokens.len());
        return Err(metadata.corrupt(SCORES, why));
    }
    const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    if metadata.flag(PREFIX)? == Some(false) {
        return Err(Error::unsupported(
            format!("read {}", metadata.file()),
            "pieces without a space before the text, which ChatGLM has",
        )
        .next_step("use a file of ChatGLM3"));
    }
    let first = CHATGLM3_SPECIALS[0];
    let appended = tokens
        .iter()
        .position(|(token, _)| *token == first)
        .ok_or_else(|| metadata.corrupt(TOKENS, format!("it lacks {first} of ChatGLM")))?;
    let follow = |specials: &[&str]| {
        let names = tokens[appended..].iter().map(|(token, _)| *token);
        names.take(specials.len()).eq(specials.iter().copied())
    };
    let specials = [CHATGLM3_SPECIALS, CHATGLM2_SPECIALS]
        .into_iter()
        .find(|specials| follow(specials))
        .ok_or_else(|| {
            metadata.corrupt(TOKENS, format!("what follows {first} is not ChatGLM's"))
        })?;
    let mut pieces = Vec::with_capacity(appended);
    for (id, (&(text, kind), &score)) in tokens[..appended].iter().zip(&scores).enumerate() {
        if !(score as f32).is_finite() {
            return Err(metadata.corrupt(SCORES, format!("token {id} has score {score}")));
        }
        pieces.push(Piece {
            text: text.into(),
            // The negative zero becomes the positive one.
            score: score as f32 + 0.0,
            kind,
        });
    }
    ChatGlm::from_pieces(metadata.file(), pieces, specials)
}
