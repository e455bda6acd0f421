//! Cleaning text before it is cut: a table of replacements, spaces written `▁`, a space before the first word.

use super::Trie;
use super::proto::Model;

/// How SentencePiece writes a space.
pub(super) const SPACE: &str = "▁";

/// No rule of NFKC writes more than 33 bytes; a table without this bound could make text thousands of times longer.
const MAX_REPLACEMENT_BYTES: usize = 1024;

/// What is done to a text, in the order of the fields.
#[derive(Debug)]
pub(super) struct Normalizer {
    charsmap: Option<Charsmap>,
    remove_extra_whitespaces: bool,
    add_dummy: bool,
    dummy_is_suffix: bool,
    space: &'static str,
}

impl Normalizer {
    pub(super) fn new(model: &Model) -> Result<Self, String> {
        let spec = &model.normalizer;
        Ok(Self {
            charsmap: match spec.charsmap.is_empty() {
                true => None,
                false => Some(Charsmap::parse(&spec.charsmap)?),
            },
            remove_extra_whitespaces: spec.remove_extra_whitespaces,
            add_dummy: spec.add_dummy_prefix,
            dummy_is_suffix: model.whitespace_as_suffix,
            space: if spec.escape_whitespaces { SPACE } else { " " },
        })
    }

    /// The cleaned text. `user_defined` pieces are kept as they are, spaces apart.
    pub(super) fn normalize(&self, text: &str, user_defined: &Trie) -> String {
        let mut rest = text;
        if self.remove_extra_whitespaces {
            while let Some((" ", length)) = self.replace_first(rest, user_defined) {
                rest = &rest[length..];
            }
        }
        let mut out = String::with_capacity(rest.len() + rest.len() / 2);
        if rest.is_empty() {
            return out;
        }
        if self.add_dummy && !self.dummy_is_suffix {
            out.push_str(self.space);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while let Some((mut clean, length)) = self.replace_first(rest, user_defined) {
            rest = &rest[length..];
            if after_space {
                clean = clean.trim_start_matches(' ');
            }
            if clean.is_empty() {
                continue;
            }
            after_space = self.remove_extra_whitespaces && clean.ends_with(' ');
            for (i, part) in clean.split(' ').enumerate() {
                if i > 0 {
                    out.push_str(self.space);
                }
                out.push_str(part);
            }
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(self.space).len());
        }
        if self.add_dummy && self.dummy_is_suffix {
            out.push_str(self.space);
        }
        out
    }

    /// What the beginning of `text` becomes, and how many bytes of it that is; `None` at its end.
    fn replace_first<'a>(&'a self, text: &'a str, user_defined: &Trie) -> Option<(&'a str, usize)> {
        let char_bytes = text.chars().next()?.len_utf8();
        if let Some((length, _)) = user_defined.longest_prefix(text) {
            return Some((&text[..length], length));
        }
        let rule = self
            .charsmap
            .as_ref()
            .and_then(|map| map.longest_prefix(text));
        Some(rule.unwrap_or((&text[..char_bytes], char_bytes)))
    }

    /// Whether the first space of a decoded text is one that encoding added, or would remove.
    pub(super) fn drops_first_space(&self) -> bool {
        self.add_dummy || self.remove_extra_whitespaces
    }

    /// Whether encoding removes all spaces at the beginning.
    pub(super) fn drops_all_first_spaces(&self) -> bool {
        self.remove_extra_whitespaces
    }
}

/// A table of replacements: a double-array trie (Yata, Morita, Fuketa & Aoe, as in Darts-clone) from what is replaced
/// to offsets into a text of replacements, each ended by a zero byte.
#[derive(Debug)]
struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (length, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or("precompiled_charsmap: shorter than its length field")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (units, replacements) = rest
            .split_at_checked(length)
            .filter(|_| length.is_multiple_of(4) && length > 0)
            .ok_or_else(|| {
                format!(
                    "precompiled_charsmap: a trie of {length} bytes in {}",
                    rest.len()
                )
            })?;
        let map = Self {
            units: units
                .chunks_exact(4)
                .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
                .collect(),
            replacements: std::str::from_utf8(replacements)
                .map_err(|e| format!("precompiled_charsmap: {e}"))?
                .to_string(),
        };
        for (index, &unit) in map.units.iter().enumerate() {
            let is_leaf = unit >> 31 == 1;
            if !is_leaf && has_leaf(unit) && map.replacement(index ^ offset(unit)).is_none() {
                return Err(format!(
                    "precompiled_charsmap: unit {index} has no replacement"
                ));
            }
        }
        Ok(map)
    }

    /// The replacement that the leaf at `index` points to.
    fn replacement(&self, index: usize) -> Option<&str> {
        let at = self.units.get(index)? & 0x7fff_ffff;
        let text = self.replacements.get(at as usize..)?;
        let end = text
            .as_bytes()
            .iter()
            .take(MAX_REPLACEMENT_BYTES + 1)
            .position(|&b| b == 0)?;
        Some(&text[..end])
    }

    /// The replacement of the longest beginning of `text` that has one, and the length of that beginning.
    fn longest_prefix(&self, text: &str) -> Option<(&str, usize)> {
        let mut node = offset(self.units[0]);
        let mut longest = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else {
                break;
            };
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if has_leaf(unit) && text.is_char_boundary(i + 1) {
                longest = Some((node, i + 1));
            }
        }
        let (leaf, length) = longest?;
        Some((self.replacement(leaf)?, length))
    }
}

/// Whether a unit that is no leaf has one among its children: a key ends here.
fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// The distance, by exclusive or, from a unit to its children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}
