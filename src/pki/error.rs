//! What can be wrong with certificates: mistakes of the operator here, and faults of a peer apart.
//!
//! Each message of [`PkiError`] says what is wrong, in which file, and what to do next.

use std::io;
use std::path::PathBuf;

use crate::pki::Identity;

/// Why this node's own certificates cannot be used, or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file exists where a new one was to be made.
    #[error(
        "{} exists already and is not overwritten; move it away if it is not needed",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate in {} has expired; issue a new one for this node (quorumd does not run \
         with an expired certificate, because every peer would refuse it)",
        path.display()
    )]
    Expired {
        /// The certificate file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}; check the path and the permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate does not name a node.
    #[error(
        "the certificate in {} does not name a node: {fault}; issue one whose only URI name is \
         spiffe://<cluster>/node/<name>",
        path.display()
    )]
    Identity {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong with its name.
        fault: IdentityFault,
    },
    /// The certificate is not signed by a trusted root.
    #[error(
        "the certificate in {} is not signed by the authority in {}; use the authority that \
         issued it, or have it issued again",
        path.display(),
        authority.display()
    )]
    Issuer {
        /// The certificate file.
        path: PathBuf,
        /// The file of trusted roots.
        authority: PathBuf,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the key in {} does not belong to the certificate in {}; give the pair that was issued \
         together",
        key.display(),
        path.display()
    )]
    KeyMismatch {
        /// The certificate file.
        path: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// Making a key or a certificate failed.
    #[error("cannot make a certificate for {subject}: {source}")]
    Making {
        /// For whom.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A cluster or node name that no certificate can carry.
    #[error(
        "{name:?} cannot be the name of a cluster or node; use 1 to 253 letters, digits, dots, \
         hyphens and underscores"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The certificate's time has not begun.
    #[error(
        "the certificate in {} is not valid yet; check this host's clock, or issue a certificate \
         whose time has begun",
        path.display()
    )]
    NotYetValid {
        /// The certificate file.
        path: PathBuf,
    },
    /// The certificate is of another node than the one that is in force.
    #[error(
        "the new certificate is for {other}, and this node runs as {own}: give it one that names \
         it; a node's name never changes"
    )]
    OtherNode {
        /// As whom the node runs.
        own: Identity,
        /// Whom the certificate names.
        other: Identity,
    },
    /// The file is not what it should be.
    #[error("{} holds no usable {expected}; give a PEM file that does", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// The certificate may not be used for both directions.
    #[error(
        "the certificate in {} cannot be used on the peer port ({source}); issue one for server \
         and client authentication",
        path.display()
    )]
    Usage {
        /// The certificate file.
        path: PathBuf,
        /// What the verification said.
        source: rustls::Error,
    },
}

/// Why a certificate does not name a node: a closed set without text of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFault {
    /// The bytes are not one X.509 certificate.
    #[error("it is not a readable certificate")]
    Malformed,
    /// More than one URI name.
    #[error("it carries more than one URI name")]
    ManyNames,
    /// The URI is not `spiffe://<cluster>/node/<name>`.
    #[error("its URI name is not of the form spiffe://<cluster>/node/<name>")]
    NameForm,
    /// No certificate was presented.
    #[error("there is no certificate")]
    NoCertificate,
    /// No URI name.
    #[error("it carries no URI name")]
    NoName,
}

/// Why a text is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// The checksum at its end is another.
    #[error("the join token is incomplete or mistyped: its checksum is wrong; copy it again")]
    Checksum,
    /// Its parts are not those of a token.
    #[error("the join token cannot be read: make a new one with `quorumctl token create`")]
    Form,
    /// It does not begin as one.
    #[error(
        "this is no join token: one begins with `qd1.` and is made by `quorumctl token create`"
    )]
    Prefix,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}
