//! Parsers of option values, as the reference reads them.
//!
//! Each is given to clap, which puts the option's name before the message.
//! Numbers are read as Python's `int()` reads them: a sign, blanks around, `_`
//! between digits.

use std::num::NonZeroU32;

use crate::catalogue::select::check_backup_name;
use crate::codec::Level;
use crate::units;

/// A size in bytes, at least 1.
pub fn size(text: &str) -> Result<u64, units::InvalidSize> {
    units::parse_size(text)
}

/// An integer of at least 1.
pub fn positive(text: &str) -> Result<NonZeroU32, String> {
    let number = integer(text).and_then(|number| u32::try_from(number).ok());
    let number = number.and_then(NonZeroU32::new);
    number.ok_or_else(|| format!("'{text}' is not a valid positive integer"))
}

/// An integer of at least 0.
pub fn non_negative(text: &str) -> Result<u64, String> {
    let number = integer(text).and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| format!("'{text}' is not a valid non negative integer"))
}

/// Any integer; what does not fit becomes the nearest that does.
pub fn any_integer(text: &str) -> Result<i64, String> {
    let number = integer(text).ok_or_else(|| format!("invalid int value: '{text}'"))?;
    let (low, high) = (i128::from(i64::MIN), i128::from(i64::MAX));
    Ok(i64::try_from(number.clamp(low, high)).expect("it was clamped"))
}

/// A number of files fetched ahead; negative ones mean none.
pub fn parallel(text: &str) -> Result<u32, String> {
    let number = any_integer(text)?;
    Ok(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// A number of threads of an encoder; 0 for as many as there are cores.
///
/// Libraries take no more than 256.
pub fn encoder_threads(text: &str) -> Result<u32, String> {
    let number = integer(text).and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number <= 256);
    number.ok_or_else(|| format!("'{text}' is not a number of threads from 0 to 256"))
}

/// A number of archives made at the same time. 64 of them take a gigabyte of memory.
pub fn parallel_archives(text: &str) -> Result<NonZeroU32, String> {
    let number = integer(text).and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number <= 64);
    number
        .and_then(NonZeroU32::new)
        .ok_or_else(|| format!("'{text}' is not a number of archives from 1 to 64"))
}

/// An exit code that is a failure.
pub fn failure_code(text: &str) -> Result<u8, String> {
    let number = integer(text).and_then(|number| u8::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    number.ok_or_else(|| format!("'{text}' is not an exit code from 1 to 255"))
}

/// An integer as Python's `int()` reads one; cut to what 128 bits hold.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let parts = digits.split('_');
    if parts
        .into_iter()
        .any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    let digits = digits.replace('_', "");
    Some(sign * digits.parse::<i128>().unwrap_or(i128::MAX))
}

/// A level of compression: a word or a number.
pub fn compression_level(text: &str) -> Result<Level, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match text.to_ascii_lowercase().as_str() {
        "low" => Ok(Level::Low),
        "medium" | "" => Ok(Level::Medium),
        "high" => Ok(Level::High),
        _ if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let lowest = if text.starts_with('-') {
                i32::MIN
            } else {
                i32::MAX
            };
            Ok(Level::Number(text.parse().unwrap_or(lowest)))
        }
        _ => Err(format!(
            "'{text}' is not a compression level (low, medium, high or an integer)"
        )),
    }
}

/// A text of at least one character.
pub fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("it must not be empty");
    }
    Ok(text.to_owned())
}

/// A name for a base backup, one that cannot be taken for an id or a shortcut.
pub fn backup_name(text: &str) -> Result<String, String> {
    check_backup_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// The timeline of a restore: a word or a number.
pub fn target_timeline(text: &str) -> Result<String, String> {
    if matches!(text, "current" | "latest") {
        return Ok(text.to_owned());
    }
    positive(text)
        .map(|number| number.to_string())
        .map_err(|_| format!("'{text}' is not a timeline (current, latest or a positive integer)"))
}

/// The day a snapshot's lock ends: `YYYY-MM-DDThh:mm:ss.fZ`, with a fraction and
/// in UTC.
pub fn lock_expiration(text: &str) -> Result<String, String> {
    let fraction = text
        .strip_suffix('Z')
        .and_then(|text| text.rsplit_once('.'));
    let in_microseconds = fraction.is_some_and(|(_, digits)| {
        (1..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    let seconds = fraction.map_or("", |(seconds, _)| seconds);
    let is_time = jiff::civil::DateTime::strptime("%Y-%m-%dT%H:%M:%S", seconds).is_ok();
    if in_microseconds && is_time {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "'{text}' is not a time of the form YYYY-MM-DDThh:mm:ss.000Z"
        ))
    }
}

/// Days that a snapshot is locked.
pub fn lock_duration(text: &str) -> Result<u32, String> {
    within(text, 1, 36_500, "days")
}

/// Hours in which a lock can still be taken back.
pub fn lock_cool_off(text: &str) -> Result<u32, String> {
    within(text, 1, 72, "hours")
}

fn within(text: &str, low: u32, high: u32, unit: &str) -> Result<u32, String> {
    let number = integer(text).and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| format!("'{text}' is not a number of {unit} from {low} to {high}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// For each parser: what it takes, and what it does not.
    #[test]
    fn values_are_read_as_the_reference_reads_them() {
        fn takes<T, E>(parser: fn(&str) -> Result<T, E>, good: &[&str], bad: &[&str]) {
            for text in good {
                assert!(parser(text).is_ok(), "refused {text:?}");
            }
            for text in bad {
                assert!(parser(text).is_err(), "took {text:?}");
            }
        }
        takes(
            size,
            &["1", "10KB", "1.5MB", "10 MB"],
            &["0", "10K", "-1", "", "B"],
        );
        takes(
            positive,
            &["1", "+4", " 2 ", "1_0"],
            &["0", "-1", "1.0", "", "x", "1_"],
        );
        takes(non_negative, &["0", "3"], &["-1", "", "1.5"]);
        takes(
            any_integer,
            &["0", "-7", "99999999999999999999"],
            &["", "-", "a", "1.5"],
        );
        takes(not_empty, &["x", " "], &[""]);
        takes(failure_code, &["1", "255"], &["0", "256", "-1", "x"]);
        takes(
            compression_level,
            &["", "LOW", "High", "-5", "007", "99999999999"],
            &["+5", "1.0", "max", "-"],
        );
        takes(
            backup_name,
            &["nightly", "20261121", "auto2"],
            &["", "20261121T000000", "latest", "auto", "last-full"],
        );
        takes(
            target_timeline,
            &["current", "latest", "3"],
            &["0", "", "Current", "-1"],
        );
        takes(
            lock_expiration,
            &["2026-11-21T10:00:00.000Z", "2026-11-21T10:00:00.1Z"],
            &[
                "2026-11-21T10:00:00Z",
                "2026-11-21T10:00:00.000",
                "2026-13-21T10:00:00.0Z",
                "2026-11-21 10:00:00.0Z",
                "2026-11-21T10:00:00.Z",
                "2026-11-21T10:00:00.1234567Z",
            ],
        );
        takes(lock_duration, &["1", "36500"], &["0", "36501", "x"]);
        takes(lock_cool_off, &["1", "72"], &["0", "73"]);
    }

    #[test]
    fn levels_out_of_range_are_kept_for_the_codec_to_clamp() {
        assert_eq!(compression_level("-5"), Ok(Level::Number(-5)));
        assert_eq!(
            compression_level("99999999999"),
            Ok(Level::Number(i32::MAX))
        );
        assert_eq!(
            compression_level("-99999999999"),
            Ok(Level::Number(i32::MIN))
        );
        assert_eq!(compression_level(""), Ok(Level::Medium));
    }

    #[test]
    fn numbers_that_do_not_fit_become_the_nearest_that_do() {
        assert_eq!(any_integer("99999999999999999999"), Ok(i64::MAX));
        assert_eq!(any_integer("-99999999999999999999"), Ok(i64::MIN));
        assert_eq!(parallel("-3"), Ok(0));
        assert_eq!(parallel("99999999999999999999"), Ok(u32::MAX));
        let beyond_128_bits = "9".repeat(50);
        assert_eq!(any_integer(&beyond_128_bits), Ok(i64::MAX));
    }

    proptest! {
        #[test]
        fn every_integer_is_read_back(number: i64) {
            prop_assert_eq!(any_integer(&number.to_string()), Ok(number));
        }

        #[test]
        fn no_text_is_too_odd_to_be_refused(text: String) {
            let _ = (positive(&text), compression_level(&text), lock_expiration(&text));
        }
    }
}
