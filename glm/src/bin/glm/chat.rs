//! `glm chat`: a conversation, or one question.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm::engine::{Engine, FinishReason, Generation, GenerationParams, Session};
use glm::model::{Model, Options};
use glm::prompt::{ChatOptions, ChatTemplate, Message};
use hal::{Error, ErrorKind};
use rustyline::error::ReadlineError;
use serde_json::json;

use crate::args::{Chat, Global};
use crate::failure::{Failure, print_error};
use crate::{load, output};

pub(crate) fn run(global: &Global, args: &Chat) -> Result<(), Failure> {
    let source = load::source(args.model.as_deref());
    // What cannot be talked to is not worth loading.
    let tokenizer = source.tokenizer()?;
    let template = source.template(&tokenizer)?;
    let generation = source.generation_config()?;
    let options = Options {
        context: args
            .context
            .or(args.model.is_none().then_some(glm::demo::CONTEXT)),
        ..Options::default()
    };
    let options = load::with_dtype(global, options);
    let context = load::context(global)?;
    let (architecture, checkpoint) = (source.architecture()?, source.checkpoint()?);
    let model = load::with_progress(global, |progress| {
        Model::load(&context, &architecture, &checkpoint, &options, progress)
    })?;
    let engine = Engine::new(&context, model, tokenizer)?;

    let mut params = GenerationParams::from(&generation);
    let turn_ends = ChatTemplate::turn_ends(engine.tokenizer());
    params.stop_ids.extend(turn_ends);
    params.stop = args.stop.clone();
    params.max_new_tokens = args.max_tokens;
    let sampling = &mut params.sampling;
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.unwrap_or(sampling.top_k);
    sampling.top_p = args.top_p.unwrap_or(sampling.top_p);
    sampling.repetition_penalty = args
        .repetition_penalty
        .unwrap_or(sampling.repetition_penalty);
    sampling.seed = global.seed.unwrap_or_else(clock_seed);
    sampling.check()?;

    let mut talk = Talk {
        global,
        template: &template,
        session: engine.session()?,
        engine: &engine,
        params,
        messages: args
            .system
            .iter()
            .map(|text| Message::new("system", text))
            .collect(),
        interrupted: catch_interrupts()?,
    };
    match &args.prompt {
        Some(prompt) => talk.once(prompt),
        None if std::io::stdin().is_terminal() => talk.interactive(),
        None => talk.piped(),
    }
}

/// Sampled answers differ from run to run unless `--seed` is given.
fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// A flag that Ctrl-C sets: it ends an answer, not the program.
fn catch_interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        // A second Ctrl-C while the first still waits to be noticed.
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::new(ErrorKind::Io, "listen for Ctrl-C", e.to_string()))?;
    Ok(flag)
}

struct Talk<'a> {
    global: &'a Global,
    template: &'a ChatTemplate,
    engine: &'a Engine,
    session: Session<'a>,
    params: GenerationParams,
    messages: Vec<Message>,
    interrupted: Arc<AtomicBool>,
}

const HELP: &str = "\
/clear          forget the conversation (the system message stays)
/system [TEXT]  set or remove the system message; forgets the conversation
/seed N         seed of the next answers
/save FILE      write the conversation as JSON
/stop           end (also Ctrl-D); Ctrl-C ends an answer";

impl Talk<'_> {
    /// One question; the answer alone on stdout.
    fn once(&mut self, prompt: &str) -> Result<(), Failure> {
        let answer = self.answer(prompt, !self.global.json)?;
        if self.global.json {
            output::json(&self.document(&answer))?;
        }
        match answer.finish {
            FinishReason::Cancelled => Err(Failure::Interrupted),
            _ => Ok(()),
        }
    }

    /// Questions from lines of stdin, answers on stdout: for scripts.
    fn piped(&mut self) -> Result<(), Failure> {
        for line in std::io::stdin().lock().lines() {
            if self.turn(line?.trim())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Questions from a person.
    fn interactive(&mut self) -> Result<(), Failure> {
        let editor_error =
            |e: ReadlineError| Error::new(ErrorKind::Io, "read from the terminal", e.to_string());
        let mut editor = rustyline::DefaultEditor::new().map_err(editor_error)?;
        eprintln!("/help lists the commands");
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    // A full history is no reason to end the conversation.
                    let _ = editor.add_history_entry(&line);
                    if self.turn(line.trim())?.is_break() {
                        return Ok(());
                    }
                }
                Err(ReadlineError::Interrupted) => eprintln!("/stop or Ctrl-D ends"),
                Err(ReadlineError::Eof) => return Ok(()),
                Err(e) => return Err(editor_error(e).into()),
            }
        }
    }

    /// One line: a command or a question. What goes wrong with one line does not end the conversation, unless the
    /// device is lost.
    fn turn(&mut self, line: &str) -> Result<ControlFlow<()>, Failure> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "" => {}
            // ChatGLM's own demo knows the bare words.
            "/stop" | "/quit" | "/exit" | "stop" if rest.is_empty() => {
                return Ok(ControlFlow::Break(()));
            }
            "/clear" | "clear" if rest.is_empty() => self.clear(),
            "/help" => eprintln!("{HELP}"),
            "/system" => {
                self.messages.clear();
                self.session.clear();
                self.messages
                    .extend((!rest.is_empty()).then(|| Message::new("system", rest)));
            }
            "/seed" => match rest.parse() {
                Ok(seed) => self.params.sampling.seed = seed,
                Err(_) => eprintln!("error: '{rest}' is no seed; next: /seed 42"),
            },
            "/save" => match self.save(rest) {
                Ok(()) => eprintln!("saved {rest}"),
                Err(e) => print_error(&e),
            },
            _ if word.starts_with('/') => {
                eprintln!("error: no command {word}; next: /help lists them")
            }
            _ => match self.answer(line, true) {
                Ok(_) => {}
                Err(Failure::Error(e, _)) if e.kind() != ErrorKind::DeviceLost => print_error(&e),
                Err(failure) => return Err(failure),
            },
        }
        Ok(ControlFlow::Continue(()))
    }

    fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
        self.session.clear();
    }

    fn save(&self, file: &str) -> hal::Result<()> {
        let doing = format!("save the conversation as '{file}'");
        if file.is_empty() {
            return Err(Error::invalid(doing, "no file was named").next_step("/save talk.json"));
        }
        let document = json!({ "schema": "glm/talk/1", "messages": self.messages });
        std::fs::write(file, format!("{document:#}\n")).map_err(|e| {
            Error::new(ErrorKind::Io, doing, e.to_string()).next_step("choose another file")
        })
    }

    /// Asks, prints the answer while it comes when `print`, and keeps both. A failed or empty question leaves the
    /// conversation as it was.
    fn answer(&mut self, question: &str, print: bool) -> Result<Generation, Failure> {
        self.messages.push(Message::new("user", question));
        match self.generate(print) {
            Ok(answer) => {
                self.messages
                    .push(Message::new("assistant", answer.text.as_str()));
                if !self.global.quiet && !self.global.json {
                    print_speed(&answer);
                }
                Ok(answer)
            }
            Err(failure) => {
                self.messages.pop();
                Err(failure)
            }
        }
    }

    fn generate(&mut self, print: bool) -> Result<Generation, Failure> {
        let options = ChatOptions {
            add_generation_prompt: true,
            ..ChatOptions::default()
        };
        let ids = self.prompt(&options)?;
        self.interrupted.store(false, Ordering::Relaxed);
        let mut out = std::io::stdout().lock();
        let mut written = Ok(());
        let answer = self.session.generate(&ids, &self.params, |token| {
            if print && !token.text.is_empty() {
                written = out
                    .write_all(token.text.as_bytes())
                    .and_then(|()| out.flush());
            }
            match written.is_err() || self.interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        written?;
        if print {
            writeln!(out)?;
        }
        Ok(answer)
    }

    /// The conversation as ids. When it leaves less than half of the context for the answer, the oldest turns are
    /// forgotten.
    fn prompt(&mut self, options: &ChatOptions) -> Result<Vec<u32>, Failure> {
        let context = self.engine.context();
        let room = self.params.max_new_tokens.min(context / 2);
        loop {
            let tokenizer = self.engine.tokenizer();
            let ids = self
                .template
                .encode_chat(tokenizer, &self.messages, options)?;
            let first = usize::from(self.messages[0].role == "system");
            // The question itself stays: one that is too long is an error.
            if ids.len() + room <= context || self.messages.len() <= first + 1 {
                return Ok(ids);
            }
            self.messages.drain(first..first + 2);
            if !self.global.quiet {
                eprintln!("[the oldest turn is forgotten: the context is {context} tokens]");
            }
        }
    }

    fn document(&self, answer: &Generation) -> serde_json::Value {
        let stats = &answer.stats;
        json!({
            "schema": "glm/chat/1",
            "answer": answer.text,
            "finish": match answer.finish {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::Cancelled => "cancelled",
            },
            "device": self.global.device,
            "seed": self.params.sampling.seed,
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": answer.ids.len(),
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
        })
    }
}

/// `[prefill 18 tok 412 tok/s · decode 31.2 tok/s]`
fn print_speed(answer: &Generation) {
    let stats = &answer.stats;
    let rate = |tokens: usize, seconds: f64| match seconds > 0.0 && tokens > 0 {
        true => format!("{:.1} tok/s", tokens as f64 / seconds),
        false => "-".into(),
    };
    let prompt = stats.prompt_tokens - stats.reused_tokens;
    eprintln!(
        "[prefill {prompt} tok {} · decode {}]",
        rate(prompt, stats.prefill_seconds),
        rate(stats.new_tokens.saturating_sub(1), stats.decode_seconds),
    );
}
