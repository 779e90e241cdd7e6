//! What the URL of the command line names: a bucket and a path in it.
//!
//! Each provider's form is the reference's, to the letter: nothing is decoded,
//! and where slashes are kept or dropped decides which keys are found.

use std::borrow::Cow;
use std::path::PathBuf;

/// The three clouds of `--cloud-provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// `aws-s3`
    #[default]
    AwsS3,
    /// `azure-blob-storage`
    AzureBlobStorage,
    /// `google-cloud-storage`
    GoogleCloudStorage,
}

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A bucket, or the ARN of an access point.
    S3 {
        /// The bucket.
        bucket: String,
        /// Path in it, as written but for leading slashes.
        path: String,
    },
    /// A container.
    Azure {
        /// Scheme and host, and the account where the host is not Azure's own,
        /// without a slash at the end.
        account_url: String,
        /// The container.
        container: String,
        /// Path in it, as written.
        path: String,
        /// Whether the host is not Azure's own: the connection string then says
        /// how to reach it.
        emulated: bool,
    },
    /// A bucket.
    Google {
        /// The bucket.
        bucket: String,
        /// Path in it, without slashes around it.
        path: String,
    },
    /// A directory of this machine; it has no path inside.
    Local {
        /// The directory.
        root: PathBuf,
    },
}

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not of the provider's form.
    #[error("Invalid {provider} URL address: {url}")]
    Malformed {
        /// Which form was expected.
        provider: &'static str,
        /// What was given, without user and password.
        url: String,
    },
    /// A directory that is not named from the root.
    #[error("Invalid file URL address: {0} (expected file:///absolute/path)")]
    File(String),
}

impl StoreUrl {
    /// Reads the URL. `file:///path` is a directory whatever the provider.
    pub fn parse(provider: Provider, url: &str) -> Result<Self, InvalidUrl> {
        if url
            .get(..5)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
        {
            return local(url);
        }
        let (name, read): (_, fn(&str) -> Option<Self>) = match provider {
            Provider::AwsS3 => ("s3", s3),
            Provider::AzureBlobStorage => ("azure", azure),
            Provider::GoogleCloudStorage => ("google cloud storage", google),
        };
        read(url).ok_or_else(|| InvalidUrl::Malformed {
            provider: name,
            url: printable(url),
        })
    }

    /// Path in the bucket, as `catalogue::layout` wants it.
    pub fn path(&self) -> &str {
        match self {
            Self::S3 { path, .. } | Self::Azure { path, .. } | Self::Google { path, .. } => path,
            Self::Local { .. } => "",
        }
    }

    /// Bare name of the bucket, container or directory.
    pub fn bucket(&self) -> Cow<'_, str> {
        match self {
            Self::S3 { bucket, .. } | Self::Google { bucket, .. } => bucket.into(),
            Self::Azure { container, .. } => container.into(),
            Self::Local { root } => root.to_string_lossy(),
        }
    }
}

/// A URL as it may be shown: without user, password and query.
pub fn printable(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

fn local(url: &str) -> Result<StoreUrl, InvalidUrl> {
    let malformed = || InvalidUrl::File(printable(url));
    let path = url[5..].strip_prefix("//").ok_or_else(malformed)?;
    let path = path.strip_prefix("localhost").unwrap_or(path);
    let inside = path.split('/').any(|part| part == "..");
    if !path.starts_with('/') || path.contains('\0') || inside {
        return Err(malformed());
    }
    let trimmed = path.trim_end_matches('/');
    Ok(StoreUrl::Local {
        root: if trimmed.is_empty() {
            "/".into()
        } else {
            trimmed.into()
        },
    })
}

fn s3(url: &str) -> Option<StoreUrl> {
    let rest = url.split(['?', '#']).next()?.strip_prefix("s3://")?;
    let (bucket, path) = match arn_length(rest) {
        Some(end) => rest.split_at(end),
        None => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
    };
    let path = path.trim_start_matches('/').to_owned();
    (!bucket.is_empty()).then(|| StoreUrl::S3 {
        bucket: bucket.to_owned(),
        path,
    })
}

/// The length of the access point's ARN at the beginning, if there is one.
fn arn_length(text: &str) -> Option<usize> {
    let mut at = 0;
    let mut field = |ends: &[char], valid: &dyn Fn(&str) -> bool| -> Option<&str> {
        let rest = &text[at..];
        let end = rest.find(ends)?;
        valid(&rest[..end]).then_some(())?;
        at += end + 1;
        Some(&rest[..end])
    };
    field(&[':'], &|part| part == "arn")?;
    field(&[':'], &|part| {
        ["aws", "aws-cn", "aws-us-gov"].contains(&part)
    })?;
    let service = field(&[':'], &|part| {
        ["s3", "s3-object-lambda", "s3-outposts"].contains(&part)
    })?;
    let outposts = service == "s3-outposts";
    let region = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !(outposts && part.is_empty())
    };
    field(&[':'], &region)?;
    field(&[':'], &|part| {
        part.len() == 12 && part.bytes().all(|b| b.is_ascii_digit())
    })?;
    let name = |part: &str, dots: bool| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || dots && b == b'.';
        (1..=63).contains(&part.len()) && part.bytes().all(fits)
    };
    if outposts {
        field(&[':', '/'], &|part| part == "outpost")?;
        field(&[':', '/'], &|part| name(part, false))?;
    }
    field(&[':', '/'], &|part| part == "accesspoint")?;
    let rest = &text[at..];
    let end = rest.find('/').unwrap_or(rest.len());
    name(&rest[..end], !outposts).then_some(at + end)
}

fn google(url: &str) -> Option<StoreUrl> {
    let console = "https://console.cloud.google.com/storage/browser/";
    let rest = url
        .strip_prefix("gs://")
        .or_else(|| url.strip_prefix(console))?;
    let rest = rest.split(['?', '#']).next()?;
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/').to_owned();
    (!bucket.is_empty()).then(|| StoreUrl::Google {
        bucket: bucket.to_owned(),
        path,
    })
}

fn azure(url: &str) -> Option<StoreUrl> {
    let url = url.split(['?', '#']).next()?;
    let (scheme, rest) = url.split_once("://")?;
    if !["http", "https"].contains(&scheme) {
        return None;
    }
    let (host, path) = rest.split_once('/')?;
    let own = host.ends_with("blob.core.windows.net");
    // Emulators and other hosts have the account as the first component.
    let (account_url, path) = if own {
        (format!("https://{host}"), path)
    } else {
        let (account, path) = path.split_once('/')?;
        (format!("{scheme}://{host}/{account}"), path)
    };
    let (container, path) = path.split_once('/').unwrap_or((path, ""));
    (!host.is_empty() && !container.is_empty()).then(|| StoreUrl::Azure {
        account_url,
        container: container.to_owned(),
        path: path.to_owned(),
        emulated: !own,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(provider: Provider, url: &str) -> Option<(String, String)> {
        let parsed = StoreUrl::parse(provider, url).ok()?;
        let path = parsed.path().to_owned();
        Some(match parsed {
            StoreUrl::S3 { bucket, .. } | StoreUrl::Google { bucket, .. } => (bucket, path),
            StoreUrl::Azure {
                account_url,
                container,
                ..
            } => (format!("{account_url} {container}"), path),
            StoreUrl::Local { root } => (root.display().to_string(), path),
        })
    }

    #[test]
    fn each_provider_has_its_form() {
        use Provider::{AwsS3, AzureBlobStorage as Azure, GoogleCloudStorage as Google};
        let access_point = "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap";
        let outpost = "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/ap";
        let arn_url = format!("s3://{access_point}/a/b");
        let outpost_url = format!("s3://{outpost}/a");
        for (provider, url, expected) in [
            (AwsS3, "s3://b", Some(("b", ""))),
            (AwsS3, "s3://b/", Some(("b", ""))),
            (AwsS3, "s3://b//p/q/", Some(("b", "p/q/"))),
            (AwsS3, "s3://b/p%20q?x#y", Some(("b", "p%20q"))),
            (AwsS3, arn_url.as_str(), Some((access_point, "a/b"))),
            (AwsS3, outpost_url.as_str(), Some((outpost, "a"))),
            (
                AwsS3,
                "s3://arn:aws:s3:r:12:accesspoint/x",
                Some(("arn:aws:s3:r:12:accesspoint", "x")),
            ),
            (AwsS3, "s3://", None),
            (AwsS3, "S3://b", None),
            (AwsS3, "http://golden/walcomp", None),
            (AwsS3, "b/p", None),
            (Google, "gs://b/p/q/", Some(("b", "p/q"))),
            (
                Google,
                "https://console.cloud.google.com/storage/browser/b/p",
                Some(("b", "p")),
            ),
            (Google, "gs://", None),
            (Google, "s3://b", None),
            (
                Azure,
                "https://acc.blob.core.windows.net/c/p/q",
                Some(("https://acc.blob.core.windows.net c", "p/q")),
            ),
            (
                Azure,
                "http://acc.blob.core.windows.net/c",
                Some(("https://acc.blob.core.windows.net c", "")),
            ),
            (
                Azure,
                "http://127.0.0.1:10000/acc/c/p/",
                Some(("http://127.0.0.1:10000/acc c", "p/")),
            ),
            (Azure, "https://acc.blob.core.windows.net", None),
            (Azure, "https://acc.blob.core.windows.net/", None),
            (Azure, "http://127.0.0.1:10000/acc", None),
            (Azure, "gs://b", None),
        ] {
            let expected = expected.map(|(place, path)| (place.to_owned(), path.to_owned()));
            assert_eq!(parse(provider, url), expected, "{url}");
        }
    }

    #[test]
    fn a_directory_is_named_from_the_root_whatever_the_provider() {
        for provider in [Provider::AwsS3, Provider::GoogleCloudStorage] {
            for (url, root) in [
                ("file:///a/b", Some("/a/b")),
                ("file:///a/b//", Some("/a/b")),
                ("file://localhost/a", Some("/a")),
                ("FILE:///a b%20", Some("/a b%20")),
                ("file:///", Some("/")),
                ("file://a/b", None),
                ("file:a", None),
                ("file://", None),
                ("file:///a/../b", None),
            ] {
                let expected = root.map(|root| (root.to_owned(), String::new()));
                assert_eq!(parse(provider, url), expected, "{url}");
            }
        }
    }

    #[test]
    fn messages_show_no_password() {
        let error = StoreUrl::parse(Provider::AwsS3, "http://user:hunter2@host/x?sig=hunter2");
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "Invalid s3 URL address: http://host/x");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(s3://|gs://|https?://|file://|s3://arn:aws:s3)?\\PC*") {
            for provider in [Provider::AwsS3, Provider::AzureBlobStorage, Provider::GoogleCloudStorage] {
                let _ = StoreUrl::parse(provider, &text);
            }
        }
    }
}
