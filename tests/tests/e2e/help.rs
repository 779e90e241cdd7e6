//! Help and version of every tool, word for word: `E2E_BLESS=1` writes the
//! files anew, for a person to read the difference.

use std::fs;

use e2e::Workspace;

const TOOLS: [&str; 11] = [
    "barman-cloud-backup",
    "barman-cloud-backup-delete",
    "barman-cloud-backup-keep",
    "barman-cloud-backup-list",
    "barman-cloud-backup-show",
    "barman-cloud-check-wal-archive",
    "barman-cloud-metrics",
    "barman-cloud-restore",
    "barman-cloud-verify",
    "barman-cloud-wal-archive",
    "barman-cloud-wal-restore",
];

#[test]
fn every_tool_names_its_version_and_shows_its_help() {
    let workspace = Workspace::new();
    for tool in TOOLS {
        let run = workspace.tool(tool).arg("--version").run();
        // Clients take the last word for the version.
        assert_eq!(
            (run.code(), run.stdout),
            (Some(0), format!("{tool} 4.0.0\n"))
        );
        let help = workspace.tool(tool).arg("--help").run();
        assert!(help.code() == Some(0) && help.stderr.is_empty(), "{help}");
        let file = e2e::project()
            .join("tests/help")
            .join(format!("{tool}.txt"));
        if std::env::var_os("E2E_BLESS").is_some() {
            fs::write(&file, &help.stdout).unwrap();
        }
        let recorded = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(
            help.stdout,
            recorded,
            "the help of {tool} is not that of {}",
            file.display()
        );
    }
}

/// What connectivity tests answer, for every tool.
#[test]
fn every_tool_tests_its_connection() {
    let workspace = Workspace::new();
    workspace.dir("bucket");
    for (tool, more) in [
        ("backup", vec![]),
        ("backup-delete", vec!["-r", "nonsense"]),
        ("backup-keep", vec!["id", "--status"]),
        ("backup-list", vec![]),
        ("backup-show", vec!["id"]),
        ("check-wal-archive", vec![]),
        ("metrics", vec![]),
        ("restore", vec!["id", "dir"]),
        ("verify", vec!["id"]),
        ("wal-archive", vec![]),
        ("wal-restore", vec!["00000002.history", "dest"]),
    ] {
        let test = |url: &str| {
            let tool = workspace.tool(&format!("barman-cloud-{tool}"));
            tool.args(["--test", url, "main"]).args(&more).run()
        };
        let there = test(&workspace.url("bucket"));
        assert!(
            there.code() == Some(0) && there.stderr.is_empty(),
            "{there}"
        );
        let missing = test(&workspace.url("missing"));
        if tool == "check-wal-archive" {
            assert_eq!(
                missing.code(),
                Some(0),
                "it would create the bucket: {missing}"
            );
        } else {
            assert_eq!(missing.code(), Some(1), "{missing}");
            let missing_bucket = workspace.path("missing");
            let line = format!("Bucket {} does not exist", missing_bucket.display());
            assert_eq!(missing.errors(), [line], "{missing}");
        }
    }
    assert_eq!(fs::read_dir(workspace.path("bucket")).unwrap().count(), 0);
    assert!(!workspace.path("missing").exists());
}
