//! `glm fill`: a text with blanks, or a beginning.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use glm::engine::FinishReason;
use glm::prompt::fill::FillForm;
use serde::Serialize;
use serde_json::json;

use crate::args::{Fill, Global};
use crate::failure::Failure;
use crate::{load, output};

#[derive(Serialize)]
struct Blank {
    text: String,
    finish: &'static str,
    tokens: usize,
}

pub(crate) fn run(global: &Global, args: &Fill) -> Result<(), Failure> {
    let source = load::source(Some(&args.model));
    let tokenizer = source.tokenizer()?;
    let form = FillForm::choose(source.architecture()?.blank, &tokenizer)?;
    // What cannot be filled is not worth loading a model for.
    let mut filling = form.begin(&tokenizer, &args.text, args.language.as_deref())?;
    let recommended = source.generation_config()?;
    let params = load::params(global, &args.generate, &recommended, form.stop_ids())?;
    let engine = load::engine(global, &args.generate, &source, tokenizer, None)?;
    let interrupted = load::catch_interrupts()?;
    let mut session = engine.session()?;
    let mut blanks = Vec::new();
    while let Some(prompt) = filling.next() {
        let answer = session.generate(prompt, &params, |_| {
            match interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if answer.finish == FinishReason::Cancelled {
            return Err(Failure::Interrupted);
        }
        filling.put(&answer.ids);
        blanks.push(Blank {
            finish: output::finish(answer.finish),
            tokens: answer.ids.len(),
            text: answer.text,
        });
    }
    let text = filling.text(engine.tokenizer())?;
    if global.json {
        return output::json(&json!({
            "schema": "glm/fill/1",
            "text": text,
            "blanks": blanks,
            "device": global.device,
            "seed": params.sampling.seed,
        }));
    }
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
