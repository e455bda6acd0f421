//! One Markdown table: a decoding step's attention over a long cache.
//!
//! `attend [DEVICE [depth…]]`: one new token of one sequence, f16, on `opencl:0` unless another is named; depths 4096 and 16384
//! unless given. The median of some rounds, by the host's clock, each waited for.

use std::time::Instant;

use hal::{DType, Result, View};
use ops::{Attention, AttentionArgs, Context, Mask};

/// Measured launches, after three that are not.
const ROUNDS: usize = 15;

/// Slots of a page.
const PAGE: usize = 16;

/// Heads and key-value heads of a model, of 128 elements each.
const MODELS: [(&str, usize, usize); 3] = [
    ("ChatGLM3-6B", 32, 2),
    ("GLM-Edge-1.5B", 16, 4),
    ("ChatGLM-6B", 32, 32),
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let spec = args.next().unwrap_or_else(|| "opencl:0".into());
    let mut depths: Vec<usize> = args.filter_map(|depth| depth.parse().ok()).collect();
    if depths.is_empty() {
        depths = vec![4096, 16384];
    }
    let context = Context::new(backend_opencl::open(&spec)?);
    println!("{}", context.device().info().name);
    println!("| model | heads | kv heads | depth | median | best | GB/s of cache |");
    println!("|---|---|---|---|---|---|---|");
    for (model, heads, kv_heads) in MODELS {
        for &depth in &depths {
            let times = measure(&context, heads, kv_heads, depth)?;
            let (best, median) = (times[0], times[ROUNDS / 2]);
            let bytes = (2 * 2 * kv_heads * depth * 128) as f64;
            println!(
                "| {model} | {heads} | {kv_heads} | {depth} | {:.2} ms | {:.2} ms | {:.2} |",
                1e3 * median,
                1e3 * best,
                bytes / median / 1e9
            );
        }
    }
    Ok(())
}

/// Seconds of each round, ascending.
fn measure(context: &Context, heads: usize, kv_heads: usize, depth: usize) -> Result<Vec<f64>> {
    let device = context.device();
    let dtype = DType::F16;
    let (pages, dim) = (depth.div_ceil(PAGE), 128);
    let plan = context.plan(Attention {
        heads,
        kv_heads,
        head_dim: dim,
        pages,
        page_size: PAGE,
        scale: 1.0 / (dim as f32).sqrt(),
        mask: Mask::Causal,
        dtype,
        kv: dtype,
    })?;
    let mut stream = device.stream()?;
    // Small positive halves: values do not matter to speed, as long as they are ordinary.
    let mut filled = |elements: usize| {
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|i| [(i % 251) as u8, 0x34])
            .collect();
        let buffer = device.alloc(bytes.len())?;
        stream.upload(&View::of_bytes(&buffer), &bytes)?;
        Ok::<_, hal::Error>(buffer)
    };
    let (q, out) = (filled(heads * dim)?, filled(heads * dim)?);
    let cache = pages * kv_heads * PAGE * dim;
    let (k, v) = (filled(cache)?, filled(cache)?);
    let mut numbers = |numbers: Vec<i32>| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let buffer = device.alloc(bytes.len())?;
        stream.upload(&View::of_bytes(&buffer), &bytes)?;
        Ok::<_, hal::Error>(buffer)
    };
    let table = numbers((0..pages as i32).rev().collect())?;
    let (starts, lengths) = (numbers(vec![0, 1])?, numbers(vec![depth as i32])?);
    let shapes: [&[usize]; 7] = [
        &[1, heads, dim],
        &[1, heads, dim],
        &[pages, kv_heads, PAGE, dim],
        &[pages, kv_heads, PAGE, dim],
        &[1, pages],
        &[2],
        &[1],
    ];
    let workspace = device.alloc(plan.workspace_bytes(&shapes))?;
    let args = AttentionArgs {
        out: View::new(&out, dtype, shapes[0])?,
        q: View::new(&q, dtype, shapes[1])?,
        k_pages: View::new(&k, dtype, shapes[2])?,
        v_pages: View::new(&v, dtype, shapes[3])?,
        block_table: View::new(&table, DType::I32, shapes[4])?,
        q_start: View::new(&starts, DType::I32, shapes[5])?,
        kv_len: View::new(&lengths, DType::I32, shapes[6])?,
        prefix: None,
    };
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + 3 {
        let start = Instant::now();
        plan.run(&mut *stream, args, &View::of_bytes(&workspace))?;
        stream.synchronize()?;
        if round >= 3 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}
