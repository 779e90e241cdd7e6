//! The tools that read and change the catalogue, on backups that are nothing but
//! their names and records.

use std::fs;

use e2e::{Bucket, Run, Tool, Workspace, golden};

use super::{Ground, segment_key};
use crate::store::Work;

const OLD: &str = "20261101T000000";
const NEW: &str = "20261102T000000";

/// Two backups of two archives each, and some WAL.
fn put_backups(ground: &Ground<'_>) {
    let info = golden().join("backup-info/done-gzip-tablespace-named.info");
    let info = fs::read_to_string(info).unwrap();
    let newer = info
        .replace("0000000004", "0000000009")
        .replace("0/4000", "0/9000");
    let server = ground.server;
    for (id, info) in [(OLD, info), (NEW, newer)] {
        for archive in ["16384.tar.gz", "data.tar.gz"] {
            ground
                .bucket
                .write(&format!("{server}/base/{id}/{archive}"), id);
        }
        let key = format!("{server}/base/{id}/backup.info");
        ground.bucket.write(&key, info);
    }
    for number in 1..12 {
        let name = format!("{:024X}", (1_u128 << 64) + number);
        let key = format!("{server}/wals/{}/{name}.gz", &name[..16]);
        ground.bucket.write(&key, "");
    }
}

/// A tool that prints what it finds about backups, and changes nothing.
struct Told<'s> {
    ground: Ground<'s>,
    /// The tool and what it asks for.
    words: &'static [&'static str],
    /// What it prints on a good day.
    printed: String,
}

impl<'s> Told<'s> {
    fn new(
        workspace: &'s Workspace,
        bucket: &'s Bucket<'s>,
        server: &'static str,
        words: &'static [&'static str],
    ) -> Self {
        let ground = Ground {
            workspace,
            bucket,
            server,
        };
        put_backups(&ground);
        let mut told = Self {
            ground,
            words,
            printed: String::new(),
        };
        let run = told.tool().envs(bucket.environment()).run();
        assert!(run.stdout.contains(NEW), "{run}");
        told.printed = run.stdout;
        told
    }

    fn tool(&self) -> Tool<'s> {
        self.ground.tool(self.words[0], &[]).args(&self.words[1..])
    }

    fn check(&self, run: &Run) {
        assert_eq!(self.printed, run.stdout);
    }
}

/// All backups are listed.
pub(in crate::store) struct List<'s>(Told<'s>);

impl<'s> List<'s> {
    pub(in crate::store) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Told::new(workspace, bucket, "list", &["backup-list"]))
    }
}

impl Work for List<'_> {
    fn name(&self) -> &'static str {
        "`list`"
    }

    fn found(&self) -> &'static str {
        "all backups are told, as on a good day"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool()
    }

    fn undo(&self) {}

    fn middle(&self) -> u32 {
        // The first two go side by side: a store that answered neither is one that
        // was never there.
        2
    }

    fn check(&self, run: &Run) {
        self.0.check(run);
    }
}

/// One backup is shown.
pub(in crate::store) struct Show<'s>(Told<'s>);

impl<'s> Show<'s> {
    pub(in crate::store) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        let words = &["backup-show", "latest"];
        Self(Told::new(workspace, bucket, "show", words))
    }
}

impl Work for Show<'_> {
    fn name(&self) -> &'static str {
        "`show`"
    }

    fn found(&self) -> &'static str {
        "the backup is told, as on a good day"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool()
    }

    fn undo(&self) {}

    fn check(&self, run: &Run) {
        self.0.check(run);
    }
}

/// A backup is kept, or released again.
pub(in crate::store) struct Keep<'s> {
    ground: Ground<'s>,
    release: bool,
}

impl<'s> Keep<'s> {
    pub(in crate::store) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self::of_server(workspace, bucket, "keep", false)
    }

    pub(in crate::store) fn release(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self::of_server(workspace, bucket, "release", true)
    }

    fn of_server(
        workspace: &'s Workspace,
        bucket: &'s Bucket<'s>,
        server: &'static str,
        release: bool,
    ) -> Self {
        let ground = Ground {
            workspace,
            bucket,
            server,
        };
        put_backups(&ground);
        Self { ground, release }
    }

    fn key(&self) -> String {
        format!("{}/base/{OLD}/annotations/keep", self.ground.server)
    }
}

impl Work for Keep<'_> {
    fn name(&self) -> &'static str {
        if self.release {
            "`keep --release`"
        } else {
            "`keep`"
        }
    }

    fn found(&self) -> &'static str {
        if self.release {
            "the backup is kept no more, and says so"
        } else {
            "the backup is kept, and says so"
        }
    }

    fn tool(&self) -> Tool<'_> {
        let option = if self.release {
            "--release"
        } else {
            "--target=full"
        };
        self.ground.tool("backup-keep", &[option]).arg(OLD)
    }

    fn undo(&self) {
        if self.release {
            self.ground.bucket.write(&self.key(), "full");
        } else {
            self.ground.bucket.remove(&self.key());
        }
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let kept = usize::from(!self.release);
        assert_eq!(self.ground.keys().len(), 6 + 11 + kept);
        let status = self.ground.tool("backup-keep", &["--status"]);
        let variables = self.ground.bucket.environment();
        let status = status.arg(OLD).envs(variables).run();
        let told = if self.release { "nokeep" } else { "full" };
        assert!(status.stdout.contains(told), "{status}");
    }
}

/// The older of two backups is deleted, with its WAL.
pub(in crate::store) struct Delete<'s>(Ground<'s>);

impl<'s> Delete<'s> {
    pub(in crate::store) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Ground {
            workspace,
            bucket,
            server: "delete",
        })
    }
}

impl Work for Delete<'_> {
    fn name(&self) -> &'static str {
        "`delete`"
    }

    fn found(&self) -> &'static str {
        "the backup that had to go is gone with its WAL, and nothing else"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool("backup-delete", &["-r", "REDUNDANCY 1"])
    }

    fn undo(&self) {
        put_backups(&self.0);
    }

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let keys = self.0.keys();
        assert_eq!(keys.len(), 3 + 3, "{keys:?}");
        assert!(keys.iter().all(|key| !key.contains(OLD)), "{keys:?}");
    }
}

/// An empty archive is found to be empty.
pub(in crate::store) struct Check<'s>(Ground<'s>);

impl<'s> Check<'s> {
    pub(in crate::store) fn new(workspace: &'s Workspace, bucket: &'s Bucket<'s>) -> Self {
        Self(Ground {
            workspace,
            bucket,
            server: "check",
        })
    }
}

impl Work for Check<'_> {
    fn name(&self) -> &'static str {
        "`check-wal-archive`"
    }

    fn found(&self) -> &'static str {
        "an archive that is empty passes, and one that is not does not"
    }

    fn tool(&self) -> Tool<'_> {
        self.0.tool("check-wal-archive", &[])
    }

    fn undo(&self) {}

    fn check(&self, run: &Run) {
        assert!(run.stdout.is_empty(), "{run}");
        let key = segment_key(self.0.server);
        self.0.bucket.write(&key, "");
        let used = self.tool().envs(self.0.bucket.environment()).run();
        assert_eq!(used.code(), Some(1), "{used}");
        self.0.bucket.remove(&key);
    }
}
