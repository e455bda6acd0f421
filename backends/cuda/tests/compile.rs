//! Every program that the conformance suite asks for, compiled by NVIDIA's compiler for the chips of today: no more
//! registers and shared memory than `resources.tsv` says, and no spills.
//!
//! Without more, two programs of each operation for three chips. `GLM_CUDA_COMPILE=all`: all of them for all chips, and the
//! table must be exactly what they use; `GLM_CUDA_COMPILE=write` makes it so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend_cuda::{Nvrtc, put_own};
use backend_simt::{Argument, Compiled, Facts, Limits, Options, SimtDriver, Source};
use conformance::{Conformance, for_each_op};
use hal::{DType, Error, Numerics, Result};
use ops::Context;

/// Chips, and how the compiler calls them: T4, A100, RTX 30, RTX 40 and L4, H100, B200, RTX 50.
const CHIPS: [&str; 7] = [
    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120",
];
/// The oldest, the most used and the newest.
const SOME_CHIPS: [&str; 3] = ["sm_75", "sm_90a", "sm_120"];
/// Programs of an operation, where not all are compiled.
const SOME_PROGRAMS: usize = 2;

/// A program to compile.
type Program = (Source, Vec<(String, String)>);

/// A device that only writes down what it is to compile.
#[derive(Debug)]
struct Writer {
    facts: Facts,
    limits: Limits,
    programs: Arc<Mutex<BTreeMap<String, Program>>>,
}

fn none<T>() -> Result<T> {
    Err(Error::unsupported(
        "use the writer",
        "it only writes programs down",
    ))
}

impl SimtDriver for Writer {
    type Memory = ();
    type Program = ();
    type Kernel = ();
    type Queue = ();
    type Mark = ();

    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn alloc(&self, _: usize) -> Result<()> {
        none()
    }
    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        _: Option<&[u8]>,
    ) -> Result<Compiled<()>> {
        let key = format!("{} {defines:?}", source.name);
        let defines = defines
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        let program = (*source, defines.collect());
        self.programs.lock().unwrap().insert(key, program);
        Ok(Compiled {
            program: (),
            fresh: true,
        })
    }
    fn kernel(&self, (): &(), _: &str, _: usize) -> Result<()> {
        Ok(())
    }
    fn kernel_with_local(&self, (): &(), _: &str, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
    fn queue(&self) -> Result<()> {
        none()
    }
    fn upload(&self, (): &mut (), (): &(), _: usize, _: &[u8]) -> Result<()> {
        none()
    }
    fn download(&self, (): &mut (), _: &mut [u8], (): &(), _: usize) -> Result<()> {
        none()
    }
    unsafe fn launch(
        &self,
        (): &mut (),
        (): &(),
        _: [usize; 3],
        _: usize,
        _: &[Argument<'_, ()>],
    ) -> Result<()> {
        none()
    }
    fn record(&self, (): &mut ()) -> Result<()> {
        none()
    }
    fn wait(&self, (): &mut (), (): &()) -> Result<()> {
        none()
    }
    fn synchronize(&self, (): &mut ()) -> Result<()> {
        none()
    }
    fn finish(&self, (): &()) -> Result<()> {
        none()
    }
    fn elapsed(&self, (): &(), (): &()) -> Result<Option<Duration>> {
        none()
    }
}

/// The programs that all standard cases ask for, on a device with the limits of CUDA's and this capability.
fn programs(capability: i32) -> BTreeMap<String, Program> {
    let programs = Arc::new(Mutex::default());
    let writer = Writer {
        facts: Facts {
            spec: "writer".into(),
            name: "writer".into(),
            detail: String::new(),
            fingerprint: None,
            native_floats: vec![DType::F32],
            numerics: Numerics::exact(),
        },
        limits: Limits {
            max_group: 1024,
            local_bytes: 48 << 10,
            max_alloc_bytes: 1 << 40,
            memory_bytes: 1 << 40,
            wave: 32,
            parallelism: 132,
            wide_items: false,
        },
        programs: Arc::clone(&programs),
    };
    let accelerator = backend_simt::open_with_own(writer, Options::default(), |chip, ops| {
        put_own(chip, ops, capability);
    });
    let context = Context::new(accelerator);
    fn plan<O: Conformance>(context: &Context) {
        for case in O::cases() {
            // What is declined composes, or is another test's business.
            let _ = context.plan(case.op);
        }
    }
    macro_rules! each {
        ($($name:ident $op:ident),*) => {$(plan::<ops::$op>(&context);)*};
    }
    for_each_op!(each);
    std::mem::take(&mut *programs.lock().unwrap())
}

/// What a chip is called by its capability: 90 for sm_90a.
fn capability(chip: &str) -> i32 {
    let digits = chip.trim_start_matches("sm_").trim_end_matches('a');
    digits.parse().unwrap()
}

/// All programs, each with the chip from which on it is asked for.
fn all_programs() -> Vec<(Program, i32)> {
    let oldest = capability(CHIPS[0]);
    let everywhere = programs(oldest);
    let newer = programs(80).into_iter();
    let newer = newer.filter(|(key, _)| !everywhere.contains_key(key));
    let newer: Vec<_> = newer.map(|(_, program)| (program, 80)).collect();
    let everywhere = everywhere.into_values().map(|program| (program, oldest));
    everywhere.chain(newer).collect()
}

/// What a kernel takes of a multiprocessor, at most, over its programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    registers: usize,
    shared_bytes: usize,
    /// Stored to memory, for want of registers.
    spilled_bytes: usize,
}

impl Use {
    /// The most of each.
    fn max(self, other: Self) -> Self {
        Self {
            registers: self.registers.max(other.registers),
            shared_bytes: self.shared_bytes.max(other.shared_bytes),
            spilled_bytes: self.spilled_bytes.max(other.spilled_bytes),
        }
    }
}

/// What the compiler reports of each kernel of a program.
fn report(log: &str) -> Result<Vec<(String, Use)>, String> {
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
            last.spilled_bytes = spilled.ok_or(line)?[0].parse().map_err(|_| line)?;
        } else if line.contains("Used ") {
            let (_, last) = kernels.last_mut().ok_or(line)?;
            last.registers = before("registers").ok_or(line)?;
            let shared = words.windows(3).find(|w| w[1..] == ["bytes", "smem"]);
            last.shared_bytes = shared.map_or(Ok(0), |w| w[0].parse()).map_err(|_| line)?;
        }
    }
    match kernels.is_empty() || kernels.iter().any(|(_, used)| used.registers == 0) {
        true => Err(format!("nothing is reported of a kernel:\n{log}")),
        false => Ok(kernels),
    }
}

/// Kernels and chips: how much is used.
type Table = BTreeMap<String, BTreeMap<String, Use>>;

fn place() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("resources.tsv")
}

/// The table's text: a line for the compiler, a line of names, a line per kernel.
fn text(table: &Table, version: (i32, i32), programs: usize) -> String {
    let mut text = format!(
        "# registers, bytes of shared memory and spilled bytes, the most of {programs} programs; NVRTC {}.{}\n",
        version.0, version.1
    );
    writeln!(text, "kernel\t{}", CHIPS.join("\t")).unwrap();
    for (kernel, chips) in table {
        let cells = CHIPS.map(|chip| match chips.get(chip) {
            None => "-".into(),
            Some(used) => format!(
                "{} {} {}",
                used.registers, used.shared_bytes, used.spilled_bytes
            ),
        });
        writeln!(text, "{kernel}\t{}", cells.join("\t")).unwrap();
    }
    text
}

fn parse(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().skip(2) {
        let mut cells = line.split('\t');
        let chips = table.entry(cells.next().unwrap().into()).or_default();
        for (chip, cell) in CHIPS.iter().zip(cells).filter(|(_, cell)| *cell != "-") {
            let numbers: Vec<usize> = cell.split(' ').map(|n| n.parse().unwrap()).collect();
            let used = Use {
                registers: numbers[0],
                shared_bytes: numbers[1],
                spilled_bytes: numbers[2],
            };
            chips.insert(chip.to_string(), used);
        }
    }
    table
}

#[test]
fn every_program_compiles_within_its_means() {
    let nvrtc = match Nvrtc::find(90, 99_000) {
        Ok(nvrtc) => nvrtc,
        Err(e) => return conformance::skip("nvrtc", e),
    };
    let mode = std::env::var("GLM_CUDA_COMPILE").unwrap_or_default();
    let all = matches!(mode.as_str(), "all" | "write");
    assert!(
        all || mode.is_empty(),
        "GLM_CUDA_COMPILE is all or write, not {mode}"
    );
    let mut programs = all_programs();
    let count = programs.len();
    let operations: BTreeSet<&str> = programs
        .iter()
        .map(|((source, _), _)| source.name)
        .collect();
    assert!(
        count > 100 && operations.len() >= 18,
        "{count} programs of {operations:?}"
    );
    if !all {
        let mut seen = BTreeMap::<&str, usize>::new();
        programs.retain(|((source, _), _)| {
            let n = seen.entry(source.name).or_default();
            *n += 1;
            *n <= SOME_PROGRAMS
        });
    }
    let chips: &[&str] = if all { &CHIPS } else { &SOME_CHIPS };
    let jobs: Vec<(&Program, &str)> = programs
        .iter()
        .flat_map(|(program, from)| {
            let chips = chips.iter().filter(|chip| capability(chip) >= *from);
            chips.map(move |&chip| (program, chip))
        })
        .collect();
    println!(
        "{}: {} of {count} programs, {}",
        nvrtc.path().display(),
        programs.len(),
        chips.join(" ")
    );

    let (next, table, wrong) = (
        AtomicUsize::new(0),
        Mutex::new(Table::new()),
        Mutex::new(Vec::new()),
    );
    let work = || {
        while let Some(&((source, defines), chip)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let defines: Vec<(&str, String)> = defines
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            let compiled = nvrtc.compile(source, &defines, chip, &["--ptxas-options=-v"]);
            let kernels = compiled
                .map_err(|e| e.to_string())
                .and_then(|c| report(&c.log));
            match kernels {
                Err(why) => {
                    wrong
                        .lock()
                        .unwrap()
                        .push(format!("{} {defines:?} {chip}: {why}", source.name));
                }
                Ok(kernels) => {
                    let mut table = table.lock().unwrap();
                    for (name, used) in kernels {
                        let chips = table.entry(name).or_default();
                        let most = chips.entry(chip.into()).or_default();
                        *most = most.max(used);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let table = table.into_inner().unwrap();

    let used = text(&table, nvrtc.version(), count);
    if mode == "write" {
        std::fs::write(place(), &used).unwrap();
    }
    for (kernel, chips) in &table {
        for (chip, used) in chips {
            assert_eq!(used.spilled_bytes, 0, "{kernel} for {chip} spills");
        }
    }

    let known = std::fs::read_to_string(place()).unwrap();
    let made_by = format!("NVRTC {}.{}", nvrtc.version().0, nvrtc.version().1);
    if !known.lines().next().unwrap().ends_with(&made_by) {
        println!("the table is another compiler's than {made_by}: not compared\n{used}");
        return;
    }
    if all {
        assert_eq!(used, known, "GLM_CUDA_COMPILE=write writes it");
        return;
    }
    let known = parse(&known);
    for (kernel, chips) in &table {
        for (chip, used) in chips {
            let most = known.get(kernel).and_then(|chips| chips.get(chip)).copied();
            let Some(most) = most else {
                println!("{kernel} for {chip} is not in the table: only its spills were checked");
                continue;
            };
            let fits = used.registers <= most.registers && used.shared_bytes <= most.shared_bytes;
            assert!(
                fits,
                "{kernel} for {chip}: {used:?}, the table has {most:?}"
            );
        }
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
        shared_bytes: 512,
        spilled_bytes: 4,
    };
    assert_eq!(report(log).unwrap(), [("k".into(), used)]);
    let less = log.replace("512 bytes smem, ", "");
    let used = Use {
        shared_bytes: 0,
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
