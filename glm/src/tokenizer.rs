//! Text to token ids and back, from `tokenizer.json` or the files of the first checkpoints.
//!
//! Two ways to encode: [`Tokenizer::encode`] for text of users, which can never become a special
//! token, and [`Tokenizer::encode_with_specials`] for text that a template made.

pub mod chatglm;
mod folder;
pub(crate) mod gguf;
pub mod glm_chinese;
pub mod gpt2;
mod merge;
pub mod rank_bpe;
pub mod sentencepiece;
mod split;
mod vocabulary;

use std::collections::HashMap;
use std::panic;
use std::path::Path;

use hal::{Error, ErrorKind, Result};
use serde::de::IgnoredAny;

pub use self::vocabulary::Vocabulary;
use crate::checkpoint::Metadata;
use crate::files;

const FILE: &str = "tokenizer.json";

/// A tokenizer and its special tokens: those that its files mark so (`<|user|>`,
/// `[gMASK]`).
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    /// Special tokens, longest first, so that the first match at a place is the right one.
    specials: Vec<(String, u32)>,
    by_id: HashMap<u32, usize>,
    /// The id of the unknown token, which text may become.
    unknown: Option<u32>,
    vocab_size: usize,
}

#[derive(Debug)]
enum Inner {
    Json(Box<tokenizers::Tokenizer>),
    Other(Box<dyn Vocabulary>),
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder: `tokenizer.json`, else `tokenizer.model`,
    /// `ice_text.model`, `cog-pretrain.model`, or `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `Corrupt`; `Unsupported` when our readers lack what a file needs.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file()
            && let Some(vocabulary) = folder::vocabulary(folder)?
        {
            return Ok(vocabulary.into());
        }
        Self::from_bytes(&files::read(&path)?)
    }

    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for one that no GLM has.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Ok(gguf::vocabulary(metadata)?.into())
    }

    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let corrupt = |why: String| {
            Error::corrupt(format!("read {FILE}"), why).next_step("download the file again")
        };
        // The parser panics on some files: always where a decoder's JSON is broken, sometimes else.
        files::parse_json::<IgnoredAny>(FILE, json)?;
        let parsed = panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json));
        let mut inner = match parsed {
            Ok(Ok(tokenizer)) => tokenizer,
            Ok(Err(e)) => return Err(corrupt(e.to_string())),
            Err(_) => return Err(corrupt("its parser panicked".to_owned())),
        };
        // Files carry the settings of their training; a prompt must be neither cut nor filled.
        inner
            .with_truncation(None)
            .map_err(|e| corrupt(e.to_string()))?
            .with_padding(None);
        inner.set_encode_special_tokens(true);

        let specials = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        let vocab_size = inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1);
        let unknown = unknown_token(&inner).and_then(|token| inner.token_to_id(&token));
        let inner = Inner::Json(Box::new(inner));
        Ok(Self::new(inner, specials, unknown, vocab_size))
    }

    fn new(
        inner: Inner,
        mut specials: Vec<(String, u32)>,
        unknown: Option<u32>,
        vocab_size: usize,
    ) -> Self {
        specials.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.0.cmp(&b.0)));
        let by_id = specials.iter().enumerate().map(|(i, s)| (s.1, i)).collect();
        Self {
            inner,
            specials,
            by_id,
            unknown,
            vocab_size,
        }
    }

    /// The ids of `text`. Names of special tokens in it are encoded letter by letter, like any
    /// text: no user can end a turn, or begin one of the system's, by writing `<|system|>`.
    ///
    /// # Errors
    /// `Unsupported` when the vocabulary itself turns the text into a special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let inner = match &self.inner {
            Inner::Json(inner) => inner,
            Inner::Other(vocabulary) => return Ok(vocabulary.encode(text)),
        };
        let encoding = inner.encode_fast(text, false).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "encode text", e.to_string())
                .next_step("shorten the text to find the part that fails")
        })?;
        let ids = encoding.get_ids();
        let special = |id: &&u32| self.by_id.contains_key(id) && Some(**id) != self.unknown;
        match ids.iter().find(special) {
            None => Ok(ids.to_vec()),
            Some(id) => Err(Error::unsupported(
                "encode text",
                format!("the vocabulary makes special token {id} from it"),
            )
            .next_step("remove the names of special tokens from the text")),
        }
    }

    /// The ids of text in which the names of special tokens stand for them. The parts between
    /// them are encoded one by one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for part in self.split(text) {
            match part {
                Part::Text(text) => ids.extend(self.encode(text)?),
                Part::Special(id) => ids.push(id),
            }
        }
        Ok(ids)
    }

    /// Splits text at the names of special tokens; the longest name wins where two begin.
    pub(crate) fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while let Some(letter) = text[at..].chars().next() {
            let found = self.specials.iter().find(|s| text[at..].starts_with(&s.0));
            let Some((name, id)) = found else {
                at += letter.len_utf8();
                continue;
            };
            if start < at {
                parts.push(Part::Text(&text[start..at]));
            }
            parts.push(Part::Special(*id));
            at += name.len();
            start = at;
        }
        if start < text.len() {
            parts.push(Part::Text(&text[start..]));
        }
        parts
    }

    /// The text of `ids`; ids outside the vocabulary have none.
    ///
    /// # Errors
    /// `Unexpected`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let inner = match &self.inner {
            Inner::Json(inner) => inner,
            Inner::Other(vocabulary) => {
                let shown = |id: &u32| !(skip_special && self.is_special(*id));
                let ids: Vec<u32> = ids.iter().copied().filter(shown).collect();
                return Ok(String::from_utf8_lossy(&vocabulary.decode(&ids)).into_owned());
            }
        };
        inner.decode(ids, skip_special).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "decode tokens", e.to_string())
                .next_step("check that the tokenizer belongs to the model")
        })
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder {
            tokenizer: self,
            skip_special,
            context: None,
            pending: Vec::new(),
            given: 0,
        }
    }

    /// The id of the special token `name`.
    pub fn special(&self, name: &str) -> Option<u32> {
        let found = self.specials.iter().find(|(special, _)| special == name);
        found.map(|(_, id)| *id)
    }

    /// Names and ids of all special tokens.
    pub fn specials(&self) -> impl Iterator<Item = (&str, u32)> {
        self.specials.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The largest id and one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Requires that every id has a row in an embedding of `rows` rows. (More rows than ids are
    /// usual: embeddings are padded.)
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_fits(&self, rows: usize) -> Result<()> {
        if self.vocab_size <= rows {
            return Ok(());
        }
        Err(Error::corrupt(
            "read the tokenizer",
            format!(
                "{} ids, the model's embedding has {rows} rows",
                self.vocab_size
            ),
        )
        .next_step("use the tokenizer that was published with this model"))
    }
}

impl From<Box<dyn Vocabulary>> for Tokenizer {
    fn from(vocabulary: Box<dyn Vocabulary>) -> Self {
        let named = vocabulary.specials().into_iter();
        let specials = named.map(|(name, id)| (name.to_owned(), id)).collect();
        let (unknown, vocab_size) = (vocabulary.special("<unk>"), vocabulary.vocab_size());
        Self::new(Inner::Other(vocabulary), specials, unknown, vocab_size)
    }
}

/// A part of a text that was split at special tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// Ordinary text.
    Text(&'t str),
    /// A special token.
    Special(u32),
}

fn unknown_token(tokenizer: &tokenizers::Tokenizer) -> Option<String> {
    use tokenizers::ModelWrapper;
    match tokenizer.get_model() {
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        // Its id is private; by convention it is called so.
        ModelWrapper::Unigram(_) => Some("<unk>".to_owned()),
    }
}

/// Decodes tokens one by one and gives whole characters only: a character of three bytes may come
/// in three tokens.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// A token whose text has been given. Decoders treat the first token of a text differently (a
    /// leading space is dropped), so there must be one before the pending ones.
    context: Option<u32>,
    pending: Vec<u32>,
    /// Bytes of the pending tokens' text that have been given.
    given: usize,
}

/// An unfinished character decodes to this many U+FFFD at most: one, or one per byte.
const MAX_UNFINISHED: usize = 3;
/// Tokens after which a text that still does not end is taken for what it is: not UTF-8.
const MAX_PENDING: usize = 32;

impl StreamDecoder<'_> {
    /// The text that `id` completes; often empty for a part of a character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.pending.push(id);
        let text = self.pending_text()?;
        let unfinished = text.chars().rev().take(MAX_UNFINISHED);
        let unfinished = unfinished
            .take_while(|&c| c == char::REPLACEMENT_CHARACTER)
            .count();
        // A space that is dropped at the start of a text is its first token all the same.
        let at_start = text.is_empty() && self.context.is_none();
        if unfinished == 0 && !at_start || self.pending.len() >= MAX_PENDING {
            return Ok(self.settle(&text, id));
        }
        let end = text.len() - unfinished * char::REPLACEMENT_CHARACTER.len_utf8();
        let new = text.get(self.given..end).unwrap_or_default().to_owned();
        self.given += new.len();
        Ok(new)
    }

    /// The end of the text: an unfinished character becomes U+FFFD. The decoder starts afresh.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.pending_text()?;
        let rest = text.get(self.given..).unwrap_or_default().to_owned();
        (self.context, self.given) = (None, 0);
        self.pending.clear();
        Ok(rest)
    }

    /// The text of the pending tokens after the context's.
    fn pending_text(&self) -> Result<String> {
        let Some(context) = self.context else {
            return self.tokenizer.decode(&self.pending, self.skip_special);
        };
        let before = self.tokenizer.decode(&[context], self.skip_special)?;
        let ids: Vec<u32> = [context].iter().chain(&self.pending).copied().collect();
        let text = self.tokenizer.decode(&ids, self.skip_special)?;
        Ok(text.get(before.len()..).unwrap_or_default().to_owned())
    }

    fn settle(&mut self, text: &str, last: u32) -> String {
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = 0;
        self.pending.clear();
        // Byte tokens are decoded as runs, so none of them may stand before new ones.
        let is_byte = match &self.tokenizer.inner {
            Inner::Json(inner) => inner
                .id_to_token(last)
                .is_some_and(|token| token.len() == 6 && token.starts_with("<0x")),
            Inner::Other(_) => false,
        };
        if !new.is_empty() && !is_byte {
            self.context = Some(last);
        }
        new
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A byte-level BPE of all bytes and a few merges, with the special tokens of GLM-4.
    pub(crate) fn tiny() -> Tokenizer {
        Tokenizer::from_bytes(tiny_json().to_string().as_bytes()).unwrap()
    }

    pub(crate) const SPECIALS: [&str; 8] = [
        "<|endoftext|>",
        "[MASK]",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ];

    pub(crate) fn tiny_json() -> Value {
        // The byte alphabet of GPT-2: printable bytes stand for themselves, the others follow 255.
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        let alphabet = (0..=255u8).map(|b| {
            if printable(b) {
                return char::from(b).to_string();
            }
            next += 1;
            char::from_u32(next - 1).unwrap().to_string()
        });
        let mut vocab: serde_json::Map<String, Value> =
            alphabet.enumerate().map(|(i, c)| (c, json!(i))).collect();
        let merges = [
            ("h", "e"),
            ("l", "l"),
            ("he", "ll"),
            ("hell", "o"),
            ("Ġ", "hello"),
        ];
        for (a, b) in merges {
            vocab.insert(format!("{a}{b}"), json!(vocab.len()));
        }
        let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let first = vocab.len();
        let added: Vec<Value> = SPECIALS
            .iter()
            .enumerate()
            .map(|(i, s)| {
                json!({
                    "id": first + i, "content": s, "special": true, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false
                })
            })
            .collect();
        json!({
            "version": "1.0", "truncation": {
                "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
            },
            "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true
            },
            "post_processor": null,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges
            }
        })
    }

    #[test]
    fn round_trips_every_text() {
        let t = tiny();
        assert_eq!(t.vocab_size(), 256 + 5 + SPECIALS.len());
        let hello = t.encode("hello hello").unwrap();
        assert_eq!(
            hello.len(),
            2,
            "merges apply, truncation of the file does not"
        );
        for text in ["", "hello", "你好 😀\n\t<|user|>", "a\u{fffd}b\0"] {
            let ids = t.encode(text).unwrap();
            assert_eq!(t.decode(&ids, true).unwrap(), text);
        }
        assert_eq!(t.decode(&[u32::MAX], false).unwrap(), "");
    }

    #[test]
    fn text_never_becomes_special() {
        let t = tiny();
        for name in SPECIALS {
            let id = t.special(name).unwrap();
            assert!(t.is_special(id));
            let ids = t.encode(&format!("{name}{name}")).unwrap();
            assert!(ids.iter().all(|&id| !t.is_special(id)), "{name}");
            assert_eq!(t.encode_with_specials(name).unwrap(), [id]);
        }
        assert_eq!(t.special("hello"), None);
        assert_eq!(t.specials().count(), SPECIALS.len());
        let ids = t
            .encode_with_specials("[gMASK]<sop><|user|>hello[gMASK")
            .unwrap();
        assert_eq!(ids[..3], [263, 264, 266]);
        assert_eq!(t.decode(&ids[3..], true).unwrap(), "hello[gMASK");
    }

    #[test]
    fn a_vocabulary_that_makes_specials_from_text_is_refused() {
        let mut json = tiny_json();
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        merges.push(json!("h i"));
        json["model"]["vocab"]["hi"] = json!(261);
        json["added_tokens"][0]["content"] = json!("hi");
        let t = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        assert_eq!(t.encode("hi").unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(t.encode_with_specials("hi").unwrap(), [261]);
    }

    #[test]
    fn streams_whole_characters() {
        let t = tiny();
        for text in ["hello 你好😀!", "\u{fffd}a", "é"] {
            let ids = t.encode(text).unwrap();
            let mut stream = t.stream(true);
            let mut all = String::new();
            for &id in &ids {
                let new = stream.push(id).unwrap();
                assert!(text.contains(&new), "{new:?} is no part of {text:?}");
                all += &new;
            }
            all += &stream.finish().unwrap();
            assert_eq!(all, text);
        }
        let mut stream = t.stream(true);
        let cut = &t.encode("a😀").unwrap()[..3];
        let parts: Vec<String> = cut.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(parts, ["a", "", ""]);
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
        assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn streams_what_is_not_utf8_without_waiting_forever() {
        let t = tiny();
        let bad = t.encode("é").unwrap()[1];
        let mut stream = t.stream(true);
        let mut all = String::new();
        for _ in 0..100 {
            all += &stream.push(bad).unwrap();
        }
        assert!(all.chars().count() >= 97);
        all += &stream.push(t.encode("x").unwrap()[0]).unwrap();
        assert_eq!(all, "\u{fffd}".repeat(100) + "x");
    }

    #[test]
    fn streams_byte_tokens() {
        // SentencePiece style: a word with its space, and characters as `<0x..>`.
        let mut vocab = serde_json::Map::new();
        for token in ["<unk>", "▁hi"] {
            vocab.insert(token.to_owned(), json!(vocab.len()));
        }
        for byte in 0..=255 {
            vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
        }
        let mut json = tiny_json();
        json["added_tokens"] = json!([]);
        json["pre_tokenizer"] = Value::Null;
        json["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]});
        json["model"]["vocab"] = Value::Object(vocab);
        json["model"]["merges"] = json!([]);
        json["model"]["byte_fallback"] = json!(true);
        let t = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let bytes = |text: &str| text.bytes().map(|b| u32::from(b) + 2).collect::<Vec<_>>();
        let ids = [vec![1], bytes("你你"), vec![1, 1], bytes("😀")].concat();
        let mut stream = t.stream(true);
        let text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(text, "hi你你 hi hi😀");
    }

    #[test]
    fn streams_from_other_files() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let dir = tempfile::tempdir().unwrap();
        let copy = |from: &str, to: &str| std::fs::copy(vectors.join(from), dir.path().join(to));
        let config = json!({"_name_or_path": "chatglm3-6b"}).to_string();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        for file in ["bpe.model", "ranks.txt"] {
            copy(file, "tokenizer.model").unwrap();
            let t = Tokenizer::load(dir.path()).unwrap();
            for text in [
                "",
                "hello world",
                " 你好 😀\n\t<|user|>",
                "  a\u{fffd}b\0 👨\u{200d}👩",
            ] {
                let ids = t.encode(text).unwrap();
                assert!(ids.iter().all(|&id| !t.is_special(id)));
                let mut stream = t.stream(true);
                let mut all = String::new();
                for &id in &ids {
                    all += &stream.push(id).unwrap();
                }
                all += &stream.finish().unwrap();
                assert_eq!(all, text, "{file}");
            }
            let user = t.special("<|user|>").unwrap();
            let ids = t.encode_with_specials("<|user|>a").unwrap();
            assert_eq!(ids[0], user);
            assert_eq!(t.decode(&ids, true).unwrap(), "a");
            assert_eq!(t.decode(&ids, false).unwrap(), "<|user|>a");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |dir: &Path| Tokenizer::load(dir).unwrap_err().kind();
        assert_eq!(kind(dir.path()), ErrorKind::NotFound);
        std::fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
        assert_eq!(kind(dir.path()), ErrorKind::Corrupt);
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(kind(dir.path()), ErrorKind::Corrupt);
        let t = tiny();
        assert!(t.check_fits(t.vocab_size()).is_ok());
        assert!(t.check_fits(t.vocab_size() - 1).is_err());
    }
}
