//! What a model answered: text for people, and calls of tools.
//!
//! A model may answer in parts, each begun by `<|assistant|>`. In the forms with roles the first line of a part is its
//! metadata: empty for text, else the name of a tool. ChatGLM3 calls with Python in a fence, GLM-4 with JSON. What
//! looks like a call and cannot be read stays text, and the reason is kept.
//!
//! Text is given as soon as it is certain, and polished as the official `process_response` does: white space around
//! it goes, `[[训练时间]]` becomes 2023年, and ChatGLM-6B's ASCII punctuation beside Chinese letters becomes wide.

use serde_json::{Map, Value, json};

use super::{ChatForm, FormName, Message, call, functions};
use crate::engine::Token;
use crate::tokenizer::Tokenizer;

/// What the models were taught to write where their training date would stand.
const TRAINING_TIME: &str = "[[训练时间]]";
/// What it becomes.
const YEAR: &str = "2023年";
/// ASCII punctuation, and what ChatGLM-6B makes of it beside a Chinese letter.
const WIDE: [(char, char); 5] = [
    (',', '，'),
    ('!', '！'),
    (':', '：'),
    (';', '；'),
    ('?', '？'),
];
/// The tool of ChatGLM3 that runs code.
const INTERPRETER: &str = "interpreter";
/// What begins and ends code.
const FENCE: &str = "```";

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// Its arguments; the code of a code interpreter is argument `code`.
    pub arguments: Map<String, Value>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The text, without calls.
    pub text: String,
    /// The calls, in order. Their results are the next messages, of role `observation`.
    pub calls: Vec<ToolCall>,
    /// What the answer is in the conversation's further prompts.
    pub messages: Vec<Message>,
    /// Why a part that looks like a call is none.
    pub unread: Option<String>,
}

/// How tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// They are not.
    None,
    /// ```` ```python\ntool_call(…)\n``` ````
    Python,
    /// `{…}`
    Json,
}

/// Reads an answer while it comes.
#[derive(Debug)]
pub struct AnswerReader {
    calls: Calls,
    /// Whether the first line of a part is metadata even when there are no tools.
    metadata: bool,
    training_time: bool,
    wide: bool,
    /// Tools that may be called; `None`: any.
    tools: Option<Vec<String>>,
    assistant: Option<u32>,
    parts: Vec<String>,
    /// Bytes of the visible text that have been given.
    given: usize,
}

/// What a part is.
enum Part<'t> {
    Text(&'t str),
    Call(ToolCall, &'t str),
    /// Text that looks like a call, and why it is none.
    Unread(&'t str, String),
    /// It is too early to tell.
    Open,
}

impl ChatForm {
    /// A reader of one answer, by a model that was offered `tools`.
    pub fn reader(&self, tokenizer: &Tokenizer, tools: Option<&Value>) -> AnswerReader {
        let names = tools.and_then(|tools| functions(tools).ok());
        let names: Option<Vec<String>> =
            names.map(|list| list.into_iter().map(|(name, _)| name.to_owned()).collect());
        let name = self.name();
        let calls = match name {
            FormName::ChatGlm3 => Calls::Python,
            FormName::Glm4 => Calls::Json,
            FormName::File(_) if tools.is_some() => Calls::Json,
            _ => Calls::None,
        };
        AnswerReader {
            calls,
            metadata: name == FormName::ChatGlm3,
            training_time: !matches!(name, FormName::File(_)),
            wide: name == FormName::ChatGlm6b,
            tools: names,
            assistant: tokenizer.special("<|assistant|>"),
            parts: vec![String::new()],
            given: 0,
        }
    }
}

impl AnswerReader {
    /// The text that `token` makes certain.
    pub fn push(&mut self, token: Token<'_>) -> String {
        if token.id.is_some() && token.id == self.assistant {
            self.parts.push(String::new());
        }
        if let Some(part) = self.parts.last_mut() {
            part.push_str(token.text);
        }
        let visible = self.visible(false);
        self.give(visible)
    }

    /// The rest of the text, and the whole answer.
    pub fn finish(mut self) -> (String, Answer) {
        let visible = self.visible(true);
        let rest = self.give(visible.clone());
        let mut answer = Answer {
            text: visible,
            ..Answer::default()
        };
        for part in &self.parts {
            let text = match self.part(part, true) {
                Part::Call(tool_call, content) => {
                    let mut message = Message::new("assistant", content);
                    message
                        .more
                        .insert("metadata".to_owned(), json!(tool_call.name));
                    answer.messages.push(message);
                    answer.calls.push(tool_call);
                    continue;
                }
                Part::Unread(text, why) => {
                    answer.unread = Some(why);
                    text
                }
                Part::Text(text) => text,
                Part::Open => continue,
            };
            // ChatGLM3 and GLM-4 are shown what they wrote, the first two what people saw.
            let text = match self.calls {
                Calls::None => self.polished(text),
                _ => text.trim().to_owned(),
            };
            if !text.is_empty() {
                answer.messages.push(Message::new("assistant", text));
            }
        }
        if answer.messages.is_empty() {
            answer.messages.push(Message::new("assistant", ""));
        }
        (rest, answer)
    }

    fn give(&mut self, visible: String) -> String {
        let new = visible.get(self.given..).unwrap_or_default().to_owned();
        self.given += new.len();
        new
    }

    /// The text for people so far; `whole` when no more comes.
    fn visible(&self, whole: bool) -> String {
        let mut visible = String::new();
        for (i, part) in self.parts.iter().enumerate() {
            let whole = whole || i + 1 < self.parts.len();
            let (Part::Text(text) | Part::Unread(text, _)) = self.part(part, whole) else {
                continue;
            };
            let text = self.polished(if whole { text } else { self.certain(text) });
            if !text.is_empty() {
                visible.push_str(if visible.is_empty() { "" } else { "\n" });
                visible.push_str(&text);
            }
        }
        visible
    }

    fn part<'t>(&self, part: &'t str, whole: bool) -> Part<'t> {
        if self.calls == Calls::None {
            return Part::Text(part);
        }
        let Some((head, body)) = part.split_once('\n') else {
            // A name, or the first line of a text.
            return match whole {
                true => Part::Text(part),
                false => Part::Open,
            };
        };
        let name = head.trim();
        if name.is_empty() {
            return Part::Text(body);
        }
        let known = match &self.tools {
            Some(tools) => tools.iter().any(|tool| tool == name),
            None => self.metadata,
        };
        let known = known || self.calls == Calls::Python && name == INTERPRETER;
        // ChatGLM3 begins each text with an empty line, so this is a call, if a strange one.
        let begun = body.trim_start();
        let fenced = self.metadata && begun.starts_with(FENCE);
        if !known && !fenced {
            let may_be_fenced = self.metadata && !whole && FENCE.starts_with(begun);
            return if may_be_fenced {
                Part::Open
            } else {
                Part::Text(part)
            };
        }
        if !whole {
            return Part::Open;
        }
        let arguments = match self.calls {
            Calls::Python => python(name, body),
            _ => json_object(body),
        };
        match arguments {
            Ok(arguments) => {
                let name = name.to_owned();
                Part::Call(ToolCall { name, arguments }, body)
            }
            Err(why) => Part::Unread(part, format!("the call of {name} cannot be read: {why}")),
        }
    }

    /// `text` without the end that may still change.
    fn certain<'t>(&self, mut text: &'t str) -> &'t str {
        loop {
            let mut cut = text.trim_end();
            if self.wide {
                cut = cut.trim_end_matches(WIDE.map(|(ascii, _)| ascii));
            }
            if self.training_time {
                let ends = cut.char_indices().map(|(at, _)| at);
                let begun = |at: &usize| {
                    TRAINING_TIME.len() > cut.len() - at && TRAINING_TIME.starts_with(&cut[*at..])
                };
                let from = ends.rev().take(TRAINING_TIME.len()).filter(begun).last();
                cut = &cut[..from.unwrap_or(cut.len())];
            }
            if cut.len() == text.len() {
                return text;
            }
            text = cut;
        }
    }

    fn polished(&self, text: &str) -> String {
        let text = text.trim();
        if !self.training_time {
            return text.to_owned();
        }
        let text = text.replace(TRAINING_TIME, YEAR);
        match self.wide {
            true => widened(&text),
            false => text,
        }
    }
}

fn widened(text: &str) -> String {
    let is_chinese = |c: &char| ('\u{4e00}'..='\u{9fff}').contains(c);
    let mut before = None;
    let mut letters = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        let beside =
            before.as_ref().is_some_and(is_chinese) || letters.peek().is_some_and(is_chinese);
        let wide = WIDE.iter().find(|(ascii, _)| *ascii == letter && beside);
        out.push(wide.map_or(letter, |(_, wide)| *wide));
        before = Some(letter);
    }
    out
}

/// The arguments of a call by ChatGLM3.
fn python(name: &str, body: &str) -> Result<Map<String, Value>, String> {
    let fenced = body
        .trim()
        .strip_prefix(FENCE)
        .and_then(|body| body.split_once('\n'));
    let (_, fenced) = fenced.ok_or("it has no fence")?;
    let code = fenced.strip_suffix(FENCE).ok_or("its fence does not end")?;
    let code = code.strip_suffix('\n').unwrap_or(code);
    match name {
        INTERPRETER => Ok(Map::from_iter([("code".to_owned(), json!(code))])),
        _ => call::from_python(code),
    }
}

fn json_object(body: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(body.trim()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASSISTANT: u32 = 9;

    fn reader(calls: Calls, tools: Option<&[&str]>) -> AnswerReader {
        AnswerReader {
            calls,
            metadata: calls == Calls::Python,
            training_time: true,
            wide: calls == Calls::None,
            tools: tools.map(|names| names.iter().map(|n| n.to_string()).collect()),
            assistant: Some(ASSISTANT),
            parts: vec![String::new()],
            given: 0,
        }
    }

    /// The answer to text in which `|` is the token of the assistant, letter by letter. What is given early is what
    /// is given at last.
    fn read(mut reader: AnswerReader, text: &str) -> Answer {
        let mut given = String::new();
        for letter in text.chars() {
            let mut bytes = [0; 4];
            let (id, text) = match letter {
                '|' => (Some(ASSISTANT), ""),
                _ => (Some(1), &*letter.encode_utf8(&mut bytes)),
            };
            given += &reader.push(Token { id, text });
        }
        let (rest, answer) = reader.finish();
        assert_eq!(given + &rest, answer.text, "{text:?}");
        answer
    }

    fn call(name: &str, arguments: Value) -> ToolCall {
        let arguments = arguments.as_object().unwrap().clone();
        ToolCall {
            name: name.into(),
            arguments,
        }
    }

    #[test]
    fn chatglm3_calls_with_python() {
        let weather = "weather\n ```python\ntool_call(city='北京', days=3)\n```";
        let expected = call("weather", json!({"city": "北京", "days": 3}));
        let tools = Some(&["weather"][..]);
        let answer = read(reader(Calls::Python, tools), weather);
        assert_eq!(
            (&*answer.text, &answer.calls, &answer.unread),
            ("", &vec![expected.clone()], &None)
        );
        let message = &answer.messages[0];
        assert_eq!(
            (&*message.role, message.metadata()),
            ("assistant", "weather")
        );
        assert_eq!(message.content, weather.split_once('\n').unwrap().1);

        let answer = read(
            reader(Calls::Python, tools),
            &format!("\n 好的，我来查。 |{weather}"),
        );
        assert_eq!(
            (&*answer.text, answer.calls),
            ("好的，我来查。", vec![expected.clone()])
        );
        assert_eq!(answer.messages.len(), 2);
        assert_eq!(
            answer.messages[0],
            Message::new("assistant", "好的，我来查。")
        );
        // Without a list, every name is a tool's.
        assert_eq!(read(reader(Calls::Python, None), weather).calls, [expected]);

        let strange = read(
            reader(Calls::Python, tools),
            "sky\n```python\ntool_call()\n```",
        );
        assert_eq!(strange.calls, [call("sky", json!({}))]);

        let code = read(
            reader(Calls::Python, tools),
            "interpreter\n```python\nx = 1\nprint(x)\n```",
        );
        assert_eq!(
            code.calls,
            [call("interpreter", json!({"code": "x = 1\nprint(x)"}))]
        );
    }

    #[test]
    fn glm4_calls_with_json() {
        let tools = Some(&["weather"][..]);
        let answer = read(reader(Calls::Json, tools), "weather\n{\"city\": \"北京\"}");
        assert_eq!(answer.calls, [call("weather", json!({"city": "北京"}))]);
        assert_eq!(answer.text, "");
        let two = "weather\n{\"a\": 1}|weather\n{\"a\": 2}";
        assert_eq!(read(reader(Calls::Json, tools), two).calls.len(), 2);
        for text in ["\n你好", "你好", "sky\n{\"city\": 1}", "a list:\n- b"] {
            let answer = read(reader(Calls::Json, tools), text);
            assert_eq!((&*answer.text, answer.unread), (text.trim(), None));
            assert_eq!(answer.messages, [Message::new("assistant", text.trim())]);
        }
        assert!(
            read(reader(Calls::Json, None), "weather\n{\"city\": 1}")
                .calls
                .is_empty()
        );
    }

    #[test]
    fn calls_that_cannot_be_read_stay_text() {
        let tools = Some(&["weather"][..]);
        for (calls, text, why) in [
            (
                Calls::Python,
                "weather\n```python\ntool_call(x=os.getcwd())\n```",
                "os",
            ),
            (Calls::Python, "weather\n```python\ntool_call(x=1)", "fence"),
            (Calls::Python, "weather\nsunny", "fence"),
            (Calls::Python, "sky\n```python\nprint(1)\n```", "tool_call"),
            (Calls::Json, "weather\n{\"city\":", "EOF"),
            (Calls::Json, "weather\n[1]", "map"),
        ] {
            let answer = read(reader(calls, tools), text);
            assert_eq!((&*answer.text, answer.calls.len()), (text, 0));
            assert!(answer.unread.as_ref().unwrap().contains(why), "{answer:?}");
            assert_eq!(answer.messages, [Message::new("assistant", text)]);
        }
    }

    #[test]
    fn text_is_polished() {
        for (text, polished) in [
            (" 你好,世界!\n", "你好，世界！"),
            ("a,b c: d", "a,b c: d"),
            ("是?Yes!否", "是？Yes！否"),
            ("我的知识到[[训练时间]]为止;完", "我的知识到2023年为止；完"),
            ("x[[训练时间]]", "x2023年"),
            ("好,[[训练", "好，[[训练"),
            ("好,,", "好，,"),
            ("", ""),
        ] {
            let answer = read(reader(Calls::None, None), text);
            assert_eq!(answer.text, polished);
            assert_eq!(answer.messages, [Message::new("assistant", polished)]);
        }
    }

    proptest! {
        /// What is given early never has to be taken back.
        #[test]
        fn text_is_given_once(text in "[ab,!?\n |好训练时间\\[\\]{}`w]{0,24}", calls in 0..3usize) {
            let calls = [Calls::None, Calls::Python, Calls::Json][calls];
            read(reader(calls, Some(&["w"])), &text);
        }
    }
}
