//! The mutation score: how many wrong kernels are found, by the suite and by the rules of others, and how many right
//! ones are blamed.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use conformance::metamorphic::properties_of;
use conformance::number::round;
use conformance::{Case, Expected, Picks, Rng, Status, Suite, Truth};
use hal::DType;
use ops::{Accelerator, Role};
use serde::Serialize;

use crate::Rule;
use crate::mutants::{Change, Mutable, with};

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the rules of other projects are tried too: every mutant on every case.
    pub rules: bool,
    /// Random cases, over all operations, that a right device must pass, in addition to the standard ones.
    pub random_cases: usize,
    /// Threads.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rules: true,
            random_cases: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// What became of all mutants, and of the device without any.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Mutants tried.
    pub mutants: usize,
    /// Distinct names among them.
    pub kinds: usize,
    /// Mutants that fail a standard case.
    pub killed: usize,
    /// Mutants that fail a case of normal random numbers, as the rules below are given; with the rules only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by_normal_numbers: Option<usize>,
    /// Mutants that break a property which needs no reference; with the rules only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by_properties: Option<usize>,
    /// Cases in which the suite blames the device without a mutant.
    pub false_alarms: usize,
    /// Cases of the device without a mutant that were within the certain bound only.
    pub weak: usize,
    /// Cases of the device without a mutant.
    pub cases: usize,
    /// Elements of their outputs.
    pub elements: usize,
    /// Mutants that the suite lets live.
    pub survivors: Vec<Survivor>,
    /// The rules of others.
    pub rules: Vec<RuleScore>,
    /// The first cases of false alarms.
    pub blamed: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |n: usize, all: usize| {
            format!(
                "{n} of {all} ({:.1} %)",
                100.0 * n as f64 / all.max(1) as f64
            )
        };
        writeln!(f, "{} mutants of {} kinds", self.mutants, self.kinds)?;
        writeln!(
            f,
            "{:15} killed {}, blamed {} right results, {} weakly ({} elements)",
            "suite",
            of(self.killed, self.mutants),
            of(self.false_alarms, self.cases),
            self.weak,
            self.elements
        )?;
        for (name, killed) in [
            ("normal numbers", self.killed_by_normal_numbers),
            ("properties", self.killed_by_properties),
        ] {
            if let Some(killed) = killed {
                writeln!(f, "{name:15} killed {}", of(killed, self.mutants))?;
            }
        }
        for rule in &self.rules {
            writeln!(
                f,
                "{:15} killed {}, blamed {} right results",
                rule.name,
                of(rule.killed, self.mutants),
                of(rule.false_alarms, rule.cases)
            )?;
        }
        for survivor in &self.survivors {
            writeln!(f, "survives: {}/{}", survivor.op, survivor.name)?;
        }
        for blamed in &self.blamed {
            writeln!(f, "false alarm: {blamed}")?;
        }
        write!(f, "{:.0} s", self.seconds)
    }
}

/// A mutant that no case kills.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Survivor {
    /// The operation.
    pub op: String,
    /// The mutant.
    pub name: String,
}

/// One rule on the same mutants, with normal random numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleScore {
    /// The rule.
    pub rule: Rule,
    /// Its usual name.
    pub name: &'static str,
    /// Mutants that it fails in some case.
    pub killed: usize,
    /// Cases in which it blames the device without a mutant.
    pub false_alarms: usize,
    /// Cases of the device without a mutant.
    pub cases: usize,
}

/// The score of the suite on mutants of those operations of `accelerator` that `keep` keeps. The accelerator itself is
/// taken to be right.
pub fn mutation_score(
    accelerator: &Accelerator,
    options: &Options,
    keep: impl Fn(&str) -> bool,
) -> Score {
    let start = Instant::now();
    let mut score = Score {
        rules: rule_scores(options),
        killed_by_normal_numbers: options.rules.then_some(0),
        killed_by_properties: options.rules.then_some(0),
        ..Score::default()
    };
    let mut names = std::collections::BTreeSet::new();
    macro_rules! all {
        ($($name:ident $op:ident),*) => {
            let ops = [$(stringify!($name)),*].len();
            $(if keep(stringify!($name)) {
                score_op::<ops::$op>(accelerator, options, ops, &mut score, &mut names);
            })*
        };
    }
    conformance::for_each_op!(all);
    score.kinds = names.len();
    score.survivors.sort();
    score.seconds = start.elapsed().as_secs_f64();
    score
}

/// Those mutants of one operation of `accelerator` that no standard case kills, of those that `keep` keeps by their
/// place in the table and their name.
pub fn survivors<O: Mutable>(
    accelerator: &Accelerator,
    keep: impl Fn(usize, &str) -> bool,
) -> Vec<&'static str> {
    let standard = prepared(Suite::new(accelerator.clone()).cases::<O>());
    let mut survivors = Vec::new();
    for (i, change) in O::mutants().into_iter().enumerate() {
        let name = change.name;
        if !keep(i, name) {
            continue;
        }
        let suite = Suite::new(with(accelerator, change));
        if !is_killed(&suite, &standard) {
            survivors.push(name);
        }
    }
    survivors
}

fn is_killed<O: Mutable>(suite: &Suite, cases: &[(Case<O>, Truth)]) -> bool {
    let mut cases = cases.iter();
    cases.any(|(case, truth)| suite.judge(case, truth).status > Status::PassWeak)
}

fn rule_scores(options: &Options) -> Vec<RuleScore> {
    let rules = Rule::ALL.into_iter().filter(|_| options.rules);
    rules
        .map(|rule| RuleScore {
            rule,
            name: rule.describe()[0],
            killed: 0,
            false_alarms: 0,
            cases: 0,
        })
        .collect()
}

/// The rules look at cases of at most this many elements in all arguments: they go through all of them for every
/// mutant that they miss. Long sums are among them, in few rows.
const RULE_ELEMENTS: usize = 1 << 15;

/// Cases with their truth, small ones first: most mutants die early.
fn prepared<O: Mutable>(cases: impl Iterator<Item = Case<O>>) -> Vec<(Case<O>, Truth)> {
    let mut cases: Vec<_> = cases.map(|case| (case, Truth::default())).collect();
    cases.sort_by_key(|(case, _)| case.elements());
    cases
}

/// Adds the score of one operation.
pub(crate) fn score_op<O: Mutable>(
    accelerator: &Accelerator,
    options: &Options,
    ops: usize,
    score: &mut Score,
    names: &mut std::collections::BTreeSet<&'static str>,
) {
    let right = Suite::new(accelerator.clone());
    let standard = prepared(right.cases::<O>());
    let mut normal = match options.rules {
        true => prepared(right.cases::<O>().map(Case::normal)),
        false => Vec::new(),
    };
    // Other projects' rules compare elements as they lie, which says nothing of a row with a scale.
    let plain = |op: &O| op.cache_dtype() != Some(hal::DType::I8);
    normal.retain(|(case, _)| plain(&case.op) && case.elements() <= RULE_ELEMENTS);
    let shared = Mutex::new(score);
    let lock = || shared.lock().expect("no thread panics with the score");

    // The right device, on everything.
    let judge_right = |case: &Case<O>, truth: &Truth| {
        let outcome = right.judge(case, truth);
        let expected = truth.expected().unwrap_or_default();
        let elements: usize = expected.iter().map(elements).sum();
        let mut score = lock();
        score.cases += 1;
        score.elements += elements;
        score.weak += usize::from(outcome.status == Status::PassWeak);
        if outcome.status > Status::PassWeak {
            score.false_alarms += 1;
            if score.blamed.len() < 20 {
                score.blamed.push(outcome.to_string());
            }
        }
    };
    in_parallel(options.threads, standard.len(), |i| {
        judge_right(&standard[i].0, &standard[i].1);
    });
    in_parallel(options.threads, options.random_cases / ops, |i| {
        let mut rng = Rng::of(&format!("{} {i}", O::NAME));
        let numbers = (0..20).map(|_| rng.bits() as u16).collect();
        judge_right(&O::case(&mut Picks::short(numbers)), &Truth::default());
    });
    in_parallel(options.threads, normal.len(), |i| {
        let (case, truth) = &normal[i];
        // Fills in the truth that the rules need.
        right.judge(case, truth);
        let Some(accepted) = rules_accept(&right, case, truth) else {
            return;
        };
        for (rule, accepts) in lock().rules.iter_mut().zip(accepted) {
            rule.cases += 1;
            rule.false_alarms += usize::from(!accepts);
        }
    });

    // The mutants.
    let count = O::mutants().len();
    in_parallel(options.threads, count, |i| {
        let change = O::mutants().swap_remove(i);
        let name = change.name;
        let suite = Suite::new(with(accelerator, change));
        let killed = is_killed(&suite, &standard);
        let by_normal = is_killed(&suite, &normal);
        let by_properties = options.rules && {
            let device = with(accelerator, O::mutants().swap_remove(i));
            let properties = properties_of(&device, |op| op == O::NAME);
            properties.iter().any(|property| !property.is_fine())
        };
        let mut by_rules = vec![false; Rule::ALL.len()];
        for (case, truth) in &normal {
            if by_rules.iter().all(|&killed| killed) {
                break;
            }
            for (killed, accepts) in by_rules
                .iter_mut()
                .zip(rules_accept(&suite, case, truth).into_iter().flatten())
            {
                *killed |= !accepts;
            }
        }
        let mut locked = lock();
        let score = &mut **locked;
        score.mutants += 1;
        score.killed += usize::from(killed);
        for (count, killed) in [
            (&mut score.killed_by_normal_numbers, by_normal),
            (&mut score.killed_by_properties, by_properties),
        ] {
            if let Some(count) = count {
                *count += usize::from(killed);
            }
        }
        for (rule, killed) in score.rules.iter_mut().zip(by_rules) {
            rule.killed += usize::from(killed);
        }
        if !killed {
            score.survivors.push(Survivor {
                op: O::NAME.to_string(),
                name: name.to_string(),
            });
        }
    });
    names.extend(O::mutants().iter().map(|change: &Change<O>| change.name));
}

fn elements(expected: &Expected) -> usize {
    match expected {
        Expected::Bits(want) | Expected::Within(want, _) => want.data.len(),
        Expected::OneOf(sets) => sets.len(),
    }
}

/// Whether each rule accepts all outputs of a case; `None` when there are none to look at.
fn rules_accept<O: Mutable>(suite: &Suite, case: &Case<O>, truth: &Truth) -> Option<[bool; 5]> {
    let got = suite.unguarded_outputs(case).ok()?;
    let expected = truth.expected()?;
    let signature = case.op.signature();
    let written = signature
        .iter()
        .filter(|arg| matches!(arg.role, Role::Out | Role::InOut));
    let mut accepted = [true; 5];
    for ((arg, got), expected) in written.zip(&got).zip(expected) {
        let want = wanted(arg.dtype, expected, &got.data);
        for (accepted, rule) in accepted.iter_mut().zip(Rule::ALL) {
            *accepted &= rule.accepts(O::NAME, arg.dtype, &got.data, &want);
        }
    }
    Some(accepted)
}

/// The reference as a tensor of the output's type; of several right answers the one that was given.
fn wanted(dtype: DType, expected: &Expected, got: &[f64]) -> Vec<f64> {
    match expected {
        Expected::Bits(want) | Expected::Within(want, _) => {
            want.data.iter().map(|&x| round(dtype, x)).collect()
        }
        Expected::OneOf(sets) => {
            let choose = |(set, &got): (&Vec<i64>, &f64)| {
                let given = set.iter().find(|&&x| x as f64 == got);
                given.or(set.first()).map_or(f64::NAN, |&x| x as f64)
            };
            sets.iter().zip(got).map(choose).collect()
        }
    }
}

/// Calls `f` with every index, on so many threads.
fn in_parallel(threads: usize, n: usize, f: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, n.max(1)) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    f(i);
                }
            });
        }
    });
}
