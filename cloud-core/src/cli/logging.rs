//! Log lines on standard error, in the reference's form:
//! `2026-11-21 02:21:33,320 [4711] ERROR: message`, or as JSON, an object a line.
//!
//! A hint is a line of its own behind the message, and a member of the object. What an
//! event of [`OUTCOME`] has in its other fields is for programs: people find it in the
//! message.
//!
//! At the default level a tool that succeeds says nothing: clients read both
//! streams as one. So libraries, which warn of what we then deal with, are shown
//! one level later than ourselves.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use serde_json::{Map, Value};
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

/// The target of events whose message says all that their fields say, but for a hint.
pub(super) const OUTCOME: &str = "cloud_core::outcome";

/// The option that names the form, as it is typed.
const OPTION: &str = "--log-format";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The reference's.
    Text,
    /// JSON objects, one a line.
    Json,
}

impl Form {
    /// As typed; clap has checked the word.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "json" => Self::Json,
            _ => Self::Text,
        }
    }

    /// What a command line asks for that cannot be read as a whole: what is said of it
    /// has the form that it names last, or else the one that the environment names.
    pub(super) fn of_words(words: &[OsString], of_environment: Option<&str>) -> Self {
        let words = words.iter().map(|word| word.to_string_lossy());
        let mut words = words.take_while(|word| word != "--");
        let mut form = of_environment.map_or(Self::Text, Self::of);
        while let Some(word) = words.next() {
            let value = match word.strip_prefix(OPTION) {
                Some("") => words.next().unwrap_or_default().into_owned(),
                Some(rest) => rest.strip_prefix('=').unwrap_or_default().to_owned(),
                None => continue,
            };
            form = Self::of(&value);
        }
        form
    }
}

/// Begins to log. Warnings and errors by default; each `-v` shows one level
/// more, each `-q` one less. `tool` is the program's name, for objects.
pub(super) fn start(form: Form, tool: String, verbose: u8, quiet: u8) {
    let balance = i32::from(verbose) - i32::from(quiet);
    let show = move |meta: &Metadata<'_>| shows(balance, meta.target(), *meta.level());
    let layer = tracing_subscriber::fmt::layer()
        .event_format(Line { form, tool })
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

/// Makes the lines of one tool.
struct Line {
    form: Form,
    tool: String,
}

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
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        if self.form == Form::Json {
            let mut fields = Fields::default();
            event.record(&mut fields);
            return writeln!(writer, "{}", object(&self.tool, level, fields.0));
        }
        let mut text = Text::default();
        event.record(&mut text);
        if event.metadata().target() == OUTCOME {
            text.fields.clear();
        }
        let now = jiff::Zoned::now();
        let milliseconds = now.subsec_nanosecond() / 1_000_000;
        let time = now.strftime("%Y-%m-%d %H:%M:%S");
        let pid = std::process::id();
        let message = cut(visible(text.message + &text.fields + &text.hint));
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

/// The object of a line. README.md lists its members, whose names do not change.
fn object(tool: &str, level: &str, mut members: Map<String, Value>) -> Value {
    let time = format!("{:.3}", jiff::Timestamp::now());
    for (name, value) in [
        ("time", time.as_str().into()),
        ("level", level.to_ascii_lowercase().into()),
        ("tool", tool.into()),
        ("pid", std::process::id().into()),
    ] {
        members.insert(name.to_owned(), value);
    }
    Value::Object(members)
}

/// A line about a command line that was not understood, in the form it asks for.
/// `text` is in the reference's form, with the usage before it.
pub(super) fn refused(form: Form, tool: &str, code: u8, text: &str) -> String {
    if form == Form::Text {
        return text.to_owned();
    }
    let complaint = text.split_once(&format!("{tool}: error: "));
    let message = complaint.map_or(text, |(_usage, message)| message);
    let mut members = Fields::default();
    let (message, hint) = match message.split_once("\nHINT: ") {
        Some((message, hint)) => (message, Some(hint)),
        None => (message, None),
    };
    members.add("message", message.trim_end());
    if let Some(hint) = hint {
        members.add(HINT, hint.trim_end());
    }
    members.0.insert("code".to_owned(), code.into());
    format!("{}\n", object(tool, "ERROR", members.0))
}

/// The message of an event, its fields behind it, and the line of its hint.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    hint: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == HINT {
            // A hint of several lines would look like several messages.
            self.hint = format!("\nHINT: {}", value.replace(['\r', '\n'], " "));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// The field that has a hint.
const HINT: &str = "hint";

/// What an event holds, as members of an object.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, name: &str, text: &str) {
        let text = cut(visible(text.to_owned()));
        self.0.insert(name.to_owned(), text.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
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
    use std::sync::{Arc, Mutex};

    use serde_json::json;

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

    /// The lines of `log` in a form, without the time.
    fn lines(form: Form, log: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(buf)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let writer = kept.clone();
        let tool = "barman-cloud-restore".to_owned();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Line { form, tool })
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, log);
        let kept = kept.0.lock().unwrap();
        let text = std::str::from_utf8(&kept).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn some_events() {
        let hint = Some("look\nhere");
        let request_id = None::<&str>;
        tracing::error!(target: OUTCOME, code = 4, hint, request_id, "no\x1b[2J \"x\"");
        tracing::warn!(size = 7, name = "n", "odd");
        tracing::info!(target: OUTCOME, seconds = 0.5, "done");
    }

    #[test]
    fn a_line_of_text_shows_the_hint_below_and_no_other_field_of_an_outcome() {
        let shown: Vec<_> = lines(Form::Text, some_events)
            .into_iter()
            .map(|line| match line.split_once("] ") {
                Some((_time, message)) => message.to_owned(),
                None => line,
            })
            .collect();
        assert_eq!(
            shown,
            [
                "ERROR: no\\u{1b}[2J \"x\"",
                "HINT: look here",
                "WARNING: odd size=7 name=\"n\"",
                "INFO: done",
            ]
        );
    }

    #[test]
    fn a_line_of_json_is_one_object_with_all_fields() {
        let mut objects: Vec<Map<String, Value>> = lines(Form::Json, some_events)
            .iter()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        for object in &mut objects {
            let time = object.remove("time").unwrap();
            let time = time.as_str().unwrap();
            assert!(time.ends_with('Z') && time.len() == 24, "{time}");
            time.parse::<jiff::Timestamp>().unwrap();
            assert_eq!(object.remove("pid").unwrap(), std::process::id());
            assert_eq!(object.remove("tool").unwrap(), "barman-cloud-restore");
        }
        let expected = [
            json!({"level": "error", "message": "no\\u{1b}[2J \"x\"", "code": 4,
                   "hint": "look\nhere"}),
            json!({"level": "warning", "message": "odd", "size": 7, "name": "n"}),
            json!({"level": "info", "message": "done", "seconds": 0.5}),
        ];
        assert_eq!(
            objects.into_iter().map(Value::Object).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn the_form_of_a_command_line_that_is_wrong_is_the_last_it_names() {
        for (line, form) in [
            ("", Form::Text),
            ("--nonsense --log-format=json", Form::Json),
            ("--log-format json", Form::Json),
            ("--log-format", Form::Text),
            ("--log-format=json --log-format=text u", Form::Text),
            ("--log-formats=json", Form::Text),
            ("u -- --log-format=json", Form::Text),
        ] {
            let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(Form::of_words(&words, None), form, "{line}");
        }
        let words = [OsString::from("--log-format=text")];
        assert_eq!(Form::of_words(&words, Some("json")), Form::Text);
        assert_eq!(Form::of_words(&[], Some("json")), Form::Json);
    }

    #[test]
    fn a_complaint_of_usage_is_an_object_without_the_usage() {
        let text = "Usage: tool [OPTIONS] <u>\ntool: error: argument -n: odd\n";
        assert_eq!(refused(Form::Text, "tool", 3, text), text);
        let object = refused(Form::Json, "tool", 3, text);
        let object: Value = serde_json::from_str(object.strip_suffix('\n').unwrap()).unwrap();
        let told = (&object["message"], &object["code"], &object["level"]);
        assert_eq!(
            told,
            (&json!("argument -n: odd"), &json!(3), &json!("error"))
        );
        let object = refused(Form::Json, "tool", 3, "Invalid tag format: foo\n");
        assert!(object.contains("\"Invalid tag format: foo\""), "{object}");
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
