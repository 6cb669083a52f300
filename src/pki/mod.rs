//! Certificates: who a node is on the network, and the TLS settings that follow from it.
//!
//! A node's certificate carries one URI name, `spiffe://<cluster>/node/<name>`. TLS proves that the
//! peer holds a certificate of the cluster's authority; it does *not* prove which node speaks,
//! because any node's certificate is signed by the same authority. So two checks are kept apart:
//!
//! - the **chain** (signatures, dates, purpose) is checked here, by rustls and webpki, on both
//!   sides;
//! - the **identity** is read from the certificate by [`peer_identity`] and compared, byte for
//!   byte, by `peer/`: on both sides of a connection and against the sender of every frame.
//!
//! What follows from each part:
//!
//! - [`Identity`]: the name in a certificate; wildcards, escapes and several names do not exist.
//! - [`Credentials`]: a node's own chain, key and trusted roots, refused with a sentence when they
//!   could not work, so that a mistake is found at the start and not at the first dial.
//! - [`TlsConfigs`]: TLS 1.3 only, both sides authenticated, nothing resumed.
//! - [`LiveTls`]: those in force in a running node, replaced as a whole or not at all.
//! - [`Expiry`]: when certificates end, and from when on that is worth a word.
//! - [`Authority`]: a small private authority, which signs what `enroll/` has decided to sign.
//! - [`JoinToken`], [`Pin`], [`KeyRequest`]: what a host without a certificate asks for one with.
//!
//! There are no revocation lists: a node is shut out by removing it from the membership, and its
//! certificate is short-lived (revocation lists were the cause of several denials of service in
//! webpki: RUSTSEC-2026-0049, -0104). Name constraints of an authority are not relied upon
//! (RUSTSEC-2026-0098): we compare the name ourselves.

mod authority;
mod credentials;
mod error;
mod expiry;
mod files;
#[cfg(test)]
mod hostile_test;
mod identity;
mod join_token;
mod pin;
mod pinned;
mod reload;
#[cfg(test)]
mod reload_test;
mod request;
mod tls;

#[cfg(test)]
mod pki_test;

pub use authority::{Authority, Issued, Validity};
pub use credentials::Credentials;
pub use error::{IdentityFault, PkiError, TokenFault};
pub use expiry::{EXPIRY_WARNING, Expiry, ExpiryKind};
pub use files::replace_file;
pub use identity::{Identity, peer_identity};
pub use join_token::{JoinToken, is_id, proof_holds};
pub use pin::Pin;
pub use pinned::pinned_client;
pub use reload::{LiveTls, TlsFollower};
pub use request::{CheckedRequest, KeyRequest};
pub use tls::{ALPN, ALPN_JOIN, TlsConfigs};
