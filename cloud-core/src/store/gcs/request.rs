//! Requests, and what comes back of them.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::body::Body;
use super::error::Failure;
use super::{Inner, encoded};
use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, classify};

/// Longest answer that is not an object, in bytes. A page of a listing has up to
/// a thousand names, each of at most a KiB.
const MAX_ANSWER: usize = 16 << 20;

/// Longest answer that tells of a failure, in bytes.
const MAX_COMPLAINT: usize = 64 << 10;

/// The type of what has none: that of base backups and WAL in the reference.
pub(super) const BYTES: &str = "application/octet-stream";

/// A request, before it is known whom it goes to.
#[derive(Debug, Clone)]
pub(super) struct Call {
    method: Method,
    /// Encoded.
    target: String,
    /// Whether `target` is a whole URL, as the service gave it.
    whole: bool,
    headers: Vec<(HeaderName, String)>,
    body: Body,
}

impl Call {
    /// A request for an encoded path.
    pub(super) fn new(method: Method, path: String) -> Self {
        Self {
            method,
            target: path,
            whole: false,
            headers: Vec::new(),
            body: Body::default(),
        }
    }

    /// A request for a URL that the service named.
    pub(super) fn to(method: Method, url: &str) -> Self {
        let call = Self::new(method, url.to_owned());
        Self {
            whole: true,
            ..call
        }
    }

    /// With one more parameter, of any text.
    pub(super) fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.join();
        self.target += &format!("{name}={}", encoded(value.as_ref()));
        self
    }

    /// With one more parameter that has no value.
    pub(super) fn flag(mut self, name: &str) -> Self {
        self.join();
        self.target += name;
        self
    }

    fn join(&mut self) {
        let first = !self.target.contains('?');
        self.target.push(if first { '?' } else { '&' });
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a header that not every request has.
    pub(super) fn header_if(self, name: HeaderName, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    pub(super) fn body(mut self, pieces: impl IntoIterator<Item = Bytes>) -> Self {
        self.body = pieces.into_iter().collect();
        self
    }

    pub(super) fn json_body(self, value: &Value) -> Self {
        self.header(CONTENT_TYPE, "application/json")
            .body([Bytes::from(value.to_string())])
    }

    /// Whether it goes to the service that our token is for. To whom else a URL leads that was
    /// named in an answer, be it without TLS, the token is not told; the URL of an upload is proof
    /// enough by itself.
    fn is_for(&self, endpoint: &str) -> bool {
        let rest = self.target.strip_prefix(endpoint);
        !self.whole || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    fn request(&self, endpoint: &str) -> Result<http::Request<Body>, Failure> {
        let url = if self.whole {
            self.target.clone()
        } else {
            format!("{endpoint}{}", self.target)
        };
        let invalid = |why: &str| Failure::new(StoreErrorKind::Invalid, why);
        let uri: http::Uri = url
            .parse()
            .map_err(|_| invalid("the name does not fit into the URL of a request"))?;
        let mut request = http::Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            let shown = format!("`{name}` cannot be sent: it has characters no header can have");
            let value = HeaderValue::try_from(value).map_err(|_| invalid(&shown))?;
            headers.insert(name.clone(), value);
        }
        if self.method != Method::GET {
            headers.insert(CONTENT_LENGTH, self.body.len().into());
        }
        Ok(request)
    }
}

/// An answer whose body is there.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Inner {
    /// Sends a request; the answer is a success, or what `308` means in the
    /// protocol of resumable uploads, whose URLs the service names. Elsewhere it
    /// is a redirect: nothing was done.
    pub(super) async fn send(&self, call: &Call) -> Result<http::Response<Incoming>, Failure> {
        let ready = self.connect.get().await?;
        let mut again = true;
        loop {
            let mut request = call.request(&ready.endpoint)?;
            if call.is_for(&ready.endpoint) {
                ready.sign(&mut request).await?;
            }
            let signed = request.headers().clone();
            let response = ready.http.send(request).await?;
            let status = response.status();
            let goes_on = call.whole && status == StatusCode::PERMANENT_REDIRECT;
            if status.is_success() || goes_on {
                return Ok(response);
            }
            // The token may have been withdrawn before its time.
            if status == StatusCode::UNAUTHORIZED && again && ready.refused(&signed) {
                again = false;
                continue;
            }
            let answer = whole(response, MAX_COMPLAINT).await?;
            return Err(Failure::answered(&answer));
        }
    }

    /// Sends a request and reads the answer.
    pub(super) async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        whole(self.send(call).await?, MAX_ANSWER).await
    }

    /// Sends a request that is answered in JSON.
    pub(super) async fn json(&self, call: Call) -> Result<Value, Failure> {
        let answer = self.ask(&call).await?;
        json(&answer)
    }
}

/// The JSON of an answer; one that has none was cut, or is somebody else's.
pub(super) fn json(answer: &Answer) -> Result<Value, Failure> {
    serde_json::from_slice(&answer.body).map_err(|_| {
        let why = format!("the answer (status {}) is not JSON", answer.status.as_u16());
        Failure::new(StoreErrorKind::Connect, why)
    })
}

/// Reads the rest of an answer.
pub(super) async fn whole(
    response: http::Response<Incoming>,
    max: usize,
) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, max).collect().await;
    let body = body.map_err(|error| broken(&*error))?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

/// What ended an answer early.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let lost = || ConnectError::new(StoreErrorKind::Connect, error.to_string());
    classify(error).unwrap_or_else(lost).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_its_own_service_alone() {
        const ENDPOINT: &str = "https://storage.googleapis.com";
        assert!(Call::new(Method::GET, "/x".into()).is_for(ENDPOINT));
        for (url, expected) in [
            ("https://storage.googleapis.com/upload/x?id=1", true),
            ("https://storage.googleapis.com", true),
            ("http://storage.googleapis.com/upload/x", false),
            ("https://storage.googleapis.com.example/x", false),
            ("https://storage.googleapis.com:8443/x", false),
            ("https://storage.googleapis.com@example/x", false),
            ("https://example/https://storage.googleapis.com/", false),
        ] {
            assert_eq!(
                Call::to(Method::PUT, url).is_for(ENDPOINT),
                expected,
                "{url}"
            );
        }
    }
}
