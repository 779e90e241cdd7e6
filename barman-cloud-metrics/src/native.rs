//! The series of our own: what they mean is told in `docs/metrics.md`, series by series.
//!
//! A value that is not known has no series. In particular a server that could not be read has
//! `barman_cloud_up` 0, the time at which it last could be, and nothing else.
//!
//! Labels are bounded: names of servers, timelines, and words of our own. A backup's id is only on
//! `barman_cloud_last_backup_info`, of which there are two for a server.

use std::collections::BTreeMap;

use cloud_core::ops::metrics::{
    Backup, Backups, Look, Overview, Snapshot, Thresholds, TimelineWal, Verdict,
};
use jiff::Timestamp;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::text::{age, seconds};

/// What all names begin with.
const PREFIX: &str = "barman_cloud_";

/// Name, help, and where the value comes from.
type Series<From> = (&'static str, &'static str, From);

type LookValue = fn(&Look) -> Option<f64>;
type ServerValue = fn(&Snapshot, Timestamp) -> Option<f64>;
type Counts = fn(&Backups) -> &BTreeMap<&'static str, u64>;
type BackupValue = fn(&Backup) -> Option<f64>;
type TimelineValue = fn(&TimelineWal) -> Option<f64>;

/// Of the look at the store itself. Those that end in `_total` are counters.
const OF_LOOK: &[Series<LookValue>] = &[
    (
        "refresh_success",
        "Whether all servers could be read at the last look.",
        |look| look.ended.map(|_| flag(look.failure.is_none())),
    ),
    (
        "refresh_timestamp_seconds",
        "When the last look ended.",
        |look| look.ended.map(seconds),
    ),
    (
        "refresh_last_success_timestamp_seconds",
        "When a look last brought anything.",
        |look| look.last_good.map(seconds),
    ),
    (
        "refresh_duration_seconds",
        "How long the last look took.",
        |look| look.ended.map(|_| look.took.as_secs_f64()),
    ),
    (
        "refreshes_total",
        "Looks at the store since this process began.",
        |look| Some(number(look.looks)),
    ),
    (
        "refresh_failures_total",
        "Those of them at which not all servers could be read.",
        |look| Some(number(look.failures)),
    ),
    (
        "store_requests_total",
        "Requests to the store since this process began; repetitions are not counted.",
        |look| Some(number(look.requests)),
    ),
    ("store_errors_total", "Those of them that failed.", |look| {
        Some(number(look.errors))
    }),
];

/// Of a server.
const OF_SERVER: &[Series<ServerValue>] = &[
    (
        "backups_restorable",
        "Base backups that are DONE and have the WAL that makes them consistent.",
        |seen, _| Some(number(seen.backups.restorable)),
    ),
    (
        "backups_stored_bytes",
        "Size of the archives of all base backups in the store.",
        |seen, _| Some(number(seen.backups.stored_bytes)),
    ),
    (
        "first_recoverable_timestamp_seconds",
        "The earliest point in time that can be recovered to.",
        |seen, _| seen.recovery.first.as_ref()?.at.map(seconds),
    ),
    (
        "last_recoverable_timestamp_seconds",
        "The latest point in time that the newest restorable backup leads to.",
        |seen, _| seen.recovery.last.as_ref()?.at.map(seconds),
    ),
    (
        "wal_last_archived_timestamp_seconds",
        "When a WAL segment was last archived.",
        |seen, _| seen.wal.last_archived.map(seconds),
    ),
    (
        "wal_last_archived_age_seconds",
        "How long ago that was.",
        |seen, now| seen.wal.last_archived.map(|at| age(at, now)),
    ),
    (
        "wal_current_timeline",
        "The newest timeline in the archive.",
        |seen, _| {
            let newest = seen.wal.timelines.last_key_value();
            newest.map(|(timeline, _)| f64::from(timeline.0))
        },
    ),
    (
        "wal_let_go",
        "Runs of WAL that --queue-max let go and that a backup needs.",
        |seen, _| Some(number(seen.recovery.let_go.len() as u64)),
    ),
];

/// Counts of backups by a word: the label that has it, and the counts.
const COUNTS: &[Series<(&str, Counts)>] = &[
    (
        "backups",
        "Base backups by the status in their records; unreadable if a record cannot be read.",
        ("status", |backups| &backups.by_status),
    ),
    (
        "backups_by_codec",
        "Base backups that are DONE by the codec of their archives.",
        ("codec", |backups| &backups.by_codec),
    ),
    (
        "backups_kept",
        "Base backups that are kept, by target.",
        ("target", |backups| &backups.kept),
    ),
];

/// Of the last base backup with a result.
const OF_BACKUP: &[Series<BackupValue>] = &[
    (
        "last_backup_start_timestamp_seconds",
        "When the last base backup with this result began.",
        |backup| backup.began.map(seconds),
    ),
    (
        "last_backup_end_timestamp_seconds",
        "When the last base backup with this result ended.",
        |backup| backup.ended.map(seconds),
    ),
    (
        "last_backup_duration_seconds",
        "How long the last base backup with this result took.",
        Backup::seconds,
    ),
    (
        "last_backup_stored_bytes",
        "Size of its archives in the store.",
        |backup| Some(number(backup.stored_bytes)),
    ),
    (
        "last_backup_original_bytes",
        "Size of the cluster that it was taken of.",
        |backup| backup.original_bytes.map(number),
    ),
];

/// Of the WAL of a timeline.
const OF_TIMELINE: &[Series<TimelineValue>] = &[
    (
        "wal_files",
        "Objects of all kinds in the WAL archive.",
        |wal| Some(number(wal.files)),
    ),
    ("wal_bytes", "Their size in the store.", |wal| {
        Some(number(wal.bytes))
    }),
    ("wal_segments", "WAL segments, each counted once.", |wal| {
        Some(number(wal.segments))
    }),
    (
        "wal_gaps",
        "Holes in the WAL that stand in the way of a recovery.",
        |wal| Some(number(wal.gaps)),
    ),
    (
        "wal_missing_segments",
        "WAL segments that are missing in these holes.",
        |wal| Some(number(wal.missing)),
    ),
    (
        "wal_oldest_position_bytes",
        "Where the oldest segment begins in the WAL.",
        |wal| Some(number(wal.oldest.as_ref()?.start)),
    ),
    (
        "wal_newest_position_bytes",
        "Where the newest segment ends in the WAL.",
        |wal| Some(number(wal.newest.as_ref()?.end)),
    ),
    (
        "wal_oldest_timestamp_seconds",
        "When the oldest segment was archived.",
        |wal| wal.oldest.as_ref()?.archived.map(seconds),
    ),
    (
        "wal_newest_timestamp_seconds",
        "When the newest segment was archived.",
        |wal| wal.newest.as_ref()?.archived.map(seconds),
    ),
];

/// The text of an overview, as of `now`.
pub(crate) fn text(
    overview: &Overview,
    thresholds: Thresholds,
    now: Timestamp,
) -> prometheus::Result<String> {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.add(
        "build_info",
        "The version of this exporter.",
        [(labels([("version", version)]), 1.0)],
    );
    for (name, help, value) in OF_LOOK {
        page.add(
            name,
            help,
            value(&overview.look).map(|value| (Vec::new(), value)),
        );
    }
    let servers = &overview.servers;
    let up = servers.iter();
    page.add(
        "up",
        "Whether the server could be read at the last look.",
        up.map(|server| {
            (
                labels([("server", &server.name)]),
                flag(server.seen.is_ok()),
            )
        }),
    );
    let read = servers.iter();
    page.add(
        "last_read_timestamp_seconds",
        "When the server was last read.",
        read.filter_map(|server| {
            Some((
                labels([("server", &server.name)]),
                seconds(server.last_good?),
            ))
        }),
    );
    let seen: Vec<(&str, &Snapshot)> = servers
        .iter()
        .filter_map(|server| Some((server.name.as_str(), server.seen.as_deref().ok()?)))
        .collect();
    of_servers(&mut page, &seen, thresholds, now);
    of_backups(&mut page, &seen);
    for (name, help, value) in OF_TIMELINE {
        let lines = seen.iter().flat_map(|(server, seen)| {
            let timelines = seen.wal.timelines.iter();
            timelines.filter_map(move |(timeline, wal)| {
                let timeline = timeline.to_string();
                Some((
                    labels([("server", *server), ("timeline", &timeline)]),
                    value(wal)?,
                ))
            })
        });
        page.add(name, help, lines);
    }
    TextEncoder::new().encode_to_string(&page.0)
}

fn of_servers(page: &mut Page, seen: &[(&str, &Snapshot)], thresholds: Thresholds, now: Timestamp) {
    let judged = seen.iter().map(|(server, seen)| {
        let verdict = Verdict::of(seen, thresholds, now);
        (*server, verdict)
    });
    let judged: Vec<_> = judged.collect();
    page.add(
        "healthy",
        "Whether nothing is wrong with the server, by the thresholds of this exporter.",
        judged
            .iter()
            .map(|(server, verdict)| (labels([("server", *server)]), flag(verdict.is_healthy()))),
    );
    page.add(
        "problems",
        "How many things are wrong with the server; --status names them.",
        judged.iter().map(|(server, verdict)| {
            (
                labels([("server", *server)]),
                number(verdict.problems.len() as u64),
            )
        }),
    );
    for (name, help, value) in OF_SERVER {
        let lines = seen
            .iter()
            .filter_map(|(server, seen)| Some((labels([("server", *server)]), value(seen, now)?)));
        page.add(name, help, lines);
    }
    for (name, help, (label, counts)) in COUNTS {
        let lines = seen.iter().flat_map(|(server, seen)| {
            let counts = counts(&seen.backups).iter();
            counts.map(move |(word, count)| {
                (labels([("server", *server), (label, word)]), number(*count))
            })
        });
        page.add(name, help, lines);
    }
}

fn of_backups(page: &mut Page, seen: &[(&str, &Snapshot)]) {
    let last = || {
        seen.iter().flat_map(|(server, seen)| {
            let backups = &seen.backups;
            let results = [
                ("good", &backups.last_good),
                ("failed", &backups.last_failed),
            ];
            let known = results
                .into_iter()
                .filter_map(|(result, backup)| Some((result, backup.as_ref()?)));
            known.map(|(result, backup)| (*server, result, backup))
        })
    };
    for (name, help, value) in OF_BACKUP {
        let lines = last().filter_map(|(server, result, backup)| {
            Some((
                labels([("server", server), ("result", result)]),
                value(backup)?,
            ))
        });
        page.add(name, help, lines);
    }
    page.add(
        "last_backup_info",
        "The last base backup with this result.",
        last().map(|(server, result, backup)| {
            let version = backup.version_text().unwrap_or_default();
            let told = labels([
                ("server", server),
                ("result", result),
                ("backup_id", &backup.id),
                ("codec", backup.codec),
                ("server_version", &version),
            ]);
            (told, 1.0)
        }),
    );
}

/// The families that are shown, in their order.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

impl Page {
    /// Adds a family with its series, unless it has none.
    fn add(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<LabelPair>, f64)>,
    ) {
        let counter = name.ends_with("_total");
        let metric = |(labels, value)| {
            let mut metric = Metric::from_label(labels);
            if counter {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        let metrics: Vec<Metric> = series.into_iter().map(metric).collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(if counter {
            MetricType::COUNTER
        } else {
            MetricType::GAUGE
        });
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Vec<LabelPair> {
    let label = |(name, value): (&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    pairs.map(label).into()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "all values of series are such numbers"
)]
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{good_and_gone, noon};

    /// Names as they stand in a text, without labels.
    fn names(text: &str) -> BTreeSet<&str> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.split(['{', ' ']).next().unwrap_or_default())
            .collect()
    }

    #[test]
    fn a_server_that_was_read_has_all_series_and_one_that_was_not_has_two() {
        let overview = good_and_gone();
        let text = text(&overview, Thresholds::default(), noon()).unwrap();
        let all = OF_LOOK.iter().map(|one| one.0);
        let all = all.chain(OF_SERVER.iter().map(|one| one.0));
        let all = all.chain(COUNTS.iter().map(|one| one.0));
        let all = all.chain(OF_BACKUP.iter().map(|one| one.0));
        let all = all.chain(OF_TIMELINE.iter().map(|one| one.0));
        let others = [
            "build_info",
            "up",
            "last_read_timestamp_seconds",
            "healthy",
            "problems",
            "last_backup_info",
        ];
        let all: BTreeSet<String> = all
            .chain(others)
            .map(|name| format!("{PREFIX}{name}"))
            .collect();
        let all: BTreeSet<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(names(&text), all);
        let gone: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("\"gone\""))
            .collect();
        let last = seconds(noon()) - 3600.0;
        assert_eq!(
            gone,
            [
                "barman_cloud_up{server=\"gone\"} 0",
                &format!("barman_cloud_last_read_timestamp_seconds{{server=\"gone\"}} {last}"),
            ]
        );
        for line in [
            "# TYPE barman_cloud_store_requests_total counter",
            "# TYPE barman_cloud_up gauge",
            "barman_cloud_up{server=\"a\\\"b\"} 1",
            "barman_cloud_backups{server=\"a\\\"b\",status=\"done\"} 2",
            "barman_cloud_backups{server=\"a\\\"b\",status=\"started\"} 0",
            "barman_cloud_backups_by_codec{server=\"a\\\"b\",codec=\"gzip\"} 2",
            "barman_cloud_last_backup_duration_seconds{server=\"a\\\"b\",result=\"good\"} 1800.5",
            "barman_cloud_last_backup_stored_bytes{server=\"a\\\"b\",result=\"failed\"} 7",
            "barman_cloud_last_backup_info{server=\"a\\\"b\",result=\"good\",backup_id=\"20261121T100000\",codec=\"gzip\",server_version=\"15.4\"} 1",
            "barman_cloud_wal_newest_position_bytes{server=\"a\\\"b\",timeline=\"2\"} 50331648",
            "barman_cloud_wal_last_archived_age_seconds{server=\"a\\\"b\"} 60",
            "barman_cloud_healthy{server=\"a\\\"b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    /// What operators read about is what there is.
    #[test]
    fn every_series_is_in_the_manual_and_no_other() {
        let overview = good_and_gone();
        let text = text(&overview, Thresholds::default(), noon()).unwrap();
        let manual = include_str!("../../docs/metrics.md");
        let rows = manual.lines().filter_map(|line| {
            let name = line.strip_prefix("| `barman_cloud_")?;
            let end = name.find(['`', '{'])?;
            (!name.starts_with("cloudnative_pg_io_")).then(|| format!("{PREFIX}{}", &name[..end]))
        });
        let rows: BTreeSet<String> = rows.collect();
        let rows: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
        assert_eq!(rows, names(&text));
    }

    #[test]
    fn thresholds_decide_what_is_healthy() {
        let overview = good_and_gone();
        let thresholds = Thresholds {
            max_wal_age: Some(std::time::Duration::from_secs(59)),
            ..Thresholds::default()
        };
        let text = text(&overview, thresholds, noon()).unwrap();
        assert!(
            text.contains("barman_cloud_healthy{server=\"a\\\"b\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("barman_cloud_problems{server=\"a\\\"b\"} 1\n"),
            "{text}"
        );
    }
}
