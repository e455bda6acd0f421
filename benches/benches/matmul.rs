//! Matrix products of GLMs on all threads: GB/s of weights for one row, operations per second for many.

use backend_cpu::Options;
use benches::shapes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glm::speed::Product;
use hal::{DType, WeightFormat};
use ops::Context;

fn matmul(criterion: &mut Criterion) {
    let context = Context::new(backend_cpu::open(&Options::default()).expect("the CPU opens"));
    let mut stream = context.device().stream().expect("the CPU has streams");
    for shape in shapes().expect("the shapes are known") {
        for format in [
            WeightFormat::Dense(DType::BF16),
            WeightFormat::Int8Row,
            WeightFormat::Int8Group(32),
            WeightFormat::Int4Row,
            WeightFormat::Int4Group(32),
        ] {
            for m in [1, 128, 512] {
                let name = format!("{} {}", shape.model, shape.layer);
                let mut group = criterion.benchmark_group(name);
                // Made when it is run: a filtered bench packs nothing.
                let mut product = None;
                let mut make = || {
                    Product::new(&context, [shape.n, shape.k], DType::BF16, format)
                        .and_then(|product| product.rows(&context, m))
                        .expect("memory suffices")
                };
                let operations = 2 * (m * shape.n * shape.k) as u64;
                let bytes = (shape.n * format.row_bytes(shape.k)) as u64;
                group.sample_size(10).throughput(if m == 1 {
                    Throughput::BytesDecimal(bytes)
                } else {
                    Throughput::Elements(operations)
                });
                let id = BenchmarkId::from_parameter(format!("{format} m={m}"));
                group.bench_function(id, |bencher| {
                    let product = product.get_or_insert_with(&mut make);
                    bencher.iter(|| product.launch(&mut *stream).expect("the product runs"));
                });
            }
        }
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
