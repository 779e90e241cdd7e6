//! Base backups made of snapshots of disks, at Azure and at Google, as a stand-in plays
//! them: taken, shown, restored, deleted, and what the service was asked meanwhile.
//!
//! `E2E_BLESS=1` writes the files in `tests/golden/requests` that requests are compared
//! with.

use std::fs;

use e2e::{
    CloudKind, Cluster, DiskCloud, HttpServer, PgBin, Recovery, ShutDown, Tool, Volume, Workspace,
    WriteLoad,
};
use serde_json::{Value, json};

use crate::interop_catalogue_cases::both_print_the_same_of;

fn comes_back(kind: CloudKind) {
    let workspace = Workspace::new();
    let Some(bin) = PgBin::find() else { return };
    let Some(mut volume) = Volume::mount(&workspace, "volume", 200, "noatime") else {
        return;
    };
    let Some(mut cloud) = DiskCloud::new(kind, &workspace, &volume) else {
        return;
    };
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let mut primary = Cluster::create(&bin, &workspace, "volume/primary", &[]);
    primary.archive_into(&workspace, &url, "main", "");
    primary.start();
    let load = WriteLoad::start(&primary, &[("t", None)]);

    let copy = workspace.path("copy.img");
    let (freeze, to) = (volume.freezer(), copy.clone());
    let service = HttpServer::watched(&cloud.url(), move |request| {
        let makes = ["PUT", "POST"].contains(&&*request.method);
        if makes && request.target.contains("/snapshots") && !to.exists() {
            freeze(&to);
        }
        None
    });
    let tool = |name: &str| -> Tool<'_> {
        let tool = workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(cloud.environment(&service.url()))
    };
    // The first request for the snapshot has to be sent again.
    cloud.fault(&json!({"match": "/snapshots", "status": 429, "times": 1,
        "headers": {"Retry-After": "1"}, "body": {"error": {"code": "TooManyRequests"}}}));
    tool("backup")
        .args(primary.connection())
        .arg("--immediate-checkpoint")
        .args(cloud.backup_options())
        .args([&url, "main"])
        .succeed();
    let session = primary.session();
    let digest = load.stop_behind_point(&session, "here");
    primary.archive_everything();
    drop(session);
    primary.stop(ShutDown::Immediate);

    let [snapshot] = &cloud.snapshots()[..] else {
        panic!("{:?}", cloud.snapshots());
    };
    let id = snapshot.strip_prefix("pgdata-").unwrap().to_uppercase();
    let base = workspace.path(format!("bucket/main/base/{id}"));
    let info = fs::read_to_string(base.join("backup.info")).unwrap();
    let line = info
        .lines()
        .find(|line| line.starts_with("snapshots_info="));
    let line = line.unwrap_or_else(|| panic!("{info}"));
    let (place, of_it) = match kind {
        CloudKind::Azure => (
            "{'provider': 'azure', 'provider_info': {'subscription_id': 'sub', \
             'resource_group': 'rg'}",
            "'provider': {'location': 'here', 'lun': ",
        ),
        _ => (
            "{'provider': 'gcp', 'provider_info': {'project': 'proj'}",
            "'provider': {'device_name': 'disk-",
        ),
    };
    let mount = format!(
        "'mount': {{'mount_options': '{}', 'mount_point': '{}'}}",
        volume.options(),
        volume.path().display()
    );
    for part in [
        place,
        of_it,
        &mount,
        &format!("'snapshot_name': '{snapshot}'"),
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(info.contains("\nstatus=DONE\n"), "{info}");
    let shown = tool("backup-show").args([&url, "main", "latest"]).run();
    assert!(shown.stdout.contains("Snapshot information:"), "{shown}");
    both_print_the_same_of(&[info]);

    volume.replace(copy);
    let options = cloud.recovered(&volume);
    let tool = |name: &str| -> Tool<'_> {
        let tool = workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(cloud.environment(&service.url()))
    };
    tool("restore")
        .args(options)
        .args([&url, "main", "latest"])
        .arg(workspace.path("volume/primary"))
        .succeed();
    let mut restored = Cluster::existing(&bin, &workspace, "volume/primary");
    restored.recover(&workspace, &url, "main", &Recovery::Name("here"));
    restored.start_and_recover();
    let session = restored.session();
    assert_eq!(session.digest(), digest);
    drop(session);
    restored.stop(ShutDown::Fast);

    tool("backup-delete")
        .args(cloud.options())
        .args(["--backup-id", &id, &url, "main"])
        .succeed();
    assert!(
        !base.exists(),
        "{:?}",
        fs::read_dir(&base).map(Iterator::count)
    );
    assert!(cloud.snapshots().is_empty());
    compare(kind, cloud.requests(), &id);
}

/// What was asked is what is written down, but for what differs from run to run.
fn compare(kind: CloudKind, requests: Vec<(String, Value)>, id: &str) {
    let plain = |text: &str| {
        let text = text.replace(&id.to_lowercase(), "ID");
        match text.split_once("requestId=") {
            Some((before, _)) => format!("{before}requestId=UUID"),
            None => text,
        }
    };
    let mut lines = String::new();
    for (line, body) in requests {
        lines.push_str(&plain(&line));
        if !body.is_null() {
            lines.push_str(&format!(" {}", plain(&body.to_string())));
        }
        lines.push('\n');
    }
    let name = kind.name().to_lowercase();
    let file = e2e::golden().join(format!("requests/{name}.txt"));
    if std::env::var_os("E2E_BLESS").is_some() {
        fs::write(&file, &lines).unwrap();
    }
    let recorded = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(lines, recorded, "not what {} has", file.display());
}

#[test]
fn a_backup_at_azure_comes_back_and_goes() {
    comes_back(CloudKind::Azure);
}

#[test]
fn a_backup_at_google_comes_back_and_goes() {
    comes_back(CloudKind::Google);
}
