//! TLS as libpq means it.
//!
//! rustls knows one way: chain and name are verified, which is libpq's
//! `verify-full`. The weaker modes need verifiers of their own: `require`
//! without a root certificate verifies nothing, `verify-ca` (and `require` with
//! one) leaves the name alone.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::conninfo::{ConnInfoError, Root, Ssl, SslMode};

/// The configuration for a mode that uses TLS.
pub(super) fn config(ssl: &Ssl) -> Result<ClientConfig, ConnInfoError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnInfoError::Malformed(error.to_string()))?;
    let chain = |roots: RootCertStore| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| file_error("the root certificate file", "", error.to_string()))
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (ssl.mode, roots(&ssl.root)?) {
        (SslMode::VerifyFull, Some(roots)) => chain(roots)?,
        // With a root certificate at hand `require` verifies the chain as well,
        // as libpq does for compatibility with its own past.
        (SslMode::VerifyCa | SslMode::Require, Some(roots)) => Arc::new(Weaker {
            chain: Some(chain(roots)?),
            provider: Arc::clone(&provider),
        }),
        _ => Arc::new(Weaker {
            chain: None,
            provider: Arc::clone(&provider),
        }),
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&ssl.cert, &ssl.key) {
        (Some(cert), Some(key)) if cert.exists() || key.exists() => {
            let certs = certificates(cert, "certificate file")?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                let why = format!("{error} (keys with a passphrase are not supported)");
                file_error("the private key file", &key.display().to_string(), why)
            })?;
            builder.with_client_auth_cert(certs, key).map_err(|error| {
                file_error(
                    "the certificate file",
                    &cert.display().to_string(),
                    error.to_string(),
                )
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    if ssl.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn roots(root: &Root) -> Result<Option<RootCertStore>, ConnInfoError> {
    let mut store = RootCertStore::empty();
    match root {
        Root::None => return Ok(None),
        Root::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let why = "no certificates were found".to_owned();
                return Err(file_error("the certificates of the system", "", why));
            }
        }
        Root::File(path) => {
            for certificate in certificates(path, "root certificate file")? {
                store.add(certificate).map_err(|error| {
                    let path = path.display().to_string();
                    file_error("the root certificate file", &path, error.to_string())
                })?;
            }
        }
    }
    Ok(Some(store))
}

fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConnInfoError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(file_error(
            what,
            &path.display().to_string(),
            "it has no certificate".into(),
        )),
        Err(error) => Err(file_error(
            what,
            &path.display().to_string(),
            error.to_string(),
        )),
    }
}

fn file_error(what: &'static str, path: &str, why: String) -> ConnInfoError {
    ConnInfoError::File {
        what,
        path: path.to_owned(),
        why,
    }
}

/// Verifies the chain but not the name, or nothing at all.
#[derive(Debug)]
struct Weaker {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Weaker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: everything else was good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
