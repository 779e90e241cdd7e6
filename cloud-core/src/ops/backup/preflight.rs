//! Everything that can be found wrong before anything is written.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;

use super::ConnectionOptions;
use crate::catalogue::layout::{ArchiveBase, BackupId, Layout};
use crate::ops::archives::{ConfigurationFile, Sources, TablespaceSource, major};
use crate::ops::{Ctx, Env, OpError, OpErrorKind, chain, hints, owners};
use crate::pg::{ConnInfo, PgError, PgTablespace, ServerFacts, Session, Var};
use crate::pgdata::{self, ClusterState};
use crate::store::{Depth, ObjectStore, StoreErrorKind};
use crate::wal::Lsn;

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
    let mut facts = facts.map_err(|error| {
        let hint = "the role needs pg_monitor, and EXECUTE on pg_backup_start and pg_backup_stop \
                    (pg_start_backup and pg_stop_backup before PostgreSQL 15), pg_switch_wal and \
                    pg_create_restore_point";
        let op = not_possible(&chain(&error));
        if matches!(error, PgError::Privileges(_)) {
            op.with_hint(hint)
        } else {
            op
        }
    })?;
    facts.tablespaces = locate(facts.data_directory.as_deref(), facts.tablespaces)
        .await
        .map_err(|why| not_possible(&why))?;
    Ok(facts)
}

/// The tablespaces with what the links to them lead to. The server tells what they say, which is
/// relative to the directory of the links if somebody moved a tablespace so; without a link the
/// tablespace is a directory of PGDATA.
pub(super) async fn locate(
    pgdata: Option<&str>,
    mut tablespaces: Vec<PgTablespace>,
) -> Result<Vec<PgTablespace>, String> {
    let Some(links) = pgdata.map(|path| Path::new(path).join("pg_tblspc")) else {
        return Ok(tablespaces);
    };
    let located = tokio::task::spawn_blocking(move || {
        for found in &mut tablespaces {
            let link = links.join(found.oid.to_string());
            if found.location.starts_with('/') || link.read_link().is_err() {
                continue;
            }
            let real = link.canonicalize().map_err(|error| {
                let name = &found.name;
                format!(
                    "could not find the tablespace {name} at `{}`: {error}",
                    link.display()
                )
            })?;
            let real = real.into_os_string().into_string();
            found.location = real.map_err(|path| format!("{} is no text", path.display()))?;
        }
        Ok(tablespaces)
    });
    located.await.map_err(|_| "the worker ended early")?
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
    let sources = sources_of(facts, pgdata);
    let own = Own::of(facts);
    let looked = look(sources, move |sources| look_at(sources, &own)).await;
    looked.map_err(|why| not_possible(&why))
}

/// Runs `with` where files may be read.
async fn look(
    sources: Sources,
    with: impl FnOnce(&Sources) -> Result<(), String> + Send + 'static,
) -> Result<Sources, String> {
    let looked = tokio::task::spawn_blocking(move || with(&sources).map(|()| sources));
    looked.await.map_err(|_| "the worker ended early")?
}

fn sources_of(facts: &ServerFacts, pgdata: PathBuf) -> Sources {
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
    Sources {
        pgdata,
        major: major(facts.version),
        tablespaces,
        configuration,
        rounds: NonZeroU32::MIN,
    }
}

/// What is to be copied, now that the server has begun at `start`: it may have waited long for its
/// checkpoint, and replay, which begins there, does not make again what came into being before.
///
/// # Errors
///
/// Why the backup would be worth nothing.
pub(super) async fn sources_at(
    facts: &mut ServerFacts,
    tablespaces: Vec<PgTablespace>,
    start: Lsn,
    before: Sources,
) -> Result<Sources, String> {
    let has_changed = tablespaces != facts.tablespaces;
    facts.tablespaces = tablespaces;
    let sources = sources_of(facts, before.pgdata);
    let own = Own::of(facts);
    look(sources, move |sources| {
        check_start(&sources.pgdata, start)?;
        if has_changed {
            look_at(sources, &own)?;
        }
        Ok(())
    })
    .await
}

/// By what the data directory of a server is known.
#[derive(Debug, Clone)]
pub(super) struct Own {
    identifier: Option<String>,
    in_recovery: bool,
}

impl Own {
    pub(super) fn of(facts: &ServerFacts) -> Self {
        Self {
            identifier: facts.system_identifier.clone(),
            in_recovery: facts.in_recovery,
        }
    }
}

/// Looks at every source, so that a directory that is missing, not mounted or
/// not readable is found before the server is told to begin.
fn look_at(sources: &Sources, own: &Own) -> Result<(), String> {
    check_cluster(&sources.pgdata, own)?;
    let bases = sources
        .tablespaces
        .iter()
        .map(|found| ArchiveBase::Tablespace(found.oid));
    for base in bases.chain([ArchiveBase::Data]) {
        sources.walk(base).map_err(|error| chain(&error))?;
    }
    for file in &sources.configuration {
        match File::open(&file.path) {
            Err(error) if file.required || error.kind() != io::ErrorKind::NotFound => {
                let path = file.path.display();
                return Err(format!(
                    "could not read the configuration file `{path}`: {error}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Compares the data directory on this host with the server that was asked. A standby has the same
/// system identifier as its primary, so both must be at the same work too.
pub(super) fn check_cluster(pgdata: &Path, own: &Own) -> Result<(), String> {
    let control = pgdata::read_control(&pgdata.join("global/pg_control"));
    let control = control.map_err(|error| chain(&error))?.control;
    if let Some(identifier) = &own.identifier
        && control.system_identifier.to_string() != *identifier
    {
        return Err(format!(
            "{} is the data directory of another server (system identifier {}, the server that \
             was asked has {identifier}): run this tool on the host of the server",
            pgdata.display(),
            control.system_identifier
        ));
    }
    let state = control.progress.map(|progress| progress.state);
    let (here, there) = match (state, own.in_recovery) {
        (Some(ClusterState::InProduction), true) => ("a primary", "a standby"),
        (Some(ClusterState::InArchiveRecovery), false) => ("a standby", "a primary"),
        (Some(ClusterState::ShutDown | ClusterState::ShutDownInRecovery), _) => {
            ("a server that is shut down", "running")
        }
        _ => return Ok(()),
    };
    Err(format!(
        "{} is the data directory of {here}, and the server that was asked is {there}: run this tool \
         on the host of the server, or connect to the server of this host",
        pgdata.display()
    ))
}

/// Whether the data directory is of the server that began a backup at `start`: that one has
/// written it into its `pg_control` before it said so.
pub(super) fn check_start(pgdata: &Path, start: Lsn) -> Result<(), String> {
    let control = pgdata::read_control(&pgdata.join("global/pg_control"));
    let control = control.map_err(|error| chain(&error))?.control;
    match control.progress.map(|progress| Lsn(progress.redo_lsn)) {
        Some(redo) if redo < start => Err(format!(
            "{} is not the data directory of the server that was asked: that one began the backup at \
             {start}, and the last checkpoint here is of {redo}; run this tool on the host of the \
             server",
            pgdata.display()
        )),
        _ => Ok(()),
    }
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
