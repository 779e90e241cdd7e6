//! TLS as libpq means it.
//!
//! rustls knows one way: chain and name are verified, which is libpq's
//! `verify-full`. The weaker modes need a verifier of their own: `require`
//! without a root certificate verifies nothing, `verify-ca` (and `require` with
//! one) leaves the name alone. The provider is given explicitly: nothing is
//! installed for the whole process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::conninfo::{ConnInfoError, Root, Ssl, SslMode, TlsVersions, is_absent};
use crate::tls::{Roots, Verifier};

/// The configuration for a mode that uses TLS.
pub(super) fn config(ssl: &Ssl) -> Result<ClientConfig, ConnInfoError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] = match ssl.versions {
        TlsVersions::Both => &[&TLS12, &TLS13],
        TlsVersions::Only12 => &[&TLS12],
        TlsVersions::Only13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| ConnInfoError::Malformed(error.to_string()))?;
    // With a root certificate at hand `require` verifies the chain as well, as
    // libpq does for compatibility with its own past. `prefer` and `allow` only
    // ever protect from listeners.
    let roots = match ssl.mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => None,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => roots(ssl)?,
    };
    let roots = roots
        .map(|roots| Roots::new(roots, &provider))
        .transpose()
        .map_err(|why| file_error("root certificates", Path::new(""), why))?;
    let verifier = Verifier::new(roots, ssl.mode == SslMode::VerifyFull, provider);
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client(ssl)? {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| ConnInfoError::Malformed(format!("client certificate: {error}")))?,
    };
    config.enable_sni = ssl.sni;
    if ssl.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn roots(ssl: &Ssl) -> Result<Option<Vec<CertificateDer<'static>>>, ConnInfoError> {
    let must = matches!(ssl.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match &ssl.root {
        Root::System => {
            let found = rustls_native_certs::load_native_certs().certs;
            if found.is_empty() {
                let why = "no certificates of the system were found".to_owned();
                return Err(file_error("root certificates", Path::new("system"), why));
            }
            // One that cannot be used is not a reason to do without the others.
            let mut usable = RootCertStore::empty();
            let usable = found
                .into_iter()
                .filter(|root| usable.add(root.clone()).is_ok());
            Ok(Some(usable.collect()))
        }
        Root::File(path) => match fs::metadata(path) {
            Err(error) if is_absent(&error) && !must => Ok(None),
            Err(error) if is_absent(&error) => {
                Err(ConnInfoError::NoRootFile(path.display().to_string()))
            }
            _ => certificates(path, "root certificate file").map(Some),
        },
        Root::None if must => Err(ConnInfoError::NoRootFile(
            "~/.postgresql/root.crt".to_owned(),
        )),
        Root::None => Ok(None),
    }
}

type Client = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Certificate and key of the client, if there is a certificate.
fn client(ssl: &Ssl) -> Result<Option<Client>, ConnInfoError> {
    let Some((certificate, key)) = &ssl.client else {
        return Ok(None);
    };
    if fs::metadata(certificate).is_err_and(|error| is_absent(&error)) {
        return Ok(None);
    }
    let certificates = certificates(certificate, "certificate file")?;
    let bad_key = |why: String| file_error("private key file", key, why);
    let meta = fs::metadata(key).map_err(|error| bad_key(error.to_string()))?;
    // A key of the system may be readable by a group of services.
    let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & others != 0 {
        return Err(bad_key(
            "it has group or world access; permissions should be u=rw (0600) or less, or \
             u=rw,g=r (0640) or less if owned by root"
                .into(),
        ));
    }
    let text = fs::read(key).map_err(|error| bad_key(error.to_string()))?;
    // Both ways to encrypt a key name it in the open.
    if text.windows(9).any(|word| word == b"ENCRYPTED") {
        return Err(bad_key("keys with a passphrase are not supported".into()));
    }
    let key = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => key,
        // libpq takes the bare form as well.
        Err(pem::Error::NoItemsFound) => {
            PrivateKeyDer::try_from(text).map_err(|why| bad_key(why.to_owned()))?
        }
        Err(error) => return Err(bad_key(error.to_string())),
    };
    Ok(Some((certificates, key)))
}

fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConnInfoError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(file_error(what, path, "it has no certificate".into())),
        Err(error) => Err(file_error(what, path, error.to_string())),
    }
}

fn file_error(what: &'static str, path: &Path, why: String) -> ConnInfoError {
    ConnInfoError::File {
        what,
        path: path.display().to_string(),
        why,
    }
}
