//! Files as `torch.save` writes them: a zip of stored entries, a pickle of protocol 2.
//!
//! ```ignore
//! torch::write_bin(&dir.join("pytorch_model.bin"), &golden_shapes(&case));
//! ```

use std::path::Path;

use hal::DType;
use half::{bf16, f16};

use super::{Shapes, tensor};

/// A tensor to write: a view of a storage, which other tensors may share.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    /// `Half`, `Float`, `BFloat16`, `Char`, …
    pub kind: &'static str,
    pub shape: Vec<usize>,
    /// In elements; `None`: row-major.
    pub stride: Option<Vec<usize>>,
    pub offset: usize,
    /// The storage's number and bytes.
    pub storage: (usize, Vec<u8>),
    /// Elements that the file says the storage has; `None`: as many as it has.
    pub storage_elements: Option<usize>,
}

impl Tensor {
    /// A row-major tensor alone in storage `number`.
    pub fn new(
        number: usize,
        name: &str,
        kind: &'static str,
        shape: &[usize],
        data: Vec<u8>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            shape: shape.to_vec(),
            stride: None,
            offset: 0,
            storage: (number, data),
            storage_elements: None,
        }
    }

    fn element_bytes(&self) -> usize {
        element_bytes(self.kind)
    }
}

pub fn element_bytes(kind: &str) -> usize {
    match kind {
        "Double" | "Long" => 8,
        "Float" | "Int" => 4,
        "Half" | "BFloat16" | "Short" => 2,
        _ => 1,
    }
}

/// The tensors of these names and shapes, with the values of their names rounded to `dtype`.
pub fn tensors(shapes: &Shapes, dtype: DType) -> Vec<Tensor> {
    let of = |(i, (name, shape)): (usize, &(String, Vec<usize>))| {
        let (kind, data) = encode(&tensor(name, shape), dtype);
        Tensor::new(i, name, kind, shape, data)
    };
    shapes.iter().enumerate().map(of).collect()
}

/// The storage kind and the bytes of values.
pub fn encode(values: &[f32], dtype: DType) -> (&'static str, Vec<u8>) {
    match dtype {
        DType::F16 => {
            let bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
            ("Half", bytes.collect())
        }
        DType::BF16 => {
            let bytes = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes());
            ("BFloat16", bytes.collect())
        }
        _ => ("Float", super::le_bytes(values)),
    }
}

/// Writes an f32 `.bin` of the tensors of these names.
pub fn write_bin(path: &Path, shapes: &Shapes) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, file(&tensors(shapes, DType::F32))).unwrap();
}

/// The bytes of a file with this state dict.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.ordered_dict(tensors);
    archive(&pickle.end(), tensors)
}

/// As [`file`], nested in a dictionary as DeepSpeed does, with an opaque object beside it.
pub fn deepspeed_file(tensors: &[Tensor]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.op(b"}(").text("module");
    pickle.ordered_dict(tensors);
    pickle
        .text("args")
        .global("argparse", "Namespace")
        .op(b")\x81");
    pickle.op(b"}").text("lr").op(b"G?\xf0\0\0\0\0\0\0sb");
    pickle
        .text("iteration")
        .int(49300)
        .text("optimizer")
        .op(b"Nu");
    archive(&pickle.end(), tensors)
}

/// A zip file of a pickle and the storages of `tensors`.
pub fn archive(pickle: &[u8], tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = vec![
        ("archive/data.pkl".to_owned(), pickle.to_vec()),
        ("archive/byteorder".to_owned(), b"little".to_vec()),
    ];
    for tensor in tensors {
        let name = format!("archive/data/{}", tensor.storage.0);
        if !entries.iter().any(|(other, _)| *other == name) {
            entries.push((name, tensor.storage.1.clone()));
        }
    }
    entries.push(("archive/version".to_owned(), b"3\n".to_vec()));
    zip(&entries, 0, 0)
}

/// A zip file of entries with this compression method and these flags; torch has 0 for both.
pub fn zip(entries: &[(String, Vec<u8>)], method: u16, flags: u16) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u32;
        let mut common = Vec::new();
        common.extend([flags.to_le_bytes(), method.to_le_bytes()].concat());
        common.extend([0; 4]);
        common.extend(rawzip::crc32(data).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes().repeat(2));
        common.extend((name.len() as u16).to_le_bytes());
        // Data begins at multiples of 64: an extra field takes what is left.
        let start = file.len() + 30 + name.len();
        let padding = (start + 4).next_multiple_of(64) - start;
        file.extend(b"PK\x03\x04\x14\0");
        file.extend(&common);
        file.extend((padding as u16).to_le_bytes());
        file.extend(name.bytes());
        file.extend(b"FB");
        file.extend((padding as u16 - 4).to_le_bytes());
        file.resize(file.len() + padding - 4, b'Z');
        file.extend(data);

        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (count, start) = (entries.len() as u16, file.len() as u32);
    let size = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes().repeat(2));
    file.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

/// A pickle in the making.
#[derive(Clone, Debug)]
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub fn op(&mut self, opcodes: &[u8]) -> &mut Self {
        self.0.extend(opcodes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        let length = (text.len() as u32).to_le_bytes();
        self.op(b"X").op(&length).op(text.as_bytes())
    }

    /// A number, in the shortest form as CPython writes it.
    pub fn int(&mut self, n: i64) -> &mut Self {
        match n {
            0..=0xff => self.op(&[b'K', n as u8]),
            0x100..=0xffff => self.op(b"M").op(&(n as u16).to_le_bytes()),
            _ => match i32::try_from(n) {
                Ok(n) => self.op(b"J").op(&n.to_le_bytes()),
                Err(_) => self.op(b"\x8a\x08").op(&n.to_le_bytes()),
            },
        }
    }

    pub fn ints(&mut self, numbers: &[usize]) -> &mut Self {
        self.op(b"(");
        for &n in numbers {
            self.int(n as i64);
        }
        self.op(b"t")
    }

    pub fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn ordered_dict(&mut self, tensors: &[Tensor]) -> &mut Self {
        self.global("collections", "OrderedDict").op(b")R(");
        for tensor in tensors {
            self.text(&tensor.name).tensor(tensor);
        }
        // The version of the modules, as an attribute.
        self.op(b"u}").text("_metadata");
        self.global("collections", "OrderedDict").op(b")Rsb")
    }

    pub fn tensor(&mut self, tensor: &Tensor) -> &mut Self {
        let row_major = |shape: &[usize]| -> Vec<usize> {
            let steps = (1..=shape.len()).map(|d| shape[d..].iter().product());
            steps.collect()
        };
        let (number, data) = &tensor.storage;
        let elements = data.len() / tensor.element_bytes();
        self.global("torch._utils", "_rebuild_tensor_v2").op(b"((");
        self.text("storage")
            .global("torch", &format!("{}Storage", tensor.kind))
            .text(&number.to_string())
            .text("cpu")
            .int(tensor.storage_elements.unwrap_or(elements) as i64)
            .op(b"tQ")
            .int(tensor.offset as i64)
            .ints(&tensor.shape)
            .ints(
                &tensor
                    .stride
                    .clone()
                    .unwrap_or_else(|| row_major(&tensor.shape)),
            )
            .op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }

    pub fn end(&self) -> Vec<u8> {
        [&self.0[..], b"."].concat()
    }
}
