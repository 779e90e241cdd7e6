//! Who is let in: TLS and the bearer token.
//!
//! Both come from files that others renew, certificates above all. So they are read again before
//! each look at the store, and what cannot be read leaves the old ones in place, with a warning.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud_core::ops::{OpError, OpErrorKind};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// Largest file of a token, in bytes.
const MAX_TOKEN: usize = 64 << 10;

/// The files that are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct DoorFiles {
    /// Certificates and key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// The token.
    pub(crate) token: Option<PathBuf>,
}

/// What was in them.
#[derive(Clone, Default)]
pub(crate) struct Door {
    /// How a connection becomes one with TLS; `None` for plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Fingerprint of the token, if one is wanted.
    token: Option<[u8; 32]>,
}

/// Without what is secret.
impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("tls", &self.tls.is_some())
            .field("token", &self.token.is_some())
            .finish()
    }
}

impl DoorFiles {
    /// Reads them.
    pub(crate) fn open(&self) -> Result<Door, OpError> {
        let tls = self.certificate.as_ref();
        let tls = tls.map(|(certificate, key)| acceptor(certificate, key));
        let token = self.token.as_ref().map(|path| fingerprint_in(path));
        Ok(Door {
            tls: tls.transpose()?,
            token: token.transpose()?,
        })
    }
}

impl Door {
    /// Whether a request with this `Authorization` may see the series.
    ///
    /// Fingerprints are compared: how long that takes tells nothing of the token.
    pub(crate) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(wanted) = self.token else {
            return true;
        };
        let sent = authorization.and_then(|value| {
            let (scheme, token) = value.split_at_checked(BEARER.len())?;
            scheme.eq_ignore_ascii_case(BEARER).then_some(token)
        });
        sent.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token.trim_ascii())) == wanted)
    }

    /// Whether a token is wanted.
    pub(crate) fn wants_token(&self) -> bool {
        self.token.is_some()
    }
}

const BEARER: &[u8] = b"Bearer ";

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, OpError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let certificates =
        certificates.map_err(|error| unusable("certificates", certificate, &error))?;
    if certificates.is_empty() {
        return Err(unusable(
            "certificates",
            certificate,
            &"there are none in it",
        ));
    }
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret = secret.map_err(|error| unusable("key", key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(certificates, secret)
        })
        .map_err(|error| unusable("key", key, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn fingerprint_in(path: &Path) -> Result<[u8; 32], OpError> {
    let content = std::fs::read(path).map_err(|error| unusable("token", path, &error))?;
    let token = content.trim_ascii();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        return Err(unusable(
            "token",
            path,
            &"it is not one line of visible ASCII",
        ));
    }
    Ok(Sha256::digest(token).into())
}

fn unusable(what: &str, path: &Path, why: &dyn fmt::Display) -> OpError {
    let text = format!("could not use the {what} in `{}`: {why}", path.display());
    OpError::new(OpErrorKind::General, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_the_door() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let files = DoorFiles {
            token: Some(path.clone()),
            ..DoorFiles::default()
        };
        let door = files.open().unwrap();
        assert!(door.wants_token() && !format!("{door:?}").contains("s3cret"));
        for (sent, admitted) in [
            (Some(&b"Bearer s3cret"[..]), true),
            (Some(b"bearer  s3cret "), true),
            (Some(b"Bearer s3cre"), false),
            (Some(b"Bearer s3cret2"), false),
            (Some(b"Bearer "), false),
            (Some(b"Basic s3cret"), false),
            (Some(b"Digest s3cret"), false),
            (Some(b"s3cret"), false),
            (Some(b""), false),
            (None, false),
        ] {
            assert_eq!(door.admits(sent), admitted, "{sent:?}");
        }
        assert!(Door::default().admits(None), "no token is wanted");
        for content in ["", " \n", "two words", "two\nlines", "\u{e4}"] {
            std::fs::write(&path, content).unwrap();
            let error = files.open().unwrap_err().message;
            assert!(error.starts_with("could not use the token in `"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(files.open().is_err());
    }

    #[test]
    fn files_without_certificates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        std::fs::write(&path, "nothing").unwrap();
        let files = DoorFiles {
            certificate: Some((path.clone(), path)),
            ..DoorFiles::default()
        };
        let error = files.open().unwrap_err().message;
        assert!(error.contains("there are none in it"), "{error}");
    }
}
