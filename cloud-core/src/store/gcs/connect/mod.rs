//! How Google Cloud Storage is reached: credentials, endpoint, trust, proxies,
//! limits.
//!
//! What is decided is decided once, from the environment and the file of
//! credentials (`source`); the order is the reference's. The tokens are fetched by
//! our own requests and not by `google-cloud-auth`: its clients have no limits of
//! time, know neither REQUESTS_CA_BUNDLE nor CLOUDSDK_CONFIG, and come with an HTTP
//! stack of their own.
//!
//! Nothing here is retried: `store::Retry` repeats what failed as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::OnceCell;

use self::services::Services;
use self::source::{DEFAULT_UNIVERSE, Found, Source};
use self::tokens::{COMPUTE, STORAGE, Tokens};
use super::body::Body;
use crate::store::StoreConfig;
use crate::store::http::{ConnectError, Http, Proxies, Tls, Variables};

mod aws;
mod compute;
mod external;
mod jwt;
mod metadata;
mod project;
mod services;
mod source;
#[cfg(test)]
mod tests;
mod tokens;

/// Longest time without a byte, unless `--read-timeout` says otherwise. Source:
/// docs/decisions.md 12.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// The variable by which a user of the reference names trusted certificates.
const BUNDLE: &str = "REQUESTS_CA_BUNDLE";

pub(in crate::store) use self::compute::open as open_compute;

/// Which of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Storage,
    Compute,
}

/// The way to the service, made at the first request.
pub(super) struct Connect {
    service: Service,
    read_timeout: Duration,
    variables: Variables,
    ready: OnceCell<Ready>,
}

/// A way to the service that was found.
pub(super) struct Ready {
    pub(super) http: Http<Body>,
    /// Scheme and host, without a slash at the end.
    pub(super) endpoint: String,
    /// Whether the endpoint is an emulator's.
    pub(super) emulated: bool,
    tokens: Tokens,
    quota_project: Option<HeaderValue>,
    variables: Variables,
    /// The project that the credentials are of.
    project: Option<String>,
}

/// Without the variables, which hold secrets.
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
    pub(super) fn new(config: &StoreConfig, variables: Variables) -> Self {
        // The option is S3's, and what means nothing is ignored here, as in the
        // reference.
        let seconds = config.read_timeout.and_then(|n| u64::try_from(n).ok());
        let seconds = seconds.filter(|seconds| *seconds > 0);
        Self {
            service: Service::Storage,
            read_timeout: seconds.map_or(READ_TIMEOUT, Duration::from_secs),
            variables,
            ready: OnceCell::new(),
        }
    }

    /// What was found, to be changed by a test.
    #[cfg(test)]
    pub(super) async fn ready(&mut self) -> &mut Ready {
        self.get().await.expect("there are credentials");
        self.ready.get_mut().expect("it was just found")
    }

    /// The way to the service.
    ///
    /// # Errors
    ///
    /// `Invalid`: a setting that means nothing. `Unauthenticated`: no
    /// credentials, or a file of them that cannot be used. `Timeout`, `Connect`:
    /// the metadata service of this machine cannot be asked now.
    pub(super) async fn get(&self) -> Result<&Ready, ConnectError> {
        self.ready.get_or_try_init(|| self.prepare()).await
    }

    async fn prepare(&self) -> Result<Ready, ConnectError> {
        let variables = &self.variables;
        let bundle = [BUNDLE, "CURL_CA_BUNDLE"]
            .into_iter()
            .find_map(|name| Some((variables.path(name)?, name)));
        let tls = Arc::new(Tls::new(bundle, BUNDLE));
        let http = Http::new(Arc::clone(&tls), Proxies::of(variables)?, self.read_timeout);
        let direct = Http::new(Arc::clone(&tls), Proxies::none(), self.read_timeout);
        let services = Services {
            http: http.clone(),
            direct,
            variables: variables.clone(),
        };
        let (scope, emulator) = match self.service {
            Service::Storage => (STORAGE, variables.get("STORAGE_EMULATOR_HOST")),
            Service::Compute => (COMPUTE, None),
        };
        let emulator = emulator.map(emulator_url);
        let found = match &emulator {
            Some(_) => Found::anonymous(),
            None => source::find(variables, &services).await?,
        };
        let emulated = emulator.is_some();
        let endpoint = match (emulator, self.service) {
            (Some(url), _) => url,
            (None, Service::Storage) => format!("https://storage.{}", universe(variables, &found)?),
            (None, Service::Compute) => compute::endpoint(variables, &found)?,
        };
        if endpoint.starts_with("https:") {
            // It is needed at once, and here a failure can be told.
            tls.config()?;
        }
        if found.source != Source::Anonymous {
            tracing::info!("Authenticating to Google Cloud with {}", found.named);
        }
        let quota_project = variables
            .get("GOOGLE_CLOUD_QUOTA_PROJECT")
            .map(str::to_owned)
            .or(found.quota_project);
        let quota_project = quota_project.map(|project| {
            HeaderValue::try_from(project).map_err(|_| {
                ConnectError::invalid("the quota project is not the name of a project")
            })
        });
        Ok(Ready {
            http,
            endpoint,
            emulated,
            tokens: Tokens::new(found.source, found.named, services, scope),
            quota_project: quota_project.transpose()?,
            variables: variables.clone(),
            project: found.project,
        })
    }
}

impl Ready {
    /// What makes a request ours. To be asked for before every request: a token
    /// that ages is fetched anew here.
    pub(super) async fn sign(&self, request: &mut http::Request<Body>) -> Result<(), ConnectError> {
        if let Some(token) = self.tokens.get().await? {
            let bearer = HeaderValue::try_from(format!("Bearer {}", token.value));
            let mut bearer = bearer
                .map_err(|_| ConnectError::refused("the access token is none that can be sent"))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert("authorization", bearer);
        }
        if let Some(project) = &self.quota_project {
            let headers = request.headers_mut();
            headers.insert("x-goog-user-project", project.clone());
        }
        Ok(())
    }

    /// Forgets the token that the service refused; whether another one can be had.
    pub(super) fn refused(&self, request: &http::HeaderMap) -> bool {
        let sent = request.get("authorization");
        sent.is_some_and(|sent| self.tokens.forget(sent))
    }

    /// The project that a bucket is made in.
    ///
    /// # Errors
    ///
    /// `Invalid` if nothing names one.
    pub(super) async fn project(&self) -> Result<String, ConnectError> {
        if let Some(named) = project::named(&self.variables) {
            return Ok(named);
        }
        if let Some(own) = &self.project {
            return Ok(own.clone());
        }
        if let Some(configured) = project::configured(&self.variables) {
            return Ok(configured);
        }
        if self.emulated {
            // Emulators take any.
            return Ok("emulated".into());
        }
        self.tokens.project_of_machine().await.ok_or_else(|| {
            ConnectError::invalid(
                "no project to create the bucket in: set GOOGLE_CLOUD_PROJECT, or create the \
                 bucket beforehand",
            )
        })
    }
}

/// The URL of an emulator; one without a scheme is taken for HTTP.
fn emulator_url(text: &str) -> String {
    let text = text.trim_end_matches('/');
    if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    }
}

/// The domain of the universe that was named, which must be that of the credentials.
fn universe(variables: &Variables, found: &Found) -> Result<String, ConnectError> {
    let named = variables.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN");
    let own = found.universe.as_deref();
    let universe = match (named, own) {
        (Some(named), Some(own)) if named != own => {
            return Err(ConnectError::refused(format!(
                "GOOGLE_CLOUD_UNIVERSE_DOMAIN is `{named}`, and the credentials ({}) are of \
                 `{own}`",
                found.named
            )));
        }
        (Some(universe), _) | (None, Some(universe)) => universe,
        (None, None) => DEFAULT_UNIVERSE,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !universe.chars().all(plain) {
        return Err(ConnectError::invalid(format!(
            "`{}` is not the domain of a universe (GOOGLE_CLOUD_UNIVERSE_DOMAIN)",
            universe.escape_default()
        )));
    }
    Ok(universe.to_owned())
}
