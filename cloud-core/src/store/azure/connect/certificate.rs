//! The certificate of a service principal, in place of a secret: what proves the
//! identity is a token that its key signs.
//!
//! The vendor's crate does this with OpenSSL alone. An encrypted key, or a
//! container of the PKCS#12 kind, is not read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::base64;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::transport::failed;
use crate::store::http::ConnectError;

/// The name of the variable.
const VARIABLE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";

/// How long a proof is good for.
const LIFETIME: Duration = Duration::from_mins(10);

/// A certificate, its key, and whom they are shown to.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    /// SHA-256 of the certificate, by which the service finds it.
    thumbprint: String,
    client: String,
    audience: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    pub(super) fn read(
        path: &Path,
        host: Option<&str>,
        tenant: &str,
        client: &str,
    ) -> Result<Self, ConnectError> {
        let failed = |why: &str| {
            ConnectError::invalid(format!(
                "could not use the certificate `{}` ({VARIABLE}): {why}",
                path.display()
            ))
        };
        let text = std::fs::read(path).map_err(|error| failed(&error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(&text)
            .map_err(|_| failed("it has no certificate in PEM form"))?;
        let key = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| failed("it has no private key in PEM form that is not encrypted"))?;
        let key = any_supported_type(&key).map_err(|error| failed(&error.to_string()))?;
        if key
            .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
            .is_none()
        {
            return Err(failed("its key is not an RSA key"));
        }
        let host = host
            .unwrap_or("login.microsoftonline.com")
            .trim_end_matches('/');
        let host = host.split_once("://").map_or(host, |(_, host)| host);
        Ok(Self {
            key,
            thumbprint: base64::encode_url_safe(Sha256::digest(&certificate)),
            client: client.to_owned(),
            audience: format!("https://{host}/{tenant}/oauth2/v2.0/token"),
        })
    }

    /// The token, good from `now` on.
    fn proof(&self, now: SystemTime) -> Result<String, ConnectError> {
        let refused = |why: String| {
            ConnectError::refused(format!("the key of {VARIABLE} could not sign: {why}"))
        };
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
        let header = serde_json::json!({
            "alg": "RS256",
            "typ": "JWT",
            "x5t#S256": self.thumbprint,
        });
        let claims = serde_json::json!({
            "aud": self.audience,
            "iss": self.client,
            "sub": self.client,
            "jti": format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
            "nbf": seconds(now),
            "exp": seconds(now + LIFETIME),
        });
        let encoded = |json: &serde_json::Value| base64::encode_url_safe(json.to_string());
        let text = format!("{}.{}", encoded(&header), encoded(&claims));
        let signer = self
            .key
            .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
            .ok_or_else(|| refused("it is not an RSA key".into()))?;
        let signature = signer
            .sign(text.as_bytes())
            .map_err(|error| refused(error.to_string()))?;
        Ok(format!("{text}.{}", base64::encode_url_safe(signature)))
    }
}

#[async_trait]
impl ClientAssertion for Certificate {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.proof(SystemTime::now()).map_err(failed)
    }
}
