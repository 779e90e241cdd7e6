//! Credentials of the place where we run: the agent beside a container, and the
//! metadata service of an instance. Neither is ever asked by a proxy.

use std::net::IpAddr;
use std::path::Path;
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
        _ => failed(
            busy(status).unwrap_or(refused),
            &format!("the agent answered {status}"),
        ),
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

/// What the status of an answer says of a service that is there and cannot answer
/// now.
fn busy(status: u16) -> Option<StoreErrorKind> {
    match status {
        429 => Some(StoreErrorKind::RateLimited),
        500.. => Some(StoreErrorKind::ServerFault),
        _ => None,
    }
}

/// Whether the machine that has this `/sys` is one of Amazon's, which all have the
/// service. Source: EC2 user guide, "Detect whether a host is an EC2 instance".
pub(super) fn is_amazons(sys: &Path) -> bool {
    let begins = |file: &str, with: &str| {
        let text = std::fs::read_to_string(sys.join(file)).unwrap_or_default();
        text.to_ascii_lowercase().starts_with(with)
    };
    begins("class/dmi/id/sys_vendor", "amazon ec2") || begins("hypervisor/uuid", "ec2")
}

/// Step 11 of the chain. `None`: nobody answers, or the instance has no role.
///
/// # Errors
///
/// The instance has a role and gives no credentials of it. Transient: the service
/// is there and slow or busy; then it is not known that there are no credentials,
/// and to say so would end a recovery. Silence says that it is not there, but
/// where it is `expected`.
pub(super) async fn instance(
    http: &Http,
    instance: &Instance,
    expected: impl FnOnce() -> bool,
) -> Result<Option<Credentials>, ConnectError> {
    let mut heard = false;
    let mut attempt = 1;
    loop {
        let error = match ask_instance(http, instance, &mut heard).await {
            Err(error) if error.kind.is_transient() => error,
            outcome => return outcome,
        };
        tracing::debug!(%error, attempt, "no answer from the instance metadata service");
        if attempt < instance.attempts {
            attempt += 1;
        } else if heard || expected() {
            let doing = "the instance's credentials could not be had \
                         (AWS_EC2_METADATA_DISABLED=true if there are none)";
            return Err(error.while_(doing));
        } else {
            return Ok(None);
        }
    }
}

/// Asks once. `heard`: whether anybody has answered anything.
async fn ask_instance(
    http: &Http,
    instance: &Instance,
    heard: &mut bool,
) -> Result<Option<Credentials>, ConnectError> {
    let mut ask = async |method, url: &str, headers: &[(&'static str, &str)]| {
        let answer = http.fetch(method, url, headers, instance.timeout).await?;
        *heard = true;
        match busy(answer.0) {
            None => Ok(answer),
            Some(kind) => {
                let text = format!("the instance metadata service answered {}", answer.0);
                Err(ConnectError::new(kind, text))
            }
        }
    };
    let endpoint = &instance.endpoint;
    let url = format!("{endpoint}/latest/api/token");
    // Six hours. Source: EC2 user guide, "Use IMDSv2".
    let lives = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
    let mut late = None;
    let token = match ask("PUT", &url, &lives).await {
        Ok((200, token)) => Some(String::from_utf8_lossy(&token).trim().to_owned()),
        // From inside a container the answer to this may not come through.
        Err(error) if error.kind == StoreErrorKind::Timeout && instance.without_token => {
            late = Some(error);
            None
        }
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
    let (status, names) = ask("GET", &url, &headers).await?;
    if let Some(late) = late.filter(|_| status == 401) {
        return Err(late.while_(
            "the instance metadata service wants a token and gave none in time (in a container \
             its hop limit may have to be 2)",
        ));
    }
    let names = String::from_utf8_lossy(&names);
    let role = names.lines().next().unwrap_or_default().trim();
    if status != 200 || role.is_empty() {
        tracing::debug!(status, "the instance has no role");
        return Ok(None);
    }
    let (status, answer) = ask("GET", &format!("{url}{role}"), &headers).await?;
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
    use super::super::services::Services;
    use super::*;

    #[test]
    fn a_machine_of_amazons_is_known_by_its_maker() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!is_amazons(sys.path()));
        for (file, text, expected) in [
            ("class/dmi/id/sys_vendor", "QEMU\n", false),
            ("class/dmi/id/sys_vendor", "Amazon EC2\n", true),
            ("hypervisor/uuid", "ec2e1916-9099\n", true),
            ("hypervisor/uuid", "4f1c2a00-0000\n", false),
        ] {
            let path = sys.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            assert_eq!(is_amazons(sys.path()), expected, "{file} {text}");
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Nobody answers at all.
    #[tokio::test]
    async fn silence_is_no_absence_where_the_service_must_be() {
        let http = Services::for_tests().direct;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = Instance {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            timeout: Duration::from_millis(100),
            attempts: 2,
            without_token: true,
        };
        assert_eq!(instance(&http, &silent, || false).await, Ok(None));
        let error = instance(&http, &silent, || true).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout);
        assert!(
            error.text.contains("did not answer within 0.1 s"),
            "{error}"
        );
    }

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
