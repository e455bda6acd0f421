//! `glm support`: which operations a device has, in which types, from its own planners.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::CommandFactory;
use clap::parser::ValueSource;
use conformance::{Conformance, for_each_op, types};
use glm::backends;
use hal::{DType, ErrorKind};
use ops::{Accelerator, Context, How};
use serde::Serialize;
use serde_json::json;

use crate::args::{Args, Global, Support};
use crate::failure::Failure;
use crate::{compiling, load, output};

/// Specifications that are planned of each operation, type and weight format: the first of the conformance suite's.
const PLANNED: usize = 6;

/// One cell: an operation in one type, on one device.
#[derive(Debug, Serialize)]
struct Cell {
    op: &'static str,
    /// Format of the weight, for operations with one.
    weight: Option<String>,
    /// Type of the floats that it reads or writes; `int` where there are none.
    dtype: &'static str,
    device: String,
    /// Specifications by how they are carried out.
    native: usize,
    composed: usize,
    missing: usize,
}

pub(crate) fn run(global: &Global, args: &Support) -> Result<(), Failure> {
    let devices = devices(global, args)?;
    let mut cells = Vec::new();
    for (name, accelerator) in devices {
        let context = Context::new(accelerator);
        let mut add = |found: Vec<Cell>| {
            cells.extend(found.into_iter().map(|cell| Cell {
                device: name.clone(),
                ..cell
            }));
        };
        macro_rules! each {
            ($($name:ident $op:ident),*) => {$(add(plan::<ops::$op>(&context)?);)*};
        }
        for_each_op!(each);
    }
    compiling::finish();
    if global.json {
        return output::json(&json!({ "schema": "glm/support/1", "cells": cells }));
    }
    Ok(print(&cells, args.markdown)?)
}

/// The device that was named; else what can be planned without a chip and, but for a document, what opens here.
fn devices(global: &Global, args: &Support) -> Result<Vec<(String, Accelerator)>, Failure> {
    if is_named() {
        let accelerator = load::accelerator(global, &global.device)?;
        return Ok(vec![(global.device.clone(), accelerator)]);
    }
    let mut devices = backends::planned_without_a_chip();
    if !args.markdown {
        let opened = backends::list(&load::device_options(global)).into_iter();
        let new = opened.filter_map(|(spec, opened)| Some((spec, opened.ok()?)));
        let new = new.filter(|(spec, _)| spec != "cpu" && spec != "emulator");
        devices.extend(new.collect::<Vec<_>>());
    }
    Ok(devices)
}

/// Whether the user said which device, by flag or variable.
fn is_named() -> bool {
    let matches = Args::command().get_matches();
    let of_command = matches.subcommand().map(|(_, matches)| matches);
    let source = of_command.and_then(|matches| matches.value_source("device"));
    source.is_some_and(|source| source != ValueSource::DefaultValue)
}

/// The cells of one operation.
fn plan<O: Conformance>(context: &Context) -> Result<Vec<Cell>, Failure> {
    let mut groups: Vec<(Cell, Vec<O>)> = Vec::new();
    for case in O::cases() {
        let op = case.op;
        let (dtype, weight) = types(&op);
        let dtype = dtype.map_or("int", |dtype| dtype.name());
        let is_of = |(cell, _): &(Cell, Vec<O>)| (&cell.weight, cell.dtype) == (&weight, dtype);
        let at = groups.iter().position(is_of).unwrap_or_else(|| {
            let cell = Cell {
                op: O::NAME,
                weight,
                dtype,
                device: String::new(),
                native: 0,
                composed: 0,
                missing: 0,
            };
            groups.push((cell, Vec::new()));
            groups.len() - 1
        });
        let (cell, planned) = &mut groups[at];
        if planned.len() == PLANNED || planned.contains(&op) {
            continue;
        }
        planned.push(op.clone());
        match context.plan(op) {
            Ok(plan) if plan.how() == How::Native => cell.native += 1,
            Ok(_) => cell.composed += 1,
            Err(e) if e.kind() == ErrorKind::Unsupported => cell.missing += 1,
            Err(e) => return Err(e.into()),
        }
    }
    let mut cells: Vec<Cell> = groups.into_iter().map(|(cell, _)| cell).collect();
    cells.sort_by(|a, b| (&a.weight, a.dtype).cmp(&(&b.weight, b.dtype)));
    Ok(cells)
}

impl Cell {
    /// `native`, or what else there is too.
    fn words(&self) -> String {
        let counts = [
            (self.native, "native"),
            (self.composed, "composed"),
            (self.missing, "missing"),
        ];
        let there = counts.into_iter().filter(|(n, _)| *n > 0);
        there.map(|(_, word)| word).collect::<Vec<_>>().join(" or ")
    }
}

/// A row per operation and weight format, a column per device.
fn print(cells: &[Cell], markdown: bool) -> io::Result<()> {
    let mut devices: Vec<&str> = Vec::new();
    let mut rows: Vec<(String, BTreeMap<&str, Vec<&Cell>>)> = Vec::new();
    for cell in cells {
        if !devices.contains(&cell.device.as_str()) {
            devices.push(&cell.device);
        }
        let name = match &cell.weight {
            Some(weight) => format!("{} {weight}", cell.op),
            None => cell.op.to_owned(),
        };
        let at = rows.iter().position(|(row, _)| *row == name);
        let at = at.unwrap_or_else(|| {
            rows.push((name, BTreeMap::new()));
            rows.len() - 1
        });
        rows[at].1.entry(&cell.device).or_default().push(cell);
    }
    let heads = ["operation"].into_iter().chain(devices.iter().copied());
    let heads: Vec<String> = heads.map(str::to_owned).collect();
    let mut lines = vec![heads];
    for (name, of_devices) in rows {
        let mut line = vec![name];
        for device in &devices {
            line.push(
                of_devices
                    .get(device)
                    .map_or("-".into(), |cells| text(cells)),
            );
        }
        lines.push(line);
    }
    let mut out = io::stdout().lock();
    if markdown {
        for (i, line) in lines.iter().enumerate() {
            writeln!(out, "| {} |", line.join(" | "))?;
            if i == 0 {
                writeln!(out, "|{}", "---|".repeat(line.len()))?;
            }
        }
        return Ok(());
    }
    let columns = devices.len() + 1;
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    for line in &lines {
        let padded = line.iter().zip(&widths);
        let padded: Vec<String> = padded.map(|(cell, &w)| format!("{cell:<w$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

/// `native: f32 f16 bf16`; of several ways, each with its types.
fn text(cells: &[&Cell]) -> String {
    let mut ways: Vec<(String, Vec<&str>)> = Vec::new();
    let order = |name: &str| DType::ALL.iter().position(|dtype| dtype.name() == name);
    let mut cells: Vec<&&Cell> = cells.iter().collect();
    cells.sort_by_key(|cell| order(cell.dtype).unwrap_or(DType::ALL.len()));
    for cell in cells {
        let words = cell.words();
        match ways.iter_mut().find(|(way, _)| *way == words) {
            Some((_, types)) => types.push(cell.dtype),
            None => ways.push((words, vec![cell.dtype])),
        }
    }
    let ways = ways
        .into_iter()
        .map(|(way, types)| format!("{way}: {}", types.join(" ")));
    ways.collect::<Vec<_>>().join("; ")
}
