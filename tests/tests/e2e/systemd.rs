//! The chapter about systemd, followed in a system that systemd has booted, with the tools
//! as the package installs them, PostgreSQL as a service beside them, and a real store.

use std::fs;

use e2e::{Booted, Cluster, PgBin, S3Server, System, Workspace};

use crate::packages;
use crate::readme::Section;

/// Where the data directory is in there.
const PGDATA: &str = "/var/lib/postgresql/15/main";

/// A service that is up before the chapter's are.
fn postgresql(bin: &PgBin, archive_command: &str) -> String {
    let program = bin.program("postgres");
    format!(
        "[Service]\n\
         Type=notify\n\
         User=postgres\n\
         RuntimeDirectory=postgresql\n\
         EnvironmentFile=/etc/postgresql/15/main/environment\n\
         ExecStart={} -D {PGDATA} -c listen_addresses= -c unix_socket_directories=/run/postgresql \
         -c archive_mode=on \"-c\" \"archive_command={}\"\n",
        program.display(),
        archive_command.replace('%', "%%"),
    )
}

/// What a unit of the chapter becomes when it is another command that it runs, and somebody
/// is told of failures, as the chapter ends.
fn proving(unit: &str, command: &str) -> String {
    let mut kept: Vec<&str> = unit.lines().collect();
    let at = kept.iter().position(|line| line.starts_with("ExecStart="));
    kept.retain(|line| !line.starts_with("ExecStart="));
    kept.insert(at.expect("the unit runs something"), command);
    kept.insert(1, "OnFailure=told.service");
    kept.join("\n")
}

/// For each command of the backup's service, whether it was started the last time.
fn started(system: &Booted) -> Vec<bool> {
    let shown = system.succeed("systemctl show -p ExecStart barman-cloud-backup.service");
    shown
        .lines()
        .map(|line| !line.contains(" pid=0 "))
        .collect()
}

#[test]
fn the_units_of_the_chapter_do_what_it_says() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let Some(mut system) = System::new(&workspace, "system") else {
        return;
    };
    let page = Section::of_page("systemd.md");
    let placed = |text: &str| text.replace("s3://my-backups/pg", &bucket.url());
    let units = page.whole_blocks("ini");
    let [service, timer, proof] = units.as_slice() else {
        panic!("the chapter has other units: {units:?}");
    };
    let commands = page.blocks("sh");
    assert_eq!(commands.len(), 3, "{commands:?}");

    // What the chapter takes for granted.
    system.install(&packages::tree(&workspace).join("usr"));
    let cluster = Cluster::create(&bin, &workspace, "pgdata", &[]);
    system.folder("/var/lib/postgresql/15");
    fs::rename(cluster.pgdata(), system.path(PGDATA)).unwrap();
    let archive = format!("/usr/bin/barman-cloud-wal-archive {} main %p", bucket.url());
    let unit = |name: &str| format!("/etc/systemd/system/{name}");
    system.file(
        &unit("postgresql.service"),
        0o644,
        postgresql(&bin, &archive),
    );
    let told = "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /told\n";
    system.file(&unit("told.service"), 0o644, told);

    // What it says.
    let variables = bucket.environment();
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    let variables: String = lines.collect();
    let defaults = "/etc/default/barman-cloud";
    system.file(defaults, 0o600, &variables);
    system.file("/etc/postgresql/15/main/environment", 0o600, &variables);
    system.file(&unit("barman-cloud-backup.service"), 0o644, placed(service));
    system.file(&unit("barman-cloud-backup.timer"), 0o644, timer);
    let proof = proving(&placed(service), &placed(proof));
    system.file(&unit("barman-cloud-verify.service"), 0o644, proof);
    let told = system.path("/told");
    let defaults = system.path(defaults);
    let system = system.boot();
    let checked = system.run("systemd-analyze verify /etc/systemd/system/barman-cloud-*");
    let complaints = String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && complaints.is_empty(),
        "{complaints}"
    );
    system.succeed("systemctl start postgresql.service");
    for command in &commands {
        system.succeed(command);
    }
    let next = "systemctl show --timestamp=utc -p NextElapseUSecRealtime barman-cloud-backup.timer";
    let next = system.succeed(next);
    assert!(
        next.contains(" 03:") || next.contains(" 04:00:00"),
        "{next}"
    );
    assert_eq!(
        bucket
            .keys("main/base/")
            .iter()
            .filter(|key| key.ends_with("/backup.info"))
            .count(),
        1
    );

    // A segment more, so that the newest backup can be proved.
    system.succeed("setpriv --reuid=postgres --clear-groups psql -h /run/postgresql -U postgres -c 'SELECT pg_switch_wal()'");
    system.succeed("systemctl start barman-cloud-verify.service");
    assert!(!told.exists());

    // Nothing is deleted while backups fail.
    assert_eq!(started(&system), [true, true]);
    let wrong = variables.replace("SECRET_ACCESS_KEY=", "SECRET_ACCESS_KEY=x");
    fs::write(&defaults, wrong).unwrap();
    let failed = system.run("systemctl start barman-cloud-backup.service");
    assert!(!failed.status.success());
    assert_eq!(started(&system), [true, false]);
    fs::write(&defaults, &variables).unwrap();

    // Who is to know is told.
    let archive = bucket
        .keys("main/base/")
        .into_iter()
        .find(|key| key.ends_with("data.tar.gz"));
    bucket.write(&archive.expect("the backup has an archive"), "damaged");
    let failed = system.run("systemctl start barman-cloud-verify.service");
    assert!(!failed.status.success());
    let status = system.succeed("systemctl show -p ExecMainStatus barman-cloud-verify.service");
    assert_eq!(status, "ExecMainStatus=1\n");
    e2e::wait_until("somebody to be told", || told.exists().then_some(()));
}
