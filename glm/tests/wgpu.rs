//! The demo model on a wgpu adapter: the answers of the CPU, and its logits but for roundings.

use std::ops::ControlFlow;

use glm::backends;
use glm::demo;
use glm::engine::GenerationParams;
use glm::model::{Chunk, Options, Rows};
use glm::prompt::{ChatOptions, Message};
use hal::{DType, WeightFormat};
use ops::Context;

fn open(device: &str) -> hal::Result<Context> {
    backends::open(device, &backends::Options::default()).map(Context::new)
}

/// The first adapter, or `None`, with a word on stdout.
fn adapter() -> Option<Context> {
    match open("wgpu") {
        Ok(context) => Some(context),
        Err(e) => {
            conformance::skip("wgpu", e);
            None
        }
    }
}

/// The answer to a question, and the logits after it was asked.
fn answer(context: &Context, weights: Option<WeightFormat>, question: &str) -> (String, Vec<f32>) {
    let options = Options {
        dtype: Some(DType::F32),
        weights,
        context: Some(128),
        ..Options::default()
    };
    let source = demo::folder_files();
    let engine = source.load(context, &options, |_, _| {}).unwrap();
    let form = source.chat_form(engine.tokenizer()).unwrap();
    let chat = ChatOptions {
        add_generation_prompt: true,
        ..ChatOptions::default()
    };
    let messages = [Message::new("user", question)];
    let prompt = form.encode(engine.tokenizer(), &messages, &chat);
    let ids = prompt.unwrap().ids;
    let params = GenerationParams::from(&source.generation_config().unwrap());
    let mut session = engine.session().unwrap();
    let result = session.generate(&ids, &params, |_| ControlFlow::Continue(()));
    let text = result.unwrap().text;
    drop(session);
    let mut model = engine.model();
    let mut sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &ids,
        positions: None,
    };
    model.forward(&mut [chunk], Rows::Last).unwrap();
    let logits = model.read_logits().unwrap();
    (text, logits.to_vec())
}

#[test]
fn answers_as_on_the_cpu() {
    let Some(adapter) = adapter() else { return };
    let cpu = open("cpu").unwrap();
    let mut all = Vec::new();
    for weights in [None, Some(WeightFormat::Int4Group(32))] {
        let question = "What is 16 mod 12?";
        let (text, logits) = answer(&adapter, weights, question);
        let (wanted, reference) = answer(&cpu, weights, question);
        assert_eq!(text, wanted, "{weights:?}");
        let gaps = logits.iter().zip(&reference).map(|(a, b)| (a - b).abs());
        let gap = gaps.fold(0.0, f32::max);
        println!("{weights:?}: {text:?}, logits within {gap:e}");
        assert!(gap <= 2e-3, "{weights:?}: {gap}");
        all.push(logits);
    }
    assert_ne!(all[0], all[1], "the weights' format made no difference");
    for ((op, how), n) in adapter.counts() {
        println!("{op} {how}: {n}");
        assert_eq!(how, "native", "{op}");
    }
}
