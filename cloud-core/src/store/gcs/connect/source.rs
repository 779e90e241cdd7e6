//! Where credentials come from: the application-default chain.
//!
//! The file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own file, the
//! metadata service of the machine, in this order. A source that was named and
//! cannot be used is an error; it is never passed over in silence.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::external::External;
use super::metadata;
use super::services::Services;
use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, Variables};

/// The universe of everybody who names none.
pub(super) const DEFAULT_UNIVERSE: &str = "googleapis.com";

/// Where tokens come from if the file does not say otherwise.
pub(super) const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// The file of gcloud's login, in its folder.
const WELL_KNOWN: &str = "application_default_credentials.json";

/// How deep credentials may stand in for others.
const MAX_DEPTH: usize = 4;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Credentials of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// None at all, for emulators.
    Anonymous,
    /// The key of a service account.
    Key(KeyFile),
    /// The login of a person.
    User(User),
    /// Somebody known to another provider of identities.
    External(Box<External>),
    /// A service account in whose name others may act.
    Impersonated {
        /// Who acts.
        by: Box<Source>,
        account: Impersonation,
    },
    /// The service account of the machine.
    Machine,
}

/// The key of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFile {
    pub(super) email: String,
    pub(super) key: Secret,
    pub(super) key_id: Option<String>,
    pub(super) token_url: String,
    /// Other universes than Google's own have no token service.
    pub(super) self_signed: bool,
}

/// The login of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) refresh_token: Secret,
    pub(super) token_url: String,
    /// Whether the client names itself in a header, not in the form.
    pub(super) basic: bool,
}

/// Acting in the name of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Impersonation {
    pub(super) url: String,
    pub(super) delegates: Vec<String>,
    pub(super) lifetime: Duration,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) source: Source,
    /// For messages.
    pub(super) named: String,
    pub(super) quota_project: Option<String>,
    pub(super) universe: Option<String>,
    pub(super) project: Option<String>,
}

impl Found {
    pub(super) fn anonymous() -> Self {
        Self::plain(Source::Anonymous, "no credentials")
    }

    fn plain(source: Source, named: &str) -> Self {
        Self {
            source,
            named: named.to_owned(),
            quota_project: None,
            universe: None,
            project: None,
        }
    }
}

/// Finds credentials.
///
/// # Errors
///
/// `Unauthenticated`: there are none, or those that were named cannot be used.
pub(super) async fn find(
    variables: &Variables,
    services: &Services,
) -> Result<Found, ConnectError> {
    if let Some(path) = variables.path("GOOGLE_APPLICATION_CREDENTIALS") {
        return read(&path, "GOOGLE_APPLICATION_CREDENTIALS");
    }
    let own = gcloud_folder(variables).map(|folder| folder.join(WELL_KNOWN));
    if let Some(path) = own.filter(|path| path.exists()) {
        return read(&path, "gcloud's login");
    }
    let nothing = "Unable to locate credentials: set GOOGLE_APPLICATION_CREDENTIALS to a file of \
                   them, or log in with `gcloud auth application-default login`";
    if metadata::is_switched_off(variables) {
        return Err(ConnectError::refused(nothing));
    }
    match metadata::is_there(services).await {
        Ok(()) => Ok(Found::plain(
            Source::Machine,
            "the service account of this machine",
        )),
        // A machine of Google's has the service, if not at this moment.
        Err(error) if metadata::is_expected(variables) => Err(error),
        Err(error) => Err(ConnectError::refused(format!(
            "{nothing}; this machine has no metadata service of Google Cloud ({error})"
        ))),
    }
}

/// The folder of gcloud's files.
pub(super) fn gcloud_folder(variables: &Variables) -> Option<PathBuf> {
    let named = variables.path("CLOUDSDK_CONFIG");
    named.or_else(|| Some(variables.home()?.join(".config/gcloud")))
}

fn read(path: &Path, by: &str) -> Result<Found, ConnectError> {
    let shown = path.display();
    let failed = |why: &str| {
        let text = format!("could not use the credentials `{shown}` ({by}): {why}");
        ConnectError::refused(text)
    };
    let text = std::fs::read(path).map_err(|error| failed(&error.to_string()))?;
    // The parser's words could show what is in the file.
    let value: Value = serde_json::from_slice(&text).map_err(|_| failed("it is not JSON"))?;
    let source = source(&value, 0).map_err(|why| failed(&why))?;
    let field = |name: &str| string(&value, name).map(str::to_owned);
    Ok(Found {
        named: format!("{} of `{shown}` ({by})", source.words()),
        quota_project: field("quota_project_id"),
        universe: field("universe_domain"),
        project: field("project_id"),
        source,
    })
}

impl Source {
    fn words(&self) -> &'static str {
        match self {
            Self::Anonymous => "nothing",
            Self::Key(_) => "the service account key",
            Self::User(_) => "the login",
            Self::External(_) => "the federated identity",
            Self::Impersonated { .. } => "the impersonated service account",
            Self::Machine => "the service account",
        }
    }
}

/// A text that is not empty.
pub(super) fn string<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// A text that has to be there.
pub(super) fn wanted(value: &Value, name: &str) -> Result<String, String> {
    let found = string(value, name).map(str::to_owned);
    found.ok_or_else(|| format!("it has no `{name}`"))
}

/// The credentials that a file describes. Errors show nothing of them.
fn source(value: &Value, depth: usize) -> Result<Source, String> {
    if depth > MAX_DEPTH {
        return Err("its `source_credentials` are nested too deep".into());
    }
    let secret = |name: &str| wanted(value, name).map(Secret);
    let token_url = || string(value, "token_uri").unwrap_or(TOKEN_URL).to_owned();
    match wanted(value, "type")?.as_str() {
        "service_account" => Ok(Source::Key(KeyFile {
            email: wanted(value, "client_email")?,
            key: secret("private_key")?,
            key_id: string(value, "private_key_id").map(str::to_owned),
            token_url: token_url(),
            self_signed: string(value, "universe_domain").is_some_and(|u| u != DEFAULT_UNIVERSE),
        })),
        "authorized_user" => Ok(Source::User(User {
            client_id: wanted(value, "client_id")?,
            client_secret: secret("client_secret")?,
            refresh_token: secret("refresh_token")?,
            token_url: token_url(),
            basic: false,
        })),
        "external_account_authorized_user" => Ok(Source::User(User {
            client_id: wanted(value, "client_id")?,
            client_secret: secret("client_secret")?,
            refresh_token: secret("refresh_token")?,
            token_url: wanted(value, "token_url")?,
            basic: true,
        })),
        "external_account" => {
            let external = Source::External(Box::new(External::read(value)?));
            Ok(match string(value, "service_account_impersonation_url") {
                None => external,
                Some(url) => Source::Impersonated {
                    by: Box::new(external),
                    account: Impersonation {
                        url: url.to_owned(),
                        delegates: Vec::new(),
                        lifetime: lifetime(value),
                    },
                },
            })
        }
        "impersonated_service_account" => {
            let by = value.get("source_credentials").unwrap_or(&Value::Null);
            let by = source(by, depth + 1)
                .map_err(|why| format!("in its `source_credentials`: {why}"))?;
            let delegates = value.get("delegates").and_then(Value::as_array);
            let delegates = delegates.into_iter().flatten();
            Ok(Source::Impersonated {
                by: Box::new(by),
                account: Impersonation {
                    url: wanted(value, "service_account_impersonation_url")?,
                    delegates: delegates
                        .filter_map(|one| Some(one.as_str()?.to_owned()))
                        .collect(),
                    lifetime: lifetime(value),
                },
            })
        }
        other => Err(format!(
            "its type is `{}`, which is not supported (supported are service_account, \
             authorized_user, external_account, external_account_authorized_user and \
             impersonated_service_account)",
            other.escape_default()
        )),
    }
}

/// How long a token in another's name lasts; an hour, if the file does not say.
fn lifetime(value: &Value) -> Duration {
    let told = value
        .get("service_account_impersonation")
        .and_then(|more| more.get("token_lifetime_seconds"))
        .and_then(Value::as_u64);
    Duration::from_secs(told.filter(|seconds| *seconds > 0).unwrap_or(3600))
}

/// The failure of something that a credentials file describes.
pub(super) fn unusable(doing: &str, why: &str) -> ConnectError {
    ConnectError::new(StoreErrorKind::Unauthenticated, format!("{doing}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_used_is_told_without_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hidden.json");
        for (text, why) in [
            ("hush".to_owned(), "it is not JSON"),
            ("{}".to_owned(), "it has no `type`"),
            (
                json!({"type": "service_account", "private_key": "hush"}).to_string(),
                "it has no `client_email`",
            ),
            (
                json!({"type": "gdch_service_account"}).to_string(),
                "its type is `gdch_service_account`, which is not supported",
            ),
            (
                json!({"type": "impersonated_service_account", "source_credentials": {}})
                    .to_string(),
                "in its `source_credentials`: it has no `type`",
            ),
            (
                json!({"type": "external_account", "audience": "a"}).to_string(),
                "it has no `subject_token_type`",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, "GOOGLE_APPLICATION_CREDENTIALS").unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
            assert!(error.text.contains(why), "{error}");
            assert!(error.text.contains("hidden.json` (GOOGLE_APPL"), "{error}");
            assert!(!error.text.contains("hush"), "{error}");
        }
        let error = read(&folder.path().join("none"), "X").unwrap_err();
        assert!(error.text.contains("No such file"), "{error}");
    }

    #[test]
    fn keys_are_shown_to_nobody() {
        let key = json!({
            "type": "service_account", "client_email": "a@b", "private_key": "hush",
        });
        let user = json!({
            "type": "authorized_user", "client_id": "i", "client_secret": "hush",
            "refresh_token": "hush",
        });
        for value in [key, user] {
            let shown = format!("{:?}", source(&value, 0).unwrap());
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}
