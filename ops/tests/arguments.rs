//! The argument rules of every operation: valid arguments pass, each kind of wrong one is `InvalidArgument` and names
//! an argument, and nothing panics.

mod common;

use common::{Spec, arguments, views};
use conformance::{Conformance, Picks};
use hal::null::NullDevice;
use hal::{DType, Device, ErrorKind, View};
use ops::{ArgList, Op, Role, check_args};
use proptest::prelude::*;

/// Dimensions that the specification and the other arguments leave open.
const FREE: [(&str, &str, usize); 4] = [
    ("argmax", "x", 1),
    ("top_k", "x", 1),
    ("sample", "history", 1),
    ("attention", "block_table", 1),
];

/// Requires `InvalidArgument` that names the operation and one of `names`.
fn refuses<O: Op>(op: &O, args: &[View<'_>], names: &[&str]) -> Result<(), TestCaseError> {
    let error = match check_args(op, args) {
        Ok(()) => return Err(TestCaseError::fail(format!("{op:?} accepts {args:?}"))),
        Err(error) => error,
    };
    let text = error.to_string();
    prop_assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", text);
    prop_assert_eq!(error.doing(), format!("run {}", O::NAME));
    prop_assert!(
        names.iter().any(|name| text.contains(name)),
        "{}: {:?}",
        text,
        names
    );
    Ok(())
}

fn spoil<O: Conformance>(picks: Vec<u16>, at: usize, dim: usize) -> Result<(), TestCaseError> {
    let case = O::case(&mut Picks::free(picks));
    let (op, device) = (&case.op, NullDevice::new());
    let specs = arguments(&case, &device);
    check_args(op, &views(&specs)).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let all: Vec<&str> = specs.iter().map(|s| s.arg.name).collect();
    let at = at % specs.len();
    let name = all[at];
    let packed = matches!(specs[at].arg.role, Role::Weight(_));
    let written = matches!(specs[at].arg.role, Role::Out | Role::InOut);

    // Count.
    let given = views(&specs);
    refuses(op, &given[..given.len() - 1], &["arguments given"])?;
    refuses(op, &[], &["arguments given"])?;

    // Element type.
    for dtype in DType::ALL.into_iter().filter(|&d| d != specs[at].dtype) {
        let mut wrong = specs.clone();
        wrong[at].dtype = dtype;
        refuses(op, &views(&wrong), &[name])?;
    }

    // Shape: one index more, one dimension more.
    let rank = specs[at].shape.len();
    if !packed {
        if rank > 0 {
            let mut wrong = specs.clone();
            let dim = dim % rank;
            wrong[at].shape[dim] += 1;
            let free = FREE.contains(&(O::NAME, name, dim));
            // Copies and their like ask only for equal shapes; with one argument in place of the other they stay equal.
            match check_args(op, &views(&wrong)) {
                Ok(()) => prop_assert!(free, "{name} of {op:?} with one more in dimension {dim}"),
                Err(_) => refuses(op, &views(&wrong), &all)?,
            }
        }
        if rank < hal::MAX_RANK {
            let mut wrong = specs.clone();
            wrong[at].shape.insert(0, 1);
            wrong[at].strides.insert(0, 0);
            refuses(op, &views(&wrong), &all)?;
        }
    }

    // Another device.
    if !packed && specs.len() > 1 {
        let elsewhere = NullDevice::new();
        let mut wrong = specs.clone();
        wrong[at].buffer = elsewhere.alloc(specs[at].buffer.bytes()).unwrap();
        refuses(op, &views(&wrong), &["another device"])?;
    }

    let several = specs[at].shape.iter().position(|&n| n > 1);
    if written && !specs[at].shape.contains(&0) {
        // An output that repeats elements.
        if let Some(dim) = several {
            let mut wrong = specs.clone();
            wrong[at].strides[dim] = 0;
            refuses(op, &views(&wrong), &[name])?;
        }
        // An output that overlaps an input by part.
        let inputs = specs
            .iter()
            .enumerate()
            .filter(|(_, s)| s.arg.role == Role::In);
        for (i, input) in inputs.filter(|(_, s)| !s.shape.contains(&0)) {
            let mut wrong = specs.clone();
            // The input's first element is a byte range inside the output's.
            wrong[at].buffer = bigger(&device, &specs[at], input);
            wrong[i].buffer = wrong[at].buffer.clone();
            let first = wrong[at].offset * wrong[at].dtype.bytes();
            let size = wrong[i].dtype.bytes();
            wrong[i].offset = (first + size).div_ceil(size) - 1;
            if wrong[at].view().same(&wrong[i].view()) {
                continue;
            }
            if wrong[at].view().overlaps(&wrong[i].view()) {
                refuses(op, &views(&wrong), &["overlaps"])?;
            }
        }
    }
    Ok(())
}

/// A buffer with room for both arguments.
fn bigger(device: &NullDevice, a: &Spec, b: &Spec) -> hal::Buffer {
    device
        .alloc(a.buffer.bytes() + b.buffer.bytes() + 64)
        .unwrap()
}

/// Views of arbitrary ranks, shapes and strides, of the right types: any answer but a panic.
fn any_views<O: Conformance>(picks: Vec<u16>, sizes: &[usize]) -> Result<(), TestCaseError> {
    let op = O::case(&mut Picks::free(picks)).op;
    let device = NullDevice::new();
    let buffer = device.alloc(1 << 20).unwrap();
    let other = device.alloc(1 << 20).unwrap();
    let mut sizes = sizes.iter().copied().cycle();
    let mut next = || sizes.next().unwrap_or(0);
    let mut list = ArgList::new();
    for arg in op.signature() {
        let rank = next() % (hal::MAX_RANK + 1);
        let shape: Vec<usize> = (0..rank).map(|_| next()).collect();
        let strides: Vec<usize> = (0..rank).map(|_| next()).collect();
        let buffer = if next() % 2 == 0 { &buffer } else { &other };
        list.push(View::strided(buffer, 0, arg.dtype, &shape, &strides).unwrap());
    }
    if let Err(error) = check_args(&op, &list) {
        prop_assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    Ok(())
}

macro_rules! per_op {
    ($($name:ident $op:ident),*) => {
        mod spoiled {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(64))]
                $(#[test]
                fn $name(
                    picks in prop::collection::vec(any::<u16>(), 16),
                    at in 0usize..60,
                    dim in 0usize..12,
                ) {
                    spoil::<ops::$op>(picks, at, dim)?;
                })*
            }
        }

        mod arbitrary {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(256))]
                $(#[test]
                fn $name(
                    picks in prop::collection::vec(any::<u16>(), 16),
                    sizes in prop::collection::vec(0usize..6, 40..120),
                ) {
                    any_views::<ops::$op>(picks, &sizes)?;
                })*
            }
        }
    };
}
conformance::for_each_op!(per_op);
