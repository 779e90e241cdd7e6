//! Mistakes in the URL and in the name of the server.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::Workspace;

use super::Table;
use super::command_line::segment;

pub(super) const SECTION: &str = "The URL and the name of the server";

/// The mistake, the options, the URL and the name of the server of `backup-list`.
const LISTS: [(&str, &[&str], &str, &str); 10] = [
    (
        "a URL of Google Cloud Storage without `--cloud-provider`",
        &[],
        "gs://b/pg",
        "main",
    ),
    (
        "a URL of Azure without `--cloud-provider`",
        &[],
        "https://acc.blob.core.windows.net/c",
        "main",
    ),
    (
        "a URL of S3 with another `--cloud-provider`",
        &["--cloud-provider", "azure-blob-storage"],
        "s3://b",
        "main",
    ),
    (
        "the URL of the service in place of the bucket's",
        &[],
        "http://minio:9000/b",
        "main",
    ),
    (
        "a URL of Azure without the container",
        &["--cloud-provider", "azure-blob-storage"],
        "https://acc.blob.core.windows.net",
        "main",
    ),
    (
        "the name of a bucket alone, on Google Cloud Storage",
        &["--cloud-provider", "google-cloud-storage"],
        "my-backups",
        "main",
    ),
    ("the name of a bucket alone", &[], "my-backups", "main"),
    ("a directory without `file://`", &[], "/backups/pg", "main"),
    (
        "a directory that is not named from the root",
        &[],
        "file://backups/pg",
        "main",
    ),
    ("URL and server in the wrong order", &[], "main", "s3://b"),
];

#[test]
fn mistakes_in_urls_and_names_of_servers() {
    let workspace = Workspace::new();
    let mut table = Table::new(&workspace, SECTION);
    let list = |options: &[&str], url: &str, server: &str| {
        let tool = workspace.tool("barman-cloud-backup-list");
        tool.args(options).args([url, server]).run()
    };
    for (mistake, options, url, server) in LISTS {
        table.row(mistake, "backup-list", &list(options, url, server));
    }
    let run = list(&[], "s3://b", "/main");
    table.row("a slash before the name of the server", "backup-list", &run);

    let segment = segment(&workspace);
    let archive = |options: &[&str], url: &str| {
        let tool = workspace.tool("barman-cloud-wal-archive");
        tool.args(options).args([url, "main"]).arg(&segment).run()
    };
    let missing = workspace.url("missing");
    let run = archive(&[], &missing);
    table.row(
        "a directory that is not there, or not mounted",
        "wal-archive",
        &run,
    );
    let run = archive(&["--test"], &missing);
    table.row("the same, with `--test`", "wal-archive", &run);

    let bucket = workspace.dir("bucket");
    fs::set_permissions(&bucket, fs::Permissions::from_mode(0o555)).unwrap();
    let run = archive(&[], &workspace.url("bucket"));
    table.row(
        "a directory that belongs to somebody else",
        "wal-archive",
        &run,
    );
    table.check();
}
