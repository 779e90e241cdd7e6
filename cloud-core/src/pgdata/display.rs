//! File names in messages.
//!
//! A file may be called anything without a slash or a NUL: names with newlines
//! or of no known encoding are stored and restored as they are
//! (docs/decisions.md 33), and must not be able to forge or garble a line of a log.

use std::fmt::Write;

/// `name` on one line: bytes that are not UTF-8 as `\xNN`, characters that are
/// not printable as Rust escapes them, a backslash twice.
pub fn display_name(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\'' => shown.push(character),
                _ => shown.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            write!(shown, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_on_one_line_and_unambiguously() {
        let table: [(&[u8], &str); 8] = [
            (b"base/5/16385", "base/5/16385"),
            ("größe 1".as_bytes(), "größe 1"),
            (b"it's \"x\"", "it's \"x\""),
            (b"two\nlines", "two\\nlines"),
            (b"back\\nslash", "back\\\\nslash"),
            (b"latin\xe9", "latin\\xe9"),
            (b"bell\x07", "bell\\u{7}"),
            ("turn\u{202e}ed".as_bytes(), "turn\\u{202e}ed"),
        ];
        for (name, expected) in table {
            assert_eq!(display_name(name), expected);
        }
    }
}
