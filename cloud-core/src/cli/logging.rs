//! Log lines on standard error, in the reference's form:
//! `2026-11-21 02:21:33,320 [4711] ERROR: message`.
//!
//! At the default level a tool that succeeds says nothing: clients read both
//! streams as one. So libraries, which warn of what we then deal with, are shown
//! one level later than ourselves.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::progress;

/// Longest line, in bytes: programs that copy our lines stop at 1 MiB.
const MAX_LINE: usize = 64 << 10;

/// Begins to log. Warnings and errors by default; each `-v` shows one level
/// more, each `-q` one less.
pub(super) fn start(verbose: u8, quiet: u8) {
    let balance = i32::from(verbose) - i32::from(quiet);
    let show = move |meta: &Metadata<'_>| shows(balance, meta.target(), *meta.level());
    let layer = tracing_subscriber::fmt::layer()
        .event_format(Line)
        .with_writer(Stderr);
    // Only one subscriber can be: in tests of several tools the first stays.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter_fn(show)))
        .try_init();
}

/// Whether an event is shown when `-v` was given `balance` times more often
/// than `-q`.
fn shows(balance: i32, target: &str, level: Level) -> bool {
    let ours = target.starts_with("cloud_core") || target.starts_with("barman_cloud");
    let shown = match if ours {
        balance
    } else {
        balance.saturating_sub(1)
    } {
        ..=-2 => return false,
        -1 => Level::ERROR,
        0 => Level::WARN,
        1 => Level::INFO,
        2.. => Level::DEBUG,
    };
    level <= shown
}

/// Makes a panic a line like any other failure, without a back-trace.
pub(super) fn one_line_panics(words: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown");
        let text = text.replace('\n', " ");
        let place = panic
            .location()
            .map(|place| format!(" ({}:{})", place.file(), place.line()));
        tracing::error!(
            "Barman cloud {words} exception: internal error: {text}{}",
            place.unwrap_or_default()
        );
    }));
}

/// The form of a line.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let now = jiff::Zoned::now();
        let milliseconds = now.subsec_nanosecond() / 1_000_000;
        let time = now.strftime("%Y-%m-%d %H:%M:%S");
        let pid = std::process::id();
        let message = cut(visible(text.message + &text.fields));
        writeln!(
            writer,
            "{time},{milliseconds:03} [{pid}] {level}: {message}"
        )
    }
}

/// The text without what a terminal would obey. A line break is kept: a hint
/// has a line of its own.
fn visible(text: String) -> String {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_LINE {
        let end = (0..=MAX_LINE)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str(" (cut)");
    }
    text
}

/// The message of an event, and its fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// Standard error that nobody need be listening to.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        progress::beside(|| {
            let _ = io::stderr().write_all(buf);
        });
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_shows_one_level_more_and_each_q_one_less() {
        let shown = |balance, target| {
            [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG]
                .into_iter()
                .take_while(|level| shows(balance, target, *level))
                .count()
        };
        let ours = [-3, -2, -1, 0, 1, 2, 3].map(|balance| shown(balance, "cloud_core::ops"));
        assert_eq!(ours, [0, 0, 1, 2, 3, 4, 4]);
        let others = [-1, 0, 1, 2, 3].map(|balance| shown(balance, "rustls::client"));
        assert_eq!(others, [0, 1, 2, 3, 4]);
        assert!(shows(0, "barman_cloud_backup", Level::WARN));
    }

    #[test]
    fn a_message_cannot_command_the_terminal() {
        let text = "a\x1b[2Jb\nHINT: c\td".to_owned();
        assert_eq!(visible(text), "a\\u{1b}[2Jb\nHINT: c\td");
        assert_eq!(visible("plain ä".into()), "plain ä");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = cut("ä".repeat(MAX_LINE));
        assert!(line.len() <= MAX_LINE + 10 && line.ends_with("ä (cut)"));
        assert_eq!(cut("short".into()), "short");
    }
}
