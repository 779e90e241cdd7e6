//! The text of one `backup.info`: what the reference writes, with what it also
//! reads (offsets, literals, files of older versions) mixed in.

use fastrand::Rng;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::wal::Position;

/// Fields that versions before 3.11 did not write.
const NEWER_FIELDS: [&str; 6] = [
    "children_backup_ids",
    "cluster_size",
    "data_checksums",
    "encryption",
    "parent_backup_id",
    "summarize_wal",
];

/// One base backup as its `backup.info` tells it.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) status: &'static str,
    pub(crate) name: Option<&'static str>,
    pub(crate) begin: Option<(Position, Timestamp)>,
    pub(crate) end: Option<(Position, Timestamp)>,
    /// The text of its keep object.
    pub(crate) keep: Option<&'static str>,
    pub(crate) parent: Option<String>,
    pub(crate) tablespaces: Vec<(&'static str, u32, &'static str)>,
}

impl Backup {
    /// Whether it counts as a neighbour when WAL is cleaned up.
    pub(crate) fn is_live(&self) -> bool {
        ["DONE", "WAITING_FOR_WALS"].contains(&self.status)
    }

    /// A `backup.info` that says this, the rest of it chosen by `rng`.
    pub(crate) fn text(&self, rng: &mut Rng) -> String {
        if self.status == "EMPTY" {
            return String::new();
        }
        let offset = pick(rng, &["+00:00", "+00:00", "+05:30", "-03:00", "+01:00"]);
        let mut fields = self.fields(offset, rng);
        if rng.u8(..100) < 12 && self.parent.is_none() {
            fields.retain(|(name, _)| !NEWER_FIELDS.contains(name));
        }
        let line_end = if rng.u8(..100) < 8 { "\r\n" } else { "\n" };
        let mut text = String::new();
        if rng.u8(..100) < 8 {
            text.push_str(&format!("# a comment{line_end}{line_end}"));
        }
        for (name, value) in fields {
            text.push_str(&format!("{name}={value}{line_end}"));
        }
        text
    }

    fn fields(&self, offset: &str, rng: &mut Rng) -> Vec<(&'static str, String)> {
        let started = self.begin.is_some();
        let done = self.end.is_some();
        let at = |point: Option<(Position, Timestamp)>, value: fn(Position) -> String| {
            optional(point.map(|(position, _)| value(position)))
        };
        let fraction = rng.bool();
        let mut time = |point: Option<(Position, Timestamp)>| {
            optional(point.map(|(_, time)| written(time, offset, fraction, rng)))
        };
        let (begin_time, end_time) = (time(self.begin), time(self.end));
        let when = |known: bool, value: &str| optional(known.then(|| value.to_owned()));
        let pgdata = pick(rng, &["/var/lib/postgresql/15/main", "/srv/größe/data"]);
        let mut fields = vec![
            ("backup_label", self.label(done)),
            ("begin_offset", when(started, "40")),
            ("begin_time", begin_time),
            ("begin_wal", at(self.begin, |position| position.to_string())),
            ("begin_xlog", at(self.begin, |position| position.lsn(40))),
            ("children_backup_ids", "None".to_owned()),
            (
                "cluster_size",
                pick(rng, &["31444681", "1023", "None", "90194313216", "1048575"]).to_owned(),
            ),
            (
                "compression",
                pick(rng, &["None", "None", "gzip", "none"]).to_owned(),
            ),
            ("config_file", when(started, "/etc/postgresql/a b.conf")),
            ("copy_stats", if done { copy_stats(rng) } else { none() }),
            (
                "data_checksums",
                pick(rng, &["on", "off", "None"]).to_owned(),
            ),
            (
                "deduplicated_size",
                pick(rng, &["None", "None", "5368709120"]).to_owned(),
            ),
            ("encryption", pick(rng, &["None", "None", "gpg"]).to_owned()),
            ("end_offset", when(done, "256")),
            ("end_time", end_time),
            ("end_wal", at(self.end, |position| position.to_string())),
            ("end_xlog", at(self.end, |position| position.lsn(256))),
            ("error", self.error()),
            ("hba_file", when(started, "/etc/postgresql/pg_hba.conf")),
            ("ident_file", when(started, "/etc/postgresql/pg_ident.conf")),
            (
                "included_files",
                pick(
                    rng,
                    &[
                        "None",
                        "['/etc/a.conf', \"/etc/it's.conf\"]",
                        "['/é\\u200b']",
                    ],
                )
                .to_owned(),
            ),
            ("mode", pick(rng, &["None", "None", "postgres"]).to_owned()),
            ("parent_backup_id", optional(self.parent.clone())),
            ("pgdata", when(started, pgdata)),
            (
                "server_name",
                pick(rng, &["cloud", "cloud", "größe"]).to_owned(),
            ),
            ("size", pick(rng, &["None", "None", "31607341"]).to_owned()),
            ("status", self.status.to_owned()),
            (
                "summarize_wal",
                pick(rng, &["None", "None", "on", "off"]).to_owned(),
            ),
            ("systemid", "7710443699091897341".to_owned()),
            ("tablespaces", self.tablespaces_literal()),
            (
                "timeline",
                at(self.begin, |position| position.timeline.to_string()),
            ),
            (
                "version",
                pick(rng, &["150020", "90624", "100023", "180001"]).to_owned(),
            ),
            (
                "xlog_segment_size",
                self.begin
                    .map_or(16 << 20, |(position, _)| position.segment_size())
                    .to_string(),
            ),
        ];
        if let Some(name) = self.name {
            fields.insert(1, ("backup_name", name.to_owned()));
        }
        fields
    }

    fn label(&self, done: bool) -> String {
        let Some((begin, _)) = self.begin.filter(|_| done) else {
            return none();
        };
        let lsn = begin.lsn(40);
        let (id, timeline) = (&self.id, begin.timeline);
        format!(
            "'START WAL LOCATION: {lsn} (file {begin})\\nBACKUP METHOD: streamed\\n\
             LABEL: Barman backup cloud {id}\\nSTART TIMELINE: {timeline}\\n'"
        )
    }

    fn error(&self) -> String {
        match (self.status, self.begin) {
            ("FAILED", None) => "failure uploading data (permission denied)",
            ("FAILED", Some(_)) => "failure uploading data (Ende der Übertragung: a=b)",
            _ => "None",
        }
        .to_owned()
    }

    fn tablespaces_literal(&self) -> String {
        if self.tablespaces.is_empty() {
            return none();
        }
        let one = |(name, oid, location): &(&str, u32, &str)| {
            let quote = if name.contains('\'') { '"' } else { '\'' };
            format!("({quote}{name}{quote}, {oid}, '{location}')")
        };
        let all: Vec<String> = self.tablespaces.iter().map(one).collect();
        format!("[{}]", all.join(", "))
    }
}

/// One of `values`.
pub(super) fn pick<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(..values.len())]
}

fn none() -> String {
    "None".to_owned()
}

fn optional(value: Option<String>) -> String {
    value.unwrap_or_else(none)
}

/// A time as the reference writes it in the zone of `offset`; in a few files as
/// it only reads it.
fn written(time: Timestamp, offset: &str, fraction: bool, rng: &mut Rng) -> String {
    let time = time + SignedDuration::from_micros(if fraction { 320_190 } else { 0 });
    let format = if fraction {
        "%Y-%m-%d %H:%M:%S.%6f"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    if rng.u8(..100) < 5 {
        let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
        return utc.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    }
    let (sign, hours) = offset.split_at(1);
    let (hours, minutes) = hours.split_once(':').expect("an offset has a colon");
    let parsed = |text: &str| text.parse::<i32>().expect("an offset has digits");
    let seconds = (parsed(hours) * 60 + parsed(minutes)) * 60;
    let seconds = if sign == "-" { -seconds } else { seconds };
    let zone = Offset::from_seconds(seconds).expect("less than a day");
    let local = time.to_zoned(zone.to_time_zone());
    format!("{}{offset}", local.strftime(format))
}

fn copy_stats(rng: &mut Rng) -> String {
    if rng.u8(..100) < 15 {
        return none();
    }
    let copy = pick(
        rng,
        &["0.515362", "65.2", "3723.0", "90061.9", "0", "1e-06"],
    );
    let analysis = pick(rng, &["0", "0", "3.25"]);
    format!(
        "{{'total_time': 10.583404, 'number_of_workers': 2, 'analysis_time': {analysis}, \
         'analysis_time_per_item': {{'data': 0}}, 'copy_time_per_item': {{'data': 0.086598}}, \
         'serialized_copy_time_per_item': {{'data': 0.034941}}, 'copy_time': {copy}, \
         'serialized_copy_time': 0.423095}}"
    )
}
