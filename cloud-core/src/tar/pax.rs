//! Extended headers: records `LENGTH KEYWORD=VALUE\n`, where the length counts
//! itself.

use std::collections::BTreeMap;

use super::member::Mtime;

/// Largest extended header, or long name, that is read, in bytes.
///
/// Paths have at most 4096 bytes on the systems we know; the limit keeps a
/// hostile archive from taking memory.
pub(super) const MAX_LENGTH: u64 = 1 << 20;

/// Appends one record.
pub(super) fn push(out: &mut Vec<u8>, keyword: &str, value: &[u8]) {
    // Blank, equals sign and newline.
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest;
    while rest + decimal_digits(length) != length {
        length = rest + decimal_digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Largest value that is kept, in bytes: far more than a path has anywhere.
const MAX_VALUE: usize = 64 << 10;

/// Records by keyword, as far as they say something we know. However many there are,
/// they take no more memory than the largest value of each known keyword.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Records {
    known: BTreeMap<&'static [u8], Vec<u8>>,
    /// Whether any of them describes a sparse file.
    sparse: bool,
}

/// Keywords that are kept; the others say nothing about what is restored.
const KNOWN: [&[u8]; 8] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"uname",
    b"gname",
    b"mtime",
];

/// First letters of the keywords of sparse files in GNU's formats.
const SPARSE: &[u8] = b"GNU.sparse.";

impl Records {
    /// Adds the records of one extended header; later ones win, and an empty
    /// value takes the keyword away.
    ///
    /// `None` if it is not made of records, or of too long ones.
    pub(super) fn add(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ')?;
            let length: usize = number(&rest[..blank])?;
            let record = rest.get(blank + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (keyword, value) = (&record[..equals], &record[equals + 1..]);
            match KNOWN.into_iter().find(|known| *known == keyword) {
                Some(_) if value.len() > MAX_VALUE => return None,
                Some(known) if value.is_empty() => drop(self.known.remove(known)),
                Some(known) => drop(self.known.insert(known, value.to_vec())),
                // There is no end to what these can be called.
                None => self.sparse |= !value.is_empty() && keyword.starts_with(SPARSE),
            }
            rest = &rest[length..];
        }
        Some(())
    }

    /// The value of a keyword.
    pub(super) fn get(&self, keyword: &str) -> Option<&[u8]> {
        self.known.get(keyword.as_bytes()).map(Vec::as_slice)
    }

    /// Whether they describe a sparse file.
    pub(super) fn is_sparse(&self) -> bool {
        self.sparse
    }
}

/// A number of decimal digits alone.
pub(super) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = all_digits.then(|| str::from_utf8(digits).ok())??;
    text.parse().ok()
}

const NANOS: u32 = 1_000_000_000;

/// Seconds with a fraction that is as long as it has to be.
pub(super) fn format_time(time: Mtime) -> String {
    // `-2` and 500,000,000 forward is written `-1.5`.
    let (negative, seconds, nanos) = match (time.seconds < 0, time.nanos) {
        (false, nanos) => (false, time.seconds.unsigned_abs(), nanos),
        (true, 0) => (true, time.seconds.unsigned_abs(), 0),
        (true, nanos) => (true, (time.seconds + 1).unsigned_abs(), NANOS - nanos),
    };
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The inverse; digits beyond nanoseconds are rounded down.
pub(super) fn parse_time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let seconds: i64 = if whole.is_empty() { 0 } else { number(whole)? };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (kept, dropped) = fraction.split_at(fraction.len().min(9));
    let mut nanos = kept
        .iter()
        .fold(0, |nanos: u32, digit| nanos * 10 + u32::from(digit - b'0'))
        * 10_u32.pow(u32::try_from(9 - kept.len()).ok()?);
    if !negative {
        return Some(Mtime { seconds, nanos });
    }
    // Rounding down is away from zero here.
    nanos += u32::from(dropped.iter().any(|digit| *digit != b'0'));
    let seconds = -seconds - i64::from(nanos > 0);
    let nanos = if nanos == 0 { 0 } else { NANOS - nanos };
    Some(Mtime { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for (value, start) in [
            (1, "6 k=v\n".to_owned()),
            (4, "9 k=".to_owned()),
            // Not 10: with the second digit it is 11.
            (5, "11 k=".to_owned()),
            (93, "99 k=".to_owned()),
            (94, "101 k=".to_owned()),
        ] {
            let mut out = Vec::new();
            push(&mut out, "k", "v".repeat(value).as_bytes());
            let text = String::from_utf8(out).expect("ASCII");
            assert!(text.starts_with(&start), "{text}");
            let length = text.split(' ').next().and_then(|n| n.parse().ok());
            assert_eq!(length, Some(text.len()));
        }
    }

    #[test]
    fn what_is_not_made_of_records_is_refused() {
        for text in [
            "x",
            "6 k=v",
            "7 k=v\n",
            "5 k=v\n",
            "6 kkv\n",
            " k=v\n",
            "+6 k=v\n",
            "0 k=v\n",
            "6 k=v\n\0",
            "99999999999999999999 k=v\n",
            "18446744073709551615 k=v\n",
        ] {
            assert!(Records::default().add(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn later_records_win_and_an_empty_value_takes_one_away() {
        let mut records = Records::default();
        let mut text = Vec::new();
        push(&mut text, "path", b"one");
        push(&mut text, "comment", b"nobody asks for it");
        push(&mut text, "path", b"a=b\nc");
        push(&mut text, "uid", b"7");
        push(&mut text, "uid", b"");
        records.add(&text).expect("records");
        assert_eq!(records.get("path"), Some(&b"a=b\nc"[..]));
        assert_eq!(records.get("uid"), None);
        assert_eq!(records.get("comment"), None);
    }

    #[test]
    fn records_take_no_more_memory_than_what_is_known() {
        let mut records = Records::default();
        for number in 0..1000 {
            let mut text = Vec::new();
            push(&mut text, &format!("GNU.sparse.{number}"), b"1");
            push(&mut text, &format!("comment.{number}"), b"1");
            push(&mut text, "path", b"x");
            records.add(&text).expect("records");
        }
        assert!(records.is_sparse());
        assert_eq!(records.known.len(), 1);
        for (length, taken) in [(MAX_VALUE, Some(())), (MAX_VALUE + 1, None)] {
            let mut text = Vec::new();
            push(&mut text, "path", &vec![b'x'; length]);
            assert_eq!(Records::default().add(&text), taken);
        }
    }

    #[test]
    fn times_are_written_as_short_as_they_can_be() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (1_795_227_693, 250_000_000, "1795227693.25"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 500_000_000, "-1.5"),
            (-10, 0, "-10"),
            (100, 0, "100"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
        ] {
            let time = Mtime { seconds, nanos };
            assert_eq!(format_time(time), text);
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
        }
    }

    #[test]
    fn digits_beyond_nanoseconds_are_rounded_down() {
        let time = |seconds, nanos| Some(Mtime { seconds, nanos });
        for (text, expected) in [
            ("1.9999999999", time(1, 999_999_999)),
            ("-1.9999999999", time(-2, 0)),
            ("-1.0000000001", time(-2, 999_999_999)),
            (".5", time(0, 500_000_000)),
            ("5.", time(5, 0)),
            ("-0", time(0, 0)),
            ("", None),
            (".", None),
            ("-", None),
            ("1e9", None),
            ("1.5x", None),
            ("--1", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_time_is_read_as_it_was_written(seconds in -(1_i64 << 62).., nanos in 0..NANOS) {
            let time = Mtime { seconds, nanos };
            prop_assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
        }

        #[test]
        fn any_record_is_read_as_it_was_written(values in prop::collection::vec(
            (prop::sample::select(&["path", "linkpath", "uname"][..]),
             prop::collection::vec(any::<u8>(), 1..2000)), 0..5)) {
            let mut text = Vec::new();
            for (keyword, value) in &values {
                push(&mut text, keyword, value);
            }
            let mut records = Records::default();
            prop_assert_eq!(records.add(&text), Some(()));
            for (keyword, _) in &values {
                let last = values.iter().rfind(|(other, _)| other == keyword);
                prop_assert_eq!(records.get(keyword), last.map(|(_, value)| &value[..]));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (Records::default().add(&text), parse_time(&text));
        }
    }
}
