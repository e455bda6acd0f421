//! From conversations and texts with blanks to token ids, and from a model's answer back to text and tool calls.
//!
//! Design choices:
//! - One form per generation ([`ChatForm`]): the checkpoint's own template, else what its official code does.
//! - What a user writes stays text. The forms of the code encode every part by itself and put special ids between
//!   them; the template's text is guarded (see [`ChatTemplate`]). Only [`fill`] reads the names of masks in a text.
//! - Nothing that a model writes is executed: calls of tools are parsed as literals.

mod answer;
mod call;
pub mod fill;
mod language;
mod roles;
mod rounds;
mod template;

use std::fmt;

use hal::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::answer::{Answer, AnswerReader, ToolCall};
pub use self::roles::Roles;
pub use self::rounds::Rounds;
pub use self::template::ChatTemplate;
use crate::blank::Blank;
use crate::config::is_named;
use crate::tokenizer::Tokenizer;

/// What a model is to continue: token ids, and the blank among them that it is to fill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The blank, for models that fill blanks; without one they continue the ids from left to right.
    pub blank: Option<Blank>,
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Self { ids, blank: None }
    }
}

impl From<&[u32]> for Prompt {
    fn from(ids: &[u32]) -> Self {
        ids.to_vec().into()
    }
}

impl From<&Vec<u32>> for Prompt {
    fn from(ids: &Vec<u32>) -> Self {
        ids.clone().into()
    }
}

impl<const N: usize> From<&[u32; N]> for Prompt {
    fn from(ids: &[u32; N]) -> Self {
        ids.to_vec().into()
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `observation`, `tool`.
    pub role: String,
    /// Its text.
    #[serde(default)]
    pub content: String,
    /// What else the form may read: `metadata`, `tool_calls`, `reasoning_content`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            more: Map::new(),
        }
    }

    /// The first line of an assistant's message: the name of the tool that it calls.
    pub fn metadata(&self) -> &str {
        let metadata = self.more.get("metadata").and_then(Value::as_str);
        metadata.unwrap_or_default()
    }
}

/// What a conversation is encoded with besides its messages.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Whether the prompt ends with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Descriptions of functions that the model may call: a list of `{"type": "function", "function": {"name": …}}`,
    /// or of the functions alone.
    pub tools: Option<Value>,
    /// Further variables of a template: `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// How a model is talked to.
#[derive(Debug)]
pub enum ChatForm {
    /// The checkpoint's own template.
    Template(Box<ChatTemplate>),
    /// Numbered rounds of question and answer: ChatGLM-6B, ChatGLM2-6B.
    Rounds(Rounds),
    /// Messages that begin with the special token of a role: ChatGLM3, GLM-4, CodeGeeX4.
    Roles(Roles),
}

/// Which form it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FormName {
    /// The template in this file of the model folder.
    File(String),
    /// That of ChatGLM-6B's code.
    #[serde(rename = "chatglm_6b")]
    ChatGlm6b,
    /// That of ChatGLM2-6B's code.
    #[serde(rename = "chatglm2")]
    ChatGlm2,
    /// That of ChatGLM3-6B's code.
    #[serde(rename = "chatglm3")]
    ChatGlm3,
    /// That of GLM-4-9B's code.
    #[serde(rename = "glm4")]
    Glm4,
    /// That of CodeGeeX4's guides.
    #[serde(rename = "codegeex4")]
    CodeGeeX4,
}

impl fmt::Display for FormName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(file) => file,
            Self::ChatGlm6b => "none; the form of ChatGLM-6B is used",
            Self::ChatGlm2 => "none; the form of ChatGLM2 is used",
            Self::ChatGlm3 => "none; the form of ChatGLM3 is used",
            Self::Glm4 => "none; the form of GLM-4 is used",
            Self::CodeGeeX4 => "none; the form of CodeGeeX4 is used",
        })
    }
}

impl ChatForm {
    /// The form of a model: its template, else by the special tokens that its tokenizer has and the names that its
    /// `config.json` (`null` when there is none) gives.
    ///
    /// # Errors
    /// `NotFound` for models that complete text and have no form of conversation.
    pub fn choose(
        template: Option<ChatTemplate>,
        config: &Value,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        if let Some(template) = template {
            return Ok(Self::Template(Box::new(template)));
        }
        let has = |names: &[&str]| names.iter().all(|name| tokenizer.special(name).is_some());
        let roles = ["[gMASK]", "<|system|>", "<|user|>", "<|assistant|>"];
        let name = if has(&roles) && has(&["sop"]) {
            FormName::ChatGlm3
        } else if has(&roles) && has(&["<sop>"]) {
            match is_named(config, &["codegeex4"]) {
                true => FormName::CodeGeeX4,
                false => FormName::Glm4,
            }
        } else if config["model_type"] != "chatglm" || is_named(config, &["codegeex2"]) {
            return Err(Error::new(
                ErrorKind::NotFound,
                "choose a form of conversation",
                "the model has no chat template, and it is none that was made for conversations",
            )
            .next_step("complete text with `glm fill`, or add a chat_template.jinja"));
        } else if has(&["[gMASK]", "<sop>", "<eop>"]) {
            FormName::ChatGlm6b
        } else if has(&["[gMASK]", "sop"]) {
            FormName::ChatGlm2
        } else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "choose a form of conversation",
                "the model has no chat template, and its tokenizer lacks [gMASK] or sop of ChatGLM's forms",
            )
            .next_step("use the tokenizer that was published with this model"));
        };
        Self::of(name, tokenizer)
    }

    /// A form of the official codes.
    ///
    /// # Errors
    /// `NotFound` when the tokenizer lacks one of its special tokens, or for a file.
    pub fn of(name: FormName, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(match name {
            FormName::ChatGlm6b | FormName::ChatGlm2 => Self::Rounds(Rounds::new(name, tokenizer)?),
            FormName::ChatGlm3 | FormName::Glm4 | FormName::CodeGeeX4 => {
                Self::Roles(Roles::new(name, tokenizer)?)
            }
            FormName::File(file) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "choose a form of conversation",
                    format!("{file} is not read"),
                )
                .next_step("load the template of the model folder"));
            }
        })
    }

    /// Which form it is.
    pub fn name(&self) -> FormName {
        match self {
            Self::Template(template) => FormName::File(template.file().to_owned()),
            Self::Rounds(rounds) => rounds.name().clone(),
            Self::Roles(roles) => roles.name().clone(),
        }
    }

    /// What it looks like: the template, or a sketch.
    pub fn text(&self) -> String {
        match self {
            Self::Template(template) => template.text(),
            Self::Rounds(rounds) => rounds.sketch().to_owned(),
            Self::Roles(roles) => roles.sketch().to_owned(),
        }
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no message, or messages or roles that the form does not have;
    /// `Unsupported` when a template does something that we cannot, or for tools in a form without.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Prompt> {
        check(messages)?;
        match self {
            Self::Template(template) => Ok(template.encode(tokenizer, messages, options)?.into()),
            Self::Rounds(rounds) => rounds.encode(tokenizer, messages, options),
            Self::Roles(roles) => Ok(roles.encode(tokenizer, messages, options)?.into()),
        }
    }

    /// The special tokens with which a model ends its turn in this form, as far as the tokenizer has them:
    /// configurations of older checkpoints do not list them.
    pub fn stop_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let names: &[&str] = match self.name() {
            FormName::ChatGlm6b => &["<eop>"],
            FormName::ChatGlm2 => &["</s>"],
            FormName::ChatGlm3 => &["</s>", "<|user|>", "<|observation|>"],
            FormName::File(_) | FormName::Glm4 | FormName::CodeGeeX4 => {
                &["<|endoftext|>", "<|user|>", "<|observation|>"]
            }
        };
        let ids = names.iter().filter_map(|name| tokenizer.special(name));
        ids.collect()
    }
}

/// The id of a special token that a form needs.
fn required(tokenizer: &Tokenizer, form: impl fmt::Display, name: &str) -> Result<u32> {
    tokenizer.special(name).ok_or_else(|| {
        let why = format!("the tokenizer lacks {name}");
        Error::new(ErrorKind::NotFound, format!("use {form}"), why)
            .next_step("use the tokenizer that was published with this model")
    })
}

/// The functions that a list of tools describes, each with its name.
fn functions(tools: &Value) -> Result<Vec<(&str, &Value)>> {
    let fail = |why: String| {
        Error::invalid("read the tools", why)
            .next_step(r#"give a list: [{"name": …, "description": …, "parameters": …}, …]"#)
    };
    let list = tools
        .as_array()
        .ok_or_else(|| fail("they are no list".into()))?;
    let function = |(i, tool): (usize, &'_ Value)| -> Result<()> {
        if let Some(kind) = tool["type"].as_str().filter(|kind| *kind != "function") {
            return Err(
                Error::unsupported("read the tools", format!("tool {i} is a {kind}"))
                    .next_step("describe it as a function"),
            );
        }
        let named = tool["function"]["name"].is_string() || tool["name"].is_string();
        named
            .then_some(())
            .ok_or_else(|| fail(format!("tool {i} has no name")))
    };
    list.iter().enumerate().try_for_each(function)?;
    let described = list.iter().map(|tool| match tool.get("function") {
        Some(function) => function,
        None => tool,
    });
    Ok(described
        .map(|f| (f["name"].as_str().unwrap_or_default(), f))
        .collect())
}

fn check(messages: &[Message]) -> Result<()> {
    let doing = "encode a conversation";
    if messages.is_empty() {
        return Err(Error::invalid(doing, "it has no message").next_step("add one of role `user`"));
    }
    for Message { role, .. } in messages {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if role.is_empty() || !role.chars().all(is_name) {
            return Err(Error::invalid(doing, format!("role {role:?} is no name"))
                .next_step("use system, user, assistant, observation or tool"));
        }
    }
    Ok(())
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)` of Python, with its spaces.
fn python_json(value: &impl Serialize, indent: Option<usize>) -> serde_json::Result<String> {
    let mut out = Vec::new();
    match indent {
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonFormatter);
            value.serialize(&mut serializer)?;
        }
        Some(indent) => {
            let spaces = vec![b' '; indent.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            value.serialize(&mut serializer)?;
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `, ` and `: ` between the parts.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
