//! `glm errors`.

use std::io::{self, Write};

use hal::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::{Errors, Global};
use crate::codes::{Code, Lang, fill};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(global: &Global, args: &Errors) -> Result<(), Failure> {
    let lang = global.lang();
    let Some(id) = &args.code else {
        return list(global, lang);
    };
    let code = Code::find(id).ok_or_else(|| {
        let doing = format!("explain '{id}'");
        Error::new(ErrorKind::NotFound, doing, "there is no such code")
            .next_step("`glm errors` lists them")
    })?;
    if global.json {
        return output::json(&describe(code, lang));
    }
    let text = code.text(lang);
    let mut out = io::stdout().lock();
    let [what, cause, next] = [text.what, text.cause, text.next].map(plain);
    writeln!(out, "{} ({}): {what}", code.id, code.severity.word(lang))?;
    writeln!(out, "  {}: {cause}", lang.choose("cause", "原因"))?;
    if !next.is_empty() {
        writeln!(out, "  {}: {next}", lang.choose("next", "建议"))?;
    }
    Ok(())
}

fn list(global: &Global, lang: Lang) -> Result<(), Failure> {
    if global.json {
        let codes: Vec<Value> = Code::all().map(|code| describe(code, lang)).collect();
        return output::json(&json!({ "schema": "glm/errors/1", "codes": codes }));
    }
    let mut out = io::stdout().lock();
    for code in Code::all() {
        let (what, word) = (plain(code.text(lang).what), code.severity.word(lang));
        writeln!(out, "{}  {word:<7}  {what}", code.id)?;
    }
    Ok(())
}

fn describe(code: &Code, lang: Lang) -> Value {
    let text = code.text(lang);
    let [what, cause, next] = [text.what, text.cause, text.next].map(plain);
    json!({
        "code": code.id, "severity": code.severity, "what": what, "cause": cause, "next": next,
    })
}

/// A text without values.
fn plain(text: &str) -> String {
    fill(text, |_| None)
}
