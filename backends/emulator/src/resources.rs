//! What kernels take of each chip, as a vendor's compiler says, beside a table that is kept: for tests of back ends that compile
//! kernels at run time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use backend_simt::Source;

use crate::programs::Program;

/// What a kernel takes of a multiprocessor, at most, over its programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Registers of a work-item.
    pub registers: usize,
    /// Local memory of a group.
    pub local_bytes: usize,
    /// What a work-item keeps in memory for want of registers, as the compiler counts it.
    pub spilled: usize,
}

impl Use {
    /// The most of each.
    fn max(self, other: Self) -> Self {
        Self {
            registers: self.registers.max(other.registers),
            local_bytes: self.local_bytes.max(other.local_bytes),
            spilled: self.spilled.max(other.spilled),
        }
    }
}

/// A table, and how it is checked.
#[derive(Debug)]
pub struct Resources<'a> {
    /// Chips, as the compiler calls them, the oldest first.
    pub chips: &'a [&'a str],
    /// Those that are compiled for in every run.
    pub some_chips: &'a [&'a str],
    /// Programs of an operation that are compiled in every run.
    pub some_programs: usize,
    /// The programs, each with those of the chips that ask for it, by number.
    pub programs: Vec<(Program, Range<usize>)>,
    /// Where the table is kept.
    pub place: PathBuf,
    /// What its numbers are.
    pub columns: &'a str,
    /// Who compiles, with the version.
    pub made_by: String,
    /// The variable that asks for more: `all` compiles all programs for all chips, and the table must be exactly what they
    /// use; `write` makes it so.
    pub variable: &'a str,
    /// Kernels and chips of which it is known that they spill, and why that is not mended yet. Others must not, and these must
    /// until they are taken out of this list.
    pub spills: &'a [(&'a str, &'a str, &'a str)],
}

/// The cell of a chip that does not ask for a kernel.
const NOT_THERE: &str = "-";

/// Kernels and chips: how much is used.
type Table = BTreeMap<String, BTreeMap<String, Use>>;

impl Resources<'_> {
    /// Compiles and compares. `compile` gives what each kernel of a program for a chip takes.
    ///
    /// # Panics
    /// When a program does not compile, a kernel takes more than the table says, or spills.
    pub fn check(
        &self,
        compile: impl Fn(&Source, &[(&str, String)], &str) -> Result<Vec<(String, Use)>, String> + Sync,
    ) {
        let mode = std::env::var(self.variable).unwrap_or_default();
        let all = matches!(mode.as_str(), "all" | "write");
        assert!(
            all || mode.is_empty(),
            "{} is all or write, not {mode}",
            self.variable
        );
        let mut programs: Vec<&(Program, Range<usize>)> = self.programs.iter().collect();
        let count = programs.len();
        let names = programs.iter().map(|((source, _), _)| source.name);
        let operations: BTreeSet<&str> = names.collect();
        assert!(
            count > 100 && operations.len() >= 18,
            "{count} programs of {operations:?}"
        );
        if !all {
            let mut seen = BTreeMap::<&str, usize>::new();
            programs.retain(|((source, _), _)| {
                let n = seen.entry(source.name).or_default();
                *n += 1;
                *n <= self.some_programs
            });
        }
        let chips = if all { self.chips } else { self.some_chips };
        println!(
            "{}: {} of {count} programs, {}",
            self.made_by,
            programs.len(),
            chips.join(" ")
        );
        let jobs = programs.iter().flat_map(|(program, asking)| {
            let asking = &self.chips[asking.clone()];
            let chips = chips.iter().filter(|chip| asking.contains(chip));
            chips.map(move |&chip| (program, chip))
        });
        let table = table(&jobs.collect::<Vec<_>>(), compile);
        let used = self.text(&table, count);
        if mode == "write" {
            std::fs::write(&self.place, &used).expect("the table's place can be written");
        }
        self.no_other_spills(&table, all);
        let known = std::fs::read_to_string(&self.place).expect("there is a table");
        let heading = known.lines().next().unwrap_or_default();
        if !heading.ends_with(&format!("; {}", self.made_by)) {
            println!(
                "the table is another compiler's than {}: not compared\n{used}",
                self.made_by
            );
        } else if all {
            assert_eq!(used, known, "{}=write writes it", self.variable);
        } else {
            self.within(&table, &self.parse(&known));
        }
    }

    fn no_other_spills(&self, table: &Table, all: bool) {
        for (kernel, chips) in table {
            for (chip, used) in chips {
                let known = self
                    .spills
                    .iter()
                    .any(|(name, on, _)| name == kernel && on == chip);
                assert!(
                    known || used.spilled == 0,
                    "{kernel} for {chip} spills: {used:?}"
                );
                assert!(
                    !all || !known || used.spilled > 0,
                    "{kernel} spills no more on {chip}: mend the list"
                );
            }
        }
    }

    fn within(&self, table: &Table, known: &Table) {
        for (kernel, chips) in table {
            for (chip, used) in chips {
                let most = known.get(kernel).and_then(|chips| chips.get(chip)).copied();
                let most =
                    most.unwrap_or_else(|| panic!("{kernel} for {chip} is not in the table"));
                let fits = used.registers <= most.registers && used.local_bytes <= most.local_bytes;
                assert!(
                    fits,
                    "{kernel} for {chip}: {used:?}, the table has {most:?}"
                );
            }
        }
    }

    /// The table's text: a line for the compiler, a line of names, a line per kernel.
    fn text(&self, table: &Table, programs: usize) -> String {
        let mut text = format!(
            "# {}, the most of {programs} programs; {}\n",
            self.columns, self.made_by
        );
        let mut line = |cells: String| writeln!(text, "{cells}").expect("a text takes all");
        line(format!("kernel\t{}", self.chips.join("\t")));
        for (kernel, chips) in table {
            let cells = self.chips.iter().map(|&chip| match chips.get(chip) {
                None => NOT_THERE.into(),
                Some(used) => format!("{} {} {}", used.registers, used.local_bytes, used.spilled),
            });
            line(format!(
                "{kernel}\t{}",
                cells.collect::<Vec<_>>().join("\t")
            ));
        }
        text
    }

    fn parse(&self, text: &str) -> Table {
        let mut table = Table::new();
        for line in text.lines().skip(2) {
            let mut cells = line.split('\t');
            let kernel = cells.next().unwrap_or_default();
            let chips = table.entry(kernel.into()).or_default();
            let there = |(_, cell): &(&&str, &str)| *cell != NOT_THERE;
            for (chip, cell) in self.chips.iter().zip(cells).filter(there) {
                let numbers: Vec<usize> = cell.split(' ').flat_map(str::parse).collect();
                let &[registers, local_bytes, spilled] = numbers.as_slice() else {
                    panic!("{kernel} for {chip}: '{cell}' is not three numbers");
                };
                let used = Use {
                    registers,
                    local_bytes,
                    spilled,
                };
                chips.insert(chip.to_string(), used);
            }
        }
        table
    }
}

/// What the programs use, each compiled for its chip, by several threads.
fn table(
    jobs: &[(&Program, &str)],
    compile: impl Fn(&Source, &[(&str, String)], &str) -> Result<Vec<(String, Use)>, String> + Sync,
) -> Table {
    let next = AtomicUsize::new(0);
    let (table, wrong) = (Mutex::new(Table::new()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&((source, defines), chip)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let defines: Vec<(&str, String)> = defines
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            match compile(source, &defines, chip) {
                Err(why) => {
                    let why = format!("{} {defines:?} {chip}: {why}", source.name);
                    wrong
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(why);
                }
                Ok(kernels) => {
                    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
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
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    table.into_inner().unwrap_or_else(PoisonError::into_inner)
}
