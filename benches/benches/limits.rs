//! The machine's limits: memory read, f32 multiply-add, `vdpbf16ps`, on one thread and on all.

use backend_cpu::limits::{Limit, Limits};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn limits(criterion: &mut Criterion) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, all];
    counts.dedup();
    for threads in counts {
        let limits = Limits::new(threads).expect("half a GiB of memory");
        for limit in Limit::ALL {
            if !limit.is_available() {
                println!("SKIPPED: {limit:?}: this CPU has no such instruction");
                continue;
            }
            let mut group = criterion.benchmark_group(format!("{limit:?}"));
            let amount = limits.amount(limit) as u64;
            group.sample_size(10).throughput(match limit {
                Limit::Read => Throughput::BytesDecimal(amount),
                _ => Throughput::Elements(amount),
            });
            let id = BenchmarkId::from_parameter(format!("{threads} threads"));
            group.bench_function(id, |bencher| bencher.iter(|| limits.run(limit)));
        }
    }
}

criterion_group!(benches, limits);
criterion_main!(benches);
