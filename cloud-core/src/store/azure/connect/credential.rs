//! Tokens of Microsoft Entra: where they come from, in the reference's order.
//!
//! A source that is set up and refuses ends the search: what comes after it would
//! be another identity than the one that was meant. A source that is not there is
//! passed over. What worked is asked again for the rest of the run; the crate
//! keeps a token until shortly before it expires.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    AzureCliCredential, AzureDeveloperCliCredential, ClientAssertionCredential,
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use tokio::sync::OnceCell;

use super::certificate::Certificate;
use super::transport::Wire;
use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, Variables, classify};
use crate::store::wire::one_line;

/// What tokens for the store are for. The same in all of Azure's clouds.
pub(super) const STORAGE: &str = "https://storage.azure.com/.default";

/// How long a metadata service that may not be there is waited for. On a machine
/// that is not in Azure nobody answers at its address.
const PROBE: Duration = Duration::from_secs(2);

/// Longest wait for a program that prints a token. Source: the vendor's
/// libraries give theirs 10 s, which a cold start on a busy machine exceeds.
const PROGRAM: Duration = Duration::from_secs(30);

/// Where a metadata service of another kind than a virtual machine's is set up.
const ENDPOINTS: [&str; 2] = ["IDENTITY_ENDPOINT", "MSI_ENDPOINT"];

/// How the crates' clients reach the services that give out tokens.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    /// By the proxies of the environment.
    pub(super) outside: Wire,
    /// Past them: for what answers on this machine.
    pub(super) direct: Wire,
}

/// A place where tokens come from, and its name for messages.
struct Source {
    name: &'static str,
    tokens: Arc<dyn TokenCredential>,
    /// Whether the next one may be asked where this one fails.
    optional: bool,
    limit: Option<Duration>,
}

/// The places to ask, in order.
pub(in crate::store::azure) struct Credential {
    /// What its tokens are for.
    scope: String,
    sources: Vec<Source>,
    found: OnceCell<usize>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.sources.iter().map(|source| source.name).collect();
        f.debug_tuple("Credential").field(&names).finish()
    }
}

impl Credential {
    /// `--azure-credential`; `default` and none are the whole chain.
    pub(super) fn new(
        kind: &str,
        scope: &str,
        variables: &Variables,
        ways: &Ways,
    ) -> Result<Self, ConnectError> {
        let sources = match kind {
            "azure-cli" => vec![azure_cli()?],
            "managed-identity" => vec![managed_identity(None, variables, ways)?],
            _ => chain(variables, ways)?,
        };
        Ok(Self {
            scope: scope.to_owned(),
            sources,
            found: OnceCell::new(),
        })
    }

    /// A token that is good for some minutes at least.
    pub(super) async fn token(&self) -> Result<Secret, ConnectError> {
        if let Some(at) = self.found.get() {
            return Ok(self.sources[*at].token(&self.scope).await?.token);
        }
        let mut refusals = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            match source.token(&self.scope).await {
                Ok(token) => {
                    tracing::info!("Azure credentials are those of {}", source.name);
                    // Another task may have been faster, with the same outcome.
                    let _ = self.found.set(at);
                    return Ok(token.token);
                }
                Err(error) if source.passes(&error) => {
                    tracing::debug!("no Azure credentials of {}: {error}", source.name);
                    refusals.push(format!("{}: {error}", source.name));
                }
                Err(error) => return Err(error.while_(&format!("{} failed", source.name))),
            }
        }
        let others = if self.scope == STORAGE {
            "set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY, \
             or an identity"
        } else {
            "set up an identity"
        };
        Err(ConnectError::refused(format!(
            "no Azure credentials were found: {others} ({})",
            refusals.join("; ")
        )))
    }
}

impl Source {
    /// Whether the next one may be asked after this failure: a service that is
    /// only busy is there.
    fn passes(&self, error: &ConnectError) -> bool {
        let busy = matches!(
            error.kind,
            StoreErrorKind::RateLimited | StoreErrorKind::ServerFault
        );
        self.optional && !busy
    }

    async fn token(&self, scope: &str) -> Result<AccessToken, ConnectError> {
        let scopes = [scope];
        let asking = self.tokens.get_token(&scopes, None);
        let answer = match self.limit {
            None => asking.await,
            Some(limit) => tokio::time::timeout(limit, asking).await.map_err(|_| {
                let text = format!("no answer within {} s", limit.as_secs());
                ConnectError::new(StoreErrorKind::Timeout, text)
            })?,
        };
        answer.map_err(|error| refused(&error))
    }
}

/// What the crate says of a token that could not be had.
fn refused(error: &azure_core::Error) -> ConnectError {
    if let Some(known) = classify(error) {
        return known;
    }
    let mut kind = StoreErrorKind::Unauthenticated;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let status =
            error
                .downcast_ref::<azure_core::Error>()
                .and_then(|error| match error.kind() {
                    ErrorKind::HttpResponse { status, .. } => Some(u16::from(*status)),
                    _ => None,
                });
        match status {
            Some(429) => kind = StoreErrorKind::RateLimited,
            Some(500..) => kind = StoreErrorKind::ServerFault,
            _ => {}
        }
        cause = error.source();
    }
    let text = error.to_string();
    // It ends in the address of a manual.
    let text = text.split("\nTo troubleshoot").next().unwrap_or_default();
    ConnectError::new(kind, one_line(text))
}

fn unusable(name: &str) -> impl FnOnce(azure_core::Error) -> ConnectError {
    move |error| {
        let text = one_line(&error.to_string());
        ConnectError::refused(format!("{name} cannot be used: {text}"))
    }
}

/// `AZURE_AUTHORITY_HOST` counts with and without its scheme.
fn options(variables: &Variables, wire: &Wire) -> ClientOptions {
    let host = variables.get("AZURE_AUTHORITY_HOST").map(|host| {
        let host = host.trim_end_matches('/');
        let authority_host = if host.contains("://") {
            host.to_owned()
        } else {
            format!("https://{host}")
        };
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = authority_host;
        Arc::new(CloudConfiguration::from(cloud))
    });
    ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(Transport::new(Arc::new(wire.clone()))),
        cloud: host,
        ..ClientOptions::default()
    }
}

fn chain(variables: &Variables, ways: &Ways) -> Result<Vec<Source>, ConnectError> {
    let mut sources = Vec::new();
    sources.extend(environment(variables, ways)?);
    sources.extend(workload_identity(variables, ways)?);
    let client = variables.get("AZURE_CLIENT_ID");
    let mut identity = managed_identity(client, variables, ways)?;
    identity.optional = !ENDPOINTS.iter().any(|name| variables.get(name).is_some());
    if identity.optional {
        identity.limit = Some(PROBE);
    }
    sources.push(identity);
    sources.extend([azure_cli()?, developer_cli()?].map(|source| Source {
        optional: true,
        ..source
    }));
    Ok(sources)
}

/// A service principal with a secret or a certificate.
fn environment(variables: &Variables, ways: &Ways) -> Result<Option<Source>, ConnectError> {
    let (Some(tenant), Some(client)) = (
        variables.get("AZURE_TENANT_ID"),
        variables.get("AZURE_CLIENT_ID"),
    ) else {
        return Ok(None);
    };
    let client_options = options(variables, &ways.outside);
    let name;
    let tokens: Arc<dyn TokenCredential> =
        if let Some(secret) = variables.get("AZURE_CLIENT_SECRET") {
            name = "the service principal of AZURE_CLIENT_ID and AZURE_CLIENT_SECRET";
            let secret = Secret::new(secret.to_owned());
            let options = ClientSecretCredentialOptions { client_options };
            ClientSecretCredential::new(tenant, client.to_owned(), secret, Some(options))
                .map_err(unusable(name))?
        } else if let Some(path) = variables.path("AZURE_CLIENT_CERTIFICATE_PATH") {
            name = "the service principal of AZURE_CLIENT_ID and AZURE_CLIENT_CERTIFICATE_PATH";
            let host = variables.get("AZURE_AUTHORITY_HOST");
            let certificate = Certificate::read(&path, host, tenant, client)?;
            let options = ClientAssertionCredentialOptions { client_options };
            let (tenant, client) = (tenant.to_owned(), client.to_owned());
            ClientAssertionCredential::new(tenant, client, certificate, Some(options))
                .map_err(unusable(name))?
        } else {
            return Ok(None);
        };
    Ok(Some(Source {
        name,
        tokens,
        optional: false,
        limit: None,
    }))
}

/// A token of Kubernetes in exchange for one of Azure.
fn workload_identity(variables: &Variables, ways: &Ways) -> Result<Option<Source>, ConnectError> {
    let name = "the workload identity of AZURE_FEDERATED_TOKEN_FILE";
    let (Some(tenant), Some(client), Some(file)) = (
        variables.get("AZURE_TENANT_ID"),
        variables.get("AZURE_CLIENT_ID"),
        variables.path("AZURE_FEDERATED_TOKEN_FILE"),
    ) else {
        return Ok(None);
    };
    let tokens = WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
        credential_options: ClientAssertionCredentialOptions {
            client_options: options(variables, &ways.outside),
        },
        client_id: Some(client.to_owned()),
        tenant_id: Some(tenant.to_owned()),
        token_file_path: Some(file),
    }))
    .map_err(unusable(name))?;
    Ok(Some(Source {
        name,
        tokens,
        optional: false,
        limit: None,
    }))
}

/// The identity of this virtual machine or this application: its own, or the one
/// of `client`. In a pod that has a workload identity it is that. Both as in the
/// reference, which looks at `AZURE_CLIENT_ID` in the chain alone.
fn managed_identity(
    client: Option<&str>,
    variables: &Variables,
    ways: &Ways,
) -> Result<Source, ConnectError> {
    let name = "the managed identity";
    let apart = ENDPOINTS.iter().any(|name| variables.get(name).is_some());
    if !apart && let Some(source) = workload_identity(variables, ways)? {
        return Ok(source);
    }
    let tokens = ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
        user_assigned_id: client.map(|id| UserAssignedId::ClientId(id.to_owned())),
        client_options: options(variables, &ways.direct),
    }))
    .map_err(unusable(name))?;
    Ok(Source {
        name,
        tokens,
        optional: false,
        limit: None,
    })
}

/// What `az login` was done for.
fn azure_cli() -> Result<Source, ConnectError> {
    let name = "the Azure CLI";
    let tokens = AzureCliCredential::new(None).map_err(unusable(name))?;
    Ok(Source {
        name,
        tokens,
        optional: false,
        limit: Some(PROGRAM),
    })
}

/// What `azd auth login` was done for.
fn developer_cli() -> Result<Source, ConnectError> {
    let name = "the Azure Developer CLI";
    let tokens = AzureDeveloperCliCredential::new(None).map_err(unusable(name))?;
    Ok(Source {
        name,
        tokens,
        optional: false,
        limit: Some(PROGRAM),
    })
}
