//! What is restored where, decided before the first byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::choose::choose;
use super::journal::{self, Header};
use super::{Existing, RestoreRequest, delta};
use crate::catalogue::info::{BackupInfo, Tablespace};
use crate::catalogue::layout::{Archive, ArchiveBase, ArchiveError, BackupId, Layout};
use crate::key::Key;
use crate::ops::reading::Stored;
use crate::ops::{Ctx, OpError, OpErrorKind, chain, hints};
use crate::pgdata::{Contents, RestoreError, Target, check_destination};
use crate::store::{ObjectStore, ObjectVersion};

/// A base backup and where each of its sources goes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) id: BackupId,
    pub(super) info: BackupInfo,
    /// PGDATA first, then the tablespaces.
    pub(super) sources: Vec<Source>,
    /// The store, without secrets, and where in it the server is.
    pub(super) store: String,
    pub(super) path: String,
    pub(super) server: String,
    /// Versions of the archives, where the store tells them.
    pub(super) versions: BTreeMap<Key, ObjectVersion>,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) base: ArchiveBase,
    pub(super) target: PathBuf,
    pub(super) archives: Vec<Archive>,
}

impl Plan {
    /// The error for what was found in the backup once it was unpacked.
    pub(super) fn damaged(&self, why: &str) -> OpError {
        let text = format!("backup {} is damaged: {why}", self.id);
        OpError::new(OpErrorKind::General, text).with_hint(
            "restore another backup; of this one everything is at the destination but \
             `backup_label` and `global/pg_control`, without which PostgreSQL does not start",
        )
    }

    /// All archives in their order, each with its source and the source's target.
    pub(super) fn archives<'a>(
        &'a self,
        targets: &'a [Arc<Target>],
    ) -> impl Iterator<Item = (&'a Source, &'a Archive, &'a Arc<Target>)> {
        let sources = self.sources.iter().zip(targets);
        sources.flat_map(|(source, target)| {
            let archives = source.archives.iter();
            archives.map(move |archive| (source, archive, target))
        })
    }

    /// Bytes that will be read from the store.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.sources
            .iter()
            .flat_map(|source| &source.archives)
            .map(|archive| archive.size)
            .sum()
    }
}

/// What a restore has to do.
#[derive(Debug)]
pub(super) enum Planned {
    /// Unpack archives.
    Archives(Box<Plan>),
    /// Look at disks that were made of snapshots.
    Snapshots(Layout, Box<(BackupId, BackupInfo)>),
}

/// Makes the plan. Touches nothing.
pub(super) async fn make(
    ctx: &Ctx,
    store: &Arc<dyn ObjectStore>,
    request: &RestoreRequest,
) -> Result<Planned, OpError> {
    let layout = Layout::new(&request.path, &request.server)
        .map_err(|error| OpError::new(OpErrorKind::General, error.to_string()))?;
    let look = async {
        let (id, info) = choose(store, &layout, request).await?;
        let stored = Stored::find(store.as_ref(), &layout, &id, &info, &request.server).await;
        let stored = stored.map_err(|error| OpError::of_store(&error))?;
        Ok((id, info, stored))
    };
    let (id, info, stored) = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(interrupted()),
        found = look => found?,
    };
    if info.snapshots_info.is_some() {
        return Ok(Planned::Snapshots(layout, Box::new((id, info))));
    }
    let mut locations = locations(&info.tablespaces, &request.tablespaces)?;
    refuse_relative(&id, &info.tablespaces, &locations)?;
    if request.existing == Existing::Refused {
        check(&request.target)?;
    }
    if let Some(error) = stored.problems.first() {
        let kind = match error {
            ArchiveError::Missing { .. } | ArchiveError::Gap { .. } => OpErrorKind::Failed,
            ArchiveError::Twice { .. }
            | ArchiveError::Mixed { .. }
            | ArchiveError::UnknownExtension(_) => OpErrorKind::General,
        };
        return Err(OpError::new(kind, error.to_string()));
    }
    let mut sources = Vec::with_capacity(stored.set.archives.len());
    for (base, archives) in stored.set.archives {
        let target = match base {
            ArchiveBase::Data => request.target.clone(),
            ArchiveBase::Tablespace(_) => {
                let location = locations.remove(0);
                if request.existing == Existing::Refused {
                    check(&location)?;
                }
                location
            }
        };
        tracing::info!(
            "{} archive(s) of `{base}` go to {}",
            archives.len(),
            target.display()
        );
        sources.push(Source {
            base,
            target,
            archives,
        });
    }
    refuse_shared(&sources)?;
    let plan = Plan {
        id,
        info,
        sources,
        store: store.info().location.clone(),
        path: request.path.clone(),
        server: request.server.clone(),
        versions: stored.versions,
    };
    examine(&plan, request)?;
    Ok(Planned::Archives(Box::new(plan)))
}

/// What may be in each target, and its journal if this restore goes on with it. Touches nothing;
/// asked again when the targets are locked.
pub(super) fn examine(
    plan: &Plan,
    request: &RestoreRequest,
) -> Result<Vec<(Contents, Option<Header>)>, OpError> {
    match request.existing {
        Existing::Refused => Ok(vec![(Contents::Nothing, None); plan.sources.len()]),
        Existing::Delta => {
            delta::check(plan, request)?;
            Ok(vec![(Contents::Over, None); plan.sources.len()])
        }
        Existing::Resumed => {
            let first = plan.sources.first();
            let first = first.and_then(|source| journal::look(plan, source));
            let one = |source: &Source| {
                let found = journal::look(plan, source);
                match found.filter(|found| found.is_of(first.as_ref())) {
                    Some(found) => Ok((Contents::Resumed, Some(found))),
                    None => resumable(&source.target).map(|()| (Contents::Nothing, None)),
                }
            };
            plan.sources.iter().map(one).collect()
        }
    }
}

/// A target without a journal of this restore has to be empty.
fn resumable(path: &Path) -> Result<(), OpError> {
    check_destination(path).map_err(|error| {
        let not_empty = matches!(error, RestoreError::NotEmpty { .. });
        let error = not_usable(error, Existing::Resumed);
        if not_empty {
            return error.with_hint(
                "only what an interrupted restore of the same backup from the same store left \
                 there can be resumed",
            );
        }
        error
    })
}

/// Where each tablespace goes, in their order: the last rule that names it, or
/// where it was.
fn locations(tablespaces: &[Tablespace], rules: &[String]) -> Result<Vec<PathBuf>, OpError> {
    let mut targets: Vec<PathBuf> = tablespaces
        .iter()
        .map(|tablespace| PathBuf::from(&tablespace.location))
        .collect();
    for rule in rules {
        // Names may hold a colon, so the known ones are tried before the rule
        // is cut at its first one.
        let fits = |(_, tablespace): &(usize, &Tablespace)| {
            rule.strip_prefix(&tablespace.name)
                .is_some_and(|rest| rest.starts_with(':'))
        };
        // Of `a` and `a:b` a rule for `a:b` fits both.
        let named = tablespaces
            .iter()
            .enumerate()
            .filter(fits)
            .max_by_key(|(_, tablespace)| tablespace.name.len())
            .map(|(index, _)| index);
        match (named, rule.split_once(':')) {
            (Some(index), _) => {
                let location = &rule[tablespaces[index].name.len() + 1..];
                targets[index] = resolved(Path::new(location))?;
            }
            (None, Some((name, _))) => {
                tracing::warn!(
                    "there is no tablespace `{name}` in this backup: its rule is not used"
                );
            }
            (None, None) => return Err(invalid_rule(rule)),
        }
    }
    Ok(targets)
}

/// Looks at relocation rules before it is known which tablespaces there are.
///
/// # Errors
///
/// `Usage` for a rule that can fit none.
pub fn check_rules(rules: &[String]) -> Result<(), OpError> {
    match rules.iter().find(|rule| !rule.contains(':')) {
        Some(rule) => Err(invalid_rule(rule)),
        None => Ok(()),
    }
}

fn invalid_rule(rule: &str) -> OpError {
    let message = format!("Invalid tablespace relocation rule '{rule}'");
    OpError::new(OpErrorKind::Usage, message)
        .with_hint("The valid syntax for a relocation rule is NAME:LOCATION")
}

/// The absolute path, with links resolved as far as it exists.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, OpError> {
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    std::path::absolute(path).map_err(|error| {
        let message = format!("Invalid tablespace location '{}': {error}", path.display());
        OpError::new(OpErrorKind::Usage, message)
    })
}

fn check(path: &Path) -> Result<(), OpError> {
    check_destination(path).map_err(|error| {
        let interrupted = matches!(error, RestoreError::NotEmpty { .. }) && journal::is_there(path);
        let error = not_usable(error, Existing::Refused);
        if interrupted {
            return error.with_hint("a restore into it was interrupted: --resume goes on with it");
        }
        error
    })
}

pub(super) fn general(error: &RestoreError) -> OpError {
    OpError::new(OpErrorKind::General, chain(error))
}

/// A target that nothing can be restored to.
pub(super) fn not_usable(error: RestoreError, existing: Existing) -> OpError {
    match error {
        RestoreError::NotEmpty { path } => OpError::new(
            OpErrorKind::Failed,
            format!(
                "Destination {} already exists and it is not empty",
                path.display()
            ),
        )
        .with_hint(
            "give an empty directory, or one that is not there yet (for a tablespace by \
             --tablespace NAME:LOCATION); --delta restores over those of a stopped server",
        ),
        busy @ RestoreError::Busy { .. } => OpError::new(OpErrorKind::Failed, chain(&busy))
            .with_hint("wait for its end, or give this one a directory of its own"),
        other => {
            let hint = hints::of_disk(&other, existing != Existing::Delta);
            OpError::new(OpErrorKind::General, chain(&other)).with_hint_if(hint)
        }
    }
}

/// A tablespace that no rule moves goes where its record says. A server's are absolute; a relative
/// one would lie wherever this tool was started.
fn refuse_relative(
    id: &BackupId,
    tablespaces: &[Tablespace],
    locations: &[PathBuf],
) -> Result<(), OpError> {
    let has_nul = |path: &Path| path.as_os_str().as_encoded_bytes().contains(&0);
    for (tablespace, location) in tablespaces.iter().zip(locations) {
        if !location.is_absolute() || has_nul(location) {
            let text = format!(
                "the record of backup {id} says that tablespace `{}` lies in `{}`, which is no \
                 absolute path",
                tablespace.name.escape_debug(),
                tablespace.location.escape_debug()
            );
            return Err(OpError::new(OpErrorKind::General, text)
                .with_hint("say where it shall go with --tablespace NAME:LOCATION"));
        }
    }
    Ok(())
}

/// Two sources in one directory would overwrite each other.
fn refuse_shared(sources: &[Source]) -> Result<(), OpError> {
    let mut seen: Vec<PathBuf> = Vec::with_capacity(sources.len());
    for source in sources {
        let path = resolved(&source.target)?;
        if seen.contains(&path) {
            let message = format!(
                "two parts of the backup would be restored to {}",
                source.target.display()
            );
            return Err(OpError::new(OpErrorKind::Usage, message)
                .with_hint("give each tablespace a directory of its own with --tablespace"));
        }
        seen.push(path);
    }
    Ok(())
}

pub(super) fn interrupted() -> OpError {
    OpError::new(
        OpErrorKind::Interrupted,
        "Barman cloud restore was interrupted by the user",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespaces() -> Vec<Tablespace> {
        let tablespace = |name: &str, oid| Tablespace {
            name: name.into(),
            oid,
            location: format!("/old/{oid}"),
        };
        vec![
            tablespace("fast", 1),
            tablespace("a", 2),
            tablespace("a:b", 3),
        ]
    }

    fn moved(rules: &[&str]) -> Result<Vec<String>, OpError> {
        let rules: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
        let targets = locations(&tablespaces(), &rules)?;
        Ok(targets
            .iter()
            .map(|path| path.display().to_string())
            .collect())
    }

    #[test]
    fn the_last_rule_that_names_a_tablespace_decides() {
        assert_eq!(moved(&[]).unwrap(), ["/old/1", "/old/2", "/old/3"]);
        assert_eq!(
            moved(&["fast:/x", "fast:/y:z"]).unwrap(),
            ["/y:z", "/old/2", "/old/3"]
        );
        assert_eq!(
            moved(&["a:b:/x", "other:/y"]).unwrap(),
            ["/old/1", "/old/2", "/x"]
        );
        assert_eq!(moved(&["a:/x"]).unwrap(), ["/old/1", "/x", "/old/3"]);
    }

    #[test]
    fn a_tablespace_goes_nowhere_in_particular_only_if_a_rule_says_so() {
        let id = BackupId::new("20261122T100000").unwrap();
        for location in ["data", "./x", "../etc", "", "/a\0b"] {
            let mut tablespaces = tablespaces();
            tablespaces[1].location = location.to_owned();
            let of_record = locations(&tablespaces, &[]).unwrap();
            let error = refuse_relative(&id, &tablespaces, &of_record).unwrap_err();
            assert!(
                error.message.contains("tablespace `a` lies in"),
                "{error:?}"
            );
            let moved = locations(&tablespaces, &["a:x".to_owned()]).unwrap();
            assert!(refuse_relative(&id, &tablespaces, &moved).is_ok());
        }
    }

    #[test]
    fn a_rule_without_a_colon_is_wrong_usage() {
        let error = moved(&["fast"]).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::Usage);
        assert_eq!(error.message, "Invalid tablespace relocation rule 'fast'");
        let rules = ["a:/x".to_owned(), "fast".to_owned()];
        assert_eq!(check_rules(&rules).unwrap_err().message, error.message);
        assert!(check_rules(&rules[..1]).is_ok());
    }
}
