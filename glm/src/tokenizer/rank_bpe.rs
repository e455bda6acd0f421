//! GLM-4's `tokenizer.model`: lines of `base64 rank`, merged as tiktoken does.
//!
//! A token's rank is its id. Text is cut into words, and in each word the neighbours whose concatenation has the
//! lowest rank are joined until none has one. Source: <https://github.com/openai/tiktoken>.

use std::collections::HashMap;

use hal::{Error, Result};

use super::merge::Symbols;
use super::split;
use super::vocabulary::Vocabulary;

/// The special tokens of GLM-4-9B; the first has the id after the last rank.
pub const GLM4_SPECIALS: &[&str] = &[
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
];

/// A byte-level BPE whose ranks are its ids.
#[derive(Debug)]
pub struct RankBpe {
    tokens: Vec<Box<[u8]>>,
    ranks: HashMap<Box<[u8]>, u32>,
    /// Bytes of the longest token.
    longest: usize,
    specials: Vec<String>,
}

impl RankBpe {
    /// Reads the lines of a rank file; `file` names it in errors. The ids of `specials` follow the ranks.
    ///
    /// # Errors
    /// `Corrupt`, naming the line: not `base64 rank`, a token or rank that was there before, ranks with gaps, a byte
    /// without rank.
    pub fn from_bytes(file: &str, bytes: &[u8], specials: &[&str]) -> Result<Self> {
        let corrupt = |why: String| {
            Error::corrupt(format!("read {file}"), why)
                .next_step("check that this is a file of `base64 rank` lines; if so, copy it again")
        };
        let mut ranks = HashMap::new();
        for (line, text) in (1..).zip(bytes.split(|&b| b == b'\n')) {
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let (token, rank) = parse_line(text)
                .ok_or_else(|| corrupt(format!("line {line} is not `base64 rank`")))?;
            if ranks.insert(token.into_boxed_slice(), rank).is_some() {
                return Err(corrupt(format!("line {line}: its token was there before")));
            }
        }
        let mut tokens: Vec<Box<[u8]>> = vec![Box::default(); ranks.len()];
        for (token, &rank) in &ranks {
            match tokens.get_mut(rank as usize) {
                Some(entry) if entry.is_empty() => *entry = token.clone(),
                Some(_) => return Err(corrupt(format!("rank {rank} is there twice"))),
                None => {
                    let count = ranks.len();
                    return Err(corrupt(format!("rank {rank}, with {count} tokens in all")));
                }
            }
        }
        if let Some(byte) = (0..=255).find(|byte| !ranks.contains_key(&[*byte][..])) {
            return Err(corrupt(format!("byte {byte:#04X} has no rank")));
        }
        Ok(Self {
            longest: tokens.iter().map(|token| token.len()).max().unwrap_or(0),
            tokens,
            ranks,
            specials: specials.iter().map(ToString::to_string).collect(),
        })
    }
}

impl Vocabulary for RankBpe {
    fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut symbols = Symbols::default();
        for word in split::glm4(text) {
            let word = word.as_bytes();
            if let Some(&rank) = self.ranks.get(word) {
                ids.push(rank);
                continue;
            }
            symbols.clear();
            (1..=word.len()).for_each(|end| symbols.push(end, false));
            symbols.merge(|start, _, end| {
                let known = end - start <= self.longest;
                known.then(|| self.ranks.get(&word[start..end]).copied())?
            });
            // Every byte has a rank, and so has what was joined.
            ids.extend(symbols.ranges().map(|range| self.ranks[&word[range]]));
        }
        ids
    }

    /// Special tokens spell their names.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for &id in ids {
            let id = id as usize;
            if let Some(token) = self.tokens.get(id) {
                out.extend_from_slice(token);
            } else if let Some(name) = self.specials.get(id - self.tokens.len()) {
                out.extend_from_slice(name.as_bytes());
            }
        }
        out
    }

    fn vocab_size(&self) -> usize {
        self.tokens.len() + self.specials.len()
    }

    fn specials(&self) -> Vec<(&str, u32)> {
        let ids = self.tokens.len() as u32..;
        self.specials.iter().map(String::as_str).zip(ids).collect()
    }
}

/// `base64 rank`.
fn parse_line(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let space = line.iter().position(|&b| b == b' ')?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?;
    Some((base64(&line[..space])?, rank.trim().parse().ok()?))
}

/// The bytes of standard base64 with padding (RFC 4648, section 4); `None` when it is not that, or empty.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|&&c| c == b'=').count();
    let digits = text.get(..text.len() - padding).filter(|_| padding <= 2)?;
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let digit = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(digit);
        }
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks 0 to 255 are the bytes; `more` follow.
    fn file(more: &[&str]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |d: u8| char::from(DIGITS[usize::from(d)]);
        let bytes = (0..=255u8).map(|b| format!("{}{}== {b}", digit(b >> 2), digit(b << 4 & 63)));
        let more = more.iter().map(ToString::to_string);
        bytes.chain(more).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn merges_by_rank() {
        // YWI= is `ab`, YmM= `bc`, YWJj `abc`.
        let file = file(&["YWI= 256", "YmM= 257", "YWJj 258"]);
        let bpe = RankBpe::from_bytes("t", file.as_bytes(), GLM4_SPECIALS).unwrap();
        for (text, ids) in [
            ("", &[][..]),
            ("abc", &[258]),
            ("abcab", &[258, 256]),
            ("bcb 'S", &[257, 98, 32, 39, 83]),
            ("é", &[0xc3, 0xa9]),
            ("[gMASK]", &[91, 103, 77, 65, 83, 75, 93]),
        ] {
            assert_eq!(bpe.encode(text), ids, "{text:?}");
            assert_eq!(bpe.decode(ids), text.as_bytes());
        }
        assert_eq!(bpe.special("[gMASK]"), Some(261));
        assert_eq!(bpe.special("abc"), None);
        assert_eq!(bpe.vocab_size(), 259 + 14);
        assert_eq!(bpe.decode(&[0xc3, 261, 9999]), b"\xc3[gMASK]");
    }

    #[test]
    fn names_the_line() {
        for (more, why) in [
            ("YWI 256", "line 257 is not `base64 rank`"),
            ("YWI=", "line 257 is not `base64 rank`"),
            ("Y*I= 256", "line 257 is not `base64 rank`"),
            ("==== 256", "line 257 is not `base64 rank`"),
            ("YWI= -1", "line 257 is not `base64 rank`"),
            ("YQ== 256", "line 257: its token was there before"),
            ("YWI= 300", "rank 300, with 257 tokens in all"),
            ("YWI= 7", "rank 7 is there twice"),
        ] {
            let e = RankBpe::from_bytes("t", file(&[more]).as_bytes(), &[]).unwrap_err();
            assert_eq!((e.kind(), e.detail()), (hal::ErrorKind::Corrupt, why));
        }
        let e = RankBpe::from_bytes("t", b"YQ== 0", &[]).unwrap_err();
        assert_eq!(e.detail(), "byte 0x00 has no rank");
    }
}
