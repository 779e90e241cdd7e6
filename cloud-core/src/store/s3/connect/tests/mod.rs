//! The whole way to a store on this machine: what it is asked, and with whose
//! signature.

use super::testing::{Home, StandIn};
use super::*;
use crate::store::StoreErrorKind;

mod quiet;
mod sources;
mod trust;
mod wire;

/// The way to a bucket at `endpoint`.
fn connect(variables: Variables, endpoint: &str) -> Connect {
    with(variables, |config| {
        config.endpoint_url = Some(endpoint.into());
    })
}

fn with(variables: Variables, change: impl FnOnce(&mut StoreConfig)) -> Connect {
    let mut config = StoreConfig {
        url: "s3://bucket/path".into(),
        ..StoreConfig::default()
    };
    change(&mut config);
    Connect::with(&config, variables)
}

/// A store that has every object, and all of them empty.
async fn store() -> StandIn {
    StandIn::start(|_| (200, String::new())).await
}

/// Asks the store for an object.
async fn ask(connect: &Connect) -> Result<(), ConnectError> {
    let client = connect.get().await?.client.clone();
    let sent = client.head_object().bucket("bucket").key("key").send();
    match sent.await {
        Ok(_) => Ok(()),
        Err(error) => Err(classify(&error).expect("the stand-in refuses nothing")),
    }
}

/// The id of the key that signed the last request of the store.
async fn signer(variables: Variables) -> Result<String, ConnectError> {
    let store = store().await;
    ask(&connect(variables, &store.url())).await?;
    Ok(store.seen().last().unwrap().signed_by().to_owned())
}

/// Why there is no connection: it is not a transient failure, and no secret is
/// in it.
async fn refusal(variables: Variables) -> String {
    let connect = connect(variables, "http://127.0.0.1:1");
    let error = connect.get().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unauthenticated, "{error}");
    assert!(!error.text.contains("hush"), "{error}");
    error.text
}

/// A time so many seconds from now, as JSON has it.
fn in_seconds(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    let then = now + jiff::SignedDuration::from_secs(seconds);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
