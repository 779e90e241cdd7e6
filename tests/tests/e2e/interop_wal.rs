//! WAL files that one side archives and the other fetches, byte for byte.

use std::fs;

use e2e::{Azurite, Barman, Place, Remote, S3Server, Tool, Workspace, golden};

/// The segment that the samples have.
const SEGMENT: &str = "000000010000000000000006";

/// What a server archives: the name, the name it is asked for by, and the
/// content. Each kind goes to a server of its own, since a `.partial` answers
/// for the whole segment where there is none.
fn files() -> [(&'static str, String, String, Vec<u8>); 4] {
    let sample = |name: &str| fs::read(golden().join("wal").join(name)).unwrap();
    let label = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n";
    [
        (
            "whole",
            SEGMENT.to_owned(),
            SEGMENT.to_owned(),
            sample(SEGMENT),
        ),
        (
            "partial",
            format!("{SEGMENT}.partial"),
            SEGMENT.to_owned(),
            sample(SEGMENT),
        ),
        (
            "history",
            "00000002.history".to_owned(),
            "00000002.history".to_owned(),
            sample("00000002.history"),
        ),
        (
            "label",
            format!("{SEGMENT}.00000028.backup"),
            format!("{SEGMENT}.00000028.backup"),
            label.as_bytes().to_vec(),
        ),
    ]
}

/// Both directions of one codec: its name, its option and its suffix.
fn every_file_comes_back(codec: &str, option: &str, suffix: &str) {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let place = |path: &str| Place::in_bucket(&workspace, &bucket, path);
    exchange(&workspace, &bucket, place, [codec, option, suffix]);
}

#[test]
fn wal_is_exchanged_on_azure() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = |path: &str| Place::in_container(&workspace, &container, path);
    exchange(&workspace, &container, place, ["gzip", "--gzip", ".gz"]);
}

fn exchange<'w>(
    workspace: &'w Workspace,
    bucket: &impl Remote,
    place: impl Fn(&str) -> Place<'w>,
    [codec, option, suffix]: [&str; 3],
) {
    let Some(barman) = Barman::find() else { return };
    for we_write in [true, false] {
        let path = if we_write { "ours" } else { "theirs" };
        let place = place(path);
        let tool = |ours: bool, name: &str| -> Tool<'_> {
            if ours {
                return place.tool(name);
            }
            let variables = place.environment().iter().cloned();
            let tool = barman.tool(workspace, name).envs(variables);
            tool.args(place.options())
        };
        for (kind, archived, wanted, content) in files() {
            let case = format!("{codec}, {kind}, written by {path}");
            let source = workspace.file(&archived, &content);
            tool(we_write, "barman-cloud-wal-archive")
                .args((!option.is_empty()).then_some(option))
                .args([place.url(), kind])
                .arg(&source)
                .succeed();
            let keys = bucket.keys(&format!("{path}/{kind}/"));
            assert_eq!(keys.len(), 1, "{case}: {keys:?}");
            let folder = if kind == "history" {
                ""
            } else {
                "0000000100000000/"
            };
            let key = format!("{path}/{kind}/wals/{folder}{archived}{suffix}");
            assert_eq!(keys[0], key, "{case}");

            let (object, plain) = (workspace.path("object"), workspace.path("plain"));
            fs::write(&object, bucket.read(&key)).unwrap();
            barman.decode(codec, &object, &plain);
            assert_eq!(fs::read(&plain).unwrap(), content, "{case}, decoded");

            let target = workspace.path(format!("{path}-{kind}"));
            let fetched = tool(!we_write, "barman-cloud-wal-restore")
                .args([place.url(), kind, &wanted])
                .arg(&target)
                .run();
            // A label is never fetched by them, whoever wrote it.
            if kind == "label" && we_write {
                assert_eq!(fetched.code(), Some(1), "{case}: {fetched}");
                continue;
            }
            assert_eq!(fetched.code(), Some(0), "{case}: {fetched}");
            assert_eq!(fs::read(&target).unwrap(), content, "{case}, fetched");
        }
    }
}

macro_rules! every_codec {
    ($($name:ident $option:literal $suffix:literal)*) => { $(
        #[test]
        fn $name() {
            let codec = stringify!($name).rsplit("_with_").next().unwrap();
            every_file_comes_back(codec, $option, $suffix);
        }
    )* };
}

every_codec! {
    wal_is_exchanged_with_none "" ""
    wal_is_exchanged_with_gzip "--gzip" ".gz"
    wal_is_exchanged_with_bzip2 "--bzip2" ".bz2"
    wal_is_exchanged_with_xz "--xz" ".xz"
    wal_is_exchanged_with_snappy "--snappy" ".snappy"
    wal_is_exchanged_with_zstd "--zstd" ".zst"
    wal_is_exchanged_with_lz4 "--lz4" ".lz4"
}
