//! `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
//!
//! In lower or upper case; lower case wins, as in the reference. `ALL_PROXY` is
//! not looked at there, nor here.

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::error::ConnectError;
use super::variables::Variables;
use crate::store::printable;

/// Which requests go by which proxy. Shown without passwords.
#[derive(Debug)]
pub(in crate::store) struct Proxies(Option<Matcher>);

impl Proxies {
    /// None at all: for services of this machine.
    pub(in crate::store) fn none() -> Self {
        Self(None)
    }

    /// Those that the environment names.
    pub(in crate::store) fn of(variables: &Variables) -> Result<Self, ConnectError> {
        let http = proxy(variables, &["http_proxy", "HTTP_PROXY"])?;
        let https = proxy(variables, &["https_proxy", "HTTPS_PROXY"])?;
        if http.is_none() && https.is_none() {
            return Ok(Self::none());
        }
        let not = variables.first(&["no_proxy", "NO_PROXY"]);
        let matcher = Matcher::builder()
            .http(http.unwrap_or_default())
            .https(https.unwrap_or_default())
            .no(not.map_or("", |(_, hosts)| hosts))
            .build();
        Ok(Self(Some(matcher)))
    }

    /// The proxy for this address.
    pub(in crate::store) fn toward(&self, target: &Uri) -> Option<Intercept> {
        self.0.as_ref()?.intercept(target)
    }

    /// Adds the password for a request that the proxy sees in the clear.
    pub(in crate::store) fn authorize(&self, target: &Uri, headers: &mut HeaderMap) {
        if target.scheme_str() == Some("http")
            && let Some(proxy) = self.toward(target)
            && let Some(password) = proxy.basic_auth()
        {
            headers.insert(PROXY_AUTHORIZATION, password.clone());
        }
    }
}

/// The URL of a proxy, checked: one that cannot be read would otherwise be
/// passed by in silence.
fn proxy(variables: &Variables, names: &[&'static str]) -> Result<Option<String>, ConnectError> {
    let Some((name, url)) = variables.first(names) else {
        return Ok(None);
    };
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed: Option<Uri> = url.parse().ok();
    let usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    if usable {
        return Ok(Some(url));
    }
    Err(ConnectError::invalid(format!(
        "{name} names no proxy that can be used: {} (expected http://host:port)",
        printable(&url)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toward(pairs: &[(&str, &str)], target: &'static str) -> Option<String> {
        let proxies = Proxies::of(&Variables::of(pairs)).unwrap();
        let proxy = proxies.toward(&Uri::from_static(target))?;
        Some(proxy.uri().to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let all = [
            ("HTTP_PROXY", "http://one:1"),
            ("https_proxy", "two:2"),
            ("HTTPS_PROXY", "http://three:3"),
            ("NO_PROXY", "127.0.0.1,.inside,10.0.0.0/8"),
        ];
        assert_eq!(toward(&all, "http://s3/").unwrap(), "http://one:1/");
        assert_eq!(toward(&all, "https://s3/").unwrap(), "http://two:2/");
        assert_eq!(toward(&all[..1], "https://s3/"), None);
        for near in [
            "http://127.0.0.1:9000/",
            "https://minio.inside/",
            "http://10.1.2.3/",
        ] {
            assert_eq!(toward(&all, near), None, "{near}");
        }
        assert_eq!(toward(&[("ALL_PROXY", "http://x:1")], "http://s3/"), None);
    }

    #[test]
    fn a_password_goes_to_the_proxy_and_into_no_text() {
        let variables = Variables::of(&[("http_proxy", "http://user:hush@one:1")]);
        let proxies = Proxies::of(&variables).unwrap();
        let mut headers = HeaderMap::new();
        proxies.authorize(&Uri::from_static("http://s3/"), &mut headers);
        // "user:hush" in base64.
        assert_eq!(headers[PROXY_AUTHORIZATION], "Basic dXNlcjpodXNo");
        assert!(!format!("{proxies:?}").contains("hush"));
        let mut none = HeaderMap::new();
        proxies.authorize(&Uri::from_static("https://s3/"), &mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told() {
        for url in ["socks5://user:hush@host:1", "http://", "http://a b"] {
            let variables = Variables::of(&[("HTTPS_PROXY", url)]);
            let error = Proxies::of(&variables).unwrap_err().to_string();
            assert!(error.starts_with("HTTPS_PROXY names no proxy"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
