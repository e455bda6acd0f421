//! What a check found: a code, what it is about, and the values that its texts name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codes::{Code, Lang, Severity, chinese_advice, fill};

/// The value that holds the code of the error's class.
pub(super) const ERROR: &str = "error";
/// The class of what is not there.
const NOT_FOUND: &str = "GLM-E006";

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
        [text.what, text.cause, text.next].map(|t| fill(t, |name| self.value(name, lang)))
    }

    /// The value `name`, in this language as far as it is a word of ours.
    fn value(&self, name: &str, lang: Lang) -> Option<String> {
        let value = self.values.get(name)?;
        let class = self.values.get(ERROR).and_then(|id| Code::find(id));
        Some(match (lang, name, class) {
            // What happened, by the class of the error; its details are the back end's and the vendor's.
            (Lang::Zh, "why", Some(class)) => format!("{}（{value}）", class.text(lang).what),
            (Lang::Zh, "advice", Some(class)) if class.id == NOT_FOUND => {
                chinese_advice(&self.area)
                    .unwrap_or(class.text(lang).next)
                    .into()
            }
            (Lang::Zh, "advice", Some(class)) => class.text(lang).next.into(),
            (Lang::Zh, "part", _) => match value.as_str() {
                "driver" => "驱动".into(),
                "compiler" => "编译器".into(),
                "products" => "矩阵乘法库".into(),
                "runtime" => "运行时".into(),
                "base of operators" => "算子基础库".into(),
                "operators" => "算子库".into(),
                _ => value.clone(),
            },
            _ => value.clone(),
        })
    }
}
