//! The `.model` file: one protobuf message, of which only what encoding and decoding need is read.
//!
//! Source: `sentencepiece_model.proto` of <https://github.com/google/sentencepiece>, and the wire format at
//! <https://protobuf.dev/programming-guides/encoding/>. Nothing is allocated from a length that the file does not have.

use hal::{Error, Result};

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokenizer) enum Kind {
    /// Text.
    Normal,
    /// What stands for text that no piece spells.
    Unknown,
    /// A mark that text never yields: `<s>`.
    Control,
    /// Text that is always one piece: `<n>`.
    UserDefined,
    /// Text that takes part in merges but is split again.
    Unused,
    /// One byte of text that no piece spells: `<0x0A>`.
    Byte,
}

/// One entry of the vocabulary; its position is its id.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tokenizer) struct Piece {
    pub(in crate::tokenizer) text: Box<str>,
    /// Finite; never the negative zero.
    pub(in crate::tokenizer) score: f32,
    pub(in crate::tokenizer) kind: Kind,
}

/// How text is cleaned before it is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NormalizerSpec {
    pub(super) name: String,
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// `model_type` of a unigram model, the format's default.
pub(super) const UNIGRAM: u64 = 1;
/// `model_type` of a BPE model.
pub(super) const BPE: u64 = 2;

/// What the unknown piece spells unless a model says otherwise.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// A parsed model file.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tokenizer) struct Model {
    pub(in crate::tokenizer) pieces: Vec<Piece>,
    pub(in crate::tokenizer) byte_fallback: bool,
    pub(super) model_type: u64,
    pub(super) whitespace_as_suffix: bool,
    pub(super) unk_surface: String,
    pub(super) normalizer: NormalizerSpec,
    pub(super) denormalizer: NormalizerSpec,
}

impl Model {
    /// A BPE model of these pieces with ChatGLM's rules of white space: a space before the text, and
    /// all others kept.
    pub(in crate::tokenizer) fn bpe(pieces: Vec<Piece>) -> Self {
        Self {
            byte_fallback: pieces.iter().any(|piece| piece.kind == Kind::Byte),
            pieces,
            model_type: BPE,
            whitespace_as_suffix: false,
            unk_surface: UNKNOWN_SURFACE.to_string(),
            normalizer: NormalizerSpec {
                remove_extra_whitespaces: false,
                ..NormalizerSpec::default()
            },
            denormalizer: NormalizerSpec::default(),
        }
    }

    /// Parses the bytes of a `.model` file; `file` names it in errors.
    ///
    /// # Errors
    /// `Corrupt`: not such a message, a piece that is not UTF-8, a score that is not finite.
    pub(in crate::tokenizer) fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            byte_fallback: false,
            model_type: UNIGRAM,
            whitespace_as_suffix: false,
            unk_surface: UNKNOWN_SURFACE.to_string(),
            normalizer: NormalizerSpec::default(),
            denormalizer: NormalizerSpec::default(),
        };
        model.read(bytes).map_err(|why| {
            Error::corrupt(format!("read {file}"), why)
                .next_step("check that this is a SentencePiece model; if so, copy it again")
        })?;
        Ok(model)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => {
                    let id = self.pieces.len();
                    let piece = piece(value.bytes()?).map_err(|e| format!("piece {id}: {e}"))?;
                    self.pieces.push(piece);
                }
                2 => self
                    .read_trainer(value.bytes()?)
                    .map_err(|e| format!("trainer_spec: {e}"))?,
                3 => read_normalizer(&mut self.normalizer, value.bytes()?)
                    .map_err(|e| format!("normalizer_spec: {e}"))?,
                5 => read_normalizer(&mut self.denormalizer, value.bytes()?)
                    .map_err(|e| format!("denormalizer_spec: {e}"))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                3 => self.model_type = value.varint()?,
                24 => self.whitespace_as_suffix = value.varint()? != 0,
                35 => self.byte_fallback = value.varint()? != 0,
                44 => self.unk_surface = value.text()?.to_string(),
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: "".into(),
        score: 0.0,
        kind: Kind::Normal,
    };
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => piece.text = value.text()?.into(),
            // Adding zero makes a negative zero positive: the two must compare as equal.
            2 => piece.score = value.float()? + 0.0,
            3 => {
                piece.kind = match value.varint()? {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("type {other}; the format has 1 to 6")),
                }
            }
            _ => {}
        }
    }
    if piece.text.is_empty() {
        return Err("it is empty".to_string());
    }
    if !piece.score.is_finite() {
        return Err(format!("score {}", piece.score));
    }
    Ok(piece)
}

fn read_normalizer(spec: &mut NormalizerSpec, bytes: &[u8]) -> Result<(), String> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => spec.name = value.text()?.to_string(),
            2 => spec.charsmap = value.bytes()?.to_vec(),
            3 => spec.add_dummy_prefix = value.varint()? != 0,
            4 => spec.remove_extra_whitespaces = value.varint()? != 0,
            5 => spec.escape_whitespaces = value.varint()? != 0,
            _ => {}
        }
    }
    Ok(())
}

/// The fields of one message that have not been read yet.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            other => {
                return Err(format!(
                    "wire type {other}, {} bytes before the end",
                    self.0.len()
                ));
            }
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".to_string())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let (taken, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.0.split_at_checked(length))
            .ok_or_else(|| format!("{length} bytes are due, {} are there", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Value<'a> {
    fn varint(self) -> Result<u64, String> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err("a field has another type than a number".to_string()),
        }
    }

    fn float(self) -> Result<f32, String> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err("a field has another type than a float".to_string()),
        }
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a field has another type than bytes".to_string()),
        }
    }

    fn text(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn names_what_is_wrong() {
        let score = |score: f32| [&[0x15][..], &score.to_le_bytes()].concat();
        for (bytes, why) in [
            (vec![0x0a, 0xff], "1 bytes are due, 0 are there"),
            (
                vec![0x0a, 0xff, 0xff, 0x03],
                "65535 bytes are due, 0 are there",
            ),
            (vec![0x0b], "wire type 3, 0 bytes before the end"),
            (
                [[0x08].as_slice(), &[0xff; 10]].concat(),
                "a number of more than 64 bits",
            ),
            (vec![0x08, 1], "a field has another type than bytes"),
            (field(1, b""), "piece 0: it is empty"),
            (
                field(1, &field(1, b"\xff")),
                "piece 0: invalid utf-8 sequence",
            ),
            (
                field(1, &[field(1, b"a"), score(f32::NAN)].concat()),
                "piece 0: score NaN",
            ),
            (
                field(1, &[field(1, b"a"), vec![0x18, 7]].concat()),
                "piece 0: type 7",
            ),
        ] {
            let e = Model::parse("x.model", &bytes).unwrap_err();
            assert_eq!(e.kind(), hal::ErrorKind::Corrupt);
            assert!(e.detail().starts_with(why), "{e}");
        }
    }

    #[test]
    fn defaults_are_the_formats() {
        let model = Model::parse("x.model", &field(1, &field(1, "▁a".as_bytes()))).unwrap();
        assert_eq!(model.pieces.len(), 1);
        assert_eq!(model.pieces[0].kind, Kind::Normal);
        assert_eq!(model.model_type, UNIGRAM);
        assert!(model.normalizer.add_dummy_prefix);
        assert!(!model.byte_fallback);
    }
}
