//! The container of `torch.save`: a zip file of `<root>/data.pkl`, which describes the tensors, and
//! of `<root>/data/<key>`, which hold their elements.
//!
//! In the pickle a tensor is `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`,
//! counted in elements, and a storage is the persistent id `('storage', type, key, location,
//! elements)`; several tensors may view one storage. Source: torch `serialization.py`, `_utils.py`,
//! `_tensor.py`. Nothing of it is run: the few calls that make tensors and dictionaries are known
//! here by name; others are data beside the weights (arguments, random states), and an error where
//! a tensor must be.
//!
//! The state dict is the pickled dictionary itself, or the one under its key `module` (DeepSpeed,
//! SAT, Megatron), `state_dict` or `model`. Dictionaries in it are joined with dots
//! (CodeGeeX: `language_model` → `embedding` → `word_embeddings` → `weight`).

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use hal::{DType, Error, ErrorKind, Result};

use super::pickle::{self, Id, Node, Pickle};
use super::{Entry, StoredType, Strides, zip};

/// Where a state dict may be nested.
const WRAPPERS: [&str; 3] = ["module", "state_dict", "model"];
/// Dictionaries within dictionaries; CodeGeeX has four.
const MAX_DEPTH: usize = 16;
/// Tensors of one file; the largest models have 50 thousand in all.
const MAX_TENSORS: usize = 1 << 18;
/// Bytes of a tensor's name.
const MAX_NAME_BYTES: usize = 512;
/// The begin of a file of torch before 1.6: the pickled number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 12] = [
    0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];

/// Whether a file begins as those of torch do.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || is_legacy(bytes)
}

fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(2..).is_some_and(|b| b.starts_with(&LEGACY_MAGIC))
}

/// The table of tensors of `file`.
///
/// # Errors
/// `Corrupt`, naming the file and the tensor: a tensor outside of its storage, a storage of another
/// length than its entry, a forbidden name in the pickle; `Unsupported`: torch's old container,
/// compressed entries, big-endian numbers, tensors that only running Python would make.
pub(super) fn table(file: &str, bytes: &[u8]) -> Result<Vec<(String, Entry)>> {
    if is_legacy(bytes) {
        return Err(Error::unsupported(
            format!("read {file}"),
            "it has the container of torch before 1.6",
        )
        .next_step(
            "save it again with a newer torch: \
             torch.save(torch.load(file, weights_only=True, map_location='cpu'), file)",
        ));
    }
    let entries = zip::entries(file, bytes)?;
    let corrupt = |why: String| {
        Error::corrupt(format!("read {file}"), why).next_step("copy or download the file again")
    };
    let mut roots = entries.keys().filter_map(|name| {
        let root = name.strip_suffix("/data.pkl")?;
        (!root.contains('/')).then_some(root)
    });
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(corrupt(
            "not one entry `<name>/data.pkl`; torch.save writes one".to_owned(),
        ));
    };
    if let Some(order) = entries.get(&format!("{root}/byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(Error::unsupported(
            format!("read {file}"),
            "its numbers are not little-endian",
        )
        .next_step("save it on a little-endian machine"));
    }
    let pickle = pickle::parse(file, &bytes[entries[&format!("{root}/data.pkl")].clone()])?;
    let reader = Reader {
        file,
        root,
        entries: &entries,
        pickle: &pickle,
    };
    reader.table()
}

/// A call, or what stands for one, as text: `numpy.core.multiarray.scalar`.
struct Name<'a>(&'a str, &'a str);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

struct Reader<'a> {
    file: &'a str,
    root: &'a str,
    entries: &'a BTreeMap<String, Range<usize>>,
    pickle: &'a Pickle<'a>,
}

impl<'a> Reader<'a> {
    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::corrupt(format!("read {}", self.file), why)
            .next_step("copy or download the file again")
    }

    fn table(&self) -> Result<Vec<(String, Entry)>> {
        let (mut at, mut path) = (self.pickle.root, String::new());
        for _ in 0..MAX_DEPTH {
            let Some(items) = self.dict(at) else {
                return Err(self.not_a("state dict", &path, at));
            };
            let wrapped = WRAPPERS.iter().find_map(|&wrapper| {
                let is_wrapper =
                    |key| matches!(*self.pickle.node(key), Node::Text(t) if t == wrapper);
                let (_, value) = items.iter().find(|&&(key, _)| is_wrapper(key))?;
                Some((wrapper, *value))
            });
            let Some((wrapper, value)) = wrapped else {
                break;
            };
            (at, path) = (value, wrapper.to_owned());
        }
        let mut table = Vec::new();
        self.flatten(at, &mut String::new(), 0, &mut HashSet::new(), &mut table)?;
        Ok(table)
    }

    /// Adds the tensors of the dictionary `id`, whose own name is `prefix`.
    fn flatten(
        &self,
        id: Id,
        prefix: &mut String,
        depth: usize,
        seen: &mut HashSet<Id>,
        table: &mut Vec<(String, Entry)>,
    ) -> Result<()> {
        // Each dictionary once: those that hold each other would never end.
        if depth > MAX_DEPTH || !seen.insert(id) {
            return Err(self.corrupt(format!(
                "dictionary `{prefix}` is nested too deeply, or in itself"
            )));
        }
        let Some(items) = self.dict(id) else {
            return Err(self.not_a("dictionary", prefix, id));
        };
        for &(key, value) in items {
            let Node::Text(key) = *self.pickle.node(key) else {
                return Err(self.corrupt(format!("a key in `{prefix}` is not text")));
            };
            let parent = prefix.len();
            if parent > 0 {
                prefix.push('.');
            }
            prefix.push_str(key);
            if prefix.len() > MAX_NAME_BYTES {
                return Err(self.corrupt(format!("a name of more than {MAX_NAME_BYTES} bytes")));
            }
            if self.dict(value).is_some() {
                self.flatten(value, prefix, depth + 1, seen, table)?;
            } else if let Some(tensor) = self.tensor(value, 0) {
                if table.len() == MAX_TENSORS {
                    return Err(self.corrupt(format!("more than {MAX_TENSORS} tensors")));
                }
                let named = |e: Error| {
                    Error::new(
                        e.kind(),
                        e.doing(),
                        format!("tensor `{prefix}`: {}", e.detail()),
                    )
                    .next_step(e.next().unwrap_or("copy or download the file again"))
                };
                table.push((prefix.clone(), self.entry(tensor).map_err(named)?));
            } else if let Node::Call { .. } | Node::Global { .. } | Node::Persistent(_) =
                self.pickle.node(value)
            {
                return Err(self.not_a("tensor", prefix, value));
            }
            prefix.truncate(parent);
        }
        Ok(())
    }

    /// The error of a node that is no state dict, dictionary or tensor.
    fn not_a(&self, what: &str, name: &str, id: Id) -> Error {
        let place = match name {
            "" => "its pickle".to_owned(),
            name => format!("`{name}`"),
        };
        match self.callee(id) {
            Some((name, _)) => Error::new(
                ErrorKind::Unsupported,
                format!("read {}", self.file),
                format!("{place} is no {what} but made by {name}, which we do not run"),
            )
            .next_step("save the state dict alone: torch.save(model.state_dict(), file)"),
            None => self.corrupt(format!("{place} is no {what}")),
        }
    }

    /// The items of a dictionary or `OrderedDict`.
    fn dict(&self, id: Id) -> Option<&'a [(Id, Id)]> {
        match self.pickle.node(id) {
            Node::Dict(items) => Some(items),
            Node::Call { items, .. } => {
                let (name, _) = self.callee(id)?;
                matches!(name, Name("collections", "OrderedDict")).then_some(items)
            }
            _ => None,
        }
    }

    /// What a call calls, and its arguments.
    fn callee(&self, id: Id) -> Option<(Name<'a>, &'a [Id])> {
        match *self.pickle.node(id) {
            Node::Call { callable, args, .. } => match *self.pickle.node(callable) {
                Node::Global { module, name } => {
                    Some((Name(module, name), self.items(args).unwrap_or_default()))
                }
                _ => None,
            },
            Node::Global { module, name } => Some((Name(module, name), &[])),
            _ => None,
        }
    }

    /// The elements of a tuple, a list or a `torch.Size`.
    fn items(&self, id: Id) -> Option<&'a [Id]> {
        match self.pickle.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            Node::Call { .. } => match self.callee(id)? {
                (Name("torch", "Size"), &[tuple]) => match self.pickle.node(tuple) {
                    Node::Tuple(items) => Some(items),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// The function that makes a tensor, and its arguments; `None`: this is no tensor.
    fn tensor(&self, id: Id, depth: usize) -> Option<(&'a str, &'a [Id])> {
        let (Name(module, name), args) = self.callee(id)?;
        if depth > MAX_DEPTH {
            return None;
        }
        match (module, name, args) {
            (
                "torch._utils",
                "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3",
                [_, _, _, _, ..],
            ) => Some((name, args)),
            (
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
                [tensor, ..],
            ) => self.tensor(*tensor, depth + 1),
            // A tensor with attributes: (function, type, arguments, state).
            ("torch._tensor", "_rebuild_from_type_v2", [function, _, args, ..]) => {
                match *self.pickle.node(*function) {
                    Node::Global {
                        module: "torch._utils",
                        name: name @ ("_rebuild_tensor_v2" | "_rebuild_tensor_v3"),
                    } => Some((name, self.items(*args).filter(|args| args.len() >= 4)?)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn number(&self, id: Id, what: &str) -> Result<usize> {
        match *self.pickle.node(id) {
            Node::Int(n) => usize::try_from(n).map_err(|_| self.corrupt(format!("{what} {n}"))),
            _ => Err(self.corrupt(format!("{what} is no number of 64 bits"))),
        }
    }

    fn numbers(&self, id: Id, what: &str) -> Result<Vec<usize>> {
        let items = self.items(id);
        let items = items.ok_or_else(|| self.corrupt(format!("{what} is no tuple")))?;
        items.iter().map(|&item| self.number(item, what)).collect()
    }

    /// Where the elements of a tensor lie.
    fn entry(&self, (function, args): (&str, &[Id])) -> Result<Entry> {
        let Node::Persistent(storage) = *self.pickle.node(args[0]) else {
            return Err(self.corrupt("it has no storage"));
        };
        let (dtype, element_bytes, data) = match function {
            // The storage is bytes, and the type stands after the hooks.
            "_rebuild_tensor_v3" => {
                let dtype = args.get(6).and_then(|&id| self.callee(id));
                let Some((Name("torch", dtype), _)) = dtype else {
                    return Err(self.corrupt("it has no element type"));
                };
                let (dtype, bytes) = element_type(dtype).ok_or_else(|| self.unknown_type(dtype))?;
                (dtype, bytes, self.storage(storage)?)
            }
            _ => {
                let storage = self.storage(storage)?;
                let (dtype, bytes) = element_type(storage.kind.trim_end_matches("Storage"))
                    .ok_or_else(|| self.unknown_type(storage.kind))?;
                (dtype, bytes, storage)
            }
        };
        let offset = self.number(args[1], "its offset")?;
        let shape = self.numbers(args[2], "its size")?;
        let steps = self.numbers(args[3], "its stride")?;
        if shape.len() != steps.len() {
            return Err(self.corrupt(format!("size {shape:?} and stride {steps:?}")));
        }
        let outside = || {
            self.corrupt(format!(
                "{shape:?} with stride {steps:?} from element {offset} is outside of its storage \
                 of {} bytes",
                data.range.len()
            ))
        };
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let count = count.ok_or_else(outside)?;
        // Elements from the first to the last, both included.
        let span = match count {
            0 => 0,
            _ => shape
                .iter()
                .zip(&steps)
                .try_fold(1usize, |n, (d, step)| {
                    n.checked_add((d - 1).checked_mul(*step)?)
                })
                .ok_or_else(outside)?,
        };
        let start = offset.checked_mul(element_bytes);
        let end = offset
            .checked_add(span)
            .and_then(|end| end.checked_mul(element_bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(outside());
        };
        if end > data.range.len() {
            return Err(outside());
        }
        if count > span {
            return Err(Error::unsupported(
                format!("read {}", self.file),
                format!("{shape:?} with stride {steps:?} repeats elements of its storage"),
            )
            .next_step("save it with .contiguous()"));
        }
        let strides = (!is_row_major(&shape, &steps) && count > 0).then_some(Strides {
            steps,
            element_bytes,
        });
        Ok(Entry {
            dtype,
            shape,
            range: data.range.start + start..data.range.start + end,
            strides,
        })
    }

    fn unknown_type(&self, name: &str) -> Error {
        Error::unsupported(
            format!("read {}", self.file),
            format!("torch.{name} is no element type that we know"),
        )
        .next_step("save it as float32, float16 or bfloat16")
    }

    /// The storage that a persistent id names.
    fn storage(&self, id: Id) -> Result<Storage<'a>> {
        let Some(&[tag, kind, key, _, elements, ..]) = self.items(id) else {
            return Err(self.corrupt("its storage has no known form"));
        };
        let node = |id| self.pickle.node(id);
        let (Node::Text("storage"), &Node::Global { module, name }, &Node::Text(key)) =
            (node(tag), node(kind), node(key))
        else {
            return Err(self.corrupt("its storage has no known form"));
        };
        if !matches!(module, "torch" | "torch.storage" | "torch.cuda") {
            return Err(self.unknown_type(&format!("{module}.{name}")));
        }
        let elements = self.number(elements, "the length of its storage")?;
        let entry = format!("{}/data/{key}", self.root);
        let range = self.entries.get(&entry).cloned();
        let range =
            range.ok_or_else(|| self.corrupt(format!("its storage {entry} is not in the file")))?;
        let element_bytes = match name {
            "UntypedStorage" => 1,
            _ => {
                element_type(name.trim_end_matches("Storage"))
                    .ok_or_else(|| self.unknown_type(name))?
                    .1
            }
        };
        if elements.checked_mul(element_bytes) != Some(range.len()) {
            return Err(self.corrupt(format!(
                "its storage {entry} has {} bytes, not {elements} elements of {element_bytes}",
                range.len()
            )));
        }
        Ok(Storage { kind: name, range })
    }
}

struct Storage<'a> {
    kind: &'a str,
    range: Range<usize>,
}

/// Whether elements of these steps follow each other, last dimension fastest.
fn is_row_major(shape: &[usize], steps: &[usize]) -> bool {
    let mut step = 1;
    shape.iter().zip(steps).rev().all(|(&d, &given)| {
        let fits = d == 1 || given == step;
        step *= d;
        fits
    })
}

/// The type and its bytes, by the name of a storage (`Half`) or of a `torch.dtype` (`float16`).
fn element_type(name: &str) -> Option<(StoredType, usize)> {
    let other = |name: &str| StoredType::Other(name.to_owned());
    Some(match name {
        "Float" | "float32" => (StoredType::Known(DType::F32), 4),
        "Half" | "float16" => (StoredType::Known(DType::F16), 2),
        "BFloat16" | "bfloat16" => (StoredType::Known(DType::BF16), 2),
        "Char" | "int8" => (StoredType::Known(DType::I8), 1),
        "Byte" | "uint8" => (StoredType::Known(DType::U8), 1),
        "Int" | "int32" => (StoredType::Known(DType::I32), 4),
        "Double" | "float64" => (other("F64"), 8),
        "Long" | "int64" => (other("I64"), 8),
        "Short" | "int16" => (other("I16"), 2),
        "Bool" | "bool" => (other("BOOL"), 1),
        "ComplexFloat" | "complex64" => (other("C64"), 8),
        "uint16" => (other("U16"), 2),
        "uint32" => (other("U32"), 4),
        "uint64" => (other("U64"), 8),
        "float8_e4m3fn" => (other("F8_E4M3"), 1),
        "float8_e5m2" => (other("F8_E5M2"), 1),
        _ => return None,
    })
}
