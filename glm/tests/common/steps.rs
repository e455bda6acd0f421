//! Steps of a decode: the embedded model in its middle of a conversation.

use std::time::{Duration, Instant};

use glm::demo;
use glm::engine::Session;
use glm::model::Options;
use glm::sampler::Sampling;
use hal::DType;
use ops::Context;

use super::counting::{allocations, owners};

/// Steps before anything is counted: kernels, staging memory and page tables have been used once.
pub const WARM: usize = 8;

/// What a step reads from the device: the token's id, then its logit, which must be a number.
pub const READS: u64 = 2;

/// A sampled token each, with a penalty: every upload of a step happens.
pub const SAMPLING: Sampling = Sampling {
    temperature: 0.9,
    top_k: 20,
    top_p: 0.95,
    repetition_penalty: 1.1,
    seed: 7,
};

/// Runs `work` on a session that has decoded [`WARM`] tokens.
pub fn warm(context: &Context, work: impl FnOnce(&mut Session<'_>)) {
    let options = Options {
        dtype: Some(DType::F32),
        context: Some(256),
        ..Options::default()
    };
    let engine = demo::folder_files()
        .load(context, &options, |_, _| {})
        .unwrap();
    let mut session = engine.session().unwrap();
    let prompt: Vec<u32> = (0..20).collect();
    session.prefill(prompt).unwrap();
    for _ in 0..WARM {
        session.decode(&SAMPLING).unwrap();
    }
    work(&mut session);
}

/// Decodes `n` tokens: the median of their times, and the shortest.
pub fn times(session: &mut Session<'_>, n: usize) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..n)
        .map(|_| {
            let start = Instant::now();
            session.decode(&SAMPLING).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[n / 2], times[0])
}

/// That an allocation is counted and attributed, or tests that count would prove nothing.
pub fn check_counting() {
    let before = allocations();
    let found = owners(|| drop(std::hint::black_box(Box::new(1u8))));
    assert!(allocations() > before);
    assert_eq!(found.ours.values().sum::<usize>(), 1, "{found:#?}");
}
