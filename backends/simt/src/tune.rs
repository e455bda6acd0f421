//! The tuner: how products are cut up, measured on the device itself.
//!
//! - Only when asked: [`tune`]. What it found is kept on disk by device, driver, kernel text and class of shapes, and read
//!   when such a product is planned; without it the fixed rule stands, so no start is slower.
//! - Every candidate is judged before it is timed. Operands are small integers and scales powers of two, so every partial
//!   sum is exact in f32 and a right kernel gives the f64 reference bit for bit, in any order of summation. One that does
//!   not, or that fails, is reported and never chosen.
//! - Candidates take turns, and medians are compared: a machine that slows down slows all of them.
//! - Bounded in memory and time; what was not reached is counted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, Stream, View, WeightFormat, kept};
use ops::{HostWeight, Launch, Matmul};

use crate::Options;
use crate::device::{Chip, SimtDevice, SimtStream};
use crate::driver::SimtDriver;
use crate::ops::matmul::{SOURCE, Tiling, plan_with};

/// Rows of `x` for which tiles are chosen.
const MANY: usize = 64;

/// Rows at which groups per row and tiles are compared, ascending.
const BETWEEN: [usize; 4] = [2, 4, 8, 16];

/// Turns of each candidate.
const ROUNDS: usize = 5;

/// One turn lasts at least so long: clocks are coarse.
const TURN: Duration = Duration::from_millis(4);

/// A candidate must be faster than the rule by more than the noise of a median.
const GAIN: f64 = 0.97;

/// The longest sums that are exact: products of integers up to 4 and 15, with scales of 1/2 to 2, below 2^24 halves.
const MOST_K: usize = 1 << 16;

/// Rows and columns of `out` that are compared with the reference.
const SAMPLE: usize = 24;

/// Bounds of one product's tuning.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// After this no new candidate is begun.
    pub time: Duration,
    /// Bytes of operands at most.
    pub bytes: usize,
    /// What is tried, besides the rule.
    pub candidates: Vec<Candidate>,
}

impl Default for Tuning {
    fn default() -> Self {
        let row = |row_group| Candidate::of(Trial::Row(row_group));
        let tile = |side, each| Candidate::of(Trial::Tile(side, each));
        Self {
            time: Duration::from_secs(60),
            bytes: 1 << 30,
            candidates: vec![
                row(16),
                row(32),
                row(64),
                row(128),
                row(256),
                tile(16, 4),
                tile(16, 2),
                tile(8, 8),
                tile(8, 4),
                tile(4, 8),
            ],
        }
    }
}

/// What a candidate changes of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Work-items of a group that computes one element.
    Row(usize),
    /// Work-items along a tile's side, and elements of each.
    Tile(usize, usize),
}

/// One way to compute products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it changes.
    pub trial: Trial,
    /// Definitions in place of the planner's own, for kernels under development. Such a candidate is judged and timed,
    /// but not kept: a later start would not have its definitions.
    pub defines: Vec<(&'static str, String)>,
}

impl Candidate {
    /// A plain one.
    pub fn of(trial: Trial) -> Self {
        let defines = Vec::new();
        Self { trial, defines }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trial {
            Trial::Row(group) => write!(f, "rows by groups of {group}")?,
            Trial::Tile(side, each) => {
                write!(f, "tiles of {side}x{side} items, {each}x{each} each")?
            }
        }
        for (name, value) in &self.defines {
            write!(f, ", {name}={value}")?;
        }
        Ok(())
    }
}

/// Median times of one number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Rows of `x`.
    pub rows: usize,
    /// Seconds by the rule.
    pub rule: f64,
    /// Seconds as chosen.
    pub chosen: f64,
}

/// What was found for one class of products.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The product that stood for its class.
    pub op: Matmul,
    /// The class: types, and n and k rounded up to powers of two.
    pub class: String,
    /// What is used without tuning.
    pub rule: Tiling,
    /// What was chosen.
    pub chosen: Tiling,
    /// Both, measured again side by side.
    pub times: Vec<Timing>,
    /// Candidates that computed wrongly or failed, and how.
    pub refused: Vec<String>,
    /// Candidates that time did not suffice for.
    pub left_out: usize,
    /// Where the choice is kept; `None` where it cannot be.
    pub kept: Option<PathBuf>,
}

impl Tuned {
    /// Nothing was measured.
    fn too_large<D: SimtDriver>(
        chip: &Chip<D>,
        op: &Matmul,
        class: &str,
        e: Error,
    ) -> Result<Self> {
        let rule = rule(chip, op)?;
        Ok(Self {
            op: op.clone(),
            class: class.into(),
            rule,
            chosen: stored(chip, op).unwrap_or(rule),
            times: Vec::new(),
            refused: vec![e.to_string()],
            left_out: 0,
            kept: None,
        })
    }
}

/// Tunes each class of products in `ops` once on the device of `driver`, and keeps what it finds for later starts. A
/// product that does not fit is left as it was, and says so in [`Tuned::refused`].
///
/// # Errors
/// `Unsupported` where the device has no kernel for a product, `Unexpected` when the kernel that the rule
/// names computes wrongly, and what the driver reports.
pub fn tune<D: SimtDriver>(
    driver: D,
    options: Options,
    ops: &[Matmul],
    tuning: &Tuning,
) -> Result<Vec<Tuned>> {
    let chip = Arc::new(Chip::new(driver, options));
    let mut classes = Vec::new();
    let mut tuned = Vec::new();
    for op in ops {
        let class = class(op);
        if classes.contains(&class) {
            continue;
        }
        tuned.push(match Bench::new(&chip, op, tuning) {
            Ok(bench) => bench.tune(class.clone())?,
            Err(e) if e.kind() == ErrorKind::OutOfMemory => Tuned::too_large(&chip, op, &class, e)?,
            Err(e) => return Err(e),
        });
        classes.push(class);
    }
    Ok(tuned)
}

/// What tuning found for products like `op` on this device, if it was run.
pub(crate) fn stored<D: SimtDriver>(chip: &Chip<D>, op: &Matmul) -> Option<Tiling> {
    let bytes = kept::read(&place(chip, &class(op))?)?;
    let text = str::from_utf8(&bytes).ok()?;
    let mut numbers = [0; 4];
    let mut words = text.split_ascii_whitespace();
    for number in &mut numbers {
        *number = words.next()?.split_once('=')?.1.parse().ok()?;
    }
    let [few, row_group, side, each] = numbers;
    let tiling = Tiling {
        few,
        row_group,
        side,
        each,
    };
    (text == written(tiling) && tiling.fits(chip.driver.limits())).then_some(tiling)
}

fn written(tiling: Tiling) -> String {
    let Tiling {
        few,
        row_group,
        side,
        each,
    } = tiling;
    format!("few={few} row_group={row_group} side={side} each={each}")
}

fn rule<D: SimtDriver>(chip: &Chip<D>, op: &Matmul) -> Result<Tiling> {
    let why = "the device's groups are too small";
    Tiling::rule(chip.driver.limits())
        .ok_or_else(|| Error::unsupported(format!("tune {op:?}"), why))
}

/// Products of one class are cut up alike, whatever their epilogues.
fn class(op: &Matmul) -> String {
    let (n, k) = (op.n.next_power_of_two(), op.k.next_power_of_two());
    format!("matmul x={} weight={} n={n} k={k}", op.x, op.weight)
}

/// Where a class's choice is kept: named by everything that it depends on.
fn place<D: SimtDriver>(chip: &Chip<D>, class: &str) -> Option<PathBuf> {
    let fingerprint = chip.driver.facts().fingerprint.as_ref()?;
    let name = format!(
        "matmul-{}",
        kept::name([fingerprint, &SOURCE.text(), class])
    );
    Some(chip.folder.as_ref()?.join(kept::TUNING).join(name))
}

/// A planned product, with what it takes of the rule.
type Planned = Arc<dyn Launch>;

/// One product's operands on the device, and on the host what they must give.
struct Bench<'a, D: SimtDriver> {
    chip: &'a Arc<Chip<D>>,
    op: Matmul,
    tuning: &'a Tuning,
    rule: Tiling,
    weight: HostWeight<'static>,
    x: Vec<i32>,
    packed: Buffer,
    x_buffer: Buffer,
    out: Buffer,
    stream: SimtStream<D>,
    deadline: Instant,
    refused: Vec<String>,
    left_out: usize,
}

impl<'a, D: SimtDriver> Bench<'a, D> {
    fn new(chip: &'a Arc<Chip<D>>, op: &Matmul, tuning: &'a Tuning) -> Result<Self> {
        let doing = || format!("tune {op:?}");
        let rule = rule(chip, op)?;
        // The program is the same whatever the type of `out`; f32 keeps every exact sum.
        let op = Matmul {
            out: DType::F32,
            ..Matmul::new(op.n, op.k, op.x, op.weight)
        };
        let (n, k) = (op.n, op.k);
        if n == 0 || k == 0 || k > MOST_K {
            return Err(Error::unsupported(
                doing(),
                format!("k must be 1 to {MOST_K}"),
            ));
        }
        let bytes = n
            .checked_mul(op.weight.row_bytes(k) + 4 * MANY)
            .and_then(|bytes| bytes.checked_add(4 * MANY * k));
        if bytes.is_none_or(|bytes| bytes > tuning.bytes) {
            let most = tuning.bytes;
            let why = format!("its operands exceed the bound of {most} B");
            return Err(Error::new(ErrorKind::OutOfMemory, doing(), why));
        }
        let weight = integers(op.weight, n, k)?;
        let x: Vec<i32> = (0..MANY * k).map(|i| small(1, i, 9) - 4).collect();
        let device = SimtDevice(Arc::clone(chip));
        let mut stream = chip.stream()?;
        let plan = plan_with(chip, &op, rule, &[])?
            .ok_or_else(|| Error::unsupported(doing(), "no kernel for this format"))?;
        let packed = plan.pack(&weight)?;
        let bytes = floats(op.x, MANY, k, &x)?;
        let x_buffer = device.alloc(bytes.len())?;
        stream.upload(&View::of_bytes(&x_buffer), &bytes)?;
        let out = device.alloc(4 * MANY * n)?;
        Ok(Self {
            chip,
            tuning,
            rule,
            weight,
            x,
            packed,
            x_buffer,
            out,
            stream,
            deadline: Instant::now() + tuning.time,
            refused: Vec::new(),
            left_out: 0,
            op,
        })
    }

    fn tune(mut self, class: String) -> Result<Tuned> {
        let rule = self.rule;
        // Either kernel alone, whatever the number of rows.
        let rows_only = |row_group| Tiling {
            few: usize::MAX,
            row_group,
            ..rule
        };
        let tiles_only = |side, each| Tiling {
            few: 0,
            side,
            each,
            ..rule
        };
        let wrong = |e: Error| {
            let doing = format!("tune {class}: the kernels in use");
            Error::new(ErrorKind::Unexpected, doing, e.to_string())
        };
        let row = self
            .judged(rows_only(rule.row_group), &[], 3)
            .map_err(wrong)?;
        let tile = self
            .judged(tiles_only(rule.side, rule.each), &[], MANY)
            .map_err(wrong)?;
        let (mut rows, mut tiles) = (vec![(row, rule)], vec![(tile, rule)]);
        for candidate in &self.tuning.candidates {
            let (tiling, chosen, m, list) = match candidate.trial {
                Trial::Row(row_group) => {
                    let chosen = Tiling { row_group, ..rule };
                    (rows_only(row_group), chosen, 3, &mut rows)
                }
                Trial::Tile(side, each) => {
                    let chosen = Tiling { side, each, ..rule };
                    (tiles_only(side, each), chosen, MANY, &mut tiles)
                }
            };
            if !chosen.fits(self.chip.driver.limits())
                || (chosen == rule && candidate.defines.is_empty())
            {
                continue;
            }
            if Instant::now() > self.deadline {
                self.left_out += 1;
                continue;
            }
            match self.judged(tiling, &candidate.defines, m) {
                // Judged for its author; there is nowhere to keep its definitions.
                Ok(_) if !candidate.defines.is_empty() => {}
                Ok(plan) => list.push((plan, chosen)),
                Err(e) if e.kind() == ErrorKind::DeviceLost => return Err(e),
                Err(e) => self.refused.push(format!("{candidate}: {e}")),
            }
        }
        let row = self.fastest(&rows, 1)?;
        let tile = self.fastest(&tiles, MANY)?;
        let mut chosen = Tiling {
            few: 1,
            row_group: rows[row].1.row_group,
            side: tiles[tile].1.side,
            each: tiles[tile].1.each,
        };
        for m in BETWEEN {
            let pair = [rows[row].0.clone(), tiles[tile].0.clone()];
            let times = self.times(&pair, m)?;
            if times[0] > times[1] {
                break;
            }
            chosen.few = m;
        }
        // Side by side once more: what is slower now was chosen by accident, and goes back to the rule.
        let times = loop {
            let times = self.side_by_side(rule, chosen)?;
            let settled = settled(rule, chosen, &times);
            if settled == chosen {
                break times;
            }
            chosen = settled;
        };
        let kept = place(self.chip, &class)
            .filter(|place| kept::write(place, written(chosen).as_bytes()).is_ok());
        Ok(Tuned {
            op: self.op,
            class,
            rule,
            chosen,
            times,
            refused: self.refused,
            left_out: self.left_out,
            kept,
        })
    }

    fn side_by_side(&mut self, rule: Tiling, chosen: Tiling) -> Result<Vec<Timing>> {
        let both = [self.planned(rule, &[])?, self.planned(chosen, &[])?];
        let mut times = Vec::new();
        for rows in [1, BETWEEN[2], MANY] {
            let [rule, chosen] = self.times(&both, rows)?[..] else {
                unreachable!("two were timed")
            };
            times.push(Timing { rows, rule, chosen });
        }
        Ok(times)
    }

    fn planned(&self, tiling: Tiling, defines: &[(&'static str, String)]) -> Result<Planned> {
        plan_with(self.chip, &self.op, tiling, defines)?
            .ok_or_else(|| Error::unsupported("tune a product", "no kernel for this format"))
    }

    /// A candidate whose output for `m` rows is right wherever it was looked at.
    fn judged(
        &mut self,
        tiling: Tiling,
        defines: &[(&'static str, String)],
        m: usize,
    ) -> Result<Planned> {
        const DOING: &str = "judge a candidate";
        let plan = self.planned(tiling, defines)?;
        let (n, k) = (self.op.n, self.op.k);
        // NaN, wherever nothing is written.
        let mut bytes = vec![0xff; 4 * m * n];
        self.stream
            .upload(&View::new(&self.out, DType::U8, &[4 * m * n])?, &bytes)?;
        self.launch(&plan, m)?;
        let out = View::new(&self.out, DType::U8, &[bytes.len()])?;
        self.stream.download(&mut bytes, &out)?;
        for j in sample(n) {
            let group = self.op.weight.group().unwrap_or(k);
            let column: Vec<f64> = (0..k)
                .map(|c| {
                    let scale = match self.op.weight {
                        WeightFormat::Dense(_) => 1.0,
                        _ => f64::from(self.weight.scale(j, c / group)),
                    };
                    f64::from(self.weight.element(j, c)) * scale
                })
                .collect();
            for i in sample(m) {
                let x = &self.x[i * k..(i + 1) * k];
                let want: f64 = x.iter().zip(&column).map(|(&x, w)| f64::from(x) * w).sum();
                let at = 4 * (i * n + j);
                let got = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
                if f64::from(got) != want {
                    let why = format!("out[{i}, {j}] is {got}, exactly {want} is right");
                    return Err(Error::new(ErrorKind::Unexpected, DOING, why));
                }
            }
        }
        Ok(plan)
    }

    fn launch(&mut self, plan: &Planned, m: usize) -> Result<()> {
        let args = [
            View::new(&self.out, DType::F32, &[m, self.op.n])?,
            View::new(&self.x_buffer, self.op.x, &[m, self.op.k])?,
            View::of_bytes(&self.packed),
        ];
        // SAFETY: the views have the types and shapes of the product, `out` overlaps no other, and products of this
        // crate use no workspace.
        unsafe { plan.launch(&mut self.stream, &args, &args[2]) }
    }

    /// The place of the fastest; the first, which is the rule's, unless another is clearly faster.
    fn fastest(&mut self, list: &[(Planned, Tiling)], m: usize) -> Result<usize> {
        let plans: Vec<Planned> = list.iter().map(|(plan, _)| plan.clone()).collect();
        let times = self.times(&plans, m)?;
        let best = (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b]));
        Ok(best
            .filter(|&best| times[best] < GAIN * times[0])
            .unwrap_or(0))
    }

    /// Median seconds of one launch of each, in turns.
    fn times(&mut self, plans: &[Planned], m: usize) -> Result<Vec<f64>> {
        let mut launches = Vec::new();
        for plan in plans {
            // Also warms up.
            let mut n = 1;
            while self.turn(plan, m, n)? < TURN.as_secs_f64() / n as f64 && n < 1 << 16 {
                n *= 2;
            }
            launches.push(n);
        }
        let mut turns = vec![Vec::new(); plans.len()];
        for _ in 0..ROUNDS {
            for (i, plan) in plans.iter().enumerate() {
                turns[i].push(self.turn(plan, m, launches[i])?);
            }
        }
        Ok(turns
            .into_iter()
            .map(|mut turns| {
                turns.sort_by(f64::total_cmp);
                turns[ROUNDS / 2]
            })
            .collect())
    }

    /// Seconds of one launch among `n`.
    fn turn(&mut self, plan: &Planned, m: usize, n: usize) -> Result<f64> {
        let start = self.stream.record()?;
        for _ in 0..n {
            self.launch(plan, m)?;
        }
        let end = self.stream.record()?;
        self.stream.synchronize()?;
        Ok(end.since(&start)?.as_secs_f64() / n as f64)
    }
}

/// `chosen` without what did not prove faster than the rule. One row shows the groups, [`MANY`] rows show the tiles, and
/// what lies between shows where they part.
fn settled(rule: Tiling, mut chosen: Tiling, times: &[Timing]) -> Tiling {
    for time in times.iter().filter(|time| time.chosen > time.rule) {
        match time.rows {
            1 => chosen.row_group = rule.row_group,
            MANY => (chosen.side, chosen.each) = (rule.side, rule.each),
            _ => chosen.few = rule.few,
        }
    }
    chosen
}

/// Up to [`SAMPLE`] of `0..n`: the first and the last, and the rest at uneven distances.
fn sample(n: usize) -> Vec<usize> {
    let mut all = vec![0, n - 1];
    all.extend((0..SAMPLE - 2).map(|i| (i * n / (SAMPLE - 2) + i * i) % n));
    all.sort_unstable();
    all.dedup();
    all
}

/// A number below `most` for the place `i` of one of our operands.
fn small(operand: u64, i: usize, most: u32) -> i32 {
    // One word of four is used: there is one per element, so that places can be asked for in any order.
    (ops::philox(operand, i as u64)[0] % most) as i32
}

/// Integers as the elements of an `[rows, cols]` tensor of floats.
fn floats(dtype: DType, rows: usize, cols: usize, values: &[i32]) -> Result<Vec<u8>> {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|&x| (x as f32).to_le_bytes())
        .collect();
    let dense = WeightFormat::Dense;
    let wide = HostWeight::new(dense(DType::F32), rows, cols, data, Vec::new())?;
    Ok(wide.convert(dense(dtype))?.data.into_owned())
}

/// Rows after which our weights repeat: a prime, so that no two rows a tile apart are equal.
const PERIOD: usize = 61;

/// A weight of integers up to 15, or 7 where four bits hold them, with scales of 1/2, 1 and 2.
fn integers(format: WeightFormat, rows: usize, cols: usize) -> Result<HostWeight<'static>> {
    let some = rows.min(PERIOD);
    let data = match format {
        WeightFormat::Dense(dtype) => {
            let values: Vec<i32> = (0..some * cols).map(|i| small(2, i, 31) - 15).collect();
            floats(dtype, some, cols, &values)?
        }
        _ => {
            let four = matches!(format, WeightFormat::Int4Row | WeightFormat::Int4Group(_));
            let nibble = |word: i32| (word % 15 - 7) & 15;
            (0..some * format.row_bytes(cols))
                .map(|i| match (four, small(2, i, 31 * 225)) {
                    (true, word) => (nibble(word) << 4 | nibble(word / 15)) as u8,
                    (false, word) => (word % 31 - 15) as u8,
                })
                .collect()
        }
    };
    let (count, dtype) = format.row_scales(cols);
    let scale = |i: usize| {
        let (half, single) =
            [(0x3800u16, 0.5f32), (0x3c00, 1.0), (0x4000, 2.0)][small(3, i, 3) as usize];
        match dtype {
            DType::F16 => half.to_le_bytes().to_vec(),
            _ => single.to_le_bytes().to_vec(),
        }
    };
    let scales: Vec<u8> = (0..some * count).flat_map(scale).collect();
    let repeated = |bytes: Vec<u8>, row: usize| -> Vec<u8> {
        bytes.iter().copied().cycle().take(rows * row).collect()
    };
    let data = repeated(data, format.row_bytes(cols));
    let scales = repeated(scales, count * dtype.bytes());
    HostWeight::new(format, rows, cols, data, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul;
    use crate::program::tests::{Folder, Paper};

    const CHOICE: Tiling = Tiling {
        few: 9,
        row_group: 32,
        side: 4,
        each: 4,
    };

    fn chip(folder: &Folder, fingerprint: &str) -> Arc<Chip<Paper>> {
        let options = Options {
            folder: Some(folder.0.clone()),
            ..Options::default()
        };
        Arc::new(Chip::new(Paper::new(fingerprint), options))
    }

    fn product(n: usize) -> Matmul {
        Matmul::new(n, 64, DType::F16, WeightFormat::Int4Row)
    }

    #[test]
    fn a_stored_choice_is_used_by_its_class_and_device_alone() {
        let folder = Folder::new("tuned");
        let op = product(100);
        let here = chip(&folder, "a");
        assert_eq!(stored(&here, &op), None);
        let place = place(&here, &class(&op)).unwrap();
        kept::write(&place, written(CHOICE).as_bytes()).unwrap();
        let biased = Matmul {
            bias: true,
            ..product(128)
        };
        for (fingerprint, op, found) in [
            ("a", &op, Some(CHOICE)),
            ("a", &biased, Some(CHOICE)),
            ("a", &product(129), None),
            ("b", &op, None),
        ] {
            assert_eq!(stored(&chip(&folder, fingerprint), op), found, "{op:?}");
        }
        // Paper compiles, and makes no kernels; its programs are their definitions.
        assert!(matmul::plan(&here, &op).is_err());
        let mut programs = std::fs::read_dir(folder.0.join("programs")).unwrap();
        let program = std::fs::read(programs.next().unwrap().unwrap().path()).unwrap();
        let program = String::from_utf8_lossy(&program).into_owned();
        for define in [r#"("GROUP", "32")"#, r#"("SIDE", "4")"#] {
            assert!(program.contains(define), "{program}");
        }
    }

    #[test]
    fn a_damaged_choice_is_ignored() {
        let folder = Folder::new("damaged-choice");
        let (here, op) = (chip(&folder, "a"), product(100));
        let place = place(&here, &class(&op)).unwrap();
        for damaged in [
            "",
            "few=9 row_group=32 side=4",
            "few=9 row_group=32 side=4 each=4 more=1",
            "few=9 row_group=32 side=4 each=+4",
            "few=9  row_group=32 side=4 each=4",
            "few=9 row_group=33 side=4 each=4",
            "few=9 row_group=32 side=4096 each=4",
            "few=9 row_group=128 side=4 each=4",
        ] {
            kept::write(&place, damaged.as_bytes()).unwrap();
            assert_eq!(stored(&here, &op), None, "{damaged}");
        }
        // Without its checksum.
        std::fs::write(&place, written(CHOICE)).unwrap();
        assert_eq!(stored(&here, &op), None);
        kept::write(&place, written(CHOICE).as_bytes()).unwrap();
        assert_eq!(stored(&here, &op), Some(CHOICE));
    }

    #[test]
    fn what_is_slower_side_by_side_goes_back_to_the_rule() {
        let rule = Tiling {
            few: 4,
            row_group: 64,
            side: 8,
            each: 8,
        };
        let times = |slower: usize| {
            let time = |rows| Timing {
                rows,
                rule: 1.0,
                chosen: if rows == slower { 1.1 } else { 0.5 },
            };
            [1, 8, MANY].map(time)
        };
        let settled = |slower| settled(rule, CHOICE, &times(slower));
        assert_eq!(settled(0), CHOICE);
        let row_group = rule.row_group;
        assert_eq!(
            settled(1),
            Tiling {
                row_group,
                ..CHOICE
            }
        );
        assert_eq!(settled(8), Tiling { few: 4, ..CHOICE });
        let (side, each) = (rule.side, rule.each);
        assert_eq!(
            settled(MANY),
            Tiling {
                side,
                each,
                ..CHOICE
            }
        );
        assert_eq!(super::settled(rule, rule, &times(1)), rule);
    }

    #[test]
    fn operands_are_what_makes_sums_exact() {
        for format in WeightFormat::ALL {
            let values = integers(format, 3, 128).unwrap().dequantise();
            assert!(values.data.iter().any(|&x| x < 0.0), "{format}");
            let halves = |x: &f64| (2.0 * x).fract() == 0.0 && x.abs() <= 30.0;
            assert!(values.data.iter().all(halves), "{format}");
            // The largest sum of absolute products, in halves.
            const { assert!(MOST_K * 4 * 15 * 2 * 2 < 1 << 24) };
        }
        for n in [1, 2, 5, 64, 4097] {
            let sample = sample(n);
            assert!(sample[0] == 0 && sample[sample.len() - 1] == n - 1, "{n}");
            assert!(sample.len() >= n.min(10), "{n}: {sample:?}");
        }
    }
}
