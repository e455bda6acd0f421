//! Mutants of sampling.

use hal::Result;
use ops::{Sample, SampleControl, philox};

use super::{At, Change, common, math};
use crate::kernels::{SampleWays, draw};

const RIGHT: SampleWays = SampleWays::RIGHT;

fn with_ways(at: &mut At<'_, Sample>, ways: SampleWays) -> Result<()> {
    at.instead(|_, shapes, inputs| draw(&math(), shapes, inputs, &ways))
}

/// The uniform number of another seed, step or word.
fn uniform(seed: u64, counter: u64, word: usize) -> f32 {
    (philox(seed, counter)[word] >> 8) as f32 / (1 << 24) as f32
}

/// Mutants that take one step of the draw otherwise.
macro_rules! ways {
    ($($name:literal: $($field:ident: $value:expr),*;)*) => {
        [$(Change::run($name, |at| with_ways(at, SampleWays { $($field: $value,)* ..RIGHT }))),*]
    };
}

pub(super) fn mutants() -> Vec<Change<Sample>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(ways! {
        "temperature-ignored": heat: |logit, _| logit;
        "temperature-multiplied": heat: |logit, temperature| logit * temperature;
        "greedy-draws": greedy: false, heat: |logit, t| if t == 0.0 { logit } else { logit / t };
        "penalty-always-divides": penalise: |logit, penalty| logit / penalty;
        "penalty-always-multiplies": penalise: |logit, penalty| logit * penalty;
        "penalty-ignored": penalise: |logit, _| logit;
        "penalty-subtracted": penalise: |logit, penalty| logit - (penalty - 1.0);
        "penalty-once-per-occurrence": counts_repeats: true;
        "history-length-ignored": said: |_, capacity| capacity;
        "history-without-its-last-id": said: |len, capacity| {
            ((len - 1.0).max(0.0) as usize).min(capacity)
        };
        "top-k-ignored": top_k: |_, vocab| vocab;
        "top-k-one-too-many": top_k: |k, vocab| if k == 0 { vocab } else { (k + 1).min(vocab) };
        "top-p-ignored": stays: |_, _, _| true;
        "top-p-drops-the-token-that-crosses": stays: |_, with, top_p| with <= top_p;
        "top-p-keeps-one-too-many": stays: |before, with, top_p| 2.0 * before - with < top_p;
        "probabilities-not-renormalised": renormalises: false;
        "last-of-ties": last_of_ties: true;
        "seed-ignored": uniform: |control| uniform(0, u64::from(control.step), 0);
        "high-half-of-the-seed-ignored": uniform: |control| {
            uniform(u64::from(control.seed as u32), u64::from(control.step), 0)
        };
        "step-ignored": uniform: |control| uniform(control.seed, 0, 0);
        "step-off-by-one": uniform: |control| uniform(control.seed, u64::from(control.step) + 1, 0);
        "another-word-of-the-generator": uniform: |control| {
            uniform(control.seed, u64::from(control.step), 1)
        };
        "uniform-in-16-bits": uniform: |control: &SampleControl| {
            (control.uniform() * 256.0).floor() / 256.0
        };
        "uniform-reversed": uniform: |control: &SampleControl| 1.0 - control.uniform();
        "always-the-middle": uniform: |_| 0.5;
    });
    mutants.push(Change::run("controls-of-the-first-row-for-all", |at| {
        at.launch_with(2, |floats| {
            for i in 3..floats.len() {
                floats[i] = floats[i % 3];
            }
        })
    }));
    mutants
}
