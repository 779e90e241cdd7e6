//! Being a hook script of a Barman server: what its environment says.
//!
//! A Barman server runs its hook scripts with variables that name the event and
//! what it is about. A retry hook is run again, for ever, unless it ends with 0,
//! 62 or 63; so what no repetition can change, and what the reference ends with 63
//! for, is `NoRetry`. Other refusals have the codes that the reference gives them.
//!
//! The reference's manual calls two variables by names that Barman has never used
//! (`BACKUP_DIR`, `BACKUP_ID`). They count where the real ones are not set: people
//! have written scripts by that manual.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::{Env, OpError, OpErrorKind};

/// What Barman calls a backup that can be relayed.
const DONE: &str = "DONE";

/// Whether the process was started as a hook script.
pub fn is_hook(env: &Env) -> bool {
    env.get_os("BARMAN_HOOK").is_some() && env.get_os("BARMAN_PHASE").is_some()
}

/// The WAL file to archive, as a hook script that is run before a Barman server
/// archives it; `None` if the environment names none.
///
/// # Errors
///
/// `Usage` if this is the hook of another event. `NoRetry` if the file reached the
/// server compressed: under the name of a WAL file the archive holds WAL, and a
/// restore would hand PostgreSQL something else.
pub fn wal_file(env: &Env) -> Result<Option<PathBuf>, OpError> {
    check_event(env, "pre", ["archive_script", "archive_retry_script"]).map_err(|event| {
        let text = format!("barman-cloud-wal-archive called as unsupported hook script: {event}");
        OpError::new(OpErrorKind::Usage, text)
            .with_hint("use it as pre_archive_retry_script or pre_archive_script")
    })?;
    let file = value(env, &["BARMAN_FILE"]).map(PathBuf::from);
    if let (Some(file), Some(how)) = (&file, value(env, &["BARMAN_COMPRESSION"])) {
        let text = format!(
            "the WAL file {} is compressed ({}) already: it cannot be archived as it is",
            file.display(),
            how.to_string_lossy()
        );
        return Err(OpError::new(OpErrorKind::NoRetry, text)
            .in_own_words()
            .with_hint(
                "send WAL to the Barman server as it is: its setting `compression` works \
                        behind this script, and so do the options of this tool",
            ));
    }
    Ok(file)
}

/// The backup that a hook script is to relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelayedBackup {
    /// Its directory on the Barman server.
    pub(super) dir: PathBuf,
    /// Its id, as told.
    pub(super) id: String,
    /// Where its `backup.info` may be: the first that is there counts.
    pub(super) records: Vec<PathBuf>,
}

impl RelayedBackup {
    /// Reads the environment of a hook script that is run after a backup. `named`
    /// tells whether the backup was to get a name, which would change its record.
    ///
    /// # Errors
    ///
    /// `NoRetry` if the backup is not one that Barman calls DONE. `General` if this
    /// is the hook of another event, or a variable is missing.
    pub(super) fn of(env: &Env, named: bool) -> Result<Self, OpError> {
        let general = |text: String| OpError::new(OpErrorKind::General, text);
        check_event(env, "post", ["backup_script", "backup_retry_script"]).map_err(|event| {
            general(format!(
                "barman-cloud-backup called as unsupported hook script: {event}"
            ))
            .with_hint("use it as post_backup_retry_script or post_backup_script")
        })?;
        if named {
            let text = "Cannot set backup name when running as a hook script";
            return Err(general(text.into()).with_hint("leave --name away"));
        }
        let missing = |name: &str| general(format!("{name} environment variable not set"));
        let dir = value(env, &["BARMAN_BACKUP_DIR", "BACKUP_DIR"]);
        let dir = PathBuf::from(dir.ok_or_else(|| missing("BARMAN_BACKUP_DIR"))?);
        let id = value(env, &["BARMAN_BACKUP_ID", "BACKUP_ID"]);
        let id = id.ok_or_else(|| missing("BARMAN_BACKUP_ID"))?;
        let id = id.to_string_lossy().into_owned();
        let status = env.get_os("BARMAN_STATUS").unwrap_or_default();
        if status != DONE {
            return Err(not_done(&dir, &status.to_string_lossy()));
        }
        let records = match value(env, &["BARMAN_BACKUP_INFO_PATH"]) {
            Some(path) => vec![PathBuf::from(path)],
            None => records_of(&dir, &id),
        };
        Ok(Self { dir, id, records })
    }
}

/// The refusal of a backup with another status than DONE.
pub(super) fn not_done(dir: &std::path::Path, status: &str) -> OpError {
    let text = format!(
        "backup in '{}' has status '{status}' (status should be: {DONE})",
        dir.display()
    );
    let error = OpError::new(OpErrorKind::NoRetry, text);
    if status == "WAITING_FOR_WALS" {
        return error.with_hint("take backups with `barman backup --wait`");
    }
    error
}

/// Where the record of a backup is if Barman does not say so: older servers keep it
/// with the backup, newer ones in the server's folder `meta`.
fn records_of(dir: &std::path::Path, id: &str) -> Vec<PathBuf> {
    let mut records = vec![dir.join("backup.info")];
    let server = dir.parent().and_then(std::path::Path::parent);
    records.extend(server.map(|server| server.join("meta").join(format!("{id}-backup.info"))));
    records
}

/// The event must be of this phase, and one of these scripts; the error is what the
/// event is called.
fn check_event(env: &Env, phase: &str, scripts: [&str; 2]) -> Result<(), String> {
    let told = |name| env.get_os(name).unwrap_or_default().to_string_lossy();
    let (found, script) = (told("BARMAN_PHASE"), told("BARMAN_HOOK"));
    if found == phase && scripts.contains(&&*script) {
        return Ok(());
    }
    Err(format!("{found}_{script}"))
}

/// The value of the first of these variables that has one.
fn value<'e>(env: &'e Env, names: &[&str]) -> Option<&'e OsStr> {
    let mut values = names.iter().filter_map(|name| env.get_os(name));
    values.find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: [(&str, &str); 2] = [
        ("BARMAN_HOOK", "backup_retry_script"),
        ("BARMAN_PHASE", "post"),
    ];

    fn env(more: &[(&str, &str)]) -> Env {
        EVENT.iter().chain(more).copied().collect()
    }

    fn event(hook: &str, phase: &str) -> Env {
        [("BARMAN_HOOK", hook), ("BARMAN_PHASE", phase)]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_hook_is_told_by_two_variables() {
        assert!(is_hook(&event("", "")));
        assert!(!is_hook(&Env::default()));
        assert!(!is_hook(&[("BARMAN_HOOK", "x")].into_iter().collect()));
        assert!(!is_hook(&[("BARMAN_PHASE", "post")].into_iter().collect()));
    }

    #[test]
    fn the_environment_names_backup_and_record() {
        let told = [
            ("BARMAN_BACKUP_DIR", "/b/main/base/1"),
            ("BARMAN_BACKUP_ID", "1"),
            ("BARMAN_STATUS", "DONE"),
        ];
        let mut env_told = told.to_vec();
        env_told.push(("BARMAN_BACKUP_INFO_PATH", "/b/main/meta/1-backup.info"));
        // The manual's names do not count beside the real ones.
        env_told.extend([("BACKUP_DIR", "/other"), ("BACKUP_ID", "2")]);
        let expected = RelayedBackup {
            dir: "/b/main/base/1".into(),
            id: "1".into(),
            records: vec!["/b/main/meta/1-backup.info".into()],
        };
        assert_eq!(RelayedBackup::of(&env(&env_told), false).unwrap(), expected);
        let by_manual = [
            ("BACKUP_DIR", "/b/main/base/1"),
            ("BACKUP_ID", "1"),
            ("BARMAN_STATUS", "DONE"),
            ("BARMAN_BACKUP_INFO_PATH", ""),
        ];
        for told in [&told[..], &by_manual[..]] {
            let found = RelayedBackup::of(&env(told), false).unwrap();
            assert_eq!((&found.dir, &found.id), (&expected.dir, &expected.id));
            let records: [PathBuf; 2] = [
                "/b/main/base/1/backup.info".into(),
                "/b/main/meta/1-backup.info".into(),
            ];
            assert_eq!(found.records, records);
        }
    }

    /// In the order in which they are looked at: each line has all that the lines
    /// before it lacked.
    #[test]
    fn each_refusal_has_its_kind_and_the_references_words() {
        let refusal = |env: &Env, named| {
            let error = RelayedBackup::of(env, named).unwrap_err();
            (error.kind, error.message)
        };
        for (hook, phase, shown) in [
            ("backup_script", "pre", "pre_backup_script"),
            ("archive_script", "post", "post_archive_script"),
            ("backup", "post", "post_backup"),
            ("", "", "_"),
        ] {
            let text = format!("barman-cloud-backup called as unsupported hook script: {shown}");
            let expected = (OpErrorKind::General, text);
            assert_eq!(refusal(&event(hook, phase), true), expected);
        }
        let mut told = Vec::new();
        let steps = [
            ("BARMAN_BACKUP_DIR", "/b/m/base/1"),
            ("BARMAN_BACKUP_ID", "1"),
        ];
        let text = "Cannot set backup name when running as a hook script";
        assert_eq!(
            refusal(&env(&told), true),
            (OpErrorKind::General, text.into())
        );
        for (name, value) in steps {
            let text = format!("{name} environment variable not set");
            assert_eq!(refusal(&env(&told), false), (OpErrorKind::General, text));
            told.push((name, value));
        }
        for status in ["", "FAILED", "WAITING_FOR_WALS", "done"] {
            let mut told = told.clone();
            told.push(("BARMAN_STATUS", status));
            let text =
                format!("backup in '/b/m/base/1' has status '{status}' (status should be: DONE)");
            assert_eq!(refusal(&env(&told), false), (OpErrorKind::NoRetry, text));
        }
        assert_eq!(refusal(&env(&told), false).0, OpErrorKind::NoRetry);
    }

    #[test]
    fn a_wal_hook_runs_before_the_archiver() {
        for hook in ["archive_script", "archive_retry_script"] {
            let mut told = vec![("BARMAN_HOOK", hook), ("BARMAN_PHASE", "pre")];
            let file = |told: &[(&str, &str)]| wal_file(&told.iter().copied().collect());
            assert_eq!(file(&told).unwrap(), None);
            told.push(("BARMAN_FILE", "/b/main/incoming/0"));
            assert_eq!(file(&told).unwrap(), Some("/b/main/incoming/0".into()));
            let mut packed = told.clone();
            packed.push(("BARMAN_COMPRESSION", "gzip"));
            assert_eq!(file(&packed).unwrap_err().kind, OpErrorKind::NoRetry);
            // Barman sets it in any case.
            told.push(("BARMAN_COMPRESSION", ""));
            assert!(file(&told).unwrap().is_some());
            told.push(("BARMAN_FILE", ""));
            assert_eq!(file(&told).unwrap(), None);
        }
        for (hook, phase) in [("archive_script", "post"), ("backup_script", "pre")] {
            let error = wal_file(&event(hook, phase)).unwrap_err();
            assert_eq!(error.kind, OpErrorKind::Usage);
            let text = format!(
                "barman-cloud-wal-archive called as unsupported hook script: {phase}_{hook}"
            );
            assert_eq!(error.message, text);
        }
    }
}
