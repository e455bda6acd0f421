//! Generation: what is drawn, where it stops, what is computed again and what is not.

use std::ops::ControlFlow;
use std::path::Path;

use crate::common::{
    LETTERS, cpu, first_generation, golden, golden_config, golden_shapes, le_bytes,
    letters_tokenizer, tensor, write_checkpoint,
};
use glm::architecture::Architecture;
use glm::blank::Blank;
use glm::checkpoint::Checkpoint;
use glm::engine::{Engine, FinishReason, Generation, GenerationParams, Session, Token};
use glm::model::{Chunk, Model, Options, Rows};
use glm::prompt::Prompt;
use glm::sampler::{Request, Sampler, Sampling};
use glm::tokenizer::Tokenizer;
use hal::{DType, ErrorKind, Result};
use ops::{Context, Sample};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

const CONTEXT: usize = 64;

fn options() -> Options {
    Options {
        dtype: Some(DType::F32),
        max_tokens: Some(7),
        max_sequences: 3,
        max_logits: 3,
        page_size: Some(16),
        // Shared by all sessions of a test.
        cache_tokens: Some(512),
        ..Options::default()
    }
}

fn load(context: &Context, folder: &Path) -> Model {
    let architecture = Architecture::load(folder).unwrap();
    let checkpoint = Checkpoint::open(folder).unwrap();
    Model::load(context, &architecture, &checkpoint, &options(), |_, _| {}).unwrap()
}

fn model(context: &Context) -> Model {
    let (dir, case) = (TempDir::new().unwrap(), golden("glm4"));
    let config = golden_config(&case, "glm4");
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, false);
    load(context, dir.path())
}

fn engine() -> Engine {
    let context = cpu();
    let model = model(&context);
    Engine::new(&context, model, letters_tokenizer()).unwrap()
}

fn greedy(max_new_tokens: usize) -> GenerationParams {
    GenerationParams {
        max_new_tokens,
        ..GenerationParams::default()
    }
}

fn sampled(seed: u64) -> Sampling {
    Sampling {
        temperature: 1.5,
        top_k: 20,
        top_p: 0.95,
        repetition_penalty: 1.1,
        seed,
    }
}

fn drawn(sampling: Sampling) -> GenerationParams {
    GenerationParams {
        sampling,
        ..greedy(24)
    }
}

fn run(
    session: &mut Session<'_>,
    prompt: impl Into<Prompt>,
    params: &GenerationParams,
) -> Generation {
    let mut heard = (Vec::new(), String::new());
    let result = session.generate(prompt, params, |token| {
        heard.0.extend(token.id);
        heard.1.push_str(token.text);
        ControlFlow::Continue(())
    });
    let result = result.unwrap();
    // Callbacks and result agree, whatever was held back.
    assert_eq!((&result.ids, &result.text), (&heard.0, &heard.1));
    result
}

fn fresh(engine: &Engine, prompt: impl Into<Prompt>, params: &GenerationParams) -> Generation {
    run(&mut engine.session().unwrap(), prompt, params)
}

fn letters(ids: &[u32]) -> String {
    let letter = |&id: &u32| LETTERS.as_bytes()[id as usize] as char;
    ids.iter().map(letter).collect()
}

/// The largest logit wins, from the logits themselves, each token after a prefill of all before it.
fn by_hand(prompt: &[u32], n: usize, penalty: f32) -> Vec<u32> {
    let mut model = model(&cpu());
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let mut sequence = model.sequence();
        for chunk in ids.chunks(7) {
            let chunk = Chunk {
                sequence: &mut sequence,
                ids: chunk,
                positions: None,
            };
            model.forward(&mut [chunk], Rows::Last).unwrap();
        }
        let logits = model.read_logits().unwrap().into_iter().enumerate();
        let score = |(id, l): (usize, f32)| match ids.contains(&(id as u32)) {
            true if l > 0.0 => (id, l / penalty),
            true => (id, l * penalty),
            false => (id, l),
        };
        let best = logits.map(score).max_by(|a, b| a.1.total_cmp(&b.1));
        ids.push(best.unwrap().0 as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn greedy_takes_the_largest_logit() {
    let (engine, prompt) = (engine(), [5, 9, 33]);
    let result = fresh(&engine, &prompt, &greedy(20));
    assert_eq!(result.ids, by_hand(&prompt, 20, 1.0));
    assert_eq!(result.text, letters(&result.ids));
    assert_eq!(result.finish, FinishReason::Length);
    let stats = result.stats;
    assert_eq!(
        (stats.prompt_tokens, stats.reused_tokens, stats.new_tokens),
        (3, 0, 20)
    );
    assert!(stats.prefill_seconds > 0.0 && stats.decode_seconds > 0.0);

    let mut params = greedy(20);
    params.sampling.repetition_penalty = 1.5;
    let penalised = fresh(&engine, &prompt, &params);
    assert_eq!(penalised.ids, by_hand(&prompt, 20, 1.5));
    assert_ne!(penalised.ids, result.ids);
}

#[test]
fn seeds_decide_what_is_drawn() {
    let (engine, prompt) = (engine(), [1, 2, 3]);
    let of = |sampling| fresh(&engine, &prompt, &drawn(sampling)).ids;
    assert_eq!(of(sampled(7)), of(sampled(7)));
    assert_ne!(of(sampled(7)), of(sampled(8)));
    let one = Sampling {
        top_k: 1,
        repetition_penalty: 1.0,
        ..sampled(7)
    };
    assert_eq!(of(one), of(Sampling::default()));
}

#[test]
fn stops_at_ids_and_strings() {
    let (engine, prompt) = (engine(), [5, 9, 33]);
    let all = fresh(&engine, &prompt, &greedy(20));
    // The seventh token, or an equal one before it.
    let stop = all.ids[6];
    let at = all.ids.iter().position(|&id| id == stop).unwrap();
    let with_id = GenerationParams {
        stop_ids: vec![stop],
        ..greedy(20)
    };
    let result = fresh(&engine, &prompt, &with_id);
    assert_eq!(result.ids, all.ids[..at]);
    assert_eq!(
        (result.finish, &*result.text),
        (FinishReason::Stop, &all.text[..at])
    );
    assert_eq!(result.stats.new_tokens, at + 1);

    for (start, len) in [(4, 3), (0, 2), (10, 1)] {
        let stop = all.text[start..start + len].to_owned();
        let at = all.text.find(&stop).unwrap();
        let params = GenerationParams {
            // The second one begins like the answer and never comes: its beginning is held back,
            // then given.
            stop: vec![stop.clone(), format!("{}~", &all.text[..3])],
            ..greedy(20)
        };
        let result = fresh(&engine, &prompt, &params);
        assert_eq!(result.text, all.text[..at], "{stop}");
        assert_eq!(result.ids.len(), at + len);
        assert_eq!(result.finish, FinishReason::Stop);
    }

    let held = GenerationParams {
        stop: vec![format!("{}~", &all.text[15..20])],
        ..greedy(20)
    };
    let result = fresh(&engine, &prompt, &held);
    assert_eq!(
        (result.text, result.finish),
        (all.text, FinishReason::Length)
    );
}

#[test]
fn the_caller_may_end_it() {
    let engine = engine();
    let mut session = engine.session().unwrap();
    let mut count = 0;
    let on_token = |_: Token<'_>| {
        count += 1;
        if count == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let result = session.generate(&[1], &greedy(20), on_token).unwrap();
    assert_eq!(
        (result.finish, result.ids.len()),
        (FinishReason::Cancelled, 3)
    );
}

#[test]
fn the_context_is_the_end() {
    let engine = engine();
    let prompt: Vec<u32> = (0..60).collect();
    let result = fresh(&engine, &prompt, &greedy(usize::MAX));
    // The last token drawn need not fit: nothing is drawn after it.
    assert_eq!(
        (result.ids.len(), result.finish),
        (CONTEXT - 60 + 1, FinishReason::Length)
    );
    let result = fresh(&engine, &[0; CONTEXT], &greedy(usize::MAX));
    assert_eq!(result.ids.len(), 1);

    let refused = |ids: &[u32], params: &GenerationParams| {
        let mut session = engine.session().unwrap();
        let result = session.generate(ids, params, |_| ControlFlow::Continue(()));
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        e.to_string()
    };
    assert!(refused(&[0; CONTEXT + 1], &greedy(1)).contains("65 tokens; the context is 64"));
    assert!(refused(&[], &greedy(1)).contains("no tokens"));
    assert!(refused(&[1, 64], &greedy(1)).contains("token id 64"));
    let stop = GenerationParams {
        stop: vec![String::new()],
        ..greedy(1)
    };
    assert!(refused(&[1], &stop).contains("stop string"));
    for (name, sampling) in [
        (
            "temperature",
            Sampling {
                temperature: -1.0,
                ..sampled(1)
            },
        ),
        (
            "temperature",
            Sampling {
                temperature: f32::NAN,
                ..sampled(1)
            },
        ),
        (
            "top_p",
            Sampling {
                top_p: 0.0,
                ..sampled(1)
            },
        ),
        (
            "repetition_penalty",
            Sampling {
                repetition_penalty: 0.0,
                ..sampled(1)
            },
        ),
    ] {
        assert!(refused(&[1], &drawn(sampling)).contains(name));
    }
}

#[test]
fn the_history_of_a_chat_is_computed_once() {
    let engine = engine();
    for params in [greedy(6), drawn(sampled(3))] {
        let mut session = engine.session().unwrap();
        let first: Vec<u32> = (10..20).collect();
        let answer = run(&mut session, &first, &params);
        // All but the last token drawn are in the cache.
        let second = [&first[..], &answer.ids, &[40, 41]].concat();
        let next = run(&mut session, &second, &params);
        assert_eq!(next.stats.reused_tokens, second.len() - 3);
        assert_eq!(next.ids, fresh(&engine, &second, &params).ids);

        // Another question after the first turn: rewound to where it differs.
        let other = [&first[..], &answer.ids[..2], &[50, 51]].concat();
        let next = run(&mut session, &other, &params);
        assert_eq!(next.stats.reused_tokens, first.len() + 2);
        assert_eq!(next.ids, fresh(&engine, &other, &params).ids);

        // The very same prompt again: its last token is computed again.
        let again = run(&mut session, &first, &params);
        assert_eq!(
            (again.stats.reused_tokens, again.ids),
            (first.len() - 1, answer.ids)
        );
        session.clear();
        assert_eq!((session.cached(), session.ids().len()), (0, 0));
    }
}

#[test]
fn prefill_and_decode_are_the_steps_of_generate() {
    let engine = engine();
    let prompt: Vec<u32> = (10..30).collect();
    let expected = fresh(&engine, &prompt, &drawn(sampled(5)));
    let mut session = engine.session().unwrap();
    assert!(session.decode(&sampled(5)).is_err(), "there is no prompt");
    assert_eq!(session.prefill(&prompt).unwrap(), 0);
    assert_eq!(session.cached(), prompt.len() - 1);
    let ids: Vec<u32> = (0..24)
        .map(|_| session.decode(&sampled(5)).unwrap())
        .collect();
    assert_eq!(ids, expected.ids);
}

#[test]
fn sessions_do_not_notice_each_other() {
    let engine = engine();
    let prompts: [Vec<u32>; 2] = [(1..9).collect(), (30..50).collect()];
    let mut sessions = prompts.each_ref().map(|prompt| {
        let mut session = engine.session().unwrap();
        session.prefill(prompt).unwrap();
        session
    });
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..24 {
        for (i, session) in sessions.iter_mut().enumerate() {
            got[i].push(session.decode(&sampled(i as u64)).unwrap());
        }
    }
    for (i, prompt) in prompts.iter().enumerate() {
        assert_eq!(
            got[i],
            fresh(&engine, prompt, &drawn(sampled(i as u64))).ids
        );
    }
}

#[test]
fn a_request_gives_the_same_tokens_in_a_batch() -> Result<()> {
    let prompts: [&[u32]; 3] = [&[5, 9], &[1, 2, 3], &[60, 7]];
    let settings = [Sampling::default(), sampled(1), sampled(2)];
    let context = cpu();
    let mut model = model(&context);
    let plan = context.plan(Sample { vocab: 64 })?;
    let mut sampler = Sampler::new(&**model.device(), plan, 3, CONTEXT)?;
    let mut sequences = [0; 3].map(|_| model.sequence());
    let mut ids = prompts.map(<[u32]>::to_vec);
    for step in 0..24 {
        let mut chunks: Vec<Chunk<'_>> = sequences
            .iter_mut()
            .zip(&ids)
            .map(|(sequence, ids)| Chunk {
                ids: &ids[sequence.len()..],
                sequence,
                positions: None,
            })
            .collect();
        model.forward(&mut chunks, Rows::Last)?;
        let request = |r: usize| Request {
            control: settings[r].control(step),
            history: &ids[r],
        };
        let (stream, logits) = model.output()?;
        let requests = [request(0), request(1), request(2)];
        let drawn = sampler.draw(stream, logits, &requests)?.to_vec();
        for (ids, drawn) in ids.iter_mut().zip(drawn) {
            ids.push(drawn.id);
        }
    }
    let engine = engine();
    for (r, prompt) in prompts.into_iter().enumerate() {
        let alone = fresh(&engine, prompt, &drawn(settings[r]));
        assert_eq!(ids[r][prompt.len()..], alone.ids, "request {r}");
    }
    Ok(())
}

#[test]
fn what_is_not_a_number_ends_it_and_stays_alone() {
    let (dir, case) = (TempDir::new().unwrap(), golden("glm"));
    let (shapes, config) = (golden_shapes(&case), golden_config(&case, "glm"));
    write_checkpoint(dir.path(), &shapes, &config, false);
    // Token 13 is damaged.
    let tensors = shapes.iter().map(|(name, shape)| {
        let mut values = tensor(name, shape);
        if name == "model.embed_tokens.weight" {
            values[13 * 32] = f32::INFINITY;
        }
        (name, shape, le_bytes(&values))
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let context = cpu();
    let engine = Engine::new(&context, load(&context, dir.path()), letters_tokenizer()).unwrap();

    let expected = fresh(&engine, &[1, 2, 3], &greedy(5)).ids;
    assert!(!expected.contains(&13));
    for sampling in [Sampling::default(), sampled(1)] {
        let mut session = engine.session().unwrap();
        let result = session.generate(&[1, 13, 3], &drawn(sampling), |_| ControlFlow::Continue(()));
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Numeric, "{e}");
        assert!(
            e.doing().contains("token 0") && e.next().unwrap().contains("f32"),
            "{e}"
        );
        // Its pages go to the next sequence, without what made it fail.
        assert_eq!(run(&mut session, &[1, 2, 3], &greedy(5)).ids, expected);
        drop(session);
        assert_eq!(fresh(&engine, &[1, 2, 3], &greedy(5)).ids, expected);
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let context = cpu();
    let json = json!({
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 64}, "unk_token": "a"},
    });
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    let e = Engine::new(&context, model(&context), tokenizer).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
}

/// An engine with a golden model that fills blanks, and that model's official case.
fn blank_engine(name: &str) -> (Engine, Value) {
    let (dir, case) = (TempDir::new().unwrap(), golden(name));
    let config = first_generation(name, &case);
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, false);
    let architecture = Architecture::from_config(&config).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let (context, options) = (
        cpu(),
        Options {
            max_tokens: Some(24),
            ..options()
        },
    );
    let model = Model::load(&context, &architecture, &checkpoint, &options, |_, _| {}).unwrap();
    let engine = Engine::new(&context, model, letters_tokenizer()).unwrap();
    (engine, case)
}

/// `text`, a `[gMASK]` or `[MASK]` in it, and `sop` as the golden models number them.
fn fill(text: &[u32], mask: usize, to_the_end: bool, answer: &[u32]) -> Prompt {
    let mut ids = text.to_vec();
    ids.insert(mask, if to_the_end { 59 } else { 58 });
    let start = ids.len();
    ids.push(60);
    ids.extend(answer);
    let blank = Some(Blank {
        start,
        mask,
        to_the_end,
    });
    Prompt { ids, blank }
}

#[test]
fn blanks_are_filled_as_the_official_code_does() {
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let best = |row: &Value| {
        let row: Vec<f32> = serde_json::from_value(row.clone()).unwrap();
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.unwrap().0 as u32
    };
    // (The masks of `glm130b_mask` and its positions do not belong to one prompt.)
    for name in ["glm130b_gmask", "chatglm_v1_gmask", "chatglm_v1_mask"] {
        let (engine, case) = blank_engine(name);
        let mut session = engine.session().unwrap();
        let mut prompt = ids(&case["input_ids"]);
        let at = |id: u32| prompt.iter().position(|&other| other == id).unwrap();
        let to_the_end = name.ends_with("gmask");
        let (start, mask) = (at(60), at(if to_the_end { 59 } else { 58 }));
        let blank = Some(Blank {
            start,
            mask,
            to_the_end,
        });
        let mut check = |prompt: &[u32], official: &Value| {
            let prompt = Prompt {
                ids: prompt.to_vec(),
                blank,
            };
            let next = run(&mut session, prompt, &greedy(1));
            assert_eq!(next.ids, [best(official)], "{name}");
            next.stats.reused_tokens
        };
        check(&prompt, case["logits"].as_array().unwrap().last().unwrap());
        for (i, row) in case["decode_logits"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            prompt.push(ids(&case["decode_ids"])[i]);
            // Only the new token is computed.
            assert_eq!(check(&prompt, row), prompt.len() - 1);
        }
    }
}

#[test]
fn a_cached_blank_gives_what_a_fresh_one_does() {
    for name in ["glm130b_gmask", "chatglm_v1_gmask"] {
        let (engine, _) = blank_engine(name);
        let text: Vec<u32> = (10..25).collect();
        let mut session = engine.session().unwrap();
        let mut ask = |prompt: &Prompt, reused: usize| {
            let answer = run(&mut session, prompt.clone(), &greedy(24));
            let alone = fresh(&engine, prompt.clone(), &greedy(24));
            assert_eq!(answer.ids, alone.ids, "{name} {prompt:?}");
            assert_eq!(answer.stats.reused_tokens, reused, "{name} {prompt:?}");
            answer.ids
        };
        let first = fill(&text, 15, true, &[]);
        let answer = ask(&first, 0);
        // Its own continuation: everything is there.
        let more = fill(&text, 15, true, &answer[..4]);
        assert_eq!(ask(&more, more.ids.len() - 1)[..20], answer[4..]);
        // The next turn: the tokens before `sop` see new ones, so none of them is what it was.
        let next = [&text[..], &[58, 40, 41]].concat();
        ask(&fill(&next, 18, true, &[]), 0);
        // Another mask, another kind, no blank at all: anew each time.
        ask(&fill(&text, 5, true, &[]), 0);
        ask(&fill(&text, 5, false, &[]), 0);
        ask(&text.clone().into(), 0);
        ask(&text.clone().into(), text.len() - 1);
        ask(&first, 0);
        ask(&first, first.ids.len() - 1);
    }
}

#[test]
fn sessions_with_blanks_do_not_notice_each_other() {
    let (engine, _) = blank_engine("chatglm_v1_gmask");
    let text: Vec<u32> = (10..30).collect();
    let prompts = [
        fill(&text[..3], 2, false, &[]),
        fill(&text, 20, true, &[]),
        text[..9].into(),
    ];
    let mut sessions = prompts.each_ref().map(|prompt| {
        let mut session = engine.session().unwrap();
        session.prefill(prompt.clone()).unwrap();
        session
    });
    let mut got = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..16 {
        for (i, session) in sessions.iter_mut().enumerate() {
            got[i].push(session.decode(&sampled(i as u64)).unwrap());
        }
    }
    for (i, prompt) in prompts.into_iter().enumerate() {
        let alone = fresh(&engine, prompt, &drawn(sampled(i as u64)));
        assert_eq!(got[i], alone.ids[..16]);
    }
}

#[test]
fn blanks_that_cannot_be_are_refused() {
    let refused = |engine: &Engine, prompt: Prompt, word: &str| {
        let e = engine.session().unwrap().prefill(prompt).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        assert!(e.to_string().contains(word) && e.next().is_some(), "{e}");
    };
    let prompt = fill(&[1, 2, 3], 3, true, &[]);
    refused(&engine(), prompt.clone(), "fills none");
    let (engine, _) = blank_engine("glm130b_gmask");
    for (start, mask) in [(3, 3), (5, 3)] {
        let blank = Some(Blank {
            start,
            mask,
            to_the_end: true,
        });
        refused(
            &engine,
            Prompt {
                blank,
                ..prompt.clone()
            },
            "Blank",
        );
    }
    // The tokens before `sop` go in one step, and this model takes 24.
    refused(&engine, fill(&[7; 30], 30, true, &[]), "24");
}
