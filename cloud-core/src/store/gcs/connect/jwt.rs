//! Signed statements of a service account about itself (RFC 7519, RS256).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::source::KeyFile;

/// How long such a statement holds, in seconds. Source: Google's description of
/// the exchange; longer ones are refused.
pub(super) const LIFETIME: u64 = 3600;

/// A statement with these claims, besides who makes it and when.
///
/// # Errors
///
/// Why the key cannot sign; nothing of the key.
pub(super) fn signed(account: &KeyFile, now: u64, claims: &Value) -> Result<String, String> {
    let mut header = json!({"alg": "RS256", "typ": "JWT"});
    if let Some(id) = &account.key_id {
        header["kid"] = json!(id);
    }
    let mut all = json!({"iss": account.email, "iat": now, "exp": now + LIFETIME});
    if let (Some(all), Some(claims)) = (all.as_object_mut(), claims.as_object()) {
        all.extend(claims.clone());
    }
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&all));
    let unusable = || "its `private_key` is no RSA key in PEM form".to_owned();
    let key = PrivateKeyDer::from_pem_slice(account.key.0.as_bytes()).map_err(|_| unusable())?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| unusable())?;
    let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
    let signature = signer.ok_or_else(unusable)?.sign(message.as_bytes());
    let signature = signature.map_err(|_| unusable())?;
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    Ok(format!("{message}.{signature}"))
}
