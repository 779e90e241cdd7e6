//! `backup.info`: the record that makes a base backup exist.
//!
//! The reference stops at a field it does not know, so a writer must never add
//! one. A reader must be more patient: fields that are unknown here are kept
//! and written back where they belong.

mod coherence;
mod mark;
mod needs;

use std::fmt;

use jiff::tz::TimeZone;

use super::literal::{Literal, LiteralError};
use super::time::{InvalidTime, Timestamp};
use crate::wal::{Lsn, SegmentSize, TimelineId, WalName};

/// A base backup as `backup.info` describes it. Absent values are `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupInfo {
    /// Text of the backup label.
    pub backup_label: Option<String>,
    /// The name given with `--name`.
    pub backup_name: Option<String>,
    /// Offset of the start position in its segment, in bytes.
    pub begin_offset: Option<u64>,
    /// When the backup began.
    pub begin_time: Option<Timestamp>,
    /// Segment of the start position.
    pub begin_wal: Option<String>,
    /// Start position, as the server prints it.
    pub begin_xlog: Option<String>,
    /// Ids of backups that build on this one; only a Barman server sets it.
    pub children_backup_ids: Option<String>,
    /// Size of all tablespaces in bytes.
    pub cluster_size: Option<u64>,
    /// Set by a Barman server; object suffixes tell the compression here.
    pub compression: Option<String>,
    /// Path of `postgresql.conf`.
    pub config_file: Option<String>,
    /// Times of the copy.
    pub copy_stats: Option<Literal>,
    /// `on` or `off`.
    pub data_checksums: Option<String>,
    /// Set by a Barman server, in bytes.
    pub deduplicated_size: Option<u64>,
    /// Set by a Barman server.
    pub encryption: Option<String>,
    /// Offset of the end position in its segment, in bytes.
    pub end_offset: Option<u64>,
    /// When the backup ended.
    pub end_time: Option<Timestamp>,
    /// Segment of the end position.
    pub end_wal: Option<String>,
    /// End position, as the server prints it.
    pub end_xlog: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Path of `pg_hba.conf`.
    pub hba_file: Option<String>,
    /// Path of `pg_ident.conf`.
    pub ident_file: Option<String>,
    /// Configuration files beside `config_file`.
    pub included_files: Vec<String>,
    /// Set by a Barman server.
    pub mode: Option<String>,
    /// The backup this one builds on; only a Barman server sets it.
    pub parent_backup_id: Option<String>,
    /// Path of the data directory.
    pub pgdata: Option<String>,
    /// `cloud`, or the server's name in backups of another kind.
    pub server_name: Option<String>,
    /// Set by a Barman server, in bytes.
    pub size: Option<u64>,
    /// The disk snapshots, of snapshot backups.
    pub snapshots_info: Option<Literal>,
    /// Where the backup is in its life.
    pub status: Status,
    /// `on` or `off`, from PostgreSQL 17.
    pub summarize_wal: Option<String>,
    /// System identifier of the cluster.
    pub systemid: Option<String>,
    /// The tablespaces that are not part of PGDATA.
    pub tablespaces: Vec<Tablespace>,
    /// Timeline at the start.
    pub timeline: Option<u32>,
    /// `server_version_num`.
    pub version: Option<u32>,
    /// Size of a WAL segment in bytes.
    pub xlog_segment_size: u64,
    /// Fields that are not known here, as they stood.
    pub unknown_fields: Vec<(String, String)>,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its name.
    pub name: String,
    /// Its oid, which names its archives.
    pub oid: u32,
    /// Its directory.
    pub location: String,
}

/// Where a backup is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The record says nothing.
    Empty,
    /// Under way, or its process died.
    Started,
    /// Complete.
    Done,
    /// Given up.
    Failed,
    /// Another word: a Barman server knows more of them.
    Other(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "EMPTY",
            Self::Started => "STARTED",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Other(word) => word,
        })
    }
}

/// Why a `backup.info` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// It is not text.
    #[error("it is not UTF-8")]
    NotText,
    /// A line has no `=`.
    #[error("line {line} is no `name=value`")]
    NoValue {
        /// The line, from 1.
        line: usize,
    },
    /// More unknown fields than any version can have.
    #[error("it has more than {MAX_UNKNOWN_FIELDS} unknown fields")]
    TooManyFields,
    /// The value of a field is not of its type.
    #[error("the value of `{field}` is wrong: {why}")]
    WrongValue {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Longest text that says why a value is wrong, and may quote it, in characters.
const MAX_WHY: usize = 300;

/// How many fields that are not known here are kept. The file has 35; a bucket
/// is not to be trusted.
const MAX_UNKNOWN_FIELDS: usize = 256;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue {
    /// Absent.
    None,
    /// Plain text.
    Text(String),
    /// A number.
    Number(u64),
    /// A point in time.
    Time(Timestamp),
    /// Text that is written as a literal, because it has several lines.
    Label(String),
    /// A value with a structure.
    Literal(Literal),
}

/// The form in the file.
impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Label(text) => Literal::Str(text.clone()).fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

/// How the values of one field are read and written.
enum Kind {
    Text(fn(&mut BackupInfo) -> &mut Option<String>),
    Size(fn(&mut BackupInfo) -> &mut Option<u64>),
    Small(fn(&mut BackupInfo) -> &mut Option<u32>),
    Time(fn(&mut BackupInfo) -> &mut Option<Timestamp>),
    Label,
    Stats(fn(&mut BackupInfo) -> &mut Option<Literal>),
    Files,
    Tablespaces,
    Status,
    SegmentSize,
}

/// A field, in the order of the file.
struct Field {
    name: &'static str,
    kind: Kind,
    /// Left out altogether when it is absent; the others say `None`.
    optional: bool,
}

macro_rules! fields {
    ($($name:ident: $kind:ident $(, $optional:ident)?;)*) => {
        &[$(Field { name: stringify!($name), kind: fields!(@kind $name $kind), optional: fields!(@optional $($optional)?) }),*]
    };
    (@kind $name:ident Text) => { Kind::Text(|info| &mut info.$name) };
    (@kind $name:ident Size) => { Kind::Size(|info| &mut info.$name) };
    (@kind $name:ident Small) => { Kind::Small(|info| &mut info.$name) };
    (@kind $name:ident Time) => { Kind::Time(|info| &mut info.$name) };
    (@kind $name:ident Stats) => { Kind::Stats(|info| &mut info.$name) };
    (@kind $name:ident $other:ident) => { Kind::$other };
    (@optional) => { false };
    (@optional optional) => { true };
}

const FIELDS: &[Field] = fields! {
    backup_label: Label;
    backup_name: Text, optional;
    begin_offset: Size;
    begin_time: Time;
    begin_wal: Text;
    begin_xlog: Text;
    children_backup_ids: Text;
    cluster_size: Size;
    compression: Text;
    config_file: Text;
    copy_stats: Stats;
    data_checksums: Text;
    deduplicated_size: Size;
    encryption: Text;
    end_offset: Size;
    end_time: Time;
    end_wal: Text;
    end_xlog: Text;
    error: Text;
    hba_file: Text;
    ident_file: Text;
    included_files: Files;
    mode: Text;
    parent_backup_id: Text;
    pgdata: Text;
    server_name: Text;
    size: Size;
    snapshots_info: Stats, optional;
    status: Status;
    summarize_wal: Text;
    systemid: Text;
    tablespaces: Tablespaces;
    timeline: Small;
    version: Small;
    xlog_segment_size: SegmentSize;
};

impl Default for BackupInfo {
    fn default() -> Self {
        Self {
            backup_label: None,
            backup_name: None,
            begin_offset: None,
            begin_time: None,
            begin_wal: None,
            begin_xlog: None,
            children_backup_ids: None,
            cluster_size: None,
            compression: None,
            config_file: None,
            copy_stats: None,
            data_checksums: None,
            deduplicated_size: None,
            encryption: None,
            end_offset: None,
            end_time: None,
            end_wal: None,
            end_xlog: None,
            error: None,
            hba_file: None,
            ident_file: None,
            included_files: Vec::new(),
            mode: None,
            parent_backup_id: None,
            pgdata: None,
            server_name: None,
            size: None,
            snapshots_info: None,
            status: Status::Empty,
            summarize_wal: None,
            systemid: None,
            tablespaces: Vec::new(),
            timeline: None,
            version: None,
            xlog_segment_size: SegmentSize::DEFAULT.get(),
            unknown_fields: Vec::new(),
        }
    }
}

impl BackupInfo {
    /// Fills in the begin fields.
    pub fn set_begin(&mut self, timeline: TimelineId, lsn: Lsn, size: SegmentSize, at: Timestamp) {
        self.timeline = Some(timeline.0);
        self.begin_xlog = Some(lsn.to_string());
        self.begin_wal = Some(WalName::segment_of(timeline, lsn, size).as_str().to_owned());
        self.begin_offset = Some(size.offset(lsn));
        self.begin_time = Some(at);
    }

    /// Fills in the end fields.
    pub fn set_end(&mut self, timeline: TimelineId, lsn: Lsn, size: SegmentSize, at: Timestamp) {
        self.end_xlog = Some(lsn.to_string());
        self.end_wal = Some(WalName::segment_of(timeline, lsn, size).as_str().to_owned());
        self.end_offset = Some(size.offset(lsn));
        self.end_time = Some(at);
    }

    /// Empties the end fields.
    pub fn clear_end(&mut self) {
        self.end_xlog = None;
        self.end_wal = None;
        self.end_offset = None;
        self.end_time = None;
    }

    /// Reads a file. Times without an offset are local times of `zone`.
    pub fn parse(bytes: &[u8], zone: &TimeZone) -> Result<Self, InfoError> {
        let text = std::str::from_utf8(bytes).map_err(|_| InfoError::NotText)?;
        let mut info = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line
                .split_once('=')
                .ok_or(InfoError::NoValue { line: index + 1 })?;
            let (name, value) = (name.trim(), value.trim());
            let value = (value != "None").then_some(value);
            match FIELDS.iter().find(|field| field.name == name) {
                Some(field) => info.set(field, value, zone)?,
                // Not fields, but the reference swallows them without a word.
                None if matches!(name, "backup_id" | "backup_version" | "filename") => {}
                None => {
                    info.unknown_fields.retain(|(other, _)| other != name);
                    if info.unknown_fields.len() == MAX_UNKNOWN_FIELDS {
                        return Err(InfoError::TooManyFields);
                    }
                    info.unknown_fields
                        .push((name.to_owned(), value.unwrap_or("None").to_owned()));
                }
            }
        }
        Ok(info)
    }

    fn set(
        &mut self,
        field: &Field,
        value: Option<&str>,
        zone: &TimeZone,
    ) -> Result<(), InfoError> {
        let wrong = |why: String| InfoError::WrongValue {
            field: field.name,
            why: why.chars().take(MAX_WHY).collect(),
        };
        match &field.kind {
            Kind::Text(place) => *place(self) = value.map(str::to_owned),
            Kind::Size(place) => *place(self) = number(value).map_err(wrong)?,
            Kind::Small(place) => *place(self) = number(value).map_err(wrong)?,
            Kind::Time(place) => {
                let time = value.map(|text| Timestamp::parse(text, zone)).transpose();
                *place(self) = time.map_err(|error: InvalidTime| wrong(error.to_string()))?;
            }
            Kind::Stats(place) => *place(self) = literal(value).map_err(wrong)?,
            Kind::Label => {
                self.backup_label = match literal(value).map_err(wrong)? {
                    None => None,
                    Some(Literal::Str(text)) => Some(text),
                    Some(_) => return Err(wrong("it is no text".into())),
                };
            }
            Kind::Files => {
                let items = literal(value).map_err(wrong)?;
                self.included_files = match &items {
                    None => Vec::new(),
                    Some(items) => {
                        texts(items).ok_or_else(|| wrong("it is no list of texts".into()))?
                    }
                };
            }
            Kind::Tablespaces => {
                let items = literal(value).map_err(wrong)?;
                self.tablespaces = match &items {
                    None => Vec::new(),
                    Some(items) => tablespaces(items)
                        .ok_or_else(|| wrong("it is no list of (name, oid, location)".into()))?,
                };
            }
            Kind::Status => {
                self.status = match value.unwrap_or("EMPTY") {
                    "EMPTY" => Status::Empty,
                    "STARTED" => Status::Started,
                    "DONE" => Status::Done,
                    "FAILED" => Status::Failed,
                    other => Status::Other(other.to_owned()),
                }
            }
            Kind::SegmentSize => {
                let size = number(value).map_err(wrong)?;
                self.xlog_segment_size = size.unwrap_or(SegmentSize::DEFAULT.get());
            }
        }
        Ok(())
    }

    /// The file: one line per field, in the order of their names.
    pub fn to_text(&self) -> String {
        let fields = self.fields().into_iter();
        let mut lines: Vec<(&str, String)> = fields
            .map(|(name, value)| (name, value.to_string()))
            .collect();
        lines.extend(
            self.unknown_fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        lines.sort_by_key(|(one, _)| *one);
        let mut text = String::new();
        for (name, value) in lines {
            text.push_str(name);
            text.push('=');
            text.push_str(&one_line(&value));
            text.push('\n');
        }
        text
    }

    /// All fields with their values, in the order of their names. Those that are
    /// left out of the file when they are absent are left out here too.
    pub fn fields(&self) -> Vec<(&'static str, FieldValue)> {
        // The table hands out places to write to; reading them needs a copy.
        let mut copy = self.clone();
        FIELDS
            .iter()
            .map(|field| (field, copy.value(field)))
            .filter(|(field, value)| !(field.optional && *value == FieldValue::None))
            .map(|(field, value)| (field.name, value))
            .collect()
    }

    fn value(&mut self, field: &Field) -> FieldValue {
        let full = |literal: Literal| (!literal.is_empty()).then_some(literal);
        let value = match &field.kind {
            Kind::Text(place) => place(self).clone().map(FieldValue::Text),
            Kind::Size(place) => place(self).map(FieldValue::Number),
            Kind::Small(place) => place(self).map(|value| FieldValue::Number(value.into())),
            Kind::Time(place) => place(self).map(FieldValue::Time),
            Kind::Stats(place) => place(self).clone().and_then(full).map(FieldValue::Literal),
            Kind::Label => self
                .backup_label
                .clone()
                .filter(|text| !text.is_empty())
                .map(FieldValue::Label),
            Kind::Files => {
                let files = self.included_files.iter().cloned().map(Literal::Str);
                full(Literal::List(files.collect())).map(FieldValue::Literal)
            }
            Kind::Tablespaces => full(self.tablespaces_literal()).map(FieldValue::Literal),
            Kind::Status => Some(FieldValue::Text(self.status.to_string())),
            Kind::SegmentSize => Some(FieldValue::Number(self.xlog_segment_size)),
        };
        value.unwrap_or(FieldValue::None)
    }

    fn tablespaces_literal(&self) -> Literal {
        let tuple = |tablespace: &Tablespace| {
            Literal::Tuple(vec![
                Literal::Str(tablespace.name.clone()),
                Literal::Int(tablespace.oid.into()),
                Literal::Str(tablespace.location.clone()),
            ])
        };
        Literal::List(self.tablespaces.iter().map(tuple).collect())
    }
}

/// Values outside literals cannot hold a newline: it would break the file.
fn one_line(value: &str) -> String {
    if value.contains(['\n', '\r']) {
        value.replace(['\n', '\r'], " ")
    } else {
        value.to_owned()
    }
}

fn number<T: std::str::FromStr>(value: Option<&str>) -> Result<Option<T>, String> {
    value
        .map(|text| text.parse().map_err(|_| format!("`{text}` is no number")))
        .transpose()
}

fn literal(value: Option<&str>) -> Result<Option<Literal>, String> {
    let value = value.map(Literal::parse).transpose();
    let value = value.map_err(|error: LiteralError| error.to_string())?;
    Ok(value.filter(|literal| !literal.is_empty()))
}

fn texts(items: &Literal) -> Option<Vec<String>> {
    items
        .items()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn tablespaces(items: &Literal) -> Option<Vec<Tablespace>> {
    let tablespace = |item: &Literal| {
        let [
            Literal::Str(name),
            Literal::Int(oid),
            Literal::Str(location),
        ] = item.items()?
        else {
            return None;
        };
        let oid = u32::try_from(*oid).ok()?;
        Some(Tablespace {
            name: name.clone(),
            oid,
            location: location.clone(),
        })
    };
    items.items()?.iter().map(tablespace).collect()
}

#[cfg(test)]
mod tests;
