//! `glm bench ops`: each operation of a model's shapes on its own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use glm::shapes;
use glm::speed::{Clock, Sizes, Told, dispatch, operations};
use hal::{DType, WeightFormat};
use wildmatch::WildMatch;

use super::report::{Facts, Writer};
use super::{limits, say, usage};
use crate::args::{BenchOps, Global};
use crate::failure::Failure;
use crate::load;

/// Formats of matrices when none is asked for; the dense one is that of the activations.
const PACKED: [WeightFormat; 3] = [
    WeightFormat::Int8Row,
    WeightFormat::Int4Row,
    WeightFormat::Int4Group(32),
];

/// Runs of what the host pays: each is short.
const DISPATCHES: usize = 50;

pub(super) fn run(global: &Global, args: &BenchOps, writer: &mut Writer) -> Result<(), Failure> {
    let shapes = args
        .shape
        .iter()
        .map(|name| shapes::architecture(name, Some(1)));
    // What the user typed, not what a file holds: usage.
    let shapes: Vec<_> = shapes
        .collect::<hal::Result<_>>()
        .map_err(|e| Failure::Error(e, 2))?;
    let context = load::context(global)?;
    let floats = &context.device().info().numerics.floats;
    let named = global.dtype.and_then(|d| d.activations());
    let usual = [DType::BF16, DType::F16, DType::F32];
    let dtype = named.or(usual.into_iter().find(|dtype| floats.contains(dtype)));
    let dtype = dtype.ok_or_else(|| {
        usage(
            "the device takes no float type",
            "run `glm conform` on this device",
        )
    })?;
    let sizes = |list: &[NonZeroUsize]| {
        let sorted: BTreeSet<usize> = list.iter().map(|n| n.get()).collect();
        sorted.into_iter().collect()
    };
    let sizes = Sizes {
        dtype,
        weights: match global.dtype {
            Some(precision) => vec![precision.weights()],
            None => [WeightFormat::Dense(dtype)]
                .into_iter()
                .chain(PACKED)
                .collect(),
        },
        rows: sizes(&args.rows),
        prompts: sizes(&args.prompt),
        depths: sizes(&args.depth),
        batches: sizes(&args.batch),
        bytes: args.mib.get().saturating_mul(1 << 20),
    };
    let mut clock = Clock::new(&**context.device(), args.report.runs.get(), args.seconds)?;
    let limits = limits(global, &mut clock, &context)?;
    writer.begin(Facts::new(global, &context, &limits, None))?;
    let patterns: Vec<WildMatch> = args.only.iter().map(|p| WildMatch::new(p)).collect();
    let fits = |key: &str| patterns.is_empty() || patterns.iter().any(|p| p.matches(key));
    // Models share most of their operations: each is measured once.
    let seen = RefCell::new(BTreeSet::new());
    let wanted = |key: &str| fits(key) && !seen.borrow().contains(key);
    let mut written = Ok(());
    let mut tell = |told: Told| match told {
        Told::Begun(key) => say(global, &key),
        Told::Found(figure) => {
            seen.borrow_mut().insert(figure.key.clone());
            if written.is_ok() {
                written = writer.found(&figure);
            }
        }
    };
    for shape in &shapes {
        operations(
            &context, shape, &sizes, &limits, &mut clock, &wanted, &mut tell,
        )?;
    }
    for figure in dispatch(&context, &mut clock, DISPATCHES)? {
        if fits(&figure.key) {
            tell(Told::Found(Box::new(figure)));
        }
    }
    written?;
    match seen.borrow().is_empty() {
        true => Err(usage(
            format!("no figure fits {:?}", args.only),
            "without --only all are measured",
        )),
        false => Ok(()),
    }
}
