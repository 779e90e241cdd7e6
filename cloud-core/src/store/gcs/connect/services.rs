//! Small requests to the services that give out tokens.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::super::body::Body;
use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, Http, Variables, classify, host_of};
use crate::store::wire::url_encoded;

/// Longest time for a token service to answer.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Longest answer of such a service, in bytes.
const MAX_ANSWER: usize = 256 << 10;

/// How services are reached.
#[derive(Debug, Clone)]
pub(super) struct Services {
    /// By the proxies of the environment.
    pub(super) http: Http<Body>,
    /// Past them: for what answers on this machine.
    pub(super) direct: Http<Body>,
    pub(super) variables: Variables,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON, `Null` if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// The JSON of a success.
    ///
    /// # Errors
    ///
    /// What the service says of its refusal, after `doing`. A refusal is final,
    /// trouble of the service's own is not.
    pub(super) fn success(&self, doing: &str) -> Result<Value, ConnectError> {
        let value = self.json();
        let kind = match self.status {
            200..=299 => return Ok(value),
            408 => StoreErrorKind::Timeout,
            429 => StoreErrorKind::RateLimited,
            500.. => StoreErrorKind::ServerFault,
            _ => StoreErrorKind::Unauthenticated,
        };
        let said = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
        // OAuth's form of an error, or Google's own.
        let code = said(&value, "error").or_else(|| said(value.get("error")?, "status"));
        let more =
            said(&value, "error_description").or_else(|| said(value.get("error")?, "message"));
        let told: Vec<String> = code.into_iter().chain(more).collect();
        let told = match told.join(": ") {
            nothing if nothing.is_empty() => format!("status {}", self.status),
            told => format!("{told} (status {})", self.status),
        };
        Err(ConnectError::new(kind, format!("{doing}: {told}")))
    }
}

/// Sends one small request, whose whole answer comes within `limit`.
///
/// # Errors
///
/// `Timeout`, `Connect`, `Untrusted`; `Invalid` if there is no such URL.
pub(super) async fn fetch(
    http: &Http<Body>,
    method: &'static str,
    url: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
    limit: Duration,
) -> Result<Answer, ConnectError> {
    let host = host_of(url.parse().ok().as_ref());
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if method != "GET" {
        request = request.header("content-length", body.len());
    }
    // The error may show the header, and with it a secret.
    let request = request
        .body(Body::from(body))
        .map_err(|_| ConnectError::invalid(format!("`{host}` cannot be asked so")))?;
    let (head, body) = request.into_parts();
    send(http, head, body, limit).await
}

/// The same with a head that is made already.
pub(super) async fn send(
    http: &Http<Body>,
    head: http::request::Parts,
    body: Body,
    limit: Duration,
) -> Result<Answer, ConnectError> {
    let host = host_of(Some(&head.uri));
    let request = http::Request::from_parts(head, body);
    let work = async {
        let (head, body) = http.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| {
            let lost = || ConnectError::new(StoreErrorKind::Connect, error.to_string());
            let known = classify(&*error).unwrap_or_else(lost);
            known.while_(&format!("the answer of `{host}` broke off"))
        })?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("`{host}` did not answer within {} s", limit.as_secs_f64());
        Err(ConnectError::new(StoreErrorKind::Timeout, text))
    })
}

/// Sends a form, as OAuth wants it.
pub(super) async fn post_form(
    services: &Services,
    url: &str,
    headers: &[(&'static str, &str)],
    fields: &[(&str, &str)],
) -> Result<Answer, ConnectError> {
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", url_encoded(value));
    let form: Vec<String> = fields.iter().map(pair).collect();
    let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    let body = Bytes::from(form.join("&"));
    fetch(&services.http, "POST", url, &all, body, LIMIT).await
}
