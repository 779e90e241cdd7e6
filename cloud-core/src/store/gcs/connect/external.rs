//! Workload identity federation: a token of another provider of identities, in
//! exchange for one of Google's (RFC 8693).

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::process::Command;

use super::super::body::Body;
use super::aws::{self, Aws};
use super::services::{Answer, LIMIT, Services, post_form, send};
use super::source::{Secret, string, unusable, wanted};
use super::tokens::{Token, basic, of_answer};
use crate::store::StoreErrorKind;
use crate::store::http::ConnectError;

/// Longest time for a program to print a token, if the file does not say.
/// Source: the documented default.
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);

/// The variable that allows programs to be run.
const ALLOW: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";

/// Somebody known to another provider of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    audience: String,
    subject_token_type: String,
    token_url: String,
    client: Option<(String, Secret)>,
    user_project: Option<String>,
    email: Option<String>,
    subject: Subject,
}

/// Where the provider's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    File {
        path: String,
        format: Format,
    },
    Url {
        url: String,
        headers: Vec<(String, Secret)>,
        format: Format,
    },
    Program {
        command: String,
        limit: Duration,
        output: Option<String>,
    },
    Aws(Aws),
}

/// How a token is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    Text,
    /// In this field.
    Json(String),
}

impl Format {
    fn read(source: &Value) -> Result<Self, String> {
        let Some(format) = source.get("format") else {
            return Ok(Self::Text);
        };
        match string(format, "type").unwrap_or("text") {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json(wanted(format, "subject_token_field_name")?)),
            _ => Err("its `format` is neither text nor json".into()),
        }
    }

    fn token(&self, text: &[u8]) -> Option<String> {
        let found = match self {
            Self::Text => String::from_utf8(text.to_vec()).ok()?.trim().to_owned(),
            Self::Json(field) => {
                let value: Value = serde_json::from_slice(text).ok()?;
                value.get(field)?.as_str()?.to_owned()
            }
        };
        (!found.is_empty()).then_some(found)
    }
}

impl External {
    /// Reads the description in a file of credentials. Errors show nothing of it.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let client = match (string(value, "client_id"), string(value, "client_secret")) {
            (Some(id), Some(secret)) => Some((id.to_owned(), Secret(secret.to_owned()))),
            _ => None,
        };
        // .../serviceAccounts/EMAIL:generateAccessToken
        let email = string(value, "service_account_impersonation_url").and_then(|url| {
            let name = url.rsplit('/').next()?;
            Some(name.split(':').next()?.to_owned())
        });
        Ok(Self {
            audience: wanted(value, "audience")?,
            subject_token_type: wanted(value, "subject_token_type")?,
            token_url: wanted(value, "token_url")?,
            client,
            user_project: string(value, "workforce_pool_user_project").map(str::to_owned),
            email,
            subject: Subject::read(value.get("credential_source").unwrap_or(&Value::Null))
                .map_err(|why| format!("in its `credential_source`: {why}"))?,
        })
    }
}

impl Subject {
    fn read(source: &Value) -> Result<Self, String> {
        if let Some(environment) = string(source, "environment_id") {
            if environment != "aws1" {
                return Err("its `environment_id` is not aws1".into());
            }
            return Ok(Self::Aws(Aws::read(source)?));
        }
        if let Some(path) = string(source, "file") {
            let (path, format) = (path.to_owned(), Format::read(source)?);
            return Ok(Self::File { path, format });
        }
        if let Some(url) = string(source, "url") {
            let headers = source.get("headers").and_then(Value::as_object);
            let headers = headers.into_iter().flatten();
            return Ok(Self::Url {
                url: url.to_owned(),
                headers: headers
                    .filter_map(|(name, value)| {
                        Some((name.clone(), Secret(value.as_str()?.to_owned())))
                    })
                    .collect(),
                format: Format::read(source)?,
            });
        }
        if let Some(program) = source.get("executable") {
            let limit = program.get("timeout_millis").and_then(Value::as_u64);
            return Ok(Self::Program {
                command: wanted(program, "command")?,
                limit: limit.map_or(PROGRAM_LIMIT, Duration::from_millis),
                output: string(program, "output_file").map(str::to_owned),
            });
        }
        Err("it names neither file, url, executable nor an environment that is supported".into())
    }
}

/// A token of Google's.
pub(super) async fn token(
    external: &External,
    services: &Services,
    scope: &str,
) -> Result<Token, ConnectError> {
    let subject = subject_token(external, services).await?;
    let options = external
        .user_project
        .as_ref()
        .filter(|_| external.client.is_none())
        .map(|project| json!({"userProject": project}).to_string());
    let mut fields = vec![
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("audience", external.audience.as_str()),
        ("scope", scope),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token", subject.as_str()),
        ("subject_token_type", external.subject_token_type.as_str()),
    ];
    if let Some(options) = &options {
        fields.push(("options", options));
    }
    let client = external.client.as_ref();
    let client = client.map(|(id, secret)| basic(id, &secret.0));
    let headers: Vec<_> = client
        .iter()
        .map(|client| ("authorization", client.as_str()))
        .collect();
    let doing = "the federated identity got none";
    let answer = post_form(services, &external.token_url, &headers, &fields).await;
    let answer = answer.map_err(|error| error.while_(doing))?;
    of_answer(&answer.success(doing)?, doing)
}

/// The provider's token; read anew each time, because it is replaced as it ages.
async fn subject_token(external: &External, services: &Services) -> Result<String, ConnectError> {
    match &external.subject {
        Subject::File { path, format } => {
            let doing = format!("the identity token `{path}` cannot be used");
            let text = std::fs::read(path).map_err(|error| unusable(&doing, &error.to_string()))?;
            let none = || unusable(&doing, "it holds none");
            format.token(&text).ok_or_else(none)
        }
        Subject::Url {
            url,
            headers,
            format,
        } => {
            let doing = "the provider of identities gave no token";
            let answer = of_url(services, url, headers).await;
            let answer = answer.map_err(|error| error.while_(doing))?;
            answer.success(doing)?;
            let none = || unusable(doing, "the answer has none");
            format.token(&answer.body).ok_or_else(none)
        }
        Subject::Program {
            command,
            limit,
            output,
        } => of_program(external, services, command, *limit, output.as_deref()).await,
        Subject::Aws(aws) => aws::subject_token(aws, services, &external.audience).await,
    }
}

async fn of_url(
    services: &Services,
    url: &str,
    headers: &[(String, Secret)],
) -> Result<Answer, ConnectError> {
    // Names of headers are fixed where we write them; these come from a file.
    let mut request = http::Request::builder().method("GET").uri(url);
    for (name, value) in headers {
        request = request.header(name, &value.0);
    }
    let built = request
        .body(())
        .map_err(|_| ConnectError::invalid("its `url` or `headers` cannot be sent"))?;
    let (head, ()) = built.into_parts();
    send(&services.http, head, Body::default(), LIMIT).await
}

async fn of_program(
    external: &External,
    services: &Services,
    command: &str,
    limit: Duration,
    output: Option<&str>,
) -> Result<String, ConnectError> {
    let doing = "the program that prints identity tokens failed";
    if services.variables.get(ALLOW) != Some("1") {
        let why = format!("programs are run only if {ALLOW} is 1");
        return Err(unusable(doing, &why));
    }
    // What it left for the next time.
    if let Some(kept) = output.and_then(|path| std::fs::read(path).ok())
        && let Ok((token, Some(until))) = printed(&kept)
        && until > SystemTime::now() + Duration::from_mins(1)
    {
        return Ok(token);
    }
    // Split at blanks and run without a shell, as in the reference.
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let mut child = Command::new(program);
    child
        .args(words)
        .env("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", &external.audience)
        .env(
            "GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE",
            &external.subject_token_type,
        )
        .env("GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(email) = &external.email {
        child.env("GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL", email);
    }
    if let Some(path) = output {
        child.env("GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE", path);
    }
    let done = match tokio::time::timeout(limit, child.output()).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            return Err(unusable(
                doing,
                &format!("could not run `{program}`: {error}"),
            ));
        }
        Err(_) => {
            let text = format!(
                "{doing}: `{program}` did not end within {} s",
                limit.as_secs_f64()
            );
            return Err(ConnectError::new(StoreErrorKind::Timeout, text));
        }
    };
    if !done.status.success() {
        let why = format!("`{program}` ended with {}", done.status);
        return Err(unusable(doing, &why));
    }
    match printed(&done.stdout) {
        Ok((token, until)) if until.is_none_or(|until| until > SystemTime::now()) => Ok(token),
        Ok(_) => Err(unusable(doing, "the token has expired")),
        Err(why) => Err(unusable(doing, &why)),
    }
}

/// The token in what a program printed, and until when it holds.
fn printed(text: &[u8]) -> Result<(String, Option<SystemTime>), String> {
    let value: Value = serde_json::from_slice(text).map_err(|_| "it printed no JSON".to_owned())?;
    if value.get("success").and_then(Value::as_bool) != Some(true) {
        let code = string(&value, "code").unwrap_or("no code");
        let message = string(&value, "message").unwrap_or("no message");
        return Err(format!("{code}: {message}"));
    }
    if value.get("version").and_then(Value::as_u64) != Some(1) {
        return Err("its answer is not of `version` 1".into());
    }
    let token = string(&value, "id_token").or_else(|| string(&value, "saml_response"));
    let token = token.ok_or("its answer has no token")?;
    let until = value.get("expiration_time").and_then(Value::as_u64);
    let until = until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    Ok((token.to_owned(), until))
}
