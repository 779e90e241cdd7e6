//! The manifest of a base backup: PostgreSQL's own tool accepts it, and a restore
//! finds every file that is not what was backed up.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Barman, Cluster, PgBin, Place, Run, S3Server, Workspace};

/// A running cluster with a tablespace, a configuration file elsewhere and odd
/// names, that archives into a directory.
fn primary(bin: &PgBin, place: &Place<'_>, workspace: &Workspace) -> Cluster {
    let mut primary = place.primary(bin, "");
    let hba = fs::read(primary.pgdata().join("pg_hba.conf")).unwrap();
    let hba = workspace.file("pg_hba.conf", hba);
    primary.configure("hba_file", &hba.display().to_string());
    for name in ["odd \"name\\ \n", "é"] {
        let path = primary.pgdata().join(name);
        fs::write(&path, "x").unwrap();
        workspace.owner().take(&path);
    }
    // Another tool left one here.
    let stray = primary.pgdata().join("backup_manifest");
    fs::write(&stray, "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n").unwrap();
    workspace.owner().take(&stray);
    primary.start();
    primary.make_tablespace(workspace, "fast", "fast place");
    let session = primary.session();
    session.run("CREATE TABLE t AS SELECT generate_series(1, 20000) AS i");
    session.run("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 20000) AS i");
    primary
}

fn verify(program: &Path, workspace: &Workspace, options: &[&str], dir: &Path) {
    let mut command = Command::new(program);
    command.args(options).arg(dir).env("LC_ALL", "C");
    workspace.owner().run_as(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
}

/// `pg_verifybackup` after a restore by us and by Barman, without the WAL and
/// with it.
#[test]
fn pg_verifybackup_accepts_what_either_side_restored() {
    let (Some(bin), Some(barman)) = (PgBin::find(), Barman::find()) else {
        return;
    };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "p");
    let primary = primary(&bin, &place, &workspace);
    let program = bin.program("pg_verifybackup");
    for (name, options) in [
        ("crc32c", &["--gzip", "--manifest-checksums=crc32c"][..]),
        (
            "sha256",
            &["--manifest-checksums", "SHA256", "--max-archive-size=10MB"],
        ),
    ] {
        place
            .backup(&primary, "postgres")
            .args(options)
            .args(["--name", name])
            .succeed();
        primary.archive_everything();
        for side in ["ours", "theirs"] {
            let tool = match side {
                "ours" => place.tool("barman-cloud-restore"),
                _ => barman
                    .tool(&workspace, "barman-cloud-restore")
                    .envs(place.environment().to_vec()),
            };
            let restored = workspace.path(format!("{name}-{side}"));
            let moved = workspace.path(format!("{name}-{side}-fast"));
            let run = tool
                .arg(format!("--tablespace=fast:{}", moved.display()))
                .args([place.url(), "main", name])
                .arg(&restored)
                .run();
            assert_eq!(run.code(), Some(0), "{run}");
            let text = fs::read_to_string(restored.join("backup_manifest")).unwrap();
            let algorithm = format!("\"Checksum-Algorithm\": \"{}\"", name.to_uppercase());
            assert!(text.contains(&algorithm), "{name}");
            verify(&program, &workspace, &["-n"], &restored);
            for wal in wal_of(&place, name) {
                place
                    .tool("barman-cloud-wal-restore")
                    .args([place.url(), "main", &wal])
                    .arg(restored.join("pg_wal").join(&wal))
                    .succeed();
            }
            verify(&program, &workspace, &[], &restored);
        }
    }
}

/// The second version of the format, as the server has written it since 17.
#[test]
fn pg_verifybackup_of_version_17_accepts_the_newer_form() {
    let (Some(bin), Some(tools)) = (PgBin::of_version(17), PgBin::tools_of_17()) else {
        return;
    };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let primary = primary(&bin, &place, &workspace);
    for algorithm in ["crc32c", "sha256"] {
        place
            .backup(&primary, "postgres")
            .args(["--name", algorithm, "--manifest-checksums", algorithm])
            .succeed();
        primary.archive_everything();
        let restored = workspace.path(algorithm);
        let moved = workspace.path(format!("{algorithm}-fast"));
        place
            .tool("barman-cloud-restore")
            .arg(format!("--tablespace=fast:{}", moved.display()))
            .args([place.url(), "main", algorithm])
            .arg(&restored)
            .succeed();
        for wal in wal_of(&place, algorithm) {
            place
                .tool("barman-cloud-wal-restore")
                .args([place.url(), "main", &wal])
                .arg(restored.join("pg_wal").join(&wal))
                .succeed();
        }
        verify(&tools.join("pg_verifybackup"), &workspace, &[], &restored);
    }
}

/// The segments from the beginning to the end of a backup.
fn wal_of(place: &Place<'_>, name: &str) -> Vec<String> {
    let run = place
        .tool("barman-cloud-backup-show")
        .args(["--format=json", place.url(), "main", name])
        .run();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let text = |key: &str| json["cloud"][key].as_str().unwrap().to_owned();
    let mut wal = vec![text("begin_wal"), text("end_wal")];
    wal.dedup();
    wal
}

/// A backup in a directory, without compression, to be damaged.
struct Scene<'w> {
    workspace: &'w Workspace,
    place: &'w Place<'w>,
    archive: PathBuf,
    whole: Vec<u8>,
}

impl Scene<'_> {
    fn restore(&self, to: &str) -> Run {
        let moved = self.workspace.path(format!("{to}-fast"));
        self.place
            .tool("barman-cloud-restore")
            .arg(format!("--tablespace=fast:{}", moved.display()))
            .args([self.place.url(), "main", "latest"])
            .arg(self.workspace.path(to))
            .run()
    }

    fn put_back(&self) {
        fs::write(&self.archive, &self.whole).unwrap();
    }
}

fn tar(options: &[&str]) {
    let output = Command::new("tar").args(options).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn archives(place: &Place<'_>, workspace: &Workspace) -> PathBuf {
    let run = place
        .tool("barman-cloud-backup-list")
        .args([place.url(), "main"])
        .run();
    let id = run.stdout.lines().last().unwrap()[..15].to_owned();
    workspace.path(format!("bucket/main/base/{id}"))
}

#[test]
fn every_file_that_is_not_what_was_backed_up_is_named() {
    let Some(bin) = PgBin::find() else { return };
    for algorithm in ["crc32c", "sha256"] {
        let workspace = Workspace::new();
        let place = Place::in_directory(&workspace);
        let primary = primary(&bin, &place, &workspace);
        place
            .backup(&primary, "postgres")
            .arg(format!("--manifest-checksums={algorithm}"))
            .succeed();
        drop(primary);
        let archive = archives(&place, &workspace).join("data.tar");
        let scene = Scene {
            workspace: &workspace,
            place: &place,
            whole: fs::read(&archive).unwrap(),
            archive,
        };
        let whole = scene.restore("whole");
        assert_eq!(
            (whole.code(), whole.stderr.as_str()),
            (Some(0), ""),
            "{whole}"
        );
        assert!(workspace.path("whole/backup_manifest").is_file());
        let archive = scene.archive.display().to_string();

        let refused = |to: &str, what: &str| {
            let run = scene.restore(to);
            assert_eq!(run.code(), Some(4), "{run}");
            let error = &run.errors()[0];
            assert!(
                error.contains("is damaged: ") && error.contains(what),
                "{run}"
            );
            // Nothing that PostgreSQL would start on.
            assert!(!workspace.path(to).join("global/pg_control").exists());
            scene.put_back();
        };
        // One bit of one page.
        let page = scene.whole.windows(9).position(|w| w == b"base/1/12");
        let file = fs::File::options()
            .write(true)
            .open(&scene.archive)
            .unwrap();
        let at = page.unwrap() as u64 + 512 + 100;
        let old = scene.whole[usize::try_from(at).unwrap()];
        file.write_all_at(&[old ^ 1], at).unwrap();
        refused("flipped", "`base/1/12");

        tar(&["--delete", "-f", &archive, "./PG_VERSION"]);
        refused("missing", "`PG_VERSION` is missing");

        let extra = workspace.dir("more/base/1");
        fs::write(extra.join("999999"), "x").unwrap();
        let top = workspace.path("more").display().to_string();
        tar(&["-C", &top, "-rf", &archive, "base/1/999999"]);
        refused("extra", "`base/1/999999` does not belong to it");

        // The same size and date, other content.
        fs::write(workspace.path("more/PG_VERSION"), "99\n").unwrap();
        tar(&["-C", &top, "-rf", &archive, "PG_VERSION"]);
        refused("other", "`PG_VERSION` is not what was backed up");

        // A manifest that is damaged itself: what else is cannot be told.
        let text = b"\"PostgreSQL-Backup-Manifest-Version\"";
        let mut found = scene.whole.windows(text.len());
        let found = found.rposition(|w| w == text);
        let at = found.unwrap() as u64 + 3;
        file.write_all_at(b"X", at).unwrap();
        refused("unlisted", "its `backup_manifest` cannot be used: ");
    }
}

#[test]
fn every_version_gets_the_manifest_it_knows() {
    for (major, version, identifier) in
        [(13, 1, false), (16, 1, false), (17, 2, true), (18, 2, true)]
    {
        let Some(bin) = PgBin::of_version(major) else {
            return;
        };
        let workspace = Workspace::new();
        let place = Place::in_directory(&workspace);
        let primary = primary(&bin, &place, &workspace);
        place.backup(&primary, "postgres").succeed();
        let restored = workspace.path("restored");
        let moved = workspace.path("moved");
        let run = place
            .tool("barman-cloud-restore")
            .arg(format!("--tablespace=fast:{}", moved.display()))
            .args(["-v", place.url(), "main", "latest"])
            .arg(&restored)
            .run();
        assert_eq!(run.code(), Some(0), "{run}");
        assert!(run.stderr.contains("are as its manifest says"), "{run}");
        let text = fs::read_to_string(restored.join("backup_manifest")).unwrap();
        let first = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n");
        assert!(text.starts_with(&first), "{major}");
        assert_eq!(
            text.contains("\"System-Identifier\": "),
            identifier,
            "{major}"
        );
        for path in [
            "backup_label",
            "global/pg_control",
            "pg_hba.conf",
            "odd \\\"name\\\\ \\n",
        ] {
            let count = text.matches(&format!("\"Path\": \"{path}\"")).count();
            assert_eq!(count, 1, "{path} in {major}");
        }
        assert!(text.contains("\"Path\": \"pg_tblspc/"));
        assert!(!text.contains("\"Path\": \"backup_manifest\""));
    }
}
