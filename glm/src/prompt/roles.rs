//! Messages that begin with the special token of a role: ChatGLM3, GLM-4 in its own format, CodeGeeX4.
//!
//! `<|role|>{metadata}\n{content}` for each message; metadata and content are encoded each by itself, so no token
//! spans them. An assistant's metadata is the name of the tool that it calls, and its content what it calls it with:
//! Python in ChatGLM3, JSON in GLM-4. The tool's result is the content of an `observation`.
//!
//! Sources: `build_single_message` and `build_chat_input` in `tokenization_chatglm.py` of the checkpoints,
//! `PROMPT.md` and `tools_using_demo` of <https://github.com/THUDM/ChatGLM3>, `composite_demo` of
//! <https://github.com/THUDM/GLM-4>, `guides` of <https://github.com/THUDM/CodeGeeX4>.

use hal::{Error, Result};
use serde_json::Value;

use super::{ChatOptions, FormName, Message, call, functions, python_json, required};
use crate::tokenizer::Tokenizer;

/// What the tools' descriptions follow in ChatGLM3.
const CHATGLM3_TOOLS: &str = "Answer the following questions as best as you can. \
    You have access to the following tools:";
/// What the tools' descriptions follow in GLM-4.
const GLM4_TOOLS: &str = "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，\
    你的任务是针对用户的问题和要求提供适当的答复和支持。";
/// What follows each description in GLM-4.
const GLM4_CALL: &str = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。";

/// One of the three forms.
#[derive(Debug)]
pub struct Roles {
    name: FormName,
    prefix: [u32; 2],
    system: u32,
    user: u32,
    assistant: u32,
    observation: Option<u32>,
}

impl Roles {
    pub(super) fn new(name: FormName, tokenizer: &Tokenizer) -> Result<Self> {
        let id = |token: &str| required(tokenizer, "a form with roles", token);
        let sop = match name {
            FormName::ChatGlm3 => "sop",
            _ => "<sop>",
        };
        Ok(Self {
            prefix: [id("[gMASK]")?, id(sop)?],
            system: id("<|system|>")?,
            user: id("<|user|>")?,
            assistant: id("<|assistant|>")?,
            // Tokenizers that were made without tools in mind do without it.
            observation: tokenizer.special("<|observation|>"),
            name,
        })
    }

    pub(super) fn name(&self) -> &FormName {
        &self.name
    }

    pub(super) fn sketch(&self) -> &'static str {
        match self.name {
            FormName::ChatGlm3 => "[gMASK]sop<|role|>{metadata}\\n{content}…<|assistant|>",
            FormName::CodeGeeX4 => "[gMASK]<sop><|role|>{metadata}\\n{content}…<|assistant|>\\n",
            _ => "[gMASK]<sop><|role|>{metadata}\\n{content}…<|assistant|>",
        }
    }

    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>> {
        let mut ids = self.prefix.to_vec();
        let mut put = |role: u32, metadata: &str, content: &str| -> Result<()> {
            ids.push(role);
            ids.extend(tokenizer.encode(&format!("{metadata}\n"))?);
            ids.extend(tokenizer.encode(content)?);
            Ok(())
        };
        let mut messages = messages;
        if let Some(tools) = &options.tools {
            // The tools are part of the first system message.
            let own = match messages {
                [first, rest @ ..] if first.role == "system" => {
                    messages = rest;
                    Some(&*first.content)
                }
                _ => None,
            };
            put(self.system, "", &self.tools(own, tools)?)?;
        }
        for message in messages {
            let role = match &*message.role {
                "system" => Some(self.system),
                "user" => Some(self.user),
                "assistant" => Some(self.assistant),
                "observation" | "tool" | "function" => self.observation,
                _ => None,
            };
            let role = role.ok_or_else(|| {
                let role = &message.role;
                let why = format!("a message of role {role}, which the model does not know");
                Error::invalid("encode a conversation", why)
                    .next_step("use system, user, assistant, observation or tool")
            })?;
            let calls = message.more.get("tool_calls").and_then(Value::as_array);
            if calls.is_none() || !message.content.is_empty() {
                put(role, message.metadata(), &message.content)?;
            }
            for call in calls.into_iter().flatten() {
                let (name, content) = self.call(call)?;
                put(role, name, &content)?;
            }
        }
        if options.add_generation_prompt {
            ids.push(self.assistant);
            if self.name == FormName::CodeGeeX4 {
                ids.extend(tokenizer.encode("\n")?);
            }
        }
        Ok(ids)
    }

    /// The system message that describes `tools`, after the user's `own` one if there is any.
    fn tools(&self, own: Option<&str>, tools: &Value) -> Result<String> {
        let functions = functions(tools)?;
        let json = |value: &Value| {
            let written = python_json(value, Some(4));
            written.map_err(|e| Error::invalid("read the tools", e.to_string()))
        };
        match self.name {
            FormName::ChatGlm3 => {
                let list = functions.into_iter().map(|(_, function)| function.clone());
                let list = json(&Value::Array(list.collect()))?;
                Ok(format!("{}\n{list}", own.unwrap_or(CHATGLM3_TOOLS)))
            }
            FormName::CodeGeeX4 => {
                let why = "how this model is told of tools is not published";
                Err(Error::unsupported("encode a conversation", why)
                    .next_step("describe them in the system message"))
            }
            _ => {
                let mut text = format!("{}\n\n# 可用工具", own.unwrap_or(GLM4_TOOLS));
                for (name, function) in functions {
                    text += &format!("\n\n## {name}\n\n{}{GLM4_CALL}", json(function)?);
                }
                Ok(text)
            }
        }
    }

    /// The metadata and the content of one of `tool_calls`, as others write them:
    /// `{"function": {"name": …, "arguments": …}}`, the arguments an object or its JSON.
    fn call<'v>(&self, call: &'v Value) -> Result<(&'v str, String)> {
        let fail = |why: &str| {
            Error::invalid("encode a call of a tool", why)
                .next_step(r#"write {"name": "…", "arguments": {…}}"#)
        };
        let function = call.get("function").unwrap_or(call);
        let name = function["name"]
            .as_str()
            .ok_or_else(|| fail("it has no name"))?;
        let parsed;
        let arguments = match &function["arguments"] {
            Value::String(text) => {
                parsed = serde_json::from_str(text).map_err(|e| fail(&e.to_string()))?;
                &parsed
            }
            arguments => arguments,
        };
        let arguments = arguments
            .as_object()
            .ok_or_else(|| fail("its arguments are no object"))?;
        let content = match self.name {
            FormName::ChatGlm3 => call::to_python(arguments),
            _ => python_json(arguments, None).map_err(|e| fail(&e.to_string()))?,
        };
        Ok((name, content))
    }
}
