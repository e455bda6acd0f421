//! Attention against its f64 reference, at every level and on one thread and three.

use hal::DType;
use ops::kv_cache::{decode, encode};
use ops::{Mask, Op, reference};

use super::*;
use crate::ops::testing::{Arg, check_declared, inputs, output};
use crate::testing::{Random, contexts};

/// Tokens, slots in use, prefix.
type Lengths = (usize, usize, i32);

fn norm(rows: &reference::Tensor) -> f64 {
    let squares = |r| rows.row(r).iter().map(|x| x * x).sum::<f64>();
    (0..rows.rows()).map(squares).fold(0.0, f64::max).sqrt()
}

/// A cache of random rows.
fn rows(op: &Attention, seed: u64) -> Arg {
    let mut random = Random::new(seed);
    let shape = [op.pages, op.kv_heads, op.page_size, op.head_dim];
    let numbers = (0..shape.iter().product()).map(|_| f64::from(random.normal()));
    let rows = encode(op.kv, &reference::Tensor::new(&shape, numbers.collect()));
    Arg::new(&rows.shape, rows.data)
}

/// Sequences with `lead` tokens of none before them and one after, their pages scattered.
fn arguments(op: &Attention, lead: usize, sequences: &[Lengths], q_size: f64) -> Vec<Arg> {
    let tokens = lead + sequences.iter().map(|s| s.0).sum::<usize>() + 1;
    let most = sequences.iter().map(|s| s.1).max().unwrap_or(0);
    let max_pages = most.div_ceil(op.page_size).max(1);
    let page = |s: usize, i: usize| (7 * (s * max_pages + i) + 3) % op.pages;
    let table: Vec<i32> = (0..sequences.len())
        .flat_map(|s| (0..max_pages).map(move |i| page(s, i) as i32))
        .collect();
    let mut starts = vec![lead as i32];
    for s in sequences {
        starts.push(starts[starts.len() - 1] + s.0 as i32);
    }
    let lens: Vec<i32> = sequences.iter().map(|s| s.1 as i32).collect();
    let shape = [tokens, op.heads, op.head_dim];
    let mut args = vec![
        Arg::out(&shape).padded(),
        Arg::random(&shape, q_size, 1).padded(),
        rows(op, 2),
        rows(op, 3),
        Arg::ints(&[sequences.len(), max_pages], &table),
        Arg::ints(&[sequences.len() + 1], &starts),
        Arg::ints(&[sequences.len()], &lens),
    ];
    if op.mask == Mask::Prefix {
        let prefix: Vec<i32> = sequences.iter().map(|s| s.2).collect();
        args.push(Arg::ints(&[sequences.len()], &prefix));
    }
    args
}

fn keeps_its_bound(op: &Attention, lead: usize, sequences: &[Lengths]) {
    is_within_its_bound(op, &arguments(op, lead, sequences, 2.0));
}

fn is_within_its_bound(op: &Attention, args: &[Arg]) {
    // Scores err by at most `score`, exponentials by twice that; sums run over all slots.
    let u = 2f64.powi(-24);
    let mut inputs = inputs(op, args);
    let scale = f64::from(op.scale).abs();
    let keys = decode(op.kv, &inputs[1]);
    let score = (op.head_dim + 4) as f64 * u * scale * norm(&inputs[0]) * norm(&keys);
    // exp(x) - 1 is more than x for scores as large as those of `no_probability_is_subnormal`.
    let most = inputs[5].data.iter().copied().fold(0.0, f64::max);
    let relative = (2.0 * score).exp_m1() + (2.0 * most + 40.0) * u;
    let rounded = relative + DType::BF16.unit_roundoff() * (1.0 + relative);
    let pairs = Sizes::new(op).pairs;
    inputs[1] = keys;
    inputs[2] = decode(op.kv, &inputs[2]).map(f64::abs);
    let floats = Attention {
        kv: DType::F32,
        ..op.clone()
    };
    let magnitude = floats
        .reference(&[&inputs[0].shape.clone()], &inputs)
        .remove(0);
    check_declared(op, args, |numerics, _, i, _| {
        magnitude.data[i]
            * match pairs && numerics.rounds_probabilities {
                true => rounded,
                false => relative,
            }
    });
}

const OP: Attention = Attention {
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    pages: 97,
    page_size: 16,
    scale: 0.17,
    mask: Mask::Causal,
    dtype: DType::F32,
    kv: DType::F16,
};

/// Products of pairs, where there are any.
const PAIRS: Attention = Attention {
    dtype: DType::BF16,
    kv: DType::BF16,
    ..OP
};

/// Rows of int8 with their scales.
const INT8: Attention = Attention {
    dtype: DType::BF16,
    kv: DType::I8,
    ..OP
};

#[test]
fn every_mask_in_mixed_batches() {
    let batch = [
        (1, 40, 0),
        (5, 5, 3),
        (0, 9, 0),
        (37, 91, 17),
        (2, 64, 80),
        (3, 0, 1),
    ];
    for mask in [Mask::Causal, Mask::Prefix, Mask::Full] {
        keeps_its_bound(&Attention { mask, ..OP }, 2, &batch);
    }
    keeps_its_bound(&OP, 3, &[]);
}

#[test]
fn every_head_size_group_and_type() {
    let batch = [(1, 70, 0), (21, 30, 0)];
    for (head_dim, heads, kv_heads) in [
        (1, 1, 1),
        (3, 2, 1),
        (33, 3, 3),
        (64, 8, 2),
        (80, 4, 4),
        (96, 12, 1),
        (128, 16, 1),
        (256, 2, 2),
        (320, 2, 1),
    ] {
        for op in [OP, PAIRS, INT8] {
            let op = Attention {
                head_dim,
                heads,
                kv_heads,
                ..op
            };
            keeps_its_bound(&op, 0, &batch);
        }
    }
    for (dtype, kv) in [
        (DType::F16, DType::F16),
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::F32, DType::F32),
        (DType::F16, DType::I8),
    ] {
        keeps_its_bound(
            &Attention {
                dtype,
                kv,
                page_size: 5,
                ..OP
            },
            0,
            &batch,
        );
    }
}

#[test]
fn long_sequences_are_cut_and_combined() {
    for op in [OP, PAIRS, INT8] {
        let op = Attention {
            pages: 40,
            page_size: 100,
            ..op
        };
        keeps_its_bound(
            &op,
            1,
            &[(1, 1300, 0), (2, 512, 0), (3, 1025, 0), (40, 1500, 0)],
        );
        keeps_its_bound(
            &Attention {
                heads: 2,
                ..op.clone()
            },
            0,
            &[(1, 3000, 0)],
        );
        // Pages that are read as streams.
        let long = Attention {
            heads: 4,
            kv_heads: 1,
            head_dim: 128,
            pages: 9,
            page_size: 520,
            ..op.clone()
        };
        keeps_its_bound(&long, 1, &[(1, 1300, 0), (4, 1025, 0)]);
        // On one thread three heads are a task, and the two that are left.
        for head_dim in [32, 33] {
            let (heads, kv_heads) = (5, 5);
            let op = Attention {
                heads,
                kv_heads,
                head_dim,
                ..op.clone()
            };
            keeps_its_bound(&op, 0, &[(1, 1300, 0)]);
        }
    }
}

/// Scores hundreds apart: most probabilities are 0, many would be below the normal range.
#[test]
fn no_probability_is_subnormal() {
    for head_dim in [32, 33] {
        let op = Attention { head_dim, ..OP };
        is_within_its_bound(&op, &arguments(&op, 0, &[(1, 700, 0), (40, 200, 0)], 100.0));
    }
}

/// One token over a cache in chunks, few tokens, a prompt: the same bits alone and among others, on any threads.
#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let own = [(1, 700, 0), (3, 300, 0), (9, 700, 0), (60, 200, 0)];
    let ops = [OP, PAIRS, INT8];
    for (op, own) in ops.iter().flat_map(|op| own.map(|own| (op.clone(), own))) {
        let batch = [(3, 90, 0), own, (1, 1500, 0), (70, 100, 0)];
        let mut args = arguments(&op, 2, &batch, 2.0);
        let given = inputs(&op, &args);
        args[0] = Arg::out(&given[0].shape);
        let (first, row) = (2 + 3, op.heads * op.head_dim);
        let part = first * row..(first + own.0) * row;
        let shape = [own.0, OP.heads, OP.head_dim];
        let pages = given[3].shape[1];
        let alone = [
            Arg::out(&shape),
            Arg::new(&shape, given[0].data[part.clone()].to_vec()),
            Arg::new(&given[1].shape, given[1].data.clone()),
            Arg::new(&given[2].shape, given[2].data.clone()),
            Arg::new(&[1, pages], given[3].data[pages..2 * pages].to_vec()),
            Arg::ints(&[2], &[0, own.0 as i32]),
            Arg::ints(&[1], &[own.1 as i32]),
        ];
        for context in contexts() {
            let among = output(&op, &args, &context);
            let alone = output(&op, &alone, &context);
            let bytes = op.dtype.bytes();
            let among = &among[bytes * part.start..bytes * part.end];
            assert!(alone == among, "{op:?}, {own:?}");
        }
    }
}

/// A sequence alone has long pages, one among others short ones: its results have the same bits.
#[test]
fn pages_change_no_bit() {
    const SLOTS: usize = 1408;
    for op in [OP, PAIRS, INT8] {
        let mut random = Random::new(5);
        let head_dim = 128;
        let row = op.kv_heads * head_dim;
        let [keys, values] = [(); 2].map(|()| {
            let numbers = (0..SLOTS * row).map(|_| f64::from(random.normal()));
            numbers.collect::<Vec<_>>()
        });
        let q = [1, op.heads, head_dim];
        let outputs = [64, 128, 704].map(|page_size| {
            let pages = SLOTS / page_size;
            let op = Attention {
                head_dim,
                page_size,
                pages,
                ..op.clone()
            };
            let cache = |numbers: &[f64]| {
                let place = |i: usize| {
                    let (head, d) = (i / head_dim / page_size % op.kv_heads, i % head_dim);
                    let page = i / row / page_size;
                    let slot = page * page_size + i / head_dim % page_size;
                    numbers[slot * row + head * head_dim + d]
                };
                let shape = [pages, op.kv_heads, page_size, head_dim];
                let numbers = (0..SLOTS * row).map(place).collect();
                let rows = encode(op.kv, &reference::Tensor::new(&shape, numbers));
                Arg::new(&rows.shape, rows.data)
            };
            let table: Vec<i32> = (0..pages as i32).collect();
            let args = [
                Arg::out(&q),
                Arg::random(&q, 2.0, 1),
                cache(&keys),
                cache(&values),
                Arg::ints(&[1, pages], &table),
                Arg::ints(&[2], &[0, 1]),
                Arg::ints(&[1], &[SLOTS as i32 - 3]),
            ];
            contexts()
                .iter()
                .map(|context| output(&op, &args, context))
                .collect::<Vec<_>>()
        });
        assert!(
            outputs[0] == outputs[1] && outputs[1] == outputs[2],
            "{op:?}"
        );
    }
}

#[test]
fn long_pages_are_wanted_for_pairs_alone() {
    for context in contexts() {
        let info = context.device().info();
        assert!(!info.long_pages || info.numerics.rounds_probabilities);
    }
}
