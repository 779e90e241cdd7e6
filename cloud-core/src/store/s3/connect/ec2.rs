//! EC2: signed requests with the credentials of S3.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_types::body::SdkBody;

use super::http::Http;
use super::keys::Keys;
use super::settings::Settings;
use super::{ConnectError, Found};
use crate::store::StoreConfig;
use crate::store::api::{Api, ApiAnswer, ApiCall, ApiError, LIMIT, MAX_ANSWER, OpenedApi};
use crate::store::http::Variables;
use crate::store::wire::element;

/// What EC2 says of credentials whose time is over.
const EXPIRED: [&str; 4] = [
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
];

/// EC2 of a region.
#[derive(Debug)]
struct Ec2 {
    endpoint: String,
    region: String,
    http: Http,
    keys: Keys,
}

/// EC2 of `region`, or of the one that the environment or the profile names.
pub(in crate::store) fn open(
    config: &StoreConfig,
    region: Option<&str>,
) -> Result<OpenedApi, ConnectError> {
    with(config, region, &Variables::of_process())
}

fn with(
    config: &StoreConfig,
    region: Option<&str>,
    variables: &Variables,
) -> Result<OpenedApi, ConnectError> {
    let found = Found::of(config, variables)?;
    let region = region.or(found.settings.named_region.as_deref());
    let region = region.ok_or_else(|| {
        ConnectError::invalid(
            "You must specify a region: --aws-region, AWS_DEFAULT_REGION or `region` in the \
             profile",
        )
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if region.is_empty() || !region.chars().all(plain) {
        let shown = region.escape_default();
        return Err(ConnectError::invalid(format!("`{shown}` is not a region")));
    }
    let region = region.to_owned();
    Ok(OpenedApi {
        api: Arc::new(Ec2 {
            endpoint: endpoint(&found.settings, &region),
            region: region.clone(),
            http: found.http,
            keys: found.keys,
        }),
        region: Some(region),
    })
}

/// Scheme and host, without a slash at the end. Source: "Amazon EC2 endpoints and quotas"
/// in the general reference, and the suffixes of Amazon's other partitions.
fn endpoint(settings: &Settings, region: &str) -> String {
    if let Some(url) = &settings.ec2_endpoint {
        return url.trim_end_matches('/').to_owned();
    }
    let service = if settings.fips { "ec2-fips" } else { "ec2" };
    let (one, both) = match region {
        china if china.starts_with("cn-") => ("amazonaws.com.cn", "api.amazonwebservices.com.cn"),
        closed if closed.starts_with("us-iso-") => ("c2s.ic.gov", "c2s.ic.gov"),
        closed if closed.starts_with("us-isob-") => ("sc2s.sgov.gov", "sc2s.sgov.gov"),
        _ => ("amazonaws.com", "api.aws"),
    };
    let suffix = if settings.dual_stack { both } else { one };
    format!("https://{service}.{region}.{suffix}")
}

#[async_trait]
impl Api for Ec2 {
    async fn send(&self, call: &ApiCall) -> Result<ApiAnswer, ApiError> {
        let mut again = true;
        loop {
            let began = Instant::now();
            let keys = self.keys.get().await?;
            let request = self.signed(call, keys)?;
            let (head, body) = self.http.exchange(request, LIMIT, MAX_ANSWER).await?;
            let answer = ApiAnswer::new(head.status.as_u16(), &head.headers, body);
            let refused = answer.status >= 400
                && element(&answer.body, "Code").is_some_and(|code| EXPIRED.contains(&code));
            if refused && again && self.keys.renew(began).await? {
                again = false;
                continue;
            }
            return Ok(answer);
        }
    }
}

impl Ec2 {
    fn signed(
        &self,
        call: &ApiCall,
        keys: Credentials,
    ) -> Result<http::Request<SdkBody>, ConnectError> {
        let invalid = |_| ConnectError::invalid("the request to EC2 cannot be signed");
        let identity = Identity::from(keys);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("ec2")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| ConnectError::invalid("the request to EC2 cannot be signed"))?
            .into();
        let url = format!("{}{}", self.endpoint, call.target);
        let kind = call.content_type.map(|kind| ("content-type", kind));
        let body = SignableBody::Bytes(&call.body);
        let signable = SignableRequest::new(call.method, url.as_str(), kind.into_iter(), body);
        let signed = sign(signable.map_err(invalid)?, &params).map_err(invalid)?;
        let mut request = http::Request::builder().method(call.method).uri(&url);
        if let Some((name, value)) = kind {
            request = request.header(name, value);
        }
        let request = request.body(SdkBody::from(call.body.clone()));
        let mut request = request.map_err(|_| ConnectError::invalid("EC2 cannot be asked so"))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::StoreErrorKind;
    use crate::store::s3::connect::testing::Home;
    use crate::store::scripted::{Answer, Server};

    fn open(pairs: &[(&str, &str)], region: Option<&str>) -> Result<OpenedApi, ConnectError> {
        let home = Home::new();
        let mut variables = home.variables();
        for (name, value) in pairs {
            variables = variables.and(name, value);
        }
        let config = StoreConfig {
            url: "s3://bucket".into(),
            ..StoreConfig::default()
        };
        with(&config, region, &variables)
    }

    #[test]
    fn the_region_is_that_of_the_option_or_of_the_environment_and_never_a_guess() {
        let named = [("AWS_DEFAULT_REGION", "eu-west-1")];
        let region = |pairs, region| open(pairs, region).map(|opened| opened.region.unwrap());
        assert_eq!(region(&named, Some("us-west-2")).unwrap(), "us-west-2");
        assert_eq!(region(&named, None).unwrap(), "eu-west-1");
        for (pairs, option) in [(&[][..], None), (&named[..], Some("a/b"))] {
            let error = region(pairs, option).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
        }
    }

    #[test]
    fn each_part_of_amazon_has_its_endpoint() {
        let settings = |pairs: &[(&str, &str)]| {
            let home = Home::new();
            let mut variables = home.variables();
            for (name, value) in pairs {
                variables = variables.and(name, value);
            }
            Found::of(&StoreConfig::default(), &variables)
                .unwrap()
                .settings
        };
        let plain = settings(&[]);
        for (region, expected) in [
            ("eu-west-1", "https://ec2.eu-west-1.amazonaws.com"),
            ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn"),
            ("us-iso-east-1", "https://ec2.us-iso-east-1.c2s.ic.gov"),
        ] {
            assert_eq!(endpoint(&plain, region), expected);
        }
        let both = settings(&[
            ("AWS_USE_FIPS_ENDPOINT", "true"),
            ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ]);
        let expected = "https://ec2-fips.us-east-1.api.aws";
        assert_eq!(endpoint(&both, "us-east-1"), expected);
        let own = settings(&[
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_EC2", "http://own/"),
        ]);
        assert_eq!(endpoint(&own, "us-east-1"), "http://own");
    }

    #[tokio::test]
    async fn a_request_is_signed_for_the_service_and_the_region() {
        let server = Server::start(|request| {
            assert_eq!(request.text(), "Action=DescribeVolumes");
            let authorization = request.header("authorization").unwrap();
            assert!(
                authorization.contains("/eu-west-1/ec2/aws4_request"),
                "{authorization}"
            );
            assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date"));
            let answer = Answer::new(503).header("retry-after", "7");
            answer.header("x-amzn-RequestId", "59dbff89").xml("<R/>")
        });
        let keys = [
            ("AWS_ENDPOINT_URL_EC2", server.url.clone()),
            ("AWS_ACCESS_KEY_ID", "id".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "hush".to_owned()),
        ];
        let keys: Vec<_> = keys.iter().map(|(name, value)| (*name, &**value)).collect();
        let opened = open(&keys, Some("eu-west-1")).unwrap();
        let call = ApiCall {
            method: "POST",
            target: "/".into(),
            content_type: Some("application/x-www-form-urlencoded"),
            body: Bytes::from_static(b"Action=DescribeVolumes"),
        };
        let answer = opened.api.send(&call).await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.retry_after(),
            Some(std::time::Duration::from_secs(7))
        );
        let request = answer.request.map(|request| request.id);
        assert_eq!(request.as_deref(), Some("59dbff89"));
        assert!(answer.body.ends_with(b"<R/>"));
    }
}
