//! Our HTTP client as Azure's crates want one.

use async_trait::async_trait;
use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Full};

use crate::store::StoreErrorKind;
use crate::store::http::{Bounded, ConnectError, Http, classify};

/// Longest answer that is not an object's bytes, in bytes. A page of a listing has up to five
/// thousand names, each of at most a KiB.
const MAX_TEXT: usize = 16 << 20;

/// The client for what the crates send: bodies are in memory.
#[derive(Debug, Clone)]
pub(super) struct Wire(pub(super) Http<Full<Bytes>>);

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else {
            return Err(failed(ConnectError::invalid("a body is not in memory")));
        };
        let mut outgoing = http::Request::builder()
            .method(request.method().as_ref())
            .uri(request.url().as_str());
        for (name, value) in request.headers().iter() {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        // The error may show the header, and with it a secret.
        let outgoing = outgoing
            .body(Full::new(body.clone()))
            .map_err(|_| failed(ConnectError::invalid("the request cannot be sent so")))?;
        let is_read = *outgoing.method() == http::Method::GET && !is_about(outgoing.uri());
        let (head, body) = self.0.send(outgoing).await.map_err(failed)?.into_parts();
        let mut headers = Headers::new();
        for (name, value) in &head.headers {
            // What is not text is none of ours: all that is looked at is.
            if let Ok(value) = value.to_str() {
                let name = HeaderName::from(name.as_str().to_owned());
                headers.insert(name, HeaderValue::from(value.to_owned()));
            }
        }
        let most = (!(is_read && head.status.is_success())).then_some(MAX_TEXT);
        let pieces = Bounded::new(body, most).into_data_stream();
        let pieces = pieces.map_err(|error| {
            let lost = || ConnectError::new(StoreErrorKind::Connect, error.to_string());
            failed(classify(&*error).unwrap_or_else(lost))
        });
        let status = head.status.as_u16().into();
        Ok(AsyncRawResponse::new(status, headers, Box::pin(pieces)))
    }
}

/// Whether a request is about an object, or a container, and not for an object's bytes.
fn is_about(url: &http::Uri) -> bool {
    let mut names = url.query().unwrap_or_default().split('&');
    names.any(|pair| pair.starts_with("comp=") || pair.starts_with("restype="))
}

/// Carries what happened through the crates; `classify` finds it again.
pub(super) fn failed(error: ConnectError) -> Error {
    Error::new(ErrorKind::Io, error)
}
