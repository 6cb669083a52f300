//! Whether this node's own certificate, key and trusted roots can work, decided before they are
//! used.
//!
//! The TLS settings that are made of them are `tls.rs`'s.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::pki::identity::peer_identity;
use crate::pki::tls::ChainVerifier;
use crate::pki::{Expiry, Identity, Pin, PkiError, files};

/// A node's own certificate chain and key, and the roots that it trusts.
///
/// - The certificate was valid, signed by one of the roots, usable in both directions, and belonged
///   to the key, at the moment when it was judged.
/// - It names exactly one node.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    pub(super) certified: Arc<CertifiedKey>,
    /// The trusted roots as certificates, for those who do not have them.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) roots: Arc<RootCertStore>,
}

/// Where the three parts come from, for error messages.
struct Sources {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

impl Credentials {
    /// Reads PEM files: the chain (own certificate first), its key, and one or more trusted roots.
    ///
    /// Refuses with a sentence what could not work. A key that others can read is used, with a
    /// warning.
    pub fn load(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, PkiError> {
        let sources = Sources {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authority: authority.to_owned(),
        };
        let (certificate_pem, key_pem, authority_pem) =
            (files::read(certificate)?, files::read(key)?, files::read(authority)?);
        files::warn_if_open(key);
        judge(&sources, [&certificate_pem, &key_pem, &authority_pem], SystemTime::now())
    }

    /// The same from memory, judged as of `now`: for certificates that were never in a file.
    pub fn from_pem(
        certificate: &str,
        key: &str,
        authority: &str,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let sources = Sources {
            certificate: PathBuf::from("(certificate in memory)"),
            key: PathBuf::from("(key in memory)"),
            authority: PathBuf::from("(authority in memory)"),
        };
        judge(&sources, [certificate.as_bytes(), key.as_bytes(), authority.as_bytes()], now)
    }

    /// The node that the certificate names.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate and the trusted roots expire: the own certificate first.
    pub fn expiries(&self) -> Vec<Expiry> {
        Expiry::of(self)
    }

    /// Whether they hold the same certificates as `other`, and so the same key. What was only
    /// written again need not take the place of itself.
    pub fn same_as(&self, other: &Credentials) -> bool {
        self.certified.cert == other.certified.cert && self.authorities == other.authorities
    }

    /// The last moment at which the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The first moment at which the certificate is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The pins of the trusted roots.
    pub fn trusted(&self) -> BTreeSet<Pin> {
        self.authorities.iter().filter_map(Pin::of).collect()
    }

    /// The pin of the root that the certificate chains to, when it can be told.
    pub fn issuer(&self) -> Option<Pin> {
        let now = self.not_before + Duration::from_secs(1);
        let signs = |root: &&CertificateDer<'static>| {
            let mut store = RootCertStore::empty();
            store.add((*root).clone()).is_ok() && self.chains_to(store, now)
        };
        self.authorities.iter().find(signs).and_then(Pin::of)
    }

    fn chains_to(&self, roots: RootCertStore, at: SystemTime) -> bool {
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let chain = &self.certified.cert;
        ChainVerifier::new(Arc::new(roots))
            .is_ok_and(|verifier| verifier.verify_both_ways(&chain[0], &chain[1..], at).is_ok())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Judges the three parts, each as PEM: certificate chain, key, roots.
fn judge(
    sources: &Sources,
    [certificate, key, authority]: [&[u8]; 3],
    now: SystemTime,
) -> Result<Credentials, PkiError> {
    let chain = certificates(certificate, &sources.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PkiError::Pem {
        path: sources.key.clone(),
        expected: "private key (unencrypted PKCS#8, SEC1 or PKCS#1)",
    })?;
    let authorities = certificates(authority, &sources.authority)?;
    let roots = Arc::new(roots(&authorities, &sources.authority)?);
    let identity = peer_identity(&chain)
        .map_err(|fault| PkiError::Identity { path: sources.certificate.clone(), fault })?;
    check_chain(sources, &chain, &roots, now)?;
    let (not_before, not_after) = validity(&chain[0]).ok_or_else(|| PkiError::Pem {
        path: sources.certificate.clone(),
        expected: "certificate",
    })?;
    let certified =
        CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => PkiError::KeyMismatch {
                path: sources.certificate.clone(),
                key: sources.key.clone(),
            },
            _ => PkiError::Pem {
                path: sources.key.clone(),
                expected: "private key of a kind that TLS 1.3 can use (ECDSA, Ed25519 or RSA)",
            },
        })?;
    let certified = Arc::new(certified);
    Ok(Credentials { identity, not_before, not_after, certified, authorities, roots })
}

/// All certificates of a PEM text, at least one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let unusable = || PkiError::Pem { path: path.to_owned(), expected: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| unusable())?;
    if found.is_empty() { Err(unusable()) } else { Ok(found) }
}

fn roots(certificates: &[CertificateDer<'static>], path: &Path) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(|_| PkiError::Pem {
            path: path.to_owned(),
            expected: "certificate of an authority",
        })?;
    }
    Ok(store)
}

/// Verifies the own chain as every peer will, so that a mistake is found here, with a file name.
fn check_chain(
    sources: &Sources,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    now: SystemTime,
) -> Result<(), PkiError> {
    let verifier = ChainVerifier::new(Arc::clone(roots))
        .map_err(|source| PkiError::Usage { path: sources.authority.clone(), source })?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let path = sources.certificate.clone();
    verifier.verify_both_ways(&chain[0], &chain[1..], now).map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::Expired)
        | Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
            PkiError::Expired { path }
        }
        Error::InvalidCertificate(CertificateError::NotValidYet)
        | Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => {
            PkiError::NotYetValid { path }
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
        | Error::InvalidCertificate(CertificateError::BadSignature) => {
            PkiError::Issuer { path, authority: sources.authority.clone() }
        }
        source => PkiError::Usage { path, source },
    })
}

/// The first and the last moment of a certificate's validity; nothing when it is unreadable or
/// before 1970.
fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let moment =
        |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = parsed.validity();
    Some((moment(validity.not_before.timestamp())?, moment(validity.not_after.timestamp())?))
}
