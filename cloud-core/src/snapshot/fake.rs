//! EC2 in memory, as far as snapshots go, with faults.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use super::Clouds;
use crate::store::{Api, ApiAnswer, ApiCall, ApiError, OpenedApi, RequestId, StoreErrorKind};

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not arrive.
    Before,
    /// It is done, and the answer does not arrive.
    After,
    /// A refusal with this status and code.
    Refused(u16, &'static str),
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) name: Option<String>,
    pub(crate) volume: String,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) locked: bool,
    /// How often it is still seen as pending.
    pub(crate) pending: u32,
    pub(crate) outpost: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    snapshots: BTreeMap<String, Snapshot>,
    made: u32,
    calls: Vec<String>,
    faults: Vec<(usize, Fault)>,
    dies_at: Option<usize>,
    /// Of new snapshots.
    pending: u32,
    fails: bool,
    outpost: Option<String>,
    page: usize,
}

/// The service: instance `i-1`, called `pg-1`, with volumes `vol-1` (`pgdata`), `vol-2`
/// (`pgdata-old`, made of `snap-old`), and `vol-0`, from which it starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeEc2(Arc<Mutex<State>>);

impl FakeEc2 {
    pub(crate) fn clouds(&self) -> Clouds {
        Clouds {
            retry: std::time::Duration::from_secs(30),
            fake: Some(OpenedApi {
                api: Arc::new(self.clone()),
                region: Some("us-east-1".into()),
            }),
            ..Clouds::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From its call number `calls` (from 0) on nothing arrives.
    pub(crate) fn die_after(self, calls: usize) -> Self {
        self.state().dies_at = Some(calls);
        self
    }

    /// A fault at a call, counted from 0.
    pub(crate) fn fault(self, at: usize, fault: Fault) -> Self {
        self.state().faults.push((at, fault));
        self
    }

    /// The service works again.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.dies_at = None;
        state.faults.clear();
    }

    /// New snapshots are seen so often as pending.
    pub(crate) fn pending(self, times: u32) -> Self {
        self.state().pending = times;
        self
    }

    /// New snapshots come to nothing.
    pub(crate) fn failing(self) -> Self {
        self.state().fails = true;
        self
    }

    pub(crate) fn on_outpost(self, arn: &str) -> Self {
        self.state().outpost = Some(arn.into());
        self
    }

    /// Lists come in pages of so many.
    pub(crate) fn paged(self, page: usize) -> Self {
        self.state().page = page;
        self
    }

    /// A snapshot of `vol-1`.
    pub(crate) fn put(&self, id: &str, name: Option<&str>, locked: bool) {
        self.put_of("vol-1", id, name, locked);
    }

    pub(crate) fn put_of(&self, volume: &str, id: &str, name: Option<&str>, locked: bool) {
        let snapshot = Snapshot {
            name: name.map(str::to_owned),
            volume: volume.to_owned(),
            tags: Vec::new(),
            locked,
            pending: 0,
            outpost: None,
        };
        self.state().snapshots.insert(id.to_owned(), snapshot);
    }

    pub(crate) fn snapshots(&self) -> BTreeMap<String, Snapshot> {
        self.state().snapshots.clone()
    }

    /// The actions so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }
}

#[async_trait]
impl Api for FakeEc2 {
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError> {
        let form = String::from_utf8(call.body.to_vec()).unwrap();
        let form: BTreeMap<String, String> = form
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(form["Action"].clone());
        let lost = || ApiError::new(StoreErrorKind::Connect, "the line is dead");
        if state.dies_at.is_some_and(|at| number >= at) {
            return Err(lost());
        }
        let fault = state.faults.iter().find(|(at, _)| *at == number);
        let fault = fault.map(|(_, fault)| *fault);
        match fault {
            Some(Fault::Before) => return Err(lost()),
            Some(Fault::Refused(status, code)) => return Ok(refusal(status, code)),
            _ => {}
        }
        let answer = state.act(&form);
        if fault == Some(Fault::After) {
            return Err(lost());
        }
        Ok(match answer {
            Ok(inside) => answer_of(200, format!("<Answer>{inside}</Answer>")),
            Err(code) => refusal(400, code),
        })
    }
}

impl State {
    fn act(&mut self, form: &BTreeMap<String, String>) -> Result<String, &'static str> {
        let get = |name: &str| form.get(name).cloned().unwrap_or_default();
        match form["Action"].as_str() {
            "DescribeInstances" => {
                let named = (get("InstanceId.1"), get("Filter.1.Value.1"));
                if named.0 == "i-bad" {
                    return Err("InvalidInstanceID.Malformed");
                }
                if named.0 != "i-1" && named.1 != "pg-1" {
                    return if named.0.is_empty() {
                        Ok("<reservationSet/>".to_owned())
                    } else {
                        Err("InvalidInstanceID.NotFound")
                    };
                }
                let outpost = match &self.outpost {
                    Some(arn) => format!("<outpostArn>{arn}</outpostArn>"),
                    None => String::new(),
                };
                Ok(format!(
                    "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
                     <rootDeviceName>/dev/xvda</rootDeviceName>{outpost}</item></instancesSet>\
                     </item></reservationSet>"
                ))
            }
            "DescribeVolumes" => {
                let volumes = [
                    volume("vol-0", "root", "/dev/xvda", ""),
                    volume("vol-1", "pgdata", "/dev/sdf", ""),
                    volume("vol-2", "pgdata-old", "/dev/sdg", "snap-old"),
                ];
                Ok(self.page("volumeSet", &volumes, &get("NextToken")))
            }
            "CreateSnapshot" => {
                self.made += 1;
                let id = format!("snap-{}", self.made);
                let mut tags = Vec::new();
                while let Some(key) =
                    form.get(&format!("TagSpecification.1.Tag.{}.Key", tags.len() + 1))
                {
                    let value = get(&format!("TagSpecification.1.Tag.{}.Value", tags.len() + 1));
                    tags.push((key.clone(), value));
                }
                let name = tags.iter().find(|(key, _)| key == "Name");
                let snapshot = Snapshot {
                    name: name.map(|(_, value)| value.clone()),
                    volume: get("VolumeId"),
                    tags,
                    locked: false,
                    pending: self.pending,
                    outpost: form.get("OutpostArn").cloned(),
                };
                let inside = format!(
                    "<snapshotId>{id}</snapshotId><ownerId>123</ownerId><status>pending</status>"
                );
                self.snapshots.insert(id, snapshot);
                Ok(inside)
            }
            "DescribeSnapshots" => {
                let (id, name) = (get("SnapshotId.1"), get("Filter.1.Value.1"));
                let volume = form.get("Filter.2.Value.1");
                if !id.is_empty() && !self.snapshots.contains_key(&id) {
                    return Err("InvalidSnapshot.NotFound");
                }
                let mut items = Vec::new();
                for (other, one) in &mut self.snapshots {
                    let called = one.name.as_ref().is_some_and(|one| fits(&name, one));
                    if *other != id && (!id.is_empty() || !called) {
                        continue;
                    }
                    if volume.is_some_and(|volume| one.volume != *volume) {
                        continue;
                    }
                    let status = match one.pending {
                        0 if self.fails => "error",
                        0 => "completed",
                        _ => "pending",
                    };
                    one.pending = one.pending.saturating_sub(1);
                    let mut item = format!(
                        "<item><snapshotId>{other}</snapshotId><ownerId>123</ownerId>\
                         <status>{status}</status><statusMessage>broken</statusMessage>\
                         <volumeId>{}</volumeId>",
                        one.volume
                    );
                    if let Some(name) = &one.name {
                        let _ = write!(
                            item,
                            "<tagSet><item><key>Name</key><value>{name}</value></item></tagSet>"
                        );
                    }
                    items.push(item + "</item>");
                }
                Ok(self.page("snapshotSet", &items, &get("NextToken")))
            }
            "LockSnapshot" => {
                let one = self.snapshots.get_mut(&get("SnapshotId"));
                one.ok_or("InvalidSnapshot.NotFound")?.locked = true;
                Ok(String::new())
            }
            "DeleteSnapshot" => {
                let id = get("SnapshotId");
                match self.snapshots.get(&id) {
                    None => Err("InvalidSnapshot.NotFound"),
                    Some(one) if one.locked => Err("SnapshotLocked"),
                    Some(_) => {
                        self.snapshots.remove(&id);
                        Ok("<return>true</return>".to_owned())
                    }
                }
            }
            other => panic!("{other} is no action of ours"),
        }
    }

    fn page(&self, list: &str, items: &[String], token: &str) -> String {
        let begin = token.parse().unwrap_or(0);
        let end = match self.page {
            0 => items.len(),
            page => items.len().min(begin + page),
        };
        let more = if end < items.len() {
            format!("<nextToken>{end}</nextToken>")
        } else {
            String::new()
        };
        format!("<{list}>{}</{list}>{more}", items[begin..end].concat())
    }
}

/// Whether a text is what a filter's value means: a star is for anything, unless it is
/// escaped.
fn fits(value: &str, text: &str) -> bool {
    let (mut value, mut text) = (value.chars(), text.chars());
    match value.next() {
        None => text.next().is_none(),
        Some('*') => {
            let rest = value.as_str();
            let text = text.as_str();
            let mut ends = text.char_indices().map(|(at, _)| at);
            ends.any(|at| fits(rest, &text[at..])) || fits(rest, "")
        }
        Some('\\') => value.next() == text.next() && fits(value.as_str(), text.as_str()),
        Some(letter) => text.next() == Some(letter) && fits(value.as_str(), text.as_str()),
    }
}

fn volume(id: &str, name: &str, device: &str, origin: &str) -> String {
    format!(
        "<item><volumeId>{id}</volumeId><snapshotId>{origin}</snapshotId><attachmentSet><item>\
         <instanceId>i-1</instanceId><device>{device}</device></item></attachmentSet><tagSet>\
         <item><key>Name</key><value>{name}</value></item></tagSet></item>"
    )
}

fn refusal(status: u16, code: &str) -> ApiAnswer {
    let text = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors>\
         </Response>"
    );
    ApiAnswer {
        request: Some(RequestId {
            id: "r-1".to_owned(),
            host: None,
        }),
        ..answer_of(status, text)
    }
}

fn answer_of(status: u16, body: String) -> ApiAnswer {
    ApiAnswer {
        status,
        body: body.into(),
        ..ApiAnswer::default()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(&others[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).unwrap()
}
