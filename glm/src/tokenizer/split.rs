//! Cutting text into the words within which byte-level tokenizers merge, by hand instead of by regular expression.
//!
//! Both rules are given as regular expressions by their sources; below, `L` is a letter (`\p{L}`), `N` a number
//! (`\p{N}`), `S` white space (`\s`) and `P` anything else. Every character is one of the four, so words cover the text.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// What the rules distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

/// The ranges of `\p{L}`, which [`char::is_alphabetic`] is not: it has marks and numerals too.
static LETTERS: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
    let class = regex_syntax::parse(r"\p{L}").expect("a well-formed pattern");
    match class.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().map(|r| (r.start(), r.end())).collect()
        }
        kind => unreachable!("`\\p{{L}}` is a Unicode class, not {kind:?}"),
    }
});

fn kind(c: char) -> Kind {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Kind::Letter,
            '0'..='9' => Kind::Number,
            ' ' | '\t'..='\r' => Kind::Space,
            _ => Kind::Other,
        };
    }
    let after = LETTERS.partition_point(|&(start, _)| start <= c);
    if after > 0 && c <= LETTERS[after - 1].1 {
        Kind::Letter
    } else if c.is_numeric() {
        Kind::Number
    } else if c.is_whitespace() {
        Kind::Space
    } else {
        Kind::Other
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Bytes of the longest beginning of `text` whose characters all are `wanted`.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

/// Bytes of the longest beginning of `text` of one `kind`.
fn run_of(text: &str, wanted: Kind) -> usize {
    run(text, |c| kind(c) == wanted)
}

/// `\s+(?!\S)|\s+`: white space, less the last character if a word follows and something remains.
///
/// `run` is the length of the white space that `text` begins with.
fn space(text: &str, run: usize) -> usize {
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if run < text.len() && run > last {
        run - last
    } else {
        run
    }
}

/// An iterator over the words of a text: `next` gives the length of the first word of a text that is not empty.
fn words(mut text: &str, next: impl Fn(&str) -> usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let (word, rest) = text.split_at(next(text));
        text = rest;
        Some(word)
    })
}

/// GLM-4's words:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,3}| ?P+[\r\n]*|S*[\r\n]+|S+(?!\S)|S+`.
pub(super) fn glm4(text: &str) -> impl Iterator<Item = &str> {
    words(text, |text| {
        let mut chars = text.chars();
        let first = chars.next().unwrap_or_default();
        let first_kind = kind(first);
        let rest = chars.as_str();
        if let Some(length) = contraction(text, |a, b| fold(a) == b) {
            return length;
        }
        match first_kind {
            Kind::Letter => return run_of(text, Kind::Letter),
            Kind::Number => {
                let digits = text
                    .chars()
                    .take(3)
                    .take_while(|&c| kind(c) == Kind::Number);
                return digits.map(char::len_utf8).sum();
            }
            _ => {}
        }
        if !is_newline(first) {
            let letters = run_of(rest, Kind::Letter);
            if letters > 0 {
                return first.len_utf8() + letters;
            }
        }
        let skip = usize::from(first == ' ');
        let others = run_of(&text[skip..], Kind::Other);
        if others > 0 {
            let end = skip + others;
            return end + run(&text[end..], is_newline);
        }
        let spaces = run_of(text, Kind::Space);
        match text[..spaces].rfind(is_newline) {
            Some(last) => last + 1,
            None => space(text, spaces),
        }
    })
}

/// GPT-2's words: `'s|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?P+|S+(?!\S)|S+`.
pub(super) fn gpt2(text: &str) -> impl Iterator<Item = &str> {
    words(text, |text| {
        if let Some(length) = contraction(text, |a, b| a == b) {
            return length;
        }
        let skip = usize::from(text.starts_with(' '));
        match text[skip..].chars().next().map(kind) {
            None | Some(Kind::Space) => space(text, run_of(text, Kind::Space)),
            Some(kind) => skip + run_of(&text[skip..], kind),
        }
    })
}

/// A part of a text whose blanks have tokens of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    /// As many spaces, at least two.
    Blanks(usize),
}

/// Cuts runs of two spaces and more out of `text`, each into blanks of at most `longest` spaces and a rest.
pub(super) fn blanks(mut text: &str, longest: usize) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let part = match text.find("  ") {
            None if text.is_empty() => return None,
            None => Part::Text(text),
            Some(0) => Part::Blanks(run(text, |c| c == ' ').min(longest)),
            Some(end) => Part::Text(&text[..end]),
        };
        text = match part {
            Part::Text(part) => &text[part.len()..],
            Part::Blanks(count) => &text[count..],
        };
        Some(part)
    })
}

/// Bytes of the English contraction that `text` begins with; `same` compares a character with a lower-case letter.
fn contraction(text: &str, same: impl Fn(char, char) -> bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    ["s", "t", "re", "ve", "m", "ll", "d"]
        .into_iter()
        .find_map(|letters| {
            let mut chars = rest.chars();
            letters
                .chars()
                .all(|b| chars.next().is_some_and(|a| same(a, b)))
                .then(|| text.len() - chars.as_str().len())
        })
}

/// Simple case folding of what can match a letter of a contraction: `ſ` folds to `s`.
fn fold(c: char) -> char {
    match c {
        'ſ' => 's',
        c => c.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glm4_words() {
        for (text, expected) in [
            ("", &[][..]),
            ("Hello world", &["Hello", " world"]),
            ("I'LL we'd 'ſx", &["I", "'LL", " we", "'d", " '", "ſx"]),
            ("'ſx", &["'ſ", "x"]),
            ("12345,67", &["123", "45", ",", "67"]),
            ("  a\n \n b", &[" ", " a", "\n \n", " b"]),
            ("x \u{3000}", &["x", " \u{3000}"]),
            ("!!\r\n\nx", &["!!\r\n\n", "x"]),
            ("\n!", &["\n", "!"]),
            ("你好。你", &["你好", "。你"]),
            ("e\u{301}Ⅷ½", &["e", "\u{301}", "Ⅷ½"]),
        ] {
            assert_eq!(glm4(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn gpt2_words() {
        for (text, expected) in [
            ("", &[][..]),
            (
                "Hello  world's 12345!",
                &["Hello", " ", " world", "'s", " 12345", "!"],
            ),
            ("I'LL", &["I", "'", "LL"]),
            ("a\n\nb  ", &["a", "\n", "\n", "b", "  "]),
            ("!!\nx", &["!!", "\n", "x"]),
        ] {
            assert_eq!(gpt2(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn blanks_are_cut_longest_first() {
        use Part::{Blanks, Text};
        for (text, expected) in [
            ("", &[][..]),
            (" a b ", &[Text(" a b ")]),
            ("a  b", &[Text("a"), Blanks(2), Text("b")]),
            (
                "         b  ",
                &[Blanks(4), Blanks(4), Text(" b"), Blanks(2)],
            ),
        ] {
            assert_eq!(blanks(text, 4).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn words_cover_the_text(text in "[ \t\r\n'sSlLſ0-9¾你é\u{301}!😀]{0,30}|\\PC{0,30}") {
            proptest::prop_assert_eq!(glm4(&text).collect::<String>(), &text[..]);
            proptest::prop_assert_eq!(gpt2(&text).collect::<String>(), &text[..]);
            proptest::prop_assert!(glm4(&text).chain(gpt2(&text)).all(|w| !w.is_empty()));
        }
    }
}
