//! Every program that the conformance suite asks for, compiled by NVIDIA's compilers, all that are found, for the chips of today:
//! no spills, and with the first compiler no more registers and shared memory than `resources.tsv` says.
//!
//! Without more, two programs of each operation for three chips; by other compilers than the first one for the most used chip.
//! `GLM_CUDA_COMPILE=all`: all of them for all chips that a compiler knows, and the table must be exactly what its compiler makes of
//! them; `GLM_CUDA_COMPILE=write` makes it so with the first one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use backend_cuda::{Nvrtc, put_own};
use backend_emulator::programs::{Paper, Program, programs};
use backend_emulator::resources::{Resources, Use};
use backend_simt::Limits;

/// Chips, and how the compiler calls them: T4, A100, RTX 30, RTX 40 and L4, H100, B200, RTX 50.
const CHIPS: [&str; 7] = [
    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120",
];
/// The oldest, the most used and the newest.
const SOME_CHIPS: [&str; 3] = ["sm_75", "sm_90a", "sm_120"];
/// Programs of an operation, where not all are compiled.
const SOME_PROGRAMS: usize = 2;
/// The most used chip, for compilers of which no table is kept.
const ONE_CHIP: [&str; 1] = ["sm_90a"];

/// The first chip for which there are kernels of our own.
const OWN: &str = "sm_80";

/// The only one whose matrix units multiply from local memory.
const HOPPER: &str = "sm_90a";

/// Of NVRTC 12, which only drivers of CUDA 12 need.
const SPILLS_OF_12: [(&str, &str, &str); 1] = [(
    "attention_many",
    HOPPER,
    "48 bytes beside its 255 registers; NVRTC 13 spills none",
)];

/// All programs, each with the numbers of the chips that ask for it.
fn all_programs() -> Vec<(Program, Range<usize>)> {
    let limits = Limits {
        max_group: 1024,
        local_bytes: 48 << 10,
        max_alloc_bytes: 1 << 40,
        memory_bytes: 1 << 40,
        wave: 32,
        parallelism: 132,
        wide_items: false,
    };
    let of = |chip: &str| {
        let capability = chip.trim_matches(|c: char| !c.is_ascii_digit());
        let capability = capability.parse().unwrap();
        programs(limits.clone(), |chip, ops| {
            put_own(chip, ops, capability, Some(Arc::new(Paper)), true);
        })
    };
    let number = |chip| CHIPS.iter().position(|&c| c == chip).unwrap();
    let mut all: Vec<(Program, Range<usize>)> = Vec::new();
    let hopper = number(HOPPER);
    for (chip, asking) in [
        (CHIPS[0], 0..CHIPS.len()),
        (OWN, number(OWN)..CHIPS.len()),
        (HOPPER, hopper..hopper + 1),
    ] {
        let mut programs = of(chip);
        programs.retain(|program| all.iter().all(|(known, _)| known != program));
        all.extend(
            programs
                .into_iter()
                .map(|program| (program, asking.clone())),
        );
    }
    all
}

#[test]
fn every_program_compiles_within_its_means() {
    let mut compilers = Nvrtc::all();
    if compilers.is_empty() {
        let e = Nvrtc::find(90, 99_000).unwrap_err();
        return conformance::skip("nvrtc", e);
    }
    if std::env::var("GLM_CUDA_COMPILE").is_ok_and(|mode| mode == "write") {
        compilers.truncate(1);
    }
    for (i, nvrtc) in compilers.iter().enumerate() {
        let (some_chips, some_programs): (&[&str], _) = match i {
            0 => (&SOME_CHIPS, SOME_PROGRAMS),
            _ => (&ONE_CHIP, 1),
        };
        check(nvrtc, some_chips, some_programs);
    }
}

fn check(nvrtc: &Nvrtc, some_chips: &[&str], some_programs: usize) {
    let (major, minor) = nvrtc.version();
    let known = |chip: &&str| nvrtc.chips().iter().any(|&n| nvrtc.target(n) == *chip);
    let chips: Vec<&str> = CHIPS.into_iter().filter(known).collect();
    let resources = Resources {
        chips: &chips,
        some_chips,
        some_programs,
        programs: all_programs(),
        place: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("resources.tsv"),
        columns: "registers, bytes of shared memory and spilled bytes",
        made_by: format!("NVRTC {major}.{minor}"),
        variable: "GLM_CUDA_COMPILE",
        spills: if major < 13 { &SPILLS_OF_12 } else { &[] },
    };
    resources.check(|source, defines, chip| {
        let compiled = nvrtc.compile(source, defines, chip, &["--ptxas-options=-v"]);
        report(&compiled.map_err(|e| e.to_string())?.log)
    });
}

/// What the compiler reports of each kernel of a program.
fn report(log: &str) -> std::result::Result<Vec<(String, Use)>, String> {
    let mut kernels: Vec<(String, Use)> = Vec::new();
    for line in log.lines() {
        let words: Vec<&str> = line
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let before = |what: &str| {
            let at = words.windows(1).position(|word| word[0] == what)?;
            words[at.checked_sub(1)?].parse::<usize>().ok()
        };
        if line.contains("Compiling entry function") {
            let name = line.split('\'').nth(1).ok_or(line)?;
            kernels.push((name.into(), Use::default()));
        } else if line.contains("bytes spill stores") {
            let (_, last) = kernels.last_mut().ok_or(line)?;
            let spilled = words
                .windows(4)
                .find(|w| w[1..] == ["bytes", "spill", "stores"]);
            last.spilled = spilled.ok_or(line)?[0].parse().map_err(|_| line)?;
        } else if line.contains("Used ") {
            let (_, last) = kernels.last_mut().ok_or(line)?;
            last.registers = before("registers").ok_or(line)?;
            let shared = words.windows(3).find(|w| w[1..] == ["bytes", "smem"]);
            last.local_bytes = shared.map_or(Ok(0), |w| w[0].parse()).map_err(|_| line)?;
        }
    }
    match kernels.is_empty() || kernels.iter().any(|(_, used)| used.registers == 0) {
        true => Err(format!("nothing is reported of a kernel:\n{log}")),
        false => Ok(kernels),
    }
}

#[test]
fn the_report_is_read() {
    let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
               ptxas info    : Function properties for k\n\
               ptxas         .     8 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads\n\
               ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem, 368 bytes cmem[0]\n";
    let used = Use {
        registers: 12,
        local_bytes: 512,
        spilled: 4,
    };
    assert_eq!(report(log).unwrap(), [("k".into(), used)]);
    let less = log.replace("512 bytes smem, ", "");
    let used = Use {
        local_bytes: 0,
        ..used
    };
    assert_eq!(report(&less).unwrap(), [("k".into(), used)]);
    for wrong in [
        "",
        "ptxas info    : Compiling entry function 'k' for 'sm_80'\n",
    ] {
        assert!(report(wrong).is_err());
    }
}
