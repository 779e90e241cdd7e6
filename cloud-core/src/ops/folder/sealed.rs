//! Texts that one call leaves for another: lines of names and values between a
//! first line that names kind and version and a last one with a checksum.
//!
//! A text that was cut, damaged or written by another version counts as none.

use std::fmt::{Display, Write as _};

/// Writes a text.
#[derive(Debug)]
pub(in crate::ops) struct Sealing(String);

impl Sealing {
    /// Begins a text of the kind and version that `magic` names.
    pub(in crate::ops) fn new(magic: &str) -> Self {
        Self(format!("{magic}\n"))
    }

    /// Adds a line.
    pub(in crate::ops) fn line(&mut self, name: &str, value: impl Display) {
        let value = escape(&value.to_string());
        writeln!(self.0, "{name}={value}").expect("writing to a string cannot fail");
    }

    /// The whole text.
    pub(in crate::ops) fn seal(mut self) -> String {
        let checksum = crc32c::crc32c(self.0.as_bytes());
        writeln!(self.0, "check={checksum}").expect("writing to a string cannot fail");
        self.0
    }
}

/// The lines of a text whose checksum holds.
#[derive(Debug)]
pub(in crate::ops) struct Opened<'a>(std::iter::Peekable<std::str::Lines<'a>>);

impl<'a> Opened<'a> {
    /// `None` if the text is not exactly one that [`Sealing`] made with `magic`.
    pub(in crate::ops) fn open(magic: &str, text: &'a str) -> Option<Self> {
        let (body, check) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let checksum: u32 = check.strip_prefix("check=")?.parse().ok()?;
        if checksum != crc32c::crc32c(&text.as_bytes()[..=body.len()]) {
            return None;
        }
        let mut lines = body.lines();
        (lines.next()? == magic).then(|| Self(lines.peekable()))
    }

    /// The value of the next line, if that has this name.
    pub(in crate::ops) fn take(&mut self, name: &str) -> Option<String> {
        let value = self.0.peek()?.strip_prefix(name)?.strip_prefix('=')?;
        let value = unescape(value)?;
        self.0.next();
        Some(value)
    }

    /// Whether there is no line more.
    pub(in crate::ops) fn is_over(&mut self) -> bool {
        self.0.peek().is_none()
    }
}

/// Keeps a value on one line; control characters of any kind are written out.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if character == '%' || character.is_control() {
            write!(escaped, "%{:x};", u32::from(character))
                .expect("writing to a string cannot fail");
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn unescape(value: &str) -> Option<String> {
    let mut parts = value.split('%');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_once(';')?;
        plain.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        plain.push_str(rest);
    }
    Some(plain)
}

/// A text as it was given, and the same with a checksum that fits, which no fuzzing
/// finds.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::ops) fn sealed_or_as_it_is(data: &[u8]) -> [String; 2] {
    let text = String::from_utf8_lossy(data).into_owned();
    let mut sealed = text.clone();
    if !sealed.ends_with('\n') {
        sealed.push('\n');
    }
    [text, Sealing(sealed).seal()]
}
