//! How S3 is reached: region, endpoint, addressing, credentials, TLS, proxies.
//!
//! The order in which each of them is looked for is the reference's, so that a
//! machine set up for it needs nothing new. Nothing is looked for before the
//! first request: `file://` and `--help` must not pay for it.

mod credentials;
mod http;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileSet;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{IdentityCache, Region};
use aws_smithy_types::checksum_config::RequestChecksumCalculation;
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::sdk_config::SdkConfig;
use aws_types::service_config::ServiceConfigKey;
use tokio::sync::Mutex;

use super::error::Failure;
use crate::store::{StoreConfig, StoreErrorKind};

/// Most a source of credentials may take, retries included. Programs that ask
/// a person's password manager are slow; nothing else comes near it.
const CREDENTIALS_LIMIT: Duration = Duration::from_mins(1);

/// Credentials are renewed so long before they end, that a request signed in
/// the last moment still arrives in time.
const RENEW_BEFORE: Duration = Duration::from_mins(5);

/// What the command line says about the way to S3.
#[derive(Debug)]
pub(super) struct Connect {
    bucket: String,
    endpoint_url: Option<String>,
    profile: Option<String>,
    addressing: Addressing,
    /// No byte for so long ends a request.
    idle: Duration,
    made: Mutex<Option<Arc<Connection>>>,
}

/// How the bucket is named in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressing {
    /// In the host name, unless an endpoint is given: most of those are single
    /// hosts.
    Auto,
    Virtual,
    Path,
}

/// A way to S3 that was found.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Whether requests go over TLS, which protects bodies by itself.
    pub(super) secure: bool,
    /// Whether the user wants no checksum headers where none is demanded.
    pub(super) when_required: bool,
    /// The region requests are signed for.
    pub(super) region: String,
}

impl Connect {
    pub(super) fn new(config: &StoreConfig, bucket: &str) -> Self {
        // The reference reads no further than it must: 0 is as good as none.
        let idle = config
            .read_timeout
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map_or(http::IDLE, Duration::from_secs);
        Self {
            bucket: bucket.to_owned(),
            endpoint_url: config.endpoint_url.clone(),
            profile: config.aws_profile.clone(),
            addressing: match config.addressing_style.as_deref() {
                Some("path") => Addressing::Path,
                Some("virtual") => Addressing::Virtual,
                _ => Addressing::Auto,
            },
            idle,
            made: Mutex::default(),
        }
    }

    /// The connection, made at the first call.
    pub(super) async fn get(&self) -> Result<Arc<Connection>, Failure> {
        let mut made = self.made.lock().await;
        if let Some(connection) = &*made {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.make(None).await?);
        *made = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// The connection for the region that the store sent us to.
    pub(super) async fn moved(
        &self,
        from: &Connection,
        region: &str,
    ) -> Result<Arc<Connection>, Failure> {
        let mut made = self.made.lock().await;
        // Another task may have moved already.
        if let Some(connection) = &*made
            && connection.region != from.region
        {
            return Ok(Arc::clone(connection));
        }
        tracing::debug!("bucket {} is in region {region}", self.bucket);
        let connection = Arc::new(self.make(Some(region)).await?);
        *made = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn make(&self, region: Option<&str>) -> Result<Connection, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let named = self
            .profile
            .clone()
            .or_else(|| variable("AWS_DEFAULT_PROFILE"))
            .or_else(|| variable("AWS_PROFILE"));
        let profiles = profiles(named.as_deref()).await?;
        let setting = |name: &str| profiles.get(name).map(str::to_owned);

        let region = region
            .map(str::to_owned)
            .or_else(|| region_of_arn(&self.bucket))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .or_else(|| setting("region"))
            .or_else(|| variable("AWS_REGION"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let bundle = variable("AWS_CA_BUNDLE").or_else(|| setting("ca_bundle"));
        let http = http::clients(bundle.map(PathBuf::from), self.idle)?;

        let provider = ProviderConfig::default()
            .with_http_client(http.outside.clone())
            .with_region(Some(Region::new(region.clone())));
        let direct = ProviderConfig::default().with_http_client(http.inside);
        let sources = credentials::Sources {
            explicit: self.profile.is_some(),
            profile: named.clone(),
            assumes_role: profiles.get("role_arn").is_some(),
        };
        let chain = credentials::Chain::new(&sources, &provider, &direct);

        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .http_client(http.outside)
            .credentials_provider(chain)
            .identity_cache(
                IdentityCache::lazy()
                    .load_timeout(CREDENTIALS_LIMIT)
                    .buffer_time(RENEW_BEFORE)
                    .build(),
            )
            // Retries, and the limits of time, are ours (docs/decisions.md 12).
            .retry_config(RetryConfig::disabled())
            .timeout_config(http::limits())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(name) = named {
            loader = loader.profile_name(name);
        }
        let shared = loader.load().await;
        let when_required =
            shared.request_checksum_calculation() == Some(RequestChecksumCalculation::WhenRequired);
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            // The header is made here, from the buffer (docs/decisions.md 25).
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        let endpoint = self.endpoint_url.clone().or_else(|| endpoint(&shared));
        if let Some(url) = &endpoint {
            check_endpoint(url)?;
            builder = builder.endpoint_url(url);
        }
        let path_style = match self.addressing {
            Addressing::Path => true,
            Addressing::Virtual => false,
            Addressing::Auto => endpoint.is_some() && !self.bucket.starts_with("arn:"),
        };
        let secure = endpoint
            .as_deref()
            .is_none_or(|url| !url.to_ascii_lowercase().starts_with("http://"));
        Ok(Connection {
            client: Client::from_conf(builder.force_path_style(path_style).build()),
            secure,
            when_required,
            region,
        })
    }
}

/// The profiles of this user, of which the named one must exist.
async fn profiles(named: Option<&str>) -> Result<ProfileSet, Failure> {
    let invalid = |text: String| Failure::new(StoreErrorKind::Unauthenticated, text);
    let loaded = aws_config::profile::load(
        &Fs::real(),
        &Env::real(),
        &EnvConfigFiles::default(),
        named.map(|name| name.to_owned().into()),
    )
    .await;
    let profiles = loaded.map_err(|error| {
        invalid(format!(
            "the AWS configuration files cannot be used: {}",
            super::error::innermost(&error)
        ))
    })?;
    match named {
        Some(name) if profiles.get_profile(name).is_none() => Err(invalid(format!(
            "The config profile ({name}) could not be found"
        ))),
        _ => Ok(profiles),
    }
}

/// The endpoint of environment and profile, the one of S3 first.
fn endpoint(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let of_s3 = shared
        .service_config()
        .and_then(|conf| conf.load_config(key));
    of_s3.or_else(|| shared.endpoint_url().map(str::to_owned))
}

/// A wrong endpoint is told before the first request fails in the SDK's words.
fn check_endpoint(url: &str) -> Result<(), Failure> {
    let lower = url.to_ascii_lowercase();
    let host = lower
        .strip_prefix("http://")
        .or_else(|| lower.strip_prefix("https://"));
    if host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
        return Ok(());
    }
    let shown = crate::store::printable(url);
    Err(Failure::new(
        StoreErrorKind::Invalid,
        format!("Invalid endpoint: {shown} (expected http://host or https://host)"),
    ))
}

/// The region in the ARN of an access point.
fn region_of_arn(bucket: &str) -> Option<String> {
    let mut fields = bucket.strip_prefix("arn:")?.split(':');
    let region = fields.nth(2)?;
    (!region.is_empty()).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region() {
        let region = |arn| region_of_arn(arn);
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/name";
        assert_eq!(region(arn).as_deref(), Some("eu-west-1"));
        assert_eq!(region("arn:aws:s3::123456789012:accesspoint/name"), None);
        assert_eq!(region("bucket"), None);
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        for good in ["http://h", "https://h:9000/", "HTTPS://h"] {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "h:9000", "http://", "https:///path", "ftp://h"] {
            let failure = check_endpoint(bad).unwrap_err();
            assert!(failure.text.starts_with("Invalid endpoint"), "{bad}");
        }
    }
}
