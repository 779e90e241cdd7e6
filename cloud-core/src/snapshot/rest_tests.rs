//! Snapshots at Azure and Google: what is asked, and what is left after each end there can
//! be. Both services are played by one fake: they differ in words alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::fake::Fault;
use super::{
    Cloud, Clouds, Deleted, Making, RecordedMount, SnapshotErrorKind, SnapshotOptions,
    SnapshotProvider,
};
use crate::store::{Api, ApiAnswer, ApiCall, ApiError, OpenedApi, RequestId, StoreErrorKind};

const ID: &str = "20261121T024500";
const BOTH: [Cloud; 2] = [Cloud::Azure, Cloud::Gcp];

/// A snapshot by its name, and what it becomes: `None` for nothing.
type Effect = (String, Option<Value>);

#[derive(Debug)]
struct State {
    cloud: Cloud,
    /// Snapshots that are there.
    there: BTreeMap<String, Value>,
    /// Operations: how often each is still seen as running, and what it does at its end.
    operations: Vec<(u32, Option<Effect>)>,
    calls: Vec<String>,
    faults: Vec<(usize, Fault)>,
    dies_at: Option<usize>,
    polls: u32,
    fails: bool,
}

/// The service, with instance `vm` and its disks `data` (number 3) and `pgdata` (number 4),
/// which was made of the snapshot `old`.
#[derive(Debug, Clone)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn new(cloud: Cloud) -> Self {
        Self(Arc::new(Mutex::new(State {
            cloud,
            there: BTreeMap::new(),
            operations: Vec::new(),
            calls: Vec::new(),
            faults: Vec::new(),
            dies_at: None,
            polls: 2,
            fails: false,
        })))
    }

    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.state());
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn there(&self) -> Vec<String> {
        self.state().there.keys().cloned().collect()
    }

    fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.dies_at = None;
    }

    fn open(&self) -> Arc<dyn SnapshotProvider> {
        let clouds = Clouds {
            retry: Duration::from_secs(30),
            fake: Some(OpenedApi {
                api: Arc::new(self.clone()),
                region: None,
            }),
            ..Clouds::default()
        };
        let text = |text: &str| Some(text.to_owned());
        let options = SnapshotOptions {
            azure_subscription: text("s"),
            azure_resource_group: text("g"),
            gcp_project: text("p"),
            gcp_zone: text("z"),
            ..SnapshotOptions::default()
        };
        let cloud = self.state().cloud;
        clouds.open(cloud, &options).unwrap()
    }
}

#[async_trait]
impl Api for Fake {
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError> {
        let mut state = self.state();
        let number = state.calls.len();
        // Ids of requests differ from run to run.
        let shown = call.target.split("requestId=").next().unwrap();
        state.calls.push(format!("{} {shown}", call.method));
        let lost = || ApiError::new(StoreErrorKind::Connect, "the line is dead");
        if state.dies_at.is_some_and(|at| number >= at) {
            return Err(lost());
        }
        let fault = state.faults.iter().find(|(at, _)| *at == number);
        let fault = fault.map(|(_, fault)| *fault);
        match fault {
            Some(Fault::Before) => return Err(lost()),
            Some(Fault::Refused(status, code)) => return Ok(state.refusal(status, code)),
            _ => {}
        }
        let answer = state.act(call);
        if fault == Some(Fault::After) {
            return Err(lost());
        }
        Ok(answer)
    }
}

impl State {
    fn refusal(&self, status: u16, code: &str) -> ApiAnswer {
        let body = match self.cloud {
            Cloud::Gcp => {
                json!({"error": {"code": status, "message": "no", "errors": [{"reason": code}]}})
            }
            _ => json!({"error": {"code": code, "message": "no"}}),
        };
        ApiAnswer {
            request: Some(RequestId {
                id: "r-1".to_owned(),
                host: None,
            }),
            ..answer(status, &body)
        }
    }

    fn absent(&self) -> ApiAnswer {
        self.refusal(404, "ResourceNotFound")
    }

    /// Begins an operation that makes a snapshot, or takes it away.
    fn begin(&mut self, name: &str, made: Option<Value>) -> ApiAnswer {
        let number = self.operations.len();
        self.operations
            .push((self.polls, Some((name.to_owned(), made))));
        if self.cloud == Cloud::Gcp {
            let begun = json!({"name": format!("op-{number}"), "status": "RUNNING"});
            return answer(200, &begun);
        }
        let mut begun = answer(202, &json!({}));
        let url = format!("https://arm/operations/op-{number}?x=1");
        begun.headers.push(("azure-asyncoperation".into(), url));
        begun
    }

    fn operation(&mut self, number: usize) -> ApiAnswer {
        let fails = self.fails;
        let (left, end) = &mut self.operations[number];
        let over = *left == 0;
        *left = left.saturating_sub(1);
        if over
            && !fails
            && let Some((name, made)) = end.take()
        {
            match made {
                Some(value) => {
                    self.there.insert(name, value);
                }
                None => {
                    self.there.remove(&name);
                }
            }
        }
        let body = match (self.cloud, over, fails) {
            (Cloud::Gcp, false, _) => json!({"status": "RUNNING"}),
            (Cloud::Gcp, true, false) => {
                json!({"status": "DONE", "warnings": [{"message": "slow"}]})
            }
            (Cloud::Gcp, true, true) => json!({"status": "DONE", "httpErrorStatusCode": 403,
                "error": {"errors": [{"code": "QUOTA_EXCEEDED", "message": "too many"}]}}),
            (_, false, _) => json!({"status": "InProgress"}),
            (_, true, false) => json!({"status": "Succeeded"}),
            (_, true, true) => json!({"status": "Failed",
                "error": {"code": "QUOTA_EXCEEDED", "message": "too many"}}),
        };
        let mut answer = answer(200, &body);
        answer.headers.push(("retry-after".into(), "7".into()));
        answer
    }

    fn act(&mut self, call: &ApiCall) -> ApiAnswer {
        let path = call.target.split('?').next().unwrap();
        let last = path.rsplit('/').next().unwrap().to_owned();
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        if let Some(number) = last.strip_prefix("op-") {
            return self.operation(number.parse().unwrap());
        }
        let kind = path.rsplit('/').nth(1).unwrap_or_default();
        match (call.method, kind, last.as_str()) {
            ("GET", "virtualMachines", "vm") => answer(
                200,
                &json!({"properties": {"storageProfile": {
                "osDisk": {"name": "os"},
                "dataDisks": [
                    {"lun": 3, "name": "data", "managedDisk": {"id": "/x/disks/data"}},
                    {"lun": 4, "name": "pgdata", "managedDisk": {"id": "/x/disks/pgdata"}},
                ]}}}),
            ),
            ("GET", "instances", "vm") => answer(
                200,
                &json!({"disks": [
                    {"boot": true, "source": "https://g/compute/v1/projects/p/zones/z/disks/os", "deviceName": "b"},
                    {"source": "https://g/compute/v1/projects/p/zones/z/disks/data", "deviceName": "d1"},
                    {"source": "https://g/compute/v1/projects/p/regions/r/disks/pgdata", "deviceName": "d2"},
                    {"type": "SCRATCH"},
                ]}),
            ),
            ("GET", "disks", name) => {
                let old = name == "pgdata";
                let created = if old {
                    json!({"createOption": "Copy", "sourceResourceId": "/x/snapshots/old"})
                } else {
                    json!({"createOption": "Empty"})
                };
                answer(
                    200,
                    &json!({"location": "here", "properties": {"creationData": created},
                    "sourceSnapshot": old.then_some("https://g/projects/p/global/snapshots/old")}),
                )
            }
            ("PUT", "snapshots", name) => {
                assert_eq!(body["properties"]["incremental"], true);
                assert_eq!(body["location"], "here");
                let name = name.to_owned();
                self.begin(&name, Some(body))
            }
            ("POST", "global", "snapshots") => {
                let name = body["name"].as_str().unwrap().to_owned();
                if self.there.contains_key(&name) {
                    return self.refusal(409, "alreadyExists");
                }
                self.begin(&name, Some(body))
            }
            ("GET", "snapshots", name) => match self.there.get(name) {
                Some(made) => answer(
                    200,
                    &json!({"status": "READY",
                    "sourceDisk": made["sourceDisk"].as_str().map(|disk| format!("https://g/compute/v1/{disk}")),
                    "properties": {"provisioningState": "Succeeded",
                    "creationData": {"sourceUri": made["properties"]["creationData"]["sourceUri"]}}}),
                ),
                None => self.absent(),
            },
            ("DELETE", "snapshots", name) if self.there.contains_key(name) => {
                let name = name.to_owned();
                self.begin(&name, None)
            }
            ("DELETE", "snapshots", _) if self.cloud == Cloud::Azure => answer(204, &Value::Null),
            _ => self.absent(),
        }
    }
}

fn answer(status: u16, body: &Value) -> ApiAnswer {
    ApiAnswer {
        status,
        body: body.to_string().into(),
        ..ApiAnswer::default()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

async fn make(fake: &Fake) -> (Making, Result<(), String>) {
    let provider = fake.open();
    let found = provider
        .disks("vm", Some(&names(&["data", "pgdata"])))
        .await;
    let disks = found.iter().flatten();
    let disks = disks.map(|disk| (disk.clone(), RecordedMount::default()));
    let mut making = Making::new(provider, disks.collect(), ID);
    let made = async {
        found?;
        making.begin().await?;
        making.wait().await
    };
    let made = made.await.map_err(|error| error.to_string());
    (making, made)
}

#[tokio::test(start_paused = true)]
async fn disks_are_found_by_exact_names_with_what_only_they_tell() {
    for cloud in BOTH {
        let provider = Fake::new(cloud).open();
        let found = provider
            .disks("vm", Some(&names(&["data", "ata"])))
            .await
            .unwrap();
        let [disk] = &found[..] else {
            panic!("{found:?}")
        };
        let (path, id) = match cloud {
            Cloud::Azure => ("/dev/disk/azure/scsi1/lun3", "/x/disks/data"),
            _ => ("/dev/disk/by-id/google-d1", "projects/p/zones/z/disks/data"),
        };
        assert_eq!(disk.device.paths[0], std::path::Path::new(path));
        assert_eq!((&*disk.id, disk.origin.as_deref()), (id, None));
        let all = provider.disks("vm", None).await.unwrap();
        let all: Vec<_> = all
            .iter()
            .map(|disk| (&*disk.name, disk.origin.as_deref()))
            .collect();
        assert_eq!(all, [("data", None), ("pgdata", Some("old"))]);
        let error = provider.disks("other", None).await.unwrap_err();
        assert_eq!(error.text, "Cannot find compute instance other");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_google_does_not_take_is_told_beforehand() {
    let provider = Fake::new(Cloud::Gcp).open();
    let name = "d".repeat(48);
    let error = provider.disks("vm", Some(&[name])).await.unwrap_err();
    assert_eq!(error.kind, SnapshotErrorKind::Invalid);
    assert!(error.text.ends_with("may have 47 characters"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_made_recorded_and_deleted() {
    for cloud in BOTH {
        let fake = Fake::new(cloud);
        let (making, made) = make(&fake).await;
        made.unwrap();
        let (one, two) = ("data-20261121t024500", "pgdata-20261121t024500");
        assert_eq!(fake.there(), [one, two]);
        let record = making.record();
        let text = record.to_literal().to_string();
        let expected = match cloud {
            Cloud::Azure => {
                "'provider': {'location': 'here', 'lun': 3, 'snapshot_name': \
                             'data-20261121t024500'}"
            }
            _ => {
                "'provider': {'device_name': 'd1', 'snapshot_name': 'data-20261121t024500', \
                  'snapshot_project': 'p'}"
            }
        };
        assert!(text.contains(expected), "{text}");
        let provider = fake.open();
        for one in &record.snapshots {
            let found = provider.locate(one).await.unwrap();
            assert_eq!(provider.delete(&found[0].id).await.unwrap(), Deleted::Gone);
            assert_eq!(
                provider.delete(&found[0].id).await.unwrap(),
                Deleted::Absent
            );
        }
        assert!(fake.there().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_is_told_in_the_service_s_words() {
    for cloud in BOTH {
        let fake = Fake::new(cloud).with(|state| state.fails = true);
        let (mut making, made) = make(&fake).await;
        let error = made.unwrap_err();
        assert!(error.ends_with("QUOTA_EXCEEDED: too many"), "{error}");
        making.undo(Duration::from_mins(1)).await;
        assert!(fake.there().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_time_gets_it() {
    for cloud in BOTH {
        let busy = match cloud {
            Cloud::Gcp => Fault::Refused(403, "rateLimitExceeded"),
            _ => Fault::Refused(429, "TooManyRequests"),
        };
        let fake = Fake::new(cloud).with(|state| {
            state.faults = vec![
                (0, busy),
                (1, Fault::Refused(503, "x")),
                (4, busy),
                (6, Fault::After),
            ];
        });
        make(&fake).await.1.unwrap();
        assert_eq!(fake.there().len(), 2);
    }
}

/// A resource group that is gone says nothing of what was in it.
#[tokio::test(start_paused = true)]
async fn only_a_snapshot_that_is_not_there_counts_as_deleted() {
    let gone = Fault::Refused(404, "ResourceGroupNotFound");
    let locked = Fault::Refused(409, "ScopeLocked");
    for (fault, kind) in [
        (gone, SnapshotErrorKind::Refused),
        (locked, SnapshotErrorKind::Locked),
    ] {
        let fake = Fake::new(Cloud::Azure).with(|state| state.faults = vec![(0, fault)]);
        let error = fake.open().delete("x").await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.text.ends_with(" (request id r-1)"), "{error}");
    }
}

/// Machines of several zones have disks of one name, and begin their backups in one second.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_zone_s_disk_is_neither_taken_nor_deleted() {
    let name = format!("data-{}", ID.to_lowercase());
    let fake = Fake::new(Cloud::Gcp).with(|state| {
        let theirs = json!({"sourceDisk": "projects/p/zones/elsewhere/disks/data"});
        state.there.insert(name.clone(), theirs);
    });
    let (mut making, made) = make(&fake).await;
    let error = made.unwrap_err();
    assert!(error.contains("alreadyExists"), "{error}");
    assert!(making.undo(Duration::from_mins(1)).await.is_none());
    assert_eq!(fake.there(), std::slice::from_ref(&name));
    // One whose answer was lost is known by its disk, whatever the project is called.
    let fake = Fake::new(Cloud::Gcp).with(|state| {
        let ours = json!({"sourceDisk": "projects/4711/zones/z/disks/data"});
        state.there.insert(name.clone(), ours);
    });
    make(&fake).await.1.unwrap();
}

/// Whatever call is the last one that arrives: what is left is in the record (S1).
#[tokio::test(start_paused = true)]
async fn what_is_left_after_a_service_that_dies_anywhere_is_recorded() {
    for cloud in BOTH {
        let whole = Fake::new(cloud);
        make(&whole).await.1.unwrap();
        let calls = whole.state().calls.len();
        assert!(calls >= 11, "{:?}", whole.state().calls);
        let refused = Fault::Refused(403, "Forbidden");
        // The last request that arrives may be done without an answer.
        for (fate, dies) in [
            (None, Some(0)),
            (Some(Fault::After), None),
            (Some(Fault::After), Some(1)),
            (Some(refused), None),
        ] {
            for at in 0..calls {
                let fake = Fake::new(cloud).with(|state| {
                    state.faults.extend(fate.map(|fault| (at, fault)));
                    state.dies_at = dies.map(|later| at + later);
                });
                let (mut making, made) = make(&fake).await;
                if made.is_ok() {
                    continue;
                }
                let left = making.undo(Duration::from_mins(1)).await;
                fake.heal();
                // What is under way comes to its end, seen or not.
                let running = fake.state().operations.len();
                for number in 0..running {
                    while fake.state().operations[number].1.is_some() {
                        fake.state().operation(number);
                    }
                }
                let named: Vec<_> = left.iter().flat_map(|left| &left.snapshots).collect();
                for name in fake.there() {
                    let is_named = named.iter().any(|left| left.name.as_ref() == Some(&name));
                    assert!(
                        is_named,
                        "{name} is lost: {cloud:?} {fate:?} at {at}: {named:?}"
                    );
                }
                // And goes by the record once the service is back.
                let provider = fake.open();
                for one in named {
                    for found in provider.locate(one).await.unwrap() {
                        provider.delete(&found.id).await.unwrap();
                    }
                }
                assert!(fake.there().is_empty(), "{cloud:?} {fate:?} at {at}");
            }
        }
    }
}
