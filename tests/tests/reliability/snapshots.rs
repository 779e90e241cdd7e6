//! Backups that consist of snapshots of disks: at each request to the cloud in turn the
//! service begins to refuse, or the tool is made to end while it waits for the answer.
//! No snapshot is there then that no record names, and deleting the backup deletes it.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use e2e::{
    CloudKind, Cluster, DiskCloud, HttpAnswer, HttpServer, PgBin, Row, Section, ShutDown, Tool,
    Volume, Workspace, of_sample_or_whole, wait_until,
};
use rustix::process::Signal;

/// What happens at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It and all that follow are refused.
    Refused,
    /// The tool gets a signal; then the request goes on.
    Signal(Signal),
}

/// Where a request waits for the event.
#[derive(Debug, Default)]
struct Gate {
    calls: AtomicUsize,
    /// Whether somebody waits, with what, and whether to go on.
    state: Mutex<(Option<String>, bool)>,
    changed: Condvar,
}

impl Gate {
    fn wait(&self, call: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(call);
        while !state.1 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn waiting(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.clone()
    }

    fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

struct Scene<'w> {
    workspace: &'w Workspace,
    kind: CloudKind,
    cloud: DiskCloud<'w>,
    primary: Cluster,
}

impl<'w> Scene<'w> {
    fn tool(&self, name: &str, service: &str) -> Tool<'w> {
        let tool = self.workspace.tool(&format!("barman-cloud-{name}"));
        tool.envs(self.cloud.environment(service))
    }

    /// A backup to which `event` happens at request number `at` to the cloud, from 0.
    /// Gives how many requests there were.
    fn backup(&self, at: usize, event: Option<Event>) -> usize {
        let gate = Arc::new(Gate::default());
        let (passing, kind) = (Arc::clone(&gate), self.kind);
        let service = HttpServer::watched(&self.cloud.url(), move |request| {
            let call = kind.call(request)?;
            let number = passing.calls.fetch_add(1, Ordering::SeqCst);
            match event {
                Some(Event::Refused) if number >= at => {
                    return Some(HttpAnswer::new(403, "no"));
                }
                Some(Event::Signal(_)) if number == at => passing.wait(call),
                _ => {}
            }
            None
        });
        let mut running = self
            .tool("backup", &service.url())
            .args(self.primary.connection())
            .arg("--immediate-checkpoint")
            .args(self.cloud.backup_options())
            .args([&self.workspace.url("bucket"), "main"])
            .start();
        if let Some(Event::Signal(signal)) = event {
            let call = wait_until("the request", || {
                assert!(running.is_running(), "it ended before request {at}");
                gate.waiting()
            });
            running.signal(signal);
            if signal == Signal::KILL {
                let run = running.wait();
                assert_eq!(run.signal(), Some(9), "{run}");
                gate.open();
                if CloudKind::makes(&call) {
                    // It was asked for, and nobody hears of it.
                    wait_until("the snapshot", || {
                        (!self.cloud.snapshots().is_empty()).then_some(())
                    });
                }
                return gate.calls.load(Ordering::SeqCst);
            }
            gate.open();
        }
        let run = running.wait();
        let failed = run.code().is_some_and(|code| code != 0);
        assert_eq!(failed, event.is_some(), "{event:?} at {at}: {run}");
        gate.calls.load(Ordering::SeqCst)
    }

    /// Compares what is there with what the records say, and deletes all of it.
    fn check(&self, what: &str) {
        let base = self.workspace.path("bucket/main/base");
        let ids = fs::read_dir(&base).into_iter().flatten();
        let ids: Vec<String> = ids
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let info = |id: &String| fs::read_to_string(base.join(id).join("backup.info")).unwrap();
        let infos: Vec<String> = ids.iter().map(info).collect();
        let snapshots = self.cloud.snapshots();
        for snapshot in &snapshots {
            let named = infos
                .iter()
                .any(|info| info.contains(&format!("'{snapshot}'")));
            assert!(named, "{what}: nothing names {snapshot}: {infos:?}");
        }
        for info in &infos {
            let done = info.contains("\nstatus=DONE\n");
            assert!(!done || snapshots.len() == 1, "{what}: {info}");
        }
        for id in &ids {
            // The service may be busy with what was asked for last.
            wait_until("the backup to be deleted", || {
                let run = self
                    .tool("backup-delete", &self.cloud.url())
                    .args(self.cloud.options())
                    .args(["--backup-id", id, &self.workspace.url("bucket"), "main"])
                    .run();
                (run.code() == Some(0)).then_some(())
            });
        }
        let left = self.cloud.snapshots();
        assert!(left.is_empty(), "{what}: {left:?} is left of {infos:?}");
    }
}

fn every_request(kind: CloudKind) {
    let workspace = Workspace::new();
    let Some(bin) = PgBin::find() else { return };
    let Some(volume) = Volume::mount(&workspace, "volume", 120, "noatime") else {
        return;
    };
    let Some(cloud) = DiskCloud::new(kind, &workspace, &volume) else {
        return;
    };
    workspace.dir("bucket");
    let mut primary = Cluster::create(&bin, &workspace, "volume/primary", &[]);
    primary.archive_into(&workspace, &workspace.url("bucket"), "main", "");
    primary.start();
    let mut scene = Scene {
        workspace: &workspace,
        kind,
        cloud,
        primary,
    };
    let calls = scene.backup(0, None);
    scene.check("nothing happened");
    let name = kind.name();
    let all: Vec<usize> = (0..calls).collect();
    // Of a sample those at which a snapshot is asked for, or may be.
    let places = of_sample_or_whole(all[1..calls.min(4)].to_vec(), all);
    for (event, done, found) in [
        (
            Event::Refused,
            format!("`backup` of snapshots at {name}: from each request on the service refuses"),
            "the backup fails; a snapshot that could not be deleted is named in its FAILED record, \
             and goes with it",
        ),
        (
            Event::Signal(Signal::TERM),
            format!("`backup` of snapshots at {name}: SIGTERM at each request"),
            "the snapshots are deleted, or named in the FAILED record and go with it",
        ),
        (
            Event::Signal(Signal::KILL),
            format!("`backup` of snapshots at {name}: SIGKILL at each request"),
            "a snapshot that was asked for is named in the STARTED record, and goes with it",
        ),
    ] {
        let mut row = Row::new(Section::Ends, &done, found);
        for &at in &places {
            scene.backup(at, Some(event));
            scene.check(&format!("{done}: {at}"));
            row.lived_through();
        }
        row.finish();
    }
    scene.primary.stop(ShutDown::Fast);
}

#[test]
fn no_snapshot_is_forgotten_on_ec2() {
    every_request(CloudKind::Ec2);
}

#[test]
fn no_snapshot_is_forgotten_at_azure() {
    every_request(CloudKind::Azure);
}

#[test]
fn no_snapshot_is_forgotten_at_google() {
    every_request(CloudKind::Google);
}
