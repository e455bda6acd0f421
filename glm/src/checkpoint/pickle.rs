//! Pickles, read and never run: bytes become a tree of nodes, and what a pickle asks to be called
//! stays a node that says so.
//!
//! Protocols 2 to 5, and of them the opcodes that pickled data has; source: the comments of
//! CPython's `Lib/pickletools.py`. Lists, dictionaries and calls take the place of objects; the
//! state that an object is given after it was made is dropped, as no state dict has any. A name
//! that belongs to no data (`os.system`, `builtins.eval`) fails the whole file: it was made to be
//! run, not read.
//!
//! Nodes lie in one list and refer to each other by number, so that cycles and depth cost nothing
//! here; who walks the tree limits its own depth. Every node and every reference has consumed a
//! byte at least, and no length is believed before the bytes are there.

use std::collections::HashMap;

use hal::{Error, Result};

/// The largest pickle that is read; those of GLM-130B's shards have a few hundred KB.
pub(super) const MAX_BYTES: usize = 32 << 20;
/// The most nodes, and the most numbers of nodes on the stack; a tensor takes about twelve.
const MAX_NODES: usize = 1 << 22;

/// Modules of which no name may appear: they start programs, load code, or open files.
const FORBIDDEN_MODULES: [&str; 22] = [
    "_pickle",
    "_posixsubprocess",
    "asyncio",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "importlib",
    "marshal",
    "multiprocessing",
    "nt",
    "operator",
    "os",
    "pickle",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "webbrowser",
];
/// Names of `builtins` that are data; all others are forbidden.
const BUILTIN_DATA: [&str; 14] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "range",
    "set",
    "slice",
    "tuple",
];

/// The number of a node.
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name in a Python module.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// What a call or the making of an object would give, and the items that are set on it.
    Call {
        callable: Id,
        args: Id,
        items: Vec<(Id, Id)>,
    },
    /// An object kept outside of the pickle.
    Persistent(Id),
    /// A value of no use to us: a float, bytes, a set, an integer beyond 64 bits.
    Other,
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    /// The value of the whole.
    pub(super) root: Id,
}

impl<'a> Pickle<'a> {
    /// The node of this number.
    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id]
    }
}

/// Parses a pickle; `file` names it in errors.
///
/// # Errors
/// `Corrupt`: an opcode that data does not have, a length beyond the end, a stack that does not
/// fit, a forbidden name.
pub(super) fn parse<'a>(file: &str, bytes: &'a [u8]) -> Result<Pickle<'a>> {
    let doing = || format!("read {file}");
    if bytes.len() > MAX_BYTES {
        let detail = format!(
            "{} bytes of pickle; at most {MAX_BYTES} are read",
            bytes.len()
        );
        return Err(Error::unsupported(doing(), detail)
            .next_step("save the state dict alone, without the optimizer's"));
    }
    let mut machine = Machine {
        bytes,
        at: 0,
        // The values that take one byte to write are nodes once.
        nodes: vec![Node::None, Node::Other, Node::Tuple(Vec::new())],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    match machine.run() {
        Ok(root) => Ok(Pickle {
            nodes: machine.nodes,
            root,
        }),
        Err(Fault::Damaged(why)) => {
            let detail = format!("byte {} of its pickle: {why}", machine.at);
            Err(Error::corrupt(doing(), detail).next_step("copy or download the file again"))
        }
        Err(Fault::Forbidden(what)) => Err(Error::corrupt(
            doing(),
            format!("its pickle names {what}, which no weights need"),
        )
        .next_step("do not load it with Python; get the weights from a source that you trust")),
    }
}

const NONE: Id = 0;
const OTHER: Id = 1;
const EMPTY_TUPLE: Id = 2;

/// Why a pickle is refused.
enum Fault {
    Damaged(String),
    Forbidden(String),
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Fault::Damaged(why.to_owned())
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Lengths of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// Reads opcodes to the end; the value that is left.
    fn run(&mut self) -> Result<Id, Fault> {
        loop {
            match self.byte()? {
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            // PROTO
            0x80 => match self.byte()? {
                0..=5 => {}
                other => return Err(Fault::Damaged(format!("protocol {other}"))),
            },
            // FRAME: its length says only how much to read at a time.
            0x95 => drop(self.take(8)?),
            b'N' => self.push_id(NONE)?,
            // NEWTRUE, NEWFALSE, EMPTY_SET
            0x88 | 0x89 | 0x8f => self.push_id(OTHER)?,
            b')' => self.push_id(EMPTY_TUPLE)?,
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            // BININT, BININT1, BININT2
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(n.into()))?;
            }
            b'K' => {
                let n = self.byte()?;
                self.push(Node::Int(n.into()))?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(n.into()))?;
            }
            // LONG1, LONG4
            0x8a => {
                let n = self.byte()?.into();
                self.long(n)?;
            }
            0x8b => {
                let n = self.length(4)?;
                self.long(n)?;
            }
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.push_id(OTHER)?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            // SHORT_BINSTRING, BINSTRING: text of Python 2
            b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.binary(1)?,
            b'B' => self.binary(4)?,
            0x8e | 0x96 => self.binary(8)?,
            b'(' => {
                if self.marks.len() == MAX_NODES {
                    return Err("too many marks".into());
                }
                self.marks.push(self.stack.len());
            }
            // POP, POP_MARK
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0..opcode - 0x84 {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items))?;
            }
            // FROZENSET
            0x91 => {
                self.pop_mark()?;
                self.push_id(OTHER)?;
            }
            // APPEND, APPENDS, ADDITEMS
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let slot = self.byte()?.into();
                self.put(slot)?;
            }
            b'r' => {
                let slot = self.length(4)?;
                self.put(slot)?;
            }
            0x94 => self.put(self.memo.len())?,
            b'h' => {
                let slot = self.byte()?.into();
                self.get(slot)?;
            }
            b'j' => {
                let slot = self.length(4)?;
                self.get(slot)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (&Node::Text(module), &Node::Text(name)) =
                    (&self.nodes[module], &self.nodes[name])
                else {
                    return Err("a name that is not text".into());
                };
                self.global(module, name)?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            // NEWOBJ_EX
            0x92 => {
                let (_, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            // BUILD
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            other => {
                return Err(Fault::Damaged(format!("opcode {other:#04x} is not read")));
            }
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        if n > rest.len() {
            let why = format!("{n} bytes are announced, {} are left", rest.len());
            return Err(Fault::Damaged(why));
        }
        self.at += n;
        Ok(&rest[..n])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    /// An unsigned number of `n` bytes.
    fn length(&mut self, n: usize) -> Result<usize, Fault> {
        let mut bytes = [0; 8];
        bytes[..n].copy_from_slice(self.take(n)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| "a length beyond memory".into())
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("no end of line")?;
        let line = self.take(end + 1)?;
        str::from_utf8(&line[..end]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), Fault> {
        if self.nodes.len() == MAX_NODES {
            return Err("too many values".into());
        }
        self.nodes.push(node);
        self.push_id(self.nodes.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Fault> {
        if self.stack.len() == MAX_NODES {
            return Err("too many values on the stack".into());
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        self.top()?;
        Ok(self.stack.pop().expect("there is a top"))
    }

    fn top(&self) -> Result<Id, Fault> {
        let above = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > above => Ok(id),
            _ => Err("the stack is empty".into()),
        }
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self, n: usize) -> Result<(), Fault> {
        let bytes = self.take(n)?;
        let mut wide = match bytes.last() {
            Some(high) if *high >= 0x80 => [0xff; 8],
            _ => [0; 8],
        };
        if n > wide.len() {
            return self.push_id(OTHER);
        }
        wide[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), Fault> {
        let n = self.length(length_bytes)?;
        match str::from_utf8(self.take(n)?) {
            Ok(text) => self.push(Node::Text(text)),
            Err(_) => self.push_id(OTHER),
        }
    }

    fn binary(&mut self, length_bytes: usize) -> Result<(), Fault> {
        let n = self.length(length_bytes)?;
        self.take(n)?;
        self.push_id(OTHER)
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Fault> {
        let to = self.top()?;
        match &mut self.nodes[to] {
            Node::List(list) => list.extend(items),
            Node::Call { .. } | Node::Other => {}
            _ => return Err("items are added to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Fault> {
        let to = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key without a value".into());
        }
        let pairs = pairs.iter().map(|&[key, value]| (key, value));
        match &mut self.nodes[to] {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Call { items, .. } => items.extend(pairs),
            _ => return Err("items are set on what is no dictionary".into()),
        }
        Ok(())
    }

    fn put(&mut self, slot: usize) -> Result<(), Fault> {
        let top = self.top()?;
        if self.memo.len() == MAX_NODES {
            return Err("too many places of the memo".into());
        }
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, slot: usize) -> Result<(), Fault> {
        let id = *self.memo.get(&slot).ok_or("an empty place of the memo")?;
        self.push_id(id)
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), Fault> {
        let package = module.split('.').next().unwrap_or(module);
        let builtin = matches!(package, "builtins" | "__builtin__" | "__builtins__");
        if FORBIDDEN_MODULES.contains(&package) || builtin && !BUILTIN_DATA.contains(&name) {
            return Err(Fault::Forbidden(format!("{module}.{name}")));
        }
        self.push(Node::Global { module, name })
    }

    fn call(&mut self, callable: Id, args: Id) -> Result<(), Fault> {
        self.push(Node::Call {
            callable,
            args,
            items: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pickle of the opcodes in `body`.
    fn error(body: &[u8]) -> String {
        let pickle = [b"\x80\x02", body].concat();
        parse("f", &pickle).unwrap_err().to_string()
    }

    #[test]
    fn numbers_and_texts_have_their_values() {
        let body = b"\x80\x04\x95\x09\0\0\0\0\0\0\0(K\x07M\x01\x02J\xff\xff\xff\xff\
            \x8a\0\x8a\x01\x80\x8a\x09\0\0\0\0\0\0\0\0\x01\x8c\x02\xc3\xa4U\x01\xffN\x88t.";
        let pickle = parse("f", body).unwrap();
        let Node::Tuple(items) = pickle.node(pickle.root) else {
            panic!("{pickle:?}");
        };
        let shown: Vec<String> = items
            .iter()
            .map(|&id| format!("{:?}", pickle.node(id)))
            .collect();
        assert_eq!(
            shown.join(" "),
            "Int(7) Int(513) Int(-1) Int(0) Int(-128) Other Text(\"ä\") Other None Other"
        );
    }

    #[test]
    fn what_no_data_has_is_refused() {
        for (body, wanted) in [
            (&b"cos\nsystem\nX\x02\0\0\0ls\x85R."[..], "names os.system"),
            (b"cposix\nsystem\n.", "names posix.system"),
            (b"cbuiltins\neval\n.", "names builtins.eval"),
            (b"c__builtin__\nexec\n.", "names __builtin__.exec"),
            (b"cos.path\njoin\n.", "names os.path.join"),
            (
                b"\x8c\x0asubprocess\x8c\x05Popen\x93.",
                "names subprocess.Popen",
            ),
            (b"(ios\nsystem\n.", "opcode 0x69"),
            (b"I1\n.", "opcode 0x49"),
            (b"\x82\x01.", "opcode 0x82"),
            (b"", "1 bytes are announced, 0 are left"),
            (b".", "the stack is empty"),
            (b"(.", "the stack is empty"),
            (b"N(0", "1 bytes are announced"),
            (b"X\xff\xff\xff\xff.", "4294967295 bytes are announced"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "announced"),
            (b"t.", "no mark"),
            (b"h\x07.", "empty place of the memo"),
            (b"(NN(a.", "the stack is empty"),
            (b"NNa.", "no list"),
            (b"NNNs.", "no dictionary"),
            (b"}(Nu.", "a key without a value"),
            (b"NN\x93.", "not text"),
            (b"cos", "no end of line"),
        ] {
            let e = error(body);
            assert!(e.contains(wanted), "{wanted}: {e}");
        }
        assert!(parse("f", b"\x80\x06N.").is_err());
        assert!(parse("f", b"\x80\x02cbuiltins\nset\n.").is_ok());
    }

    #[test]
    fn values_are_limited_in_number() {
        for (opcodes, wanted) in [
            (&b"K\x010"[..], "too many values"),
            (b"N", "too many values on the stack"),
            (b"(", "too many marks"),
            (b"N\x940", "too many places"),
        ] {
            assert!(
                error(&opcodes.repeat(MAX_NODES + 1)).contains(wanted),
                "{wanted}"
            );
        }
        assert!(parse("f", &vec![b'N'; MAX_BYTES + 1]).is_err());
    }
}
