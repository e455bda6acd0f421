//! Beam search against searches that recompute everything: all texts, and GLM-130B's rule by rule.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::common::{
    cpu, first_generation, golden, golden_config, golden_shapes, letters_tokenizer,
    write_checkpoint,
};
use glm::architecture::Architecture;
use glm::blank::Blank;
use glm::checkpoint::Checkpoint;
use glm::engine::{BeamSearch, Engine, FinishReason, Generation, GenerationParams};
use glm::model::{Chunk, Model, Options, Rows};
use glm::prompt::Prompt;
use hal::{DType, ErrorKind};
use tempfile::TempDir;

const VOCAB: usize = 64;

fn engine(name: &str, beams: usize) -> Engine {
    let (dir, case) = (TempDir::new().unwrap(), golden(name));
    let config = match name {
        "glm4" => golden_config(&case, "glm4"),
        _ => first_generation(name, &case),
    };
    let architecture = Architecture::from_config(&config).unwrap();
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, false);
    let options = Options {
        dtype: Some(DType::F32),
        max_sequences: beams,
        max_logits: beams,
        // Forks in the middle of a page.
        page_size: Some(4),
        ..Options::default()
    };
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let context = cpu();
    let model = Model::load(&context, &architecture, &checkpoint, &options, |_, _| {}).unwrap();
    Engine::new(&context, model, letters_tokenizer()).unwrap()
}

fn search(beams: usize, length_penalty: f64, no_repeat_ngram: usize) -> BeamSearch {
    BeamSearch {
        beams,
        length_penalty,
        no_repeat_ngram,
    }
}

fn params(search: BeamSearch, max_new_tokens: usize, stop_ids: &[u32]) -> GenerationParams {
    GenerationParams {
        beams: Some(search),
        max_new_tokens,
        stop_ids: stop_ids.to_vec(),
        ..GenerationParams::default()
    }
}

fn found(engine: &Engine, prompt: &Prompt, params: &GenerationParams) -> Generation {
    let free = || engine.model().cache().free_tokens();
    let before = free();
    let mut session = engine.session().unwrap();
    let mut heard = (Vec::new(), String::new());
    let result = session.generate(prompt.clone(), params, |token| {
        heard.0.extend(token.id);
        heard.1.push_str(token.text);
        ControlFlow::Continue(())
    });
    let result = result.unwrap();
    assert_eq!((&result.ids, &result.text), (&heard.0, &heard.1));
    // The session goes on as if it had drawn the text.
    assert!(session.cached() < session.ids().len());
    drop(session);
    assert_eq!(free(), before, "pages are lost");
    result
}

/// Log probabilities of the token after `ids`, computed from nothing but them; `banned` ones do not exist.
fn log_probabilities(
    engine: &Engine,
    ids: &[u32],
    blank: Option<Blank>,
    banned: &[u32],
) -> Vec<f64> {
    let mut model = engine.model();
    let rule = model.architecture().blank;
    let mut sequence = model.sequence();
    sequence.set_prefix(blank.map_or(0, |b| b.start)).unwrap();
    let positions: Vec<u32> = (0..rule.streams())
        .flat_map(|stream| (0..ids.len()).map(move |i| rule.of(blank, i)[stream] as u32))
        .collect();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids,
        positions: Some(&positions),
    };
    model.forward(&mut [chunk], Rows::Last).unwrap();
    let logits = model.read_logits().unwrap();
    let weight = |(id, &logit): (usize, &f32)| match banned.contains(&(id as u32)) {
        true => 0.0,
        false => f64::from(logit).exp(),
    };
    let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights
        .into_iter()
        .map(|weight| (weight / sum).ln())
        .collect()
}

fn penalised(score: f64, tokens: usize, penalty: f64) -> f64 {
    score / ((5.0 + tokens as f64) / 6.0).powf(penalty)
}

/// With a beam for every first token, no text of two tokens can be missed.
#[test]
fn enough_beams_find_the_likeliest_of_all_texts() {
    let engine = engine("glm4", VOCAB);
    let stops = [7, 50];
    for (prompt, penalty) in [
        ([5, 9, 33], 1.0),
        ([1, 2, 3], 0.0),
        ([60, 8, 44], -2.0),
        ([5, 9, 33], 4.0),
    ] {
        let mut best: (f64, Vec<u32>, FinishReason) =
            (f64::NEG_INFINITY, vec![], FinishReason::Stop);
        let mut offer = |score: f64, generated: &[u32], last: u32| {
            let score = penalised(score, prompt.len() + generated.len() + 1, penalty);
            if score > best.0 {
                let mut ids = generated.to_vec();
                let stops = stops.contains(&last);
                ids.extend((!stops).then_some(last));
                let reason = if stops {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                };
                best = (score, ids, reason);
            }
        };
        let firsts = log_probabilities(&engine, &prompt, None, &[]);
        for (first, score) in (0u32..).zip(firsts) {
            if stops.contains(&first) {
                offer(score, &[], first);
                continue;
            }
            let ids = [&prompt[..], &[first]].concat();
            let seconds = log_probabilities(&engine, &ids, None, &[]);
            for (second, more) in (0u32..).zip(seconds) {
                offer(score + more, &[first], second);
            }
        }
        let result = found(
            &engine,
            &(&prompt).into(),
            &params(search(VOCAB, penalty, 0), 2, &stops),
        );
        assert_eq!((result.ids, result.finish), (best.1, best.2), "{prompt:?}");
    }
}

/// GLM-130B's `BeamSearchStrategy` with `deterministic=True`, prefix by prefix.
fn by_the_book(
    engine: &Engine,
    prompt: &Prompt,
    search: &BeamSearch,
    steps: usize,
    stops: &[u32],
) -> Vec<u32> {
    struct Line {
        tokens: Vec<u32>,
        score: f64,
        bans: HashMap<Vec<u32>, Vec<u32>>,
    }
    let n = search.no_repeat_ngram;
    let tail = |tokens: &[u32]| tokens[tokens.len() - (n.max(1) - 1)..].to_vec();
    let mut lines = vec![Line {
        tokens: prompt.ids.clone(),
        score: 0.0,
        bans: HashMap::new(),
    }];
    let mut ended: Vec<(f64, Vec<u32>)> = Vec::new();
    let end = |ended: &mut Vec<(f64, Vec<u32>)>, score: f64, tokens: Vec<u32>, cut: usize| {
        let score = penalised(score, tokens.len(), search.length_penalty);
        let text = tokens[prompt.ids.len()..tokens.len() - cut].to_vec();
        ended.push((score, text));
        ended.sort_by(|a, b| b.0.total_cmp(&a.0));
        ended.truncate(search.beams);
    };
    let mut over = false;
    for _ in 0..steps {
        let mut all = Vec::new();
        for (l, line) in lines.iter().enumerate() {
            let banned = match n {
                0 => Vec::new(),
                _ => line
                    .bans
                    .get(&tail(&line.tokens))
                    .cloned()
                    .unwrap_or_default(),
            };
            let scores = log_probabilities(engine, &line.tokens, prompt.blank, &banned);
            let scores = (0u32..).zip(scores);
            all.extend(scores.map(|(id, score)| (line.score + score, l, id)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate((stops.len().max(1) + 1) * search.beams);
        let mut next: Vec<Line> = Vec::new();
        for (score, l, id) in all {
            let tokens = [&lines[l].tokens[..], &[id]].concat();
            if stops.contains(&id) {
                end(&mut ended, score, tokens, 1);
            } else if next.len() < search.beams {
                let mut bans = lines[l].bans.clone();
                if n > 0 {
                    bans.entry(tail(&lines[l].tokens)).or_default().push(id);
                }
                next.push(Line {
                    tokens,
                    score,
                    bans,
                });
            } else {
                break;
            }
        }
        lines = next;
        let best = penalised(lines[0].score, lines[0].tokens.len(), search.length_penalty);
        if ended.len() == search.beams && ended[search.beams - 1].0 >= best {
            over = true;
            break;
        }
    }
    if !over {
        for line in lines {
            end(&mut ended, line.score, line.tokens, 0);
        }
    }
    ended.swap_remove(0).1
}

#[test]
fn a_search_is_that_of_glm_130b() {
    let blank = Some(Blank {
        start: 10,
        mask: 9,
        to_the_end: true,
    });
    let causal: Prompt = (&[5, 9, 33, 2, 17, 40]).into();
    let filled = Prompt {
        ids: vec![5, 9, 33, 7, 2, 11, 12, 13, 14, 59, 60],
        blank,
    };
    let mut texts = std::collections::HashSet::new();
    let mut ends = [0, 0];
    for (name, prompt) in [
        ("glm4", causal),
        ("chatglm_v1_gmask", filled.clone()),
        ("glm130b_gmask", filled),
    ] {
        let engine = engine(name, 4);
        for stops in [&[61, 30, 12][..], &[3], &[]] {
            for (beams, penalty, n) in [
                (1, 1.0, 0),
                (2, 0.0, 2),
                (3, 2.0, 1),
                (4, 1.0, 3),
                (4, -1.0, 2),
                (4, 1.0, 0),
            ] {
                let search = search(beams, penalty, n);
                let result = found(&engine, &prompt, &params(search, 14, stops));
                let expected = by_the_book(&engine, &prompt, &search, 14, stops);
                assert_eq!(result.ids, expected, "{name} {search:?} {stops:?}");
                ends[usize::from(result.finish == FinishReason::Stop)] += 1;
                for (i, run) in result.ids.windows(n.max(1)).enumerate() {
                    let again = result.ids[i + 1..]
                        .windows(n.max(1))
                        .any(|other| other == run);
                    assert!(n == 0 || !again, "{run:?} twice in {:?}", result.ids);
                }
                texts.insert(result.ids);
            }
        }
    }
    // The cases differ, and both ways to end were met.
    assert!(
        texts.len() > 12 && ends.iter().all(|&n| n > 3),
        "{} {ends:?}",
        texts.len()
    );
}

#[test]
fn one_beam_is_greedy() {
    let engine = engine("glm4", 2);
    let prompt: Prompt = (&[5, 9, 33]).into();
    let one = found(&engine, &prompt, &params(search(1, 1.0, 0), 61, &[]));
    let greedy = GenerationParams {
        max_new_tokens: 61,
        ..GenerationParams::default()
    };
    let greedy = found(&engine, &prompt, &greedy);
    assert_eq!(
        (one.ids, one.text, one.finish),
        (greedy.ids, greedy.text, greedy.finish)
    );
    // To the last slot of the context, and no token more.
    let two = found(
        &engine,
        &prompt,
        &params(search(2, 1.0, 0), usize::MAX, &[]),
    );
    assert_eq!((two.ids.len(), two.finish), (62, FinishReason::Length));
    assert_eq!(two.stats.new_tokens, 62);
}

#[test]
fn a_session_goes_on_after_a_search() {
    let engine = engine("glm4", 3);
    let mut session = engine.session().unwrap();
    let search = params(search(3, 1.0, 0), 6, &[]);
    let first = session
        .generate(&[5, 9, 33, 1, 2], &search, |_| ControlFlow::Continue(()))
        .unwrap();
    let next = [&[5, 9, 33, 1, 2][..], &first.ids, &[8]].concat();
    let again = session
        .generate(&next, &search, |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(again.stats.reused_tokens, 5);
    assert_eq!(again.ids, found(&engine, &(&next).into(), &search).ids);
    // Drawing goes on as well.
    let greedy = GenerationParams {
        max_new_tokens: 4,
        ..GenerationParams::default()
    };
    let drawn = session
        .generate(&next, &greedy, |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(drawn.ids, found(&engine, &(&next).into(), &greedy).ids);

    let mut steps = 0;
    let stopped = session.generate(&next, &search, |_| {
        steps += 1;
        if steps == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let stopped = stopped.unwrap();
    assert_eq!(
        (stopped.finish, stopped.ids.len()),
        (FinishReason::Cancelled, 2)
    );
}

#[test]
fn text_ends_a_result_and_wrong_searches_are_refused() {
    let engine = engine("glm4", 2);
    let prompt: Prompt = (&[5, 9, 33]).into();
    let whole = found(&engine, &prompt, &params(search(2, 1.0, 0), 8, &[]));
    let stop = whole.text[3..5].to_owned();
    let at = whole.text.find(&stop).unwrap();
    let cut = GenerationParams {
        stop: vec![stop],
        ..params(search(2, 1.0, 0), 8, &[])
    };
    let result = found(&engine, &prompt, &cut);
    assert_eq!(
        (result.text.as_str(), result.finish),
        (&whole.text[..at], FinishReason::Stop)
    );

    for (search, word) in [
        (search(0, 1.0, 0), "one at least"),
        (search(3, 1.0, 0), "3 beams"),
        (search(2, f64::NAN, 0), "penalty"),
    ] {
        let mut session = engine.session().unwrap();
        let result = session.generate(&[1], &params(search, 4, &[]), |_| ControlFlow::Continue(()));
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        assert!(e.to_string().contains(word), "{e}");
    }
}
