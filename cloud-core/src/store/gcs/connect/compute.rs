//! Compute Engine: requests with a token of the store's credentials.

use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderValue;

use super::super::body::Body;
use super::source::Found;
use super::{Connect, Service, universe};
use crate::store::StoreConfig;
use crate::store::api::{Api, ApiAnswer, ApiCall, ApiError, OpenedApi, exchange, url_of};
use crate::store::http::{ConnectError, Variables};

/// The service.
#[derive(Debug)]
struct Compute(Connect);

/// The service with the credentials that the environment names.
pub(in crate::store) fn open(config: &StoreConfig) -> OpenedApi {
    let connect = Connect {
        service: Service::Compute,
        ..Connect::new(config, Variables::of_process())
    };
    OpenedApi {
        api: Arc::new(Compute(connect)),
        region: None,
    }
}

/// Where the service is: `GCP_COMPUTE_ENDPOINT`, or that of the universe.
pub(super) fn endpoint(variables: &Variables, found: &Found) -> Result<String, ConnectError> {
    if let Some(named) = variables.get("GCP_COMPUTE_ENDPOINT") {
        return Ok(named.trim_end_matches('/').to_owned());
    }
    Ok(format!("https://compute.{}", universe(variables, found)?))
}

#[async_trait]
impl Api for Compute {
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError> {
        let ready = self.0.get().await?;
        let url = url_of(&ready.endpoint, call)?;
        let mut again = true;
        loop {
            let mut request = http::Request::new(Body::from(call.body.clone()));
            *request.uri_mut() = url.clone();
            *request.method_mut() = http::Method::from_bytes(call.method.as_bytes())
                .map_err(|_| ConnectError::invalid("there is no such method"))?;
            if let Some(kind) = call.content_type {
                let headers = request.headers_mut();
                headers.insert("content-type", HeaderValue::from_static(kind));
            }
            if call.method != "GET" {
                let headers = request.headers_mut();
                headers.insert("content-length", call.body.len().into());
            }
            ready.sign(&mut request).await?;
            let signed = request.headers().clone();
            let answer = exchange(&ready.http, request).await?;
            // The token may have been withdrawn before its time.
            if answer.status == 401 && again && ready.refused(&signed) {
                again = false;
                continue;
            }
            return Ok(answer);
        }
    }
}
