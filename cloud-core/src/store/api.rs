//! The way to the service of a cloud that has its disks: requests with the credentials,
//! certificates and proxies of its store.
//!
//! A request is sent once. What is asked, what an answer means and whether to ask again is
//! a matter for whoever asks (`snapshot`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
#[cfg(any(feature = "azure", feature = "gcp"))]
use http_body_util::BodyExt;

#[cfg(feature = "remote")]
use super::http::ConnectError;
#[cfg(any(feature = "azure", feature = "gcp"))]
use super::http::{Http, classify, host_of};
#[cfg(any(feature = "azure", feature = "gcp"))]
use super::printable;
#[cfg(feature = "remote")]
use super::wire::request_id;
use super::{RequestId, StoreConfig, StoreErrorKind};

/// Longest time for a whole answer.
#[cfg(feature = "remote")]
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// Longest answer, in bytes: a page of a list of disks has a thousand at most.
#[cfg(feature = "remote")]
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// Headers of an answer that mean something.
#[cfg(feature = "remote")]
const HEADERS: [&str; 3] = ["azure-asyncoperation", "location", "retry-after"];

/// Headers that name the request, Amazon's and Azure's; Google has none.
#[cfg(feature = "remote")]
const REQUEST_IDS: [&str; 2] = ["x-amzn-requestid", "x-ms-request-id"];

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiService {
    /// EC2 of a region, or of the one that the environment or the profile names.
    Ec2 {
        /// The region.
        region: Option<String>,
    },
    /// Azure Resource Manager.
    Azure,
    /// Compute Engine.
    Google,
}

/// A service that was opened.
#[derive(Debug, Clone)]
pub struct OpenedApi {
    /// The service.
    pub api: Arc<dyn Api>,
    /// Its region, where it has one.
    pub region: Option<String>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCall {
    /// The method.
    pub method: &'static str,
    /// Encoded path and query, or a whole URL that the service named.
    pub target: String,
    /// The type of the body; none is sent without one.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

/// An answer, whatever its status.
#[derive(Debug, Clone, Default)]
pub struct ApiAnswer {
    /// The status of HTTP.
    pub status: u16,
    /// Those headers that mean something, by names in lower case.
    pub headers: Vec<(String, String)>,
    /// What the service calls the request, if it tells.
    pub request: Option<RequestId>,
    /// The body.
    pub body: Bytes,
}

impl ApiAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// How long the service wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header("retry-after")?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    #[cfg(feature = "remote")]
    pub(super) fn new(status: u16, headers: &http::HeaderMap, body: impl Into<Bytes>) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let pair = |name: &str| Some((name.to_owned(), text(name)?));
        Self {
            status,
            headers: HEADERS.into_iter().filter_map(pair).collect(),
            request: REQUEST_IDS
                .iter()
                .find_map(|id| request_id(id, None, text))
                .map(|id| *id),
            body: body.into(),
        }
    }
}

/// There is no answer: no credentials, no connection, no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    /// The class of the failure.
    pub kind: StoreErrorKind,
    /// One line for the user, without a secret.
    pub text: String,
}

impl ApiError {
    /// A failure in words.
    pub fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }
}

#[cfg(feature = "remote")]
impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        Self::new(error.kind, error.text)
    }
}

/// Sends requests to one service.
#[async_trait]
pub trait Api: fmt::Debug + Send + Sync {
    /// Sends a request once, signed. After an error it is *unknown* whether the service
    /// has done what it was asked for.
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError>;
}

/// The service with the credentials that `config` and the environment name for stores.
/// Reads files of settings; asks nobody anything.
///
/// # Errors
///
/// `Invalid`: a setting that means nothing. `Unsupported`: the program was built without
/// that cloud.
pub fn open_api(config: &StoreConfig, service: &ApiService) -> Result<OpenedApi, ApiError> {
    let opened: OpenedApi = match service {
        #[cfg(feature = "aws")]
        ApiService::Ec2 { region } => super::s3::open_ec2(config, region.as_deref())?,
        #[cfg(feature = "azure")]
        ApiService::Azure => super::azure::open_arm(config)?,
        #[cfg(feature = "gcp")]
        ApiService::Google => super::gcs::open_compute(config),
        #[cfg(not(all(feature = "aws", feature = "azure", feature = "gcp")))]
        other => {
            let _ = config;
            let text = format!("{other:?} is not built into this program");
            return Err(ApiError::new(StoreErrorKind::Unsupported, text));
        }
    };
    Ok(opened)
}

/// Sends a request and reads its whole answer.
#[cfg(any(feature = "azure", feature = "gcp"))]
pub(super) async fn exchange<B>(
    http: &Http<B>,
    request: http::Request<B>,
) -> Result<ApiAnswer, ConnectError>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let host = host_of(Some(request.uri()));
    let work = async {
        let (head, body) = http.send(request).await?.into_parts();
        let body = http_body_util::Limited::new(body, MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| {
            let lost = || ConnectError::new(StoreErrorKind::Connect, error.to_string());
            let known = classify(&*error).unwrap_or_else(lost);
            known.while_(&format!("the answer of `{host}` broke off"))
        })?;
        Ok(ApiAnswer::new(
            head.status.as_u16(),
            &head.headers,
            body.to_bytes(),
        ))
    };
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| {
        let text = format!("`{host}` did not answer within {} s", LIMIT.as_secs());
        Err(ConnectError::new(StoreErrorKind::Timeout, text))
    })
}

/// The URL that a request with a token goes to, if it may: not in the clear to another
/// machine, and to no other host than `endpoint`'s.
#[cfg(any(feature = "azure", feature = "gcp"))]
pub(super) fn url_of(endpoint: &str, call: &ApiCall) -> Result<http::Uri, ConnectError> {
    let invalid = |why: &str| ConnectError::invalid(format!("`{}` {why}", printable(endpoint)));
    let base: http::Uri = endpoint.parse().map_err(|_| invalid("is no URL"))?;
    let loopback = ["127.0.0.1", "[::1]", "localhost"];
    let here = base.host().is_some_and(|host| loopback.contains(&host));
    if base.scheme_str() != Some("https") && !here {
        return Err(invalid("is not asked: a token is sent by https:// only"));
    }
    let url = if call.target.starts_with('/') {
        format!("{}{}", endpoint.trim_end_matches('/'), call.target)
    } else {
        call.target.clone()
    };
    let url: http::Uri = url.parse().map_err(|_| invalid("cannot be asked so"))?;
    let same =
        |a: &http::Uri, b: &http::Uri| a.scheme() == b.scheme() && a.authority() == b.authority();
    if !same(&base, &url) {
        return Err(invalid("names a URL of another host, which gets no token"));
    }
    Ok(url)
}
