//! Each operation of GLM-4-9B on all threads, and the products of GLMs with weights in each format and x in both classes.
//!
//! `cargo bench -p glm-benches --bench ops -- NAME`: those whose name contains NAME, a regular expression: `attention`,
//! `'matmul int8/glm-edge.*int4 m=1$'`. Throughput is in operations per second, two for each multiply-add, of what
//! computing bounds, else in bytes that must be read and written. Weights of products are read from memory; other
//! operands may lie in a cache.

use std::cell::OnceCell;
use std::time::Duration;

use backend_cpu::{Activations, Options};
use benches::shapes;
use conformance::{Suite, speed};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use glm::speed::Product;
use hal::{DType, Result, WeightFormat};

/// Operations per byte from which computing bounds: about what CPUs do while they read one from memory.
const COMPUTED: f64 = 8.0;

/// Formats of the weights of products.
const FORMATS: [WeightFormat; 5] = [
    WeightFormat::Dense(DType::BF16),
    WeightFormat::Int8Row,
    WeightFormat::Int8Group(32),
    WeightFormat::Int4Row,
    WeightFormat::Int4Group(32),
];

/// The CPU, whose products do this with activations.
fn cpu(activations: Activations) -> Result<Suite> {
    let options = Options {
        activations,
        ..Options::default()
    };
    Ok(Suite::new(backend_cpu::open(&options)?))
}

/// A group whose benches take a second each.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group
}

fn throughput(operations: f64, bytes: f64) -> Throughput {
    match operations / bytes > COMPUTED {
        true => Throughput::Elements(operations as u64),
        false => Throughput::BytesDecimal(bytes as u64),
    }
}

/// The operations of the conformance suite's speed level but products, whose weights lie in a cache there.
fn rows(criterion: &mut Criterion) {
    let suite = cpu(Activations::Float).expect("the CPU opens");
    for timing in speed::timings() {
        if timing.op == "matmul" {
            continue;
        }
        let mut launches = timing
            .launches(&suite)
            .expect("the CPU has every operation");
        let mut group = group(criterion, timing.op);
        group.throughput(throughput(timing.operations, launches.bytes));
        group.bench_function(&timing.name, |bencher| {
            bencher.iter_custom(|n| launches.run(n).expect("the operation runs"));
        });
    }
}

fn matmul(criterion: &mut Criterion) {
    products(criterion, "matmul", Activations::Float, &FORMATS);
    products(criterion, "matmul int8", Activations::Int8, &FORMATS[1..]);
}

fn products(
    criterion: &mut Criterion,
    name: &str,
    activations: Activations,
    formats: &[WeightFormat],
) {
    let suite = match cpu(activations) {
        Ok(suite) => suite,
        Err(e) => return conformance::skip(name, e),
    };
    let context = suite.context();
    let mut stream = context.device().stream().expect("the CPU has streams");
    for shape in shapes().expect("the shapes are known") {
        for &format in formats {
            // Packed when it is run, and then once: a filtered bench packs nothing.
            let weight = OnceCell::new();
            let pack = || {
                Product::new(context, [shape.n, shape.k], DType::BF16, format)
                    .expect("memory suffices for the weight")
            };
            for m in [1, 8, 128, 512] {
                let mut group = group(criterion, name);
                let operations = 2.0 * (m * shape.n * shape.k) as f64;
                let moved = shape.n * format.row_bytes(shape.k) + 2 * m * (shape.n + shape.k);
                group.throughput(throughput(operations, moved as f64));
                let id = format!("{} {} {format} m={m}", shape.model, shape.layer);
                group.bench_function(id, |bencher| {
                    let product = weight.get_or_init(pack).rows(context, m);
                    let mut product = product.expect("memory suffices for the rows");
                    bencher.iter(|| product.launch(&mut *stream).expect("the product runs"));
                });
            }
        }
    }
}

criterion_group!(benches, rows, matmul);
criterion_main!(benches);
