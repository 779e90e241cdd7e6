//! EC2 in the emulator that also serves S3: instances, volumes and snapshots.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::admin::{Admin, text, texts};
use crate::s3::{Bucket, set};

/// The service beside a bucket of `S3Server::Moto`, past the tools that are tested.
#[derive(Debug)]
pub struct Ec2(Mutex<Admin>);

impl Ec2 {
    /// Without the emulator, says what would help and gives `None`: the test is skipped;
    /// on CI (`CI` is set) it fails instead.
    pub fn beside(bucket: &Bucket<'_>) -> Option<Self> {
        let python = set("TEST_S3_PYTHON")?;
        let admin = Admin::start(&python, "ec2_admin.py", &bucket.environment());
        Some(Self(Mutex::new(admin)))
    }

    /// A new instance with the tag `Name`; gives its id.
    pub fn instance(&self, name: &str) -> String {
        text(&self.ask(&json!(["instance", name])))
    }

    /// A new volume at an instance, empty or made of a snapshot; gives its id.
    pub fn volume(
        &self,
        instance: &str,
        device: &str,
        name: &str,
        snapshot: Option<&str>,
    ) -> String {
        text(&self.ask(&json!(["volume", instance, device, name, snapshot])))
    }

    /// The tags of the snapshots of a volume, by their ids.
    pub fn snapshots(&self, volume: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let found = self.ask(&json!(["snapshots", volume]));
        let found = found.as_object().expect("an object in JSON");
        found
            .iter()
            .map(|(id, tags)| (id.clone(), texts(tags)))
            .collect()
    }

    fn ask(&self, request: &Value) -> Value {
        self.0
            .lock()
            .expect("no thread of a test panics")
            .ask(request)
    }
}
