//! Numbered rounds of question and answer: ChatGLM-6B and ChatGLM2-6B.
//!
//! Sources: `build_prompt` and `chat` in `modeling_chatglm.py`, `build_inputs_with_special_tokens` in
//! `tokenization_chatglm.py` of both checkpoints.

use hal::{Error, Result};

use super::{ChatOptions, FormName, Message, Prompt, required};
use crate::blank::Blank;
use crate::tokenizer::Tokenizer;

/// One of the two forms.
#[derive(Debug)]
pub struct Rounds {
    name: FormName,
    mask: u32,
    sop: u32,
}

impl Rounds {
    pub(super) fn new(name: FormName, tokenizer: &Tokenizer) -> Result<Self> {
        let form = "a form of numbered rounds";
        let sop = match name {
            FormName::ChatGlm6b => "<sop>",
            _ => "sop",
        };
        Ok(Self {
            name,
            mask: required(tokenizer, form, "[gMASK]")?,
            sop: required(tokenizer, form, sop)?,
        })
    }

    pub(super) fn name(&self) -> &FormName {
        &self.name
    }

    pub(super) fn sketch(&self) -> &'static str {
        match self.name {
            FormName::ChatGlm6b => {
                "one question: {question}[gMASK]<sop>\n\
                 more: [Round 0]\\n问：{question}\\n答：{answer}\\n[Round 1]\\n问：{question}\\n答：[gMASK]<sop>"
            }
            _ => {
                "[gMASK]sop[Round 1]\\n\\n问：{question}\\n\\n答：{answer}\\n\\n\
                 [Round 2]\\n\\n问：{question}\\n\\n答："
            }
        }
    }

    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Prompt> {
        let doing = "encode a conversation";
        if options.tools.is_some() {
            return Err(Error::unsupported(doing, "this model knows no tools")
                .next_step("use ChatGLM3 or GLM-4, or describe them in the question"));
        }
        let expected = ["user", "assistant"].into_iter().cycle();
        let odd = messages
            .iter()
            .zip(expected)
            .find(|(m, role)| m.role != *role);
        if let Some((message, role)) = odd {
            let why = format!(
                "a message of role {} where only {role} can be",
                message.role
            );
            return Err(Error::invalid(doing, why)
                .next_step("let user and assistant take turns; this model knows no other roles"));
        }
        let text = self.rounds(messages);
        let ids = tokenizer.encode(&text)?;
        if self.name == FormName::ChatGlm2 {
            return Ok([vec![self.mask, self.sop], ids].concat().into());
        }
        if !options.add_generation_prompt {
            return Ok(ids.into());
        }
        // The answer is the blank at the end of the text.
        let mask = ids.len();
        let blank = Blank {
            start: mask + 1,
            mask,
            to_the_end: true,
        };
        Ok(Prompt {
            ids: [ids, vec![self.mask, self.sop]].concat(),
            blank: Some(blank),
        })
    }

    fn rounds(&self, messages: &[Message]) -> String {
        if let (FormName::ChatGlm6b, [question]) = (&self.name, messages) {
            return question.content.clone();
        }
        // The number of the first round, and what stands between the parts.
        let (first, gap) = match self.name {
            FormName::ChatGlm6b => (0, "\n"),
            _ => (1, "\n\n"),
        };
        let mut text = String::new();
        for (round, turn) in (first..).zip(messages.chunks(2)) {
            text += &format!("[Round {round}]{gap}问：{}{gap}答：", turn[0].content);
            if let [_, answer] = turn {
                text += &answer.content;
                text += gap;
            }
        }
        text
    }
}
