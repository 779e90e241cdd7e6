//! Everything that can be found wrong before anything is written.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;

use super::ConnectionOptions;
use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::ops::archives::{ConfigurationFile, Sources, TablespaceSource, major};
use crate::ops::{Ctx, Env, OpError, OpErrorKind, chain, hints, owners};
use crate::pg::{ConnInfo, PgError, ServerFacts, Session, Var};
use crate::pgdata;
use crate::store::{Depth, ObjectStore, StoreErrorKind};

/// Oldest server whose backup functions do not lock each other out, as
/// `server_version_num`.
const OLDEST_SERVER: u32 = 90_600;

/// How many seconds a new id is looked for when backups begin in the same one.
const ID_TRIES: u32 = 5;

impl Var for Env {
    fn var(&self, name: &str) -> Option<OsString> {
        self.get_os(name).map(OsString::from)
    }
}

/// Connects to the server.
pub(super) async fn connect(ctx: &Ctx, options: &ConnectionOptions) -> Result<Session, OpError> {
    let failed = |error: &PgError| {
        let why = chain(error);
        let text = format!("Cannot connect to postgres: {why}");
        OpError::new(OpErrorKind::Failed, text).with_hint_if(hints::of_connection(&why))
    };
    // The reference asks for this database where no other is named.
    let mut options = options.clone();
    options.dbname.get_or_insert_with(|| "postgres".to_owned());
    let info = ConnInfo::collect(&options, &ctx.env).map_err(|error| failed(&error.into()))?;
    let connected = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        connected = Session::connect(&info) => connected,
    };
    connected.map_err(|error| failed(&error))
}

/// Asks the server about itself and refuses one that is too old.
pub(super) async fn facts(ctx: &Ctx, session: &Session) -> Result<ServerFacts, OpError> {
    let version = session.version();
    if version < OLDEST_SERVER {
        return Err(OpError::new(
            OpErrorKind::General,
            format!(
                "unsupported PostgresSQL version {}. Expecting 9.6.0 or above.",
                session.version_text()
            ),
        ));
    }
    let asked = async {
        session.check_privileges().await?;
        session.facts().await
    };
    let facts = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        facts = asked => facts,
    };
    facts.map_err(|error| {
        let hint = "the role needs pg_monitor, and EXECUTE on pg_backup_start and pg_backup_stop \
                    (pg_start_backup and pg_stop_backup before PostgreSQL 15), pg_switch_wal and \
                    pg_create_restore_point";
        let op = not_possible(&chain(&error));
        if matches!(error, PgError::Privileges(_)) {
            op.with_hint(hint)
        } else {
            op
        }
    })
}

fn not_possible(why: &str) -> OpError {
    OpError::new(
        OpErrorKind::Failed,
        format!("Backup is not possible: {why}"),
    )
}

/// Finds out what is to be copied, and whether it can be: on this host, by this
/// user, and of the server that was asked.
pub(super) async fn sources(facts: &ServerFacts) -> Result<Sources, OpError> {
    let Some(pgdata) = facts.data_directory.as_ref().map(PathBuf::from) else {
        return Err(not_possible(
            "the role may not see the setting data_directory",
        ));
    };
    warn(facts, &pgdata);
    let outside = facts
        .tablespaces
        .iter()
        .filter(|found| found.location.starts_with('/'));
    let tablespaces = outside
        .map(|found| TablespaceSource {
            oid: found.oid,
            location: found.location.clone().into(),
        })
        .collect();
    let configuration = [
        (&facts.config_file, true),
        (&facts.hba_file, true),
        (&facts.ident_file, false),
    ]
    .into_iter()
    .filter_map(|(path, required)| {
        let path = PathBuf::from(path.as_ref()?);
        (!path.starts_with(&pgdata)).then_some(ConfigurationFile { path, required })
    })
    .collect();
    let sources = Sources {
        pgdata,
        major: major(facts.version),
        tablespaces,
        configuration,
        rounds: NonZeroU32::MIN,
    };
    let identifier = facts.system_identifier.clone();
    let checked = tokio::task::spawn_blocking(move || {
        look_at(&sources, identifier.as_deref()).map(|()| sources)
    });
    let checked = checked
        .await
        .map_err(|_| not_possible("the worker ended early"))?;
    checked.map_err(|why| not_possible(&why))
}

/// Looks at every source, so that a directory that is missing, not mounted or
/// not readable is found before the server is told to begin.
fn look_at(sources: &Sources, identifier: Option<&str>) -> Result<(), String> {
    check_cluster(&sources.pgdata, identifier)?;
    let bases = sources
        .tablespaces
        .iter()
        .map(|found| ArchiveBase::Tablespace(found.oid));
    for base in bases.chain([ArchiveBase::Data]) {
        sources.walk(base).map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Compares the data directory on this host with the server that was asked.
pub(super) fn check_cluster(pgdata: &Path, identifier: Option<&str>) -> Result<(), String> {
    let control = pgdata::read_control(&pgdata.join("global/pg_control"));
    let control = control.map_err(|error| chain(&error))?.control;
    if let Some(identifier) = identifier
        && control.system_identifier.to_string() != identifier
    {
        return Err(format!(
            "{} is the data directory of another server (system identifier {}, the server that \
             was asked has {identifier}): run this tool on the host of the server",
            pgdata.display(),
            control.system_identifier
        ));
    }
    Ok(())
}

/// Warns of what does not stop a backup but makes it hard to use.
pub(super) fn warn(facts: &ServerFacts, pgdata: &Path) {
    if facts.archive_mode.as_deref() == Some("off") {
        tracing::warn!(
            hint = "set archive_mode = on, and an archive_command with barman-cloud-wal-archive",
            "WAL archiving is off on this server (archive_mode = off): the backup can be restored \
             only with the WAL written while it is taken, which must be kept by other means"
        );
    }
    if facts.archives_nowhere() {
        tracing::warn!(
            hint = "set an archive_command with barman-cloud-wal-archive, and reload the server",
            "archive_mode is on, but archive_command is empty: the end of the backup waits until \
             the server can archive its WAL"
        );
    }
    let outside: Vec<&String> = facts
        .included_files
        .iter()
        .filter(|file| !Path::new(file).starts_with(pgdata))
        .collect();
    if !outside.is_empty() {
        let list = outside
            .iter()
            .fold(String::new(), |list, file| list + "\n\t" + file);
        tracing::warn!(
            "The usage of include directives is not supported for files that reside outside \
             PGDATA. They are not part of the backup:{list}"
        );
    }
}

/// Waits until the second of the clock gives an id under whose prefix nothing
/// is. The listing is the only look at the store before the backup begins: it
/// shows that the store can be reached, the credentials are good and the
/// bucket is there (docs/decisions.md 19).
pub(super) async fn free_id(
    ctx: &Ctx,
    store: &dyn ObjectStore,
    layout: &Layout,
) -> Result<BackupId, OpError> {
    for _ in 0..ID_TRIES {
        let id = BackupId::from_local_time(&jiff::Zoned::now());
        let mut pages = store.list(&layout.backup_dir(&id), Depth::All);
        let page = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(interrupted()),
            page = pages.next() => page,
        };
        match page {
            None => return Ok(id),
            Some(Ok(page)) if page.objects.is_empty() && page.prefixes.is_empty() => return Ok(id),
            Some(Ok(_)) => {
                tracing::warn!(
                    "a backup with the id {id} is there already: waiting for another second"
                );
                tokio::select! {
                    biased;
                    () = ctx.cancel.cancelled() => return Err(interrupted()),
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
            Some(Err(error)) if error.kind == StoreErrorKind::BucketMissing => {
                return Err(OpError::new(OpErrorKind::Failed, chain(&error)).because(&error));
            }
            Some(Err(error)) => return Err(OpError::of_store(&error)),
        }
    }
    Err(OpError::new(
        OpErrorKind::Failed,
        format!(
            "no free backup id below `{}`: other backups began in the same seconds",
            layout.base()
        ),
    ))
}

/// Warns if the newest backup is of another cluster. It is one request more, and a
/// server that was upgraded is right to go on in its place.
pub(super) async fn compare_owner(
    ctx: &Ctx,
    store: &dyn ObjectStore,
    layout: &Layout,
    facts: &ServerFacts,
) -> Result<(), OpError> {
    let Some(system) = &facts.system_identifier else {
        return Ok(());
    };
    let newest = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        newest = owners::of_newest_backup(store, layout) => newest,
    };
    if let Some(newest) = newest.filter(|newest| newest.system != *system) {
        tracing::warn!(
            "the newest backup below `{}`, {}, is of another cluster (system identifier {}, this \
             server has {system}): after pg_upgrade that is right; otherwise give each server a \
             server name or URL of its own",
            layout.base(),
            newest.id,
            newest.system
        );
    }
    Ok(())
}

pub(super) fn interrupted() -> OpError {
    OpError::new(
        OpErrorKind::Interrupted,
        "Barman cloud backup was interrupted by the user",
    )
}
