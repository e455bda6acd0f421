//! Checks by name: every case of every operation, and whatever else a caller adds, in one list.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hal::{DType, Error, Result};
use ops::{Op, Role};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::cases::Conformance;
use crate::picks::{Picks, covering};
use crate::rng::fnv;
use crate::shapes::Sizes;
use crate::{Case, Level, Levels, Outcome, Rng, Status, Suite, memory, robustness, soak, speed};

/// How many cases are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// A fixed part of the standard cases, for a first look. Certifies nothing.
    Quick,
    /// Every pair of parameters, and the sizes of GLM's own models with few rows and columns.
    #[default]
    Standard,
    /// Three times as many combinations, and the sizes of GLM's own models whole.
    Full,
}

impl Depth {
    /// Whether a run of this depth may stand for the device.
    pub fn certifies(self) -> bool {
        self != Depth::Quick
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Depth::Quick => "quick",
            Depth::Standard => "standard",
            Depth::Full => "full",
        })
    }
}

/// Which checks are wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Levels.
    pub levels: Levels,
    /// Operations or whole check names, with `*` and `?`: `matmul`, `*norm`, `matmul/f16*`. Empty: all.
    pub ops: Vec<String>,
    /// How many cases.
    pub depth: Depth,
    /// How long the soak lasts; by itself as long as suits `depth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_seconds: Option<u32>,
}

impl Default for Selection {
    /// What a certificate needs.
    fn default() -> Self {
        Self {
            levels: Levels::CERTIFYING,
            ops: Vec::new(),
            depth: Depth::Standard,
            soak_seconds: None,
        }
    }
}

impl Selection {
    /// How long the soak lasts.
    fn soak(&self) -> Duration {
        let seconds = self.soak_seconds.unwrap_or(match self.depth {
            Depth::Quick => 1,
            Depth::Standard => 4,
            Depth::Full => 60,
        });
        Duration::from_secs(seconds.into())
    }

    /// Whether a check, by its group and its whole name, is among [`Selection::ops`].
    pub fn names(&self, group: &str, name: &str) -> bool {
        let matches = |pattern: &String| {
            let pattern = WildMatch::new(pattern);
            pattern.matches(group) || pattern.matches(name)
        };
        self.ops.is_empty() || self.ops.iter().any(matches)
    }
}

/// Why a check that is no case did not pass.
#[derive(Debug)]
pub enum Fault {
    /// The device is wrong.
    Wrong(String),
    /// The device does not claim what the check needs.
    Unsupported(String),
    /// The device reported an error.
    Error(Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        match e.kind() {
            hal::ErrorKind::Unsupported => Fault::Unsupported(e.to_string()),
            _ => Fault::Error(e),
        }
    }
}

impl Fault {
    fn end(self, outcome: Outcome) -> Outcome {
        match self {
            Fault::Wrong(why) => outcome.ended(Status::Fail, why),
            Fault::Unsupported(why) => outcome.ended(Status::Unsupported, why),
            Fault::Error(e) if e.kind() == hal::ErrorKind::DeviceLost => {
                outcome.ended(Status::DeviceLost, e.to_string())
            }
            Fault::Error(e) => outcome.ended(Status::Fail, format!("{e:?}")),
        }
    }
}

type Run = dyn Fn(&Suite) -> Outcome + Send + Sync;

/// What a check found that is no case.
pub(crate) type Found = Result<String, Fault>;

/// A check's name within its group, what it is about, and how it is tried.
pub(crate) type Row = (&'static str, &'static str, fn(&Suite) -> Found);

/// One thing to try, by a name that means the same on every machine.
#[derive(Clone)]
pub struct Check {
    /// Its name: `matmul/f16-int8/6f0d1e99aa`, `memory/odd_offsets`.
    pub name: String,
    /// The operation, or what else the check belongs to.
    pub group: String,
    /// Its level.
    pub level: Level,
    /// The type of activations that it is about, if any.
    pub dtype: Option<String>,
    /// The weights' format, if any.
    pub weight: Option<String>,
    /// The whole specification.
    pub about: String,
    /// How long it goes on by itself, beyond what other checks may take.
    pub lasts: Duration,
    run: Arc<Run>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level, self.name)
    }
}

impl Check {
    /// A check that is no case of an operation, such as a small model: named `group/name`, passed when `run` is `Ok`.
    /// What `run` returns is noted in the report.
    pub fn new(
        level: Level,
        group: &str,
        name: &str,
        about: &str,
        run: impl Fn(&Suite) -> Result<String, Fault> + Send + Sync + 'static,
    ) -> Self {
        let (op, case) = (group.to_owned(), about.to_owned());
        Self::with_outcome(level, group, name, about, move |suite| {
            let outcome = Outcome::new(op.clone(), case.clone());
            match run(suite) {
                Ok(note) => outcome.ended(Status::Pass, note),
                Err(fault) => fault.end(outcome),
            }
        })
    }

    /// Checks of one group from a table.
    pub(crate) fn table(level: Level, group: &str, rows: &[Row]) -> Vec<Self> {
        let check = |&(name, about, run): &Row| Self::new(level, group, name, about, run);
        rows.iter().map(check).collect()
    }

    /// The same for a check that makes its own outcome.
    pub fn with_outcome(
        level: Level,
        group: &str,
        name: &str,
        about: &str,
        run: impl Fn(&Suite) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: format!("{group}/{name}"),
            group: group.to_owned(),
            level,
            dtype: None,
            weight: None,
            about: about.to_owned(),
            lasts: Duration::ZERO,
            run: Arc::new(run),
        }
    }

    /// Runs it. `seconds` of the outcome is the time that it took.
    pub fn run(&self, suite: &Suite) -> Outcome {
        let start = std::time::Instant::now();
        let mut outcome = (self.run)(suite);
        outcome.seconds = start.elapsed().as_secs_f64();
        outcome
    }

    fn case<O: Conformance>(case: &Case<O>, run: Arc<Run>) -> Self {
        let id = case.id();
        let (dtype, weight) = types(&case.op);
        let dtype = dtype.unwrap_or(DType::I32).to_string();
        let of = match &weight {
            Some(weight) => format!("{dtype}-{weight}"),
            None => dtype.clone(),
        };
        // 40 bits: a test sees to it that no two are equal.
        let hash = fnv(&id) >> 24;
        Self {
            name: format!("{}/{of}/{hash:010x}", O::NAME),
            group: O::NAME.to_owned(),
            level: Level::of(O::NAME),
            dtype: Some(dtype),
            weight,
            about: id,
            lasts: Duration::ZERO,
            run,
        }
    }
}

/// The type of activations, if there are floats among the arguments, and the format of the weight that `op` is about, or
/// `int8-cache`.
pub fn types<O: Conformance>(op: &O) -> (Option<DType>, Option<String>) {
    let signature = op.signature();
    let weight = signature.iter().find_map(|arg| match arg.role {
        Role::Weight(format) => Some(format.to_string()),
        _ => None,
    });
    let int8_cache = op.cache_dtype() == Some(DType::I8);
    let weight = weight.or(int8_cache.then(|| "int8-cache".to_owned()));
    // The first float input, else the first float output: ids and pages say nothing.
    let float = |out: bool| {
        signature
            .iter()
            .filter(move |arg| matches!(arg.role, Role::Out) == out && arg.dtype.is_float())
    };
    let inputs = float(false).filter(|arg| !matches!(arg.role, Role::Weight(_)));
    let dtype = inputs.chain(float(true)).next();
    (dtype.map(|arg| arg.dtype), weight)
}

/// How many of an operation's standard cases `Quick` keeps.
const QUICK_CASES: usize = 16;

/// The checks of one operation.
fn checks_of<O: Conformance>(selection: &Selection) -> Vec<Check> {
    let questions = Picks::questions(O::case);
    let mut rows = covering(&questions);
    if selection.depth == Depth::Full {
        let mut rng = Rng::of(&format!("full {}", O::NAME));
        for _ in 0..2 * rows.len() {
            rows.push(questions.iter().map(|&n| rng.below(n)).collect());
        }
    }
    let mut seen = BTreeSet::new();
    let mut checks = Vec::new();
    for row in rows {
        let case = O::case(&mut Picks::row(row.clone()));
        if !seen.insert(case.id()) {
            continue;
        }
        // Only the picks are kept: the data of all cases together would fill the memory.
        let int8 = O::with_int8_cache(&case);
        let again = move || O::case(&mut Picks::row(row.clone()));
        if let Some(case) = int8 {
            let again = again.clone();
            let run = move |suite: &Suite| {
                let case = O::with_int8_cache(&again());
                suite.run_case(&case.expect("so it was before"))
            };
            checks.push(Check::case(&case, Arc::new(run)));
        }
        let run = move |suite: &Suite| suite.run_case(&again());
        checks.push(Check::case(&case, Arc::new(run)));
    }
    match selection.depth {
        Depth::Quick => {
            // The names end in a hash: an arbitrary, fixed part.
            checks.sort_by_cached_key(|check| fnv(&check.name));
            checks.truncate(QUICK_CASES);
        }
        Depth::Standard | Depth::Full => {
            let mut models = O::model_cases(Sizes::Thin);
            if selection.depth == Depth::Full {
                models.extend(O::model_cases(Sizes::Whole));
            }
            for case in models {
                if seen.insert(case.id()) {
                    let case = Arc::new(case);
                    let again = Arc::clone(&case);
                    checks.push(Check::case(
                        &case,
                        Arc::new(move |suite: &Suite| suite.run_case(&again)),
                    ));
                }
            }
        }
    }
    checks
}

/// All checks of one run, in order of level, operation and name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    checks: Vec<Check>,
}

impl Catalogue {
    /// The suite's own checks and `more`, as far as `selection` wants them.
    ///
    /// # Errors
    /// `NotFound` when a pattern of `selection` names nothing at all.
    pub fn new(selection: &Selection, more: Vec<Check>) -> Result<Self> {
        let mut checks = memory::checks();
        checks.extend(robustness::checks());
        checks.extend(soak::checks(selection.soak()));
        checks.extend(speed::checks());
        checks.extend(more);
        let mut groups: BTreeSet<String> = checks.iter().map(|c| c.group.clone()).collect();
        // Making the cases of one operation takes a while: only of those wanted.
        macro_rules! all {
            ($($name:ident $op:ident),*) => {$({
                let name = <ops::$op as Op>::NAME;
                groups.insert(name.to_owned());
                let may_match = |pattern: &String| {
                    let head = pattern.split('/').next().unwrap_or(pattern);
                    WildMatch::new(head).matches(name) || head.contains('*')
                };
                let wanted = selection.ops.is_empty() || selection.ops.iter().any(may_match);
                if wanted && selection.levels.contain(Level::of(name)) {
                    checks.extend(checks_of::<ops::$op>(selection));
                }
            })*};
        }
        crate::for_each_op!(all);
        for pattern in &selection.ops {
            let head = pattern.split('/').next().unwrap_or(pattern);
            if !groups
                .iter()
                .any(|group| WildMatch::new(head).matches(group))
            {
                let known: Vec<&str> = groups.iter().map(String::as_str).collect();
                return Err(Error::new(
                    hal::ErrorKind::NotFound,
                    format!("choose the operations '{pattern}'"),
                    "no operation is called that",
                )
                .next_step(format!("there are: {}", known.join(", "))));
            }
        }
        checks.retain(|check| {
            selection.levels.contain(check.level) && selection.names(&check.group, &check.name)
        });
        checks.sort_by(|a, b| (a.level, &a.group, &a.name).cmp(&(b.level, &b.group, &b.name)));
        Ok(Self { checks })
    }

    /// The checks in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Those that `keep` keeps.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&Check) -> bool) -> Self {
        self.checks.retain(|check| keep(check));
        self
    }

    /// The check of this name.
    pub fn find(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(levels: &str, ops: &[&str], depth: Depth) -> Selection {
        Selection {
            levels: levels.parse().unwrap(),
            ops: ops.iter().map(|s| s.to_string()).collect(),
            depth,
            soak_seconds: None,
        }
    }

    fn catalogue(levels: &str, ops: &[&str], depth: Depth) -> Catalogue {
        Catalogue::new(&selection(levels, ops, depth), Vec::new()).unwrap()
    }

    #[test]
    fn names_are_unique_and_stable() {
        let all = catalogue("0..4", &[], Depth::Standard);
        let names: BTreeSet<&str> = all.checks.iter().map(|c| &*c.name).collect();
        assert_eq!(names.len(), all.checks.len());
        assert!(names.len() > 1000, "{}", names.len());
        // The same on every machine and in every version, unless the case changes.
        let copy = all.checks.iter().find(|c| c.group == "copy").unwrap();
        assert_eq!(
            copy.name,
            format!(
                "copy/{}/{:010x}",
                copy.dtype.as_ref().unwrap(),
                fnv(&copy.about) >> 24
            )
        );
        let quick = catalogue("0..4", &[], Depth::Quick);
        assert!(quick.checks.iter().all(|c| names.contains(&*c.name)));
        assert!(quick.checks.len() < all.checks.len() / 3);
    }

    #[test]
    fn selects_by_level_operation_and_name() {
        // Level 6 has checks named after operations too.
        let norms = catalogue("0..5", &["*norm"], Depth::Quick);
        let groups: BTreeSet<&str> = norms.checks.iter().map(|c| &*c.group).collect();
        assert_eq!(
            groups.into_iter().collect::<Vec<_>>(),
            ["add_layer_norm", "add_rms_norm", "layer_norm", "rms_norm"]
        );
        let one = &norms.checks[3].name;
        let alone = catalogue("0..7", &[one], Depth::Quick);
        assert_eq!(alone.checks.len(), 1);
        assert!(alone.find(one).is_some());
        let f16 = catalogue("1..4", &["matmul/f16*"], Depth::Quick);
        assert!(f16.checks.iter().all(|c| c.dtype.as_deref() == Some("f16")));
        assert!(!f16.checks.is_empty());
        assert!(catalogue("0", &["matmul"], Depth::Quick).checks.is_empty());
        let unknown = Catalogue::new(&selection("0..4", &["matmull"], Depth::Quick), Vec::new());
        let e = unknown.unwrap_err();
        assert_eq!(e.kind(), hal::ErrorKind::NotFound);
        assert!(e.next().unwrap().contains("batched_matmul"));
    }

    #[test]
    fn a_check_runs_its_case_and_extra_checks_say_what_they_found() {
        let suite = Suite::new(crate::reference_device::open());
        let copies = catalogue("1", &["copy"], Depth::Quick);
        for check in copies.checks() {
            let outcome = check.run(&suite);
            assert_eq!(
                (outcome.status, &outcome.case),
                (Status::Pass, &check.about)
            );
        }
        let extra = |run: fn() -> Result<String, Fault>| {
            let check = Check::new(Level::Models, "model", "tiny", "a tiny model", move |_| {
                run()
            });
            let all = Catalogue::new(&selection("5", &[], Depth::Quick), vec![check]).unwrap();
            assert_eq!(all.checks.len(), 1);
            all.checks[0].run(&suite)
        };
        assert_eq!(extra(|| Ok("12 logits".into())).status, Status::Pass);
        let wrong = extra(|| Err(Fault::Wrong("off by one".into())));
        assert_eq!((wrong.status, &*wrong.why), (Status::Fail, "off by one"));
        let lost = extra(|| {
            let kind = hal::ErrorKind::DeviceLost;
            Err(Error::new(kind, "run", "gone").into())
        });
        assert_eq!(lost.status, Status::DeviceLost);
        let declined = extra(|| Err(Error::unsupported("plan", "f16").into()));
        assert_eq!(declined.status, Status::Unsupported);
    }
}
