//! One page for people, or one object for programs: what is recoverable, since when, and what
//! is wrong.
//!
//! The first line alone says it all, in the form that Nagios and its relatives show.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::snapshot::{Backup, Recoverable, Snapshot};
use super::verdict::{Thresholds, Verdict, age};
use super::watch::{Overview, ServerView};
use crate::ops::{Answer, Format, OpError, OpErrorKind};
use crate::units::{pretty_duration, pretty_size};

/// What to print of an overview, and whether that is a failure: `Failed` if something is
/// wrong with a server, and what a look failed with if it did.
pub fn status(
    overview: &Overview,
    thresholds: Thresholds,
    format: Format,
    now: Timestamp,
) -> Answer {
    let judged: Vec<(&ServerView, Option<Verdict>)> = overview
        .servers
        .iter()
        .map(|server| {
            let seen = server.seen.as_ref().ok();
            let verdict = seen.map(|snapshot| Verdict::of(snapshot, thresholds, now));
            (server, verdict)
        })
        .collect();
    let wrong: Vec<&str> = judged
        .iter()
        .filter(|(_, verdict)| !verdict.as_ref().is_some_and(Verdict::is_healthy))
        .map(|(server, _)| server.name.as_str())
        .collect();
    let failure = overview.failure().or_else(|| {
        let why = if overview.servers.is_empty() {
            "there is no server in this place".to_owned()
        } else if wrong.is_empty() {
            return None;
        } else {
            format!("not well: {}", wrong.join(", "))
        };
        // The page says so already.
        Some(OpError::new(OpErrorKind::Failed, why).expected())
    });
    let text = match format {
        Format::Console => page(&judged, failure.as_ref(), now),
        Format::Json => {
            let object = object(&judged, failure.as_ref(), now);
            format!("{object:#}\n")
        }
    };
    Answer { text, failure }
}

fn page(
    judged: &[(&ServerView, Option<Verdict>)],
    failure: Option<&OpError>,
    now: Timestamp,
) -> String {
    let mut page = first_line(judged, failure, now);
    for (server, verdict) in judged {
        let _ = writeln!(page, "\nServer {}", visible(&server.name));
        match (&server.seen, verdict) {
            (Ok(seen), Some(verdict)) => body(&mut page, seen, verdict, now),
            (Err(error), _) => {
                line(&mut page, "could not be read", &error.message);
                let last = server.last_good.map(|at| when(at, now));
                line(&mut page, "last read", last.as_deref().unwrap_or("never"));
            }
            (Ok(_), None) => {}
        }
    }
    page
}

/// `BARMAN OK - …`: the words of Nagios for the exit codes 0, 1 and 2.
fn first_line(
    judged: &[(&ServerView, Option<Verdict>)],
    failure: Option<&OpError>,
    now: Timestamp,
) -> String {
    let word = match failure.map(|error| error.kind) {
        None => "OK",
        Some(OpErrorKind::Failed) => "WARNING",
        Some(OpErrorKind::Unreachable) => "CRITICAL",
        Some(_) => "UNKNOWN",
    };
    let servers = judged.iter().map(|(server, verdict)| {
        let told = match (&server.seen, verdict) {
            (Ok(seen), Some(verdict)) => match verdict.problems.as_slice() {
                [] => short(seen, now),
                [only] => only.clone(),
                [first, more @ ..] => format!("{first} (and {} more)", more.len()),
            },
            (Err(error), _) => error.message.clone(),
            (Ok(_), None) => String::new(),
        };
        format!("{}: {told}", server.name)
    });
    let mut told: Vec<String> = servers.collect();
    if let (true, Some(error)) = (told.is_empty(), failure) {
        told.push(error.message.clone());
    }
    // What follows a bar are Nagios' performance data.
    let told = told.join("; ").replace('|', "/");
    format!("BARMAN {word} - {}\n", visible(&told))
}

/// A healthy server in a few words.
fn short(seen: &Snapshot, now: Timestamp) -> String {
    let last = seen.recovery.last.as_ref().and_then(|last| last.at);
    let first = seen.recovery.first.as_ref().and_then(|first| first.at);
    let at = |at: Option<Timestamp>| at.map_or("an unknown time".to_owned(), |at| when(at, now));
    let backups = match seen.backups.restorable {
        1 => "1 base backup".to_owned(),
        count => format!("{count} base backups"),
    };
    format!("{backups}, recoverable from {} to {}", at(first), at(last))
}

fn body(page: &mut String, seen: &Snapshot, verdict: &Verdict, now: Timestamp) {
    let point = |point: &Option<Recoverable>| match point {
        None => "nothing".to_owned(),
        Some(point) => {
            let at = point
                .at
                .map_or("an unknown time".to_owned(), |at| when(at, now));
            let segment = point.segment.as_ref();
            let segment = segment.map_or(String::new(), |name| format!(", to segment {name}"));
            format!("{at} (backup {}{segment})", point.backup)
        }
    };
    line(page, "recoverable from", &point(&seen.recovery.first));
    line(page, "recoverable to", &point(&seen.recovery.last));
    let backups = &seen.backups;
    let counts = backups.by_status.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<String> = counts
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    let kept: u64 = backups.kept.values().sum();
    line(
        page,
        "base backups",
        &format!(
            "{} ({} can be restored, {kept} kept, {} in the store)",
            if counts.is_empty() {
                "none".to_owned()
            } else {
                counts.join(", ")
            },
            backups.restorable,
            pretty_size(backups.stored_bytes)
        ),
    );
    let last = |backup: &Option<Backup>| {
        backup
            .as_ref()
            .map_or("none".to_owned(), |one| of(one, now))
    };
    line(page, "last good backup", &last(&backups.last_good));
    line(page, "last failed backup", &last(&backups.last_failed));
    for (timeline, wal) in &seen.wal.timelines {
        let ends = match (&wal.oldest, &wal.newest) {
            (Some(oldest), Some(newest)) => format!("{} to {}, ", oldest.name, newest.name),
            _ => String::new(),
        };
        let gaps = match wal.gaps {
            0 => String::new(),
            gaps => format!(", {} segments missing in {gaps} gaps", wal.missing),
        };
        let text = format!(
            "{ends}{} files, {}{gaps}",
            wal.files,
            pretty_size(wal.bytes)
        );
        line(page, &format!("WAL of timeline {timeline}"), &text);
    }
    let archived = seen.wal.last_archived.map(|at| when(at, now));
    line(
        page,
        "WAL last archived",
        archived.as_deref().unwrap_or("never"),
    );
    for problem in &verdict.problems {
        line(page, "PROBLEM", problem);
    }
}

/// A backup in a line.
fn of(backup: &Backup, now: Timestamp) -> String {
    let mut text = backup.id.clone();
    if let Some(name) = &backup.name {
        let _ = write!(text, " ({name})");
    }
    if let Some(at) = backup.time() {
        let _ = write!(text, ", {}", when(at, now));
    }
    if let (Some(began), Some(ended)) = (backup.began, backup.ended) {
        let _ = write!(text, ", took {}", pretty_duration(age(began, ended)));
    }
    let _ = write!(
        text,
        ", {}, {} stored",
        backup.codec,
        pretty_size(backup.stored_bytes)
    );
    if let Some(bytes) = backup.original_bytes {
        let _ = write!(text, " of {}", pretty_size(bytes));
    }
    if let Some(error) = &backup.error {
        let _ = write!(text, ": {error}");
    }
    text
}

/// A time, and how long ago that was by its largest unit.
fn when(at: Timestamp, now: Timestamp) -> String {
    let ago = pretty_duration(age(at, now));
    let largest = ago.split(", ").next().unwrap_or_default();
    format!("{} ({largest} ago)", at.strftime("%Y-%m-%d %H:%M:%SZ"))
}

fn line(page: &mut String, name: &str, value: &str) {
    let _ = writeln!(page, "  {name:<20}: {}", visible(value));
}

/// A text from a bucket, which must not steer the terminal or break a line.
fn visible(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

fn object(
    judged: &[(&ServerView, Option<Verdict>)],
    failure: Option<&OpError>,
    now: Timestamp,
) -> Value {
    let servers = judged.iter().map(|(server, verdict)| {
        let problems = verdict.as_ref().map(|verdict| verdict.problems.as_slice());
        json!({
            "server": server.name,
            "healthy": problems.is_some_and(<[String]>::is_empty),
            "problems": problems.unwrap_or_default(),
            "error": server.seen.as_ref().err().map(|error| error.message.as_str()),
            "last_read": server.last_good.map(|at| at.to_string()),
            "seen": server.seen.as_ref().ok().map(|seen| seen_object(seen)),
        })
    });
    json!({
        "healthy": failure.is_none(),
        "reachable": failure.is_none_or(|error| error.kind != OpErrorKind::Unreachable),
        "error": failure.map(|error| error.message.as_str()),
        "time": now.to_string(),
        "servers": servers.collect::<Vec<_>>(),
    })
}

fn seen_object(seen: &Snapshot) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let backup = |backup: &Option<Backup>| {
        backup.as_ref().map(|one| {
            json!({
                "backup_id": one.id,
                "name": one.name,
                "status": one.status,
                "codec": one.codec,
                "began": time(one.began),
                "ended": time(one.ended),
                "stored_bytes": one.stored_bytes,
                "original_bytes": one.original_bytes,
                "server_version": one.version_text(),
                "error": one.error,
            })
        })
    };
    let point = |point: &Option<Recoverable>| {
        point.as_ref().map(|point| {
            json!({"time": time(point.at), "backup_id": point.backup, "segment": point.segment})
        })
    };
    let unreadable = seen.backups.unreadable.iter();
    let unreadable = unreadable.map(|one| json!({"backup_id": one.id, "error": one.why}));
    let timelines = seen.wal.timelines.iter().map(|(timeline, wal)| {
        let name =
            |segment: &Option<super::Segment>| segment.as_ref().map(|segment| segment.name.clone());
        json!({
            "timeline": timeline.0,
            "files": wal.files,
            "bytes": wal.bytes,
            "segments": wal.segments,
            "oldest": name(&wal.oldest),
            "newest": name(&wal.newest),
            "gaps": wal.gaps,
            "missing_segments": wal.missing,
        })
    });
    let holes = seen.recovery.holes.iter().map(|hole| {
        json!({
            "timeline": hole.timeline.0,
            "first": hole.first,
            "last": hole.last,
            "segments": hole.count,
        })
    });
    json!({
        "recoverable_from": point(&seen.recovery.first),
        "recoverable_to": point(&seen.recovery.last),
        "backups": {
            "by_status": seen.backups.by_status,
            "by_codec": seen.backups.by_codec,
            "kept": seen.backups.kept,
            "available": seen.backups.available,
            "restorable": seen.backups.restorable,
            "stored_bytes": seen.backups.stored_bytes,
            "unreadable": unreadable.collect::<Vec<_>>(),
            "last_good": backup(&seen.backups.last_good),
            "last_failed": backup(&seen.backups.last_failed),
        },
        "wal": {
            "last_archived": time(seen.wal.last_archived),
            "timelines": timelines.collect::<Vec<_>>(),
            "gaps": holes.collect::<Vec<_>>(),
            "let_go": seen.recovery.let_go,
        },
    })
}
