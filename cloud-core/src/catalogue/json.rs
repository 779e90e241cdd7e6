//! Backups in JSON, letter by letter as the reference prints them: programs in
//! other languages compare, cut and unmarshal these texts.

use std::fmt::Write;

use super::info::{BackupInfo, FieldValue};
use super::layout::BackupId;
use super::literal::Literal;
use super::snapshots::in_full;

/// `{"backups_list": […]}` of backups sorted by id.
pub fn list<'a>(backups: impl IntoIterator<Item = (&'a BackupId, &'a BackupInfo)>) -> String {
    let backups: Vec<String> = backups
        .into_iter()
        .map(|(id, info)| backup(id, info))
        .collect();
    format!("{{\"backups_list\": [{}]}}", backups.join(", "))
}

/// One backup below the name of its server as the record has it, which is
/// `cloud` for ordinary backups.
pub fn show(id: &BackupId, info: &BackupInfo) -> String {
    let name = text(info.server_name.as_deref().unwrap_or("null"));
    format!("{{{name}: {}}}", backup(id, info))
}

fn backup(id: &BackupId, info: &BackupInfo) -> String {
    let mut members = Vec::new();
    for (name, value) in info.fields() {
        let value = match (name, value) {
            ("snapshots_info", FieldValue::Literal(value)) => of_literal(&in_full(&value)),
            (_, value) => of_field(&value),
        };
        members.push((name, value));
    }
    members.push(("backup_id", text(id.as_str())));
    for (name, time) in [
        ("begin_time_iso", info.begin_time),
        ("end_time_iso", info.end_time),
    ] {
        if let Some(time) = time {
            members.push((name, text(&time.iso())));
        }
    }
    let members: Vec<String> = members
        .into_iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    format!("{{{}}}", members.join(", "))
}

fn of_field(value: &FieldValue) -> String {
    match value {
        FieldValue::None => "null".to_owned(),
        FieldValue::Text(value) => text(value),
        FieldValue::Number(value) => value.to_string(),
        FieldValue::Time(time) => text(&time.ctime()),
        // The literal itself, quotes and all.
        FieldValue::Label(label) => text(&Literal::Str(label.clone()).to_string()),
        FieldValue::Literal(value) => of_literal(value),
    }
}

fn of_literal(value: &Literal) -> String {
    match value {
        Literal::None => "null".to_owned(),
        Literal::Bool(value) => value.to_string(),
        Literal::Int(value) => value.to_string(),
        Literal::Float(value) if value.is_nan() => "NaN".to_owned(),
        Literal::Float(value) if value.is_infinite() => {
            let sign = if *value < 0.0 { "-" } else { "" };
            format!("{sign}Infinity")
        }
        Literal::Float(_) => value.to_string(),
        Literal::Str(value) => text(value),
        Literal::List(items) | Literal::Tuple(items) => {
            let items: Vec<String> = items.iter().map(of_literal).collect();
            format!("[{}]", items.join(", "))
        }
        Literal::Dict(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", of_key(key), of_literal(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// Names of members are texts, whatever the keys were.
fn of_key(key: &Literal) -> String {
    match key {
        Literal::Str(value) => text(value),
        other => text(&of_literal(other)),
    }
}

/// A string with everything beyond ASCII escaped, characters beyond 16 bits as
/// a pair.
fn text(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            ' '..='~' => quoted.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn texts_are_ascii_and_read_back() {
        for value in ["", "a\"\\\n\r\t\u{8}\u{c}\0\u{1f}\u{7f}", "é日🐘~"] {
            let quoted = text(value);
            assert!(quoted.is_ascii());
            let read: String = serde_json::from_str(&quoted).unwrap();
            assert_eq!(read, value);
        }
        assert_eq!(text("\u{7f}é🐘"), r#""\u007f\u00e9\ud83d\udc18""#);
    }

    #[test]
    fn literals_become_json_as_in_python() {
        for (literal, json) in [
            (
                "{'a': (1, 2.0, 1e-06), 2: [True, None], None: 'x', 1.5: {}}",
                r#"{"a": [1, 2.0, 1e-06], "2": [true, null], "null": "x", "1.5": {}}"#,
            ),
            ("[1e999, -1e999]", "[Infinity, -Infinity]"),
            ("{True: False}", r#"{"true": false}"#),
        ] {
            assert_eq!(of_literal(&Literal::parse(literal).unwrap()), json);
        }
    }

    #[test]
    fn an_empty_record_has_every_field() {
        let info = BackupInfo::parse(b"", &TimeZone::UTC).unwrap();
        let id = BackupId::new("20261121T000000").unwrap();
        let json: serde_json::Value = serde_json::from_str(&show(&id, &info)).unwrap();
        let backup = json["null"].as_object().unwrap();
        assert_eq!(backup.len(), 34);
        assert_eq!(backup["status"], "EMPTY");
        assert_eq!(backup["xlog_segment_size"], 16_777_216);
        assert!(!backup.contains_key("backup_name"));
        assert!(!backup.contains_key("end_time_iso"));
    }
}
