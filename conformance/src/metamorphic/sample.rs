//! Properties of sampling.

use hal::Result;
use ops::reference::Tensor;
use ops::{Sample, SampleControl};

use super::{HOLDS, Held, Row, backwards, equal, first, largest, reordered, require, rows};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
    ("sample", "a row draws the same in any batch", draws_alone),
    ("sample", "temperature zero is argmax", greedy),
];

/// Rows of logits, each with its own control.
fn drawn(lab: &Lab, logits: &Tensor, controls: &[SampleControl]) -> Result<Option<Vec<Tensor>>> {
    let (m, vocab) = (logits.shape[0], logits.shape[1]);
    let floats = controls.iter().flat_map(|c| c.floats().map(f64::from));
    let ints = controls.iter().flat_map(|c| c.ints().map(f64::from));
    let inputs = [
        logits.clone(),
        Tensor::new(&[m, 3], floats.collect()),
        Tensor::new(&[m, 4], ints.collect()),
        Tensor::new(&[m, 1], vec![3.0; m]),
        Tensor::new(&[m], vec![1.0; m]),
    ];
    lab.run(Sample { vocab }, &[&[m]], &inputs)
}

const CONTROL: SampleControl = SampleControl {
    temperature: 0.8,
    top_p: 0.9,
    repetition_penalty: 1.1,
    top_k: 40,
    seed: 7,
    step: 0,
};

fn draws_alone(lab: &Lab) -> Held {
    let m = 16;
    let logits = normal(&[m, 300], "draws").map(|x| 3.0 * x);
    let controls: Vec<SampleControl> = (0..m as u32)
        .map(|step| SampleControl {
            step,
            temperature: 0.3 + step as f32 / 8.0,
            ..CONTROL
        })
        .collect();
    let all = first!(drawn(lab, &logits, &controls));
    let back = first!(drawn(
        lab,
        &reordered(&logits, &backwards(m)),
        &controls.iter().rev().copied().collect::<Vec<_>>()
    ));
    require!(equal(&back.data, &reordered(&all, &backwards(m)).data));
    for r in 0..m {
        let alone = first!(drawn(lab, &rows(&logits, r, 1), &controls[r..r + 1]));
        require!(equal(&alone.data, &all.data[r..r + 1]));
    }
    HOLDS
}

fn greedy(lab: &Lab) -> Held {
    let logits = normal(&[9, 300], "greedy");
    let control = SampleControl {
        temperature: 0.0,
        repetition_penalty: 1.0,
        ..CONTROL
    };
    let drawn = first!(drawn(lab, &logits, &[control; 9]));
    let index = first!(largest(lab, &logits));
    Ok(Some(equal(&drawn.data, &index.data)))
}
