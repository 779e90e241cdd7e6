//! What goes over the wire, and what becomes of what comes back.

mod emulator;
mod failing;
mod multipart;
mod reading;
mod writing;

use bytes::Bytes;

use super::*;
use crate::store::http::Variables;
use crate::store::scripted::{Answer, Request as Sent, Server};
use crate::store::{ObjectVersion, PartNumber, PutMode, Tag};

/// The name of the account, and its key, which nothing may print.
const ACCOUNT: &str = "acc";
const KEY: &str = "aHVzaC1odXNoLWh1c2g=";

const BODY: Bytes = Bytes::from_static(b"123456789");

/// CRC-64 of [`BODY`], as the service writes it.
const CRC64: &str = "iJh5CoYUi64=";

/// The path of [`key`].
const PATH: &str = "/acc/container/dir%2Fa%20b+c";

fn key() -> Key {
    Key::new("dir/a b+c").unwrap()
}

fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::CreateOnly,
        ..PutOptions::default()
    }
}

fn place(server: &Server) -> Place {
    Place {
        account_url: format!("{}/{ACCOUNT}", server.url),
        container: "container".into(),
        path: "path/".into(),
        emulated: true,
    }
}

fn store_with(server: &Server, config: &StoreConfig) -> AzureStore {
    let text = format!(
        "AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={}/{ACCOUNT}",
        server.url
    );
    let variables = Variables::of(&[("AZURE_STORAGE_CONNECTION_STRING", &text)]);
    let place = place(server);
    AzureStore::with(config, Connect::with(config, &place, variables), place)
}

fn store(server: &Server) -> AzureStore {
    store_with(server, &StoreConfig::default())
}

/// A write that was done.
fn written() -> Answer {
    Answer::new(201)
        .header("etag", "\"0x1\"")
        .header("x-ms-content-crc64", CRC64)
}

/// A refusal, with its code where the service has it: in the body and beside it.
fn refused(status: u16, code: &str) -> Answer {
    let rest = "<Message>It is so.\nRequestId:1\nTime:2</Message>";
    Answer::error(status, code, rest).header("x-ms-error-code", code)
}

/// All that a user could be shown of an error.
fn words(error: &StoreError) -> String {
    format!("{error}: {}", error.source)
}

/// What every request has.
fn assert_signed(request: &Sent) {
    let by = request.header("authorization").unwrap_or_default();
    assert!(by.starts_with("SharedKey acc:"), "{request:#?}");
    assert!(request.header("x-ms-date").is_some(), "{request:#?}");
    assert_eq!(request.header("x-ms-version"), Some(VERSION));
    assert!(
        request.header("transfer-encoding").is_none(),
        "{request:#?}"
    );
}
