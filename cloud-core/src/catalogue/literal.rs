//! Literals of the Python language, the form in which `backup.info` keeps
//! values with a structure.
//!
//! The writer prints exactly what the reference prints; the reader takes what
//! a Python reader would: both quotes, all escapes, any spacing, trailing
//! commas. Depth is bounded, because a bucket is not to be trusted.

use std::fmt::{self, Write};

/// How deep lists may nest. Real values have four levels.
const MAX_DEPTH: usize = 32;

/// How many values one text may hold. `[0,0,0…` would otherwise take sixteen times
/// its size in memory; a tablespace has four, so this is room for 65,000 of them.
const MAX_VALUES: usize = 1 << 18;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// `'text'`
    Str(String),
    /// `[a, b]`
    List(Vec<Literal>),
    /// `(a, b)`
    Tuple(Vec<Literal>),
    /// `{'k': v}`, in the order written.
    Dict(Vec<(Literal, Literal)>),
}

/// A text that is no literal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed literal at byte {at}: {what}")]
pub struct LiteralError {
    /// Where, in bytes from the beginning.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl Literal {
    /// A dictionary with text keys.
    pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Literal)>) -> Self {
        Self::Dict(
            entries
                .into_iter()
                .map(|(k, v)| (Self::Str(k.to_owned()), v))
                .collect(),
        )
    }

    /// Whether the value is what Python takes for false: the reference writes
    /// `None` for those.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Float(value) => *value == 0.0,
            Self::Str(text) => text.is_empty(),
            Self::List(items) | Self::Tuple(items) => items.is_empty(),
            Self::Dict(entries) => entries.is_empty(),
        }
    }

    /// The value under a text key of a dictionary; as in Python, the last one if
    /// the key is repeated.
    pub fn get(&self, key: &str) -> Option<&Literal> {
        let Self::Dict(entries) = self else {
            return None;
        };
        entries
            .iter()
            .rfind(|(k, _)| matches!(k, Self::Str(text) if text == key))
            .map(|(_, v)| v)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Literal]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Reads a literal; nothing but blanks may follow it.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        let mut reader = Reader {
            text,
            at: 0,
            values: 0,
        };
        let value = reader.value(0)?;
        reader.blanks();
        if reader.at < text.len() {
            return Err(reader.error("something follows the value"));
        }
        Ok(value)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float(*value)),
            Self::Str(text) => quote(f, text),
            Self::List(items) => {
                f.write_char('[')?;
                list(f, items)?;
                f.write_char(']')
            }
            Self::Tuple(items) => {
                f.write_char('(')?;
                list(f, items)?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Self::Dict(entries) => {
                f.write_char('{')?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[Literal]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// The shortest text that reads back as the same number, with Python's choice
/// between point and exponent.
///
/// No literal stands for infinity or "not a number", and a word that the
/// reference cannot read would make the whole file unreadable: the first becomes
/// a number that is read as infinity, the second `None`.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "None".into();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-1e999" } else { "1e999" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if printable(c) => f.write_char(c)?,
            c => match u32::from(c) {
                code @ ..=0xFF => write!(f, "\\x{code:02x}")?,
                code @ ..=0xFFFF => write!(f, "\\u{code:04x}")?,
                code => write!(f, "\\U{code:08x}")?,
            },
        }
    }
    f.write_char(quote)
}

/// Whether Python prints a character as it is: no control, format, private or
/// unassigned one, and no separator but the ASCII blank.
///
/// The standard library follows the same rule for what it escapes for debugging,
/// combining marks apart, which it escapes only where nothing precedes them.
/// (Compared over all code points with `str.isprintable` of Python 3.11: they
/// differ only in characters that Unicode assigned later.)
fn printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    let preceded: String = ['a', c].into_iter().collect();
    preceded.escape_debug().nth(1) == Some(c)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Values begun so far.
    values: usize,
}

impl Reader<'_> {
    fn error(&self, what: &'static str) -> LiteralError {
        LiteralError { at: self.at, what }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len()
            - rest
                .trim_start_matches([' ', '\t', '\r', '\n', '\x0c'])
                .len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        if depth > MAX_DEPTH {
            return Err(self.error("too deeply nested"));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error("too many values"));
        }
        self.blanks();
        let Some(first) = self.rest().chars().next() else {
            return Err(self.error("a value is missing"));
        };
        match first {
            '[' => self
                .items(']', depth)
                .map(|(items, _)| Literal::List(items)),
            '(' => {
                let (mut items, comma) = self.items(')', depth)?;
                match items.pop() {
                    // `(a)` is a value in brackets, `(a,)` a tuple.
                    Some(only) if items.is_empty() && !comma => Ok(only),
                    last => {
                        items.extend(last);
                        Ok(Literal::Tuple(items))
                    }
                }
            }
            '{' => self.dict(depth),
            '\'' | '"' | 'u' | 'r' | 'b' => self.strings(),
            '0'..='9' | '-' | '+' | '.' => self.number(),
            _ => {
                for (word, value) in [
                    ("None", Literal::None),
                    ("True", Literal::Bool(true)),
                    ("False", Literal::Bool(false)),
                ] {
                    if self.take(word) {
                        return Ok(value);
                    }
                }
                Err(self.error("an unknown word"))
            }
        }
    }

    /// The values up to `end`, and whether a comma followed the last one.
    fn items(&mut self, end: char, depth: usize) -> Result<(Vec<Literal>, bool), LiteralError> {
        self.at += 1;
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.blanks();
            if self.rest().starts_with(end) {
                self.at += 1;
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return Err(self.error("a comma is missing"));
            }
            items.push(self.value(depth + 1)?);
            self.blanks();
            comma = self.take(",");
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        self.at += 1;
        let mut entries: Vec<(Literal, Literal)> = Vec::new();
        let mut comma = true;
        loop {
            self.blanks();
            if self.take("}") {
                return Ok(Literal::Dict(entries));
            }
            if !comma {
                return Err(self.error("a comma is missing"));
            }
            let key = self.value(depth + 1)?;
            self.blanks();
            if !self.take(":") {
                return Err(self.error("a colon is missing"));
            }
            let value = self.value(depth + 1)?;
            entries.push((key, value));
            self.blanks();
            comma = self.take(",");
        }
    }

    fn number(&mut self) -> Result<Literal, LiteralError> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_')))
            .unwrap_or(rest.len());
        let text = rest[..end].replace('_', "");
        let value = if text.contains(['.', 'e', 'E']) {
            text.parse()
                .ok()
                .filter(|value: &f64| !value.is_nan())
                .map(Literal::Float)
        } else {
            text.parse().ok().map(Literal::Int)
        };
        let value = value.ok_or_else(|| self.error("a malformed number"))?;
        self.at += end;
        Ok(value)
    }

    /// One string, or several one after the other, which Python joins.
    fn strings(&mut self) -> Result<Literal, LiteralError> {
        let mut text = String::new();
        loop {
            self.take("u");
            let quote = if self.take("'") {
                '\''
            } else if self.take("\"") {
                '"'
            } else {
                return Err(self.error("an unknown word"));
            };
            self.string(quote, &mut text)?;
            self.blanks();
            if !self.rest().starts_with(['\'', '"']) {
                return Ok(Literal::Str(text));
            }
        }
    }

    fn string(&mut self, quote: char, text: &mut String) -> Result<(), LiteralError> {
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error("a quote is missing"));
            };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(()),
                '\\' => self.escape(text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), LiteralError> {
        let Some(c) = self.rest().chars().next() else {
            return Err(self.error("an escape is cut"));
        };
        self.at += c.len_utf8();
        let code = match c {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => u32::from(c),
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => self.digits(2, 2, 16)?,
            'u' => self.digits(4, 4, 16)?,
            'U' => self.digits(8, 8, 16)?,
            '0'..='7' => {
                self.at -= 1;
                self.digits(1, 3, 8)?
            }
            // An unknown escape stays as it is, backslash and all.
            other => {
                text.push('\\');
                u32::from(other)
            }
        };
        let c = char::from_u32(code).ok_or_else(|| self.error("an escape names no character"))?;
        text.push(c);
        Ok(())
    }

    fn digits(&mut self, least: usize, most: usize, radix: u32) -> Result<u32, LiteralError> {
        let count = self
            .rest()
            .chars()
            .take(most)
            .take_while(|c| c.is_digit(radix))
            .count();
        if count < least {
            return Err(self.error("an escape is cut"));
        }
        let value = u32::from_str_radix(&self.rest()[..count], radix);
        self.at += count;
        value.map_err(|_| self.error("an escape names no character"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_are_quoted_as_python_does() {
        for (text, printed) in [
            ("", "''"),
            ("plain", "'plain'"),
            ("it's", "\"it's\""),
            ("a'b\"c", "'a\\'b\"c'"),
            ("say \"x\"", "'say \"x\"'"),
            ("é", "'é'"),
            ("a\u{1}b\\c", "'a\\x01b\\\\c'"),
            ("\n\r\t\u{7f}", "'\\n\\r\\t\\x7f'"),
            ("\u{200b}\u{a0}\u{ad}", "'\\u200b\\xa0\\xad'"),
            ("\u{10ffff}", "'\\U0010ffff'"),
            ("😀 字", "'😀 字'"),
            ("e\u{301}", "'e\u{301}'"),
            ("ที่นั่น \u{e49}", "'ที่นั่น \u{e49}'"),
            ("\u{301}", "'\u{301}'"),
            ("\u{3000}\u{2028}\u{e000}", "'\\u3000\\u2028\\ue000'"),
            ("\u{feff}\u{e0001}", "'\\ufeff\\U000e0001'"),
        ] {
            assert_eq!(Literal::Str(text.into()).to_string(), printed);
            assert_eq!(Literal::parse(printed), Ok(Literal::Str(text.into())));
        }
    }

    #[test]
    fn floats_are_printed_in_their_shortest_form() {
        for (value, printed) in [
            (5.0, "5.0"),
            (10.583_404, "10.583404"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (0.000_001, "1e-06"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (-2.5e-7, "-2.5e-07"),
            (1e100, "1e+100"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (f64::INFINITY, "1e999"),
            (f64::NEG_INFINITY, "-1e999"),
        ] {
            assert_eq!(Literal::Float(value).to_string(), printed);
            assert_eq!(Literal::parse(printed), Ok(Literal::Float(value)));
        }
    }

    #[test]
    fn what_python_would_take_is_taken() {
        let two = Literal::List(vec![Literal::Int(1), Literal::Int(-2)]);
        for text in ["[1, -2]", "[1,-2,]", " [ 1 ,\n-2 , ] "] {
            assert_eq!(Literal::parse(text), Ok(two.clone()), "{text}");
        }
        assert_eq!(Literal::parse("(1)"), Ok(Literal::Int(1)));
        assert_eq!(
            Literal::parse("(1,)"),
            Ok(Literal::Tuple(vec![Literal::Int(1)]))
        );
        assert_eq!(Literal::parse("()"), Ok(Literal::Tuple(vec![])));
        assert_eq!(Literal::parse("{}"), Ok(Literal::Dict(vec![])));
        assert_eq!(Literal::parse("'a' \"b\""), Ok(Literal::Str("ab".into())));
        assert_eq!(
            Literal::parse(r"'\101\x41\u0041\d'"),
            Ok(Literal::Str("AAA\\d".into()))
        );
        assert_eq!(Literal::Tuple(vec![Literal::Int(1)]).to_string(), "(1,)");
    }

    #[test]
    fn malformed_literals_are_refused() {
        for text in [
            "",
            "[",
            "[1 2]",
            "(1",
            "{1}",
            "{1:}",
            "'a",
            "'\\x4'",
            "nonsense",
            "1 2",
            "--1",
            "1.2.3",
            "'\\ud800'",
            "[,]",
            "b'x'",
        ] {
            assert!(Literal::parse(text).is_err(), "{text}");
        }
        assert!(Literal::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let list = |items: usize| format!("[{}]", "0,".repeat(items));
        assert!(Literal::parse(&list(MAX_VALUES - 1)).is_ok());
        let error = Literal::parse(&list(MAX_VALUES)).unwrap_err();
        assert_eq!(error.what, "too many values");
    }

    #[test]
    fn what_is_no_number_is_no_word_the_reference_cannot_read() {
        assert_eq!(Literal::Float(f64::NAN).to_string(), "None");
    }

    #[test]
    fn the_last_of_repeated_keys_counts() {
        let dict = Literal::parse("{'a': 1, 'b': 2, 'a': 3}").unwrap();
        assert_eq!(dict.get("a"), Some(&Literal::Int(3)));
        assert_eq!(dict.get("c"), None);
    }

    fn literals() -> impl Strategy<Value = Literal> {
        let leaf = prop_oneof![
            Just(Literal::None),
            any::<bool>().prop_map(Literal::Bool),
            any::<i64>().prop_map(Literal::Int),
            any::<f64>()
                .prop_filter("finite", |f| f.is_finite())
                .prop_map(Literal::Float),
            any::<String>().prop_map(Literal::Str),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::List),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::Tuple),
                prop::collection::vec((any::<String>().prop_map(Literal::Str), inner), 0..4)
                    .prop_map(Literal::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value in literals()) {
            prop_assert_eq!(Literal::parse(&value.to_string()), Ok(value));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = Literal::parse(&text);
        }
    }
}
