//! Every program that the conformance suite asks for, compiled by the real hiprtc for chips of AMD: no more registers and local
//! memory than `resources.tsv` says, and no spills but those that are known. gfx906 is also Hygon's Z100; the compilers of their other chips are in DTK
//! only.
//!
//! Without more, a program of each operation, because this compiler takes a second for each. `GLM_HIP_COMPILE=all`: all of them, and the table must be exactly what they use;
//! `GLM_HIP_COMPILE=write` makes it so.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use backend_emulator::programs::{Paper, Program, programs};
use backend_emulator::resources::{Resources, Use};
use backend_hip::{Hiprtc, Limits, Units, put_own};
use conformance::skip;
use hal::ErrorKind;

/// Radeon Instinct MI50 and Z100, MI100, MI200. Debian's compiler ends the process for chips that it does not know.
const CHIPS: [&str; 3] = ["gfx906", "gfx908", "gfx90a"];

/// What they have for our kernels.
const UNITS: [Units; 3] = [
    Units {
        dot: true,
        matrix_f16: false,
        matrix_bf16: false,
    },
    ALL,
    ALL,
];
const ALL: Units = Units {
    dot: true,
    matrix_f16: true,
    matrix_bf16: true,
};

/// The rest is kept in memory or, of scalar registers, in lanes of vector registers.
const SPILLS: [(&str, &str, &str); 4] = [
    ("attention", "gfx906", KNOWN),
    ("attention", "gfx908", KNOWN),
    ("attention", "gfx90a", KNOWN),
    ("cast", "gfx90a", KNOWN),
];
const KNOWN: &str = "95 registers of attention for gfx906, 36 for the others, 284 scalar ones of casts on gfx90a by this compiler: to \
                     be mended where the cost can be measured, on a chip";

/// All programs, each with the numbers of the chips that ask for it.
fn all_programs() -> Vec<(Program, Range<usize>)> {
    let limits = Limits {
        max_group: 256,
        local_bytes: 64 << 10,
        max_alloc_bytes: 1 << 40,
        memory_bytes: 1 << 40,
        wave: 64,
        parallelism: 60,
        wide_items: false,
    };
    let mut all: Vec<(Program, Range<usize>)> = Vec::new();
    for (number, (chip, units)) in CHIPS.into_iter().zip(UNITS).enumerate() {
        let asked = programs(limits.clone(), |device, ops| {
            put_own(device, ops, chip, move |_| Ok(units), Some(Arc::new(Paper)));
        });
        for program in asked {
            match all.iter_mut().find(|(known, _)| *known == program) {
                Some((_, chips)) => {
                    assert_eq!(chips.end, number, "{program:?} is not of neighbours");
                    chips.end += 1;
                }
                None => all.push((program, number..number + 1)),
            }
        }
    }
    all
}

#[test]
fn units_are_found_by_compiling() {
    let hiprtc = match Hiprtc::find() {
        Ok(hiprtc) => hiprtc,
        Err(e) => return skip("hiprtc", e),
    };
    // The last is RDNA 2.
    let rdna = Units {
        dot: true,
        ..Units::default()
    };
    for (chip, units) in CHIPS.into_iter().zip(UNITS).chain([("gfx1030", rdna)]) {
        let found = Units::ask(|source, defines| {
            let group = ("GROUP", String::from("64"));
            match hiprtc.compile(source, &[defines, &[group]].concat(), chip, &[]) {
                Ok(_) => Ok(true),
                Err(e) if e.kind() == ErrorKind::CompileFailed => Ok(false),
                Err(e) => Err(e),
            }
        });
        assert_eq!(found.unwrap(), units, "{chip}");
    }
}

#[test]
fn every_program_compiles_within_its_means() {
    let hiprtc = match Hiprtc::find() {
        Ok(hiprtc) => hiprtc,
        Err(e) => return skip("hiprtc", e),
    };
    let resources = Resources {
        chips: &CHIPS,
        some_chips: &CHIPS,
        some_programs: 1,
        programs: all_programs(),
        place: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("resources.tsv"),
        columns: "vector registers, bytes of local memory and spilled registers",
        made_by: made_by(&hiprtc),
        variable: "GLM_HIP_COMPILE",
        spills: &SPILLS,
    };
    resources.check(|source, defines, chip| {
        let compiled = hiprtc.compile(source, defines, chip, &[]);
        report(&compiled.map_err(|e| e.to_string())?.code)
    });
}

/// The file, whose name ends with the release.
fn made_by(hiprtc: &Hiprtc) -> String {
    let real = std::fs::canonicalize(hiprtc.path()).unwrap_or(hiprtc.path().into());
    real.file_name().unwrap().to_string_lossy().into_owned()
}

/// What the code says of each of its kernels: notes in MessagePack, a list of maps under `amdhsa.kernels`.
fn report(code: &[u8]) -> Result<Vec<(String, Use)>, String> {
    let mut notes = Notes::find(code).ok_or("there are no notes")?;
    let mut kernels = Vec::new();
    let all = notes.value().ok_or("the notes end too early")?;
    let Some(Value::List(list)) = all.get("amdhsa.kernels") else {
        return Err(format!("there are no kernels in {all:?}"));
    };
    for kernel in list {
        let number = |name| match kernel.get(name) {
            Some(Value::Number(n)) => Ok(usize::try_from(*n).unwrap_or(usize::MAX)),
            other => Err(format!("{name} is {other:?}")),
        };
        let Some(Value::Text(name)) = kernel.get(".name") else {
            return Err(format!("a kernel without a name: {kernel:?}"));
        };
        let used = Use {
            registers: number(".vgpr_count")?,
            local_bytes: number(".group_segment_fixed_size")?,
            spilled: number(".vgpr_spill_count")? + number(".sgpr_spill_count")?,
        };
        kernels.push((name.clone(), used));
    }
    Ok(kernels)
}

/// As much of MessagePack as the notes have.
#[derive(Debug)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl Value {
    fn get(&self, name: &str) -> Option<&Value> {
        let Value::Map(entries) = self else {
            return None;
        };
        let found = entries
            .iter()
            .find(|(key, _)| matches!(key, Value::Text(text) if text == name));
        found.map(|(_, value)| value)
    }
}

struct Notes<'a>(&'a [u8]);

impl<'a> Notes<'a> {
    /// A note of an ELF file: the lengths of its owner's name and of itself, a type, the name, the note.
    fn find(code: &'a [u8]) -> Option<Self> {
        let owner = b"\x20\0\0\0AMDGPU\0\0";
        let at = code.windows(owner.len()).position(|bytes| bytes == owner)?;
        let length = code.get(at.checked_sub(4)?..at)?.try_into().ok()?;
        let begin = at + owner.len();
        let end = begin.checked_add(u32::from_le_bytes(length) as usize)?;
        Some(Self(code.get(begin..end)?))
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let all = self.take(bytes)?;
        Some(all.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn text(&mut self, bytes: u64) -> Option<Value> {
        let text = self.take(usize::try_from(bytes).ok()?)?;
        Some(Value::Text(String::from_utf8_lossy(text).into_owned()))
    }

    fn list(&mut self, length: u64) -> Option<Value> {
        let values: Option<_> = (0..length).map(|_| self.value()).collect();
        Some(Value::List(values?))
    }

    fn map(&mut self, length: u64) -> Option<Value> {
        let entries: Option<_> = (0..length)
            .map(|_| Some((self.value()?, self.value()?)))
            .collect();
        Some(Value::Map(entries?))
    }

    fn value(&mut self) -> Option<Value> {
        let kind = self.take(1)?[0];
        let low = |bits: u32| u64::from(kind & ((1 << bits) - 1));
        match kind {
            0x00..=0x7f => Some(Value::Number(low(7))),
            0x80..=0x8f => self.map(low(4)),
            0x90..=0x9f => self.list(low(4)),
            0xa0..=0xbf => self.text(low(5)),
            // Truth is a number here.
            0xc2 | 0xc3 => Some(Value::Number(low(1))),
            0xcc..=0xcf => self.number(1 << low(2)).map(Value::Number),
            0xd9..=0xdb => self.number(1 << (low(3) - 1)).and_then(|n| self.text(n)),
            0xdc | 0xdd => self.number(2 << low(1)).and_then(|n| self.list(n)),
            0xde | 0xdf => self.number(2 << low(1)).and_then(|n| self.map(n)),
            _ => None,
        }
    }
}

#[test]
fn the_notes_are_read() {
    let note = b"\x81\xaeamdhsa.kernels\x91\x85\xa5.name\xd9\x01k\xab.vgpr_count\xcc\xff\xb9.group_segment_fixed_size\xcd\x01\x00\
        \xb1.vgpr_spill_count\x02\xb1.sgpr_spill_count\x01";
    let code = [
        b"\x7fELF".as_slice(),
        &(note.len() as u32).to_le_bytes(),
        b"\x20\0\0\0AMDGPU\0\0",
        note,
        b"more",
    ]
    .concat();
    let used = Use {
        registers: 255,
        local_bytes: 256,
        spilled: 3,
    };
    assert_eq!(report(&code).unwrap(), [("k".into(), used)]);
    let end = code.iter().rposition(|&b| b == 1).unwrap();
    assert!(report(&code[..end]).is_err());
    assert!(report(b"\x7fELF").is_err());
}
