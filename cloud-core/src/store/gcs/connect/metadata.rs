//! The metadata service of machines in Google Cloud. Never asked by a proxy.

use std::time::Duration;

use bytes::Bytes;

use super::services::{Answer, Services, fetch};
use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, Variables};
use crate::store::wire::url_encoded;

/// Its address on every machine of Google's.
const ADDRESS: &str = "169.254.169.254";

/// Longest time for one answer. Source: the reference.
const LIMIT: Duration = Duration::from_secs(3);

/// How often it is asked before there is none. In new containers it takes a
/// moment to answer. Source: the reference.
const ATTEMPTS: u32 = 3;

/// The variables that name another address.
const NAMED: [&str; 2] = ["GCE_METADATA_HOST", "GCE_METADATA_ROOT"];

/// Whether the user does not want it to be asked.
pub(super) fn is_switched_off(variables: &Variables) -> bool {
    let off = variables.get("NO_GCE_CHECK");
    off.is_some_and(|off| off.eq_ignore_ascii_case("true"))
}

/// Whether it should be there: somebody named it, or the maker of the machine is
/// Google.
pub(super) fn is_expected(variables: &Variables) -> bool {
    let product = || std::fs::read_to_string("/sys/class/dmi/id/product_name").unwrap_or_default();
    variables.first(&NAMED).is_some() || product().starts_with("Google")
}

async fn ask(services: &Services, path: &str) -> Result<Answer, ConnectError> {
    let host = services
        .variables
        .first(&NAMED)
        .map_or(ADDRESS, |(_, host)| host);
    let url = format!("http://{host}/computeMetadata/v1/{path}");
    let headers = [("metadata-flavor", "Google")];
    fetch(&services.direct, "GET", &url, &headers, Bytes::new(), LIMIT).await
}

/// Whether anybody answers.
///
/// # Errors
///
/// `Timeout`, `Connect`.
pub(super) async fn is_there(services: &Services) -> Result<(), ConnectError> {
    let mut attempt = 1;
    loop {
        let error = match ask(services, "instance/").await {
            // Others answer at this address, on the machines of other clouds.
            Ok(answer) if answer.headers.get("metadata-flavor").is_some() => return Ok(()),
            Ok(answer) => {
                let text = format!(
                    "what answers is not Google's metadata service: status {}",
                    answer.status
                );
                ConnectError::new(StoreErrorKind::Connect, text)
            }
            Err(error) => error,
        };
        tracing::debug!(%error, attempt, "no answer from the metadata service");
        if attempt == ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
    }
}

/// A token of the machine's service account.
pub(super) async fn token(services: &Services, scopes: &str) -> Result<Answer, ConnectError> {
    let scopes = url_encoded(scopes);
    let path = format!("instance/service-accounts/default/token?scopes={scopes}");
    ask(services, &path).await
}

/// The project of the machine.
pub(super) async fn project(services: &Services) -> Option<String> {
    let answer = ask(services, "project/project-id").await.ok()?;
    (answer.status == 200).then(|| answer.text())
}
