//! Where keys are looked for, and in which order.
//!
//! A source that is set up and fails ends the search with its own words: that a
//! later source has nothing is not what the user has to know.

use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// Outside of the cloud nobody answers at the address of the metadata service.
/// Source: botocore's limit of one second and one attempt.
const METADATA: Duration = Duration::from_secs(1);

/// What decides the order.
pub(super) struct Sources {
    /// Whether the command line names a profile: what the environment says of
    /// keys and of a web identity does not count then.
    pub(super) explicit: bool,
    /// The profile by name, if one is named anywhere.
    pub(super) profile: Option<String>,
    /// Whether the profile assumes a role, which goes before a web identity of
    /// the environment.
    pub(super) assumes_role: bool,
}

/// Sources, asked one after the other.
#[derive(Debug)]
pub(super) struct Chain(Vec<(&'static str, SharedCredentialsProvider)>);

impl Chain {
    /// `outside` reaches the world, `inside` this machine's metadata services.
    pub(super) fn new(
        sources: &Sources,
        outside: &ProviderConfig,
        inside: &ProviderConfig,
    ) -> Self {
        let mut profile = ProfileFileCredentialsProvider::builder().configure(outside);
        if let Some(name) = &sources.profile {
            profile = profile.profile_name(name);
        }
        let profile = SharedCredentialsProvider::new(profile.build());
        let web_identity = WebIdentityTokenCredentialsProvider::builder().configure(outside);
        let container = EcsCredentialsProvider::builder()
            .configure(inside)
            .connect_timeout(METADATA)
            .build();
        let number = |name: &str| std::env::var(name).ok()?.trim().parse::<u32>().ok();
        let seconds = number("AWS_METADATA_SERVICE_TIMEOUT").unwrap_or(0);
        let limit = METADATA.max(Duration::from_secs(seconds.into()));
        let client = imds::Client::builder()
            .configure(inside)
            .max_attempts(
                number("AWS_METADATA_SERVICE_NUM_ATTEMPTS")
                    .unwrap_or(1)
                    .max(1),
            )
            .connect_timeout(limit)
            .read_timeout(limit)
            .build();
        let metadata = ImdsCredentialsProvider::builder()
            .configure(inside)
            .imds_client(client)
            .build();

        let mut chain = Vec::new();
        if !sources.explicit {
            let keys = EnvironmentVariableCredentialsProvider::new();
            chain.push(("environment", SharedCredentialsProvider::new(keys)));
        }
        let profile = ("profile", profile);
        if sources.explicit {
            chain.push(profile);
        } else {
            let web = SharedCredentialsProvider::new(web_identity.build());
            chain.push(("web identity", web));
            let place = if sources.assumes_role { 1 } else { 2 };
            chain.insert(place, profile);
        }
        let container = SharedCredentialsProvider::new(container);
        chain.push(("container", container));
        let metadata = SharedCredentialsProvider::new(Metadata(metadata));
        chain.push(("instance metadata", metadata));
        Self(chain)
    }

    async fn first(&self) -> Result<Credentials, CredentialsError> {
        for (name, source) in &self.0 {
            match source.provide_credentials().await {
                Ok(found) => {
                    tracing::debug!("credentials of the {name} are used");
                    return Ok(found);
                }
                Err(CredentialsError::CredentialsNotLoaded(why)) => {
                    tracing::debug!("no credentials of the {name}: {why:?}");
                }
                Err(failed) => {
                    let why = super::super::error::innermost(&failed);
                    let text = format!("the credentials of the {name} cannot be used: {why}");
                    return Err(match failed {
                        CredentialsError::ProviderTimedOut(_) => failed,
                        _ => CredentialsError::provider_error(text),
                    });
                }
            }
        }
        Err(CredentialsError::not_loaded("Unable to locate credentials"))
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.first())
    }
}

/// The metadata service, whose absence is no failure.
#[derive(Debug)]
struct Metadata(ImdsCredentialsProvider);

impl ProvideCredentials for Metadata {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.0.provide_credentials().await.map_err(|failed| {
                // Nobody is there to be asked.
                let text = super::super::error::innermost(&failed);
                CredentialsError::not_loaded(text)
            })
        })
    }
}
