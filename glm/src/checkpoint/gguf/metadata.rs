//! Metadata of a GGUF file: keys with typed values.

use std::collections::BTreeMap;

use hal::{Error, Result};

/// The shortest entry: a key of no letters, a type, a value of one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// Lists in lists: nobody writes them, the format allows them.
const MAX_DEPTH: usize = 4;

/// The values of one file, by key.
#[derive(Debug)]
pub(crate) struct Metadata {
    file: String,
    values: BTreeMap<String, Value>,
}

#[derive(Debug)]
enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    List(List),
}

/// A list as it lies in the file, checked: a vocabulary is not worth a value per token.
#[derive(Debug)]
struct List {
    kind: Kind,
    count: usize,
    bytes: Box<[u8]>,
}

/// Types of values, by their numbers in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Flag,
        Kind::Text,
        Kind::List,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of a value; `None`: it says so itself.
    fn bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Flag => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }
}

impl Metadata {
    /// Reads number of entries and entries.
    pub(super) fn read(file: &str, reader: &mut Reader<'_>) -> Result<Self, String> {
        let count = reader.u64("the number of keys")?;
        if count > reader.left() as u64 / MIN_ENTRY_BYTES {
            return Err(format!(
                "it claims {count} keys; {} bytes are left for them",
                reader.left()
            ));
        }
        let mut values = BTreeMap::new();
        for i in 0..count {
            let key = reader.text(&format!("key {i}"))?;
            let value = reader.kind().and_then(|kind| reader.value(kind));
            let value = value.map_err(|why| format!("key `{key}`: {why}"))?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(format!("key `{key}` is there twice"));
            }
        }
        Ok(Self {
            file: file.to_owned(),
            values,
        })
    }

    /// The file that it is of.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// An error about a key.
    pub(crate) fn corrupt(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::corrupt(format!("read {}", self.file), format!("key `{key}`: {why}"))
            .next_step("convert the model again, or download another file of it")
    }

    /// The value of `key`, which must be there.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.corrupt(key, "it is missing"))
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.corrupt(key, format!("it is not {what}"))),
            },
        }
    }

    /// A whole number, not negative.
    ///
    /// # Errors
    /// `Corrupt` for a value of another type, here and below.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "a whole number", |value| match value {
            Value::Whole(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A number.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", |value| match value {
            Value::Whole(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        })
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.get(key, "a list of texts", |value| match value {
            Value::List(list) if list.kind == Kind::Text => {
                let mut reader = Reader::new(&list.bytes);
                (0..list.count).map(|_| reader.text("").ok()).collect()
            }
            _ => None,
        })
    }

    /// A list of numbers.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, "a list of numbers", |value| match value {
            Value::List(list) => {
                let mut reader = Reader::new(&list.bytes);
                let number = |_| match reader.value(list.kind).ok()? {
                    Value::Whole(n) => Some(n as f64),
                    Value::Float(x) => Some(x),
                    _ => None,
                };
                (0..list.count).map(number).collect()
            }
            _ => None,
        })
    }
}

/// A place in bytes. Errors are the reason, to be completed with the file.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, bytes: usize, what: &str) -> Result<&'a [u8], String> {
        if bytes > self.left() {
            return Err(format!(
                "{what} has {bytes} bytes; the file ends after {}",
                self.left()
            ));
        }
        self.at += bytes;
        Ok(&self.bytes[self.at - bytes..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let bytes = self.take(N, what)?;
        Ok(bytes.try_into().expect("N bytes were taken"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, String> {
        let length = self.u64(what)?;
        // More than the address space is more than the file.
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX), what)?;
        std::str::from_utf8(bytes).map_err(|e| format!("{what} is not UTF-8: {e}"))
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32("the type")?;
        let kind = usize::try_from(id)
            .ok()
            .and_then(|id| Kind::ALL.get(id).copied());
        kind.ok_or_else(|| format!("type {id}; the format has 0 to 12"))
    }

    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        let what = "its value";
        Ok(match kind {
            Kind::U8 => Value::Whole(u8::from_le_bytes(self.array(what)?).into()),
            Kind::I8 => Value::Whole(i8::from_le_bytes(self.array(what)?).into()),
            Kind::U16 => Value::Whole(u16::from_le_bytes(self.array(what)?).into()),
            Kind::I16 => Value::Whole(i16::from_le_bytes(self.array(what)?).into()),
            Kind::U32 => Value::Whole(u32::from_le_bytes(self.array(what)?).into()),
            Kind::I32 => Value::Whole(i32::from_le_bytes(self.array(what)?).into()),
            Kind::U64 => Value::Whole(u64::from_le_bytes(self.array(what)?).into()),
            Kind::I64 => Value::Whole(i64::from_le_bytes(self.array(what)?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            Kind::Flag => match self.array(what)? {
                [0] => Value::Flag(false),
                [1] => Value::Flag(true),
                [other] => return Err(format!("{other} is neither false nor true")),
            },
            Kind::Text => Value::Text(self.text(what)?.to_owned()),
            Kind::List => {
                let (kind, count) = (self.kind()?, self.u64("a list's length")?);
                let start = self.at;
                self.skip(kind, count, 1)?;
                Value::List(List {
                    kind,
                    // What was skipped is in memory.
                    count: count as usize,
                    bytes: self.bytes[start..self.at].into(),
                })
            }
        })
    }

    /// Checks `count` elements of a list, itself `depth` deep.
    fn skip(&mut self, kind: Kind, count: u64, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("lists more than {MAX_DEPTH} deep"));
        }
        // An element of no fixed size has its length at least.
        let element = kind.bytes().unwrap_or(8) as u64;
        if count > self.left() as u64 / element {
            return Err(format!(
                "a list of {count}; {} bytes are left for it",
                self.left()
            ));
        }
        match kind {
            Kind::Text => {
                for i in 0..count {
                    self.text(&format!("text {i}"))?;
                }
            }
            Kind::List => {
                for _ in 0..count {
                    let (kind, count) = (self.kind()?, self.u64("a list's length")?);
                    self.skip(kind, count, depth + 1)?;
                }
            }
            _ => {
                let bytes = self.take((count * element) as usize, "a list")?;
                let flag = |b: &&u8| kind == Kind::Flag && **b > 1;
                if let Some(other) = bytes.iter().find(flag) {
                    return Err(format!("{other} is neither false nor true"));
                }
            }
        }
        Ok(())
    }
}
