//! `glm trace`: what a model computed, or when.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use glm::engine::{Engine, GenerationParams};
use glm::model::Options;
use glm::prompt::fill::FillForm;
use glm::prompt::{ChatOptions, Message, Prompt};
use glm::source::ModelSource;
use glm::tokenizer::Tokenizer;
use glm::trace::Recorder;
use glm::trace::timeline::Timeline;
use hal::{Error, ErrorKind};
use serde_json::json;

use crate::args::{Global, Trace};
use crate::failure::Failure;
use crate::{load, output};

pub(crate) fn run(global: &Global, args: &Trace) -> Result<(), Failure> {
    let source = load::source(args.model.as_deref());
    let tokenizer = source.tokenizer()?;
    let prompt = prompt(args, &source, &tokenizer)?;
    let options = Options {
        context: Some(prompt.ids.len() + args.max_tokens),
        max_tokens: Some(prompt.ids.len().max(1)),
        ..Options::default()
    };
    let options = load::with_dtype(global, options);
    let recorder = Arc::new(Recorder::new(&args.tensors));
    let timeline = Arc::new(Timeline::default());
    let context = load::context(global)?;
    let context = match &args.output {
        Some(_) => context.with_observer(recorder.clone()),
        None => context.with_observer(timeline.clone()),
    };
    let model = load::model(global, &context, &source, args.ptuning.as_deref(), &options)?;
    let name = model.architecture().model_type.clone();
    let engine = Engine::new(&context, model, tokenizer)?;
    recorder.begin();
    let params = GenerationParams {
        max_new_tokens: args.max_tokens,
        ..GenerationParams::default()
    };
    let ids = prompt.ids.clone();
    let generated = engine
        .session()?
        .generate(prompt, &params, |_| ControlFlow::Continue(()));
    // A run that ends in NaN is the one to look at: what was recorded is written first.
    let info = context.device().info();
    let (launches, path, not_finite) = match (&args.output, &args.timeline) {
        (Some(path), _) => {
            let trace = recorder.finish(info, &name, ids);
            trace.write(path)?;
            let first = trace.first_not_finite();
            let first = first.map(|call| format!("{} ({})", call.place, call.op));
            (trace.calls.len(), path, first)
        }
        (None, Some(path)) => {
            timeline.write(path, info)?;
            (timeline.len(), path, None)
        }
        (None, None) => {
            let e = Error::invalid("trace a model", "no file to write is named");
            return Err(e.next_step("add -o FILE or --timeline FILE").into());
        }
    };
    let text = match &generated {
        Ok(generation) => Some(&generation.text),
        Err(_) => None,
    };
    if global.json {
        output::json(&json!({
            "schema": "glm/traced/1",
            "file": path,
            "launches": launches,
            "first_not_finite": not_finite,
            "text": text,
        }))?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{launches} launches: {}", path.display())?;
        if let Some(place) = not_finite {
            writeln!(out, "the first NaN or infinity was written by {place}")?;
        }
    }
    generated?;
    Ok(())
}

/// What goes in: the ids, or the question in the model's own form.
fn prompt(args: &Trace, source: &ModelSource, tokenizer: &Tokenizer) -> Result<Prompt, Failure> {
    if let Some(ids) = &args.ids {
        return Ok(Prompt::from(ids));
    }
    let text = args.prompt.as_deref().unwrap_or_default();
    match source.chat_form(tokenizer) {
        Ok(form) => {
            let options = ChatOptions {
                add_generation_prompt: true,
                ..ChatOptions::default()
            };
            Ok(form.encode(tokenizer, &[Message::new("user", text)], &options)?)
        }
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
            let form = FillForm::choose(source.architecture()?.blank, tokenizer)?;
            let next = form.begin(tokenizer, text, None)?.next();
            Ok(next.ok_or_else(|| Error::invalid("trace a model", "the prompt has no blank"))?)
        }
        Err(e) => Err(e.into()),
    }
}
