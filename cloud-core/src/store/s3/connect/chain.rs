//! Which source of credentials applies: the reference's order, nothing asked yet.
//!
//! A function from variables and profiles to a [`Source`]. The first source that
//! is configured is the one; that it fails later does not make the next one
//! apply. Only the instance's own credentials, which nobody configures, may be
//! absent.

use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::Credentials;

use super::ConnectError;
use super::Variables;
use super::ini::Section;
use super::profiles::{Profile, Profiles, read};

/// Longest time to wait for an answer of the instance's metadata service.
/// Source: the reference; off EC2 nobody answers, and that must not take long.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the agents of ECS answer. Source: ECS developer guide, "Task IAM role".
const ECS_AGENT: &str = "http://169.254.170.2";

/// A source of credentials.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Keys that are written somewhere.
    Keys(Credentials),
    /// A role that is assumed with the credentials of another source.
    Role { role: Role, base: Box<Source> },
    /// A role that is assumed with a token in a file.
    WebIdentity { role: Role, token_file: PathBuf },
    /// A role of a person's single sign-on.
    Sso(Sso),
    /// A program that prints credentials.
    Process { command: String, profile: String },
    /// An agent beside this container.
    Container(Container),
    /// The machine's own role.
    Instance(Instance),
    /// Nothing, and nobody to ask.
    Nothing,
}

/// A role to assume.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session_name: Option<String>,
    pub(super) external_id: Option<String>,
    /// In seconds.
    pub(super) duration: Option<i32>,
}

/// What a profile says of single sign-on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sso {
    pub(super) profile: String,
    pub(super) account: String,
    pub(super) role: String,
    pub(super) region: String,
    pub(super) start_url: String,
    pub(super) session: Option<String>,
}

/// How to ask the agent beside a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Container {
    pub(super) url: String,
    pub(super) token_file: Option<PathBuf>,
    pub(super) token: Option<Token>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq)]
pub(super) struct Token(pub(super) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// How to ask the machine's metadata service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instance {
    pub(super) endpoint: String,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    /// Whether it may be asked without a token.
    pub(super) without_token: bool,
}

/// Finds the source. `named`: whether the command line names a profile, which
/// switches off the keys and the web identity of the environment.
///
/// # Errors
///
/// A source that is configured only in part, or that contradicts itself.
pub(super) fn find(
    variables: &Variables,
    profiles: &Profiles,
    named: bool,
) -> Result<Source, ConnectError> {
    let profile = profiles.chosen();
    let environment = (!named).then_some(variables);
    if let Some(keys) = environment.map(environment_keys).transpose()?.flatten() {
        return Ok(Source::Keys(keys));
    }
    if let Some(source) = role(variables, profiles, profile, &mut Vec::new())? {
        return Ok(source);
    }
    if let Some(source) = base(environment, profiles, profile)? {
        return Ok(source);
    }
    if let Some(keys) = legacy(variables)? {
        return Ok(Source::Keys(keys));
    }
    if let Some(container) = container(variables) {
        return Ok(Source::Container(container));
    }
    Ok(instance(variables, profile).map_or(Source::Nothing, Source::Instance))
}

/// Step 1: `AWS_ACCESS_KEY_ID` and its company.
fn environment_keys(variables: &Variables) -> Result<Option<Credentials>, ConnectError> {
    let Some(id) = variables.get("AWS_ACCESS_KEY_ID") else {
        return Ok(None);
    };
    let secret = variables.get("AWS_SECRET_ACCESS_KEY").ok_or_else(|| {
        ConnectError::refused(
            "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not: set both or neither",
        )
    })?;
    let token = variables.first(&["AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"]);
    Ok(Some(keys(id, secret, token.map(|(_, token)| token))))
}

fn keys(id: &str, secret: &str, token: Option<&str>) -> Credentials {
    Credentials::new(id, secret, token.map(str::to_owned), None, "static")
}

/// Keys of a section of a file.
fn written_keys(section: &Section, place: &str) -> Result<Option<Credentials>, ConnectError> {
    let Some(id) = section.get("aws_access_key_id") else {
        return Ok(None);
    };
    let secret = section.get("aws_secret_access_key").ok_or_else(|| {
        ConnectError::refused(format!(
            "{place} has `aws_access_key_id` and no `aws_secret_access_key`"
        ))
    })?;
    let token = section
        .get("aws_security_token")
        .or_else(|| section.get("aws_session_token"));
    Ok(Some(keys(id, secret, token)))
}

/// Step 2: a role of the profile, and what it is assumed with.
fn role(
    variables: &Variables,
    profiles: &Profiles,
    profile: Profile<'_>,
    visited: &mut Vec<String>,
) -> Result<Option<Source>, ConnectError> {
    let name = profile.name;
    let Some(arn) = profile.get("role_arn") else {
        return Ok(None);
    };
    // That is step 3.
    if profile.get("web_identity_token_file").is_some() {
        return Ok(None);
    }
    if profile.get("mfa_serial").is_some() {
        return Err(ConnectError::refused(format!(
            "profile `{name}` wants a code of the device `mfa_serial`, which nobody is there to \
             type: use a role without it"
        )));
    }
    visited.push(name.to_owned());
    let base = match (
        profile.get("source_profile"),
        profile.get("credential_source"),
    ) {
        (Some(_), Some(_)) => {
            return Err(ConnectError::refused(format!(
                "profile `{name}` has both `source_profile` and `credential_source`: keep one"
            )));
        }
        (None, None) => {
            return Err(ConnectError::refused(format!(
                "profile `{name}` has `role_arn` without `source_profile` or `credential_source`"
            )));
        }
        (Some(source), None) => source_profile(variables, profiles, name, source, visited)?,
        (None, Some(source)) => credential_source(variables, profile, source)?,
    };
    let role = role_of(profile, arn);
    let base = Box::new(base);
    Ok(Some(Source::Role { role, base }))
}

fn role_of(profile: Profile<'_>, arn: &str) -> Role {
    let own = |key| profile.get(key).map(str::to_owned);
    Role {
        arn: arn.to_owned(),
        session_name: own("role_session_name"),
        external_id: own("external_id"),
        duration: profile.get("duration_seconds").and_then(|s| s.parse().ok()),
    }
}

fn source_profile(
    variables: &Variables,
    profiles: &Profiles,
    name: &str,
    source: &str,
    visited: &mut Vec<String>,
) -> Result<Source, ConnectError> {
    let refused = |why: &str| {
        let text = format!("profile `{name}` names `{source}` as `source_profile`, which {why}");
        Err(ConnectError::refused(text))
    };
    let Some(profile) = profiles.profile(source) else {
        return refused("does not exist");
    };
    // Keys come first here, so that a profile may name itself.
    for section in [profile.credentials, profile.config].into_iter().flatten() {
        if let Some(keys) = written_keys(section, &format!("profile `{source}`"))? {
            return Ok(Source::Keys(keys));
        }
    }
    if visited.iter().any(|seen| seen == source) {
        return refused("leads back to itself");
    }
    if let Some(found) = role(variables, profiles, profile, visited)? {
        return Ok(found);
    }
    match base(None, profiles, profile)? {
        Some(found) => Ok(found),
        None => refused("has no credentials"),
    }
}

fn credential_source(
    variables: &Variables,
    profile: Profile<'_>,
    source: &str,
) -> Result<Source, ConnectError> {
    let found = match source.to_ascii_lowercase().as_str() {
        "environment" => environment_keys(variables)?.map(Source::Keys),
        "ecscontainer" => container(variables).map(Source::Container),
        "ec2instancemetadata" => instance(variables, profile).map(Source::Instance),
        _ => {
            return Err(ConnectError::refused(format!(
                "profile `{}` has `credential_source = {source}`: Environment, EcsContainer and \
                 Ec2InstanceMetadata are known",
                profile.name
            )));
        }
    };
    found.ok_or_else(|| {
        ConnectError::refused(format!(
            "profile `{}` has `credential_source = {source}`, and there are no credentials",
            profile.name
        ))
    })
}

/// Steps 3 to 8: what a profile says of itself. `environment`: the variables of
/// web identity, if they count.
fn base(
    environment: Option<&Variables>,
    profiles: &Profiles,
    profile: Profile<'_>,
) -> Result<Option<Source>, ConnectError> {
    let name = profile.name;
    if let Some(source) = web_identity(environment, profile)? {
        return Ok(Some(source));
    }
    if let Some(sso) = sso(profiles, profile)? {
        return Ok(Some(Source::Sso(sso)));
    }
    if let Some(section) = profile.credentials
        && let Some(keys) = written_keys(section, &format!("profile `{name}`"))?
    {
        return Ok(Some(Source::Keys(keys)));
    }
    if profile.get("login_session").is_some() {
        return Err(ConnectError::refused(format!(
            "profile `{name}` uses a login of the console (`login_session`), which is not \
             supported: use keys, a role or single sign-on"
        )));
    }
    if let Some(command) = profile.get("credential_process") {
        return Ok(Some(Source::Process {
            command: command.to_owned(),
            profile: name.to_owned(),
        }));
    }
    let Some(section) = profile.config else {
        return Ok(None);
    };
    let keys = written_keys(section, &format!("profile `{name}`"))?;
    Ok(keys.map(Source::Keys))
}

/// Step 3. Each setting is a variable or, failing that, one of the profile.
fn web_identity(
    environment: Option<&Variables>,
    profile: Profile<'_>,
) -> Result<Option<Source>, ConnectError> {
    let look = |variable: &str, key: &str| {
        environment
            .and_then(|variables| variables.get(variable))
            .or_else(|| profile.get(key))
            .map(str::to_owned)
    };
    let Some(file) = look("AWS_WEB_IDENTITY_TOKEN_FILE", "web_identity_token_file") else {
        return Ok(None);
    };
    let arn = look("AWS_ROLE_ARN", "role_arn").ok_or_else(|| {
        ConnectError::refused(format!(
            "the web identity token `{file}` is configured without a role: set AWS_ROLE_ARN"
        ))
    })?;
    let role = Role {
        arn,
        session_name: look("AWS_ROLE_SESSION_NAME", "role_session_name"),
        external_id: None,
        duration: None,
    };
    let token_file = file.into();
    Ok(Some(Source::WebIdentity { role, token_file }))
}

/// Step 4. A profile that names no account and no role uses single sign-on for
/// something else.
fn sso(profiles: &Profiles, profile: Profile<'_>) -> Result<Option<Sso>, ConnectError> {
    let (account, role) = (profile.get("sso_account_id"), profile.get("sso_role_name"));
    if account.is_none() && role.is_none() {
        return Ok(None);
    }
    let name = profile.name;
    let session = profile.get("sso_session");
    let section = session
        .map(|session| {
            profiles.sso_session(session).ok_or_else(|| {
                ConnectError::refused(format!(
                    "profile `{name}` names the single sign-on session `{session}`, which the \
                     configuration file does not have"
                ))
            })
        })
        .transpose()?;
    let get = |key: &'static str| {
        let value = section.and_then(|section| section.get(key));
        value.or_else(|| profile.get(key)).ok_or_else(|| {
            ConnectError::refused(format!(
                "profile `{name}` uses single sign-on without `{key}`"
            ))
        })
    };
    Ok(Some(Sso {
        profile: name.to_owned(),
        account: get("sso_account_id")?.to_owned(),
        role: get("sso_role_name")?.to_owned(),
        region: get("sso_region")?.to_owned(),
        start_url: get("sso_start_url")?.to_owned(),
        session: session.map(str::to_owned),
    }))
}

/// Step 9: two files from before there were profiles.
fn legacy(variables: &Variables) -> Result<Option<Credentials>, ConnectError> {
    let mut unreadable = Vec::new();
    if let Some(path) = variables.path("AWS_CREDENTIAL_FILE") {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let get = |key| {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            let mut values = pairs.filter(|(name, _)| name.trim() == key);
            values.next().map(|(_, value)| value.trim())
        };
        if let (Some(id), Some(secret)) = (get("AWSAccessKeyId"), get("AWSSecretKey")) {
            return Ok(Some(keys(id, secret, None)));
        }
    }
    let files = match variables.path("BOTO_CONFIG") {
        Some(path) => vec![path],
        None => vec![
            PathBuf::from("/etc/boto.cfg"),
            variables.expand("~/.boto".as_ref()),
        ],
    };
    for path in files {
        let place = format!("`{}`", path.display());
        let file = read(Some(path), &mut unreadable)?;
        if let Some(section) = file.section("Credentials")
            && let Some(keys) = written_keys(section, &place)?
        {
            return Ok(Some(keys));
        }
    }
    Ok(None)
}

/// Step 10.
fn container(variables: &Variables) -> Option<Container> {
    let url = match variables.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        Some(path) => format!("{ECS_AGENT}{path}"),
        None => variables
            .get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?
            .to_owned(),
    };
    let token = variables.get("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    Some(Container {
        url,
        token_file: variables.path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        token: token.map(|token| Token(token.to_owned())),
    })
}

/// Step 11, unless it is switched off.
fn instance(variables: &Variables, profile: Profile<'_>) -> Option<Instance> {
    let get = |variable: &str, key| variables.get(variable).or_else(|| profile.get(key));
    let truth = |value: Option<&str>| value.is_some_and(|v| v.eq_ignore_ascii_case("true"));
    if truth(variables.get("AWS_EC2_METADATA_DISABLED")) {
        return None;
    }
    let endpoint = get(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "ec2_metadata_service_endpoint",
    );
    let mode = get(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
        "ec2_metadata_service_endpoint_mode",
    );
    let v6 = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    // Source of both addresses: EC2 user guide, "Instance metadata".
    let usual = if v6 {
        "http://[fd00:ec2::254]"
    } else {
        "http://169.254.169.254"
    };
    let timeout = get("AWS_METADATA_SERVICE_TIMEOUT", "metadata_service_timeout")
        .and_then(|seconds| seconds.parse().ok())
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let attempts = get(
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
        "metadata_service_num_attempts",
    );
    Some(Instance {
        endpoint: endpoint.unwrap_or(usual).trim_end_matches('/').to_owned(),
        timeout: timeout.unwrap_or(METADATA_TIMEOUT),
        attempts: attempts.and_then(|n| n.parse().ok()).unwrap_or(1).max(1),
        without_token: !truth(get(
            "AWS_EC2_METADATA_V1_DISABLED",
            "ec2_metadata_v1_disabled",
        )),
    })
}

#[cfg(test)]
mod tests;
