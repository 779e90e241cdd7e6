//! The tools that ours are compatible with, and ours, on one store that stands in
//! for Google Cloud Storage: what either side makes the other reads, keeps and
//! deletes.

use std::fs;

use e2e::{
    Barman, Cluster, GcsBucket, GcsServer, PgBin, Place, Recovery, ShutDown, Tool, Workspace,
    WriteLoad,
};

/// Whose tools do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

use Side::{Ours, Theirs};

/// Everything that an exchange needs.
struct Exchange<'w> {
    bin: PgBin,
    barman: Barman,
    workspace: &'w Workspace,
    bucket: GcsBucket,
    place: Place<'w>,
}

impl<'w> Exchange<'w> {
    fn on(server: GcsServer, workspace: &'w Workspace) -> Option<Self> {
        let bucket = server.bucket()?;
        Some(Self {
            bin: PgBin::find()?,
            barman: Barman::find()?,
            workspace,
            place: Place::in_gcs(workspace, &bucket, "a-path/backups"),
            bucket,
        })
    }

    /// A tool before its URL.
    fn bare(&self, side: Side, name: &str) -> Tool<'w> {
        let name = format!("barman-cloud-{name}");
        match side {
            Ours => self.place.tool(&name),
            Theirs => {
                let tool = self.barman.tool(self.workspace, &name);
                tool.envs(self.place.environment().to_vec())
                    .args(self.place.options())
            }
        }
    }

    fn tool(&self, side: Side, name: &str, words: &[&str]) -> Tool<'w> {
        let tool = self.bare(side, name).args([self.place.url(), "main"]);
        tool.args(words)
    }

    /// What a tool prints.
    fn said(&self, side: Side, name: &str, words: &[&str]) -> String {
        let run = self.tool(side, name, words).run();
        assert_eq!(run.code(), Some(0), "{side:?}: {run}");
        run.stdout
    }

    /// The command in a server's settings: `%f %p` or `%p` at its end.
    fn command(&self, side: Side, name: &str, end: &str) -> String {
        let program = match side {
            Ours => self.workspace.bin(name),
            Theirs => self.barman.program(name),
        };
        let (options, url) = (self.place.options().join(" "), self.place.url());
        format!("{} {options} {url} main {end}", program.display())
    }

    /// A running primary that archives by the tool of `side`.
    fn primary(&self, side: Side) -> Cluster {
        let large = ["--wal-segsize=16"];
        let mut primary = Cluster::create(&self.bin, self.workspace, "primary", &large);
        primary.configure("min_wal_size", "32MB");
        primary.archive_with(&self.command(side, "barman-cloud-wal-archive", "%p"));
        primary.set_environment(self.place.environment());
        primary.start();
        primary
    }

    fn backup(&self, side: Side, primary: &Cluster, name: &str) {
        let run = self
            .bare(side, "backup")
            .args(primary.connection())
            .args(["--immediate-checkpoint", "--gzip", "-n", name])
            .args([self.place.url(), "main"])
            .run();
        assert_eq!(run.code(), Some(0), "{side:?}: {run}");
    }
}

/// What `writer` made of a primary under load leads `reader` to exactly the rows
/// of a named point.
fn comes_back(server: GcsServer, writer: Side, reader: Side) {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(server, &workspace) else {
        return;
    };
    let mut primary = exchange.primary(writer);
    let load = WriteLoad::start(&primary, &[("t", None)]);
    exchange.backup(writer, &primary, "exchanged");
    let session = primary.session();
    let digest = load.stop_behind_point(&session, "here");
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);
    let target = workspace.path("restored");
    let restore = exchange.tool(reader, "restore", &["latest"]);
    restore.arg(&target).succeed();
    let mut restored = Cluster::existing(&exchange.bin, &workspace, "restored");
    let fetch = exchange.command(reader, "barman-cloud-wal-restore", "%f %p");
    restored.recover_with(&fetch, &Recovery::Name("here"));
    restored.set_environment(exchange.place.environment());
    restored.start_and_recover();
    let session = restored.session();
    assert_eq!(session.digest(), digest);
    session.read_every_table();
}

#[test]
fn they_restore_what_we_wrote() {
    comes_back(GcsServer::StandIn, Ours, Theirs);
}

#[test]
fn we_restore_what_they_wrote() {
    comes_back(GcsServer::StandIn, Theirs, Ours);
}

#[test]
fn they_restore_what_we_wrote_on_a_server_by_others() {
    comes_back(GcsServer::Fake, Ours, Theirs);
}

#[test]
fn we_restore_what_they_wrote_on_a_server_by_others() {
    comes_back(GcsServer::Fake, Theirs, Ours);
}

/// Listing, keeping and deleting of what the other side made. A JSON list says the
/// same of a backup whoever prints it.
#[test]
fn a_catalogue_is_shared() {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(GcsServer::StandIn, &workspace) else {
        return;
    };
    let mut primary = exchange.primary(Ours);
    for (side, name) in [(Ours, "a"), (Theirs, "b"), (Ours, "c"), (Theirs, "d")] {
        exchange.backup(side, &primary, name);
    }
    primary.archive_everything();
    primary.stop(ShutDown::Immediate);
    let list = |side| exchange.said(side, "backup-list", &["--format=json"]);
    let parsed = |side| serde_json::from_str::<serde_json::Value>(&list(side)).unwrap();
    assert_eq!(parsed(Ours), parsed(Theirs));
    assert_eq!(parsed(Ours)["backups_list"].as_array().unwrap().len(), 4);
    for name in ["a", "b"] {
        let show = ["--format=json"];
        let shown = |side| exchange.said(side, "backup-show", &[&[name][..], &show].concat());
        let read = |side| serde_json::from_str::<serde_json::Value>(&shown(side)).unwrap();
        assert_eq!(read(Ours), read(Theirs), "{name}");
    }
    let status = |side, name: &str| exchange.said(side, "backup-keep", &[name, "--status"]);
    exchange.said(Ours, "backup-keep", &["a", "--target=full"]);
    exchange.said(Theirs, "backup-keep", &["b", "--target=standalone"]);
    assert_eq!(status(Theirs, "a"), "Keep: full\n");
    assert_eq!(status(Ours, "b"), "Keep: standalone\n");
    for side in [Ours, Theirs] {
        let refused = exchange.tool(side, "backup-delete", &["-b", "a"]).run();
        assert_eq!(refused.code(), Some(1), "{side:?}: {refused}");
    }
    exchange.said(Theirs, "backup-keep", &["a", "--release"]);
    exchange.said(Ours, "backup-keep", &["b", "--release"]);
    // Theirs by us, ours by them.
    exchange.said(Ours, "backup-delete", &["-b", "b"]);
    exchange.said(Theirs, "backup-delete", &["-b", "a"]);
    assert_eq!(parsed(Ours), parsed(Theirs));
    assert_eq!(parsed(Ours)["backups_list"].as_array().unwrap().len(), 2);
    exchange.said(Ours, "backup-delete", &["-r", "REDUNDANCY 1"]);
    exchange.said(Theirs, "backup-delete", &["-b", "d"]);
    assert_eq!(exchange.bucket.keys("a-path/backups/main/base/"), [""; 0]);
    assert_eq!(exchange.bucket.open_uploads(), 0);
}

/// WAL files of every kind, byte for byte, in every codec.
#[test]
fn wal_is_exchanged() {
    let workspace = Workspace::new();
    let Some(exchange) = Exchange::on(GcsServer::StandIn, &workspace) else {
        return;
    };
    let segment = "000000010000000000000006";
    let sample = |name: &str| fs::read(e2e::golden().join("wal").join(name)).unwrap();
    let codecs = [
        "", "--gzip", "--bzip2", "--xz", "--snappy", "--zstd", "--lz4",
    ];
    for (number, codec) in codecs.iter().enumerate() {
        for (writer, reader) in [(Ours, Theirs), (Theirs, Ours)] {
            for name in [segment, "00000002.history"] {
                let content = sample(name);
                let source = workspace.file(name, &content);
                let server = format!("{writer:?}-{number}");
                exchange
                    .bare(writer, "wal-archive")
                    .args((!codec.is_empty()).then_some(codec))
                    .args([exchange.place.url(), &server])
                    .arg(&source)
                    .succeed();
                let target = workspace.path(format!("{server}-{name}"));
                exchange
                    .bare(reader, "wal-restore")
                    .args([exchange.place.url(), &server, name])
                    .arg(&target)
                    .succeed();
                let fetched = fs::read(&target).unwrap();
                assert!(fetched == content, "{codec}, {name}, by {writer:?}");
            }
        }
    }
}
