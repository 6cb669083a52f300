//! The fingerprint by which a certificate is known before it is seen: of its public key, so that it
//! stays the same when an authority's certificate is made anew for the same key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// SHA-256 of a `SubjectPublicKeyInfo`, DER (RFC 7469, section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate; nothing when it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Pin> {
        let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
        rest.is_empty().then(|| Pin::of_key(parsed.public_key().raw))
    }

    /// The pin of a public key as DER.
    pub(super) fn of_key(spki: &[u8]) -> Pin {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, spki).as_ref());
        Pin(bytes)
    }

    /// The pins of all certificates in a PEM text, in its order; those that cannot be read are left
    /// out.
    pub fn of_pem(pem: &str) -> Vec<Pin> {
        let found = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        found.filter_map(|certificate| Pin::of(&certificate)).collect()
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Pin> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Pin(bytes.try_into().ok()?))
    }
}

/// 43 characters of base64 for URLs (RFC 4648, section 5), without padding.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}
