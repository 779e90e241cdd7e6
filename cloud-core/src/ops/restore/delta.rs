//! Restoring over a data directory that is there: `--delta`.
//!
//! The directory must be this cluster's, and no server may be at work in it. Its `pg_control` is
//! put aside before anything is changed, so that from then on to the end no server starts
//! there (R1); one that is found aside is of a delta that was killed, and that is done again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::plan::{Plan, general, resolved};
use super::{RestoreRequest, journal};
use crate::catalogue::info::Status;
use crate::catalogue::layout::ArchiveBase;
use crate::ops::{OpError, OpErrorKind};
use crate::pgdata::{ASIDE_NAME, ControlFile, Extent, Spared, Target, display_name};

/// Checks that the backup may be restored over what is there. Changes nothing.
pub(super) fn check(plan: &Plan, request: &RestoreRequest) -> Result<(), OpError> {
    let pgdata = &request.target;
    let refused = |why: String| {
        let text = format!("{} cannot be restored over: {why}", pgdata.display());
        OpError::new(OpErrorKind::Failed, text)
    };
    let aside = pgdata.join(display_name(ASIDE_NAME));
    let begun = aside.is_file();
    if !begun && !pgdata.join("PG_VERSION").is_file() {
        return Err(refused("it has no `PG_VERSION`".into())
            .with_hint("give a data directory, or an empty directory without --delta"));
    }
    let control = match pgdata.join("global/pg_control") {
        whole if whole.is_file() => whole,
        _ if begun => aside,
        _ if journal::is_there(pgdata) => {
            return Err(refused("a restore into it did not come to its end".into())
                .with_hint("give --resume instead of --delta"));
        }
        _ => return Err(refused("it has no `global/pg_control`".into())),
    };
    let parsed = fs::read(&control)
        .map_err(|error| error.to_string())
        .and_then(|bytes| ControlFile::parse(&bytes).map_err(|error| error.to_string()));
    let parsed = parsed.map_err(|why| refused(format!("`{}`: {why}", control.display())))?;
    let there = parsed.system_identifier.to_string();
    match plan.info.systemid.as_deref() {
        Some(recorded) if recorded == there => {}
        Some(recorded) => {
            return Err(refused(format!(
                "it is the cluster {there}, and backup {} is of {recorded}",
                plan.id
            )));
        }
        None => {
            return Err(refused(format!(
                "backup {} does not say of which cluster it is",
                plan.id
            ))
            .with_hint("restore it into an empty directory, without --delta"));
        }
    }
    if plan.info.status != Status::Done {
        return Err(refused(format!("backup {} is not complete", plan.id)));
    }
    refuse_live(pgdata)?;
    for source in &plan.sources {
        if let ArchiveBase::Tablespace(oid) = source.base {
            check_tablespace(pgdata, oid, &source.target)?;
        }
    }
    Ok(())
}

/// A tablespace goes into an empty directory, or over the one that is the cluster's: what
/// does not belong there is removed, so it must not be anybody else's.
fn check_tablespace(pgdata: &Path, oid: u32, target: &Path) -> Result<(), OpError> {
    let is_empty = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let link = pgdata.join(format!("pg_tblspc/{oid}"));
    let linked = fs::canonicalize(link).ok();
    if is_empty || linked.is_some_and(|linked| resolved(target).is_ok_and(|path| path == linked)) {
        return Ok(());
    }
    let text = format!(
        "{} cannot be restored over: it is not empty, and not the directory of tablespace {oid} of {}",
        target.display(),
        pgdata.display()
    );
    Err(OpError::new(OpErrorKind::Failed, text)
        .with_hint("give the tablespace another directory with --tablespace"))
}

/// A server that runs writes to these files.
fn refuse_live(pgdata: &Path) -> Result<(), OpError> {
    let file = pgdata.join("postmaster.pid");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let text = format!("could not read `{}`: {error}", file.display());
            return Err(OpError::new(OpErrorKind::General, text));
        }
    };
    // A server that is alone with its user (`postgres --single`) writes it as a negative number.
    let pid = text.lines().next();
    let pid = pid.and_then(|line| line.trim().parse::<i32>().ok()?.checked_abs());
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    let why = match pid {
        // Only that there is no such process says that the server is gone.
        Some(pid) if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) => {
            return Ok(());
        }
        Some(pid) => format!("says that process {} is a server's", pid.as_raw_nonzero()),
        None => "does not say which process is a server's".to_owned(),
    };
    let text = format!(
        "{} cannot be restored over: its `postmaster.pid` {why}",
        pgdata.display()
    );
    Err(OpError::new(OpErrorKind::Failed, text)
        .with_hint("stop the server; if there is none, remove `postmaster.pid`"))
}

/// The first change: no server starts here any more. The tablespaces are linked at once, so
/// that another run finds them to be the cluster's.
pub(super) fn begin(plan: &Plan, targets: &[Arc<Target>]) -> Result<(), OpError> {
    let Some(pgdata) = targets.first() else {
        return Ok(());
    };
    pgdata
        .put_control_aside()
        .map_err(|error| general(&error))?;
    // One that was started just before.
    if let Err(live) = refuse_live(pgdata.path()) {
        pgdata.put_control_back().map_err(|error| general(&error))?;
        return Err(live);
    }
    super::unpack::link_tablespaces(plan, targets)
}

/// Removes what is not in the backup.
pub(super) fn clean(plan: &Plan, targets: &[Arc<Target>]) -> Result<(), OpError> {
    // Backups have no logs of the server, and nobody needs them more than after a failure.
    let mut stays: Vec<Vec<u8>> = [ASIDE_NAME, b"log", b"pg_log"].map(<[u8]>::to_vec).into();
    for source in &plan.sources {
        if let ArchiveBase::Tablespace(oid) = source.base {
            stays.push(format!("pg_tblspc/{oid}").into_bytes());
        }
    }
    let spared = Spared::all(targets.iter().map(Arc::as_ref)).map_err(|error| general(&error))?;
    let mut names = 0;
    for (source, target) in plan.sources.iter().zip(targets) {
        let extent = match source.base {
            ArchiveBase::Data => Extent::Pgdata(&stays),
            ArchiveBase::Tablespace(_) => Extent::Tablespace,
        };
        let removed = target
            .remove_extra(extent, &spared)
            .map_err(|error| general(&error))?;
        names += removed.names;
        if removed.kept_wal > 0 {
            tracing::warn!(
                "{} WAL files that were perhaps never archived are now in {}",
                removed.kept_wal,
                removed.kept_in.display()
            );
        }
    }
    tracing::info!("{names} files and directories that are not in the backup were removed");
    Ok(())
}

/// The last change, when the backup's own `pg_control` is there.
pub(super) fn end(targets: &[Arc<Target>]) -> Result<(), OpError> {
    match targets.first() {
        Some(pgdata) => pgdata.drop_control_aside().map_err(|error| general(&error)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_server_that_is_alone_with_its_user_is_a_server() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("postmaster.pid");
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        for sign in ["", "-"] {
            fs::write(&path, format!("{sign}{}\n/data\n", child.id())).unwrap();
            let refused = refuse_live(place.path());
            let said = format!("says that process {} is a server's", child.id());
            let told = refused.is_err_and(|error| error.message.contains(&said));
            assert!(told, "`{sign}`");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refuse_live(place.path()).is_ok(), "it is gone");
        fs::write(&path, format!("{}\n", i32::MIN)).unwrap();
        assert!(refuse_live(place.path()).is_err());
    }
}
