//! A small private authority that names nodes: for `quorumd dev`, tests, and clusters without a
//! PKI.
//!
//! It issues and forgets: no list of what was issued, no revocation. Who is a member is decided by
//! the cluster's membership.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::pki::identity::{is_name, single_uri};
use crate::pki::{CheckedRequest, Identity, Pin, PkiError, files};

/// File name of the authority's certificate: public, given to every node.
const CERTIFICATE_FILE: &str = "ca.pem";
/// File name of the authority's key: whoever has it can be any node.
const KEY_FILE: &str = "ca.key";
/// How long an authority is valid: ten years.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How far before "now" a validity begins: hosts whose clocks are behind must accept it too.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// A private authority of one cluster: its root certificate and key.
pub struct Authority {
    cluster: String,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// From when until when a certificate is valid, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate: public.
    pub certificate_pem: String,
    /// The private key: secret.
    pub key_pem: String,
}

impl Validity {
    /// Valid for `length` from now, and from an hour ago for hosts whose clocks are behind.
    pub fn from_now(length: Duration) -> Validity {
        let now = SystemTime::now();
        Validity { not_before: now - CLOCK_SKEW, not_after: now + length }
    }

    /// As [`from_now`](Self::from_now) for a node's certificate, whose renewal is counted from its
    /// first moment: one of a short life does not begin earlier than that life before now.
    pub fn of_life(length: Duration) -> Validity {
        let now = SystemTime::now();
        Validity { not_before: now - CLOCK_SKEW.min(length), not_after: now + length }
    }
}

impl Authority {
    /// A new authority of `cluster`, valid for ten years, with a fresh P-256 key.
    pub fn create(cluster: &str) -> Result<Authority, PkiError> {
        let making = |source| PkiError::Making { subject: cluster.to_owned(), source };
        let params = authority_params(cluster, Validity::from_now(AUTHORITY_VALIDITY))?;
        let key = KeyPair::generate().map_err(making)?;
        let certificate = params.self_signed(&key).map_err(making)?;
        Ok(Authority {
            cluster: cluster.to_owned(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority that [`Authority::save`] wrote.
    pub fn load(directory: &Path) -> Result<Authority, PkiError> {
        let (certificate_path, key_path) =
            (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        let unusable = |path: &Path, expected| PkiError::Pem { path: path.to_owned(), expected };
        let certificate_pem = String::from_utf8(files::read(&certificate_path)?)
            .map_err(|_| unusable(&certificate_path, "certificate"))?;
        let key_pem = String::from_utf8(files::read(&key_path)?)
            .map_err(|_| unusable(&key_path, "private key"))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|_| unusable(&key_path, "private key"))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| unusable(&certificate_path, "certificate"))?;
        let cluster = single_uri(&certificate)
            .ok()
            .and_then(|uri| uri.strip_prefix("spiffe://").map(str::to_owned))
            .filter(|cluster| is_name(cluster))
            .ok_or_else(|| unusable(&certificate_path, "authority made by quorumd"))?;
        if !holds_key(&certificate, &key) {
            return Err(PkiError::KeyMismatch { path: certificate_path, key: key_path });
        }
        // Only the name, the key usages and the key of these parameters reach what is issued.
        let params = authority_params(&cluster, Validity::from_now(AUTHORITY_VALIDITY))?;
        Ok(Authority { cluster, certificate_pem, issuer: Issuer::new(params, key) })
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) into a directory that exists. Existing files are
    /// never overwritten: a lost authority cannot be made again.
    pub fn save(&self, directory: &Path) -> Result<(), PkiError> {
        let key_pem = self.issuer.key().serialize_pem();
        files::write_new(&directory.join(KEY_FILE), 0o600, &key_pem)?;
        files::write_new(&directory.join(CERTIFICATE_FILE), 0o644, &self.certificate_pem)
    }

    /// The cluster whose nodes it names.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The root certificate that every node trusts, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate with a fresh key for the node `name`.
    pub fn issue(&self, name: &str, validity: Validity) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()
            .map_err(|source| PkiError::Making { subject: name.to_owned(), source })?;
        let certificate_pem = self.certify(name, &key, validity)?;
        Ok(Issued { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// A certificate for the node `name` of the key in `request`; nothing else of it counts.
    pub fn sign(
        &self,
        request: &CheckedRequest,
        name: &str,
        validity: Validity,
    ) -> Result<String, PkiError> {
        self.certify(name, &request.parsed.public_key, validity)
    }

    /// The pin of the authority's key.
    pub fn pin(&self) -> Pin {
        Pin::of_key(&self.issuer.key().subject_public_key_info())
    }

    fn certify(
        &self,
        name: &str,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let identity = Identity::new(&self.cluster, name)?;
        let making = |source| PkiError::Making { subject: identity.to_string(), source };
        let mut params = params_with(&identity.to_string(), name, validity).map_err(making)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(making)?;
        Ok(certificate.pem())
    }
}

impl Issued {
    /// Writes the two files, the key with mode 0600. Existing files are never overwritten.
    pub fn save(&self, certificate: &Path, key: &Path) -> Result<(), PkiError> {
        files::write_new(key, 0o600, &self.key_pem)?;
        files::write_new(certificate, 0o644, &self.certificate_pem)
    }
}

fn authority_params(cluster: &str, validity: Validity) -> Result<CertificateParams, PkiError> {
    if !is_name(cluster) {
        return Err(PkiError::Name { name: cluster.to_owned() });
    }
    let common_name = format!("quorumd authority of {cluster}");
    let mut params = params_with(&format!("spiffe://{cluster}"), &common_name, validity)
        .map_err(|source| PkiError::Making { subject: cluster.to_owned(), source })?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn params_with(
    uri: &str,
    common_name: &str,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let epoch = date_time_ymd(1970, 1, 1);
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// Whether `key` is the key of `certificate`.
fn holds_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
}
