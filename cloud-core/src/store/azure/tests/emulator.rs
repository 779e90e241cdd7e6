//! The list of what every store must do, against Azurite
//! (`tests/servers/up.sh azurite`).

use std::time::Duration;

use super::*;
use crate::store::conformance::{self, Gap};
use crate::store::{Retry, RetryPolicy};

/// Blocks that were not committed are no uploads that could be listed.
const GAPS: [Gap; 1] = [Gap::UnfinishedUploads];

#[tokio::test]
async fn the_emulator_passes_the_conformance_suite() {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(key)) = (variable("TEST_AZURE_URL"), variable("TEST_AZURE_KEY")) else {
        let help = "TEST_AZURE_URL is not set: run \
                    `exports=$(tests/servers/up.sh azurite) && eval \"$exports\"`";
        assert!(std::env::var_os("CI").is_none(), "{help}");
        eprintln!("skipped: {help}");
        return;
    };
    let text = format!("AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint={url}");
    let config = StoreConfig::default();
    let place = Place {
        account_url: "http://127.0.0.1/account".into(),
        container: format!("conformance-{}", std::process::id()),
        path: String::new(),
        emulated: true,
    };
    let variables = Variables::of(&[("AZURE_STORAGE_CONNECTION_STRING", &text)]);
    let store = AzureStore::with(&config, Connect::with(&config, &place, variables), place);
    assert_eq!(store.probe().await.unwrap(), BucketState::Missing);
    store.create_bucket().await.unwrap();
    let store = Arc::new(store);
    conformance::all_but(store.clone(), "a prefix/of its own", &GAPS).await;
    let policy = RetryPolicy::per_request(Duration::from_mins(1));
    let retry = Arc::new(Retry::new(store, policy));
    conformance::all_but(retry, "again", &GAPS).await;
}
