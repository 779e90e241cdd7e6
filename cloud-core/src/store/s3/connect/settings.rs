//! What is not credentials: region, endpoint, addressing, checksums, limits.
//!
//! A function from the command line, the variables and the profile to values.
//! Names and order are the reference's; `AWS_REGION` alone is ours, and last.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use http::Uri;

use super::ConnectError;
use super::Variables;
use super::profiles::{Profile, Profiles};
use crate::store::{Provider, StoreConfig, StoreUrl, printable};

/// Longest time in which no byte moves, if `--read-timeout` does not say.
/// Source: docs/decisions.md 12, the reference's default.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// How S3 is spoken to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    /// Region of the bucket, as far as is known.
    pub(super) region: String,
    /// Where S3 is, if not at Amazon.
    pub(super) endpoint: Option<String>,
    /// `host/bucket/key` in place of `bucket.host/key`.
    pub(super) path_style: bool,
    /// Endpoints of the federal standard.
    pub(super) fips: bool,
    /// Endpoints with IPv6.
    pub(super) dual_stack: bool,
    /// Transfer acceleration.
    pub(super) accelerate: bool,
    /// Whether checksums are sent that need not be.
    pub(super) request_checksums: RequestChecksumCalculation,
    /// Whether checksums are checked that need not be.
    pub(super) response_checksums: ResponseChecksumValidation,
    /// Longest time in which no byte moves.
    pub(super) read_timeout: Duration,
    /// A file of certificates that is trusted in place of the system's, and what
    /// named it.
    pub(super) ca_bundle: Option<(PathBuf, &'static str)>,
    /// The region that the environment or the profile names.
    pub(super) named_region: Option<String>,
    /// Where EC2 is, if not at Amazon.
    pub(super) ec2_endpoint: Option<String>,
    /// Endpoints of the services that give out credentials, if not Amazon's.
    pub(super) sts_endpoint: Option<String>,
    pub(super) sso_endpoint: Option<String>,
    pub(super) oidc_endpoint: Option<String>,
}

impl Settings {
    /// Decides. The error names the setting that means nothing.
    pub(super) fn decide(
        config: &StoreConfig,
        variables: &Variables,
        profiles: &Profiles,
    ) -> Result<Self, ConnectError> {
        let look = Look {
            variables,
            profiles,
            profile: profiles.chosen(),
        };
        let endpoint = match &config.endpoint_url {
            Some(url) => Some(checked(url)?),
            None => look.endpoint("S3", "s3")?,
        };
        let bucket = bucket(config);
        let arn = bucket.starts_with("arn:");
        Ok(Self {
            region: region_of_arn(&bucket)
                .or_else(|| look.region())
                .unwrap_or("us-east-1")
                .to_owned(),
            path_style: !arn && look.path_style(config, endpoint.is_some())?,
            fips: look.flag("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint"),
            dual_stack: look.flag("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint")
                || look.s3_flag("use_dualstack_endpoint"),
            accelerate: endpoint.is_none() && look.s3_flag("use_accelerate_endpoint"),
            request_checksums: match look.when("request_checksum_calculation")? {
                When::Supported => RequestChecksumCalculation::WhenSupported,
                When::Required => RequestChecksumCalculation::WhenRequired,
            },
            response_checksums: match look.when("response_checksum_validation")? {
                When::Supported => ResponseChecksumValidation::WhenSupported,
                When::Required => ResponseChecksumValidation::WhenRequired,
            },
            read_timeout: read_timeout(config.read_timeout)?,
            ca_bundle: look.ca_bundle(),
            named_region: look.region().map(str::to_owned),
            ec2_endpoint: look.endpoint("EC2", "ec2")?,
            sts_endpoint: look.endpoint("STS", "sts")?,
            sso_endpoint: look.endpoint("SSO", "sso")?,
            oidc_endpoint: look.endpoint("SSO_OIDC", "sso_oidc")?,
            endpoint,
        })
    }

    /// Whether this is Amazon's own S3: by no endpoint, or by one of its own, as that
    /// of a network (VPC).
    pub(super) fn is_amazon(&self) -> bool {
        const DOMAINS: [&str; 2] = [".amazonaws.com", ".amazonaws.com.cn"];
        let Some(endpoint) = &self.endpoint else {
            return true;
        };
        let uri: Option<Uri> = endpoint.parse().ok();
        let host = uri.and_then(|uri| Some(uri.host()?.to_ascii_lowercase()));
        host.is_some_and(|host| DOMAINS.iter().any(|domain| host.ends_with(domain)))
    }

    /// Whether the store is reached by TLS.
    pub(super) fn uses_tls(&self) -> bool {
        let plain = |url: &String| url.starts_with("http:");
        !self.endpoint.as_ref().is_some_and(plain)
    }
}

/// Where settings are looked for.
struct Look<'a> {
    variables: &'a Variables,
    profiles: &'a Profiles,
    profile: Profile<'a>,
}

enum When {
    Supported,
    Required,
}

impl<'a> Look<'a> {
    fn region(&self) -> Option<&'a str> {
        self.variables
            .get("AWS_DEFAULT_REGION")
            .or_else(|| self.profile.get("region"))
            .or_else(|| self.variables.get("AWS_REGION"))
    }

    fn flag(&self, variable: &str, key: &str) -> bool {
        let value = self
            .variables
            .get(variable)
            .or_else(|| self.profile.get(key));
        is_true(value)
    }

    fn s3_flag(&self, key: &str) -> bool {
        is_true(self.profile.nested("s3", key))
    }

    /// The endpoint of a service that a variable or the profile names.
    fn endpoint(&self, variable: &str, service: &str) -> Result<Option<String>, ConnectError> {
        const IGNORE: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";
        if self.flag(IGNORE, "ignore_configured_endpoint_urls") {
            return Ok(None);
        }
        let of_service = match self.profile.get("services") {
            None => None,
            Some(name) => {
                let section = self.profiles.services(name).ok_or_else(|| {
                    ConnectError::invalid(format!(
                        "profile `{}` names the services section `{name}`, which the configuration \
                         file does not have",
                        self.profile.name
                    ))
                })?;
                section.nested(service, "endpoint_url")
            }
        };
        let url = self
            .variables
            .get(&format!("AWS_ENDPOINT_URL_{variable}"))
            .or_else(|| self.variables.get("AWS_ENDPOINT_URL"))
            .or(of_service)
            .or_else(|| self.profile.get("endpoint_url"));
        url.map(checked).transpose()
    }

    /// `auto` is `path` where the endpoint is not Amazon's own: names below
    /// somebody's endpoint are seldom in the DNS. (Names that cannot be part of
    /// a host name, and addresses in place of one, are the SDK's care.)
    fn path_style(&self, config: &StoreConfig, custom: bool) -> Result<bool, ConnectError> {
        let style = config
            .addressing_style
            .as_deref()
            .or_else(|| self.profile.nested("s3", "addressing_style"));
        match style {
            Some("path") => Ok(true),
            Some("virtual") => Ok(false),
            Some("auto") | None => Ok(custom),
            Some(other) => Err(ConnectError::invalid(format!(
                "the addressing style of S3 is `auto`, `virtual` or `path`, not `{other}`"
            ))),
        }
    }

    /// A variable and a setting of one name: whether a checksum is wanted
    /// wherever the store can do it, or only where it must be.
    fn when(&self, key: &str) -> Result<When, ConnectError> {
        let variable = format!("AWS_{}", key.to_ascii_uppercase());
        let value = self
            .variables
            .get(&variable)
            .or_else(|| self.profile.get(key));
        match value.map(str::to_ascii_lowercase).as_deref() {
            None | Some("when_supported") => Ok(When::Supported),
            Some("when_required") => Ok(When::Required),
            Some(other) => Err(ConnectError::invalid(format!(
                "{variable} ({key}) is `when_supported` or `when_required`, not `{other}`"
            ))),
        }
    }

    fn ca_bundle(&self) -> Option<(PathBuf, &'static str)> {
        let named = |variable| Some((self.variables.path(variable)?, variable));
        let in_profile = || {
            let path = self.profile.get("ca_bundle")?;
            Some((self.variables.expand(path.as_ref()), "ca_bundle"))
        };
        named("AWS_CA_BUNDLE")
            .or_else(in_profile)
            .or_else(|| named("REQUESTS_CA_BUNDLE"))
    }
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The URL without user and password, if it is one that can be connected to. Nobody asks for
/// those, since requests are signed, and the SDK would log them.
fn checked(url: &str) -> Result<String, ConnectError> {
    let parsed: Option<Uri> = url.parse().ok();
    let usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    if usable && let Some((scheme, rest)) = url.split_once("://") {
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or(authority);
        return Ok(format!("{scheme}://{host}{path}"));
    }
    Err(ConnectError::invalid(format!(
        "Invalid endpoint: {} (expected http://host or https://host)",
        printable(url)
    )))
}

fn read_timeout(seconds: Option<i64>) -> Result<Duration, ConnectError> {
    let Some(seconds) = seconds else {
        return Ok(READ_TIMEOUT);
    };
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(ConnectError::invalid(format!(
            "--read-timeout is at least 1 second, not {seconds}"
        ))),
    }
}

fn bucket(config: &StoreConfig) -> String {
    match StoreUrl::parse(Provider::AwsS3, &config.url) {
        Ok(StoreUrl::S3 { bucket, .. }) => bucket,
        _ => String::new(),
    }
}

/// `arn:partition:service:REGION:account:resource`
fn region_of_arn(bucket: &str) -> Option<&str> {
    let mut fields = bucket.strip_prefix("arn:")?.split(':');
    fields.nth(2).filter(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Home;
    use super::*;

    /// A configuration file, variables, and the options.
    fn decide(
        file: &str,
        pairs: &[(&str, &str)],
        change: impl FnOnce(&mut StoreConfig),
    ) -> Result<Settings, ConnectError> {
        let home = Home::new();
        home.config(file);
        let mut variables = home.variables();
        for (name, value) in pairs {
            variables = variables.and(name, value);
        }
        let mut config = StoreConfig {
            url: "s3://bucket/path".into(),
            ..StoreConfig::default()
        };
        change(&mut config);
        let profiles = Profiles::load(&variables, None)?;
        Settings::decide(&config, &variables, &profiles)
    }

    fn plain(file: &str, pairs: &[(&str, &str)]) -> Settings {
        decide(file, pairs, |_| ()).unwrap()
    }

    #[test]
    fn the_region_has_an_order() {
        let file = "[default]\nregion = profile\n";
        let all = [("AWS_DEFAULT_REGION", "first"), ("AWS_REGION", "last")];
        assert_eq!(plain(file, &all).region, "first");
        assert_eq!(plain(file, &all[1..]).region, "profile");
        assert_eq!(plain("", &all[1..]).region, "last");
        assert_eq!(plain("", &[]).region, "us-east-1");
    }

    #[test]
    fn an_access_point_is_in_its_own_region() {
        let region = |url: &str| {
            let at = |config: &mut StoreConfig| {
                config.url = url.into();
                config.endpoint_url = Some("http://127.0.0.1:1".into());
            };
            let settings = decide("", &[("AWS_DEFAULT_REGION", "mine")], at).unwrap();
            (settings.region, settings.path_style)
        };
        let own = "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/path";
        assert_eq!(region(own), ("eu-west-1".into(), false));
        let global = "s3://arn:aws:s3::123456789012:accesspoint/name";
        assert_eq!(region(global), ("mine".into(), false));
        assert_eq!(region("s3://bucket"), ("mine".into(), true));
    }

    #[test]
    fn the_endpoint_has_an_order() {
        let file = "\
[default]
endpoint_url = http://profile
services = mine
[services mine]
s3 =
  endpoint_url = http://services
";
        let variables = [
            ("AWS_ENDPOINT_URL_S3", "http://own"),
            ("AWS_ENDPOINT_URL", "http://all"),
        ];
        let option = |config: &mut StoreConfig| config.endpoint_url = Some("http://option".into());
        let settings = decide(file, &variables, option).unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("http://option"));
        for (url, shown) in [
            ("http://u:hush@h:1/p@q?r", "http://h:1/p@q?r"),
            ("https://hush@[::1]:9", "https://[::1]:9"),
            ("http://h/u:p@x", "http://h/u:p@x"),
        ] {
            assert_eq!(checked(url).as_deref(), Ok(shown));
        }
        let endpoint = |file, pairs| plain(file, pairs).endpoint;
        assert_eq!(endpoint(file, &variables).unwrap(), "http://own");
        assert_eq!(endpoint(file, &variables[1..]).unwrap(), "http://all");
        assert_eq!(endpoint(file, &[]).unwrap(), "http://services");
        let less = "[default]\nendpoint_url = http://profile\n";
        assert_eq!(endpoint(less, &[]).unwrap(), "http://profile");
        assert_eq!(endpoint("", &[]), None);
        let ignore = [
            variables[0],
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "True"),
        ];
        assert_eq!(endpoint(file, &ignore), None);
        // The services that give out credentials have their own.
        let sts = plain(file, &[("AWS_ENDPOINT_URL_STS", "http://sts")]);
        assert_eq!(sts.sts_endpoint.unwrap(), "http://sts");
        assert_eq!(sts.sso_endpoint.unwrap(), "http://profile");
    }

    #[test]
    fn a_name_is_a_host_only_where_amazon_serves_it() {
        let style = |file, style: Option<&str>, endpoint: Option<&str>| {
            let change = |config: &mut StoreConfig| {
                config.addressing_style = style.map(Into::into);
                config.endpoint_url = endpoint.map(Into::into);
            };
            decide(file, &[], change).unwrap().path_style
        };
        let minio = Some("http://minio:9000");
        let file = "[default]\ns3 =\n  addressing_style = path\n";
        assert!(!style("", None, None) && !style("", Some("auto"), None));
        assert!(style("", None, minio) && style("", Some("auto"), minio));
        assert!(!style("", Some("virtual"), minio));
        assert!(style("", Some("path"), None) && style(file, None, None));
        assert!(!style(file, Some("virtual"), None));
    }

    #[test]
    fn checksums_are_as_asked_for() {
        let required = RequestChecksumCalculation::WhenRequired;
        let file = "[default]\nrequest_checksum_calculation = WHEN_REQUIRED\n";
        assert_eq!(plain(file, &[]).request_checksums, required);
        let variable = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported");
        assert_ne!(plain(file, &[variable]).request_checksums, required);
        let variable = ("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required");
        let settings = plain("", &[variable]);
        let required = ResponseChecksumValidation::WhenRequired;
        assert_eq!(settings.response_checksums, required);
    }

    #[test]
    fn flags_are_read_from_both_places() {
        let file = "[default]\nuse_fips_endpoint = true\ns3 =\n  use_dualstack_endpoint = true\n";
        let settings = plain(file, &[]);
        assert!(settings.fips && settings.dual_stack && !settings.accelerate);
        assert!(!plain(file, &[("AWS_USE_FIPS_ENDPOINT", "false")]).fips);
    }

    #[test]
    fn a_bundle_has_an_order() {
        let file = "[default]\nca_bundle = ~/profile.pem\n";
        let variables = [
            ("AWS_CA_BUNDLE", "/first"),
            ("REQUESTS_CA_BUNDLE", "/last"),
            ("HOME", "/h"),
        ];
        let bundle = |file, pairs| {
            let (path, named) = plain(file, pairs).ca_bundle?;
            Some((path.display().to_string(), named))
        };
        let expected = |path: &str, named| Some((path.to_owned(), named));
        assert_eq!(
            bundle(file, &variables[..1]),
            expected("/first", "AWS_CA_BUNDLE")
        );
        assert!(
            bundle(file, &variables[1..2])
                .unwrap()
                .0
                .ends_with("/profile.pem")
        );
        assert_eq!(
            bundle("", &variables[1..2]),
            expected("/last", "REQUESTS_CA_BUNDLE")
        );
        assert_eq!(bundle("", &[]), None);
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let error = |file: &str, pairs: &[(&str, &str)], timeout| {
            let change = |config: &mut StoreConfig| config.read_timeout = timeout;
            let error = decide(file, pairs, change).unwrap_err();
            assert_eq!(error.kind, crate::store::StoreErrorKind::Invalid);
            error.to_string()
        };
        let endpoint = error("", &[("AWS_ENDPOINT_URL", "user:hush@minio")], None);
        assert!(endpoint.starts_with("Invalid endpoint: "), "{endpoint}");
        for (file, expected) in [
            ("[default]\ns3 =\n  addressing_style = x\n", "not `x`"),
            ("[default]\nservices = x\n", "the services section `x`"),
            ("[default]\nresponse_checksum_validation = x\n", "not `x`"),
        ] {
            let text = error(file, &[], None);
            assert!(text.contains(expected), "{text}");
        }
        for seconds in [0, -1] {
            assert!(error("", &[], Some(seconds)).starts_with("--read-timeout"));
        }
        let long = |config: &mut StoreConfig| config.read_timeout = Some(7);
        let settings = decide("", &[], long).unwrap();
        assert_eq!(settings.read_timeout, Duration::from_secs(7));
    }
}
