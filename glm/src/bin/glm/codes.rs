//! The codes that `glm doctor` and errors bear: one table, in English and Chinese, read by `glm doctor` and `glm errors`.
//!
//! Codes are part of the interface: a code keeps its meaning, and the code of a meaning that is gone is not used again.

mod advice;
mod errors;
mod findings;

use std::fmt::Write;

use clap::ValueEnum;
use hal::ErrorKind;
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Works, and not as well or not as meant.
    Warning,
    /// Does not work.
    Error,
}

impl Severity {
    /// In a column.
    pub(crate) fn word(self, lang: Lang) -> &'static str {
        match (self, lang) {
            (Self::Ok, Lang::En) => "ok",
            (Self::Note, Lang::En) => "note",
            (Self::Warning, Lang::En) => "warning",
            (Self::Error, Lang::En) => "error",
            (Self::Ok, Lang::Zh) => "正常",
            (Self::Note, Lang::Zh) => "提示",
            (Self::Warning, Lang::Zh) => "警告",
            (Self::Error, Lang::Zh) => "错误",
        }
    }
}

/// A language of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// English
    En,
    /// Chinese
    Zh,
}

impl Lang {
    /// That of the user's locale.
    pub(crate) fn of_locale() -> Self {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        match locale {
            Some(locale) if locale.starts_with("zh") => Self::Zh,
            _ => Self::En,
        }
    }

    /// The one of two texts that is in this language.
    pub(crate) fn choose<'t>(self, en: &'t str, zh: &'t str) -> &'t str {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }
}

/// A code and its texts. `{name}` in a text stands for a value of the finding.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) id: &'static str,
    /// Of its findings, unless they say otherwise.
    pub(crate) severity: Severity,
    en: Text,
    zh: Text,
}

/// What is said of a code in one language.
#[derive(Debug)]
pub(crate) struct Text {
    /// What was found, in one line.
    pub(crate) what: &'static str,
    /// Why it is so, or what it means.
    pub(crate) cause: &'static str,
    /// What to do; empty when there is nothing to do.
    pub(crate) next: &'static str,
}

impl Code {
    const fn new(id: &'static str, severity: Severity, en: Text, zh: Text) -> Self {
        Self {
            id,
            severity,
            en,
            zh,
        }
    }

    pub(crate) fn text(&self, lang: Lang) -> &Text {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }

    /// The code of a class of errors.
    pub(crate) fn of_kind(kind: ErrorKind) -> Option<&'static Self> {
        let mut codes = errors::CODES.iter();
        codes.find_map(|(of, code)| (*of == kind).then_some(code))
    }

    /// Every code: findings, then classes of errors.
    pub(crate) fn all() -> impl Iterator<Item = &'static Self> {
        let errors = errors::CODES.iter().map(|(_, code)| code);
        findings::CODES.iter().chain(errors)
    }

    /// The code with this id, in any case, with or without `GLM-`.
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        let id = id.trim().to_ascii_uppercase();
        let id = id.strip_prefix("GLM-").unwrap_or(&id);
        Self::all().find(|code| code.id.strip_prefix("GLM-") == Some(id))
    }
}

/// How to get a device of a back end, in Chinese.
pub(crate) fn chinese_advice(back_end: &str) -> Option<&'static str> {
    let mut all = advice::CHINESE.iter();
    all.find_map(|(name, advice)| (*name == back_end).then_some(*advice))
}

const fn text(what: &'static str, cause: &'static str, next: &'static str) -> Text {
    Text { what, cause, next }
}

/// `template` with each `{name}` replaced by what `value` gives for it, by `‹name›` where it gives nothing.
pub(crate) fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        out += before;
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        match value(name) {
            Some(value) => out += &value,
            // Writing to a string does not fail.
            None => _ = write!(out, "‹{name}›"),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_complete_in_both_languages() {
        let mut ids: Vec<&str> = Code::all().map(|code| code.id).collect();
        let codes = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), codes);
        for code in Code::all() {
            let names = |text: &Text| {
                let all = format!("{}|{}|{}", text.what, text.cause, text.next);
                let mut names: Vec<String> = all
                    .split('{')
                    .skip(1)
                    .filter_map(|part| part.split_once('}').map(|(name, _)| name.to_owned()))
                    .collect();
                names.sort_unstable();
                names.dedup();
                names
            };
            let [en, zh] = [Lang::En, Lang::Zh].map(|lang| code.text(lang));
            assert_eq!(names(en), names(zh), "{}", code.id);
            for text in [en, zh] {
                assert!(
                    !text.what.is_empty() && !text.cause.is_empty(),
                    "{}",
                    code.id
                );
                let done = code.severity == Severity::Ok;
                assert_eq!(text.next.is_empty(), done, "{}", code.id);
            }
            assert!(zh.cause.contains('。'), "{}", code.id);
            // Not the English text once more. Some are values alone.
            for text in [zh.what, zh.cause, zh.next] {
                let values_alone = fill(text, |_| Some(String::new()));
                let is_chinese = |c| ('\u{4e00}'..='\u{9fff}').contains(&c);
                let chinese = values_alone.is_empty() || text.contains(is_chinese);
                assert!(chinese || values_alone == "=", "{}: {text}", code.id);
            }
            assert!(
                code.id.len() == 8 && code.id.starts_with("GLM-"),
                "{}",
                code.id
            );
        }
    }

    #[test]
    fn every_back_end_has_advice_in_chinese() {
        for name in glm::backends::NAMES {
            assert!(chinese_advice(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_class_of_errors_has_a_code() {
        for kind in ErrorKind::ALL {
            assert!(Code::of_kind(kind).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn codes_are_found_as_people_write_them() {
        for id in ["GLM-D001", "glm-d001", "d001", " D001"] {
            assert_eq!(Code::find(id).map(|code| code.id), Some("GLM-D001"));
        }
        for id in ["", "GLM-", "D1", "GLM-GLM-D001"] {
            assert!(Code::find(id).is_none(), "{id}");
        }
    }

    #[test]
    fn values_stand_where_their_names_were() {
        let value = |name: &str| (name == "a").then(|| "1".to_owned());
        assert_eq!(fill("{a} and {b}, {a}", value), "1 and ‹b›, 1");
        assert_eq!(fill("{a", value), "1");
    }
}
