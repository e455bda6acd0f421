//! The tokenizer of GLM-10B-chinese: a SentencePiece model, and special tokens after its pieces.
//!
//! Source: `GLMChineseTokenizer` in `tokenization_glm.py` of the checkpoint, `ChineseSPTokenizer` in
//! `data_utils/tokenization.py` of <https://github.com/THUDM/GLM>.

use std::collections::HashMap;

use hal::{Error, Result};

use super::sentencepiece::SentencePiece;
use super::vocabulary::Vocabulary;
use crate::files::{self, UniqueMap};

/// Special tokens and their distance from the first id after the pieces, where no file gives them: as with the option
/// `--fix-command-token`, without which `[gMASK]` would have the id of `<|endofpiece|>`.
const SPECIALS: [(&str, u32); 9] = [
    ("<|endoftext|>", 0),
    ("[SEP]", 1),
    ("[CLS]", 2),
    ("[MASK]", 3),
    ("[UNK]", 4),
    ("<|startofpiece|>", 6),
    ("<|endofpiece|>", 7),
    ("[sMASK]", 8),
    ("[gMASK]", 9),
];

/// A SentencePiece vocabulary with special tokens at ids of their own.
#[derive(Debug)]
pub struct GlmChinese {
    text: SentencePiece,
    specials: HashMap<u32, String>,
}

impl GlmChinese {
    /// Reads the bytes of `cog-pretrain.model`, and those of `added_tokens.json` if there is one.
    ///
    /// # Errors
    /// As [`SentencePiece::from_bytes`]; `Corrupt` for an added token that is a piece's or another's id.
    pub fn from_bytes(model: &[u8], added: Option<&[u8]>) -> Result<Self> {
        const ADDED: &str = "added_tokens.json";
        let text = SentencePiece::from_bytes("cog-pretrain.model", model)?;
        let first = text.vocab_size() as u32;
        let added = match added {
            Some(added) => files::parse_json::<UniqueMap<u32>>(ADDED, added)?.0,
            None => {
                let known = SPECIALS.into_iter();
                known
                    .map(|(name, at)| (name.to_owned(), first + at))
                    .collect()
            }
        };
        let mut specials = HashMap::new();
        for (name, id) in added {
            if id < first || specials.insert(id, name).is_some() {
                let why = format!("id {id} is there twice");
                return Err(Error::corrupt(format!("read {ADDED}"), why)
                    .next_step("use the file that was published with this model"));
            }
        }
        Ok(Self { text, specials })
    }
}

impl Vocabulary for GlmChinese {
    fn encode(&self, text: &str) -> Vec<u32> {
        self.text.encode(text)
    }

    /// Special tokens spell their names, and the text after one begins anew.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let is_text = |id: &u32| !self.specials.contains_key(id);
        let mut out = Vec::new();
        for run in ids.chunk_by(|a, b| is_text(a) && is_text(b)) {
            match self.specials.get(&run[0]) {
                Some(name) => out.extend_from_slice(name.as_bytes()),
                None => out.extend(self.text.decode(run)),
            }
        }
        out
    }

    fn vocab_size(&self) -> usize {
        let last = self.specials.keys().max();
        last.map_or(0, |&id| id as usize + 1)
            .max(self.text.vocab_size())
    }

    /// A piece of the same name as an added token is not meant by it.
    fn specials(&self) -> Vec<(&str, u32)> {
        let added = self.specials.iter().map(|(&id, name)| (name.as_str(), id));
        let mut specials: Vec<(&str, u32)> = added.collect();
        let pieces = self.text.specials().into_iter();
        let others = pieces.filter(|(piece, _)| self.specials.values().all(|name| name != piece));
        specials.extend(others.collect::<Vec<_>>());
        specials
    }
}
