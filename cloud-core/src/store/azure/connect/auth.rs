//! What makes a request ours: a signature with the account's key, a shared access
//! signature, or a token.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::Secret;
use azure_core::hmac::hmac_sha256;
use azure_core::http::headers::HeaderName;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use azure_core::time::{OffsetDateTime, to_rfc7231};

use super::super::checksum::{Checksum, HEADER};
use super::connection_string::Login;
use super::credential::Credential;
use super::transport::failed;
use crate::store::http::ConnectError;

/// How requests are authorized.
#[derive(Debug, Clone)]
pub(in crate::store::azure) enum Auth {
    Key(SharedKey),
    Signature(Secret),
    Token(Arc<Credential>),
    Nothing,
}

/// The name of an account and its key.
#[derive(Clone)]
pub(in crate::store::azure) struct SharedKey {
    account: String,
    key: Secret,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Auth {
    /// Checks the key by signing something. `named_by` is where it comes from.
    pub(super) fn new(login: Login, named_by: &str) -> Result<Self, ConnectError> {
        Ok(match login {
            Login::Key { key, .. } if key.is_empty() => {
                return Err(ConnectError::invalid(format!("{named_by} is empty")));
            }
            Login::Key { account, key } => {
                let key = Secret::new(key);
                if hmac_sha256("", &key).is_err() {
                    return Err(ConnectError::invalid(format!(
                        "the account key of {named_by} is not in base64"
                    )));
                }
                Self::Key(SharedKey { account, key })
            }
            Login::Signature(signature) if signature.is_empty() => {
                return Err(ConnectError::invalid(format!("{named_by} is empty")));
            }
            Login::Signature(signature) => Self::Signature(Secret::new(signature)),
            Login::Nothing => Self::Nothing,
        })
    }

    /// Makes `request`, which is complete but for this, ours.
    pub(in crate::store::azure) async fn apply(
        &self,
        request: &mut Request,
    ) -> Result<(), ConnectError> {
        match self {
            Self::Key(key) => {
                let date = to_rfc7231(&OffsetDateTime::now_utc());
                request.insert_header("x-ms-date", date);
                let authorization = key.sign(request)?;
                request.insert_header("authorization", authorization);
            }
            Self::Signature(signature) => {
                let url = request.url_mut();
                let query = match url.query() {
                    Some(query) if !query.is_empty() => format!("{query}&{}", signature.secret()),
                    _ => signature.secret().to_owned(),
                };
                url.set_query(Some(&query));
            }
            Self::Token(credential) => {
                let token = credential.token().await?;
                let date = to_rfc7231(&OffsetDateTime::now_utc());
                request.insert_header("x-ms-date", date);
                request.insert_header("authorization", format!("Bearer {}", token.secret()));
            }
            Self::Nothing => {}
        }
        Ok(())
    }
}

impl SharedKey {
    /// The header for a request that has its date.
    fn sign(&self, request: &Request) -> Result<String, ConnectError> {
        let signature = hmac_sha256(&self.text(request), &self.key)
            .map_err(|_| ConnectError::invalid("the account key cannot be used"))?;
        Ok(format!("SharedKey {}:{signature}", self.account))
    }

    /// What is signed. Source: the service's reference, "Authorize with Shared
    /// Key", version 2015-02-21 and later.
    fn text(&self, request: &Request) -> String {
        let headers = request.headers();
        let header = |name: &'static str| {
            let name = HeaderName::from_static(name);
            headers.get_optional_str(&name).unwrap_or_default()
        };
        // Nothing is written for a length of 0.
        let length = request.body().len().filter(|length| *length > 0);
        let length = length.map(|length| length.to_string()).unwrap_or_default();
        let mut text = format!("{}\n", request.method().as_ref());
        for line in [
            header("content-encoding"),
            header("content-language"),
            &length,
            header("content-md5"),
            header("content-type"),
            // The date is in a header of the service's own.
            "",
            header("if-modified-since"),
            header("if-match"),
            header("if-none-match"),
            header("if-unmodified-since"),
            header("range"),
        ] {
            text.push_str(line);
            text.push('\n');
        }
        let own = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-ms-"));
        let own: BTreeMap<&str, &str> = own
            .map(|(name, value)| (name.as_str(), value.as_str().trim()))
            .collect();
        for (name, value) in own {
            text.push_str(&format!("{name}:{value}\n"));
        }
        let url = request.url();
        text.push_str(&format!("/{}{}", self.account, url.path()));
        let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            let values = query.entry(name.to_lowercase()).or_default();
            values.push(value.into_owned());
        }
        for (name, mut values) in query {
            values.sort();
            text.push_str(&format!("\n{name}:{}", values.join(",")));
        }
        text
    }
}

/// The last step before a request goes out.
#[derive(Debug)]
pub(super) struct Authorize(pub(super) Auth);

#[async_trait]
impl Policy for Authorize {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        // For the one request that the crate has no option for.
        if let Some(checksum) = context.value::<Checksum>() {
            request.insert_header(HEADER, checksum.header());
        }
        self.0.apply(request).await.map_err(failed)?;
        next[0].send(context, request, &next[1..]).await
    }
}

#[cfg(test)]
mod tests {
    use azure_core::http::{Method, Url};

    use super::*;

    fn request(method: Method, url: &str, headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(Url::parse(url).unwrap(), method);
        for (name, value) in headers {
            request.insert_header(*name, *value);
        }
        request
    }

    fn key() -> SharedKey {
        SharedKey {
            account: "myaccount".into(),
            key: Secret::new("a2V5"),
        }
    }

    /// The examples of the service's reference.
    #[test]
    fn what_is_signed_is_what_the_reference_says() {
        let date = ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        let version = ("x-ms-version", "2015-02-21");
        let metadata = request(
            Method::Get,
            "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata",
            &[version, date],
        );
        assert_eq!(
            key().text(&metadata),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n\
             x-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container"
        );
        let list = request(
            Method::Get,
            "https://myaccount.blob.core.windows.net/c?restype=container&comp=list&include=snapshots&Include=metadata&prefix=a%20b%2B",
            &[date, version],
        );
        assert!(key().text(&list).ends_with(
            "/myaccount/c\ncomp:list\ninclude:metadata,snapshots\nprefix:a b+\nrestype:container"
        ));
        let mut put = request(
            Method::Put,
            "http://127.0.0.1:10000/acc/c/a%2Fb%20c",
            &[
                ("content-type", "text/plain"),
                ("if-none-match", "*"),
                ("x-ms-a-b", "1"),
                ("x-ms-a", " 2 "),
            ],
        );
        put.set_body("12345");
        assert_eq!(
            key().text(&put),
            "PUT\n\n\n5\n\ntext/plain\n\n\n\n*\n\n\nx-ms-a:2\nx-ms-a-b:1\n/myaccount/acc/c/a%2Fb%20c"
        );
    }

    #[tokio::test]
    async fn a_signature_joins_the_query_as_it_is() {
        let login = Login::Signature("sv=1&sig=a%2Bb%3D".into());
        let auth = Auth::new(login, "x").unwrap();
        for (url, expected) in [
            ("https://a/c/b", "https://a/c/b?sv=1&sig=a%2Bb%3D"),
            (
                "https://a/c?comp=list",
                "https://a/c?comp=list&sv=1&sig=a%2Bb%3D",
            ),
        ] {
            let mut request = request(Method::Get, url, &[]);
            auth.apply(&mut request).await.unwrap();
            assert_eq!(request.url().as_str(), expected);
        }
        assert!(!format!("{auth:?}").contains("sig="), "{auth:?}");
    }

    #[test]
    fn a_key_that_is_none_is_told_without_it() {
        let login = Login::Key {
            account: "a".into(),
            key: "!hush!".into(),
        };
        let error = Auth::new(login, "AZURE_STORAGE_KEY")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the account key of AZURE_STORAGE_KEY is not in base64"
        );
        let none = Auth::new(Login::Signature(String::new()), "AZURE_STORAGE_SAS_TOKEN");
        assert!(none.is_err());
        assert!(!format!("{:?}", key()).contains("a2V5"));
    }
}
