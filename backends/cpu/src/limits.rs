//! The machine's limits, by loops that do nothing else: what the kernels are held against.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hal::{Buffer, DeviceId, Result, View};

use crate::memory::{CpuMemory, elements, elements_mut};
use crate::pool::Pool;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx;

/// Far beyond the last-level cache.
const MEMORY_BYTES: usize = 512 << 20;

/// Bytes of one measurement: about 2 ms, shorter than a time slice of the system, so that the best of many
/// measurements is one without an interruption.
const READ_BYTES: usize = 64 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes per second read from memory.
    Read,
    /// f32 operations per second, two for each fused multiply-add.
    F32,
    /// Operations per second of bf16: of AMX's tiles, else of `vdpbf16ps`, four per lane.
    Bf16,
    /// Operations per second of integers: of AMX's tiles, else of `vpdpbusd`, eight per lane; of AVX2 `vpmaddubsw` and a sum, four per
    /// lane of 16 bits.
    Int8,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Limit; 4] = [Limit::Read, Limit::F32, Limit::Bf16, Limit::Int8];

    /// Whether this CPU has what is measured.
    pub fn is_available(self) -> bool {
        self == Limit::Read || self.products().is_some()
    }

    /// The loop of products that is measured, the best that this CPU has.
    fn products(self) -> Option<Products> {
        #[cfg(target_arch = "x86_64")]
        if let Some(best) = self.products_of_x86() {
            return Some(best);
        }
        (self == Limit::F32).then_some(Products {
            operations: ROUNDS * SUMS * 4 * 2,
            run: multiply_scalars,
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn products_of_x86(self) -> Option<Products> {
        /// `$each` operations in each of `$rounds`.
        macro_rules! products {
            ($rounds:expr, $each:expr, $run:expr) => {
                Some(Products {
                    operations: $rounds * $each,
                    // SAFETY: chosen where the CPU has it.
                    run: || unsafe { $run },
                })
            };
        }
        const TILE_ROUNDS: usize = ROUNDS / PER_TILES;
        let has_avx2 = is_x86_feature_detected!("avx2");
        match self {
            Limit::F32 if is_x86_feature_detected!("avx512f") => {
                products!(ROUNDS, SUMS * 16 * 2, x86::f32_512())
            }
            Limit::F32 if has_avx2 && is_x86_feature_detected!("fma") => {
                products!(ROUNDS, SUMS_256 * 8 * 2, x86::f32_256())
            }
            Limit::Bf16 if amx::is_allowed() => products!(
                TILE_ROUNDS,
                amx::ROUND_PRODUCTS,
                amx::over_and_over(amx::Products::Bf16, TILE_ROUNDS)
            ),
            Limit::Bf16 if is_x86_feature_detected!("avx512bf16") => {
                products!(ROUNDS, SUMS * 16 * 4, x86::bf16())
            }
            Limit::Int8 if amx::is_allowed() => products!(
                TILE_ROUNDS,
                2 * amx::ROUND_PRODUCTS,
                amx::over_and_over(amx::Products::Int8, TILE_ROUNDS)
            ),
            Limit::Int8 if is_x86_feature_detected!("avx512vnni") => {
                products!(ROUNDS, SUMS * 16 * 8, x86::int8_512())
            }
            Limit::Int8 if is_x86_feature_detected!("avxvnni") => {
                products!(ROUNDS, SUMS_256 * 8 * 8, x86::int8_vnni_256())
            }
            Limit::Int8 if has_avx2 => products!(ROUNDS, SUMS_256 * 16 * 4, x86::int8_256()),
            _ => None,
        }
    }
}

/// A loop that does nothing but multiply and add.
struct Products {
    /// Of one run.
    operations: usize,
    run: fn(),
}

/// Measures limits with a number of threads.
#[derive(Debug)]
pub struct Limits {
    /// Threads that last: new ones share a core for their first milliseconds.
    pool: Pool,
    /// As weights lie: in huge pages, where the system gives them.
    memory: Buffer,
    next: AtomicUsize,
}

impl Limits {
    /// For `threads` threads.
    ///
    /// # Errors
    /// `OutOfMemory` without half a GiB to read; `Io` when the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self> {
        let memory = Buffer::new(CpuMemory::new(MEMORY_BYTES, DeviceId::new())?);
        // Pages that nobody wrote are all the same one.
        // SAFETY: this is the only reference to bytes.
        unsafe { elements_mut::<u8>(&View::of_bytes(&memory)) }.fill(1);
        Ok(Self {
            pool: Pool::new(threads)?,
            memory,
            next: AtomicUsize::new(0),
        })
    }

    /// Bytes or operations of one [`Self::run`].
    pub fn amount(&self, limit: Limit) -> f64 {
        match limit {
            Limit::Read => READ_BYTES as f64,
            _ => {
                let operations = limit.products().map_or(0, |products| products.operations);
                (operations * self.pool.threads()) as f64
            }
        }
    }

    /// Does the work of one measurement.
    pub fn run(&self, limit: Limit) {
        self.run_ahead(limit, AHEAD_BYTES[0]);
    }

    fn run_ahead(&self, limit: Limit, ahead: usize) {
        // SAFETY: bytes, and nobody writes them any more.
        let memory = unsafe { elements::<u8>(&View::of_bytes(&self.memory)) };
        let memory: &[u64] = bytemuck::cast_slice(memory);
        let start = self.next.fetch_add(READ_BYTES / 8, Ordering::Relaxed) % memory.len();
        let memory = &memory[start..start + READ_BYTES / 8];
        let products = limit.products().map(|products| products.run);
        let work = |part: &[u64]| match (limit, products) {
            (Limit::Read, _) => read(part, ahead),
            (_, Some(run)) => run(),
            (_, None) => {}
        };
        self.pool.run(|thread, threads| {
            let part = |thread| memory.len() * thread / threads;
            work(&memory[part(thread)..part(thread + 1)]);
        });
    }

    /// Bytes or operations per second, the best of `seconds`.
    pub fn measure(&self, limit: Limit, seconds: f64) -> f64 {
        let variants = match limit {
            Limit::Read => &AHEAD_BYTES[..],
            _ => &AHEAD_BYTES[..1],
        };
        let seconds = seconds / variants.len() as f64;
        let rates = (variants.iter()).map(|&a| best(seconds, || self.run_ahead(limit, a)));
        rates.fold(0.0, f64::max) * self.amount(limit)
    }
}

/// Runs per second of the fastest run in `seconds`.
pub fn best(seconds: f64, mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), 0.0f64);
    while start.elapsed().as_secs_f64() < seconds {
        let one = Instant::now();
        run();
        best = best.max(1.0 / one.elapsed().as_secs_f64());
    }
    best
}

/// How far ahead memory is asked for. Which is best depends on the machine and its neighbours.
const AHEAD_BYTES: [usize; 4] = [2048, 512, 4096, 0];

/// Independent sums: enough to hide the latency of one.
const SUMS: usize = 16;
/// As many as sixteen registers hold with what is multiplied.
#[cfg(target_arch = "x86_64")]
const SUMS_256: usize = 12;
/// About 1 ms.
const ROUNDS: usize = 200_000;
/// Rounds of vectors for one of tiles, which takes longer.
#[cfg(target_arch = "x86_64")]
const PER_TILES: usize = 4;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ROUNDS, SUMS, SUMS_256, black_box};

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_512(memory: &[u64], ahead: usize) {
        let mut sums = [_mm512_setzero_si512(); 8];
        for lines in memory.chunks_exact(64) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = lines[i * 8..].as_ptr();
                // Past the end too: prefetches never fault.
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                // SAFETY: a piece is eight vectors long.
                *sum = _mm512_or_si512(*sum, unsafe { _mm512_loadu_si512(at.cast()) });
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_256(memory: &[u64], ahead: usize) {
        let mut sums = [_mm256_setzero_si256(); 8];
        for lines in memory.chunks_exact(32) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = lines[i * 4..].as_ptr();
                if i % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                }
                // SAFETY: a piece is eight vectors long.
                *sum = _mm256_or_si256(*sum, unsafe { _mm256_loadu_si256(at.cast()) });
            }
        }
        black_box(sums);
    }

    /// `$name`: `$count` sums, `$start` at first, grow by products of `$factor` over and over.
    macro_rules! products {
        ($name:ident, $features:literal, $count:ident, $start:expr, $factor:expr, |$sum:ident, $x:ident| $next:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name() {
                let $x = $factor;
                let mut sums = [$start; $count];
                for _ in 0..ROUNDS {
                    for $sum in &mut sums {
                        *$sum = $next;
                    }
                }
                black_box(sums);
            }
        };
    }

    products! { f32_512, "avx512f", SUMS, _mm512_set1_ps(black_box(0.0)), _mm512_set1_ps(black_box(0.5)),
        |sum, x| _mm512_fmadd_ps(x, x, *sum)
    }
    products! { f32_256, "avx2,fma", SUMS_256, _mm256_set1_ps(black_box(0.0)), _mm256_set1_ps(black_box(0.5)),
        |sum, x| _mm256_fmadd_ps(x, x, *sum)
    }
    products! { bf16, "avx512f,avx512bf16", SUMS, _mm512_set1_ps(black_box(0.0)),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.5))),
        |sum, x| _mm512_dpbf16_ps(*sum, x, x)
    }
    products! { int8_512, "avx512f,avx512vnni", SUMS, _mm512_set1_epi32(black_box(0)), _mm512_set1_epi8(black_box(1)),
        |sum, x| _mm512_dpbusd_epi32(*sum, x, x)
    }
    products! { int8_vnni_256, "avx2,avxvnni", SUMS_256, _mm256_set1_epi32(black_box(0)), _mm256_set1_epi8(black_box(1)),
        |sum, x| _mm256_dpbusd_avx_epi32(*sum, x, x)
    }
    // By its own sum, so that no two products are one.
    products! { int8_256, "avx2", SUMS_256, _mm256_set1_epi16(black_box(0)), _mm256_set1_epi8(black_box(1)),
        |sum, x| _mm256_add_epi16(*sum, _mm256_maddubs_epi16(x, *sum))
    }
}

fn read(memory: &[u64], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just detected.
            return unsafe { x86::read_512(memory, ahead) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: just detected.
            return unsafe { x86::read_256(memory, ahead) };
        }
    }
    // Without the instruction, the hardware's own prefetching is all there is.
    let _ = ahead;
    let mut sums = [0u64; 32];
    for lines in memory.chunks_exact(32) {
        for (sum, x) in sums.iter_mut().zip(lines) {
            *sum |= x;
        }
    }
    black_box(sums);
}

fn multiply_scalars() {
    let mut sums = [[black_box(0.0f32); 4]; SUMS];
    let (a, b) = (black_box(0.5f32), black_box(0.5f32));
    for _ in 0..ROUNDS {
        for x in sums.as_flattened_mut() {
            *x = if cfg!(target_arch = "aarch64") {
                a.mul_add(b, *x)
            } else {
                a * b + *x
            };
        }
    }
    black_box(sums);
}
