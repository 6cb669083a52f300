//! A fresh key with the request for a certificate of it, and what an authority takes of such a
//! request: the public key, and nothing else.

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::pki::{Pin, PkiError};

/// A private key and a request for a certificate of it.
pub struct KeyRequest {
    key: KeyPair,
    der: Vec<u8>,
}

impl KeyRequest {
    /// A fresh P-256 key.
    pub fn create() -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(making)?;
        Self::of_key(key)
    }

    /// The request of a key that was made before, from [`key_pem`](Self::key_pem).
    pub fn of_pem(key_pem: &str) -> Result<Self, PkiError> {
        Self::of_key(KeyPair::from_pem(key_pem).map_err(making)?)
    }

    fn of_key(key: KeyPair) -> Result<Self, PkiError> {
        // The authority writes what it decides; a request that asked for more would be ignored.
        let request = CertificateParams::default().serialize_request(&key).map_err(making)?;
        let der = request.der().to_vec();
        Ok(Self { key, der })
    }

    /// The private key, PEM: secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The request (PKCS#10), DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

fn making(source: rcgen::Error) -> PkiError {
    PkiError::Making { subject: "a request".to_owned(), source }
}

/// A request that was found to be signed by its own key, which is of the one kind that we make.
pub struct CheckedRequest {
    pub(super) parsed: CertificateSigningRequestParams,
    pin: Pin,
}

impl CheckedRequest {
    /// Reads foreign bytes.
    pub fn read(der: &[u8]) -> Option<CheckedRequest> {
        let (rest, raw) = X509CertificationRequest::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let pin = Pin::of_key(raw.certification_request_info.subject_pki.raw);
        let der = CertificateSigningRequestDer::from(der);
        let parsed = CertificateSigningRequestParams::from_der(&der).ok()?;
        let is_p256 = *parsed.public_key.algorithm() == PKCS_ECDSA_P256_SHA256;
        is_p256.then_some(CheckedRequest { parsed, pin })
    }

    /// Names the key: the same in every request of it.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}
