//! A server under load, and a witness of what it was told to be archived.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use e2e::{
    Bucket, Cluster, PgBin, Place, Process, Recovery, Session, ShutDown, Workspace, sha256_of_bytes,
};

use crate::wal_again::key;

/// Segments that wait to be archived while the load holds back: there is always more than
/// one call can take with it.
const BACKLOG: usize = 16;

/// A primary whose `archive_command` leaves on record what a file was before it was
/// archived, and which files were.
pub(super) struct Scene<'w> {
    bin: &'w PgBin,
    workspace: &'w Workspace,
    bucket: &'w Bucket<'w>,
    place: Place<'w>,
    pub(super) cluster: Cluster,
}

impl<'w> Scene<'w> {
    /// With a base backup in the archive, and `options` for what archives.
    pub(super) fn new(
        bin: &'w PgBin,
        workspace: &'w Workspace,
        bucket: &'w Bucket<'w>,
        options: &str,
    ) -> Self {
        let place = Place::in_bucket(workspace, bucket, "p");
        let mut cluster = place.primary(bin, "");
        workspace.dir("kept");
        for list in ["acknowledged", "failed"] {
            workspace.file(list, "");
        }
        let tool = format!(
            "{} --zstd {options} --spool-dir={} {}",
            workspace.bin("barman-cloud-wal-archive").display(),
            workspace.path("spool").display(),
            place.url()
        );
        let script = workspace.file("bin/archive.sh", script(workspace.root(), &tool));
        cluster.archive_with(&format!("exec sh {} %p %f", script.display()));
        cluster.start();
        let session = cluster.session();
        session.run("CREATE TABLE t (n int, text text)");
        drop(session);
        let backup = place.backup(&cluster, "postgres").run();
        assert_eq!(backup.code(), Some(0), "{backup}");
        Self {
            bin,
            workspace,
            bucket,
            place,
            cluster,
        }
    }

    /// Writes until `over`, as much as is archived, and through crashes of the server.
    pub(super) fn write_until(&self, over: &AtomicBool) {
        let status = self.cluster.pgdata().join("pg_wal/archive_status");
        let mut session = None;
        while !over.load(Ordering::Relaxed) {
            if session.is_none() {
                let socket = self.cluster.socket_dir();
                session = Session::open(socket, "postgres", "postgres").ok();
            }
            if ready(&status) >= BACKLOG {
                // A postmaster whose archiver has ended starts another one when somebody
                // connects, or after a minute.
                session = None;
                std::thread::park_timeout(Duration::from_millis(20));
            } else if session
                .as_ref()
                .is_none_or(|open| open.try_rows(WORK).is_err())
            {
                // It has crashed, and comes back.
                session = None;
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }

    /// The names of the files that were said to be archived, by the tool, with 0.
    pub(super) fn acknowledged(&self) -> BTreeSet<String> {
        let list = fs::read_to_string(self.workspace.path("acknowledged")).unwrap();
        list.lines().map(str::to_owned).collect()
    }

    /// Whether the archive has this file.
    pub(super) fn is_stored(&self, name: &str) -> bool {
        !self.bucket.keys(&object(name)).is_empty()
    }

    /// Whether there is a note that the archive has this file.
    pub(super) fn is_noted(&self, name: &str) -> bool {
        let note = format!("{name}.note");
        let files = spooled(&self.workspace.path("spool"));
        files.iter().any(|file| name_of(file) == note)
    }

    /// Asserts that nothing that was said to be archived is missing or different, and
    /// that the backup comes back with all that was committed since. Gives the number of
    /// files that were said to be archived, and their bytes.
    pub(super) fn assert_whole(mut self) -> (usize, usize) {
        let digest = self.cluster.session().digest();
        self.cluster.archive_everything();
        let failed = fs::read_to_string(self.workspace.path("failed")).unwrap();
        assert_eq!(failed, "", "the tool failed though nobody killed it");
        let acknowledged = self.acknowledged();
        self.assert_believed(&acknowledged);
        assert_unbroken(&acknowledged);
        let mut objects: BTreeMap<String, &String> = acknowledged
            .iter()
            .map(|name| (object(name), name))
            .collect();
        let mut bytes = 0;
        for key in self.bucket.keys("p/main/") {
            let name = objects.remove(&key);
            assert!(name.is_some() || key.contains("/base/"), "{key} is odd");
            let Some(name) = name else { continue };
            let stored = zstd::decode_all(&self.bucket.read(&key)[..]);
            let stored = stored.unwrap_or_else(|error| panic!("{key} is damaged: {error}"));
            let kept = fs::read_to_string(self.workspace.path("kept").join(name)).unwrap();
            assert_eq!(sha256_of_bytes(&stored), kept[..64], "{key}");
            bytes += stored.len();
        }
        assert_eq!(objects, BTreeMap::new(), "said to be archived, and missing");
        assert_eq!(self.bucket.uploads(), [""; 0]);
        self.assert_cleans_up();

        self.cluster.stop(ShutDown::Immediate);
        let mut back = self.place.restored(self.bin, "back", &Recovery::Latest);
        let command = format!(
            "{} --parallel=8 --spool-dir={} {} main %f %p",
            self.workspace.bin("barman-cloud-wal-restore").display(),
            self.workspace.path("spool-of-back").display(),
            self.place.url()
        );
        back.recover_with(&command, &Recovery::Latest);
        back.start_and_recover();
        assert_eq!(back.session().digest(), digest);
        back.session().read_every_table();
        back.stop(ShutDown::Fast);
        Process::wait_for_helpers(self.workspace);
        (acknowledged.len(), bytes)
    }

    /// A note that a killed call was writing goes with the first call after an hour;
    /// nothing else is left but notes.
    fn assert_cleans_up(&self) {
        let left = || -> Vec<PathBuf> {
            let files = spooled(&self.workspace.path("spool")).into_iter();
            files
                .filter(|file| !name_of(file).contains(".note"))
                .collect()
        };
        let then = SystemTime::now() - Duration::from_hours(1);
        for file in left() {
            assert!(name_of(&file).starts_with(UNFINISHED), "{file:?} is left");
            File::open(&file).unwrap().set_modified(then).unwrap();
        }
        // Or there may be nothing to archive, and no call.
        let message = "SELECT pg_logical_emit_message(false, 'test', 'one more segment')";
        self.cluster.session().value(message);
        self.cluster.archive_everything();
        assert_eq!(left(), [""; 0].map(PathBuf::from));
    }

    /// What PostgreSQL believes is no more than what the tool said.
    fn assert_believed(&self, acknowledged: &BTreeSet<String>) {
        let last = "SELECT last_archived_wal FROM pg_stat_archiver";
        let mut believed = vec![self.cluster.session().value(last)];
        let status = self.cluster.pgdata().join("pg_wal/archive_status");
        for entry in fs::read_dir(status).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            believed.extend(name.strip_suffix(".done").map(str::to_owned));
        }
        assert!(believed.len() > 1, "nothing is done");
        for name in believed {
            assert!(acknowledged.contains(&name), "{name} is believed archived");
        }
    }
}

/// Ends what goes on in other threads, also when a test fails.
pub(super) struct Over<'a>(pub(super) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How the names of files begin that are not whole yet.
pub(super) const UNFINISHED: &str = ".barman-cloud-";

/// The files in all folders of a spool.
pub(super) fn spooled(spool: &Path) -> Vec<PathBuf> {
    let in_dir = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    in_dir(spool.to_path_buf())
        .flat_map(|folder| in_dir(folder.path()))
        .map(|file| file.path())
        .collect()
}

/// The last part of a path.
pub(super) fn name_of(file: &Path) -> &str {
    file.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// One transaction of several kinds of change, some WAL that cannot be made smaller, and
/// the end of a segment.
const WORK: &str = "\
    BEGIN; \
    INSERT INTO t SELECT n, md5(random()::text) FROM generate_series(1, 50) AS n; \
    UPDATE t SET text = md5(text) WHERE n = 1 + floor(random() * 50); \
    DELETE FROM t WHERE n = 1 + floor(random() * 50); \
    SELECT length(pg_logical_emit_message(true, 'load', string_agg(md5(random()::text), ''))::text) \
    FROM generate_series(1, 6000); \
    COMMIT; \
    SELECT pg_switch_wal()";

/// The `archive_command`. A file is on record before the tool may say that it is
/// archived, and that it said so is on record before the server is told.
fn script(root: &Path, tool: &str) -> String {
    let root = root.display();
    format!(
        "\
kept={root}/kept
if ! [ -e $kept/$2 ]; then
  sha256sum <\"$1\" >$kept/.$2.$$ && mv $kept/.$2.$$ $kept/$2 || exit 1
fi
for call in 1 2 3 4; do
  {tool} main \"$1\"
  code=$?
  if [ $code = 0 ]; then
    echo $2 >>{root}/acknowledged
    exit 0
  fi
  # PostgreSQL would wait for a second before it tries again.
  if [ $code != 137 ]; then
    echo $2 $code >>{root}/failed
    exit 1
  fi
done
exit 1
"
    )
}

/// The key of a file's object.
fn object(name: &str) -> String {
    format!("p/{}", key(name, ".zst"))
}

/// How many files wait to be archived.
fn ready(status: &Path) -> usize {
    let marks = fs::read_dir(status).into_iter().flatten().flatten();
    marks
        .filter(|mark| mark.path().extension().is_some_and(|end| end == "ready"))
        .count()
}

/// PostgreSQL archives in order, so that from the first segment to the last there is each
/// of them.
fn assert_unbroken(names: &BTreeSet<String>) {
    let segments = names.iter().filter(|name| name.len() == 24);
    let numbers: Vec<u64> = segments
        .map(|name| {
            let part = |at| u64::from_str_radix(&name[at..at + 8], 16).unwrap();
            // Of 1 MiB each, there are 4096 of them to a name's middle part.
            part(8) * 4096 + part(16)
        })
        .collect();
    let broken: Vec<_> = numbers.windows(2).filter(|w| w[0] + 1 != w[1]).collect();
    assert!(broken.is_empty() && !numbers.is_empty(), "{broken:?}");
}
