//! The tokenizers of ChatGLM: a SentencePiece model, and what its Python code does around it.
//!
//! Source: `tokenization_chatglm.py` of the checkpoints.

use hal::Result;

use super::sentencepiece::{Kind, Model, Piece, SentencePiece};
use super::split::{self, Part};
use super::vocabulary::Vocabulary;

/// What ChatGLM2 appends to its pieces.
pub const CHATGLM2_SPECIALS: &[&str] = &["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"];

/// What ChatGLM3 appends to its pieces.
pub const CHATGLM3_SPECIALS: &[&str] = &[
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

/// The tokenizer of ChatGLM2 and ChatGLM3: special tokens follow the pieces, and text never spells one.
#[derive(Debug)]
pub struct ChatGlm {
    text: SentencePiece,
    specials: &'static [&'static str],
}

impl ChatGlm {
    /// Reads the bytes of `tokenizer.model`; `file` names it in errors.
    ///
    /// # Errors
    /// As [`SentencePiece::from_bytes`].
    pub fn from_bytes(file: &str, bytes: &[u8], specials: &'static [&'static str]) -> Result<Self> {
        let text = SentencePiece::from_bytes(file, bytes)?;
        Ok(Self { text, specials })
    }

    /// From the pieces of a model, without the special tokens that follow them.
    ///
    /// # Errors
    /// As [`SentencePiece::from_bytes`].
    pub(super) fn from_pieces(
        file: &str,
        pieces: Vec<Piece>,
        specials: &'static [&'static str],
    ) -> Result<Self> {
        let text = SentencePiece::new(file, Model::bpe(pieces))?;
        Ok(Self { text, specials })
    }

    fn name(&self, id: u32) -> Option<&'static str> {
        let at = (id as usize).checked_sub(self.text.vocab_size())?;
        self.specials.get(at).copied()
    }
}

impl Vocabulary for ChatGlm {
    /// Each call adds its own space before the text.
    fn encode(&self, text: &str) -> Vec<u32> {
        self.text.encode(text)
    }

    /// Appended tokens spell their names, and the text after one begins anew.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for run in ids.chunk_by(|&a, &b| self.name(a).is_none() && self.name(b).is_none()) {
            match self.name(run[0]) {
                Some(name) => out.extend_from_slice(name.as_bytes()),
                None => out.extend(self.text.decode(run)),
            }
        }
        out
    }

    fn vocab_size(&self) -> usize {
        self.text.vocab_size() + self.specials.len()
    }

    fn specials(&self) -> Vec<(&str, u32)> {
        let appended = (self.text.vocab_size() as u32..).zip(self.specials);
        let mut specials = self.text.specials();
        specials.extend(appended.map(|(id, name)| (*name, id)));
        specials
    }
}

/// Control pieces of ChatGLM-6B, in the order of their ids.
const CHATGLM_6B_SPECIALS: [&str; 8] = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<unused_0>",
    "<sop>",
    "<eop>",
    "<ENC>",
    "<dBLOCK>",
];

/// Ids before the pieces of GLM-130B and of the first ChatGLM-6B.
pub(super) const GLM_130B_IMAGE_TOKENS: u32 = 20_000;

/// What a line break becomes before the text is cut.
const LINE_BREAK: &str = "<n>";
/// What a tab becomes.
const TAB: &str = "<|tab|>";
/// The most spaces that one piece has.
const LONGEST_BLANK: usize = 80;

/// The tokenizer of ChatGLM-6B (both vocabularies), GLM-130B and CogView2: `ice_text.model`.
///
/// White space becomes pieces of its own before the text is cut, and back. The first vocabulary puts image tokens
/// before the pieces.
#[derive(Debug)]
pub struct ChatGlm6b {
    text: SentencePiece,
    image_tokens: u32,
    /// Whether white space has pieces: in GLM-130B it is what the model file makes of it, a space.
    white_space: bool,
}

impl ChatGlm6b {
    /// Reads the bytes of `ice_text.model`; `file` names it in errors.
    ///
    /// `image_tokens` is 20000 for a vocabulary of 150528 and 0 for one of 130528. A file without special pieces, as
    /// the first checkpoints have it, gets them appended, with those for white space and bytes.
    ///
    /// # Errors
    /// As [`SentencePiece::from_bytes`].
    pub fn from_bytes(file: &str, bytes: &[u8], image_tokens: u32) -> Result<Self> {
        let mut model = Model::parse(file, bytes)?;
        let is_special = |piece: &Piece| CHATGLM_6B_SPECIALS.contains(&&*piece.text);
        if !model.pieces.iter().any(is_special) {
            let append = |kind| {
                move |text: String| Piece {
                    text: text.into(),
                    score: 0.0,
                    kind,
                }
            };
            let specials = CHATGLM_6B_SPECIALS.map(String::from);
            let blanks = (2..=LONGEST_BLANK).map(blank);
            let white_space = std::iter::once(TAB.to_string()).chain(blanks);
            let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
            let pieces = &mut model.pieces;
            pieces.extend(specials.into_iter().map(append(Kind::Control)));
            pieces.extend(white_space.map(append(Kind::UserDefined)));
            pieces.extend(bytes.map(append(Kind::Byte)));
            model.byte_fallback = true;
        }
        // Whatever kind the file gives them: a user's text must not yield them.
        for piece in model.pieces.iter_mut().filter(|piece| is_special(piece)) {
            piece.kind = Kind::Control;
        }
        Ok(Self {
            text: SentencePiece::new(file, model)?,
            image_tokens,
            white_space: true,
        })
    }

    /// The same file as GLM-130B uses it: after 20000 image tokens, and with line breaks ignored, as `icetk` does
    /// unless it is told otherwise.
    ///
    /// # Errors
    /// As [`SentencePiece::from_bytes`].
    pub fn glm_130b(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut tokenizer = Self::from_bytes(file, bytes, GLM_130B_IMAGE_TOKENS)?;
        tokenizer.white_space = false;
        Ok(tokenizer)
    }

    /// The ids of `text` as the continuation of other text: without a space before it.
    pub fn encode_continued(&self, text: &str) -> Vec<u32> {
        // The space goes before a line break, and both go away.
        let mut ids = self.encode_marked(&format!("{LINE_BREAK}{}", mark(text)));
        ids.drain(..2.min(ids.len()));
        ids
    }

    fn encode_marked(&self, text: &str) -> Vec<u32> {
        let mut ids = self.text.encode(text);
        ids.iter_mut().for_each(|id| *id += self.image_tokens);
        ids
    }
}

impl Vocabulary for ChatGlm6b {
    /// With a space before the text.
    fn encode(&self, text: &str) -> Vec<u32> {
        match self.white_space {
            true => self.encode_marked(&mark(text)),
            false => self.encode_marked(text),
        }
    }

    /// Image tokens and control pieces spell nothing.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let pieces = ids
            .iter()
            .filter_map(|id| id.checked_sub(self.image_tokens));
        unmark(&self.text.decode(&pieces.collect::<Vec<_>>()))
    }

    fn vocab_size(&self) -> usize {
        self.image_tokens as usize + self.text.vocab_size()
    }

    fn specials(&self) -> Vec<(&str, u32)> {
        let mut specials = self.text.specials();
        specials
            .iter_mut()
            .for_each(|(_, id)| *id += self.image_tokens);
        specials
    }
}

/// The piece of `count` spaces.
fn blank(count: usize) -> String {
    format!("<|blank_{count}|>")
}

/// `text` with the white space that has pieces written as their names.
fn mark(text: &str) -> String {
    let text = text.replace('\n', LINE_BREAK).replace('\t', TAB);
    let mut out = String::with_capacity(text.len());
    for part in split::blanks(&text, LONGEST_BLANK) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Blanks(count) => out.push_str(&blank(count)),
        }
    }
    out
}

/// The reverse of [`mark`], for bytes.
fn unmark(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some(at) = text.iter().position(|&byte| byte == b'<') {
        out.extend_from_slice(&text[..at]);
        text = &text[at..];
        let (white_space, count, length) = if text.starts_with(LINE_BREAK.as_bytes()) {
            (b'\n', 1, LINE_BREAK.len())
        } else if text.starts_with(TAB.as_bytes()) {
            (b'\t', 1, TAB.len())
        } else if let Some((count, length)) = blank_at_start(text) {
            (b' ', count, length)
        } else {
            (b'<', 1, 1)
        };
        out.extend(std::iter::repeat_n(white_space, count));
        text = &text[length..];
    }
    out.extend_from_slice(text);
    out
}

/// The spaces of the name of a blank that `text` begins with, and the length of that name.
fn blank_at_start(text: &[u8]) -> Option<(usize, usize)> {
    let digits = text.strip_prefix(b"<|blank_")?;
    let end = digits.iter().take(3).position(|&byte| byte == b'|')?;
    let count = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    let name = blank(count);
    let is_one = (2..=LONGEST_BLANK).contains(&count) && text.starts_with(name.as_bytes());
    is_one.then_some((count, name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_has_names() {
        let long = " ".repeat(163);
        for (text, marked) in [
            ("", ""),
            ("a b\n\tc", "a b<n><|tab|>c"),
            ("    return", "<|blank_4|>return"),
            (&long, "<|blank_80|><|blank_80|><|blank_3|>"),
        ] {
            assert_eq!(mark(text), marked);
            assert_eq!(unmark(marked.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn other_angle_brackets_stay() {
        for text in [
            "<",
            "<n",
            "<|blank_1|>",
            "<|blank_81|>",
            "<|blank_02|>",
            "<|blank_+2|>",
        ] {
            assert_eq!(unmark(text.as_bytes()), text.as_bytes());
        }
    }
}
