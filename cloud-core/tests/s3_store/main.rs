//! S3 as real servers speak it: Ceph's gateway, plain and over TLS, and moto.
//!
//! `tests/servers/up.sh` starts them and prints what these tests read: the
//! addresses, and a file of AWS profiles with the keys.

use std::sync::Arc;
use std::time::Duration;

use cloud_core::store::{
    ObjectStore, Retry, RetryPolicy, StoreConfig, StoreErrorKind, conformance, open,
};

use conformance::Gap;

/// Ceph 16 says that an upload that is gone is being completed, with a 500.
const CEPH: &[Gap] = &[Gap::CompleteAborted];

/// moto answers `ListParts` with an element of another name (`ListPartsResponse`), and
/// its threads look for an object and write it one after the other.
const MOTO: &[Gap] = &[Gap::UnfinishedUploads, Gap::RacingWriters];

/// The store behind an address, or a word on why there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
fn store(address: &str, profile: &str, bucket: &str) -> Option<Arc<dyn ObjectStore>> {
    let Ok(url) = std::env::var(address) else {
        let help = format!("{address} is not set: eval \"$(tests/servers/up.sh)\"");
        assert!(std::env::var_os("CI").is_none(), "{help}");
        eprintln!("skipped: {help}");
        return None;
    };
    let config = StoreConfig {
        url: format!("s3://{bucket}"),
        endpoint_url: Some(url),
        aws_profile: Some(profile.to_owned()),
        read_timeout: Some(30),
        ..StoreConfig::default()
    };
    Some(open(&config).expect("the URL names a bucket").store)
}

/// A bucket of this run, so that tests neither meet nor find what was left.
fn bucket(name: &str) -> String {
    format!("conformance-{name}-{}", std::process::id())
}

async fn conforms(address: &str, profile: &str, name: &str, gaps: &[Gap]) {
    let Some(store) = store(address, profile, &bucket(name)) else {
        return;
    };
    store.create_bucket().await.expect("the bucket is new");
    conformance::all_but(Arc::clone(&store), "plain", gaps).await;
    let policy = RetryPolicy::per_request(Duration::from_mins(1));
    let retry = Arc::new(Retry::new(store, policy));
    conformance::all_but(retry, "retry", gaps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ceph_conforms() {
    conforms("TEST_S3_CEPH_URL", "test", "ceph", CEPH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ceph_conforms_over_tls() {
    conforms("TEST_S3_CEPH_TLS_URL", "test-tls", "ceph-tls", CEPH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ceph_conforms_without_checksum_headers() {
    conforms("TEST_S3_CEPH_URL", "test-when-required", "ceph-md5", CEPH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    conforms("TEST_S3_MOTO_URL", "test", "moto", MOTO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms_without_checksum_headers() {
    conforms("TEST_S3_MOTO_URL", "test-when-required", "moto-md5", MOTO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_told_from_a_missing_object() {
    for address in ["TEST_S3_CEPH_URL", "TEST_S3_MOTO_URL"] {
        let Some(store) = store(address, "test", &bucket("missing")) else {
            return;
        };
        let state = store.probe().await.expect("the store can be asked");
        assert_eq!(state, cloud_core::store::BucketState::Missing);
        let key = cloud_core::key::Key::new("a").expect("it is a name");
        let options = cloud_core::store::PutOptions::default();
        let put = store.put(&key, "x".into(), &options);
        let error = put.await.expect_err("there is no bucket");
        assert_eq!(error.kind, StoreErrorKind::BucketMissing, "{error:?}");
    }
}
