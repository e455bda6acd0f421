//! SentencePiece `.model` files: BPE and unigram, as the Python package encodes and decodes.
//!
//! Text is cleaned as the model's table says, then cut into pieces, by merging (BPE) or by the most
//! probable cut (unigram); what no piece spells becomes bytes, where the model has them, or the unknown piece. Control
//! pieces and the unknown piece are the special tokens.
//!
//! Sources: Kudo & Richardson, arXiv 1808.06226; Kudo, arXiv 1804.10959;
//! <https://github.com/google/sentencepiece>, whose order among equals is kept.

mod normalize;
mod proto;

use std::collections::{HashMap, HashSet};

use hal::{Error, Result};

use self::normalize::{Normalizer, SPACE};
pub(super) use self::proto::{Kind, Model, Piece};
use super::merge::Symbols;
use super::vocabulary::Vocabulary;

/// How much worse than the worst piece a character is that no piece spells.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A SentencePiece model.
#[derive(Debug)]
pub struct SentencePiece {
    pieces: Vec<Piece>,
    ids: Ids,
    /// Bytes of the longest piece that is text.
    longest: usize,
    user_defined: Trie,
    normalizer: Normalizer,
    algorithm: Algorithm,
    unknown_surface: String,
}

#[derive(Debug)]
enum Algorithm {
    Bpe,
    Unigram { pieces: Trie, worst: f32 },
}

impl SentencePiece {
    /// Reads the bytes of a `.model` file; `file` names it in errors.
    ///
    /// # Errors
    /// `Corrupt`: not such a file, or one that contradicts itself (two equal pieces, no unknown piece, some bytes
    /// without piece). `Unsupported`: a word or character model, a denormaliser.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        Self::new(file, Model::parse(file, bytes)?)
    }

    pub(super) fn new(file: &str, model: Model) -> Result<Self> {
        let doing = || format!("read {file}");
        let corrupt = |why: String| Error::corrupt(doing(), why).next_step("copy the file again");
        let normalizer = Normalizer::new(&model)
            .map_err(|why| corrupt(format!("normaliser `{}`: {why}", model.normalizer.name)))?;
        if !model.denormalizer.charsmap.is_empty() {
            let name = &model.denormalizer.name;
            return Err(
                Error::unsupported(doing(), format!("denormaliser `{name}`"))
                    .next_step("use a model without denormaliser, as every GLM is"),
            );
        }

        let ids = Ids::of(&model).map_err(corrupt)?;
        let of_kind = |kind| {
            let pieces = (0u32..).zip(&model.pieces);
            pieces.filter(move |(_, piece)| piece.kind == kind)
        };
        let user_defined = Trie::new(of_kind(Kind::UserDefined).map(|(id, p)| (&*p.text, id)));
        let algorithm = match model.model_type {
            proto::BPE => Algorithm::Bpe,
            proto::UNIGRAM => {
                let scores = || of_kind(Kind::Normal).map(|(_, piece)| piece.score);
                Algorithm::Unigram {
                    pieces: Trie::new(ids.text.iter().map(|(text, &id)| (&**text, id))),
                    worst: scores().fold(f32::MAX, f32::min),
                }
            }
            other => {
                let detail = format!("model type {other} (3: words, 4: characters)");
                return Err(
                    Error::unsupported(doing(), detail).next_step("use a BPE or unigram model")
                );
            }
        };
        Ok(Self {
            longest: ids.text.keys().map(|text| text.len()).max().unwrap_or(0),
            pieces: model.pieces,
            ids,
            user_defined,
            normalizer,
            algorithm,
            unknown_surface: model.unk_surface,
        })
    }

    /// BPE: joins the neighbours whose concatenation has the highest score; user-defined pieces stay apart.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = Symbols::default();
        let mut end = 0;
        while let Some(c) = text[end..].chars().next() {
            let user_defined = self.user_defined.longest_prefix(&text[end..]);
            end += user_defined.map_or(c.len_utf8(), |(length, _)| length);
            symbols.push(end, user_defined.is_some());
        }
        // Where unused pieces are split again.
        let mut splits = HashMap::new();
        symbols.merge(|start, middle, end| {
            if end - start > self.longest {
                return None;
            }
            let piece = &text[start..end];
            let &id = self.ids.text.get(piece)?;
            if self.is(id, Kind::Unused) {
                splits.insert(piece, middle - start);
            }
            Some(rank(self.pieces[id as usize].score))
        });
        let mut pending = Vec::new();
        for range in symbols.ranges() {
            pending.push(&text[range]);
            while let Some(piece) = pending.pop() {
                let id = self
                    .ids
                    .text
                    .get(piece)
                    .copied()
                    .unwrap_or(self.ids.unknown);
                match splits.get(piece) {
                    Some(&middle) => pending.extend([&piece[middle..], &piece[..middle]]),
                    None if self.is(id, Kind::Unused) => self.push(piece, self.ids.unknown, ids),
                    None => self.push(piece, id, ids),
                }
            }
        }
    }

    /// Unigram: the cut with the highest sum of scores (Viterbi).
    fn most_probable(&self, text: &str, pieces: &Trie, worst: f32, ids: &mut Vec<u32>) {
        /// The last piece of the best cut of the text before a position.
        #[derive(Clone, Copy)]
        struct Cut {
            id: u32,
            start: usize,
            score: f32,
        }
        let mut cuts: Vec<Option<Cut>> = vec![None; text.len() + 1];
        for (start, c) in text.char_indices() {
            let before = cuts[start].map_or(0.0, |cut| cut.score);
            // Of equals the first is kept, in f32 as the original: rounding decides what is equal.
            let mut offer = |end: usize, id: u32, score: f32| {
                let score = before + score;
                if cuts[end].is_none_or(|cut| score > cut.score) {
                    cuts[end] = Some(Cut { id, start, score });
                }
            };
            let mut spelt = false;
            for (length, id) in pieces.prefixes(&text[start..]) {
                let score = match self.pieces[id as usize].kind {
                    Kind::Unused => continue,
                    Kind::UserDefined => user_defined_score(length),
                    _ => self.pieces[id as usize].score,
                };
                offer(start + length, id, score);
                spelt |= length == c.len_utf8();
            }
            if !spelt {
                offer(
                    start + c.len_utf8(),
                    self.ids.unknown,
                    worst - UNKNOWN_PENALTY,
                );
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while let Some(cut) = cuts[end] {
            path.push((cut.id, cut.start..end));
            end = cut.start;
        }
        for (id, range) in path.into_iter().rev() {
            self.push(&text[range], id, ids);
        }
    }

    fn is(&self, id: u32, kind: Kind) -> bool {
        self.pieces[id as usize].kind == kind
    }

    /// Appends a piece; bytes or, once for neighbours, the unknown piece where there is none.
    fn push(&self, piece: &str, id: u32, ids: &mut Vec<u32>) {
        match &self.ids.bytes {
            Some(byte_ids) if id == self.ids.unknown => {
                ids.extend(piece.bytes().map(|byte| byte_ids[usize::from(byte)]));
            }
            None if id == self.ids.unknown && ids.last() == Some(&id) => {}
            _ => ids.push(id),
        }
    }
}

impl Vocabulary for SentencePiece {
    /// As the original, which however gives a control piece where text spells one in a single character.
    fn encode(&self, text: &str) -> Vec<u32> {
        let text = self.normalizer.normalize(text, &self.user_defined);
        let mut ids = Vec::with_capacity(text.len() / 3);
        match &self.algorithm {
            Algorithm::Bpe => self.merge(&text, &mut ids),
            Algorithm::Unigram { pieces, worst } => {
                self.most_probable(&text, pieces, *worst, &mut ids)
            }
        }
        ids
    }

    /// Without the space that encoding added. A control piece spells nothing.
    ///
    /// The original decodes bytes before and after a control piece apart; here they may make one character.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at_start = true;
        let mut dropped_space = false;
        for &id in ids {
            let Some(piece) = self.pieces.get(id as usize) else {
                continue;
            };
            if piece.kind == Kind::Byte {
                out.extend(byte(&piece.text));
                continue;
            }
            at_start &= !dropped_space && out.is_empty();
            dropped_space = false;
            match piece.kind {
                Kind::Control => {}
                Kind::Unknown => out.extend_from_slice(self.unknown_surface.as_bytes()),
                _ => {
                    let mut text = &*piece.text;
                    if at_start
                        && self.normalizer.drops_first_space()
                        && let Some(rest) = text.strip_prefix(SPACE)
                    {
                        text = rest;
                        dropped_space = !self.normalizer.drops_all_first_spaces();
                    }
                    out.extend_from_slice(text.replace(SPACE, " ").as_bytes());
                }
            }
        }
        out
    }

    fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    fn specials(&self) -> Vec<(&str, u32)> {
        let pieces = (0..).zip(&self.pieces);
        pieces
            .filter(|(_, piece)| matches!(piece.kind, Kind::Control | Kind::Unknown))
            .map(|(id, piece)| (&*piece.text, id))
            .collect()
    }
}

/// What text can become.
#[derive(Debug)]
struct Ids {
    /// Normal, user-defined and unused pieces.
    text: HashMap<Box<str>, u32>,
    unknown: u32,
    /// The piece of each byte, in models that have them.
    bytes: Option<Box<[u32; 256]>>,
}

impl Ids {
    fn of(model: &Model) -> Result<Self, String> {
        let mut text = HashMap::new();
        let mut others = HashSet::new();
        let mut unknown = None;
        let mut bytes = [None; 256];
        for (id, piece) in (0u32..).zip(&model.pieces) {
            let name = &piece.text;
            let is_new = match piece.kind {
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    text.insert(name.clone(), id).is_none()
                }
                Kind::Control | Kind::Unknown | Kind::Byte => others.insert(name),
            };
            if !is_new {
                return Err(format!("piece {id}: `{name}` was there before"));
            }
            match piece.kind {
                Kind::Unknown if unknown.replace(id).is_some() => {
                    return Err(format!("piece {id}: a second unknown piece"));
                }
                Kind::Byte => match byte(name) {
                    Some(byte) if model.byte_fallback => bytes[usize::from(byte)] = Some(id),
                    _ => return Err(format!("piece {id}: `{name}` is no byte of this model")),
                },
                _ => {}
            }
        }
        let all_bytes = || {
            let mut ids = Box::new([0; 256]);
            for (byte, id) in bytes.into_iter().enumerate() {
                ids[byte] = id.ok_or_else(|| format!("byte {byte:#04X} has no piece"))?;
            }
            Ok::<_, String>(ids)
        };
        Ok(Self {
            text,
            unknown: unknown.ok_or("no unknown piece")?,
            bytes: model.byte_fallback.then(all_bytes).transpose()?,
        })
    }
}

/// The score of a user-defined piece: better than any text's, and the longer the better. As the original has it in
/// version 0.2.3; earlier ones had -0.1 always, which shows only where another piece overlaps a user-defined one.
fn user_defined_score(length: usize) -> f32 {
    (0.1 * (length as f64 - 1.0)) as f32
}

/// An order in which higher scores come first.
fn rank(score: f32) -> u32 {
    let bits = score.to_bits();
    if score < 0.0 {
        bits
    } else {
        !bits & 0x7fff_ffff
    }
}

/// The byte of a byte piece: `<0x0A>`.
fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (format!("{byte:02X}") == digits).then_some(byte)
}

/// Strings found by their beginnings. A node is a string's beginning; node 0 is the empty one.
#[derive(Debug)]
struct Trie {
    children: HashMap<(u32, char), u32>,
    ids: Vec<Option<u32>>,
}

impl Trie {
    fn new<'a>(entries: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut trie = Self {
            children: HashMap::new(),
            ids: vec![None],
        };
        for (text, id) in entries {
            let mut node = 0;
            for c in text.chars() {
                let next = trie.ids.len() as u32;
                node = *trie.children.entry((node, c)).or_insert(next);
                if node == next {
                    trie.ids.push(None);
                }
            }
            trie.ids[node as usize] = Some(id);
        }
        trie
    }

    /// Length in bytes and id of each entry that `text` begins with, shortest first.
    fn prefixes(&self, text: &str) -> impl Iterator<Item = (usize, u32)> {
        let mut node = 0;
        text.char_indices()
            .map_while(move |(at, c)| {
                node = *self.children.get(&(node, c))?;
                Some((at + c.len_utf8(), self.ids[node as usize]))
            })
            .filter_map(|(length, id)| Some((length, id?)))
    }

    fn longest_prefix(&self, text: &str) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}
