//! The chapter about Patroni, followed with a real one: its blocks are the nodes'
//! configuration, but for the places that they name.

use e2e::{Bucket, PatroniNode, PgBin, S3Server, Workspace, wait_until};

use crate::readme::Section;

/// The chapter, and what it is followed with.
struct Chapter<'w> {
    workspace: &'w Workspace,
    bin: PgBin,
    bucket: Bucket<'w>,
    cluster: String,
    replica: String,
    bootstrap: String,
    condition: String,
}

impl<'w> Chapter<'w> {
    fn open(workspace: &'w Workspace) -> Option<Self> {
        let page = Section::of_page("patroni.md");
        let blocks = page.whole_blocks("yaml").try_into();
        let [cluster, replica, bootstrap]: [String; 3] = blocks.expect("it has three blocks");
        let condition = page.whole_blocks("ini").concat();
        let condition = condition.trim().strip_prefix("ExecCondition=");
        Some(Self {
            workspace,
            bin: PgBin::find()?,
            bucket: S3Server::CephPlain.bucket(workspace)?,
            cluster,
            replica,
            bootstrap,
            condition: condition.expect("one line").to_owned(),
        })
    }

    fn placed(&self, text: &str, node: &PatroniNode<'_>) -> String {
        let data = node.data_dir().display().to_string();
        text.replace("s3://my-backups/pg", &format!("{}/pg", self.bucket.url()))
            .replace("/var/lib/postgresql/17/main", &data)
            .replace("127.0.0.1:8008", &node.rest_api())
    }

    /// A node that has the store's variables in its environment; not running.
    fn node(
        &self,
        scope: &str,
        name: &str,
        others: &[&PatroniNode<'_>],
    ) -> Option<PatroniNode<'w>> {
        let mut node = PatroniNode::new(&self.bin, self.workspace, scope, name, others)?;
        node.set_environment(&self.bucket.environment());
        Some(node)
    }

    /// The first node of a cluster, which archives, with 1000 rows.
    fn primary(&self) -> Option<PatroniNode<'w>> {
        let mut node = self.node("demo", "first", &[])?;
        node.start();
        node.wait_to_be("primary");
        let settings = self.placed(&self.cluster, &node);
        let settings = self.workspace.file("cluster.yml", settings);
        let settings = settings.display();
        node.control(&format!("edit-config --apply {settings} --force --quiet"));
        wait_until("the node to know that it has to be restarted", || {
            (node.status()["pending_restart"] == true).then_some(())
        });
        node.control("restart demo first --force");
        node.wait_to_be("primary");
        let session = node.session();
        assert_eq!(session.value("SHOW archive_mode"), "on");
        session.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
        Some(node)
    }

    /// One more node, which follows the primary; and what was logged while it was made.
    fn replica(
        &self,
        name: &str,
        others: &[&PatroniNode<'_>],
    ) -> Option<(PatroniNode<'w>, String)> {
        let mut node = self.node("demo", name, others)?;
        node.configure("page", &self.placed(&self.replica, &node));
        node.start();
        node.wait_to_be("replica");
        let log = node.log();
        Some((node, log))
    }

    /// Whether systemd would run a service here that is for nodes of this role.
    fn would_run(&self, node: &PatroniNode<'_>, role: &str) -> bool {
        let line = self.condition.replace("/primary", &format!("/{role}"));
        let code = node.condition(&self.placed(&line, node));
        // 255 and signals are failures of the service.
        assert!(code.is_some_and(|code| code < 255), "{line}: {code:?}");
        code == Some(0)
    }

    fn backup(&self, node: &PatroniNode<'_>) {
        let tool = node.tool("barman-cloud-backup");
        let place = format!("{}/pg", self.bucket.url());
        tool.args(["--immediate-checkpoint", "--zstd", &place, "main"])
            .succeed();
    }

    /// Returns when the store has all WAL up to now, with the last segment.
    fn archive(&self, primary: &PatroniNode<'_>, server: &str) -> String {
        let session = primary.session();
        let last = session.value("SELECT pg_walfile_name(pg_switch_wal())");
        let key = format!("pg/{server}/wals/{}/{last}.zst", &last[..16]);
        wait_until(&key, || (!self.bucket.keys(&key).is_empty()).then_some(()));
        last
    }

    /// Proves a base backup, and the WAL from there to the newest segment, which is `last`.
    fn verify(&self, node: &PatroniNode<'_>, backup: &str, last: &str) {
        let place = format!("{}/pg", self.bucket.url());
        let run = node
            .tool("barman-cloud-verify")
            .args(["--wal", &place, "main", backup])
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        assert!(run.stdout.contains(&format!(" to {last}\n")), "{run}");
    }
}

fn timeline(segment: &str) -> u32 {
    u32::from_str_radix(&segment[..8], 16).expect("eight digits")
}

const ROWS: &str = "SELECT count(*) FROM t";

fn wait_for_rows(node: &PatroniNode<'_>, count: &str) {
    wait_until("the rows to be there", || {
        let rows = node.session().try_rows(ROWS).ok()?;
        (rows[0][0] == count).then_some(())
    });
}

#[test]
fn nodes_are_made_from_the_store_and_archive_to_one_place() {
    let workspace = Workspace::new();
    let Some(chapter) = Chapter::open(&workspace) else {
        return;
    };
    let Some(first) = chapter.primary() else {
        return;
    };

    // There is no base backup yet.
    let (second, log) = chapter.replica("second", &[&first]).unwrap();
    for text in [
        "Error creating replica using method barman_cloud",
        "replica has been created using basebackup",
    ] {
        assert!(log.contains(text), "{log}");
    }

    let roles = [&first, &second].map(|node| chapter.would_run(node, "primary"));
    assert_eq!(roles, [true, false]);
    chapter.backup(&first);
    let (third, log) = chapter.replica("third", &[&first, &second]).unwrap();
    let made = "replica has been created using barman_cloud";
    assert!(log.contains(made) && !log.contains("basebackup"), "{log}");
    first.session().run("INSERT INTO t VALUES (1001)");
    wait_for_rows(&third, "1001");
    let before = chapter.archive(&first, "main");

    first.control("switchover demo --leader=first --candidate=third --force");
    third.wait_to_be("primary");
    first.wait_to_be("replica");
    let roles = [&first, &third].map(|node| chapter.would_run(node, "replica"));
    assert_eq!(roles, [true, false]);
    third.session().run("INSERT INTO t VALUES (1002)");
    let after = chapter.archive(&third, "main");
    assert_eq!(timeline(&after), timeline(&before) + 1, "{before}, {after}");
    let history = format!("pg/main/wals/{}.history", &after[..8]);
    let keys = chapter.bucket.keys(&history);
    assert_eq!(keys.len(), 1, "{keys:?}");
    wait_for_rows(&first, "1002");
    chapter.verify(&first, "first", &after);

    chapter.backup(&second);
    third.session().run("INSERT INTO t VALUES (1003)");
    let after = chapter.archive(&third, "main");
    chapter.verify(&second, "last", &after);
}

#[test]
fn a_new_cluster_is_made_from_the_store_as_of_a_moment() {
    let workspace = Workspace::new();
    let Some(chapter) = Chapter::open(&workspace) else {
        return;
    };
    let Some(first) = chapter.primary() else {
        return;
    };
    chapter.backup(&first);
    let session = first.session();
    session.run("INSERT INTO t SELECT generate_series(1001, 1500)");
    let (rows, moment) = (session.digest(), session.value("SELECT clock_timestamp()"));
    session.run("DELETE FROM t WHERE i % 2 = 0");
    let before = chapter.archive(&first, "main");
    let stored = chapter.bucket.etags("pg/main/");

    let mut new = chapter.node("new", "fourth", &[]).unwrap();
    let bootstrap = chapter.bootstrap.replace("2026-11-21 12:00:00+00", &moment);
    new.configure("page", &chapter.placed(&bootstrap, &new));
    new.start();
    new.wait_to_be("primary");
    assert_eq!(new.session().digest(), rows);

    // It has a place of its own, and leaves the other as it was.
    let last = chapter.archive(&new, "main-2");
    assert!(timeline(&last) > timeline(&before), "{before}, {last}");
    assert_eq!(chapter.bucket.etags("pg/main/"), stored);
    assert_eq!(session.value(ROWS), "750");
}
