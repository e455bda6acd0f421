//! GPT-2's byte-level BPE, `vocab.json` and `merges.txt`: GLM-10B, CodeGeeX; with GLM-4's words, the vocabulary of its
//! GGUF files.
//!
//! The files write each byte as a visible character. Text is cut into words, and in each word the neighbours that the
//! earliest rule names are joined until no rule fits. Source: <https://github.com/openai/gpt-2>, `src/encoder.py`.

use std::collections::HashMap;

use hal::{Error, Result};

use super::merge::Symbols;
use super::split::{self, Part};
use super::vocabulary::Vocabulary;
use crate::files::{self, UniqueMap};

/// The most spaces that one token of CodeGeeX has.
const LONGEST_BLANK: usize = 10;

/// A byte-level BPE with explicit rules.
#[derive(Debug)]
pub struct Gpt2 {
    tokens: HashMap<Box<[u8]>, Token>,
    /// What each id spells.
    spellings: HashMap<u32, Box<[u8]>>,
    specials: HashMap<String, u32>,
    /// Bytes of the longest key of `tokens`.
    longest: usize,
    /// The tokens of 2, 3, … spaces; empty: spaces are text.
    blanks: Vec<u32>,
    /// Tokens that text yields as a whole, longest first.
    whole: Vec<(String, u32)>,
    words: Words,
}

/// How text is cut into words.
#[derive(Clone, Copy, Debug)]
enum Words {
    Gpt2,
    Glm4,
}

/// A vocabulary whose tokens are marked for what they are.
pub(super) struct Marked<'a> {
    /// What its list of tokens and its rules are called in errors.
    pub(super) names: [&'a str; 2],
    /// Tokens of text, in the byte alphabet.
    pub(super) text: Vec<(&'a str, u32)>,
    /// Rules: two tokens with a space between, in order.
    pub(super) merges: Vec<&'a str>,
    /// Tokens that text never yields.
    pub(super) specials: Vec<(&'a str, u32)>,
    /// Tokens that text yields as a whole.
    pub(super) whole: Vec<(&'a str, u32)>,
}

#[derive(Debug)]
struct Token {
    id: u32,
    /// Where its rules split it, and their ranks.
    rules: Vec<(usize, u32)>,
}

impl Gpt2 {
    /// Reads `vocab.json`, `merges.txt` and `added_tokens.json` (`{}` when there is none).
    ///
    /// # Errors
    /// `Corrupt`, naming the file: not JSON, an id that was there before, a character that stands for no byte, a rule
    /// that is not two tokens or makes none, a byte without token.
    pub fn from_bytes(vocab: &[u8], merges: &[u8], added: &[u8]) -> Result<Self> {
        let names = ["vocab.json", "merges.txt"];
        let UniqueMap(vocab) = files::parse_json::<UniqueMap<u32>>(names[0], vocab)?;
        let merges = std::str::from_utf8(merges)
            .map_err(|e| corrupt(names[1], e.to_string()).with_source(e))?;
        let text = vocab.iter().map(|(text, id)| (text.as_str(), *id));
        let mut bpe = Self::new(names, text, merges.lines(), Words::Gpt2)?;

        // What is longer than a byte and made by no rule is never text.
        let is_made = |id: &u32| {
            let token = &bpe.tokens[&bpe.spellings[id]];
            bpe.spellings[id].len() == 1 || !token.rules.is_empty()
        };
        bpe.specials = vocab
            .iter()
            .filter(|(_, id)| !is_made(id))
            .cloned()
            .collect();
        let UniqueMap(added) = files::parse_json::<UniqueMap<u32>>("added_tokens.json", added)?;
        for (name, id) in added {
            bpe.add("added_tokens.json", &name, id)?;
            bpe.specials.insert(name, id);
        }
        Ok(bpe)
    }

    /// A vocabulary with GLM-4's words.
    ///
    /// # Errors
    /// As [`Gpt2::from_bytes`].
    pub(super) fn glm4(marked: Marked<'_>) -> Result<Self> {
        let Marked {
            names,
            text,
            merges,
            specials,
            mut whole,
        } = marked;
        let mut bpe = Self::new(names, text.into_iter(), merges.into_iter(), Words::Glm4)?;
        for (name, id) in specials {
            bpe.add(names[0], name, id)?;
            bpe.specials.insert(name.to_owned(), id);
        }
        whole.retain(|(name, _)| !name.is_empty());
        whole.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, id) in whole {
            bpe.add(names[0], name, id)?;
            bpe.whole.push((name.to_owned(), id));
        }
        Ok(bpe)
    }

    fn new<'a>(
        names: [&str; 2],
        vocab: impl Iterator<Item = (&'a str, u32)>,
        merges: impl Iterator<Item = &'a str>,
        words: Words,
    ) -> Result<Self> {
        let mut tokens = HashMap::new();
        let mut spellings = HashMap::new();
        let bytes = byte_alphabet();
        let unspell = |text: &str| {
            let spelt: Option<Vec<u8>> = text.chars().map(|c| bytes.get(&c).copied()).collect();
            spelt.map(Vec::into_boxed_slice)
        };
        for (text, id) in vocab {
            let spelling = unspell(text).ok_or_else(|| {
                corrupt(
                    names[0],
                    format!("`{text}` has characters that stand for no byte"),
                )
            })?;
            let rules = Vec::new();
            if tokens
                .insert(spelling.clone(), Token { id, rules })
                .is_some()
            {
                return Err(corrupt(names[0], format!("`{text}` is there twice")));
            }
            if spellings.insert(id, spelling).is_some() {
                return Err(corrupt(names[0], format!("id {id} is there twice")));
            }
        }
        if let Some(byte) = (0..=255).find(|byte| !tokens.contains_key(&[*byte][..])) {
            return Err(corrupt(names[0], format!("byte {byte:#04X} has no token")));
        }
        for (rank, line) in (0..).zip(merges) {
            if line.is_empty() || line.starts_with("#version") {
                continue;
            }
            let (left, token) = line
                .split_once(' ')
                .and_then(|(left, right)| Some((unspell(left)?, unspell(right)?)))
                .filter(|(left, right)| tokens.contains_key(left) && tokens.contains_key(right))
                .and_then(|(left, right)| {
                    Some((left.len(), tokens.get_mut(&[left, right].concat()[..])?))
                })
                .ok_or_else(|| {
                    corrupt(
                        names[1],
                        format!(
                            "line {}, `{line}`, does not join two tokens to one",
                            rank + 1
                        ),
                    )
                })?;
            token.rules.push((left, rank));
        }
        Ok(Self {
            longest: tokens.keys().map(|token| token.len()).max().unwrap_or(0),
            tokens,
            spellings,
            specials: HashMap::new(),
            blanks: Vec::new(),
            whole: Vec::new(),
            words,
        })
    }

    /// Adds a token that spells its name.
    fn add(&mut self, file: &str, name: &str, id: u32) -> Result<()> {
        match self.spellings.insert(id, name.as_bytes().into()) {
            None => Ok(()),
            Some(_) => Err(corrupt(file, format!("id {id} is there twice"))),
        }
    }

    /// CodeGeeX's use of added tokens: `<|extratoken_10|>` is two spaces, and so on to ten.
    ///
    /// # Errors
    /// `NotFound` when the vocabulary has no such tokens.
    pub fn with_blanks(mut self) -> Result<Self> {
        for count in 2..=LONGEST_BLANK {
            let name = format!("<|extratoken_{}|>", count + 8);
            let id = self.special(&name).ok_or_else(|| {
                Error::new(
                    hal::ErrorKind::NotFound,
                    "read added_tokens.json",
                    format!("no `{name}`, CodeGeeX's token of {count} spaces"),
                )
                .next_step("use CodeGeeX's own added_tokens.json")
            })?;
            self.blanks.push(id);
            self.specials.remove(&name);
            self.spellings.insert(id, vec![b' '; count].into());
        }
        Ok(self)
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = Symbols::default();
        let mut encode = |word: &str| {
            let word = word.as_bytes();
            symbols.clear();
            (1..=word.len()).for_each(|end| symbols.push(end, false));
            symbols.merge(|start, middle, end| {
                if end - start > self.longest {
                    return None;
                }
                let rules = &self.tokens.get(&word[start..end])?.rules;
                let rule = rules.iter().find(|(left, _)| *left == middle - start)?;
                Some(rule.1)
            });
            // Every byte is a token, and so is what a rule makes.
            ids.extend(symbols.ranges().map(|range| self.tokens[&word[range]].id));
        };
        match self.words {
            Words::Gpt2 => split::gpt2(text).for_each(&mut encode),
            Words::Glm4 => split::glm4(text).for_each(&mut encode),
        }
    }

    /// Where the next whole token of `text` begins, its length and id.
    fn next_whole(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.whole.iter().filter_map(|(name, id)| {
            let at = text.find(name.as_str())?;
            Some((at, std::cmp::Reverse(name.len()), *id))
        });
        found.min().map(|(at, length, id)| (at, length.0, id))
    }
}

impl Vocabulary for Gpt2 {
    /// Tokens of spaces count as text.
    fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        if self.blanks.is_empty() {
            let mut text = text;
            while let Some((at, length, id)) = self.next_whole(text) {
                self.encode_words(&text[..at], &mut ids);
                ids.push(id);
                text = &text[at + length..];
            }
            self.encode_words(text, &mut ids);
            return ids;
        }
        for part in split::blanks(text, LONGEST_BLANK) {
            match part {
                Part::Text(text) => self.encode_words(text, &mut ids),
                Part::Blanks(count) => ids.push(self.blanks[count - 2]),
            }
        }
        ids
    }

    /// Special tokens spell their names.
    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let spelt = ids.iter().filter_map(|id| self.spellings.get(id));
        spelt.flatten().copied().collect()
    }

    fn vocab_size(&self) -> usize {
        self.spellings.keys().max().map_or(0, |&id| id as usize + 1)
    }

    /// Added tokens, and those that no rule makes: `<|endoftext|>`.
    fn specials(&self) -> Vec<(&str, u32)> {
        let specials = self.specials.iter();
        specials.map(|(name, &id)| (name.as_str(), id)).collect()
    }
}

fn corrupt(file: &str, why: String) -> Error {
    Error::corrupt(format!("read {file}"), why).next_step("copy or download the file again")
}

/// The byte that each character stands for: itself where Latin-1 shows it, else the next one from `Ā`.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut unseen = 'Ā'..;
    (0..=255u8)
        .filter_map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => Some((char::from(byte), byte)),
            _ => Some((unseen.next()?, byte)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of the 256 bytes (ids as bytes), then `more`.
    fn vocab(more: &[&str]) -> Vec<u8> {
        let mut ids: HashMap<String, u32> = byte_alphabet()
            .into_iter()
            .map(|(c, byte)| (c.to_string(), byte.into()))
            .collect();
        ids.extend((256..).zip(more).map(|(id, name)| (name.to_string(), id)));
        serde_json::to_vec(&ids).unwrap()
    }

    #[test]
    fn merges_by_rule() {
        let vocab = vocab(&["bc", "ab", "abc", "Ġa", "<|endoftext|>"]);
        let merges = b"#version: 0.2\nb c\na b\nab c\n\xc4\xa0 a\n";
        let added = br#"{"[gMASK]": 261}"#;
        let bpe = Gpt2::from_bytes(&vocab, merges, added).unwrap();
        for (text, ids) in [
            ("", &[][..]),
            // `bc` comes first, and no rule joins `a` and `bc`, though `abc` is a token.
            ("abc", &[97, 256]),
            ("ab ab", &[257, 32, 257]),
            (" a", &[259]),
            ("<|endoftext|>", &b"<|endoftext|>".map(u32::from)),
        ] {
            assert_eq!(bpe.encode(text), ids, "{text:?}");
            assert_eq!(bpe.decode(ids), text.as_bytes());
        }
        assert_eq!(bpe.special("<|endoftext|>"), Some(260));
        assert_eq!(bpe.special("[gMASK]"), Some(261));
        assert_eq!(bpe.special("ab"), None);
        assert_eq!(bpe.vocab_size(), 262);
        assert_eq!(bpe.decode(&[260, 999, 0xc3]), b"<|endoftext|>\xc3");
        let e = bpe.with_blanks().unwrap_err();
        assert_eq!(e.kind(), hal::ErrorKind::NotFound);
    }

    #[test]
    fn blanks_are_tokens() {
        let names = (10..=18).map(|i| format!("\"<|extratoken_{i}|>\": {}", 990 + i));
        let added = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
        let bpe = Gpt2::from_bytes(&vocab(&[]), b"", added.as_bytes()).unwrap();
        let bpe = bpe.with_blanks().unwrap();
        let text = format!(" a  b{}", " ".repeat(13));
        let ids = [32, 97, 1000, 98, 1008, 1001];
        assert_eq!(bpe.encode(&text), ids);
        assert_eq!(bpe.decode(&ids), text.as_bytes());
    }

    #[test]
    fn names_the_file() {
        let good = vocab(&["ab"]);
        for (vocab, merges, added, message) in [
            (&b"{"[..], "", "{}", "Corrupt: parse vocab.json: "),
            (
                b"{\"a\": 0}",
                "",
                "{}",
                "Corrupt: read vocab.json: byte 0x00 has no token",
            ),
            (
                b"{\"a b\": 0}",
                "",
                "{}",
                "Corrupt: read vocab.json: `a b` has",
            ),
            (
                b"{\"a\": 0, \"b\": 0}",
                "",
                "{}",
                "Corrupt: read vocab.json: id 0 is",
            ),
            (
                &good,
                "a",
                "{}",
                "Corrupt: read merges.txt: line 1, `a`, does not join",
            ),
            (
                &good,
                "a b\nb a",
                "{}",
                "Corrupt: read merges.txt: line 2, `b a`, does not",
            ),
            (
                &good,
                "",
                "{\"x\": 9}",
                "Corrupt: read added_tokens.json: id 9 is there twice",
            ),
        ] {
            let e = Gpt2::from_bytes(vocab, merges.as_bytes(), added.as_bytes()).unwrap_err();
            assert!(e.to_string().starts_with(message), "{e}");
        }
    }
}
