//! Points in time as `backup.info` and the JSON outputs write them.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// An instant, in microseconds, together with the offset it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    instant: jiff::Timestamp,
    offset: Offset,
}

/// A text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no point in time (expected a form such as 2026-11-21 02:21:33+00:00)")]
pub struct InvalidTime(pub String);

impl Timestamp {
    /// An instant in the offset of `zone` at that moment.
    pub fn new(instant: jiff::Timestamp, zone: &TimeZone) -> Self {
        Self {
            instant: microseconds(instant),
            offset: zone.to_offset(instant),
        }
    }

    /// Reads any unambiguous date and time: ISO 8601 with `T` or a blank, the
    /// form of C's `ctime`, day first where it cannot be a month. Without an
    /// offset it is a local time of `zone`.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, InvalidTime> {
        read(text, zone).ok_or_else(|| InvalidTime(text.to_owned()))
    }

    /// The instant.
    pub fn instant(&self) -> jiff::Timestamp {
        self.instant
    }

    /// The form of C's `ctime`, in the offset it was written in and without
    /// naming it: `Sat Nov 21 02:21:33 2026`.
    pub fn ctime(&self) -> String {
        self.offset
            .to_datetime(self.instant)
            .strftime("%a %b %e %H:%M:%S %Y")
            .to_string()
    }

    /// ISO 8601: `2026-11-21T02:21:33.320190+00:00`.
    pub fn iso(&self) -> String {
        self.text('T')
    }

    /// `2026-11-21 02:21:33`, in the offset it was written in.
    pub fn to_the_second(&self) -> String {
        self.offset
            .to_datetime(self.instant)
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string()
    }

    fn text(&self, between: char) -> String {
        let local = self.offset.to_datetime(self.instant);
        let micros = local.subsec_nanosecond() / 1000;
        let fraction = if micros == 0 {
            String::new()
        } else {
            format!(".{micros:06}")
        };
        let seconds = self.offset.seconds();
        let (sign, seconds) = (if seconds < 0 { '-' } else { '+' }, seconds.abs());
        let odd = if seconds % 60 == 0 {
            String::new()
        } else {
            format!(":{:02}", seconds % 60)
        };
        format!(
            "{:04}-{:02}-{:02}{between}{:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}{odd}",
            local.year(),
            local.month(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second(),
            seconds / 3600,
            seconds / 60 % 60,
        )
    }
}

/// The form of `backup.info`: `2026-11-21 02:21:33.320190+00:00`, without a
/// fraction where it is zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(' '))
    }
}

fn microseconds(instant: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(instant.as_microsecond()).unwrap_or(instant)
}

fn read(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (date, rest) = read_date(text.trim())?;
    let (date, time, offset) = match date {
        Found::Date(date) => {
            let (time, rest) = read_time(rest.trim_start_matches(['T', 't', ' ', ',']))?;
            (date, time, rest)
        }
        // `ctime` has the year at the end.
        Found::MonthDay(month, day) => {
            let (time, rest) = read_time(rest.trim_start())?;
            let (zone, year) = match rest.trim().rsplit_once(' ') {
                Some((zone, year)) => (zone, year),
                None => ("", rest.trim()),
            };
            (Date::new(four_digits(year)?, month, day).ok()?, time, zone)
        }
    };
    let local = DateTime::from_parts(date, time);
    let offset = match offset.trim() {
        "" => {
            return zone
                .to_zoned(local)
                .ok()
                .map(|at| Timestamp::new(at.timestamp(), zone));
        }
        text => read_offset(text)?,
    };
    let instant = offset.to_timestamp(local).ok()?;
    Some(Timestamp {
        instant: microseconds(instant),
        offset,
    })
}

enum Found {
    Date(Date),
    MonthDay(i8, i8),
}

fn read_date(text: &str) -> Option<(Found, &str)> {
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return read_worded_date(text);
    }
    let (first, rest) = digits(text);
    if first.len() == 8 {
        let date = Date::new(
            first[..4].parse().ok()?,
            first[4..6].parse().ok()?,
            first[6..].parse().ok()?,
        );
        return Some((Found::Date(date.ok()?), rest));
    }
    let between = rest
        .chars()
        .next()
        .filter(|c| matches!(c, '-' | '/' | '.' | ' '))?;
    let rest = &rest[1..];
    if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
        // 21 Nov 2026
        let word = rest.split(between).next()?;
        let (year, rest) = digits(rest[word.len()..].strip_prefix(between)?);
        let date = Date::new(four_digits(year)?, month(word)?, first.parse().ok()?).ok()?;
        return Some((Found::Date(date), rest));
    }
    let (second, rest) = digits(rest);
    let (third, rest) = digits(rest.strip_prefix(between)?);
    let (year, month, day): (&str, &str, &str) = if first.len() == 4 {
        (first, second, third)
    } else if first.parse::<u8>().ok()? > 12 {
        (third, second, first)
    } else {
        (third, first, second)
    };
    let date = Date::new(four_digits(year)?, month.parse().ok()?, day.parse().ok()?).ok()?;
    Some((Found::Date(date), rest))
}

/// `Sat Nov 21 …`, `Nov 21 …`, `Nov 21, 2026 …`
fn read_worded_date(text: &str) -> Option<(Found, &str)> {
    let word = |text: &str| text.len() - text.trim_start_matches(char::is_alphabetic).len();
    let mut rest = text;
    let mut end = word(rest);
    if month(&rest[..end]).is_none() {
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let name = rest.get(..3)?.to_ascii_lowercase();
        days.contains(&name.as_str()).then_some(())?;
        rest = rest[end..].trim_start_matches([' ', ',']);
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            // Sat, 21 Nov 2026
            return read_date(rest);
        }
        end = word(rest);
    }
    let month = month(&rest[..end])?;
    let (day, rest) = digits(rest[end..].trim_start());
    let day = day.parse().ok()?;
    if let Some(year) = rest.strip_prefix(',') {
        let (year, rest) = digits(year.trim_start());
        return Some((
            Found::Date(Date::new(four_digits(year)?, month, day).ok()?),
            rest,
        ));
    }
    Some((Found::MonthDay(month, day), rest))
}

/// A year of four digits: which century a shorter one means is a guess.
fn four_digits(year: &str) -> Option<i16> {
    let digits = year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| year.parse().ok()).flatten()
}

fn month(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let word = word.to_ascii_lowercase();
    let found = MONTHS
        .iter()
        .position(|name| word.len() >= 3 && name.starts_with(&word))?;
    i8::try_from(found + 1).ok()
}

/// Hours, minutes, seconds and a fraction; midnight if there is no time.
fn read_time(text: &str) -> Option<(Time, &str)> {
    if text.is_empty() {
        return Some((Time::midnight(), ""));
    }
    let (hour, rest) = digits(text);
    let (hour, minute, second, rest) = if let (6, true) = (hour.len(), hour.is_ascii()) {
        (&hour[..2], &hour[2..4], &hour[4..], rest)
    } else {
        let (minute, rest) = digits(rest.strip_prefix(':')?);
        match rest.strip_prefix(':') {
            Some(rest) => {
                let (second, rest) = digits(rest);
                (hour, minute, second, rest)
            }
            None => (hour, minute, "0", rest),
        }
    };
    let (fraction, rest) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    let nanoseconds: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let time = Time::new(
        hour.parse().ok()?,
        minute.parse().ok()?,
        second.parse().ok()?,
        nanoseconds.parse().ok()?,
    );
    Some((time.ok()?, rest))
}

fn read_offset(text: &str) -> Option<Offset> {
    if ["z", "utc", "gmt"].contains(&text.to_ascii_lowercase().as_str()) {
        return Some(Offset::UTC);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(&text[1..]);
    let (hours, minutes, seconds) = match (hours.len(), rest) {
        (1 | 2, "") => (hours, "0", "0"),
        (4, "") => (&hours[..2], &hours[2..], "0"),
        _ => {
            let (minutes, rest) = digits(rest.strip_prefix(':')?);
            (hours, minutes, rest.strip_prefix(':').unwrap_or("0"))
        }
    };
    let number = |text: &str| text.parse::<i32>().ok().filter(|n| (0..100).contains(n));
    let seconds = number(hours)? * 3600 + number(minutes)? * 60 + number(seconds)?;
    Offset::from_seconds(sign * seconds).ok()
}

/// The decimal digits at the beginning, and what follows.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> String {
        Timestamp::parse(text, &TimeZone::UTC).unwrap().to_string()
    }

    #[test]
    fn what_backup_info_holds_reads_back_to_the_letter() {
        for text in [
            "2026-11-21 02:21:33.320190+00:00",
            "2026-11-21 02:21:33+00:00",
            "2026-11-21 02:21:33.000001-03:30",
            "1999-12-31 23:59:59+05:45",
        ] {
            assert_eq!(utc(text), text);
        }
    }

    #[test]
    fn any_unambiguous_form_is_read() {
        let expected = "2026-11-21 02:21:33+00:00";
        for text in [
            "2026-11-21T02:21:33Z",
            "2026-11-21 02:21:33",
            "20261121T022133",
            "2026-11-21 02:21:33 UTC",
            "2026-11-21 02:21:33.0000000+00",
            "Sat Nov 21 02:21:33 2026",
            "21/11/2026 02:21:33",
            "11/21/2026 02:21:33",
            "21 Nov 2026 02:21:33",
            "November 21, 2026 02:21:33",
            "Sat, 21 Nov 2026 02:21:33 +0000",
            "Sat Nov 21 02:21:33 UTC 2026",
            "21.11.2026 02:21:33Z",
            " 2026/11/21 02:21:33 ",
        ] {
            assert_eq!(utc(text), expected, "{text}");
        }
        assert_eq!(utc("2026-11-21T07:51:33+0530"), "2026-11-21 07:51:33+05:30");
        assert_eq!(utc("2026-11-21"), "2026-11-21 00:00:00+00:00");
        assert_eq!(utc("2026-11-21 02:21"), "2026-11-21 02:21:00+00:00");
        assert_eq!(
            Timestamp::parse("2026-11-21T07:51:33+0530", &TimeZone::UTC)
                .unwrap()
                .instant(),
            Timestamp::parse("2026-11-21 02:21:33Z", &TimeZone::UTC)
                .unwrap()
                .instant(),
        );
    }

    #[test]
    fn without_an_offset_it_is_local_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let at = Timestamp::parse("2026-11-21 04:21:33", &zone).unwrap();
        assert_eq!(at.to_string(), "2026-11-21 04:21:33+02:00");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "yesterday",
            "2026",
            "2026-13-01",
            "2026-11-21 25:00",
            "2026-11-21 x",
            "1-2-3",
            "Foo 1",
            "21 Nov 26 02:21:33",
            "Nov 21, 26 02:21:33",
            "Sat Nov 21 02:21:33 26",
            "Sat Nov 21 02:21:33 -026",
            "21/11/26 02:21:33",
            "Sat Nov 21 02:21:33 CET 2026",
            "2026-11-21 02:21:33 PM",
            "2026-11-21 02:21:33+99:00",
        ] {
            assert!(Timestamp::parse(text, &TimeZone::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn the_forms_of_the_json_outputs() {
        let at = Timestamp::parse("2026-11-01 02:21:33.320190+00:00", &TimeZone::UTC).unwrap();
        assert_eq!(at.ctime(), "Sun Nov  1 02:21:33 2026");
        assert_eq!(at.iso(), "2026-11-01T02:21:33.320190+00:00");
        assert_eq!(at.to_the_second(), "2026-11-01 02:21:33");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = Timestamp::parse(&text, &TimeZone::UTC);
        }

        #[test]
        fn what_is_printed_reads_back(micros in 0_i64..4_102_444_800_000_000, offset in -1439_i32..=1439) {
            let zone = TimeZone::fixed(Offset::from_seconds(offset * 60).unwrap());
            let at = Timestamp::new(jiff::Timestamp::from_microsecond(micros).unwrap(), &zone);
            proptest::prop_assert_eq!(Timestamp::parse(&at.to_string(), &TimeZone::UTC).unwrap(), at);
            proptest::prop_assert_eq!(Timestamp::parse(&at.iso(), &TimeZone::UTC).unwrap(), at);
        }
    }
}
