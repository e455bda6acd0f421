//! JUnit XML: one suite per operation, one case per check.

use maud::{PreEscaped, html};

use super::{Document, Group};
use crate::Status;

pub(super) fn xml(document: &Document) -> String {
    let suites = Group::by(&document.results, |r| (r.level, r.outcome.op.as_ref()));
    let skipped = |s: Status| matches!(s, Status::NotRun | Status::Unsupported | Status::Waived);
    let body = html! {
        testsuites name="glm conform" tests=(document.results.len()) {
            @for ((level, op), group) in &suites {
                testsuite name=(format!("{level} {op}")) tests=(group.records.len())
                    failures=(group.failed()) skipped=(group.count(skipped))
                    time=(format!("{:.3}", group.seconds()))
                {
                    @for record in &group.records {
                        @let outcome = &record.outcome;
                        @let why = clean(&outcome.why);
                        testcase classname=(op) name=(record.name)
                            time=(format!("{:.3}", outcome.seconds))
                        {
                            @if outcome.status.is_failure() {
                                failure type=(outcome.status) message=(why) {
                                    (clean(&outcome.to_string()))
                                }
                            } @else if skipped(outcome.status) {
                                skipped message=(format!("{}: {why}", outcome.status)) {}
                            }
                        }
                    }
                }
            }
        }
    };
    let PreEscaped(body) = body;
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}\n")
}

/// Without the control characters that XML cannot hold.
fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}
