//! Access tokens, kept as long as they last and fetched anew in time.
//!
//! They are asked for early, and a failure counts only when the old one is used
//! up, so that a long upload survives a token service that is away for some
//! minutes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use super::services::{LIMIT, Services, fetch, post_form};
use super::source::{Impersonation, KeyFile, Source, TOKEN_URL, User, string, unusable};
use super::{external, jwt, metadata};
use crate::store::StoreErrorKind;
use crate::store::http::ConnectError;

/// What a token for the store allows: reading and writing objects.
pub(super) const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// What a token for disks and their snapshots allows.
pub(super) const COMPUTE: &str = "https://www.googleapis.com/auth/compute";

/// What a token allows with which another's is asked for.
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// A token that lasts no longer than this is asked for anew. Source: the
/// reference. (The metadata service gives a new one five minutes before the end.)
const EARLY: Duration = Duration::from_secs(225);

/// A token that lasts no longer than this is not used any more: the request may
/// be on its way for a while.
const LATE: Duration = Duration::from_secs(20);

/// After an early attempt the next one waits for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a token lasts whose service does not say. Source: the shortest that
/// Google's services give by themselves.
const UNTOLD: Duration = Duration::from_mins(10);

/// A token, and how long it lasts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) value: String,
    pub(super) until: SystemTime,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// Hands out the tokens of one source.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Source,
    /// For messages.
    named: String,
    services: Services,
    /// What the tokens allow.
    scope: &'static str,
    held: Mutex<Option<Held>>,
    /// Held by whoever asks the source.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Held {
    token: Token,
    asked: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Good, and time to ask for a new one.
    Aging,
    Over,
}

impl Held {
    fn state(&self, now: SystemTime) -> State {
        let until = self.token.until;
        if until <= now + LATE {
            State::Over
        } else if until > now + EARLY || now < self.asked + PAUSE {
            State::Fresh
        } else {
            State::Aging
        }
    }
}

impl Tokens {
    pub(super) fn new(
        source: Source,
        named: String,
        services: Services,
        scope: &'static str,
    ) -> Self {
        Self {
            source,
            named,
            services,
            scope,
            held: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// A token that lasts for some seconds at least; `None` where none is needed.
    pub(super) async fn get(&self) -> Result<Option<Token>, ConnectError> {
        if self.source == Source::Anonymous {
            return Ok(None);
        }
        // One asks; the others go on with what there is, or wait for it.
        let (state, _asking) = match self.state() {
            State::Fresh => (State::Fresh, None),
            State::Aging => match self.loading.try_lock() {
                Ok(asking) => (State::Aging, Some(asking)),
                Err(_) => (State::Fresh, None),
            },
            State::Over => {
                let asking = self.loading.lock().await;
                (self.state(), Some(asking))
            }
        };
        let held = self.held();
        if let (State::Fresh, Some(held)) = (state, &held) {
            return Ok(Some(held.token.clone()));
        }
        let now = SystemTime::now();
        let fetched = fetched(&self.source, &self.services, self.scope).await;
        let token = match (fetched, held) {
            (Ok(token), _) => token,
            (Err(error), Some(held)) if state == State::Aging => {
                tracing::debug!(%error, "no new access token, going on with the old one");
                held.token
            }
            (Err(error), _) => {
                let doing = format!("no access token for {}", self.named);
                return Err(error.while_(&doing));
            }
        };
        let new = Held {
            token: token.clone(),
            asked: now,
        };
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
        Ok(Some(token))
    }

    /// Drops the token that was sent as `authorization`, if it is still the one in
    /// use; whether a new one may differ.
    pub(super) fn forget(&self, authorization: &HeaderValue) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = authorization.to_str().unwrap_or_default();
        let same = |held: &mut Held| sent.strip_prefix("Bearer ") == Some(&held.token.value);
        held.take_if(same);
        true
    }

    /// The project of the machine, where its service account is used.
    pub(super) async fn project_of_machine(&self) -> Option<String> {
        match self.source {
            Source::Machine => metadata::project(&self.services).await,
            _ => None,
        }
    }

    fn held(&self) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    fn state(&self) -> State {
        let held = self.held();
        held.map_or(State::Over, |held| held.state(SystemTime::now()))
    }
}

type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Token, ConnectError>> + Send + 'a>>;

/// A new token of a source.
fn fetched<'a>(source: &'a Source, services: &'a Services, scope: &'a str) -> Fetching<'a> {
    Box::pin(async move {
        match source {
            Source::Anonymous => Err(ConnectError::refused("there are no credentials")),
            Source::Key(account) => of_key(account, services, scope).await,
            Source::User(user) => of_user(user, services).await,
            Source::External(external) => external::token(external, services, scope).await,
            Source::Impersonated { by, account } => {
                let by = fetched(by, services, PLATFORM).await?;
                of_another(account, &by, services, scope).await
            }
            Source::Machine => {
                let answer = metadata::token(services, scope).await?;
                let doing = "the metadata service gave no token";
                if answer.status == 404 {
                    return Err(unusable(doing, "this machine has no service account"));
                }
                of_answer(&answer.success(doing)?, doing)
            }
        }
    })
}

async fn of_key(
    account: &KeyFile,
    services: &Services,
    scope: &str,
) -> Result<Token, ConnectError> {
    let doing = format!("the service account `{}` got none", account.email);
    let begin = SystemTime::now();
    let now = begin
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let unsigned = |why: String| unusable(&doing, &why);
    if account.self_signed {
        let claims = json!({"sub": account.email, "scope": scope});
        let value = jwt::signed(account, now, &claims).map_err(unsigned)?;
        let until = begin + Duration::from_secs(jwt::LIFETIME);
        return Ok(Token { value, until });
    }
    // To the service at Google's own address, whatever leads to it.
    let claims = json!({"aud": TOKEN_URL, "scope": scope});
    let assertion = jwt::signed(account, now, &claims).map_err(unsigned)?;
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion.as_str()),
    ];
    let answer = post_form(services, &account.token_url, &[], &fields).await;
    let answer = answer.map_err(|error| error.while_(&doing))?;
    of_answer(&answer.success(&doing)?, &doing)
}

async fn of_user(user: &User, services: &Services) -> Result<Token, ConnectError> {
    let doing = "the login got none";
    let mut fields = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", user.refresh_token.0.as_str()),
    ];
    let basic = basic(&user.client_id, &user.client_secret.0);
    let mut headers = Vec::new();
    if user.basic {
        headers.push(("authorization", basic.as_str()));
    } else {
        fields.push(("client_id", user.client_id.as_str()));
        fields.push(("client_secret", user.client_secret.0.as_str()));
    }
    let answer = post_form(services, &user.token_url, &headers, &fields).await;
    let answer = answer.map_err(|error| error.while_(doing))?;
    of_answer(&answer.success(doing)?, doing)
}

/// How a client names itself to a token service.
pub(super) fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")))
}

async fn of_another(
    account: &Impersonation,
    by: &Token,
    services: &Services,
    scope: &str,
) -> Result<Token, ConnectError> {
    let doing = "could not act in the name of the service account";
    let body = json!({
        "scope": [scope],
        "delegates": account.delegates,
        "lifetime": format!("{}s", account.lifetime.as_secs()),
    });
    let bearer = format!("Bearer {}", by.value);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = Bytes::from(body.to_string());
    let answer = fetch(&services.http, "POST", &account.url, &headers, body, LIMIT).await;
    let answer = answer.map_err(|error| error.while_(doing))?;
    let value = answer.success(doing)?;
    let token = string(&value, "accessToken");
    let until = string(&value, "expireTime").and_then(super::super::time);
    match (token, until) {
        (Some(token), Some(until)) => Ok(Token {
            value: token.to_owned(),
            until,
        }),
        _ => Err(unusable(doing, "the answer has no token")),
    }
}

/// The token in an answer of OAuth's form.
pub(super) fn of_answer(value: &Value, doing: &str) -> Result<Token, ConnectError> {
    let Some(token) = string(value, "access_token") else {
        // Somebody else answered: a proxy's page, a portal.
        let text = format!("{doing}: the answer has no token");
        return Err(ConnectError::new(StoreErrorKind::ServerFault, text));
    };
    let seconds = value.get("expires_in").and_then(|seconds| {
        let text = seconds.as_str().and_then(|text| text.parse().ok());
        seconds.as_u64().or(text)
    });
    Ok(Token {
        value: token.to_owned(),
        until: SystemTime::now() + seconds.map_or(UNTOLD, Duration::from_secs),
    })
}
