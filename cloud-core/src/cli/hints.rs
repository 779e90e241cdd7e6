//! What to do next about a command line that names no place.

use super::args::Place;
use crate::store::{InvalidUrl, OpenError, Provider, StoreConfig};

/// About a URL, or options of a store, that cannot be used.
pub(super) fn of_open(
    config: &StoreConfig,
    place: Place<'_>,
    error: &OpenError,
) -> Option<&'static str> {
    match error {
        OpenError::Url(InvalidUrl::File(_)) => {
            Some("write the whole path from the root on behind file://")
        }
        OpenError::Url(InvalidUrl::Malformed { .. }) => Some(of_url(config.provider, place)),
        OpenError::Options(text) if text.starts_with("Encryption type must be") => {
            Some("give --encryption aws:kms with --sse-kms-key-id")
        }
        OpenError::Options(text) if text.starts_with("SSE-C customer key must be provided") => {
            Some(
                "put the key, 32 bytes in base64, into a file that this user alone can read, and name \
             that",
            )
        }
        OpenError::Options(_) | OpenError::NotBuilt(_) => None,
    }
}

fn of_url(provider: Provider, place: Place<'_>) -> &'static str {
    let url = place.url;
    let is_azure = url.starts_with("https://") && url.contains(".blob.");
    let belongs = [
        (
            url.starts_with("s3://"),
            Provider::AwsS3,
            "s3:// goes with --cloud-provider aws-s3",
        ),
        (
            url.starts_with("gs://"),
            Provider::GoogleCloudStorage,
            "gs:// goes with --cloud-provider google-cloud-storage",
        ),
        (
            is_azure,
            Provider::AzureBlobStorage,
            "this URL goes with --cloud-provider azure-blob-storage",
        ),
    ];
    let other = belongs.iter().find(|(so, of, _)| *so && *of != provider);
    if let Some((.., hint)) = other {
        return hint;
    }
    if !url.contains("://") && place.servers.iter().any(|name| name.contains("://")) {
        return "the URL stands before the name of the server";
    }
    if url.starts_with('/') {
        return "a directory is written file:///PATH";
    }
    match provider {
        Provider::AwsS3 if url.starts_with("http") => {
            "the URL is s3://BUCKET/PATH; that of the service goes to --endpoint-url"
        }
        Provider::AwsS3 => "the URL is s3://BUCKET/PATH, or file:///PATH for a directory",
        Provider::AzureBlobStorage => {
            "the URL is https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH"
        }
        Provider::GoogleCloudStorage => "the URL is gs://BUCKET/PATH",
    }
}

/// About a server name that no folder can have.
pub(super) fn of_server(server: &str) -> &'static str {
    if server.contains("://") {
        "the URL stands before the name of the server"
    } else {
        "the name of the server is that of a folder below the URL"
    }
}
