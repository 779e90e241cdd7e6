//! A relay needs no more than `docs/permissions.md` says, and what is forbidden to it
//! does no harm. (S3: `permissions_s3`.)

use e2e::{Azurite, GcsServer, Place, Run, Workspace};

use super::{Backup, ID};

/// Relays the backup with the permissions of a first time, which are enough for a
/// repetition that has nothing to do, and then in another form, which replaces
/// objects: without the permission to delete the backup stays as it is.
fn relay_by_steps(
    keys: impl Fn() -> Vec<String>,
    relay: impl Fn(&[&str]) -> Run,
    allow_deletion: impl FnOnce(),
) {
    for _ in 0..2 {
        let done = relay(&[]);
        assert_eq!(done.code(), Some(0), "{done}");
    }
    let first = keys();
    let named = |suffix: &str| {
        let dir = format!("p/main/base/{ID}");
        let archive = |name: &str| format!("{dir}/{name}.tar{suffix}");
        [
            archive("16384"),
            format!("{dir}/backup.info"),
            archive("data"),
        ]
    };
    assert_eq!(first, named(""));
    let refused = relay(&["--gzip"]);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.errors()[0].contains("delete"), "{refused}");
    assert_eq!(keys(), first, "the backup is as it was");
    allow_deletion();
    let done = relay(&["--gzip"]);
    assert_eq!(done.code(), Some(0), "{done}");
    assert_eq!(keys(), named(".gz"));
}

#[test]
fn the_letters_of_a_signature_for_azure_are_enough() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let Some(container) = Azurite::Plain.container(&workspace) else {
        return;
    };
    let place = Place::in_container(&workspace, &container, "p");
    let letters = std::cell::Cell::new("rcwl");
    let relay = |options: &[&str]| {
        let signature = container.signature(letters.get());
        let endpoint = container.endpoint();
        let string = format!("BlobEndpoint={endpoint};SharedAccessSignature={signature}");
        workspace
            .tool("barman-cloud-backup")
            .envs(backup.environment())
            .env("AZURE_STORAGE_CONNECTION_STRING", string)
            .args(place.options())
            .args(options)
            .args([place.url(), "main"])
            .run()
    };
    relay_by_steps(|| container.keys("p/"), relay, || letters.set("rcwdl"));
}

#[test]
fn the_permissions_on_google_cloud_storage_are_enough() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let Some(bucket) = GcsServer::StandIn.bucket() else {
        return;
    };
    let place = Place::in_gcs(&workspace, &bucket, "p");
    let parts = ["multipartUploads.create", "multipartUploads.abort"];
    let first = ["objects.get", "objects.list", "objects.create"];
    let allow = |more: &[&str]| bucket.allow(&[&first[..], &parts, more].concat());
    allow(&[]);
    let relay = |options: &[&str]| {
        let tool = place.tool("barman-cloud-backup").envs(backup.environment());
        tool.args(options).args([place.url(), "main"]).run()
    };
    relay_by_steps(|| bucket.keys("p/"), relay, || allow(&["objects.delete"]));
}
