//! Texts with blanks: what GLM-130B, GLM-10B and ChatGLM-6B fill, and the plain beginnings that the others continue.
//!
//! `[MASK]` is a few words, `[sMASK]` a sentence, `[gMASK]` the rest of the text. Blanks are filled one after the other,
//! from left to right, short ones first: each answer takes the place of its mask before the next is asked for. A text
//! without a mask gets `[gMASK]` at its end.
//!
//! | model | prompt of one blank | ends at |
//! |---|---|---|
//! | GLM-130B, ChatGLM-6B | text with mask, `</s>` unless it ends with the mask, `sop` | `eop`, `</s>` |
//! | GLM-10B | `[CLS]`, text with mask, `<\|endoftext\|>`, `<\|startofpiece\|>` | `<\|endofpiece\|>` |
//! | others | their prefix (`[gMASK]` and `sop`, where they have them), text | their ends |
//!
//! Nothing but the three names is special in the text, and what stands between them is encoded by itself.
//!
//! Sources: `generate.py` of <https://github.com/THUDM/GLM-130B> (which fills the first kind of mask that it finds and
//! leaves others), `generate_samples.py` of <https://github.com/THUDM/GLM>, `build_inputs_for_generation` of the
//! GLM-10B checkpoint's `tokenization_glm.py`.

use hal::{Error, Result};

use super::{Prompt, language, required};
use crate::blank::{Blank, BlankPositions};
use crate::tokenizer::Tokenizer;

/// Names of the masks, in the order in which they are filled.
const MASKS: [&str; 3] = ["[MASK]", "[sMASK]", "[gMASK]"];
/// The mask of the rest of a text.
const TO_THE_END: &str = "[gMASK]";

/// How a model's texts are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FillForm {
    /// Ids before the text.
    prefix: Vec<u32>,
    /// What blanks need; `None`: the model continues texts.
    blanks: Option<BlankIds>,
    stop_ids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct BlankIds {
    /// Those that the model has, in the order of [`MASKS`].
    masks: Vec<(&'static str, u32)>,
    end_of_text: u32,
    /// Whether a text that ends with its mask has `end_of_text` too.
    always_ends: bool,
    /// Whether spaces before a mask are part of it.
    takes_spaces: bool,
    sop: u32,
}

impl FillForm {
    /// The form of a model with these positions.
    ///
    /// # Errors
    /// `NotFound` when the tokenizer lacks a special token that blanks need.
    pub fn choose(positions: BlankPositions, tokenizer: &Tokenizer) -> Result<Self> {
        let known = |names: &[&str]| -> Vec<u32> {
            let ids = names.iter().filter_map(|name| tokenizer.special(name));
            ids.collect()
        };
        if positions == BlankPositions::None {
            let pairs = [["[gMASK]", "<sop>"], ["[gMASK]", "sop"]];
            let prefix = pairs
                .iter()
                .map(|pair| known(pair))
                .find(|ids| ids.len() == 2);
            return Ok(Self {
                prefix: prefix.unwrap_or_default(),
                blanks: None,
                stop_ids: known(&["</s>", "<|endoftext|>", "<|user|>", "<|observation|>"]),
            });
        }
        let id = |name: &str| required(tokenizer, "the form of blanks", name);
        let masks = MASKS
            .iter()
            .filter_map(|&name| Some((name, tokenizer.special(name)?)));
        let masks: Vec<_> = masks.collect();
        if masks.is_empty() {
            id(MASKS[0])?;
        }
        let glm_10b = tokenizer.special("<|startofpiece|>").is_some();
        let (prefix, end_of_text, sop, stop_ids) = match glm_10b {
            true => (
                vec![id("[CLS]")?],
                id("<|endoftext|>")?,
                id("<|startofpiece|>")?,
                vec![id("<|endofpiece|>")?],
            ),
            false => (
                Vec::new(),
                id("</s>")?,
                id("<sop>")?,
                vec![id("<eop>")?, id("</s>")?],
            ),
        };
        Ok(Self {
            prefix,
            blanks: Some(BlankIds {
                masks,
                end_of_text,
                always_ends: glm_10b,
                takes_spaces: glm_10b,
                sop,
            }),
            stop_ids,
        })
    }

    /// Tokens that end an answer.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// `text`, with the comment of a programming language before it if one is given.
    ///
    /// # Errors
    /// `InvalidArgument` for a language that is not known, or for any where blanks are filled, or for an empty text.
    pub fn begin(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        language: Option<&str>,
    ) -> Result<Filling<'_>> {
        let doing = "begin a text";
        let tag = match language {
            None => String::new(),
            Some(name) if self.blanks.is_some() => {
                return Err(Error::invalid(
                    doing,
                    format!("this model was not taught the comment of {name}"),
                )
                .next_step("leave the language out"));
            }
            Some(name) => language::tag(name).ok_or_else(|| {
                Error::invalid(doing, format!("CodeGeeX has no comment for {name:?}"))
                    .next_step(format!("choose one of {}", language::names()))
            })?,
        };
        let text = tag + text;
        if text.is_empty() {
            return Err(Error::invalid(doing, "it is empty").next_step("write its beginning"));
        }
        let Some(blanks) = &self.blanks else {
            let ids = [&self.prefix[..], &tokenizer.encode(&text)?].concat();
            return Ok(Filling {
                form: self,
                pieces: vec![Piece::Text(ids), Piece::Rest],
                ends: false,
            });
        };
        let mut pieces = Vec::new();
        if !self.prefix.is_empty() {
            pieces.push(Piece::Text(self.prefix.clone()));
        }
        let mut rest = &*text;
        loop {
            let found = blanks
                .masks
                .iter()
                .filter_map(|&(name, id)| Some((rest.find(name)?, name, id)));
            let mask = found.min();
            let end = mask.map_or(rest.len(), |(at, ..)| at);
            let mut before = &rest[..end];
            if mask.is_some() && blanks.takes_spaces {
                before = before.trim_end();
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(tokenizer.encode(before)?));
            }
            let Some((at, name, id)) = mask else { break };
            pieces.push(Piece::Mask { name, id });
            rest = &rest[at + name.len()..];
        }
        let is_mask = |piece: &Piece| matches!(piece, Piece::Mask { .. });
        if !pieces.iter().any(is_mask) {
            let id = required(tokenizer, "the form of blanks", TO_THE_END)?;
            pieces.push(Piece::Mask {
                name: TO_THE_END,
                id,
            });
        }
        Ok(Filling {
            form: self,
            ends: blanks.always_ends || !pieces.last().is_some_and(is_mask),
            pieces,
        })
    }
}

/// A text whose blanks are being filled.
#[derive(Clone, Debug)]
pub struct Filling<'f> {
    form: &'f FillForm,
    pieces: Vec<Piece>,
    /// Whether the end of the text is marked. It is as the text began, as in the original.
    ends: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Vec<u32>),
    Mask {
        name: &'static str,
        id: u32,
    },
    /// The continuation of a text by a model without blanks.
    Rest,
}

impl Filling<'_> {
    /// The prompt of the next blank; `None` when none is left.
    pub fn next(&self) -> Option<Prompt> {
        let next = self.next_piece()?;
        let mut ids = Vec::new();
        let mut mask = 0;
        for (i, piece) in self.pieces.iter().enumerate() {
            if i == next {
                mask = ids.len();
            }
            match piece {
                Piece::Text(text) => ids.extend(text),
                Piece::Mask { id, .. } => ids.push(*id),
                Piece::Rest => {}
            }
        }
        let (Some(blanks), Piece::Mask { name, .. }) = (&self.form.blanks, &self.pieces[next])
        else {
            return Some(ids.into());
        };
        ids.extend(self.ends.then_some(blanks.end_of_text));
        let blank = Blank {
            start: ids.len(),
            mask,
            to_the_end: *name == TO_THE_END,
        };
        ids.push(blanks.sop);
        Some(Prompt {
            ids,
            blank: Some(blank),
        })
    }

    /// Puts `answer` in the place of the blank of [`Self::next`].
    pub fn put(&mut self, answer: &[u32]) {
        if let Some(next) = self.next_piece() {
            self.pieces[next] = Piece::Text(answer.to_vec());
        }
    }

    /// The text, without what is not filled.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn text(&self, tokenizer: &Tokenizer) -> Result<String> {
        let ids = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(ids) => Some(ids),
            _ => None,
        });
        tokenizer.decode(&ids.flatten().copied().collect::<Vec<_>>(), true)
    }

    fn next_piece(&self) -> Option<usize> {
        let rank = |piece: &Piece| match piece {
            Piece::Text(_) => None,
            Piece::Mask { name, .. } => MASKS.iter().position(|other| other == name),
            Piece::Rest => Some(0),
        };
        let open = self.pieces.iter().enumerate();
        let open = open.filter_map(|(i, piece)| Some((rank(piece)?, i)));
        open.min().map(|(_, i)| i)
    }
}
