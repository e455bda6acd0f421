//! Byte-pair merging: the loop that SentencePiece's BPE, tiktoken and GPT-2 share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol.
const NONE: usize = usize::MAX;

/// A run of bytes of the text, in a linked list of its neighbours. A symbol that was merged away is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
    frozen: bool,
}

/// The symbols of one text, before and after merging.
#[derive(Debug, Default)]
pub(super) struct Symbols(Vec<Symbol>);

impl Symbols {
    /// Removes all symbols, for the next text.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends a symbol that ends at byte `end` and begins where the one before ends. A `frozen` one never merges.
    pub(super) fn push(&mut self, end: usize, frozen: bool) {
        let index = self.0.len();
        let (start, previous) = match self.0.last_mut() {
            Some(last) => {
                last.next = index;
                (last.end, index - 1)
            }
            None => (0, NONE),
        };
        self.0.push(Symbol {
            start,
            end,
            previous,
            next: NONE,
            frozen,
        });
    }

    /// Joins neighbours until none can be joined: always the pair of lowest rank, of these the leftmost.
    ///
    /// `rank(start, middle, end)` is the rank of joining `start..middle` and `middle..end`; `None`: they never join.
    /// Takes `O(n log n)` steps for `n` symbols.
    pub(super) fn merge(&mut self, mut rank: impl FnMut(usize, usize, usize) -> Option<u32>) {
        let symbols = &mut self.0;
        let mut queue = BinaryHeap::new();
        let mut offer =
            |symbols: &[Symbol], queue: &mut BinaryHeap<_>, left: usize, right: usize| {
                let (Some(l), Some(r)) = (symbols.get(left), symbols.get(right)) else {
                    return;
                };
                if !l.frozen
                    && !r.frozen
                    && let Some(rank) = rank(l.start, l.end, r.end)
                {
                    queue.push(Reverse((rank, left, right, r.end)));
                }
            };
        for right in 1..symbols.len() {
            offer(symbols, &mut queue, right - 1, right);
        }
        while let Some(Reverse((_, left, right, end))) = queue.pop() {
            let (l, r) = (symbols[left], symbols[right]);
            // An offer is stale when either side has been merged since.
            if l.start == l.end || l.end != r.start || r.start == r.end || r.end != end {
                continue;
            }
            symbols[left].end = r.end;
            symbols[left].next = r.next;
            symbols[right].start = r.end;
            if let Some(next) = symbols.get_mut(r.next) {
                next.previous = left;
            }
            offer(symbols, &mut queue, l.previous, left);
            offer(symbols, &mut queue, left, r.next);
        }
    }

    /// The byte ranges of what is left, in order.
    pub(super) fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.0
            .iter()
            .filter(|s| s.start < s.end)
            .map(|s| s.start..s.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str, rules: &[&str]) -> Vec<String> {
        let mut symbols = Symbols::default();
        (1..=text.len()).for_each(|end| symbols.push(end, false));
        symbols.merge(|start, _, end| {
            let at = rules.iter().position(|&r| r == &text[start..end])?;
            Some(at as u32)
        });
        symbols.ranges().map(|r| text[r].to_string()).collect()
    }

    #[test]
    fn lowest_rank_first_then_leftmost() {
        for (text, rules, expected) in [
            ("", &[][..], &[][..]),
            ("abc", &[], &["a", "b", "c"]),
            ("abc", &["bc", "ab"], &["a", "bc"]),
            ("abc", &["ab", "bc"], &["ab", "c"]),
            ("aaaaa", &["aa"], &["aa", "aa", "a"]),
            ("aaaaa", &["aa", "aaaa"], &["aaaa", "a"]),
            ("abcab", &["abc", "ab"], &["abc", "ab"]),
        ] {
            assert_eq!(merged(text, rules), expected, "{text} {rules:?}");
        }
    }

    /// What the definition says, in quadratic time.
    fn naive(text: &str, rules: &[&str]) -> Vec<String> {
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        let rank = |a: &str, b: &str| rules.iter().position(|r| *r == format!("{a}{b}"));
        while let Some((_, at)) = (1..parts.len())
            .filter_map(|i| Some((rank(&parts[i - 1], &parts[i])?, i - 1)))
            .min()
        {
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        parts
    }

    proptest::proptest! {
        #[test]
        fn equals_the_definition(text in "[ab]{0,40}", rules in proptest::collection::vec("[ab]{2,5}", 0..12)) {
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(merged(&text, &rules), naive(&text, &rules));
        }
    }
}
