//! Blanks: how GLM-130B, GLM-10B and ChatGLM-6B mark what they are to write, and where it stands.
//!
//! A prompt is a text with a mask token, and `sop`. Everything before `sop` sees each other; `sop` and what the
//! model writes after it see what came before them. Positions tell the model where in the text its words belong.
//!
//! Sources: Du et al., "GLM: General Language Model Pretraining with Autoregressive Blank Infilling", ACL 2022;
//! `generate.py` of GLM-130B, `modeling_chatglm.py` of ChatGLM-6B.

/// Which positions the tokens from `sop` on have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlankPositions {
    /// The model fills no blanks: positions count on. ChatGLM2 and later, CodeGeeX.
    None,
    /// One stream. After `[gMASK]` it counts on; else all have the position of the mask. GLM-130B.
    OneStream,
    /// Two streams: the position of the mask, and 1, 2, 3, … (0 before `sop`). GLM-10B, ChatGLM-6B.
    TwoStreams,
    /// As [`Self::TwoStreams`], but `sop` after `[gMASK]` has its own index in the first stream: the first revision
    /// of ChatGLM-6B, with 150528 tokens.
    TwoStreamsFirstRevision,
}

impl BlankPositions {
    /// Position streams.
    pub fn streams(self) -> usize {
        match self {
            Self::None | Self::OneStream => 1,
            Self::TwoStreams | Self::TwoStreamsFirstRevision => 2,
        }
    }

    /// The positions of token `index` of a sequence with `blank`, one per stream; the second is 0 when there is one
    /// stream.
    pub fn of(self, blank: Option<Blank>, index: usize) -> [usize; 2] {
        let Some(blank) = blank.filter(|blank| index >= blank.start) else {
            return [index, 0];
        };
        match self {
            Self::None => [index, 0],
            Self::OneStream if blank.to_the_end => [index, 0],
            Self::OneStream => [blank.mask, 0],
            Self::TwoStreamsFirstRevision if blank.to_the_end && index == blank.start => [index, 1],
            Self::TwoStreams | Self::TwoStreamsFirstRevision => {
                [blank.mask, index - blank.start + 1]
            }
        }
    }
}

/// The blank of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blank {
    /// Index of `sop`: the tokens before it see each other.
    pub start: usize,
    /// Index of the mask token that is being filled.
    pub mask: usize,
    /// Whether it is `[gMASK]`: the rest of the text, not a word or a sentence inside it.
    pub to_the_end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(rule: BlankPositions, blank: Blank, tokens: usize) -> [Vec<usize>; 2] {
        let of = |i| rule.of(Some(blank), i);
        [0, 1].map(|stream| (0..tokens).map(|i| of(i)[stream]).collect())
    }

    #[test]
    fn positions_are_those_of_the_official_code() {
        let blank = |to_the_end| Blank {
            start: 6,
            mask: 5,
            to_the_end,
        };
        let counted = vec![0, 1, 2, 3, 4, 5, 6, 7, 8];
        let stays = vec![0, 1, 2, 3, 4, 5, 5, 5, 5];
        let block = vec![0, 0, 0, 0, 0, 0, 1, 2, 3];
        let one = BlankPositions::OneStream;
        assert_eq!(positions(one, blank(true), 9)[0], counted);
        assert_eq!(positions(one, blank(false), 9)[0], stays);
        let two = BlankPositions::TwoStreams;
        for to_the_end in [false, true] {
            let expected = [stays.clone(), block.clone()];
            assert_eq!(positions(two, blank(to_the_end), 9), expected);
        }
        let first = BlankPositions::TwoStreamsFirstRevision;
        let sop_counts = vec![0, 1, 2, 3, 4, 5, 6, 5, 5];
        assert_eq!(positions(first, blank(true), 9), [sop_counts, block]);
        assert_eq!(positions(first, blank(false), 9)[0], stays);
        assert_eq!(BlankPositions::None.of(Some(blank(true)), 8), [8, 0]);
        assert_eq!(two.of(None, 8), [8, 0]);
    }
}
