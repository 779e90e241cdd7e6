//! How S3 is reached: credentials, region, endpoint, trust, proxies, limits.
//!
//! What is decided is decided once, by functions of the command line, the
//! environment and the two files of profiles (`settings`, `chain`); the order is
//! the reference's. It is ours and not `aws-config`'s chain, because there the
//! order differs, an error of a source that was configured can be passed over,
//! and a program that prints credentials has all the time in the world.
//!
//! Nothing here is retried: `store::Retry` repeats what failed as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation,
    StalledStreamProtectionConfig,
};
use tokio::sync::{Mutex, OnceCell};

use self::chain::Source;
use self::http::Http;
use self::keys::Keys;
use self::profiles::Profiles;
use self::services::{Services, quiet_config};
use self::settings::Settings;
use crate::store::StoreConfig;
use crate::store::http::{Proxies, Tls, Variables};

mod answer;
mod chain;
mod ec2;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod http;
mod ini;
mod json;
mod keys;
mod metadata;
mod process;
mod profiles;
mod services;
mod settings;
mod sso;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub(in crate::store) use self::ec2::open as open_ec2;
pub(super) use crate::store::http::{ConnectError, classify};

/// The way to S3, made at the first request.
pub(super) struct Connect {
    config: StoreConfig,
    variables: Variables,
    ready: OnceCell<Ready>,
}

struct Ready {
    settings: Settings,
    http: Http,
    keys: Keys,
    /// To the region of the bucket, as far as is known.
    connection: Mutex<Arc<Connection>>,
}

/// A way to S3 that was found.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: aws_sdk_s3::Client,
    /// Whether requests go over TLS, which protects bodies by itself.
    pub(super) secure: bool,
    /// Whether checksums are to be sent only where the store insists.
    pub(super) when_required: bool,
    /// Whether it is Amazon's own S3, whose manual can be relied on.
    pub(super) amazon: bool,
    /// The region requests are signed for.
    pub(super) region: String,
}

/// Without the options: an endpoint may hold a password.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready.initialized();
        f.debug_struct("Connect")
            .field("ready", &ready)
            .finish_non_exhaustive()
    }
}

impl Connect {
    /// Takes the options and the environment; looks at neither.
    pub(super) fn new(config: &StoreConfig) -> Self {
        Self::with(config, Variables::of_process())
    }

    pub(super) fn with(config: &StoreConfig, variables: Variables) -> Self {
        Self {
            config: config.clone(),
            variables,
            ready: OnceCell::new(),
        }
    }

    /// The connection, with credentials that last for a minute at least. To be
    /// asked for before every request: credentials are fetched here, where a
    /// failure can be told; what the SDK asks for afterwards is at hand.
    ///
    /// # Errors
    ///
    /// `Invalid`: a setting or a file that means nothing. `Unauthenticated`: no
    /// credentials, or a source that refuses them. `Timeout`, `Connect`,
    /// `ServerFault`, `RateLimited`: a source that was configured cannot be
    /// asked now.
    pub(super) async fn get(&self) -> Result<Arc<Connection>, ConnectError> {
        let ready = self.ready().await?;
        ready.keys.get().await?;
        Ok(Arc::clone(&*ready.connection.lock().await))
    }

    /// Whether there are other credentials than those that the store refused to a
    /// request that began at `began`, because their time is over.
    ///
    /// # Errors
    ///
    /// As those of [`get`](Self::get).
    pub(super) async fn renew(&self, began: Instant) -> Result<bool, ConnectError> {
        self.ready().await?.keys.renew(began).await
    }

    /// The connection to the region that the store sent us to from `from`.
    pub(super) async fn moved(
        &self,
        from: &Connection,
        region: &str,
    ) -> Result<Arc<Connection>, ConnectError> {
        let ready = self.ready().await?;
        let mut connection = ready.connection.lock().await;
        // Another request may have been sent on before.
        if connection.region == from.region {
            tracing::debug!("the bucket is in region {region}");
            *connection = Arc::new(ready.connect(region));
        }
        Ok(Arc::clone(&connection))
    }

    async fn ready(&self) -> Result<&Ready, ConnectError> {
        self.ready.get_or_try_init(async || self.prepare()).await
    }

    fn prepare(&self) -> Result<Ready, ConnectError> {
        let found = Found::of(&self.config, &self.variables)?;
        let Found {
            settings,
            tls,
            http,
            keys,
        } = found;
        if settings.uses_tls() {
            // It is needed at once, and here a failure can be told.
            tls.config()?;
        }
        let connection = connect(&settings, &http, &keys, &settings.region);
        Ok(Ready {
            connection: Mutex::new(Arc::new(connection)),
            settings,
            http,
            keys,
        })
    }
}

/// What the options, the environment and the files of profiles decide, whatever service of
/// Amazon's it is for.
struct Found {
    settings: Settings,
    tls: Arc<Tls>,
    http: Http,
    keys: Keys,
}

impl Found {
    fn of(config: &StoreConfig, variables: &Variables) -> Result<Self, ConnectError> {
        let named = config.aws_profile.as_deref();
        let profiles = Profiles::load(variables, named)?;
        let settings = Settings::decide(config, variables, &profiles)?;
        let source = chain::find(variables, &profiles, named.is_some())?;
        let tls = Arc::new(Tls::new(settings.ca_bundle.clone(), "AWS_CA_BUNDLE"));
        let limit = settings.read_timeout;
        let http = Http::new(Arc::clone(&tls), Proxies::of(variables)?, limit);
        let services = Services {
            http: http.clone(),
            direct: Http::new(Arc::clone(&tls), Proxies::none(), limit),
            settings: settings.clone(),
        };
        let nothing = nothing_found(&source, &profiles, named.is_some());
        let keys = Keys::new(source, services, variables.home(), nothing);
        Ok(Self {
            settings,
            tls,
            http,
            keys,
        })
    }
}

impl Ready {
    fn connect(&self, region: &str) -> Connection {
        connect(&self.settings, &self.http, &self.keys, region)
    }
}

fn connect(settings: &Settings, http: &Http, keys: &Keys, region: &str) -> Connection {
    let mut config = quiet_config!(aws_sdk_s3, http)
        .credentials_provider(keys.clone())
        .region(Region::new(region.to_owned()))
        .force_path_style(settings.path_style)
        .use_arn_region(true)
        .use_fips(settings.fips)
        .use_dual_stack(settings.dual_stack)
        .accelerate(settings.accelerate)
        // The header is made beside the request, from the buffer that is sent
        // (docs/decisions.md 25): the SDK adds none of its own.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(settings.response_checksums);
    config.set_endpoint_url(settings.endpoint.clone());
    Connection {
        client: aws_sdk_s3::Client::from_conf(config.build()),
        secure: settings.uses_tls(),
        amazon: settings.is_amazon(),
        when_required: settings.request_checksums == RequestChecksumCalculation::WhenRequired,
        region: region.to_owned(),
    }
}

/// The line for the user when there are no credentials.
fn nothing_found(source: &Source, profiles: &Profiles, named: bool) -> String {
    let environment = if named { "" } else { "the environment, " };
    let instance = match source {
        Source::Nothing => "",
        _ => " and this instance",
    };
    let mut text = format!(
        "Unable to locate credentials: looked in {environment}profile `{}`{instance}; set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile that has some",
        profiles.chosen
    );
    for file in &profiles.unreadable {
        text.push_str("; ");
        text.push_str(file);
    }
    text
}
