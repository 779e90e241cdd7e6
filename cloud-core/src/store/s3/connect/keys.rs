//! Credentials, kept as long as they last and fetched anew in time.
//!
//! The SDK's own cache waits until they are about to expire and then fails if
//! they cannot be had at that moment. Here they are asked for early, and a
//! failure counts only when the old ones are used up, so that a long upload
//! survives a service that is away for some minutes.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use super::ConnectError;
use super::chain::Source;
use super::services::Services;
use super::{metadata, process};
use crate::store::StoreErrorKind;

/// Credentials that last no longer than this are asked for anew. Source: the
/// reference.
const EARLY: Duration = Duration::from_mins(15);

/// Credentials that last no longer than this are not used any more: the request
/// they sign may be on its way for a while.
const LATE: Duration = Duration::from_mins(1);

/// After an early attempt the next one waits for this long.
const PAUSE: Duration = Duration::from_mins(1);

/// How long an instance's credentials are used whose time is over. The services
/// accept them while the instance cannot renew them. Source: "Static stability"
/// in the SDKs' reference guide.
const EXTENSION: Duration = Duration::from_mins(5);

/// Hands out the credentials of one source.
#[derive(Clone)]
pub(super) struct Keys(Arc<Inner>);

struct Inner {
    source: Source,
    services: Services,
    home: Option<PathBuf>,
    /// What to say if there are none.
    nothing: String,
    held: Mutex<Option<Held>>,
    /// Held by whoever asks the source.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    credentials: Credentials,
    until: Option<SystemTime>,
    asked: SystemTime,
    loaded: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Good, and time to ask for new ones.
    Aging,
    Over,
}

impl Held {
    fn state(&self, now: SystemTime) -> State {
        let Some(until) = self.until else {
            return State::Fresh;
        };
        if until <= now + LATE {
            State::Over
        } else if until > now + EARLY || now < self.asked + PAUSE {
            State::Fresh
        } else {
            State::Aging
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.0.source;
        f.debug_struct("Keys")
            .field("source", source)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// `nothing` is the line for the user if the source has no credentials.
    pub(super) fn new(
        source: Source,
        services: Services,
        home: Option<PathBuf>,
        nothing: String,
    ) -> Self {
        Self(Arc::new(Inner {
            source,
            services,
            home,
            nothing,
            held: Mutex::new(None),
            loading: tokio::sync::Mutex::new(()),
        }))
    }

    /// Credentials that last for a minute at least.
    pub(super) async fn get(&self) -> Result<Credentials, ConnectError> {
        let state = |held: &Option<Held>| match held {
            None => State::Over,
            Some(held) => held.state(SystemTime::now()),
        };
        let held = self.held();
        // One asks; the others go on with what there is, or wait for it.
        let (state, _asking) = match state(&held) {
            State::Aging => match self.0.loading.try_lock() {
                Ok(asking) => (State::Aging, Some(asking)),
                Err(_) => (State::Fresh, None),
            },
            State::Over => {
                let asking = self.0.loading.lock().await;
                (state(&self.held()), Some(asking))
            }
            State::Fresh => (State::Fresh, None),
        };
        let held = self.held();
        if let (State::Fresh, Some(held)) = (state, &held) {
            return Ok(held.credentials.clone());
        }
        let again = held.is_some();
        let loaded = self.load(again).await;
        match (loaded, held) {
            (Ok(new), _) => {
                let credentials = new.credentials.clone();
                self.keep(new);
                Ok(credentials)
            }
            (Err(error), Some(mut old)) if state != State::Over => {
                tracing::debug!(%error, "the credentials could not be renewed yet");
                old.asked = SystemTime::now();
                self.keep(old.clone());
                Ok(old.credentials)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The store does not take the credentials that a request used, which began
    /// at `began`: asks the source for others, however long it said that those
    /// last. `false` if it has none.
    pub(super) async fn renew(&self, began: Instant) -> Result<bool, ConnectError> {
        if matches!(self.0.source, Source::Keys(_) | Source::Nothing) {
            return Ok(false);
        }
        let _asking = self.0.loading.lock().await;
        let old = self.held();
        if old.as_ref().is_some_and(|held| held.loaded > began) {
            // By another request that was refused.
            return Ok(true);
        }
        let new = self.load(true).await?;
        let same = |old: Held| old.credentials == new.credentials;
        let changed = !old.is_some_and(same);
        self.keep(new);
        Ok(changed)
    }

    fn held(&self) -> Option<Held> {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    fn keep(&self, new: Held) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(new);
    }

    async fn load(&self, again: bool) -> Result<Held, ConnectError> {
        let inner = &self.0;
        let credentials = match inner.load(&inner.source).await? {
            Some(credentials) => credentials,
            None if again => {
                return Err(ConnectError::new(
                    StoreErrorKind::Timeout,
                    "the credentials have expired, and the instance metadata service does not \
                     answer any more",
                ));
            }
            None => return Err(ConnectError::refused(inner.nothing.clone())),
        };
        let now = SystemTime::now();
        let mut until = credentials.expiry();
        if until.is_some_and(|until| until <= now) {
            if !matches!(inner.source, Source::Instance(_)) {
                return Err(ConnectError::refused(format!(
                    "the credentials of {} have expired already: renew them there",
                    inner.source.name()
                )));
            }
            until = Some(now + LATE + EXTENSION);
        }
        Ok(Held {
            credentials,
            until,
            asked: now,
            loaded: Instant::now(),
        })
    }
}

type Loading<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Credentials>, ConnectError>> + Send + 'a>>;

impl Inner {
    /// Asks a source. `None` if it has nothing.
    fn load<'a>(&'a self, source: &'a Source) -> Loading<'a> {
        Box::pin(async move {
            let services = &self.services;
            Ok(Some(match source {
                Source::Keys(keys) => keys.clone(),
                Source::Role { role, base } => {
                    let Some(base) = self.load(base).await? else {
                        return Err(ConnectError::refused(format!(
                            "could not assume the role `{}`: {} has no credentials to do it with",
                            role.arn,
                            base.name()
                        )));
                    };
                    services.assume_role(role, base).await?
                }
                Source::WebIdentity { role, token_file } => {
                    // Read anew each time: it is replaced as it ages.
                    let token = std::fs::read_to_string(token_file).map_err(|error| {
                        ConnectError::refused(format!(
                            "could not assume the role `{}`: the web identity token `{}` cannot \
                             be read: {error} (AWS_WEB_IDENTITY_TOKEN_FILE)",
                            role.arn,
                            token_file.display()
                        ))
                    })?;
                    services.assume_role_by_token(role, token.trim()).await?
                }
                Source::Sso(sso) => services.sign_on(sso, self.home.clone()).await?,
                Source::Process { command, profile } => process::run(command, profile).await?,
                Source::Container(agent) => metadata::container(&services.direct, agent).await?,
                Source::Instance(instance) => {
                    let expected = || metadata::is_amazons(Path::new("/sys"));
                    return metadata::instance(&services.direct, instance, expected).await;
                }
                Source::Nothing => return Ok(None),
            }))
        })
    }
}

impl Source {
    /// What it is called in messages.
    fn name(&self) -> String {
        match self {
            Self::Keys(_) => "the keys".into(),
            Self::Role { role, .. } | Self::WebIdentity { role, .. } => {
                format!("the role `{}`", role.arn)
            }
            Self::Sso(sso) => format!("profile `{}`", sso.profile),
            Self::Process { profile, .. } => {
                format!("the credential_process of profile `{profile}`")
            }
            Self::Container(_) => "the container".into(),
            Self::Instance(_) | Self::Nothing => "this instance".into(),
        }
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.get().await.map_err(CredentialsError::provider_error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_age() {
        let now = SystemTime::now();
        let minutes = |n: u64| Duration::from_mins(n);
        let held = |lasts: Option<u64>, asked: u64| Held {
            credentials: Credentials::new("a", "b", None, None, "test"),
            until: lasts.map(|lasts| now + minutes(lasts)),
            asked: now - minutes(asked),
            loaded: Instant::now(),
        };
        for (lasts, asked, expected) in [
            (None, 9999, State::Fresh),
            (Some(16), 30, State::Fresh),
            (Some(14), 30, State::Aging),
            // Just asked: not again at once.
            (Some(14), 0, State::Fresh),
            (Some(2), 2, State::Aging),
            (Some(1), 0, State::Over),
            (Some(0), 9999, State::Over),
        ] {
            assert_eq!(held(lasts, asked).state(now), expected, "{lasts:?} {asked}");
        }
    }

    /// A source that fails, with credentials held that last so many minutes.
    fn failing(minutes: u64) -> Keys {
        let source = Source::Process {
            command: "false".into(),
            profile: "dev".into(),
        };
        let keys = Keys::new(source, Services::for_tests(), None, String::new());
        let now = SystemTime::now();
        keys.keep(Held {
            credentials: Credentials::new("old", "b", None, None, "test"),
            until: Some(now + Duration::from_mins(minutes)),
            asked: now - Duration::from_hours(1),
            loaded: Instant::now(),
        });
        keys
    }

    /// A long upload survives that new credentials cannot be had yet.
    #[tokio::test]
    async fn a_failed_renewal_counts_only_when_the_old_credentials_are_used_up() {
        let aging = failing(10);
        assert_eq!(aging.get().await.unwrap().access_key_id(), "old");
        // It was tried, and will be again.
        let asked = aging.held().unwrap().asked;
        assert!(asked + PAUSE > SystemTime::now());
        let over = failing(0).get().await.unwrap_err();
        assert_eq!(over.kind, StoreErrorKind::Unauthenticated);
        assert!(over.text.contains("credential_process"), "{over}");
    }

    #[tokio::test]
    async fn others_use_the_old_credentials_while_one_asks_for_new_ones() {
        let keys = failing(10);
        let _asking = keys.0.loading.lock().await;
        // Would wait for ever if it asked too.
        assert_eq!(keys.get().await.unwrap().access_key_id(), "old");
    }
}
