//! The comment that tells CodeGeeX which language it is to write.
//!
//! Source: `LANGUAGE_TAG` in `evaluation/utils.py` of <https://github.com/THUDM/CodeGeeX2>, whose list
//! CodeGeeX-13B shares in part.

/// Names, as users write them (case aside), the name in the comment, and what stands before and after
/// `language: Name`.
const LANGUAGES: [(&[&str], &str, &str, &str); 46] = [
    (&["ada"], "Ada", "-- ", ""),
    (&["assembly"], "Assembly", "; ", ""),
    (&["c"], "C", "// ", ""),
    (&["c#", "csharp", "c-sharp"], "C#", "// ", ""),
    (&["c++", "cpp"], "C++", "// ", ""),
    (&["clojure"], "Clojure", "; ", ""),
    (&["cmake"], "CMake", "# ", ""),
    (&["css"], "CSS", "/* ", " */"),
    (&["cuda"], "Cuda", "// ", ""),
    (&["dart"], "Dart", "// ", ""),
    (&["dockerfile"], "Dockerfile", "# ", ""),
    (&["elixir"], "Elixir", "# ", ""),
    (&["erlang"], "Erlang", "% ", ""),
    (&["fortran"], "Fortran", "!", ""),
    (&["go"], "Go", "// ", ""),
    (&["groovy"], "Groovy", "// ", ""),
    (&["haskell"], "Haskell", "-- ", ""),
    (&["html"], "HTML", "<!--", "-->"),
    (&["java"], "Java", "// ", ""),
    (&["javascript", "js"], "JavaScript", "// ", ""),
    (&["julia"], "Julia", "# ", ""),
    (&["kotlin"], "Kotlin", "// ", ""),
    (&["lean"], "Lean", "-- ", ""),
    (&["lisp"], "Lisp", "; ", ""),
    (&["lua"], "Lua", "// ", ""),
    (&["makefile"], "Makefile", "# ", ""),
    (&["markdown"], "Markdown", "<!--", "-->"),
    (&["matlab"], "Matlab", "% ", ""),
    (&["objective-c", "objectivec"], "Objective-C", "// ", ""),
    (&["objective-c++"], "Objective-C++", "// ", ""),
    (&["ocaml"], "OCaml", "(*", "*)"),
    (&["pascal"], "Pascal", "// ", ""),
    (&["perl"], "Perl", "# ", ""),
    (&["php"], "PHP", "// ", ""),
    (&["python"], "Python", "# ", ""),
    (&["r"], "R", "# ", ""),
    (&["ruby"], "Ruby", "# ", ""),
    (&["rust"], "Rust", "// ", ""),
    (&["scala"], "Scala", "// ", ""),
    (&["shell"], "Shell", "# ", ""),
    (&["sql"], "SQL", "-- ", ""),
    (&["swift"], "swift", "// ", ""),
    (&["tex"], "TeX", "% ", ""),
    (&["typescript"], "TypeScript", "// ", ""),
    (&["verilog"], "Verilog", "// ", ""),
    (&["vhdl"], "VHDL", "-- ", ""),
];

/// The comment of `language`, with its line break.
pub(super) fn tag(language: &str) -> Option<String> {
    let language = language.to_lowercase();
    let found = LANGUAGES
        .iter()
        .find(|(names, ..)| names.contains(&&*language));
    found.map(|(_, name, before, after)| format!("{before}language: {name}{after}\n"))
}

/// All names that [`tag`] knows.
pub(super) fn names() -> String {
    let names: Vec<&str> = LANGUAGES.iter().map(|(names, ..)| names[0]).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_of_the_language() {
        for (language, comment) in [
            ("Python", "# language: Python\n"),
            ("cpp", "// language: C++\n"),
            ("CSS", "/* language: CSS */\n"),
            ("html", "<!--language: HTML-->\n"),
            ("fortran", "!language: Fortran\n"),
            ("sql", "-- language: SQL\n"),
        ] {
            assert_eq!(tag(language).as_deref(), Some(comment));
        }
        assert_eq!(tag("klingon"), None);
        assert!(LANGUAGES.is_sorted_by_key(|(names, ..)| names[0]) && names().contains("rust"));
    }
}
