//! `tool_call(city="北京", days=3)`: how ChatGLM3 calls a tool, in a Python that has literals only.
//!
//! The official demos evaluate this text. Here it is parsed: one call of `tool_call` with keyword arguments whose
//! values are strings, numbers, `True`, `False`, `None`, lists, tuples and dictionaries with string keys. Anything
//! else is no call.

use serde_json::{Map, Number, Value};

/// The function that the models were trained to write.
const FUNCTION: &str = "tool_call";
/// Lists within lists; Python's own parser stops at 100.
const DEEPEST: usize = 64;

/// The arguments of the call that `text` is; else why it is none.
pub(super) fn from_python(text: &str) -> Result<Map<String, Value>, String> {
    let mut parser = Parser { rest: text };
    parser.space();
    if parser.name() != FUNCTION {
        return Err(format!("it does not begin with {FUNCTION}"));
    }
    parser.space();
    parser.expect('(')?;
    let mut arguments = Map::new();
    loop {
        parser.space();
        if parser.take(')') {
            break;
        }
        let name = parser.name();
        if name.is_empty() {
            return Err("an argument has no name".into());
        }
        parser.space();
        parser.expect('=')?;
        let value = parser.value(0)?;
        if arguments.insert(name.to_owned(), value).is_some() {
            return Err(format!("argument {name} is there twice"));
        }
        if !parser.comma(')')? {
            break;
        }
    }
    parser.space();
    match parser.rest {
        "" => Ok(arguments),
        _ => Err("something follows the call".into()),
    }
}

/// The call of a tool as ChatGLM3 writes it, with its fence.
pub(super) fn to_python(arguments: &Map<String, Value>) -> String {
    let written = arguments.iter().map(|(name, value)| {
        let mut out = format!("{name}=");
        write(value, &mut out);
        out
    });
    let written: Vec<String> = written.collect();
    format!("```python\n{FUNCTION}({})\n```", written.join(", "))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => quote(text, out),
        Value::Array(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(value, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                quote(key, out);
                out.push_str(": ");
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// As `repr` quotes: apostrophes, unless there are some inside and no quotation marks.
fn quote(text: &str, out: &mut String) {
    let mark = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(mark);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if letter == mark => out.extend(['\\', mark]),
            _ if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out.push(mark);
}

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    /// Within parentheses a line break is a space.
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, letter: char) -> bool {
        let rest = self.rest.strip_prefix(letter);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, letter: char) -> Result<(), String> {
        match self.take(letter) {
            true => Ok(()),
            false => Err(format!("`{letter}` is missing before `{}`", self.shown())),
        }
    }

    /// A comma, or the `end` that follows the last element. Returns whether more may come.
    fn comma(&mut self, end: char) -> Result<bool, String> {
        self.space();
        if self.take(end) {
            return Ok(false);
        }
        self.expect(',').map(|()| true)
    }

    fn shown(&self) -> String {
        self.rest.chars().take(12).collect()
    }

    fn split(&mut self, at: usize) -> &'t str {
        let (before, after) = self.rest.split_at(at);
        self.rest = after;
        before
    }

    fn name(&mut self) -> &'t str {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        match self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            true => "",
            false => self.split(end),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEEPEST {
            return Err(format!("more than {DEEPEST} levels"));
        }
        self.space();
        match self.rest.chars().next() {
            None => Err("it ends too early".into()),
            Some('[') => self.list(']', depth).map(|(list, _)| Value::Array(list)),
            Some('(') => {
                let (mut list, comma) = self.list(')', depth)?;
                // `(1)` is a number in parentheses, `(1,)` a tuple.
                match (list.len(), comma) {
                    (1, false) => Ok(list.remove(0)),
                    _ => Ok(Value::Array(list)),
                }
            }
            Some('{') => self.dictionary(depth),
            Some('+' | '-' | '.' | '0'..='9') => self.number(),
            Some(_) if self.at_string() => {
                let mut text = self.string()?;
                self.space();
                // Neighbours are one string.
                while self.at_string() {
                    text += &self.string()?;
                    self.space();
                }
                Ok(Value::String(text))
            }
            Some(_) => match self.name() {
                "True" => Ok(Value::Bool(true)),
                "False" => Ok(Value::Bool(false)),
                "None" => Ok(Value::Null),
                "" => Err(format!("`{}` is no value", self.shown())),
                other => Err(format!("`{other}` is no literal")),
            },
        }
    }

    /// The elements up to `end`, and whether a comma follows the last one.
    fn list(&mut self, end: char, depth: usize) -> Result<(Vec<Value>, bool), String> {
        self.rest = &self.rest[1..];
        let mut list = Vec::new();
        loop {
            self.space();
            if self.take(end) {
                return Ok((list, true));
            }
            list.push(self.value(depth + 1)?);
            if !self.comma(end)? {
                return Ok((list, false));
            }
        }
    }

    fn dictionary(&mut self, depth: usize) -> Result<Value, String> {
        self.rest = &self.rest[1..];
        let mut map = Map::new();
        loop {
            self.space();
            if self.take('}') {
                break;
            }
            let Value::String(key) = self.value(depth + 1)? else {
                return Err("a key is no string".into());
            };
            self.space();
            self.expect(':')?;
            // The last of equal keys wins, as in Python.
            map.insert(key, self.value(depth + 1)?);
            if !self.comma('}')? {
                break;
            }
        }
        Ok(Value::Object(map))
    }

    fn number(&mut self) -> Result<Value, String> {
        let mut negative = false;
        while let Some(sign @ ('+' | '-')) = self.rest.chars().next() {
            negative ^= sign == '-';
            self.rest = self.rest[1..].trim_start();
        }
        let mut before = ' ';
        let end = self.rest.find(|c: char| {
            let sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
            before = c;
            !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || sign)
        });
        let digits = self.split(end.unwrap_or(self.rest.len()));
        let bad = || {
            format!(
                "`{}` is no number",
                digits.chars().take(24).collect::<String>()
            )
        };
        // `1_000` is fine, `_1`, `1_` and `1__0` are not.
        let inside = digits.trim_matches('_').len() == digits.len() && !digits.contains("__");
        let plain = digits.replace('_', "").to_ascii_lowercase();
        if !inside || !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return Err(bad());
        }
        let radix = |prefix: &str, radix: u32| {
            let digits = plain.strip_prefix(prefix)?;
            Some(i128::from_str_radix(digits, radix).ok())
        };
        let of_radix = radix("0x", 16)
            .or_else(|| radix("0o", 8))
            .or_else(|| radix("0b", 2));
        let is_whole = plain.bytes().all(|b| b.is_ascii_digit());
        let whole = match of_radix {
            Some(whole) => Some(whole.ok_or_else(bad)?),
            None if is_whole => Some(plain.parse::<i128>().map_err(|_| bad())?),
            None => None,
        };
        let number = match whole {
            Some(whole) => {
                let whole = if negative { -whole } else { whole };
                let small = i64::try_from(whole).map(Number::from);
                small
                    .or_else(|_| u64::try_from(whole).map(Number::from))
                    .ok()
            }
            None => {
                let value: f64 = plain.parse().map_err(|_| bad())?;
                Number::from_f64(if negative { -value } else { value })
            }
        };
        number
            .map(Value::Number)
            .ok_or_else(|| format!("{} is too large", bad()))
    }

    /// Whether a string begins here: a quote, after `r` or `u` perhaps.
    fn at_string(&self) -> bool {
        let rest = self.rest.trim_start_matches(['r', 'R', 'u', 'U']);
        self.rest.len() - rest.len() < 2 && rest.starts_with(['"', '\''])
    }

    fn string(&mut self) -> Result<String, String> {
        let raw = self.rest.starts_with(['r', 'R']);
        self.rest = self.rest.trim_start_matches(['r', 'R', 'u', 'U']);
        let mark = &self.rest[..1];
        let triple = mark.repeat(3);
        let long = self.rest.starts_with(&triple);
        let end = if long { &*triple } else { mark };
        self.rest = &self.rest[end.len()..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(end) {
                self.rest = rest;
                return Ok(text);
            }
            let letter = self.rest.chars().next().ok_or("a string does not end")?;
            if letter == '\n' && !long {
                return Err("a string does not end".into());
            }
            self.split(letter.len_utf8());
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            let escaped = self.rest.chars().next().ok_or("a string does not end")?;
            self.split(escaped.len_utf8());
            match escaped {
                _ if raw => text.extend(['\\', escaped]),
                '\n' => {}
                '\\' | '\'' | '"' => text.push(escaped),
                'a' => text.push('\u{7}'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'v' => text.push('\u{b}'),
                'x' => text.push(self.code(2)?),
                'u' => text.push(self.code(4)?),
                'U' => text.push(self.code(8)?),
                '0'..='7' => {
                    let digits = self.rest.bytes().take(2);
                    let more = digits.take_while(|b| (b'0'..=b'7').contains(b)).count();
                    let value = self
                        .split(more)
                        .bytes()
                        .fold(u32::from(escaped) - 48, |n, b| n * 8 + u32::from(b - b'0'));
                    text.extend(char::from_u32(value));
                }
                'N' => return Err("`\\N` names a character".into()),
                // Python keeps both.
                _ => text.extend(['\\', escaped]),
            }
        }
    }

    fn code(&mut self, digits: usize) -> Result<char, String> {
        let code = self
            .rest
            .get(..digits)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let letter = code
            .and_then(char::from_u32)
            .ok_or("an escape stands for no character")?;
        self.split(digits);
        Ok(letter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, value) in [
            ("1", json!(1)),
            ("-0x1F", json!(-31)),
            ("0o17", json!(15)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("18446744073709551615", json!(u64::MAX)),
            ("- +2.5e-1", json!(-0.25)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1E3", json!(1000.0)),
            ("True", json!(true)),
            ("False", json!(false)),
            ("None", json!(null)),
            (r#""a\tb\x41\u4f60\U0001F600\101\0""#, json!("a\tbA你😀A\0")),
            (r#"'it\'s' "." "#, json!("it's.")),
            (
                r#""\d\
x""#,
                json!("\\dx"),
            ),
            (r#"r"\n""#, json!("\\n")),
            ("'''a\n'b'''", json!("a\n'b")),
            ("\"\"", json!("")),
            ("[1, 'a', [],]", json!([1, "a", []])),
            ("(1)", json!(1)),
            ("(1,)", json!([1])),
            ("(1, 2)", json!([1, 2])),
            ("()", json!([])),
            (
                "{'a': {'b': (1, None)}, \"c\" : 2 , }",
                json!({"a": {"b": [1, null]}, "c": 2}),
            ),
        ] {
            let call = format!(" tool_call (\n x = {text} ,\n)\n");
            let expected = json!({ "x": value });
            assert_eq!(
                from_python(&call).map(Value::Object),
                Ok(expected),
                "{text}"
            );
        }
        let call = from_python("tool_call(location=\"北京\", unit='celsius')").unwrap();
        assert_eq!(
            Value::Object(call),
            json!({"location": "北京", "unit": "celsius"})
        );
        assert_eq!(from_python("tool_call()"), Ok(Map::new()));
    }

    #[test]
    fn anything_else_is_no_call() {
        let deep = format!(
            "tool_call(x={}1{})",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        for text in [
            "",
            "print(1)",
            "tool_call",
            "tool_call(",
            "tool_call(1)",
            "tool_call(x)",
            "tool_call(x=)",
            "tool_call(x=1",
            "tool_call(x=1 y=2)",
            "tool_call(x=1, x=2)",
            "tool_call(x=1); tool_call()",
            "tool_call(**{'x': 1})",
            "tool_call(x=open('/etc/passwd'))",
            "tool_call(x=__import__('os'))",
            "tool_call(x=1+1)",
            "tool_call(x=y)",
            "tool_call(x=f'{1}')",
            "tool_call(x={1: 2})",
            "tool_call(x={1, 2})",
            "tool_call(x='a)",
            "tool_call(x='a\nb')",
            "tool_call(x='\\ud800')",
            "tool_call(x='\\x4')",
            "tool_call(x=1__0)",
            "tool_call(x=0x)",
            "tool_call(x=99999999999999999999)",
            "tool_call(x=1e999)",
            "tool_call(x=-)",
            "tool_call(1x=2)",
            &deep,
        ] {
            assert!(
                from_python(text).is_err(),
                "{}",
                &text[..text.len().min(40)]
            );
        }
    }

    /// Values with numbers that JSON writes as Python does.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(value(), 0..4)) {
            let names = ["a", "city", "日期", "_x1"].map(String::from);
            let arguments: Map<String, Value> = names.into_iter().zip(values).collect();
            let written = to_python(&arguments);
            let call = written.strip_prefix("```python\n").unwrap();
            prop_assert_eq!(from_python(call.strip_suffix("\n```").unwrap()), Ok(arguments));
        }

        #[test]
        fn no_text_does_harm(text in "(tool_call\\()?[-a-z0-9 '\"\\\\x=,.(){}\\[\\]_\n你]{0,40}") {
            let _ = from_python(&text);
        }
    }
}
