//! Specs of devices, `NAME:NUMBER`, and why one cannot be opened.

use hal::{Error, ErrorKind, Result};

const LIST: &str = "`glm devices` lists what can be opened";

fn doing(spec: &str) -> String {
    format!("open device '{spec}'")
}

/// The number in `name:3`; `name` alone is the first device.
///
/// # Errors
/// `InvalidArgument` for another form: `why`, and how to write it.
pub fn number(spec: &str, name: &str, why: &str) -> Result<usize> {
    let digits = match spec.strip_prefix(name) {
        Some("") => "0",
        rest => rest.and_then(|rest| rest.strip_prefix(':')).unwrap_or(""),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse().ok()).flatten();
    number.ok_or_else(|| {
        Error::invalid(doing(spec), why).next_step(format!("write {name}:0, {name}:1, …"))
    })
}

/// That there is no device of the number in `spec` among those with the specs `all`; `none` says so when there are none.
pub fn missing<'a>(spec: &str, all: impl Iterator<Item = &'a str>, none: &str) -> Error {
    let specs: Vec<&str> = all.collect();
    let why = match specs.is_empty() {
        true => none.to_owned(),
        false => format!("there are: {}", specs.join(", ")),
    };
    Error::new(ErrorKind::NotFound, doing(spec), why).next_step(LIST)
}

/// That the device cannot be opened because its runtime cannot be started, which is `e`.
pub fn not_started(spec: &str, e: Error) -> Error {
    let why = format!("{}: {}", e.doing(), e.detail());
    let next = e.next().unwrap_or(LIST).to_owned();
    Error::new(e.kind(), doing(spec), why)
        .next_step(next)
        .with_source(e)
}
