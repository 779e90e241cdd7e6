//! An archive of many segments, to recover from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Recovery, ShutDown};
use crate::fault_proxy::FaultProxy;
use crate::pg_bin::PgBin;
use crate::place::Place;
use crate::s3::Bucket;
use crate::workspace::Workspace;

/// A base backup in a bucket, and the WAL of a server that went on writing and has
/// ended.
#[derive(Debug)]
pub struct LongArchive<'w> {
    bin: PgBin,
    workspace: &'w Workspace,
    bucket: &'w Bucket<'w>,
    place: Place<'w>,
    digest: String,
}

impl<'w> LongArchive<'w> {
    /// With segments of `mib` MiB, at least `segments` of them.
    pub fn new(
        bin: PgBin,
        workspace: &'w Workspace,
        bucket: &'w Bucket<'w>,
        mib: u32,
        segments: u32,
    ) -> Self {
        let place = Place::in_bucket(workspace, bucket, "p");
        let size = format!("--wal-segsize={mib}");
        let mut primary = Cluster::create(&bin, workspace, "primary", &[&size]);
        primary.configure("min_wal_size", &format!("{}MB", 4 * mib));
        primary.configure("max_wal_size", &format!("{}MB", 64.max(8 * mib)));
        primary.archive_into(workspace, place.url(), "main", "--zstd --parallel=8");
        primary.set_environment(place.environment());
        primary.start();
        let backup = place.backup(&primary, "postgres").run();
        assert_eq!(backup.code(), Some(0), "{backup}");
        Self::write(&primary, segments);
        let digest = primary.session().digest();
        primary.archive_everything();
        primary.stop(ShutDown::Fast);
        Self {
            bin,
            workspace,
            bucket,
            place,
            digest,
        }
    }

    /// Fills a table of a server, `t`, and as many segments. Rows with the text `last`
    /// are as many as segments.
    pub fn write(primary: &Cluster, segments: u32) {
        let session = primary.session();
        session.run("CREATE TABLE t (n int, text text)");
        for segment in 0..segments {
            session.run(&format!(
                "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 1000) n; \
                 INSERT INTO t VALUES ({segment}, 'last'); SELECT pg_switch_wal()"
            ));
        }
    }

    /// Where it lies.
    pub fn place(&self) -> &Place<'w> {
        &self.place
    }

    /// Says what is to come back from now on.
    pub fn set_digest(&mut self, digest: String) {
        self.digest = digest;
    }

    /// The backup, restored into folder `name` and made to recover with
    /// [`command`](Self::command), through `proxy` if there is one.
    pub fn restored(
        &self,
        name: &str,
        until: &Recovery<'_>,
        proxy: Option<&FaultProxy>,
    ) -> Cluster {
        let mut cluster = self.place.restored(&self.bin, name, until);
        cluster.recover_with(&self.command("spool"), until);
        if let Some(proxy) = proxy {
            cluster.set_environment(&self.bucket.environment_through(proxy));
        }
        cluster
    }

    /// A command that fetches ahead, into a spool in `folder`, of the workspace unless it
    /// is said where.
    pub fn command(&self, folder: impl AsRef<Path>) -> String {
        format!(
            "{} --parallel=8 --spool-dir={} {} main %f %p",
            self.workspace.bin("barman-cloud-wal-restore").display(),
            self.workspace.path(folder).display(),
            self.place.url()
        )
    }

    /// Makes a server that is restored and not started, with a spool in that folder, keep
    /// a list of what it asks for.
    pub fn list_what_is_asked(
        &self,
        cluster: &Cluster,
        folder: impl AsRef<Path>,
        until: &Recovery<'_>,
    ) -> Asked {
        let list = cluster.pgdata().with_extension("asked");
        let list = self.workspace.file(list, "");
        // On the list before the command can do anything.
        let (to, command) = (list.display(), self.command(folder));
        cluster.recover_with(&format!("echo %f >>{to} && exec {command}"), until);
        Asked(list)
    }

    /// Asserts that a server has the rows that this one had, on pages that are whole.
    pub fn assert_is_back(&self, cluster: &Cluster) {
        let session = cluster.session();
        assert_eq!(session.digest(), self.digest);
        session.read_every_table();
    }

    /// The names of the segments in the archive.
    pub fn segments(&self) -> BTreeSet<String> {
        let keys = self.bucket.keys("p/main/wals/").into_iter();
        keys.filter_map(|key| segment_in(&key)).collect()
    }
}

/// The names that a server asked for.
#[derive(Debug)]
pub struct Asked(PathBuf);

impl Asked {
    /// How often it asked for each until now.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let list = fs::read_to_string(&self.0).expect("the list is there");
        let mut counts = BTreeMap::new();
        for name in list.lines() {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }
}

/// The segment that a key or a part of a URL names, if it names one.
pub fn segment_in(text: &str) -> Option<String> {
    let base = text.rsplit('/').next()?.rsplit("%2F").next()?;
    let name = base.get(..24)?;
    let hex = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    let whole = !base[24..].starts_with('.') || base[24..].starts_with(".zst");
    (name.bytes().all(hex) && whole).then(|| name.to_owned())
}
