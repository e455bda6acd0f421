//! Writes GGUF files, version 3, little-endian.

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor: its name, lengths (rows first), number of its type, and bytes.
pub type Tensor = (String, Vec<usize>, u32, Vec<u8>);

pub const F32: u32 = 0;
pub const F16: u32 = 1;

pub fn meta(key: &str, value: impl Into<Meta>) -> (String, Meta) {
    (key.to_owned(), value.into())
}

impl From<u32> for Meta {
    fn from(n: u32) -> Self {
        Meta::U32(n)
    }
}

impl From<f32> for Meta {
    fn from(x: f32) -> Self {
        Meta::F32(x)
    }
}

impl From<&str> for Meta {
    fn from(text: &str) -> Self {
        Meta::Text(text.to_owned())
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list(out: &mut Vec<u8>, kind: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// The bytes of a file.
pub fn write(metadata: &[(String, Meta)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        match value {
            Meta::U32(n) => out.extend([4u32.to_le_bytes(), n.to_le_bytes()].concat()),
            Meta::F32(x) => out.extend([6u32.to_le_bytes(), x.to_le_bytes()].concat()),
            Meta::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
            Meta::Texts(values) => {
                list(&mut out, 8, values.len());
                values.iter().for_each(|value| text(&mut out, value));
            }
            Meta::I32s(values) => {
                list(&mut out, 5, values.len());
                values.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Meta::F32s(values) => {
                list(&mut out, 6, values.len());
                values.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
    let mut offset = 0u64;
    for (name, shape, kind, data) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        for length in shape.iter().rev() {
            out.extend((*length as u64).to_le_bytes());
        }
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + data.len() as u64).next_multiple_of(32);
    }
    for (_, _, _, data) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
    }
    out
}
