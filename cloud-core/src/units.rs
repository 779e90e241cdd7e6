//! Sizes and durations, in the reference's spelling.
//!
//! Sizes keep the reference's reading, which is the reverse of the usual one:
//! `KB` is 1024 and `KiB` is 1000 (docs/decisions.md 8). Scripts depend on it.

use std::time::Duration;

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size `{0}` (bytes, or a number with one of KB, MB, GB, TB, PB, EB, ZB, YB)")]
pub struct InvalidSize(pub String);

/// Reads a size in bytes, at least 1.
///
/// `10kb` is 10240, `1.5MB` 1572864, `10KiB` 10000, `12B` 12; a number with a
/// prefix may be decimal and may be followed by a blank, and the product is
/// cut to an integer.
pub fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    let invalid = || InvalidSize(text.to_owned());
    let value = size_of(text).ok_or_else(invalid)?;
    if value < 1 { Err(invalid()) } else { Ok(value) }
}

fn size_of(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let Some(number) = lower.strip_suffix('b') else {
        return integer(&lower);
    };
    let (number, base) = match number.strip_suffix('i') {
        Some(number) => (number, 1000.0_f64),
        None => (number, 1024.0),
    };
    let last = number.chars().next_back()?;
    let Some(power) = "kmgtpezy".find(last) else {
        return integer(number);
    };
    let number = decimal(&number[..number.len() - 1])?;
    let exponent = i32::try_from(power).ok()? + 1;
    let bytes = number * base.powi(exponent);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the reference multiplies in floating point and cuts; the range is checked"
    )]
    (bytes.is_finite() && bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// An integer as Python's `int()` reads one: blanks around it, a sign, `_`
/// between digits.
fn integer(text: &str) -> Option<u64> {
    let digits = without_underscores(text.trim().strip_prefix('+').unwrap_or(text.trim()))?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// A decimal number as Python's `float()` reads one, without its words for
/// infinity.
fn decimal(text: &str) -> Option<f64> {
    let digits = without_underscores(text.trim())?;
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-');
    if digits.is_empty() || !digits.bytes().all(plain) {
        return None;
    }
    digits.parse().ok()
}

fn without_underscores(text: &str) -> Option<String> {
    let between = |i: usize| {
        let bytes = text.as_bytes();
        i > 0 && bytes[i - 1].is_ascii_digit() && bytes.get(i + 1).is_some_and(u8::is_ascii_digit)
    };
    if text.is_empty()
        || text
            .bytes()
            .enumerate()
            .any(|(i, b)| b == b'_' && !between(i))
    {
        return None;
    }
    Some(text.replace('_', ""))
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration `{0}` (a whole number and a unit: 90s, 30min, 12h, 7d, 2w)")]
pub struct InvalidDuration(pub String);

/// Reads a duration: a whole number and one unit, `s`, `min`, `h`, `d`, `w` or the
/// whole word, with or without a blank between them.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    duration_of(text).ok_or_else(|| InvalidDuration(text.to_owned()))
}

fn duration_of(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let seconds = match unit.as_str() {
        "s" | "second" | "seconds" => 1,
        "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A size for people: base 1024, one decimal from KiB on (`30.0 MiB`).
pub fn pretty_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A duration for people: `1 hour, 3 minutes, 5 seconds`.
pub fn pretty_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return "less than one second".to_owned();
    }
    let parts = [
        (seconds / 86400, "day"),
        (seconds / 3600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let words: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, seconds) in [
            ("90s", Some(90)),
            ("30min", Some(1_800)),
            ("12 hours", Some(43_200)),
            (" 7D ", Some(604_800)),
            ("2w", Some(1_209_600)),
            ("0d", Some(0)),
            ("7", None),
            ("d", None),
            ("-1d", None),
            ("1.5h", None),
            ("7m", None),
            ("99999999999999999999d", None),
            ("18446744073709551615w", None),
        ] {
            let read = parse_duration(text).ok();
            assert_eq!(read.map(|d| d.as_secs()), seconds, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_the_reference_reads_them() {
        for (text, bytes) in [
            ("1", 1),
            ("104857600", 104_857_600),
            ("10kb", 10_240),
            ("10KB", 10_240),
            ("1.5MB", 1_572_864),
            ("10KiB", 10_000),
            ("100GB", 107_374_182_400),
            ("10 MB", 10_485_760),
            ("12B", 12),
            ("12iB", 12),
            ("1e3KB", 1_024_000),
            ("1_000", 1_000),
            ("+5", 5),
            (" 5", 5),
            ("1TB", 1 << 40),
            ("1EB", 1 << 60),
            ("1EiB", 1_000_000_000_000_000_000),
            ("0.0000000000000000000001YiB", 100),
            (" +5 KB", 5120),
            ("1E-3MiB", 1_000),
            (".5KB", 512),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "B",
            "iB",
            "10K",
            "1.5B",
            "0",
            "0.0001KB",
            "-1",
            "-1KB",
            "1e3",
            "10MB ",
            "infKB",
            "nanKB",
            "x",
            "1__0",
            "_1",
            "KB",
            "99YB",
            "ä",
            "1€B",
            "1_",
            "1_KB",
            "1 0KB",
            "+-1KB",
            "10BB",
            "10KKB",
            "10Ki",
            "1,5MB",
            "0x10",
            "e3KB",
            "1e3B",
            "1e400KB",
            "16EB",
            "18446744073709551616",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_printed_for_people() {
        assert_eq!(pretty_size(0), "0 B");
        assert_eq!(pretty_size(1023), "1023 B");
        assert_eq!(pretty_size(31_444_681), "30.0 MiB");
        assert_eq!(
            pretty_duration(Duration::from_millis(999)),
            "less than one second"
        );
        assert_eq!(pretty_duration(Duration::from_secs(1)), "1 second");
        assert_eq!(
            pretty_duration(Duration::from_secs(90_125)),
            "1 day, 1 hour, 2 minutes, 5 seconds"
        );
    }

    proptest::proptest! {
        #[test]
        fn every_positive_number_of_bytes_is_read_back(bytes in 1_u64..) {
            proptest::prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
            proptest::prop_assert_eq!(parse_size(&format!("{bytes}B")), Ok(bytes));
        }

        #[test]
        fn a_kilo_is_1024_before_b_and_1000_before_ib(count in 1_u64..1 << 40) {
            proptest::prop_assert_eq!(parse_size(&format!("{count}KB")), Ok(count * 1024));
            proptest::prop_assert_eq!(parse_size(&format!("{count}KiB")), Ok(count * 1000));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*|[0-9eE+._ -]{0,12}[kKmMyY]?(i?[bB])?") {
            let _ = parse_size(&text);
        }
    }
}
