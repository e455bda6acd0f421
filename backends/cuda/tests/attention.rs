//! What attention's standard cases are too small for: parts of more than one block, and launches in turns.

mod common;

use conformance::{Case, Generator, Operand, Suite};
use hal::DType;
use ops::{Attention, Mask};

use common::emulated;

/// Pages of 16 slots; each sequence begins at another page of the same few.
const PAGES: usize = 23;
const PAGE_SIZE: usize = 16;

/// Sequences of new tokens and slots, in a table with room for `max_pages` pages; `heads`: of queries and of the cache, and
/// their elements.
fn case(
    heads: [usize; 3],
    max_pages: usize,
    mask: Mask,
    sequences: &[[usize; 2]],
) -> Case<Attention> {
    let [heads, kv_heads, head_dim] = heads;
    let op = Attention {
        heads,
        kv_heads,
        head_dim,
        pages: PAGES,
        page_size: PAGE_SIZE,
        scale: 0.125,
        mask,
        dtype: DType::BF16,
        kv: DType::BF16,
    };
    let count = sequences.len();
    let table = (0..count * max_pages).map(|i| ((i + i / max_pages) % PAGES) as f64);
    let mut starts = vec![0.0];
    for [new, _] in sequences {
        starts.push(starts[starts.len() - 1] + *new as f64);
    }
    let rows = [starts[count] as usize, heads, head_dim];
    let cache = [PAGES, kv_heads, PAGE_SIZE, head_dim];
    let slots = sequences.iter().map(|s| s[1] as f64);
    let mut operands = vec![
        Operand::out(&rows),
        Operand::random(&rows, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::random(&cache, Generator::Normal),
        Operand::values(&[count, max_pages], table.collect()),
        Operand::values(&[count + 1], starts),
        Operand::values(&[count], slots.collect()),
    ];
    if mask == Mask::Prefix {
        let prefix = sequences.iter().map(|s| (s[1] / 2) as f64);
        operands.push(Operand::values(&[count], prefix.collect()));
    }
    Case::new(op, operands)
}

fn passes(case: &Case<Attention>) {
    let outcome = Suite::new(backend_cuda::open("cuda:0").unwrap()).run_case(case);
    println!("{outcome}");
    assert!(outcome.status.is_pass(), "{outcome}");
}

#[test]
fn long_caches_have_parts_of_several_blocks() {
    emulated(
        "long_caches_have_parts_of_several_blocks",
        &[],
        |stand_in| {
            // 65 blocks in 33 parts, 129 in 43; the last one is not full.
            for slots in [4096 + 7, 8192 + 1] {
                passes(&case([2, 1, 64], 513, Mask::Causal, &[[1, slots]]));
            }
            passes(&case(
                [2, 2, 64],
                300,
                Mask::Causal,
                &[[3, 4700], [1, 65], [0, 0], [1, 4096]],
            ));
            let ran = stand_in.kernels();
            assert!(ran.contains("attention_merge") && !ran.contains("attention_many"));
        },
    );
}

#[test]
fn more_sequences_than_there_is_memory_for_take_turns() {
    emulated(
        "more_sequences_than_there_is_memory_for_take_turns",
        &[],
        |stand_in| {
            // 32 heads and 64 parts: 58 sequences at once, of which one has many rows.
            let mut sequences = vec![[2, 70]; 60];
            sequences[20] = [9, 80];
            sequences[59] = [4, 30];
            passes(&case([32, 2, 64], 256, Mask::Full, &sequences));
            let ran = stand_in.kernels();
            assert!(
                ["many", "few", "merge"]
                    .iter()
                    .all(|n| ran.contains(&format!("attention_{n}")))
            );
        },
    );
}

/// Prompts that go through many blocks: each buffer is used again, and again.
fn long_prompts() {
    for (mask, dim) in [
        (Mask::Causal, 128),
        (Mask::Prefix, 128),
        (Mask::Full, 128),
        (Mask::Causal, 64),
    ] {
        let sequences = [[70, 1000], [1, 90], [40, 40], [0, 0], [33, 129]];
        passes(&case([4, 2, dim], 64, mask, &sequences));
        passes(&case([2, 2, dim], 64, mask, &[[150, 700]]));
    }
}

#[test]
fn prompts_go_through_many_blocks() {
    emulated("prompts_go_through_many_blocks", &[], |stand_in| {
        long_prompts();
        assert!(stand_in.kernels().contains("attention_hopper"));
    });
}

#[test]
fn prompts_go_through_many_blocks_without_wgmma() {
    let name = "prompts_go_through_many_blocks_without_wgmma";
    emulated(name, &[("GLM_CUDA_WGMMA", "0")], |stand_in| {
        long_prompts();
        assert!(!stand_in.kernels().contains("attention_hopper"));
    });
}
