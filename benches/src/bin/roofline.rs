//! One Markdown table: what each product reaches of the limit that binds it, measured alternately in the same run.
//!
//! `roofline [word…]`: only rows that contain every word, for example `roofline 1.5b m=1 int4`.

use backend_cpu::limits::{Limit, Limits, best};
use backend_cpu::{Isa, Options};
use benches::shapes;
use glm::speed::{Operation, Product};
use hal::{DType, Result, Stream, WeightFormat};
use ops::Context;

/// Alternations of limit and product.
const ROUNDS: usize = 5;

/// Time of one measurement of a product.
const SECONDS: f64 = 0.05;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, all];
    counts.dedup();
    println!(
        "| product | rows | format | threads | best | median | limit (best) | best share | median share |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for threads in counts {
        let options = Options {
            threads: Some(threads),
            ..Options::default()
        };
        let context = Context::new(backend_cpu::open(&options)?);
        let limits = Limits::new(threads)?;
        let mut stream = context.device().stream()?;
        for (x, format) in [
            (DType::BF16, WeightFormat::Dense(DType::BF16)),
            (DType::BF16, WeightFormat::Int8Row),
            (DType::BF16, WeightFormat::Int4Row),
            (DType::BF16, WeightFormat::Int4Group(32)),
            (DType::F32, WeightFormat::Dense(DType::F32)),
        ] {
            for m in [1, 8, 128, 512] {
                for shape in shapes()? {
                    let row = format!(
                        "| {} {} {}x{} | m={m} | {x}·{format} | {threads} |",
                        shape.model, shape.layer, shape.n, shape.k
                    );
                    if words.iter().all(|word| row.contains(word)) {
                        let product = Product::new(&context, [shape.n, shape.k], x, format)?;
                        let bytes = product.weight_bytes() as f64;
                        let mut rows = product.rows(&context, m)?;
                        let compared = compare(&limits, &mut rows, bytes, x, &mut *stream)?;
                        println!("{row}{compared}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// The right half of a row, for a product that reads `bytes` of weight.
fn compare(
    limits: &Limits,
    product: &mut Operation,
    bytes: f64,
    x: DType,
    stream: &mut dyn Stream,
) -> Result<String> {
    // Memory is mapped on its first use.
    product.launch(stream)?;
    let compute = if x == DType::BF16 && Isa::detect().has_bf16() {
        Limit::Bf16
    } else {
        Limit::F32
    };
    // The limit that would take longer binds.
    let operations = product.amounts.operations();
    let reading = bytes / limits.measure(Limit::Read, SECONDS);
    let computing = operations / limits.measure(compute, SECONDS);
    let (limit, amount, unit) = if reading > computing {
        (Limit::Read, bytes, "GB/s")
    } else {
        (compute, operations, "GFLOP/s")
    };
    let (mut reached, mut possible) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        possible.push(limits.measure(limit, SECONDS));
        let mut failed = None;
        let rate = best(SECONDS, || {
            failed = failed.take().or(product.launch(stream).err())
        });
        if let Some(e) = failed {
            return Err(e);
        }
        reached.push(rate * amount);
    }
    let mut shares: Vec<f64> = reached.iter().zip(&possible).map(|(r, p)| r / p).collect();
    for values in [&mut reached, &mut possible, &mut shares] {
        values.sort_by(f64::total_cmp);
    }
    let (top, limit) = (reached[ROUNDS - 1], possible[ROUNDS - 1]);
    Ok(format!(
        " {:.1} {unit} | {:.1} | {:.1} | {:.0} % | {:.0} % |",
        top / 1e9,
        reached[ROUNDS / 2] / 1e9,
        limit / 1e9,
        100.0 * top / limit,
        100.0 * shares[ROUNDS / 2],
    ))
}
