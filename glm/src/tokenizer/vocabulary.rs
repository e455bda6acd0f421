//! What tokenizers have in common.

/// A vocabulary: text to ids and back.
///
/// Text never yields a special token, whatever it spells: only [`Vocabulary::special`] gives their ids. The unknown
/// token is the exception, in vocabularies that have one and not all bytes.
pub trait Vocabulary: std::fmt::Debug + Send + Sync {
    /// The ids of `text`.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The bytes that `ids` spell, which may end within a character. An id that the vocabulary does not have spells
    /// nothing.
    fn decode(&self, ids: &[u32]) -> Vec<u8>;

    /// One more than the highest id.
    fn vocab_size(&self) -> usize;

    /// Names and ids of the special tokens.
    fn specials(&self) -> Vec<(&str, u32)>;

    /// The id of the special token `name`: `[gMASK]`, `<|user|>`.
    fn special(&self, name: &str) -> Option<u32> {
        let found = self
            .specials()
            .into_iter()
            .find(|(known, _)| *known == name);
        found.map(|(_, id)| id)
    }
}
