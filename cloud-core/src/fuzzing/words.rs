//! Words that users type.

use super::text;
use crate::catalogue::retention::Policy;
use crate::catalogue::select::TargetTimeline;
use crate::cli::{tags, values};
use crate::store::{Provider, StoreUrl, printable};
use crate::units::{parse_duration, parse_size};

/// Each line is a word for each of the parsers.
pub(super) fn words(data: &[u8]) {
    for line in text(data).lines() {
        if let Ok(bytes) = parse_size(line) {
            assert!(bytes > 0);
            assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }
        if let Ok(duration) = parse_duration(line) {
            let seconds = format!("{}s", duration.as_secs());
            assert_eq!(parse_duration(&seconds), Ok(duration));
        }
        let _ = (tags::record(line), values::positive(line));
        if let Ok(tag) = tags::pair(line) {
            let again = tags::pair(&format!("{},{}", tag.key, tag.value));
            assert_eq!(again, Ok(tag));
        }
        let _ = (values::non_negative(line), values::any_integer(line));
        let _ = (values::parallel(line), values::encoder_threads(line));
        let _ = (values::failure_code(line), values::compression_level(line));
        let _ = (values::backup_name(line), values::target_timeline(line));
        let _ = (values::lock_expiration(line), values::not_empty(line));
        let _ = (line.parse::<Policy>(), line.parse::<TargetTimeline>());
        url(line);
    }
}

/// What is printed of a URL has neither user nor password nor query.
fn url(text: &str) {
    for provider in [
        Provider::AwsS3,
        Provider::AzureBlobStorage,
        Provider::GoogleCloudStorage,
    ] {
        if let Ok(url) = StoreUrl::parse(provider, text) {
            assert!(!url.path().starts_with('/') || !matches!(url, StoreUrl::S3 { .. }));
            if let StoreUrl::Local { root } = &url {
                assert!(root.is_absolute());
                let mut parts = root.components();
                assert!(!parts.any(|part| part == std::path::Component::ParentDir));
            }
        }
    }
    let shown = printable(text);
    assert!(!shown.contains(['?', '#']));
    if let Some((_, rest)) = shown.split_once("://") {
        assert!(!rest.split('/').next().unwrap_or_default().contains('@'));
    }
}
