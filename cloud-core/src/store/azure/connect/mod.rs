//! How Azure is reached: endpoint, credentials, trust, proxies, limits.
//!
//! What is decided is decided once, at the first request, from the command line
//! and the environment; the order is the reference's. Nothing here is retried:
//! `store::Retry` repeats what failed as a whole.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use azure_core::http::policies::Policy;
use azure_core::http::{
    AsyncRawResponse, ClientOptions, Context, Pipeline, RawResponse, Request, RetryOptions,
    Transport, Url,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};

use self::auth::Authorize;
use self::connection_string::{ConnectionString, Login, VARIABLE};
use self::credential::{Credential, STORAGE, Ways};
use self::transport::Wire;
use super::error::Failure;
use super::{Place, VERSION};
use crate::key::Key;
use crate::store::http::{ConnectError, Http, Proxies, Tls, Variables};
use crate::store::{StoreConfig, printable};

mod arm;
mod auth;
mod certificate;
mod connection_string;
mod credential;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod transport;

#[cfg(test)]
mod tests;

pub(in crate::store) use self::arm::open as open_arm;
pub(super) use self::auth::Auth;

/// Seconds without a byte after which a connection is given up, unless
/// `--read-timeout` says otherwise. Source: docs/decisions.md 12.
const READ_TIMEOUT: i64 = 60;

/// The way to Azure, made at the first request.
pub(super) struct Connect {
    config: StoreConfig,
    place: Place,
    variables: Variables,
    ready: OnceLock<Connection>,
}

/// A way to Azure that was found.
pub(super) struct Connection {
    /// The crate's client of the container.
    pub(super) container: BlobContainerClient,
    /// What requests of our own go through.
    pipeline: Pipeline,
    /// For requests within requests, which no pipeline sees.
    pub(super) auth: Auth,
}

impl Connection {
    /// The crate's client of an object.
    pub(super) fn blob(&self, key: &Key) -> BlobClient {
        self.container.blob_client(key.as_str())
    }

    /// Sends a request of our own. An answer that is no yes is a failure.
    pub(super) async fn send(&self, request: &mut Request) -> Result<RawResponse, Failure> {
        Ok(self.pipeline.send(&Context::new(), request, None).await?)
    }

    /// The same with an answer that comes bit by bit.
    pub(super) async fn stream(&self, request: &mut Request) -> Result<AsyncRawResponse, Failure> {
        let none = Context::new();
        Ok(self.pipeline.stream(&none, request, None).await?)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// Without the options and variables: they may hold secrets.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Which of the ways of the reference is taken, with the endpoint it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// `None` as endpoint: that of the URL.
    Login {
        endpoint: Option<String>,
        login: Login,
        named_by: &'static str,
    },
    Token {
        kind: String,
    },
}

impl Connect {
    /// Takes the options and the environment; looks at neither.
    pub(super) fn new(config: &StoreConfig, place: &Place) -> Self {
        Self::with(config, place, Variables::of_process())
    }

    pub(super) fn with(config: &StoreConfig, place: &Place, variables: Variables) -> Self {
        Self {
            config: config.clone(),
            place: place.clone(),
            variables,
            ready: OnceLock::new(),
        }
    }

    /// The connection. Tokens are fetched later, with the request that needs one.
    ///
    /// # Errors
    ///
    /// `Invalid`: a setting or a file that means nothing. `Unauthenticated`: no
    /// credentials.
    pub(super) fn get(&self) -> Result<&Connection, ConnectError> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let connection = self.prepare()?;
        // Another task may have been faster, with the same outcome.
        Ok(self.ready.get_or_init(|| connection))
    }

    /// The reference's order.
    fn way(&self) -> Result<Way, ConnectError> {
        let account = self.account();
        if let Some(kind) = &self.config.azure_credential {
            tracing::info!("Authenticating to Azure with {kind} credentials");
            return Ok(Way::Token { kind: kind.clone() });
        }
        if let Some(text) = self.variables.even_empty(VARIABLE) {
            tracing::info!("Authenticating to Azure with connection string");
            let read = ConnectionString::parse(text)?;
            return Ok(Way::Login {
                endpoint: Some(read.endpoint),
                login: read.login,
                named_by: VARIABLE,
            });
        }
        if self.place.emulated {
            return Err(ConnectError::refused(format!(
                "{VARIABLE} must be set for {}, which is not a host of Azure's own: it tells the \
                 endpoint and the key",
                printable(&self.place.account_url)
            )));
        }
        let login = |named_by, login| Way::Login {
            endpoint: None,
            login,
            named_by,
        };
        if let Some(token) = self.variables.even_empty("AZURE_STORAGE_SAS_TOKEN") {
            tracing::info!("Authenticating to Azure with SAS token");
            let token = token.trim().trim_start_matches('?').to_owned();
            return Ok(login("AZURE_STORAGE_SAS_TOKEN", Login::Signature(token)));
        }
        if let Some(key) = self.variables.even_empty("AZURE_STORAGE_KEY") {
            tracing::info!("Authenticating to Azure with shared key");
            let key = key.trim().to_owned();
            return Ok(login("AZURE_STORAGE_KEY", Login::Key { account, key }));
        }
        tracing::info!("Authenticating to Azure with default credentials");
        Ok(Way::Token {
            kind: "default".into(),
        })
    }

    /// The account's name, as far as the URL tells it.
    fn account(&self) -> String {
        let (_, host) = self.place.account_url.split_once("://").unwrap_or_default();
        host.split('.').next().unwrap_or_default().to_owned()
    }

    fn prepare(&self) -> Result<Connection, ConnectError> {
        let (tls, ways) = ways(&self.config, &self.variables)?;
        if self.place.emulated {
            let url = printable(&self.config.url);
            tracing::info!("Using emulated storage URL: {url}");
        }
        let (endpoint, auth) = match self.way()? {
            Way::Login {
                endpoint,
                login,
                named_by,
            } => (endpoint, Auth::new(login, named_by)?),
            Way::Token { kind } => {
                let credential = Credential::new(&kind, STORAGE, &self.variables, &ways)?;
                (None, Auth::Token(Arc::new(credential)))
            }
        };
        let endpoint = endpoint.unwrap_or_else(|| self.place.endpoint());
        let url = container_url(&endpoint, &self.place.container)?;
        if url.scheme() == "https" {
            // It is needed at once, and here a failure can be told.
            tls.config()?;
        } else if matches!(auth, Auth::Token(_)) {
            return Err(ConnectError::invalid(format!(
                "a token is sent by https:// only, and not to {}",
                printable(&endpoint)
            )));
        }
        connection(url, auth, &ways.outside)
    }
}

/// What requests of any service of Azure's go by.
fn ways(config: &StoreConfig, variables: &Variables) -> Result<(Arc<Tls>, Ways), ConnectError> {
    let tls = Arc::new(Tls::new(bundle(variables), "REQUESTS_CA_BUNDLE"));
    let seconds = config.read_timeout.unwrap_or(READ_TIMEOUT);
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let seconds =
        seconds.ok_or_else(|| ConnectError::invalid("--read-timeout must be at least 1 second"))?;
    let limit = Duration::from_secs(seconds);
    let proxies = Proxies::of(variables)?;
    let ways = Ways {
        outside: Wire(Http::new(Arc::clone(&tls), proxies, limit)),
        direct: Wire(Http::new(Arc::clone(&tls), Proxies::none(), limit)),
    };
    Ok((tls, ways))
}

impl Place {
    /// Where the account is, if nothing but the URL tells: hosts that have its
    /// name do not want it in the path again.
    fn endpoint(&self) -> String {
        let url = self.account_url.as_str();
        let named = || {
            let (host, account) = url.split_once("://")?.1.split_once('/')?;
            let host = host.strip_prefix(account)?;
            host.starts_with('.').then(|| url.len() - account.len() - 1)
        };
        named().map_or(url, |end| &url[..end]).to_owned()
    }
}

/// The certificates to trust: the variables that the reference's HTTP library
/// looks at.
fn bundle(variables: &Variables) -> Option<(std::path::PathBuf, &'static str)> {
    ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
        .into_iter()
        .find_map(|name| Some((variables.path(name)?, name)))
}

fn container_url(endpoint: &str, container: &str) -> Result<Url, ConnectError> {
    let unusable = || {
        let endpoint = printable(endpoint);
        ConnectError::invalid(format!("`{endpoint}` is not the URL of an account"))
    };
    let mut url = Url::parse(endpoint).map_err(|_| unusable())?;
    let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
    if !usable || url.query().is_some() {
        return Err(unusable());
    }
    url.path_segments_mut()
        .map_err(|()| unusable())?
        .pop_if_empty()
        .push(container);
    Ok(url)
}

fn connection(url: Url, auth: Auth, wire: &Wire) -> Result<Connection, ConnectError> {
    let authorize: Arc<dyn Policy> = Arc::new(Authorize(auth.clone()));
    let client_options = ClientOptions {
        // Last before the wire: what it signs is what is sent.
        per_try_policies: vec![authorize],
        retry: RetryOptions::none(),
        transport: Some(Transport::new(Arc::new(wire.clone()))),
        ..ClientOptions::default()
    };
    let pipeline = Pipeline::new(
        option_env!("CARGO_PKG_NAME"),
        option_env!("CARGO_PKG_VERSION"),
        client_options.clone(),
        Vec::new(),
        Vec::new(),
        None,
    );
    let options = BlobContainerClientOptions {
        client_options,
        version: VERSION.into(),
    };
    let container = BlobContainerClient::new(url, None, Some(options))
        .map_err(|error| ConnectError::invalid(error.to_string()))?;
    Ok(Connection {
        container,
        pipeline,
        auth,
    })
}
