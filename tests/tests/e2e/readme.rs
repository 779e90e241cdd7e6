//! The commands of the README's usage sections, run as they stand there but
//! for the places and the time they name.

use std::process::Command;

use e2e::{Cluster, PgBin, ShutDown, Workspace};

/// The lines of all fenced blocks of a kind.
fn blocks(readme: &str, kind: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == format!("```{kind}");
        } else if inside {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[test]
fn the_commands_of_the_readme_work() {
    let Some(bin) = PgBin::find() else { return };
    let readme = std::fs::read_to_string(e2e::project().join("README.md")).unwrap();
    let workspace = Workspace::new();
    workspace.dir("backups");
    workspace.dir("pgdata");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    let now = |cluster: &Cluster| cluster.session().value("SELECT clock_timestamp()");
    let places = |line: &str, time: &str| {
        line.replace(
            "/backups/pg",
            &workspace.path("backups").display().to_string(),
        )
        .replace(
            "/var/lib/postgresql/15",
            &workspace.path("pgdata").display().to_string(),
        )
        .replace("2026-11-21 12:00:00+00", time)
        .replace(
            "'barman-cloud-",
            &format!("'{}/barman-cloud-", workspace.path("bin").display()),
        )
    };
    let settings = blocks(&readme, "ini");
    let setting = |name: &str, time: &str| {
        let line = settings
            .iter()
            .find(|line| line.starts_with(name))
            .expect(name);
        let (_, value) = line.split_once(" = ").unwrap();
        places(value, time).trim_matches('\'').to_owned()
    };
    cluster.configure("archive_mode", &setting("archive_mode", ""));
    cluster.configure("archive_command", &setting("archive_command", ""));
    cluster.start();
    cluster
        .session()
        .run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");

    let mut time = String::new();
    let mut run = 0;
    for line in blocks(&readme, "sh") {
        if !(line.starts_with("barman-cloud-") || line.starts_with("touch ")) {
            // The two commands and the build: continuous integration is them.
            assert!(
                [
                    "tests/demo.sh",
                    "tests/run.sh",
                    "cargo build --release --bins"
                ]
                .contains(&line.as_str())
            );
            continue;
        }
        if line.contains("-restore") && time.is_empty() {
            time = now(&cluster);
            cluster.session().run("DELETE FROM t");
            cluster.archive_everything();
        }
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &places(&line, &time)])
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", workspace.path("bin").display()),
            )
            .env("PGHOST", cluster.socket_dir())
            .env("PGUSER", "postgres");
        workspace.owner().run_as(&mut shell);
        let output = shell.output().unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        run += 1;
    }
    assert_eq!(run, 4, "a command of the README is not run here");
    cluster.stop(ShutDown::Immediate);
    let mut restored = Cluster::existing(&bin, &workspace, "pgdata/restored");
    restored.configure("archive_mode", "off");
    restored.configure("restore_command", &setting("restore_command", &time));
    restored.configure(
        "recovery_target_time",
        &setting("recovery_target_time", &time),
    );
    restored.configure("recovery_target_action", "promote");
    restored.start_and_recover();
    assert_eq!(restored.session().value("SELECT count(*) FROM t"), "1000");
}
