//! Azure Resource Manager: requests with a token of the store's identities.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;

use super::credential::Credential;
use super::transport::Wire;
use super::{ConnectError, ways};
use crate::store::StoreConfig;
use crate::store::api::{Api, ApiAnswer, ApiCall, ApiError, OpenedApi, exchange, url_of};
use crate::store::http::Variables;

/// Where it is, unless `AZURE_RESOURCE_MANAGER_URL` says otherwise, as for Azure's other
/// clouds.
const ENDPOINT: &str = "https://management.azure.com";

/// The service.
#[derive(Debug)]
struct Arm {
    endpoint: String,
    wire: Wire,
    credential: Credential,
}

/// The service with the identity that `--azure-credential` or the environment names: keys
/// and signatures are for stores alone.
pub(in crate::store) fn open(config: &StoreConfig) -> Result<OpenedApi, ConnectError> {
    with(config, &Variables::of_process())
}

fn with(config: &StoreConfig, variables: &Variables) -> Result<OpenedApi, ConnectError> {
    let named = variables.get("AZURE_RESOURCE_MANAGER_URL");
    let endpoint = named.unwrap_or(ENDPOINT).trim_end_matches('/').to_owned();
    let audience = if endpoint.starts_with("https:") {
        &endpoint
    } else {
        ENDPOINT
    };
    let (_, ways) = ways(config, variables)?;
    let kind = config.azure_credential.as_deref().unwrap_or("default");
    let scope = format!("{audience}/.default");
    let credential = Credential::new(kind, &scope, variables, &ways)?;
    Ok(OpenedApi {
        api: Arc::new(Arm {
            endpoint,
            wire: ways.outside,
            credential,
        }),
        region: None,
    })
}

#[async_trait]
impl Api for Arm {
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError> {
        let url = url_of(&self.endpoint, call)?;
        let token = self.credential.token().await?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.secret()));
        let mut bearer = bearer
            .map_err(|_| ConnectError::refused("the access token is none that can be sent"))?;
        bearer.set_sensitive(true);
        let mut request = http::Request::new(Full::new(call.body.clone()));
        *request.uri_mut() = url;
        *request.method_mut() = http::Method::from_bytes(call.method.as_bytes())
            .map_err(|_| ConnectError::invalid("there is no such method"))?;
        let headers = request.headers_mut();
        headers.insert("authorization", bearer);
        if let Some(kind) = call.content_type {
            headers.insert("content-type", HeaderValue::from_static(kind));
        }
        Ok(exchange::<Full<Bytes>>(&self.wire.0, request).await?)
    }
}
