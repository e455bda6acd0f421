//! The forms of conversations and of texts with blanks, id by id, on the tiny tokenizers of `vectors`.

use std::path::{Path, PathBuf};

use glm::blank::{Blank, BlankPositions};
use glm::prompt::fill::FillForm;
use glm::prompt::{ChatForm, ChatOptions, FormName, Message, Prompt};
use glm::tokenizer::chatglm::{CHATGLM2_SPECIALS, CHATGLM3_SPECIALS, ChatGlm, ChatGlm6b};
use glm::tokenizer::gpt2::Gpt2;
use glm::tokenizer::rank_bpe::{GLM4_SPECIALS, RankBpe};
use glm::tokenizer::{Tokenizer, Vocabulary};
use hal::ErrorKind;
use proptest::prelude::*;
use serde_json::{Value, json};

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tokenizer(vocabulary: impl Vocabulary + 'static) -> Tokenizer {
    let vocabulary: Box<dyn Vocabulary> = Box::new(vocabulary);
    vocabulary.into()
}

fn v1() -> Tokenizer {
    tokenizer(ChatGlm6b::from_bytes("ice.model", &bytes("ice.model"), 0).unwrap())
}

fn glm_130b() -> Tokenizer {
    tokenizer(ChatGlm6b::glm_130b("ice.model", &bytes("ice.model")).unwrap())
}

fn v2() -> Tokenizer {
    tokenizer(ChatGlm::from_bytes("bpe.model", &bytes("bpe.model"), CHATGLM2_SPECIALS).unwrap())
}

fn v3() -> Tokenizer {
    tokenizer(ChatGlm::from_bytes("bpe.model", &bytes("bpe.model"), CHATGLM3_SPECIALS).unwrap())
}

fn glm4() -> Tokenizer {
    tokenizer(RankBpe::from_bytes("ranks.txt", &bytes("ranks.txt"), GLM4_SPECIALS).unwrap())
}

fn gpt2(added: &Value) -> Tokenizer {
    let added = added.to_string();
    let (vocab, merges) = (bytes("vocab.json"), bytes("merges.txt"));
    tokenizer(Gpt2::from_bytes(&vocab, &merges, added.as_bytes()).unwrap())
}

fn glm_10b() -> Tokenizer {
    let names = [
        "<|startofpiece|>",
        "<|endofpiece|>",
        "[CLS]",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
    ];
    gpt2(
        &(5001..)
            .zip(names)
            .map(|(id, name)| (name.to_owned(), json!(id)))
            .collect(),
    )
}

/// Ids of a prompt as its form is written down: names of special tokens, and texts that are encoded by themselves.
fn ids(tokenizer: &Tokenizer, parts: &[&str]) -> Vec<u32> {
    let part = |part: &&str| match tokenizer.special(part) {
        Some(id) => vec![id],
        None => tokenizer.encode(part).unwrap(),
    };
    parts.iter().flat_map(part).collect()
}

fn talk(messages: &[(&str, &str)]) -> Vec<Message> {
    messages
        .iter()
        .map(|(role, text)| Message::new(*role, *text))
        .collect()
}

fn asked() -> ChatOptions {
    ChatOptions {
        add_generation_prompt: true,
        ..ChatOptions::default()
    }
}

fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "weather", "description": "天气", "parameters": {"type": "object"},
    }}])
}

#[test]
fn chatglm_6b_counts_rounds_from_0() {
    let t = v1();
    let form = ChatForm::of(FormName::ChatGlm6b, &t).unwrap();
    for (messages, text) in [
        (&[("user", "你好")][..], "你好"),
        (
            &[("user", "a"), ("assistant", "b"), ("user", "c\nd")],
            "[Round 0]\n问：a\n答：b\n[Round 1]\n问：c\nd\n答：",
        ),
    ] {
        let prompt = form.encode(&t, &talk(messages), &asked()).unwrap();
        let expected = ids(&t, &[text, "[gMASK]", "<sop>"]);
        let mask = expected.len() - 2;
        let blank = Blank {
            start: mask + 1,
            mask,
            to_the_end: true,
        };
        assert_eq!(
            prompt,
            Prompt {
                ids: expected,
                blank: Some(blank)
            }
        );
    }
    assert_eq!(form.stop_ids(&t), [t.special("<eop>").unwrap()]);
}

#[test]
fn chatglm2_counts_rounds_from_1() {
    let t = v2();
    let form = ChatForm::of(FormName::ChatGlm2, &t).unwrap();
    for (messages, text) in [
        (&[("user", "你好")][..], "[Round 1]\n\n问：你好\n\n答："),
        (
            &[("user", "a"), ("assistant", "b"), ("user", "c")],
            "[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c\n\n答：",
        ),
    ] {
        let prompt = form.encode(&t, &talk(messages), &asked()).unwrap();
        assert_eq!(prompt, ids(&t, &["[gMASK]", "sop", text]).into());
    }
    assert_eq!(form.stop_ids(&t), [2]);
}

#[test]
fn roles_are_encoded_part_by_part() {
    for (name, t, sop, end) in [
        (FormName::ChatGlm3, v3(), "sop", &["<|assistant|>"][..]),
        (FormName::Glm4, glm4(), "<sop>", &["<|assistant|>"]),
        (
            FormName::CodeGeeX4,
            glm4(),
            "<sop>",
            &["<|assistant|>", "\n"],
        ),
    ] {
        let form = ChatForm::of(name.clone(), &t).unwrap();
        let mut messages = talk(&[
            ("system", "be kind"),
            ("user", "\nhello"),
            ("assistant", "call it"),
            ("observation", "22"),
            ("assistant", "it is 22"),
            ("user", "你好"),
        ]);
        messages[2]
            .more
            .insert("metadata".to_owned(), json!("weather"));
        let prompt = form.encode(&t, &messages, &asked()).unwrap();
        let parts = [
            "[gMASK]",
            sop,
            "<|system|>",
            "\n",
            "be kind",
            "<|user|>",
            "\n",
            "\nhello",
            "<|assistant|>",
            "weather\n",
            "call it",
            "<|observation|>",
            "\n",
            "22",
            "<|assistant|>",
            "\n",
            "it is 22",
            "<|user|>",
            "\n",
            "你好",
        ];
        assert_eq!(prompt, ids(&t, &[&parts, end].concat()).into(), "{name:?}");
        let stops = form.stop_ids(&t);
        let first = if name == FormName::ChatGlm3 {
            "</s>"
        } else {
            "<|endoftext|>"
        };
        assert_eq!(
            stops,
            [first, "<|user|>", "<|observation|>"].map(|s| t.special(s).unwrap())
        );
        let e = form
            .encode(&t, &talk(&[("king", "")]), &asked())
            .unwrap_err();
        assert!(e.to_string().contains("king") && e.kind() == ErrorKind::InvalidArgument);
    }
}

#[test]
fn tools_are_described_and_called_as_the_models_were_taught() {
    let chatglm3 = "Answer the following questions as best as you can. You have access to the following tools:\n\
        [\n    {\n        \"name\": \"weather\",\n        \"description\": \"天气\",\n        \"parameters\": {\n            \
        \"type\": \"object\"\n        }\n    }\n]";
    let glm4_tools = "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，\
        你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具\n\n## weather\n\n\
        {\n    \"name\": \"weather\",\n    \"description\": \"天气\",\n    \"parameters\": {\n        \
        \"type\": \"object\"\n    }\n}\n在调用上述函数时，请使用 Json 格式表示调用的参数。";
    for (name, t, sop, described, call) in [
        (
            FormName::ChatGlm3,
            v3(),
            "sop",
            chatglm3,
            "```python\ntool_call(city='北京', days=3)\n```",
        ),
        (
            FormName::Glm4,
            glm4(),
            "<sop>",
            glm4_tools,
            "{\"city\": \"北京\", \"days\": 3}",
        ),
    ] {
        let form = ChatForm::of(name.clone(), &t).unwrap();
        let mut messages = talk(&[("user", "?"), ("assistant", "let me see"), ("tool", "sun")]);
        let arguments = json!({"city": "北京", "days": 3});
        let expected = ids(
            &t,
            &[
                "[gMASK]",
                sop,
                "<|system|>",
                "\n",
                described,
                "<|user|>",
                "\n",
                "?",
                "<|assistant|>",
                "\n",
                "let me see",
                "<|assistant|>",
                "weather\n",
                call,
                "<|observation|>",
                "\n",
                "sun",
                "<|assistant|>",
            ],
        );
        // Functions in an envelope and without; arguments as an object and as its text.
        for (tools, arguments) in [
            (weather(), arguments.clone()),
            (
                json!([weather()[0]["function"]]),
                json!(arguments.to_string()),
            ),
        ] {
            let calls = json!([{"function": {"name": "weather", "arguments": arguments}}]);
            messages[1].more.insert("tool_calls".to_owned(), calls);
            let options = ChatOptions {
                tools: Some(tools),
                ..asked()
            };
            let prompt = form.encode(&t, &messages, &options).unwrap();
            assert_eq!(prompt.ids, expected, "{name:?}");
        }
        // The user's own system message comes before the tools.
        let options = ChatOptions {
            tools: Some(weather()),
            ..asked()
        };
        let own = talk(&[("system", "Be brief."), ("user", "?")]);
        let text = t
            .decode(&form.encode(&t, &own, &options).unwrap().ids, false)
            .unwrap();
        assert!(
            text.contains("Be brief.\n") && text.matches("<|system|>").count() == 1,
            "{text}"
        );
        for wrong in [json!({}), json!([{}]), json!([{"type": "retrieval"}])] {
            let options = ChatOptions {
                tools: Some(wrong.clone()),
                ..asked()
            };
            assert!(form.encode(&t, &own, &options).is_err(), "{wrong}");
        }
    }
    let options = || ChatOptions {
        tools: Some(weather()),
        ..asked()
    };
    for (name, t) in [
        (FormName::ChatGlm6b, v1()),
        (FormName::ChatGlm2, v2()),
        (FormName::CodeGeeX4, glm4()),
    ] {
        let form = ChatForm::of(name, &t).unwrap();
        let e = form
            .encode(&t, &talk(&[("user", "?")]), &options())
            .unwrap_err();
        assert!(
            e.kind() == ErrorKind::Unsupported && e.next().is_some(),
            "{e}"
        );
    }
}

#[test]
fn rounds_are_of_two() {
    for (name, t) in [(FormName::ChatGlm6b, v1()), (FormName::ChatGlm2, v2())] {
        let form = ChatForm::of(name, &t).unwrap();
        for messages in [
            &[("system", "a"), ("user", "b")][..],
            &[("user", "a"), ("user", "b")],
            &[("assistant", "a")],
            &[],
        ] {
            let e = form.encode(&t, &talk(messages), &asked()).unwrap_err();
            assert!(
                e.kind() == ErrorKind::InvalidArgument && e.next().is_some(),
                "{e}"
            );
        }
    }
}

#[test]
fn the_form_follows_from_configuration_and_tokenizer() {
    let named =
        |model_type: &str, name: &str| json!({"model_type": model_type, "_name_or_path": name});
    let choose =
        |config: &Value, t: &Tokenizer| ChatForm::choose(None, config, t).map(|form| form.name());
    for (config, t, name) in [
        (named("chatglm", ""), v1(), FormName::ChatGlm6b),
        (
            named("chatglm", "THUDM/chatglm2-6b"),
            v2(),
            FormName::ChatGlm2,
        ),
        (named("chatglm", ""), v3(), FormName::ChatGlm3),
        (named("chatglm", ""), glm4(), FormName::Glm4),
        (named("glm4", ""), glm4(), FormName::Glm4),
        (
            named("chatglm", "THUDM/codegeex4-all-9b"),
            glm4(),
            FormName::CodeGeeX4,
        ),
    ] {
        assert_eq!(choose(&config, &t).unwrap(), name);
    }
    for (config, t) in [
        (Value::Null, glm_130b()),
        (named("glm130b", ""), glm_130b()),
        (named("glm", ""), glm_10b()),
        (named("codegeex", ""), gpt2(&json!({}))),
        (named("chatglm", "THUDM/codegeex2-6b"), v2()),
    ] {
        let e = choose(&config, &t).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.next().unwrap().contains("glm fill"), "{e}");
    }
    assert_eq!(
        choose(&named("chatglm", ""), &gpt2(&json!({})))
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

/// Fills blanks with the answers in order; gives each prompt, and the text at last.
fn filled(form: &FillForm, t: &Tokenizer, text: &str, answers: &[&str]) -> (Vec<Prompt>, String) {
    let mut filling = form.begin(t, text, None).unwrap();
    let mut prompts = Vec::new();
    for answer in answers {
        prompts.push(filling.next().expect("one more blank"));
        filling.put(&t.encode(answer).unwrap());
    }
    assert_eq!(filling.next(), None);
    (prompts, filling.text(t).unwrap())
}

#[test]
fn glm_130b_fills_blanks() {
    let t = glm_130b();
    let form = FillForm::choose(BlankPositions::OneStream, &t).unwrap();
    assert_eq!(
        form.stop_ids(),
        ["<eop>", "</s>"].map(|name| t.special(name).unwrap())
    );
    let prompt = |parts: &[&str], mask: usize| {
        let ids = ids(&t, parts);
        let mask_id = ids[mask];
        let start = ids.len() - 1;
        let to_the_end = mask_id == t.special("[gMASK]").unwrap();
        Prompt {
            ids,
            blank: Some(Blank {
                start,
                mask,
                to_the_end,
            }),
        }
    };
    let len = |text: &str| t.encode(text).unwrap().len();
    // None: the rest of the text is the blank.
    let (prompts, text) = filled(&form, &t, "a b", &["c"]);
    assert_eq!(prompts, [prompt(&["a b", "[gMASK]", "<sop>"], len("a b"))]);
    assert_eq!(text, "a b c");
    // At the end: no mark of the end.
    let (prompts, _) = filled(&form, &t, "a[sMASK]", &["b"]);
    assert_eq!(prompts, [prompt(&["a", "[sMASK]", "<sop>"], len("a"))]);
    // Several, the short ones first, each with what came before in its place.
    let (prompts, text) = filled(&form, &t, "x [gMASK] y[MASK]z [MASK].", &["1", "2", "3"]);
    let between = ["x ", "[gMASK]", " y"];
    let at = len("x ") + 1 + len(" y");
    assert_eq!(
        prompts[0],
        prompt(
            &[
                &between[..],
                &["[MASK]", "z ", "[MASK]", ".", "</s>", "<sop>"]
            ]
            .concat(),
            at
        )
    );
    let at = at + len("1") + len("z ");
    assert_eq!(
        prompts[1],
        prompt(
            &[&between[..], &["1", "z ", "[MASK]", ".", "</s>", "<sop>"]].concat(),
            at
        )
    );
    assert_eq!(
        prompts[2],
        prompt(
            &[&between[..], &["1", "z ", "2", ".", "</s>", "<sop>"]].concat(),
            len("x ")
        )
    );
    let squeezed: String = text.split_whitespace().collect();
    assert_eq!(squeezed, "x3y1z2.");
    for (text, language) in [("", None), ("a", Some("python"))] {
        let e = form.begin(&t, text, language).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidArgument && e.next().is_some());
    }
}

#[test]
fn glm_10b_and_chatglm_6b_fill_blanks() {
    let t = glm_10b();
    let form = FillForm::choose(BlankPositions::TwoStreams, &t).unwrap();
    assert_eq!(form.stop_ids(), [t.special("<|endofpiece|>").unwrap()]);
    let (prompts, text) = filled(&form, &t, "at [MASK] (of", &[" home"]);
    // Spaces before a mask are the mask's.
    let parts = [
        "[CLS]",
        "at",
        "[MASK]",
        " (of",
        "<|endoftext|>",
        "<|startofpiece|>",
    ];
    let expected = ids(&t, &parts);
    let mask = 1 + t.encode("at").unwrap().len();
    let blank = Blank {
        start: expected.len() - 1,
        mask,
        to_the_end: false,
    };
    assert_eq!(
        prompts,
        [Prompt {
            ids: expected,
            blank: Some(blank)
        }]
    );
    assert_eq!(text, "at home (of");
    let (prompts, _) = filled(&form, &t, "at [gMASK]", &["b"]);
    let expected = ids(
        &t,
        &[
            "[CLS]",
            "at",
            "[gMASK]",
            "<|endoftext|>",
            "<|startofpiece|>",
        ],
    );
    assert_eq!(prompts[0].ids, expected);

    let t = v1();
    for positions in [
        BlankPositions::TwoStreams,
        BlankPositions::TwoStreamsFirstRevision,
    ] {
        let form = FillForm::choose(positions, &t).unwrap();
        let (prompts, _) = filled(&form, &t, "a[MASK]b", &["c"]);
        assert_eq!(
            prompts[0].ids,
            ids(&t, &["a", "[MASK]", "b", "</s>", "<sop>"])
        );
    }
    let e = FillForm::choose(BlankPositions::OneStream, &v2()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
}

#[test]
fn models_without_blanks_complete_texts() {
    let spaces = (10..19).map(|i| (format!("<|extratoken_{i}|>"), json!(5000 + i)));
    let added = Value::Object(spaces.collect());
    for (t, prefix) in [
        (v2(), &["[gMASK]", "sop"][..]),
        (v3(), &["[gMASK]", "sop"]),
        (glm4(), &["[gMASK]", "<sop>"]),
        (gpt2(&added), &[]),
    ] {
        let form = FillForm::choose(BlankPositions::None, &t).unwrap();
        let (prompts, text) = filled(&form, &t, "def f[MASK]", &[" x"]);
        // Their masks are no blanks: the name is text.
        assert_eq!(
            prompts,
            [ids(&t, &[prefix, &["def f[MASK]"]].concat()).into()]
        );
        assert!(
            text.starts_with("def f[MASK]") && text.ends_with('x'),
            "{text}"
        );
        assert!(!form.stop_ids().is_empty());
        let tagged = form.begin(&t, "# sort\n", Some("Python")).unwrap();
        let expected = ids(&t, &[prefix, &["# language: Python\n# sort\n"]].concat());
        assert_eq!(tagged.next(), Some(expected.into()));
        let e = form.begin(&t, "x", Some("klingon")).unwrap_err();
        assert!(e.next().unwrap().contains("python"), "{e}");
    }
}

/// Text in which names of special tokens are likely.
fn text() -> impl Strategy<Value = String> {
    let names = [
        "<|user|>",
        "<|system|>",
        "<|assistant|>",
        "<|observation|>",
        "[gMASK]",
        "[sMASK]",
        "sop",
        "<sop>",
        "<eop>",
        "</s>",
        "<|endoftext|>",
        "<|startofpiece|>",
        "[CLS]",
        "[Round 1]",
        "<unk>",
        "<n>",
        "\n",
        "a",
        "好",
        " ",
    ];
    let part = prop_oneof![
        prop::sample::select(names.to_vec()).prop_map(String::from),
        any::<String>()
    ];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A form has the special ids that it has for harmless text, and no others.
    #[test]
    fn users_write_no_special_tokens(texts in prop::array::uniform3(text())) {
        let harmless = ["a", "b", "c"].map(String::from);
        for (name, t) in [
            (FormName::ChatGlm6b, v1()),
            (FormName::ChatGlm2, v2()),
            (FormName::ChatGlm3, v3()),
            (FormName::Glm4, glm4()),
            (FormName::CodeGeeX4, glm4()),
        ] {
            let form = ChatForm::of(name.clone(), &t).unwrap();
            let special = |texts: &[String; 3]| -> Vec<u32> {
                let mut messages = talk(&[("user", &texts[0]), ("assistant", &texts[1]), ("user", &texts[2])]);
                if matches!(name, FormName::ChatGlm3 | FormName::Glm4) {
                    messages.push(Message::new("observation", &texts[0]));
                    messages[1].more.insert("metadata".to_owned(), json!(texts[2]));
                }
                let prompt = form.encode(&t, &messages, &asked()).unwrap();
                let special = prompt.ids.into_iter().filter(|id| t.is_special(*id));
                special.filter(|&id| Some(id) != t.special("<unk>")).collect()
            };
            prop_assert_eq!(special(&texts), special(&harmless), "{:?}", name);
        }
        for (positions, t) in [
            (BlankPositions::OneStream, glm_130b()),
            (BlankPositions::TwoStreams, glm_10b()),
            (BlankPositions::None, v2()),
        ] {
            let form = FillForm::choose(positions, &t).unwrap();
            let text = texts.concat().replace("MASK]", "");
            let special = |text: &str| -> Vec<u32> {
                let prompt = form.begin(&t, &format!("x{text}[MASK]y"), None).unwrap().next().unwrap();
                let special = prompt.ids.into_iter().filter(|id| t.is_special(*id));
                special.filter(|&id| Some(id) != t.special("<unk>")).collect()
            };
            prop_assert_eq!(special(&text), special("a"), "{:?}", positions);
        }
    }
}

/// The prompts of ChatGLM2 and ChatGLM3 with the file of ChatGLM3, whose licence keeps it out of this project.
#[test]
fn real_chatglm_prompts() {
    const VARIABLE: &str = "GLM_CHATGLM3_TOKENIZER";
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        eprintln!("SKIPPED: {VARIABLE} does not name ChatGLM3's tokenizer.model");
        return;
    };
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let hello = talk(&[("user", "你好")]);
    // From the tests of chatglm.cpp.
    let t = tokenizer(ChatGlm::from_bytes("tokenizer.model", &file, CHATGLM3_SPECIALS).unwrap());
    let form = ChatForm::of(FormName::ChatGlm3, &t).unwrap();
    let prompt = form.encode(&t, &hello, &asked()).unwrap();
    assert_eq!(
        prompt.ids,
        [64790, 64792, 64795, 30910, 13, 36474, 54591, 64796]
    );
    assert_eq!(form.stop_ids(&t), [2, 64795, 64797]);
    let t = tokenizer(ChatGlm::from_bytes("tokenizer.model", &file, CHATGLM2_SPECIALS).unwrap());
    let form = ChatForm::of(FormName::ChatGlm2, &t).unwrap();
    let prompt = form.encode(&t, &hello, &asked()).unwrap();
    assert_eq!(
        prompt.ids,
        [
            64790, 64792, 790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13,
            13, 55437, 31211,
        ]
    );
    let form = FillForm::choose(BlankPositions::None, &t).unwrap();
    let code = form
        .begin(
            &t,
            "def main():\n    print('hello world')\t# greeting",
            None,
        )
        .unwrap();
    assert_eq!(
        code.next().unwrap().ids,
        [
            64790, 64792, 884, 1301, 9427, 13, 296, 4466, 2029, 15616, 30914, 993, 3387, 12, 31010,
            30174,
        ]
    );
}
