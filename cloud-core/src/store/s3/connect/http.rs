//! Our HTTP client as the SDK wants one.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector as SdkConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;

use super::{ConnectError, classify};
use crate::store::StoreErrorKind;
use crate::store::http::{self as client, Bounded, host_of};

/// Longest answer of a service that [`Http::fetch`] is meant for, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Longest answer that is not an object's bytes, in bytes. A page of a listing has a thousand
/// names of at most a KiB, each byte of which may be encoded as three.
const MAX_TEXT: usize = 8 << 20;

/// What the SDK writes into the URL of a request for an object's bytes.
const READ: &str = "x-id=GetObject";

/// The client for what the SDK sends.
pub(super) type Http = client::Http<SdkBody>;

impl Http {
    /// One small request to a service of this machine or this cluster, whose
    /// whole answer comes within `limit`.
    ///
    /// # Errors
    ///
    /// `Timeout`, `Connect`. Any status is an answer.
    pub(super) async fn fetch(
        &self,
        method: &'static str,
        url: &str,
        headers: &[(&'static str, &str)],
        limit: Duration,
    ) -> Result<(u16, Vec<u8>), ConnectError> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let host = host_of(url.parse().ok().as_ref());
        // The error may show the header, and with it a secret.
        let request = request
            .body(SdkBody::empty())
            .map_err(|_| ConnectError::invalid(format!("`{host}` cannot be asked so")))?;
        let (head, body) = self.exchange(request, limit, MAX_ANSWER).await?;
        Ok((head.status.as_u16(), body))
    }

    /// Sends a request whose whole answer comes within `limit` and has no more than `most`
    /// bytes.
    ///
    /// # Errors
    ///
    /// As those of [`fetch`](Self::fetch).
    pub(super) async fn exchange(
        &self,
        request: http::Request<SdkBody>,
        limit: Duration,
        most: usize,
    ) -> Result<(http::response::Parts, Vec<u8>), ConnectError> {
        let host = host_of(Some(request.uri()));
        let work = async {
            let (head, body) = self.send(request).await?.into_parts();
            let mut body = ByteStream::from_body_1_x(body);
            let mut answer = Vec::new();
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|error| {
                    let lost = || ConnectError::new(StoreErrorKind::Connect, error.to_string());
                    let known = classify(&error).unwrap_or_else(lost);
                    known.while_(&format!("the answer of `{host}` broke off"))
                })?;
                answer.extend_from_slice(&piece);
                if answer.len() > most {
                    let text = format!("the answer of `{host}` is too long to be one");
                    return Err(ConnectError::new(StoreErrorKind::Other, text));
                }
            }
            Ok((head, answer))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let text = format!("`{host}` did not answer within {} s", limit.as_secs_f64());
            Err(ConnectError::new(StoreErrorKind::Timeout, text))
        })
    }
}

impl SdkConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        let is_read = request.method() == "GET" && request.uri().contains(READ);
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let response = http.send(request).await.map_err(|error| match error.kind {
                StoreErrorKind::Timeout => ConnectorError::timeout(error.into()),
                StoreErrorKind::Connect => ConnectorError::io(error.into()),
                _ => ConnectorError::user(error.into()),
            })?;
            let most = (!(is_read && response.status().is_success())).then_some(MAX_TEXT);
            let body = |body| SdkBody::from_body_1_x(Bounded::new(body, most));
            HttpResponse::try_from(response.map(body))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl HttpClient for Http {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
