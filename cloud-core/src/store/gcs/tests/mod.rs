//! What goes over the wire, what becomes of what comes back, and the whole
//! contract on servers that stand in for the service.

mod deleting;
mod emulators;
mod listing;
mod multipart;
mod reading;
mod resumable;
mod uploads;
mod writing;

use bytes::Bytes;

use super::*;
use crate::store::http::Variables;
use crate::store::scripted::{Answer, Request, Server};
use crate::store::{ObjectVersion, PartNumber, PartReceipt, PutMode, Tag};

const BODY: Bytes = Bytes::from_static(b"123456789");

/// CRC-32C of [`BODY`], in base64: the check value of the standard.
const CRC32C: &str = "4waSgw==";

/// The path of [`key`] in the JSON API, without its beginning.
const OBJECT: &str = "/b/bucket/o/dir%2Fa%20b%2Bc";

/// The path of [`key`] in the XML API.
const XML: &str = "/bucket/dir/a%20b%2Bc";

fn key() -> Key {
    Key::new("dir/a b+c").unwrap()
}

fn variables(url: &str) -> Variables {
    Variables::of(&[("STORAGE_EMULATOR_HOST", url)])
}

/// The bucket `bucket` of a service that needs no credentials.
fn at(url: &str, config: &StoreConfig, bucket: &str) -> Arc<dyn ObjectStore> {
    Arc::new(GcsStore::with(config, bucket, variables(url)))
}

fn store(server: &Server) -> Arc<dyn ObjectStore> {
    at(&server.url, &StoreConfig::default(), "bucket")
}

fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    }
}

fn tagged(tags: &[(&str, &str)]) -> PutOptions {
    let tag = |(key, value): &(&str, &str)| Tag {
        key: (*key).into(),
        value: (*value).into(),
    };
    PutOptions {
        tags: Some(tags.iter().map(tag).collect()),
        ..PutOptions::default()
    }
}

/// An answer of the JSON API.
fn json(status: u16, value: &serde_json::Value) -> Answer {
    Answer::new(status)
        .header("content-type", "application/json")
        .body(value.to_string())
}

/// What the JSON API says of a failure.
fn refusal(status: u16, reason: &str, message: &str) -> Answer {
    let first = json!({"domain": "global", "reason": reason, "message": message});
    let error = json!({"code": status, "message": message, "errors": [first]});
    json(status, &json!({ "error": error }))
}

/// What is said of an object that was written.
fn written() -> Answer {
    let size = BODY.len().to_string();
    let object = json!({"name": "n", "size": size, "generation": "17", "crc32c": CRC32C});
    json(200, &object)
}

/// What every request of a write must be: of plain length.
fn assert_plain(request: &Request) {
    let told = format!("{request:#?}");
    let expected = request.body.len().to_string();
    assert_eq!(
        request.header("content-length"),
        Some(expected.as_str()),
        "{told}"
    );
    for name in ["transfer-encoding", "content-encoding", "expect"] {
        assert_eq!(request.header(name), None, "{told}");
    }
    // The URL has the port, by which emulators build addresses.
    assert!(
        request.header("host").unwrap().starts_with("127.0.0.1:"),
        "{told}"
    );
}

fn part(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}
