//! Certificates that PostgreSQL's own manual tells people to make, and that
//! rustls, made for the web, does not take: the self-signed one that is its own
//! root, the one of version 1 that a private authority signed, and the one that
//! carries the host in its common name alone. OpenSSL, and so libpq, takes them.
//!
//! Nothing weaker than OpenSSL: signature and dates must be good, and an issuer
//! must be one of the trusted certificates itself. Chains with intermediate
//! certificates are rustls's business only.

use rustls::DigitallySignedStruct;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// A certificate, read without judging it.
pub(super) struct Plain<'a> {
    der: &'a [u8],
    certificate: Certificate,
}

impl<'a> Plain<'a> {
    pub(super) fn read(der: &'a CertificateDer<'_>) -> Option<Self> {
        let der: &[u8] = der;
        let certificate = Certificate::from_der(der).ok()?;
        Some(Self { der, certificate })
    }

    /// The same, but nothing of version 3: that is for rustls to judge.
    pub(super) fn of_version_1(der: &'a CertificateDer<'_>) -> Option<Self> {
        Self::read(der).filter(Self::is_version_1)
    }

    fn is_version_1(&self) -> bool {
        self.certificate.tbs_certificate.version == Version::V1
    }

    /// The public key with its algorithm, as DER.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        let key = &self.certificate.tbs_certificate.subject_public_key_info;
        key.to_der().ok()
    }

    /// Whether the certificate is one of `roots`, or is of version 1 and one of
    /// them issued it.
    pub(super) fn is_trusted(
        &self,
        roots: &[CertificateDer<'_>],
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> bool {
        if !self.is_in_time(now) {
            return false;
        }
        let issued = |root: &CertificateDer<'_>| {
            self.is_version_1()
                && Plain::read(root).is_some_and(|root| {
                    root.is_in_time(now) && root.may_issue() && self.is_issued_by(&root, algorithms)
                })
        };
        roots.iter().any(|root| **root == *self.der || issued(root))
    }

    fn is_in_time(&self, now: UnixTime) -> bool {
        let validity = &self.certificate.tbs_certificate.validity;
        let from = validity.not_before.to_unix_duration().as_secs();
        let to = validity.not_after.to_unix_duration().as_secs();
        (from..=to).contains(&now.as_secs())
    }

    /// An authority says so; one of version 1, which cannot, is its own issuer.
    fn may_issue(&self) -> bool {
        let tbs = &self.certificate.tbs_certificate;
        match tbs.get::<BasicConstraints>() {
            Ok(Some((_, constraints))) => constraints.ca,
            Ok(None) => self.is_version_1() && tbs.issuer == tbs.subject,
            Err(_) => false,
        }
    }

    fn is_issued_by(&self, issuer: &Plain<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let Certificate {
            tbs_certificate: tbs,
            signature_algorithm,
            signature,
        } = &self.certificate;
        let issuer = &issuer.certificate.tbs_certificate;
        if tbs.issuer != issuer.subject || tbs.signature != *signature_algorithm {
            return false;
        }
        let key = &issuer.subject_public_key_info;
        let (Ok(message), Some(key_bytes), Some(signature)) = (
            tbs.to_der(),
            key.subject_public_key.as_bytes(),
            signature.as_bytes(),
        ) else {
            return false;
        };
        let (Some(signed_with), Some(key_of)) =
            (identifier(signature_algorithm), identifier(&key.algorithm))
        else {
            return false;
        };
        algorithms.all.iter().any(|algorithm| {
            *algorithm.signature_alg_id() == signed_with
                && *algorithm.public_key_alg_id() == key_of
                && algorithm
                    .verify_signature(key_bytes, &message, signature)
                    .is_ok()
        })
    }

    /// Whether this certificate's key signed `message`, under TLS 1.2.
    pub(super) fn signed(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let key = &self.certificate.tbs_certificate.subject_public_key_info;
        let (Some(bytes), Some(key_of)) = (
            key.subject_public_key.as_bytes(),
            identifier(&key.algorithm),
        ) else {
            return false;
        };
        let of_scheme = algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme);
        of_scheme
            .flat_map(|(_, algorithms)| *algorithms)
            .any(|algorithm| {
                *algorithm.public_key_alg_id() == key_of
                    && algorithm
                        .verify_signature(bytes, message, signed.signature())
                        .is_ok()
            })
    }

    /// Whether the common name is the host's. It does not count where there are
    /// alternative names of the host's kind: those rustls has judged.
    pub(super) fn is_for(&self, host: &ServerName<'_>) -> bool {
        let tbs = &self.certificate.tbs_certificate;
        let alternatives = match tbs.get::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0,
            Ok(None) => Vec::new(),
            Err(_) => return false,
        };
        let same_kind = |name: &GeneralName| match host {
            ServerName::IpAddress(_) => matches!(name, GeneralName::IpAddress(_)),
            _ => matches!(name, GeneralName::DnsName(_)),
        };
        if alternatives.iter().any(same_kind) {
            return false;
        }
        let host = host.to_str();
        let names = tbs.subject.0.iter().flat_map(|rdn| rdn.0.iter());
        let mut common = names.filter(|name| name.oid == CN).filter_map(|name| {
            let value = &name.value;
            let utf8 = value.decode_as::<Utf8StringRef<'_>>().ok();
            utf8.map(|text| text.as_str().to_owned())
                .or_else(|| {
                    let text = value.decode_as::<PrintableStringRef<'_>>().ok()?;
                    Some(text.as_str().to_owned())
                })
                .or_else(|| {
                    let text = value.decode_as::<TeletexStringRef<'_>>().ok()?;
                    Some(text.as_str().to_owned())
                })
        });
        let first = common.next();
        first.is_some_and(|name| !name.contains('\0') && fits(&name, &host))
    }
}

/// The inside of an algorithm identifier, which is what rustls compares.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    // Tag and a length of one byte stand before it.
    let length = usize::from(*der.get(1)?);
    (length < 0x80 && der.len() == length + 2).then(|| der[2..].to_vec())
}

/// Whether a name fits the host: a leading `*.` stands for one label.
fn fits(name: &str, host: &str) -> bool {
    let (name, host) = (name.to_ascii_lowercase(), host.to_ascii_lowercase());
    match name.strip_prefix('*') {
        Some(rest) if rest.starts_with('.') => {
            let label = host.strip_suffix(rest);
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        }
        _ => !name.is_empty() && name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        for (name, host, expected) in [
            ("db.example.org", "db.example.org", true),
            ("DB.example.org", "db.Example.org", true),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "example.org", false),
            ("*", "db", false),
            ("*b.example.org", "db.example.org", false),
            ("db", "db2", false),
            ("", "", false),
        ] {
            assert_eq!(fits(name, host), expected, "{name} {host}");
        }
    }
}
