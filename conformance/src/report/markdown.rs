//! The summary for a pull request: a table and what did not pass.

use std::fmt::Write;

use super::{Document, Group};
use crate::Status;

/// Failures that are listed; the other views hold all.
const LISTED: usize = 20;

pub(super) fn text(document: &Document) -> String {
    let (asked, summary) = (&document.asked, &document.summary);
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |args: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{args}");
    };
    line(format_args!(
        "## {} on {}: {}\n",
        asked.device.spec,
        cell(&asked.device.name),
        summary.verdict.title()
    ));
    line(format_args!(
        "{} · suite {} ({}) · levels {} · {} · order seed {} · {:.0} s\n",
        cell(&asked.device.detail),
        document.tool.version,
        document.tool.git,
        asked.selection.levels,
        asked.selection.depth,
        asked.order_seed,
        document.timing.seconds
    ));
    if !summary.certifies {
        line(format_args!(
            "This run certifies nothing: {}.\n",
            document.why_not()
        ));
    }
    if !asked.device.remarks.is_empty() {
        line(format_args!(
            "As the device declares, {}. It was judged by that.\n",
            asked.device.remarks.join("; ")
        ));
    }
    line(format_args!(
        "| level | checks | passed | weak | waived | unsupported | not run | failed | most of a bound |"
    ));
    line(format_args!("|---|--:|--:|--:|--:|--:|--:|--:|--:|"));
    for (level, group) in Group::by(&document.results, |r| r.level) {
        let count = |status| group.count(|s| s == status);
        line(format_args!(
            "| {level} {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            level.title(),
            group.records.len(),
            count(Status::Pass),
            count(Status::PassWeak),
            count(Status::Waived),
            count(Status::Unsupported),
            count(Status::NotRun),
            group.failed(),
            group
                .utilisation()
                .map_or("–".into(), |u| format!("{u:.3}"))
        ));
    }
    let bad: Vec<_> = document
        .results
        .iter()
        .filter(|r| r.outcome.status.is_failure())
        .collect();
    if !bad.is_empty() {
        line(format_args!("\n### Failures\n"));
        for record in bad.iter().take(LISTED) {
            let why = record.outcome.why.lines().next().unwrap_or_default();
            line(format_args!(
                "- **{}** `{}` {}",
                record.outcome.status,
                record.name,
                cell(why)
            ));
        }
        if bad.len() > LISTED {
            line(format_args!("- and {} more", bad.len() - LISTED));
        }
    }
    for waiver in &document.waivers {
        line(format_args!(
            "\nWaiver {}: {} waived, {} passed unexpectedly, until {} ({}, {})",
            cell(&waiver.id),
            waiver.waived,
            waiver.unexpected,
            waiver.expires,
            cell(&waiver.owner),
            cell(&waiver.reason)
        ));
    }
    if !summary.missing.is_empty() {
        line(format_args!(
            "\nOperations without a passing case: {}",
            summary.missing.join(", ")
        ));
    }
    line(format_args!(
        "\nSHA-256 of the report: `{}`",
        document.digest
    ));
    text
}

/// Text that breaks no table and forms no markup.
fn cell(text: &str) -> String {
    let text = text.replace('\n', " ").replace(['|', '<', '>', '`'], "·");
    text.chars().filter(|c| !c.is_control()).collect()
}
