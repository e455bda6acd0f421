//! `glm chat`: a conversation, or one question.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm::engine::{Engine, FinishReason, Generation, GenerationParams, Session};
use glm::prompt::{Answer, ChatForm, ChatOptions, Message, Prompt};
use hal::{Error, ErrorKind};
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::args::{Chat, Global};
use crate::failure::{Failure, print_error};
use crate::{load, output};

pub(crate) fn run(global: &Global, args: &Chat) -> Result<(), Failure> {
    let source = load::source(args.model.as_deref());
    // What cannot be talked to is not worth loading.
    let tokenizer = source.tokenizer()?;
    let form = source.chat_form(&tokenizer)?;
    let tools = args.tools.as_deref().map(read_tools).transpose()?;
    let recommended = source.generation_config()?;
    let stop_ids = form.stop_ids(&tokenizer);
    let params = load::params(global, &args.generate, &recommended, &stop_ids)?;
    let context = args.model.is_none().then_some(glm::demo::CONTEXT);
    let engine = load::engine(global, &args.generate, &source, tokenizer, context)?;

    let mut talk = Talk {
        global,
        form: &form,
        session: engine.session()?,
        engine: &engine,
        params,
        options: ChatOptions {
            add_generation_prompt: true,
            tools,
            ..ChatOptions::default()
        },
        messages: args
            .system
            .iter()
            .map(|text| Message::new("system", text))
            .collect(),
        awaited: 0,
        interrupted: load::catch_interrupts()?,
    };
    match &args.prompt {
        Some(prompt) => talk.once(prompt),
        None if std::io::stdin().is_terminal() => talk.interactive(),
        None => talk.piped(),
    }
}

/// A list of functions, in the form that templates expect.
fn read_tools(file: &Path) -> hal::Result<Value> {
    let doing = || format!("read the tools in {}", file.display());
    let next = "give a JSON list of functions with name, description and parameters";
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::new(ErrorKind::Io, doing(), e.to_string()).next_step(next))?;
    let tools: Vec<Value> = serde_json::from_str(&text)
        .map_err(|e| Error::corrupt(doing(), e.to_string()).next_step(next))?;
    let named = |tool: &Value| {
        tool["name"].is_string() || tool["function"]["name"].is_string() || tool["type"].is_string()
    };
    if let Some(i) = tools.iter().position(|tool| !named(tool)) {
        return Err(Error::corrupt(doing(), format!("tool {i} has no name")).next_step(next));
    }
    let wrapped = tools.into_iter().map(|tool| match tool.get("type") {
        Some(kind) if kind.is_string() && tool.get("parameters").is_none() => tool,
        _ => json!({ "type": "function", "function": tool }),
    });
    Ok(wrapped.collect())
}

struct Talk<'a> {
    global: &'a Global,
    form: &'a ChatForm,
    engine: &'a Engine,
    session: Session<'a>,
    params: GenerationParams,
    options: ChatOptions,
    messages: Vec<Message>,
    /// Calls of tools whose results are not there yet.
    awaited: usize,
    interrupted: Arc<AtomicBool>,
}

const HELP: &str = "\
/clear          forget the conversation (the system message stays)
/system [TEXT]  set or remove the system message; forgets the conversation
/result TEXT    the result of a tool that the model called
/seed N         seed of the next answers
/save FILE      write the conversation as JSON
/stop           end (also Ctrl-D); Ctrl-C ends an answer";

impl Talk<'_> {
    /// One question; the answer alone on stdout.
    fn once(&mut self, prompt: &str) -> Result<(), Failure> {
        let (answer, generation) = self.answer(Message::new("user", prompt), !self.global.json)?;
        if self.global.json {
            output::json(&self.document(&answer, &generation))?;
        }
        match generation.finish {
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

    /// One line: a command or a question.
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
                self.awaited = 0;
                self.messages
                    .extend((!rest.is_empty()).then(|| Message::new("system", rest)));
            }
            "/result" => self.result(rest)?,
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
            _ if self.awaited > 0 => {
                eprintln!("error: a tool was called; next: /result TEXT, or /clear")
            }
            _ => self.say(Message::new("user", line))?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What goes wrong with one message does not end the conversation, unless the device is lost.
    fn say(&mut self, message: Message) -> Result<(), Failure> {
        match self.answer(message, true) {
            Ok(_) => Ok(()),
            Err(Failure::Error(e, _)) if e.kind() != ErrorKind::DeviceLost => {
                print_error(&e);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// The result of the first tool that still has none. The model goes on after the last.
    fn result(&mut self, text: &str) -> Result<(), Failure> {
        let result = Message::new("observation", text);
        match self.awaited {
            0 => eprintln!("error: no tool was called; next: ask something"),
            1 => {
                self.awaited = 0;
                let before = self.messages.len();
                self.say(result)?;
                if self.messages.len() == before {
                    self.awaited = 1;
                }
            }
            _ => {
                self.messages.push(result);
                self.awaited -= 1;
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
        self.awaited = 0;
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

    /// Says `message`, prints the answer while it comes when `print`, and keeps both. What fails leaves the
    /// conversation as it was.
    fn answer(&mut self, message: Message, print: bool) -> Result<(Answer, Generation), Failure> {
        self.messages.push(message);
        match self.generate(print) {
            Ok((answer, generation)) => {
                self.messages.extend(answer.messages.iter().cloned());
                self.awaited = answer.calls.len();
                if print {
                    self.print_calls(&answer);
                }
                if !self.global.quiet && !self.global.json {
                    print_speed(&generation);
                }
                Ok((answer, generation))
            }
            Err(failure) => {
                self.messages.pop();
                Err(failure)
            }
        }
    }

    fn generate(&mut self, print: bool) -> Result<(Answer, Generation), Failure> {
        let prompt = self.prompt()?;
        self.interrupted.store(false, Ordering::Relaxed);
        let tokenizer = self.engine.tokenizer();
        let mut reader = self.form.reader(tokenizer, self.options.tools.as_ref());
        let mut out = std::io::stdout().lock();
        let mut written = Ok(());
        let generation = self.session.generate(prompt, &self.params, |token| {
            let text = reader.push(token);
            if print && !text.is_empty() {
                written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            match written.is_err() || self.interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        written?;
        let (rest, answer) = reader.finish();
        if print && (answer.calls.is_empty() || !answer.text.is_empty()) {
            writeln!(out, "{rest}")?;
        }
        Ok((answer, generation))
    }

    /// Shows what the model wants of its tools, and asks for it.
    fn print_calls(&self, answer: &Answer) {
        for call in &answer.calls {
            let arguments = Value::Object(call.arguments.clone());
            eprintln!(
                "[the model calls {} with {arguments}; /result TEXT answers it]",
                call.name
            );
        }
        if let Some(why) = &answer.unread {
            eprintln!("[{why}]");
        }
    }

    /// The conversation as ids. When it leaves less than half of the context for the answer, the oldest turns are
    /// forgotten.
    fn prompt(&mut self) -> Result<Prompt, Failure> {
        let context = self.engine.context();
        let room = self.params.max_new_tokens.min(context / 2);
        loop {
            let tokenizer = self.engine.tokenizer();
            let prompt = self.form.encode(tokenizer, &self.messages, &self.options)?;
            let first = usize::from(self.messages[0].role == "system");
            let questions = self.messages.iter().enumerate().skip(first + 1);
            let second = questions
                .filter(|(_, message)| message.role == "user")
                .map(|(i, _)| i)
                .next();
            // The question itself stays: one that is too long is an error.
            let (Some(second), true) = (second, prompt.ids.len() + room > context) else {
                return Ok(prompt);
            };
            self.messages.drain(first..second);
            if !self.global.quiet {
                eprintln!("[the oldest turn is forgotten: the context is {context} tokens]");
            }
        }
    }

    fn document(&self, answer: &Answer, generation: &Generation) -> Value {
        let stats = &generation.stats;
        let mut document = json!({
            "schema": "glm/chat/1",
            "answer": answer.text,
            "finish": output::finish(generation.finish),
            "device": self.global.device,
            "seed": self.params.sampling.seed,
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": generation.ids.len(),
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
        });
        if self.options.tools.is_some() || !answer.calls.is_empty() {
            document["tool_calls"] = json!(answer.calls);
        }
        if let Some(why) = &answer.unread {
            document["unread_call"] = json!(why);
        }
        document
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
