//! Starting and stopping a base backup on the server.
//!
//! Always the non-exclusive form, on standbys too. It belongs to the session:
//! if that ends, the server forgets the backup.

use jiff::Timestamp;
use jiff::tz::Offset;

use super::facts::number;
use super::session::{PgError, Row, Session};
use crate::wal::{Lsn, TimelineId};

/// A moment on the server's clock, and the offset of the session's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    /// The moment.
    pub instant: Timestamp,
    /// The offset.
    pub offset: Offset,
}

/// What the start function said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// Where WAL replay will begin.
    pub lsn: Lsn,
    /// The timeline of the checkpoint.
    pub timeline: TimelineId,
    /// When the statement began: before the checkpoint it waited for.
    pub time: ServerTime,
}

/// What the stop function said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// Up to where WAL must be replayed.
    pub lsn: Lsn,
    /// The timeline at the end.
    pub timeline: TimelineId,
    /// When the statement began: before it waited for the archiver.
    pub time: ServerTime,
    /// Text of the backup label.
    pub label_file: String,
}

/// `now()` as two values that depend on no setting but the time zone.
const NOW: &str = "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                   extract(timezone FROM now())::int";

impl Session {
    /// Names of the backup functions of this version, and the arguments the
    /// stop function takes.
    fn functions(&self) -> (&'static str, &'static str, &'static str) {
        if self.version() >= 150_000 {
            ("pg_backup_start", "pg_backup_stop", "")
        } else {
            ("pg_start_backup", "pg_stop_backup", "false")
        }
    }

    /// Checks that the role may do everything a backup needs, and names what
    /// it may not.
    pub async fn check_privileges(&self) -> Result<(), PgError> {
        let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        if self.value("privileges", superuser).await? == "t" {
            return Ok(());
        }
        if self.version() < 100_000 {
            return Err(PgError::Privileges(vec!["superuser".into()]));
        }
        let (start, stop, _) = self.functions();
        // Those that will be called: the exclusive forms of old servers are no help.
        let (start, stop) = if self.version() >= 150_000 {
            (format!("{start}(text,bool)"), format!("{stop}(bool)"))
        } else {
            (
                format!("{start}(text,bool,bool)"),
                format!("{stop}(bool,bool)"),
            )
        };
        let may = |function: &str| {
            format!("has_function_privilege(current_user, '{function}', 'EXECUTE')")
        };
        let member = |role: &str| format!("pg_has_role(current_user, '{role}', 'MEMBER')");
        let mut wanted = vec![(
            "membership in pg_monitor".to_owned(),
            format!(
                "{} OR ({} AND {})",
                member("pg_monitor"),
                member("pg_read_all_settings"),
                member("pg_read_all_stats")
            ),
        )];
        for function in [
            start.as_str(),
            stop.as_str(),
            "pg_switch_wal()",
            "pg_create_restore_point(text)",
        ] {
            wanted.push((format!("EXECUTE on {function}"), may(function)));
        }
        let mut missing = Vec::new();
        for (name, condition) in wanted {
            if self
                .value("privileges", &format!("SELECT {condition}"))
                .await?
                != "t"
            {
                missing.push(name);
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(PgError::Privileges(missing))
        }
    }

    /// Begins backup mode. Waits for a checkpoint, which `fast` hurries.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<BackupStart, PgError> {
        let (start, _, _) = self.functions();
        let concurrent = if self.version() >= 150_000 {
            ""
        } else {
            ", false"
        };
        let label = literal(label);
        let query = format!(
            "SELECT b.lsn, (SELECT timeline_id FROM pg_control_checkpoint()), {NOW}, \
             pg_backend_pid() FROM {start}({label}, {fast}{concurrent}) AS b(lsn)"
        );
        let row = self.row(start, &query).await?;
        let [lsn, timeline, at, offset, backend] = columns(start, row)?;
        // Better known now than after the copy.
        self.check_backend(&backend)?;
        Ok(BackupStart {
            lsn: position(start, &lsn)?,
            timeline: TimelineId(number(start, &timeline)?),
            time: moment(start, &at, &offset)?,
        })
    }

    /// Ends backup mode. Waits until the WAL of the backup is archived, for
    /// ever if the archiver is stuck.
    pub async fn stop_backup(&self) -> Result<BackupStop, PgError> {
        self.same_backend().await?;
        let (_, stop, arguments) = self.functions();
        let query = format!(
            "SELECT b.lsn, b.labelfile, CASE WHEN pg_is_in_recovery() \
             THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery()) \
             ELSE (SELECT timeline_id FROM pg_control_checkpoint()) END, {NOW} \
             FROM {stop}({arguments}) AS b"
        );
        let row = self.row(stop, &query).await?;
        let [lsn, label_file, timeline, at, offset] = columns(stop, row)?;
        Ok(BackupStop {
            lsn: position(stop, &lsn)?,
            timeline: TimelineId(number(stop, &timeline)?),
            time: moment(stop, &at, &offset)?,
            label_file,
        })
    }

    /// What is done on a primary once the backup is stopped: a new segment, and
    /// a restore point of that name. Says whether the restore point was made.
    pub async fn finish_on_primary(&self, restore_point: &str) -> Result<bool, PgError> {
        if self.value("recovery", "SELECT pg_is_in_recovery()").await? == "t" {
            return Ok(false);
        }
        let point = "pg_create_restore_point";
        let switch = match self.version() {
            100_000.. => "pg_switch_wal",
            _ => "pg_switch_xlog",
        };
        self.run(switch, &format!("SELECT {switch}()")).await?;
        let name = literal(restore_point);
        match self.run(point, &format!("SELECT {point}({name})")).await {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::debug!("the restore point was not created: {error}");
                Ok(false)
            }
        }
    }
}

/// The text as a constant of SQL, however the server reads backslashes.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn columns<const N: usize>(what: &str, row: Row) -> Result<[String; N], PgError> {
    let values: Option<Vec<String>> = row.into_iter().collect();
    let unexpected = || PgError::Unexpected {
        what: what.to_owned(),
    };
    values
        .and_then(|values| values.try_into().ok())
        .ok_or_else(unexpected)
}

fn position(what: &str, text: &str) -> Result<Lsn, PgError> {
    text.parse().map_err(|_| PgError::Unexpected {
        what: what.to_owned(),
    })
}

fn moment(what: &str, at: &str, offset: &str) -> Result<ServerTime, PgError> {
    let unexpected = || PgError::Unexpected {
        what: what.to_owned(),
    };
    let instant = at.parse().map_err(|_| unexpected())?;
    let offset = Offset::from_seconds(number(what, offset)?).map_err(|_| unexpected())?;
    Ok(ServerTime { instant, offset })
}
