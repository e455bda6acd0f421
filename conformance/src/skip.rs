//! Tests that a machine cannot run.

use std::fmt::Display;

/// Says on stdout that something is not tested because `name` is not there.
///
/// # Panics
/// When the variable `REQUIRE_DEVICE`, names with commas between them, has `name`: an empty run must not look like a pass.
pub fn skip(name: &str, why: impl Display) {
    let required = std::env::var("REQUIRE_DEVICE").unwrap_or_default();
    let required = required.split(',').any(|device| device.trim() == name);
    assert!(!required, "REQUIRE_DEVICE names {name}: {why}");
    println!("SKIPPED: {why}");
}
