//! Credentials of the place where we run: the agent beside a container, and the
//! metadata service of an instance. Neither is ever asked by a proxy.

use std::net::IpAddr;
use std::time::Duration;

use aws_credential_types::Credentials;
use http::Uri;

use super::ConnectError;
use super::chain::{Container, Instance, Token};
use super::http::Http;
use super::json;
use crate::store::StoreErrorKind;

/// Longest time to wait for the agent of a container.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Agents of ECS and EKS that are asked by HTTP. Source: the reference.
const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// Step 10 of the chain.
pub(super) async fn container(
    http: &Http,
    container: &Container,
) -> Result<Credentials, ConnectError> {
    let doing = "the container's credentials could not be had";
    let failed = |kind, why: &str| Err(ConnectError::new(kind, format!("{doing}: {why}")));
    let refused = StoreErrorKind::Unauthenticated;
    let uri: Option<Uri> = container.url.parse().ok();
    if !uri.as_ref().is_some_and(may_be_asked) {
        return failed(
            refused,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI names neither https nor this machine nor an agent \
             of ECS or EKS",
        );
    }
    let token = match &container.token_file {
        None => container.token.clone(),
        // Read anew each time: it is replaced as it ages.
        Some(path) => match std::fs::read_to_string(path) {
            Ok(token) => Some(Token(token.trim().to_owned())),
            Err(error) => {
                let path = path.display();
                let why = format!("the token `{path}` cannot be read: {error}");
                return failed(refused, &why);
            }
        },
    };
    let mut headers = vec![("accept", "application/json")];
    if let Some(Token(token)) = &token {
        headers.push(("authorization", token));
    }
    let answer = http
        .fetch("GET", &container.url, &headers, AGENT_TIMEOUT)
        .await;
    let (status, body) = answer.map_err(|error| error.while_(doing))?;
    match status {
        200 => json::credentials(&body, "container").or_else(|why| failed(refused, &why)),
        500.. => failed(
            StoreErrorKind::ServerFault,
            &format!("the agent answered {status}"),
        ),
        _ => failed(refused, &format!("the agent answered {status}")),
    }
}

/// Whether the token may be sent there.
fn may_be_asked(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let near = || {
        let address: Result<IpAddr, _> = host.parse();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => AGENTS.contains(&host) || near(),
        _ => false,
    }
}

/// Step 11 of the chain. `None`: nobody answers, or the instance has no role.
///
/// # Errors
///
/// The instance has a role and gives no credentials of it.
pub(super) async fn instance(
    http: &Http,
    instance: &Instance,
) -> Result<Option<Credentials>, ConnectError> {
    for attempt in 1..=instance.attempts {
        match ask_instance(http, instance).await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.kind == StoreErrorKind::Unauthenticated => return Err(error),
            Err(error) => {
                tracing::debug!(%error, attempt, "no answer from the instance metadata service");
            }
        }
    }
    Ok(None)
}

async fn ask_instance(
    http: &Http,
    instance: &Instance,
) -> Result<Option<Credentials>, ConnectError> {
    let Instance {
        endpoint, timeout, ..
    } = instance;
    let url = format!("{endpoint}/latest/api/token");
    // Six hours. Source: EC2 user guide, "Use IMDSv2".
    let lives = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
    let token = match http.fetch("PUT", &url, &lives, *timeout).await {
        Ok((200, token)) => Some(String::from_utf8_lossy(&token).trim().to_owned()),
        // From inside a container the answer to this may not come through.
        Err(error) if error.kind == StoreErrorKind::Timeout && instance.without_token => None,
        Ok((403..=405, _)) if instance.without_token => None,
        Ok((status, _)) => {
            tracing::debug!(status, "the instance metadata service gives no token");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut headers = Vec::new();
    if let Some(token) = &token {
        headers.push(("x-aws-ec2-metadata-token", token.as_str()));
    }
    let url = format!("{endpoint}/latest/meta-data/iam/security-credentials/");
    let (status, names) = http.fetch("GET", &url, &headers, *timeout).await?;
    let names = String::from_utf8_lossy(&names);
    let role = names.lines().next().unwrap_or_default().trim();
    if status != 200 || role.is_empty() {
        tracing::debug!(status, "the instance has no role");
        return Ok(None);
    }
    let (status, answer) = http
        .fetch("GET", &format!("{url}{role}"), &headers, *timeout)
        .await?;
    let why = match json::credentials(&answer, "instance") {
        Ok(credentials) if status == 200 => return Ok(Some(credentials)),
        Ok(_) => format!("the answer is {status}"),
        Err(why) => why,
    };
    Err(ConnectError::refused(format!(
        "the instance's role `{role}` gives no credentials: {why}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_this_machine_and_the_known_agents_or_by_tls() {
        for (url, expected) in [
            ("http://127.0.0.1:80/x", true),
            ("http://127.9.9.9/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://169.254.170.2/x", true),
            ("http://[fd00:ec2::23]/x", true),
            ("https://anywhere/x", true),
            ("http://anywhere/x", false),
            ("http://10.0.0.1/x", false),
            ("ftp://127.0.0.1/x", false),
        ] {
            assert_eq!(may_be_asked(&Uri::from_static(url)), expected, "{url}");
        }
    }
}
