//! What `glm bench` writes: a table, values or JSON, row by row where the format allows.

use std::io::Write;

use ::ops::Context;
use glm::speed::{Figure, Limits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{BenchFormat, Global};
use crate::failure::Failure;
use crate::output;

/// The version of the JSON document.
pub(super) const SCHEMA: &str = "glm/bench/1";

/// All results of one call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) schema: String,
    pub(super) version: String,
    /// What was typed, without the program.
    pub(super) command: Vec<String>,
    pub(super) runs: Vec<Run>,
}

/// The figures of one device and number of threads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub(super) facts: Facts,
    pub(super) results: Vec<Figure>,
}

/// What all figures of a run share.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) device: Value,
    #[serde(default)]
    pub(super) threads: Option<usize>,
    #[serde(default)]
    pub(super) limits: Option<Limits>,
    #[serde(default)]
    pub(super) model: Option<Value>,
    /// The model in words.
    #[serde(skip)]
    about: Option<String>,
}

impl Facts {
    pub(super) fn new(
        global: &Global,
        context: &Context,
        limits: &Limits,
        model: Option<(Value, String)>,
    ) -> Self {
        let info = context.device().info();
        let (model, about) = model.unzip();
        Self {
            device: json!({
                "spec": info.spec,
                "name": info.name,
                "detail": info.detail,
                "parallelism": info.parallelism,
            }),
            threads: global.threads(),
            limits: Some(limits.clone()),
            model,
            about,
        }
    }
}

/// Writes figures to stdout.
pub(super) struct Writer {
    format: BenchFormat,
    document: Document,
    /// Whether something was measured.
    measured: bool,
}

impl Writer {
    pub(super) fn new(global: &Global, format: BenchFormat) -> Self {
        Self {
            format: if global.json {
                BenchFormat::Json
            } else {
                format
            },
            document: Document {
                schema: SCHEMA.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                command: std::env::args().skip(1).collect(),
                runs: Vec::new(),
            },
            measured: false,
        }
    }

    /// The figures that follow are these.
    pub(super) fn begin(&mut self, facts: Facts) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match self.format {
            BenchFormat::Md => head(&mut out, &facts)?,
            BenchFormat::Csv if self.document.runs.is_empty() => {
                writeln!(out, "device,threads,{}", COLUMNS.join(","))?;
            }
            _ => {}
        }
        self.document.runs.push(Run {
            facts,
            results: Vec::new(),
        });
        Ok(())
    }

    pub(super) fn found(&mut self, figure: &Figure) -> Result<(), Failure> {
        self.measured |= figure.skipped.is_none();
        let Some(run) = self.document.runs.last_mut() else {
            return Ok(());
        };
        let mut out = std::io::stdout().lock();
        match self.format {
            BenchFormat::Md => row(&mut out, figure)?,
            BenchFormat::Csv => values(&mut out, &run.facts, figure)?,
            BenchFormat::Jsonl => {
                let mut line = serde_json::to_value(figure).map_err(std::io::Error::from)?;
                line["device"] = run.facts.device["spec"].clone();
                line["threads"] = json!(run.facts.threads);
                line["limits"] = json!(run.facts.limits);
                line["model"] = json!(run.facts.model);
                writeln!(out, "{line}")?;
            }
            BenchFormat::Json => {}
        }
        run.results.push(figure.clone());
        Ok(())
    }

    /// Writes what is left. Code 7 when nothing was measured.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if self.format == BenchFormat::Json {
            output::json(&self.document)?;
        }
        match self.measured {
            true => Ok(()),
            false => Err(Failure::Checked(7)),
        }
    }
}

/// What is above a table.
fn head(out: &mut impl Write, facts: &Facts) -> std::io::Result<()> {
    let text = |key: &str| facts.device[key].as_str().unwrap_or_default();
    write!(
        out,
        "{} ({}; {})",
        text("spec"),
        text("name"),
        text("detail")
    )?;
    if let Some(threads) = facts.threads {
        write!(out, ", {threads} threads")?;
    }
    writeln!(out)?;
    if let Some(about) = &facts.about {
        writeln!(out, "{about}")?;
    }
    if let Some(limits) = &facts.limits {
        let bytes = limits.bytes_per_second / 1e9;
        writeln!(out, "limits: {bytes:.1} GB/s by {}", limits.bytes_by)?;
        let peaks = limits.operations_per_second.iter();
        let peaks: Vec<String> = peaks
            .map(|(dtype, peak)| format!("{dtype} {:.1}", peak / 1e9))
            .collect();
        writeln!(
            out,
            "        {} GOP/s by {}",
            peaks.join(", "),
            limits.operations_by
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "| test | median | fastest … slowest | GB/s | GOP/s | of the limit |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")
}

fn row(out: &mut impl Write, figure: &Figure) -> std::io::Result<()> {
    let key = &figure.key;
    let Some(seconds) = figure.seconds else {
        let why = figure.skipped.as_deref().unwrap_or("not measured");
        return writeln!(out, "| {key} | SKIPPED: {why} | | | | |");
    };
    let shown = |seconds: f64| match figure.tokens {
        Some(tokens) => format!("{:.2}", tokens as f64 / seconds),
        None => time(seconds),
    };
    let unit = if figure.tokens.is_some() {
        " tok/s"
    } else {
        ""
    };
    let number = |x: Option<f64>| {
        x.filter(|x| *x > 0.0)
            .map_or("".into(), |x| format!("{x:.1}"))
    };
    let limit = match (figure.share, &figure.limit) {
        (Some(share), Some(limit)) => format!("{:.0} % of {limit}", 100.0 * share),
        _ => String::new(),
    };
    let range = match (figure.limit_range, figure.limit.as_deref()) {
        (Some([least, most]), Some("bytes")) => format!(" at {least:.1} to {most:.1} GB/s"),
        (Some([least, most]), _) => format!(" at {least:.0} to {most:.0} GOP/s"),
        (None, _) => String::new(),
    };
    writeln!(
        out,
        "| {key} | {}{unit} | {} … {} | {} | {} | {limit}{range} |",
        shown(seconds.median),
        shown(seconds.least),
        shown(seconds.most),
        number(figure.gb_per_second),
        number(figure.gflop_per_second),
    )
}

/// `1.23 ms`.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

const COLUMNS: [&str; 14] = [
    "key",
    "median_seconds",
    "least_seconds",
    "most_seconds",
    "runs",
    "tokens_per_second",
    "host_seconds",
    "bytes",
    "gb_per_second",
    "operations",
    "gflop_per_second",
    "limit",
    "share",
    "skipped",
];

fn values(out: &mut impl Write, facts: &Facts, figure: &Figure) -> std::io::Result<()> {
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let of = |get: fn(&glm::speed::Spread) -> f64| number(figure.seconds.as_ref().map(get));
    let cells = [
        facts.device["spec"].as_str().unwrap_or_default().to_owned(),
        facts.threads.map_or(String::new(), |n| n.to_string()),
        figure.key.clone(),
        of(|s| s.median),
        of(|s| s.least),
        of(|s| s.most),
        figure.seconds.map_or(String::new(), |s| s.runs.to_string()),
        number(figure.tokens_per_second),
        number(figure.host_seconds),
        number(figure.bytes),
        number(figure.gb_per_second),
        number(figure.operations),
        number(figure.gflop_per_second),
        figure.limit.clone().unwrap_or_default(),
        number(figure.share),
        figure.skipped.clone().unwrap_or_default(),
    ];
    let quoted = cells
        .iter()
        .map(|cell| match cell.contains([',', '"', '\n']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        });
    writeln!(out, "{}", quoted.collect::<Vec<_>>().join(","))
}
