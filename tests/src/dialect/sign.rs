//! Signing a request that was changed on its way: version 4 of Amazon's signatures.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::target::canonical;
use crate::digest::Hex;
use crate::http_server::HttpRequest;
use crate::s3::SECRET_KEY;

/// Bytes of a block of SHA-256, which HMAC is made of.
const BLOCK: usize = 64;

/// Signs `request` as whoever signed it before, for the same headers as far as they
/// are still there. A request without a signature stays one.
pub(super) fn sign(request: &mut HttpRequest) {
    let authorization = request.header("authorization").to_owned();
    let field = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}="))?;
        rest.split([',', ' ']).next()
    };
    let (Some(credential), Some(names)) = (field("Credential"), field("SignedHeaders")) else {
        return;
    };
    let Some((_, scope)) = credential.split_once('/') else {
        return;
    };
    let signed: BTreeMap<&str, &str> = names
        .split(';')
        .filter(|name| request.headers.iter().any(|(other, _)| other == name))
        .map(|name| (name, request.header(name)))
        .collect();
    let names = signed.keys().copied().collect::<Vec<_>>().join(";");
    let headers = signed
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"));
    let headers: String = headers.collect();
    let (path, query) = canonical(&request.target);
    let hash = request.header("x-amz-content-sha256");
    let method = &request.method;
    let text = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{hash}");
    let date = request.header("x-amz-date");
    let digest = Hex(&Sha256::digest(text));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let key = scope
        .split('/')
        .fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, part| {
            hmac(&key, part.as_bytes()).to_vec()
        });
    let signature = hmac(&key, text.as_bytes());
    let signature = Hex(&signature);
    request.set_header(
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, \
             Signature={signature}"
        ),
    );
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let with = |pad: u8, message: &[u8]| -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(block.map(|byte| byte ^ pad));
        digest.update(message);
        digest.finalize().into()
    };
    with(0x5c, &with(0x36, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 2 of RFC 4231.
    #[test]
    fn hmac_is_that_of_the_standard() {
        let made = hmac(b"Jefe", b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Hex(&made).to_string(), expected);
    }
}
