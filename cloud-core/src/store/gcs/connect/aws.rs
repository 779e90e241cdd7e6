//! An identity of AWS: a signed question to its token service, which Google asks
//! in our name to see who we are.

use std::fmt::Write;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::services::{Answer, LIMIT, Services, fetch};
use super::source::{string, unusable, wanted};
use crate::store::http::ConnectError;
use crate::store::wire::url_encoded;

const DOING: &str = "the identity of AWS cannot be had";

/// URLs by which a machine of AWS tells who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aws {
    /// Of the token service, with `{region}` in it.
    question: String,
    region: Option<String>,
    keys: Option<String>,
    session: Option<String>,
}

/// Keys that sign.
struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Aws {
    /// Reads `credential_source` of a file of credentials.
    pub(super) fn read(source: &Value) -> Result<Self, String> {
        let url = |name: &str| string(source, name).map(str::to_owned);
        Ok(Self {
            question: wanted(source, "regional_cred_verification_url")?,
            region: url("region_url"),
            keys: url("url"),
            session: url("imdsv2_session_token_url"),
        })
    }
}

/// The signed question, as the exchange wants it.
pub(super) async fn subject_token(
    aws: &Aws,
    services: &Services,
    audience: &str,
) -> Result<String, ConnectError> {
    let machine = Machine {
        services,
        aws,
        session: None,
    };
    let variables = &services.variables;
    let region = variables.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    let keys = variables
        .get("AWS_ACCESS_KEY_ID")
        .zip(variables.get("AWS_SECRET_ACCESS_KEY"));
    let machine = if region.is_none() || keys.is_none() {
        machine.entered().await?
    } else {
        machine
    };
    let region = match region {
        Some((_, region)) => region.to_owned(),
        None => machine.region().await?,
    };
    let keys = match keys {
        Some((id, secret)) => Keys {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: variables.get("AWS_SESSION_TOKEN").map(str::to_owned),
        },
        None => machine.keys().await?,
    };
    let url = aws.question.replace("{region}", &region);
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let question = question(&url, &region, &keys, audience, &now)
        .ok_or_else(|| unusable(DOING, "`regional_cred_verification_url` is not a URL"))?;
    Ok(url_encoded(&question.to_string()))
}

/// The metadata service of a machine of AWS.
struct Machine<'a> {
    services: &'a Services,
    aws: &'a Aws,
    session: Option<String>,
}

impl Machine<'_> {
    /// With the session that newer machines want.
    async fn entered(mut self) -> Result<Self, ConnectError> {
        if let Some(url) = &self.aws.session {
            let headers = [("x-aws-ec2-metadata-token-ttl-seconds", "300")];
            let answer = fetch(
                &self.services.direct,
                "PUT",
                url,
                &headers,
                Bytes::new(),
                LIMIT,
            )
            .await;
            let answer = answer.map_err(|error| error.while_(DOING))?;
            answer.success(DOING)?;
            self.session = Some(answer.text());
        }
        Ok(self)
    }

    async fn ask(&self, url: &str) -> Result<Answer, ConnectError> {
        let session = self.session.as_deref();
        let headers: Vec<_> = session
            .map(|session| ("x-aws-ec2-metadata-token", session))
            .into_iter()
            .collect();
        let http = &self.services.direct;
        let answer = fetch(http, "GET", url, &headers, Bytes::new(), LIMIT).await;
        let answer = answer.map_err(|error| error.while_(DOING))?;
        answer.success(DOING)?;
        Ok(answer)
    }

    async fn region(&self) -> Result<String, ConnectError> {
        let missing = || unusable(DOING, "neither AWS_REGION nor `region_url` is there");
        let url = self.aws.region.as_ref().ok_or_else(missing)?;
        let mut zone = self.ask(url).await?.text();
        // us-east-1b is in us-east-1.
        zone.pop();
        Ok(zone)
    }

    async fn keys(&self) -> Result<Keys, ConnectError> {
        let missing = || unusable(DOING, "neither AWS_ACCESS_KEY_ID nor `url` is there");
        let url = self.aws.keys.as_ref().ok_or_else(missing)?;
        let role = self.ask(url).await?.text();
        let value = self.ask(&format!("{url}/{role}")).await?.json();
        let field = |name: &str| {
            let text = string(&value, name).map(str::to_owned);
            text.ok_or_else(|| unusable(DOING, &format!("the machine's answer has no `{name}`")))
        };
        Ok(Keys {
            id: field("AccessKeyId")?,
            secret: field("SecretAccessKey")?,
            token: field("Token").ok(),
        })
    }
}

/// The question "who am I", signed by version 4 of AWS's signatures.
fn question(url: &str, region: &str, keys: &Keys, audience: &str, now: &str) -> Option<Value> {
    let uri: http::Uri = url.parse().ok()?;
    let date = now.get(..8)?;
    let mut headers = vec![
        ("host", uri.host()?.to_owned()),
        ("x-amz-date", now.to_owned()),
    ];
    if let Some(token) = &keys.token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    headers.push(("x-goog-cloud-target-resource", audience.to_owned()));
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!(
        "POST\n{}\n{}\n",
        uri.path(),
        uri.query().unwrap_or_default()
    );
    for (name, value) in &headers {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{}", hex(&Sha256::digest([])));
    let place = format!("{date}/{region}/sts/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{now}\n{place}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut key = hmac(format!("AWS4{}", keys.secret).as_bytes(), date.as_bytes());
    for part in [region, "sts", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    let signature = hex(&hmac(&key, text.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        keys.id
    );
    headers.push(("Authorization", authorization));
    let pair = |(name, value): &(&str, String)| json!({"key": name, "value": value});
    let headers: Vec<Value> = headers.iter().map(pair).collect();
    Some(json!({"url": url, "method": "POST", "headers": headers}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message);
    let outer = Sha256::new().chain_update(padded(0x5c));
    outer.chain_update(inner.finalize()).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test cases 2 and 6 of RFC 4231.
    #[test]
    fn the_keyed_hash_is_that_of_the_standard() {
        let short = hmac(b"Jefe", b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&short), expected);
        let long = hmac(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
        );
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hex(&long), expected);
    }

    /// The signature is the one that the reference's library of AWS makes.
    #[test]
    fn the_question_is_signed_and_names_who_may_ask_it() {
        let keys = Keys {
            id: "AKIDEXAMPLE".into(),
            secret: "hush".into(),
            token: Some("session".into()),
        };
        let url = "https://sts.us-east-2.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";
        let asked = question(url, "us-east-2", &keys, "//iam/pool", "20200811T065522Z").unwrap();
        let text = asked.to_string();
        assert!(!text.contains("hush"));
        assert_eq!(asked["url"], url);
        let headers = asked["headers"].as_array().unwrap();
        let named = |name: &str| {
            let found = headers.iter().find(|header| header["key"] == name);
            found.unwrap()["value"].as_str().unwrap().to_owned()
        };
        assert_eq!(named("host"), "sts.us-east-2.amazonaws.com");
        assert_eq!(named("x-goog-cloud-target-resource"), "//iam/pool");
        let begin = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20200811/us-east-2/sts/aws4_request, \
                     SignedHeaders=host;x-amz-date;x-amz-security-token;\
                     x-goog-cloud-target-resource, Signature=";
        let signed = named("Authorization");
        let signature = "6e00f3c73d0560c03a75a50b77bb4f6e5d388eb237ed75865244bb7ce3f01e91";
        assert_eq!(signed.strip_prefix(begin), Some(signature));
    }
}
