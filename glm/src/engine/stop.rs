//! Stop strings in text that comes in pieces.

/// Lets text through up to the first stop string, and holds back what could become one.
///
/// First is the match that ends first; of those that end together, the longest. So the result does
/// not depend on how the text is cut into pieces.
#[derive(Debug)]
pub(super) struct StopFilter<'p> {
    stops: &'p [String],
    held: String,
}

impl<'p> StopFilter<'p> {
    /// A filter for `stops`, none of them empty.
    pub(super) fn new(stops: &'p [String]) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// The text that is certain after `text`, and whether a stop string ended it.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = matches.min() {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.held.len() - self.undecided();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when no more text comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest end of the text that begins a stop string.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.filter(|end| end.len() < longest)
            .find(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text up to the first stop string, found by trying every end.
    fn cut(text: &str, stops: &[String]) -> String {
        for end in 1..=text.len() {
            let ended = stops
                .iter()
                .filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some(longest) = ended.map(String::len).max() {
                return text[..end - longest].to_owned();
            }
        }
        text.to_owned()
    }

    fn filtered<'t>(pieces: impl IntoIterator<Item = &'t str>, stops: &[String]) -> String {
        let (mut filter, mut out) = (StopFilter::new(stops), String::new());
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out.push_str(&text);
            if stopped {
                return out;
            }
        }
        out + &filter.finish()
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop_string() {
        let stops = ["<end>".to_owned()];
        let mut filter = StopFilter::new(&stops);
        assert_eq!(filter.push("a<en"), ("a".to_owned(), false));
        assert_eq!(filter.push("<"), ("<en".to_owned(), false));
        assert_eq!(filter.push("en"), (String::new(), false));
        assert_eq!(filter.push("d> b"), (String::new(), true));
    }

    proptest! {
        #[test]
        fn text_ends_where_the_first_stop_string_begins(
            pieces in prop::collection::vec("[ab答]{0,4}", 0..8),
            stops in prop::collection::vec("[ab答]{1,4}", 0..3),
        ) {
            let text = pieces.concat();
            let expected = cut(&text, &stops);
            prop_assert_eq!(filtered(pieces.iter().map(String::as_str), &stops), &*expected);
            let mut bytes = [0; 4];
            let letters: Vec<String> =
                text.chars().map(|c| c.encode_utf8(&mut bytes).to_owned()).collect();
            prop_assert_eq!(filtered(letters.iter().map(String::as_str), &stops), expected);
        }
    }
}
