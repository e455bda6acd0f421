//! What a check found: a code, what it is about, and the values that its texts name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codes::{Code, Lang, Severity, fill};

/// One finding, as it crosses from the process that tried a back end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) code: String,
    pub(crate) severity: Severity,
    /// `machine`, `variables`, or the name of a back end.
    pub(crate) area: String,
    /// By the names that stand in the texts.
    pub(crate) values: BTreeMap<String, String>,
}

impl Finding {
    /// A finding of `code`, which is in the table.
    pub(crate) fn new(
        code: &'static str,
        area: &str,
        values: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let severity = Code::find(code).map_or(Severity::Error, |code| code.severity);
        let values = values.into_iter().map(|(name, value)| (name.into(), value));
        Self {
            code: code.into(),
            severity,
            area: area.into(),
            values: values.collect(),
        }
    }

    /// Of another severity than its code has.
    pub(crate) fn of_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// What, why, and what to do next.
    pub(crate) fn texts(&self, lang: Lang) -> [String; 3] {
        let Some(code) = Code::find(&self.code) else {
            return Default::default();
        };
        let text = code.text(lang);
        [text.what, text.cause, text.next].map(|t| fill(t, |name| self.values.get(name).cloned()))
    }
}
