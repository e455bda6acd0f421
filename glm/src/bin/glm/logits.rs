//! `glm logits`: how anyone compares us with the official code.

use std::io::Write;

use glm::model::{Chunk, Options, Rows};
use hal::Error;
use serde::Serialize;

use crate::args::{Global, Logits, RowChoice};
use crate::failure::Failure;
use crate::{load, output};

#[derive(Serialize)]
struct Document {
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    row: usize,
    logits: Vec<f32>,
}

pub(crate) fn run(global: &Global, args: &Logits) -> Result<(), Failure> {
    let tokens = args.ids.len();
    let rows: Vec<usize> = match &args.rows {
        RowChoice::All => (0..tokens).collect(),
        RowChoice::Last => vec![tokens - 1],
        RowChoice::These(rows) => rows.clone(),
    };
    if let Some(row) = rows.iter().find(|row| **row >= tokens) {
        let why = format!("row {row} of {tokens} tokens");
        return Err(Error::invalid("choose rows of logits", why)
            .next_step("rows count from 0")
            .into());
    }
    let source = load::source(args.model.as_deref());
    // One step for all tokens: with a bidirectional prefix the first ones see later ones.
    let positions = args.positions.iter().flatten();
    let last = positions.max().map_or(0, |last| *last as usize);
    let options = Options {
        context: Some(tokens.max(last + 1)),
        max_tokens: Some(tokens),
        max_logits: rows.len(),
        ..Options::default()
    };
    let options = load::with_dtype(global, options);
    let context = load::context(global)?;
    let mut model = load::model(global, &context, &source, args.ptuning.as_deref(), &options)?;
    let vocab = model.architecture().vocab;
    let mut sequence = model.sequence();
    if let Some(visible) = args.context_visible {
        sequence.set_prefix(visible)?;
    }
    let rule = model.architecture().blank;
    let counted = |stream| (0..tokens).map(move |i| rule.of(None, i)[stream] as u32);
    let positions = match &args.positions {
        Some(positions) => positions.clone(),
        None => (0..rule.streams()).flat_map(counted).collect(),
    };
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &args.ids,
        positions: Some(&positions),
    };
    model.forward(&mut [chunk], Rows::Given(&rows))?;
    let logits = model.read_logits()?;
    if let Some(at) = logits.iter().position(|x| !x.is_finite()) {
        let (row, id) = (rows[at / vocab], at % vocab);
        let why = format!("logit {id} of row {row} is {}", logits[at]);
        return Err(Error::new(hal::ErrorKind::Numeric, "compute logits", why)
            .next_step("try --dtype f32")
            .into());
    }
    let rows = rows
        .iter()
        .zip(logits.chunks_exact(vocab))
        .map(|(&row, logits)| Row {
            row,
            logits: logits.to_vec(),
        })
        .collect();
    if global.json {
        return output::json(&Document { rows });
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:>6}  likeliest ids and their logits", "row")?;
    for Row { row, logits } in rows {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let best: Vec<String> = order
            .iter()
            .take(5)
            .map(|&id| format!("{id} {:.4}", logits[id]))
            .collect();
        writeln!(out, "{row:>6}  {}", best.join("  "))?;
    }
    Ok(())
}
