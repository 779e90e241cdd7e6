//! The series of other exporters, for dashboards and alerts that are there already.
//!
//! Montagu's is a text of eight lines for each server, without help and types, and one line if
//! Barman does not answer: here, if the server could not be read. CloudNativePG's plugin has three
//! series without labels; it knows one server, so with several there is a label.

use std::fmt::Write as _;

use cloud_core::ops::metrics::{Backup, Overview, Snapshot, Thresholds, Verdict};
use jiff::Timestamp;

use crate::text::age;

/// The text of Montagu's exporter.
pub(crate) fn montagu(overview: &Overview, thresholds: Thresholds, now: Timestamp) -> String {
    let mut text = String::new();
    for server in &overview.servers {
        let label = escaped(&server.name);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "barman_{name}{{database=\"{label}\"}} {value}");
        };
        let Ok(seen) = &server.seen else {
            line("running", "0");
            continue;
        };
        line("running", "1");
        let ok = Verdict::of(seen, thresholds, now).is_healthy();
        line("ok", if ok { "1" } else { "0" });
        let last = seen.backups.last_good.as_ref();
        if let Some(version) = last.and_then(Backup::version_text) {
            line("pg_version", &version);
        }
        line("available_backups", &seen.backups.available.to_string());
        if let Some(ended) = last.and_then(Backup::time) {
            let since = age(ended, now);
            for (unit, seconds) in [
                ("seconds", 1.0),
                ("minutes", 60.0),
                ("hours", 3600.0),
                ("days", 86400.0),
            ] {
                let name = format!("time_since_last_backup_{unit}");
                line(&name, &format!("{:?}", since / seconds));
            }
        }
    }
    text
}

/// The text of CloudNativePG's plugin. Of what there is none it says 0. A server that could not
/// be read has `barman_cloud_up` 0 alone.
pub(crate) fn cnpg(overview: &Overview, several: bool) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Snapshot) -> Option<Timestamp>| {
        let name = format!("barman_cloud_cloudnative_pg_io_{name}");
        let seen = overview.servers.iter();
        let mut seen = seen
            .filter_map(|server| Some((&server.name, server.seen.as_ref().ok()?)))
            .peekable();
        if seen.peek().is_some() {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        }
        for (server, seen) in seen {
            let at = value(seen).map_or(0, Timestamp::as_second);
            let _ = writeln!(text, "{name}{} {at}", label(server, several));
        }
    };
    family(
        "first_recoverability_point",
        "The earliest point in time that can be recovered to.",
        &|seen| seen.recovery.first.as_ref()?.at,
    );
    family(
        "last_available_backup_timestamp",
        "When the last good base backup ended.",
        &|seen| seen.backups.last_good.as_ref()?.time(),
    );
    family(
        "last_failed_backup_timestamp",
        "When the last failed base backup ended or began.",
        &|seen| seen.backups.last_failed.as_ref()?.time(),
    );
    let _ = writeln!(
        text,
        "# HELP barman_cloud_up Whether the server could be read at the last look.\n\
         # TYPE barman_cloud_up gauge"
    );
    for server in &overview.servers {
        let up = u8::from(server.seen.is_ok());
        let _ = writeln!(text, "barman_cloud_up{} {up}", label(&server.name, several));
    }
    text
}

fn label(server: &str, several: bool) -> String {
    if several {
        format!("{{server=\"{}\"}}", escaped(server))
    } else {
        String::new()
    }
}

/// A label's value as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{good_and_gone, noon};

    #[test]
    fn montagus_text_is_that_of_its_exporter() {
        let mut overview = good_and_gone();
        overview.servers[0].name = "montagu".into();
        let text = montagu(&overview, Thresholds::default(), noon());
        assert_eq!(
            text,
            "barman_running{database=\"montagu\"} 1\n\
             barman_ok{database=\"montagu\"} 1\n\
             barman_pg_version{database=\"montagu\"} 15.4\n\
             barman_available_backups{database=\"montagu\"} 2\n\
             barman_time_since_last_backup_seconds{database=\"montagu\"} 5399.5\n\
             barman_time_since_last_backup_minutes{database=\"montagu\"} 89.99166666666666\n\
             barman_time_since_last_backup_hours{database=\"montagu\"} 1.499861111111111\n\
             barman_time_since_last_backup_days{database=\"montagu\"} 0.06249421296296296\n\
             barman_running{database=\"gone\"} 0\n"
        );
        let thresholds = Thresholds {
            max_backup_age: Some(std::time::Duration::from_hours(1)),
            ..Thresholds::default()
        };
        let text = montagu(&overview, thresholds, noon());
        assert!(
            text.contains("barman_ok{database=\"montagu\"} 0\n"),
            "{text}"
        );
    }

    #[test]
    fn the_plugins_series_have_a_label_only_where_there_are_several_servers() {
        let mut overview = good_and_gone();
        let both = cnpg(&overview, true);
        assert_eq!(
            both.lines()
                .filter(|line| !line.starts_with('#'))
                .collect::<Vec<_>>(),
            [
                "barman_cloud_cloudnative_pg_io_first_recoverability_point{server=\"a\\\"b\"} 1795257000",
                "barman_cloud_cloudnative_pg_io_last_available_backup_timestamp{server=\"a\\\"b\"} 1795257000",
                "barman_cloud_cloudnative_pg_io_last_failed_backup_timestamp{server=\"a\\\"b\"} 1795249800",
                "barman_cloud_up{server=\"a\\\"b\"} 1",
                "barman_cloud_up{server=\"gone\"} 0",
            ]
        );
        overview.servers.pop();
        let mut snapshot = crate::testing::snapshot();
        snapshot.backups.last_failed = None;
        overview.servers[0].seen = Ok(std::sync::Arc::new(snapshot));
        let one = cnpg(&overview, false);
        assert!(
            one.contains(
                "\nbarman_cloud_cloudnative_pg_io_first_recoverability_point 1795257000\n"
            ),
            "{one}"
        );
        assert!(
            one.contains("\nbarman_cloud_cloudnative_pg_io_last_failed_backup_timestamp 0\n"),
            "{one}"
        );
        overview.servers.remove(0);
        assert!(
            !cnpg(&overview, false).contains("cloudnative"),
            "nobody was read"
        );
    }
}
