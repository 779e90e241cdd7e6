//! Which certificates are trusted, found out when the first one is shown to us.
//!
//! A bundle that was named replaces the system's certificates, as in the
//! reference: who names one wants it and no other to be believed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::error::ConnectError;
use crate::tls::{Roots, Verifier};

/// The trusted certificates, not read before they are needed: a plain endpoint
/// does not pay for them.
#[derive(Debug)]
pub(in crate::store) struct Tls {
    bundle: Option<(PathBuf, &'static str)>,
    /// The variable that a user of this store names a bundle with.
    variable: &'static str,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// `bundle`: the file in place of the system's certificates, and what named
    /// it; `variable` is what to name one with.
    pub(in crate::store) fn new(
        bundle: Option<(PathBuf, &'static str)>,
        variable: &'static str,
    ) -> Self {
        Self {
            bundle,
            variable,
            config: OnceLock::new(),
        }
    }

    pub(super) fn variable(&self) -> &'static str {
        self.variable
    }

    /// What a connection needs.
    ///
    /// # Errors
    ///
    /// The bundle cannot be used, or the system has no certificates.
    pub(in crate::store) fn config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConnectError::invalid(format!("could not set up TLS: {error}")))?;
        let builder = match &self.bundle {
            None => builder.with_root_certificates(system(self.variable)?),
            // Who names a bundle may have an authority that is the server itself.
            Some((path, named_by)) => {
                let roots = of_bundle(path, named_by, &provider)?;
                let verifier = Verifier::new(Some(roots), true, provider);
                let builder = builder.dangerous();
                builder.with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

fn system(variable: &str) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConnectError::invalid(format!(
            "this system has no CA certificates to check the server by: install them (package \
             ca-certificates), or name a file of them with {variable}"
        )));
    }
    Ok(roots)
}

fn of_bundle(
    path: &Path,
    named_by: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Roots, ConnectError> {
    let failed = |why: &str| {
        ConnectError::invalid(format!(
            "could not use the CA certificates `{}` ({named_by}): {why}",
            path.display()
        ))
    };
    let text = std::fs::read(path).map_err(|error| failed(&error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let mut found = found.map_err(|error| failed(&error.to_string()))?;
    // Bundles carry old certificates in forms that nobody reads any more.
    let mut usable = RootCertStore::empty();
    found.retain(|certificate| usable.add(certificate.clone()).is_ok());
    if found.is_empty() {
        return Err(failed("it has no certificate in PEM form"));
    }
    Roots::new(found, provider).map_err(|why| failed(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_cannot_be_used_is_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        let error = |path: &PathBuf| {
            let tls = Tls::new(Some((path.clone(), "AWS_CA_BUNDLE")), "AWS_CA_BUNDLE");
            tls.config().unwrap_err().to_string()
        };
        assert!(error(&path).contains("bundle.pem` (AWS_CA_BUNDLE): No such file"));
        std::fs::write(&path, "not a certificate").unwrap();
        assert!(error(&path).ends_with("it has no certificate in PEM form"));
        std::fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(error(&path).starts_with("could not use the CA certificates"));
    }
}
