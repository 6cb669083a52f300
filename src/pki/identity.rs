//! Which node a certificate names: `spiffe://<cluster>/node/<name>`, read strictly.
//!
//! Whether the certificate can be trusted is decided by `tls.rs`; whether the name is the expected
//! one, by `peer/`.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::base::limits;
use crate::pki::{IdentityFault, PkiError};

/// A node as its certificate names it. Two identities are equal when all bytes are: there is no
/// case folding, escape or wildcard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    cluster: String,
    name: String,
}

impl Identity {
    /// The node `name` of `cluster`.
    ///
    /// Refuses a name that is not 1 to 253 letters, digits, dots, hyphens and underscores: such a
    /// name needs no escaping in a URI, so equal names have equal bytes.
    pub fn new(cluster: &str, name: &str) -> Result<Identity, PkiError> {
        for part in [cluster, name] {
            if !is_name(part) {
                return Err(PkiError::Name { name: part.to_owned() });
            }
        }
        Ok(Identity { cluster: cluster.to_owned(), name: name.to_owned() })
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node's name within the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity that a URI names.
    fn from_uri(uri: &str) -> Result<Identity, IdentityFault> {
        let rest = uri.strip_prefix("spiffe://").ok_or(IdentityFault::NameForm)?;
        let (cluster, path) = rest.split_once('/').ok_or(IdentityFault::NameForm)?;
        let name = path.strip_prefix("node/").ok_or(IdentityFault::NameForm)?;
        Identity::new(cluster, name).map_err(|_| IdentityFault::NameForm)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.cluster, self.name)
    }
}

/// The identity in a peer's certificate chain, of which the first certificate is the peer's own.
///
/// The chain must have been verified before: this reads the name and trusts nothing. Exactly one
/// URI name is accepted (as SPIFFE demands of an X.509 identity), so that two readers cannot pick
/// two different ones.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<Identity, IdentityFault> {
    let first = certificates.first().ok_or(IdentityFault::NoCertificate)?;
    Identity::from_uri(&single_uri(first)?)
}

/// The only URI name of a certificate.
pub(super) fn single_uri(certificate: &CertificateDer<'_>) -> Result<String, IdentityFault> {
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| IdentityFault::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityFault::Malformed);
    }
    let names = parsed.subject_alternative_name().map_err(|_| IdentityFault::Malformed)?;
    let names = names.ok_or(IdentityFault::NoName)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(IdentityFault::NoName)?;
    if uris.next().is_some() {
        return Err(IdentityFault::ManyNames);
    }
    Ok(uri.to_owned())
}

/// Whether `text` can be a name.
pub(super) fn is_name(text: &str) -> bool {
    (1..=limits::NODE_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::Identity;
    use crate::pki::IdentityFault;

    #[test]
    fn only_the_exact_form_names_a_node() {
        let identity = Identity::from_uri("spiffe://blue/node/alpha-1").unwrap();
        assert_eq!((identity.cluster(), identity.name()), ("blue", "alpha-1"));
        assert_eq!(identity.to_string(), "spiffe://blue/node/alpha-1");
        let long = format!("spiffe://blue/node/{}", "a".repeat(254));
        for uri in [
            "",
            "spiffe://",
            "spiffe://blue",
            "spiffe://blue/node/",
            "spiffe:///node/alpha",
            "spiffe://blue/alpha",
            "spiffe://blue/node/alpha/beta",
            "spiffe://blue/node/al%70ha",
            "spiffe://blue/node/*",
            "spiffe://blue/node/alpha?x",
            "spiffe://blue/Node/alpha",
            "SPIFFE://blue/node/alpha",
            "https://blue/node/alpha",
            "spiffe://bl\u{fc}e/node/alpha",
            long.as_str(),
        ] {
            assert_eq!(Identity::from_uri(uri), Err(IdentityFault::NameForm), "{uri:?}");
        }
    }
}
