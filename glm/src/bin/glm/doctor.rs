//! `glm doctor`: what of this machine and its drivers works, and what to do about the rest.
//!
//! Each back end is tried in a process of its own, so that a driver that crashes or hangs is a finding too.

mod device;
mod finding;
mod machine;
mod variables;
mod worker;

use std::io::{self, Write};
use std::time::Duration;

use glm::backends;
use serde_json::{Value, json};

use crate::args::{Doctor, Global};
use crate::codes::{Lang, Severity};
use crate::failure::Failure;
use crate::output;
use finding::Finding;

pub(crate) fn run(global: &Global, args: &Doctor) -> Result<(), Failure> {
    if let Some(what) = &args.worker {
        let found = match what.as_str() {
            worker::ASKED => device::check_asked(global, &global.device),
            name => device::check(global, name),
        };
        return output::json(&found);
    }
    let time = Duration::from_secs_f64(args.timeout);
    let mut found = machine::check(global);
    found.extend(variables::check());
    for name in backends::NAMES {
        found.extend(worker::check(global, name, name, time));
    }
    let was_tried = |finding: &Finding| finding.values.get("device") == Some(&global.device);
    if !found.iter().any(was_tried) {
        let area = global.device.split(':').next().unwrap_or_default();
        found.extend(worker::check(global, worker::ASKED, area, time));
    }
    let lang = global.lang();
    if let Some(file) = &args.snapshot {
        output::json_file(file, &document(&found, lang))?;
    }
    if global.json {
        output::json(&document(&found, lang))?;
    } else {
        print(&found, lang)?;
    }
    match count(&found, Severity::Error) {
        0 => Ok(()),
        _ => Err(Failure::Checked(3)),
    }
}

fn count(found: &[Finding], severity: Severity) -> usize {
    let of = |finding: &&Finding| finding.severity == severity;
    found.iter().filter(of).count()
}

fn document(found: &[Finding], lang: Lang) -> Value {
    let findings: Vec<Value> = found
        .iter()
        .map(|finding| {
            let [what, cause, next] = finding.texts(lang);
            json!({
                "code": finding.code,
                "severity": finding.severity,
                "area": finding.area,
                "what": what,
                "cause": cause,
                "next": next,
                "values": finding.values,
            })
        })
        .collect();
    json!({
        "schema": "glm/doctor/1",
        "version": env!("CARGO_PKG_VERSION"),
        "backends": backends::NAMES,
        "findings": findings,
        "summary": {
            "errors": count(found, Severity::Error),
            "warnings": count(found, Severity::Warning),
            "notes": count(found, Severity::Note),
            "ok": count(found, Severity::Ok),
        },
    })
}

fn print(found: &[Finding], lang: Lang) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut area = "";
    for finding in found {
        if finding.area != area {
            area = &finding.area;
            writeln!(out, "{area}")?;
        }
        let [what, cause, next] = finding.texts(lang);
        let word = format!("[{}]", finding.severity.word(lang));
        writeln!(out, "  {word:<9} {}  {what}", finding.code)?;
        if finding.severity > Severity::Ok {
            for (name, text) in [
                (lang.choose("cause", "原因"), cause),
                (lang.choose("next", "建议"), next),
            ] {
                if !text.is_empty() {
                    writeln!(out, "            {name}: {text}")?;
                }
            }
        }
    }
    let [errors, warnings, notes] =
        [Severity::Error, Severity::Warning, Severity::Note].map(|severity| count(found, severity));
    match lang {
        Lang::En => writeln!(
            out,
            "errors: {errors}, warnings: {warnings}, notes: {notes}"
        ),
        Lang::Zh => writeln!(out, "错误 {errors}，警告 {warnings}，提示 {notes}"),
    }
}
