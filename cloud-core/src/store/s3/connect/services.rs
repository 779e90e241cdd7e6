//! The services that exchange one kind of credentials for another.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sdk_s3::config::retry::{ReconnectMode, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig};
use aws_sdk_sts::types::Credentials as RoleCredentials;

use super::ConnectError;
use super::chain::Role;
use super::http::Http;
use super::settings::Settings;

/// How services are reached.
#[derive(Debug, Clone)]
pub(super) struct Services {
    /// By the proxies of the environment.
    pub(super) http: Http,
    /// Past them: for what answers on this machine.
    pub(super) direct: Http,
    pub(super) settings: Settings,
}

/// No retries, and no thought of connections: the HTTP client gives up by itself
/// those that failed, and the SDK would complain that it cannot.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig::disabled().with_reconnect_mode(ReconnectMode::ReuseAllConnections)
}

/// A builder of a client's configuration without what we do ourselves: retries,
/// time limits, and caching of credentials.
macro_rules! quiet_config {
    ($sdk:ident, $http:expr) => {
        $sdk::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client($http.clone())
            .retry_config(crate::store::s3::connect::services::no_retries())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .identity_cache(IdentityCache::no_cache())
    };
}
pub(super) use quiet_config;

#[cfg(test)]
impl Services {
    /// Without settings or proxies.
    pub(super) fn for_tests() -> Self {
        use super::profiles::Profiles;
        use crate::store::http::{Proxies, Tls, Variables};
        let config = crate::store::StoreConfig::default();
        let (none, no_profiles) = (Variables::default(), Profiles::default());
        let settings = Settings::decide(&config, &none, &no_profiles).unwrap();
        let tls = std::sync::Arc::new(Tls::new(None, "AWS_CA_BUNDLE"));
        let http = Http::new(tls, Proxies::none(), settings.read_timeout);
        Self {
            http: http.clone(),
            direct: http,
            settings,
        }
    }
}

impl Services {
    /// Step 2 of the chain.
    pub(super) async fn assume_role(
        &self,
        role: &Role,
        base: Credentials,
    ) -> Result<Credentials, ConnectError> {
        let answer = self
            .sts(Some(base))
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(session_name(role))
            .set_external_id(role.external_id.clone())
            .set_duration_seconds(role.duration)
            .send()
            .await;
        let doing = doing(role);
        let answer = answer.map_err(|error| ConnectError::of_service(&doing, &error))?;
        of_role(answer.credentials, &doing)
    }

    /// Step 3 of the chain. `token` is a secret.
    pub(super) async fn assume_role_by_token(
        &self,
        role: &Role,
        token: &str,
    ) -> Result<Credentials, ConnectError> {
        let answer = self
            .sts(None)
            .assume_role_with_web_identity()
            .role_arn(&role.arn)
            .role_session_name(session_name(role))
            .web_identity_token(token)
            .send()
            .await;
        let doing = doing(role);
        let answer = answer.map_err(|error| ConnectError::of_service(&doing, &error))?;
        of_role(answer.credentials, &doing)
    }

    fn sts(&self, credentials: Option<Credentials>) -> aws_sdk_sts::Client {
        let settings = &self.settings;
        let mut config = quiet_config!(aws_sdk_sts, self.http)
            .region(Region::new(settings.region.clone()))
            .use_fips(settings.fips)
            .use_dual_stack(settings.dual_stack);
        config.set_endpoint_url(settings.sts_endpoint.clone());
        if let Some(credentials) = credentials {
            config = config.credentials_provider(credentials);
        }
        aws_sdk_sts::Client::from_conf(config.build())
    }
}

fn doing(role: &Role) -> String {
    format!("could not assume the role `{}`", role.arn)
}

fn session_name(role: &Role) -> String {
    role.session_name.clone().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        format!("barman-cloud-{}", now.map_or(0, |now| now.as_secs()))
    })
}

fn of_role(given: Option<RoleCredentials>, doing: &str) -> Result<Credentials, ConnectError> {
    let given = given
        .ok_or_else(|| ConnectError::refused(format!("{doing}: the answer has no credentials")))?;
    let expiry = SystemTime::try_from(given.expiration).ok();
    Ok(Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        Some(given.session_token),
        expiry,
        "role",
    ))
}
