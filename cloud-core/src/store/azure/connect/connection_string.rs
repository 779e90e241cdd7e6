//! `AZURE_STORAGE_CONNECTION_STRING`, as the vendor's libraries read it.

use std::collections::HashMap;
use std::fmt;

use crate::store::http::ConnectError;

/// The name of the variable.
pub(super) const VARIABLE: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// Azurite's account, and its key, which the vendor publishes.
const DEVELOPMENT: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// What a connection string says of blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnectionString {
    /// Where the account is, without a slash at the end.
    pub(super) endpoint: String,
    pub(super) login: Login,
}

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// The account's name and its key, in base64.
    Key { account: String, key: String },
    /// A shared access signature: the query of a URL, without `?`.
    Signature(String),
    /// Nothing: the container is open to everybody.
    Nothing,
}

/// Without the values: they are secrets.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Signature(_) => "Signature",
            Self::Nothing => "Nothing",
        })
    }
}

impl ConnectionString {
    pub(super) fn parse(text: &str) -> Result<Self, ConnectError> {
        let malformed =
            |why: &str| ConnectError::invalid(format!("{VARIABLE} is malformed: {why}"));
        let mut settings = HashMap::new();
        for part in text.trim().trim_end_matches(';').split(';') {
            // Keys end in `=`.
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| malformed("it does not consist of NAME=VALUE;NAME=VALUE"))?;
            settings.insert(name.trim().to_ascii_lowercase(), value.trim());
        }
        let get = |name: &str| {
            settings
                .get(name)
                .copied()
                .filter(|value| !value.is_empty())
        };
        let development =
            get("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let account = get("accountname").or(development.then_some(DEVELOPMENT.0));
        let key = get("accountkey").or(development.then_some(DEVELOPMENT.1));
        let endpoint = match (get("blobendpoint"), account) {
            (Some(endpoint), _) => endpoint.to_owned(),
            (None, Some(account)) if development => {
                let proxy = get("developmentstorageproxyuri").unwrap_or("http://127.0.0.1");
                format!("{}:10000/{account}", proxy.trim_end_matches('/'))
            }
            (None, Some(account)) => {
                let scheme = get("defaultendpointsprotocol").unwrap_or("https");
                let suffix = get("endpointsuffix").unwrap_or("core.windows.net");
                format!("{scheme}://{account}.blob.{suffix}")
            }
            (None, None) => return Err(malformed("it has neither BlobEndpoint nor AccountName")),
        };
        let login = match (get("sharedaccesssignature"), account, key) {
            (_, Some(account), Some(key)) => Login::Key {
                account: account.to_owned(),
                key: key.to_owned(),
            },
            (Some(signature), ..) => Login::Signature(signature.trim_start_matches('?').to_owned()),
            (None, None, Some(_)) => return Err(malformed("it has a key, but no AccountName")),
            (None, _, None) => Login::Nothing,
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            login,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(account: &str, key: &str) -> Login {
        Login::Key {
            account: account.into(),
            key: key.into(),
        }
    }

    #[test]
    fn what_it_says_is_found_however_it_is_written() {
        for (text, endpoint, login) in [
            (
                "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=YWJj==;EndpointSuffix=core.windows.net",
                "https://acc.blob.core.windows.net",
                key("acc", "YWJj=="),
            ),
            (
                "accountname=acc;ACCOUNTKEY=YWJj;EndpointSuffix=core.chinacloudapi.cn;",
                "https://acc.blob.core.chinacloudapi.cn",
                key("acc", "YWJj"),
            ),
            (
                "DefaultEndpointsProtocol=http;AccountName=dev;AccountKey=a=;BlobEndpoint=http://127.0.0.1:10000/dev/;",
                "http://127.0.0.1:10000/dev",
                key("dev", "a="),
            ),
            (
                "BlobEndpoint=https://acc.blob.core.windows.net;SharedAccessSignature=?sv=1&sig=a%2Bb%3D",
                "https://acc.blob.core.windows.net",
                Login::Signature("sv=1&sig=a%2Bb%3D".into()),
            ),
            (
                "BlobEndpoint=https://public.example/x",
                "https://public.example/x",
                Login::Nothing,
            ),
            (
                "UseDevelopmentStorage=true",
                "http://127.0.0.1:10000/devstoreaccount1",
                key(DEVELOPMENT.0, DEVELOPMENT.1),
            ),
        ] {
            let read = ConnectionString::parse(text).unwrap();
            assert_eq!(read.endpoint, endpoint, "{text}");
            assert!(read.login == login, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_told_without_its_values() {
        for text in [
            "",
            "hush",
            "hush;a=b",
            "AccountKey=hush",
            "AccountKey=hush;BlobEndpoint=http://x",
        ] {
            let error = ConnectionString::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("AZURE_STORAGE_CONNECTION_STRING is malformed"),
                "{error}"
            );
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
