//! Sizes and JSON for people and programs.

use std::io::Write;
use std::path::Path;

use glm::engine::FinishReason;
use hal::{Error, ErrorKind};
use serde::Serialize;

use crate::failure::Failure;

/// `5.5 GiB`, `312 KiB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// How JSON documents name the end of an answer.
pub(crate) fn finish(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

/// Prints `value` as one JSON document on stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Writes `value` as one JSON document into `file`.
pub(crate) fn json_file(file: &Path, value: &impl Serialize) -> hal::Result<()> {
    let fail = |e: std::io::Error| {
        let doing = format!("write '{}'", file.display());
        Error::new(ErrorKind::Io, doing, e.to_string()).next_step("choose another file")
    };
    let text = serde_json::to_string(value).map_err(|e| fail(e.into()))?;
    std::fs::write(file, text + "\n").map_err(fail)
}
