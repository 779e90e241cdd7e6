//! The server's certificate, judged as strictly as the mode asks.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};

use super::plain::Plain;

/// The certificates that are trusted.
pub(crate) struct Roots {
    chain: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    pub(crate) fn new(
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store
                .add(certificate.clone())
                .map_err(|error| error.to_string())?;
        }
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        Ok(Self {
            chain: chain.build().map_err(|error| error.to_string())?,
            certificates,
        })
    }
}

/// Verifies chain and name, the chain alone, or nothing.
pub(crate) struct Verifier {
    roots: Option<Roots>,
    /// Whether the name counts.
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("chain", &self.roots.is_some())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    pub(crate) fn new(roots: Option<Roots>, name: bool, provider: Arc<CryptoProvider>) -> Self {
        Self {
            roots,
            name,
            provider,
        }
    }

    /// Verifies the name as libpq does: the common name counts where the
    /// certificate has no alternative names.
    fn verify_name(
        &self,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
        refusal: Error,
    ) -> Result<ServerCertVerified, Error> {
        if !self.name || Plain::read(end_entity).is_some_and(|plain| plain.is_for(name)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refusal)
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = roots.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // The name is looked at last: everything else was good.
            Err(
                refusal @ Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                ),
            ) => self.verify_name(end_entity, server_name, refusal),
            // What is not a certificate of the web's kind, and yet a good one.
            Err(refusal) => {
                let algorithms = &self.provider.signature_verification_algorithms;
                let good = Plain::read(end_entity)
                    .is_some_and(|plain| plain.is_trusted(&roots.certificates, algorithms, now));
                if !good {
                    return Err(refusal);
                }
                // rustls stopped before it came to the name.
                let named = ParsedCertificate::try_from(end_entity)
                    .and_then(|parsed| verify_server_name(&parsed, server_name));
                if named.is_ok() {
                    return Ok(ServerCertVerified::assertion());
                }
                let refusal = CertificateError::NotValidForNameContext {
                    expected: server_name.to_owned(),
                    presented: Vec::new(),
                };
                let refusal = Error::InvalidCertificate(refusal);
                self.verify_name(end_entity, server_name, refusal)
            }
            good => good,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms).or_else(|refusal| {
            let good = Plain::of_version_1(cert)
                .is_some_and(|plain| plain.signed(message, signed, algorithms));
            if good {
                Ok(HandshakeSignatureValid::assertion())
            } else {
                Err(refusal)
            }
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms).or_else(|refusal| {
            let Some(key) = Plain::of_version_1(cert).and_then(|plain| plain.public_key()) else {
                return Err(refusal);
            };
            let key = SubjectPublicKeyInfoDer::from(key);
            verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
