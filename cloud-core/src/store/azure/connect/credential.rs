//! Tokens of Microsoft Entra: where they come from, in the reference's order.
//!
//! A source that is set up and refuses ends the search: what comes after it would
//! be another identity than the one that was meant. A source that is not there is
//! passed over. What worked is asked again for the rest of the run; the crate
//! keeps a token until shortly before it expires.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{
    AsyncRawResponse, ClientOptions, HttpClient, Request, RetryOptions, Transport,
};
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

/// How long the metadata service of a machine of Azure's is waited for, with the
/// attempts that the crate makes by itself.
const EXPECTED: Duration = Duration::from_secs(20);

/// What machines of Azure's are tagged with. Source: cloud-init's manual, "Azure".
const ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

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
    /// Whether it must be there: then it is in trouble if it does not answer.
    expected: bool,
    /// The status of the last answer; 0 before there is one.
    heard: Arc<AtomicU16>,
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

/// Notes what is answered. The crate asks the metadata service again by itself, for
/// longer than it is waited for, and would take the reason with it.
#[derive(Debug)]
struct Watched {
    wire: Wire,
    heard: Arc<AtomicU16>,
}

#[async_trait]
impl HttpClient for Watched {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = self.wire.execute_request(request).await?;
        self.heard
            .store(u16::from(answer.status()), Ordering::Relaxed);
        Ok(answer)
    }
}

/// Whether the machine that has this `/sys` is one of Azure's.
fn is_azures(sys: &Path) -> bool {
    let tag = std::fs::read_to_string(sys.join("class/dmi/id/chassis_asset_tag"));
    tag.is_ok_and(|tag| tag.trim() == ASSET_TAG)
}

impl Source {
    fn new(name: &'static str, tokens: Arc<dyn TokenCredential>, limit: Option<Duration>) -> Self {
        Self {
            name,
            tokens,
            optional: false,
            limit,
            expected: false,
            heard: Arc::default(),
        }
    }

    /// Whether the next one may be asked after this failure: a service that is
    /// only busy is there.
    fn passes(&self, error: &ConnectError) -> bool {
        let busy = matches!(
            error.kind,
            StoreErrorKind::RateLimited | StoreErrorKind::ServerFault
        );
        let in_trouble = busy || self.expected && error.kind.is_transient();
        self.optional && !in_trouble
    }

    async fn token(&self, scope: &str) -> Result<AccessToken, ConnectError> {
        let scopes = [scope];
        let asking = self.tokens.get_token(&scopes, None);
        let answer = match self.limit {
            None => asking.await,
            Some(limit) => tokio::time::timeout(limit, asking).await.map_err(|_| {
                let seconds = limit.as_secs();
                let status = self.heard.load(Ordering::Relaxed);
                let (kind, text) = if let Some(kind) = busy(status) {
                    let text = format!("no token within {seconds} s: it answered {status}");
                    (kind, text)
                } else {
                    let text = format!("no answer within {seconds} s");
                    (StoreErrorKind::Timeout, text)
                };
                ConnectError::new(kind, text)
            })?,
        };
        answer.map_err(|error| refused(&error))
    }
}

/// What an answer says of a service that is there and cannot give a token now. `410`
/// is that while it is replaced. Source: "Error handling" in the manual of managed
/// identities.
fn busy(status: u16) -> Option<StoreErrorKind> {
    match status {
        429 => Some(StoreErrorKind::RateLimited),
        410 | 500.. => Some(StoreErrorKind::ServerFault),
        _ => None,
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
        kind = status.and_then(busy).unwrap_or(kind);
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
        identity.expected = is_azures(Path::new("/sys"));
        identity.limit = Some(if identity.expected { EXPECTED } else { PROBE });
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
    Ok(Some(Source::new(name, tokens, None)))
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
    Ok(Some(Source::new(name, tokens, None)))
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
    let heard = Arc::default();
    let watched = Watched {
        wire: ways.direct.clone(),
        heard: Arc::clone(&heard),
    };
    let tokens = ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
        user_assigned_id: client.map(|id| UserAssignedId::ClientId(id.to_owned())),
        client_options: ClientOptions {
            transport: Some(Transport::new(Arc::new(watched))),
            ..options(variables, &ways.direct)
        },
    }))
    .map_err(unusable(name))?;
    Ok(Source {
        heard,
        ..Source::new(name, tokens, None)
    })
}

/// What `az login` was done for.
fn azure_cli() -> Result<Source, ConnectError> {
    let name = "the Azure CLI";
    let tokens = AzureCliCredential::new(None).map_err(unusable(name))?;
    Ok(Source::new(name, tokens, Some(PROGRAM)))
}

/// What `azd auth login` was done for.
fn developer_cli() -> Result<Source, ConnectError> {
    let name = "the Azure Developer CLI";
    let tokens = AzureDeveloperCliCredential::new(None).map_err(unusable(name))?;
    Ok(Source::new(name, tokens, Some(PROGRAM)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::http::{Http, Proxies, Tls};
    use crate::store::scripted::{Answer, Server};

    /// The managed identity of a machine whose metadata service answers with
    /// `status`, as the chain asks it.
    async fn asked(status: u16, expected: bool) -> (Source, ConnectError) {
        let server = Server::start(move |_| Answer::new(status).body("{}"));
        // The crate knows one address only: a proxy stands for it.
        let proxy = Variables::of(&[("HTTP_PROXY", &server.url)]);
        let tls = Arc::new(Tls::new(None, "REQUESTS_CA_BUNDLE"));
        let limit = Duration::from_mins(1);
        let wire = Wire(Http::new(tls, Proxies::of(&proxy).unwrap(), limit));
        let ways = Ways {
            outside: wire.clone(),
            direct: wire,
        };
        let mut source = managed_identity(None, &Variables::default(), &ways).unwrap();
        source.optional = true;
        source.expected = expected;
        source.limit = Some(Duration::from_secs(1));
        let error = source.token(STORAGE).await.unwrap_err();
        assert!(!server.requests().is_empty());
        (source, error)
    }

    /// Or the chain would end with "no credentials", which is final.
    #[tokio::test]
    async fn a_metadata_service_in_trouble_is_there() {
        use StoreErrorKind as Kind;
        for (status, expected, kind, passes) in [
            (429, false, Kind::RateLimited, false),
            (503, false, Kind::ServerFault, false),
            (410, false, Kind::ServerFault, false),
            // Somebody else's, on the machines of other clouds.
            (404, false, Kind::Timeout, true),
            (404, true, Kind::Timeout, false),
            // It has no identity for us.
            (400, true, Kind::Unauthenticated, true),
        ] {
            let (source, error) = asked(status, expected).await;
            assert_eq!(error.kind, kind, "{status}: {error}");
            assert_eq!(source.passes(&error), passes, "{status} {expected}");
        }
    }

    #[test]
    fn a_machine_of_azures_is_known_by_its_tag() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!is_azures(sys.path()));
        let folder = sys.path().join("class/dmi/id");
        std::fs::create_dir_all(&folder).unwrap();
        for (tag, expected) in [("None", false), (ASSET_TAG, true)] {
            std::fs::write(folder.join("chassis_asset_tag"), format!("{tag}\n")).unwrap();
            assert_eq!(is_azures(sys.path()), expected);
        }
    }
}
