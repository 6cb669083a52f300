//! Why a link was refused or lost: closed sets without text of the peer, so that one can search
//! from a log line to a code line.
//!
//! Each sentence is for the operator who sees only the log. What is logged when, is in
//! `refusals.rs`.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::pki::IdentityFault;
use crate::wire::{HelloRefusal, JoinRefusal, WireError};

/// Why there is no link with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer ended the TLS handshake.
    #[error(
        "the peer ended the handshake with the alert {0:?}: it does not accept this node's \
        certificate or settings; its log says why"
    )]
    Alert(AlertDescription),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// This node refuses the peer.
    #[error("{0}")]
    Fault(PeerFault),
    /// The peer refuses this node.
    #[error("the peer refuses this node: {0}")]
    Refused(HelloRefusal),
    /// Nothing came in time.
    #[error("the peer did not answer in time; check the address, the network and the peer's load")]
    TimedOut,
    /// The system could not connect.
    #[error("the peer cannot be reached ({0}); check that it runs and that its address is right")]
    Unreachable(io::ErrorKind),
}

/// What a peer did that made this node refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// No agreement on the application protocol.
    #[error(
        "it does not speak quorumd/1: another program uses the peer port; find it by its address"
    )]
    Alpn,
    /// The time of its certificate is over.
    #[error("its certificate has expired: issue a new one for that node")]
    CertificateExpired,
    /// Its certificate is unusable for another reason than those listed here.
    #[error("its certificate cannot be used for both directions of the peer port: issue a new one")]
    CertificateInvalid,
    /// Its certificate is of another authority.
    #[error("its certificate is not signed by a trusted authority: issue one of this cluster's")]
    CertificateIssuer,
    /// It presented no certificate.
    #[error(
        "it presented no certificate: another program uses the peer port; find it by its address"
    )]
    CertificateMissing,
    /// The time of its certificate has not begun.
    #[error("its certificate is not valid yet: compare the clocks of both hosts")]
    CertificateNotYetValid,
    /// A frame cannot be read.
    #[error("it sent an unreadable frame ({0}): compare the versions of both nodes")]
    Frame(WireError),
    /// Its hello, or its answer to ours, cannot be read.
    #[error("its hello is unreadable ({0}): compare the versions of both nodes")]
    Hello(WireError),
    /// Its certificate does not name a node.
    #[error("its certificate does not name a node: {0}; issue one that does")]
    Identity(IdentityFault),
    /// No common version or cipher suite of TLS.
    #[error("it offers no TLS 1.3: another program uses the peer port; find it by its address")]
    Incompatible,
    /// It asked for a certificate and gets none.
    #[error("it asked for a certificate and is refused: {0}")]
    NotEnrolled(JoinRefusal),
    /// What it sent is not TLS.
    #[error("it does not speak TLS: another program uses the peer port; find it by its address")]
    NotTls,
    /// A consensus message names another sender than the node of the link.
    #[error("it sent a message in another node's name: check that host, its program is not ours")]
    SenderForged,
    /// Any other failure of the TLS protocol.
    #[error("its TLS handshake failed: check that host, its program is not ours")]
    Tls,
    /// Too many connections of one address have not finished their handshake.
    #[error("too many unfinished connections from this address: find out what connects from there")]
    TooManyConnections,
    /// It sent something on a connection on which it only receives.
    #[error(
        "it sent data on a connection on which it only receives: compare the versions of both nodes"
    )]
    UnexpectedData,
    /// Its hello is well-formed and refused.
    #[error("it is refused: {0}")]
    Unwelcome(HelloRefusal),
}

impl PeerError {
    /// Whether it may be the ordinary life of a network: a peer that is not there, or not yet.
    pub(super) fn is_ordinary(self) -> bool {
        matches!(
            self,
            PeerError::Closed
                | PeerError::Fault(PeerFault::Unwelcome(HelloRefusal::NotReady))
                | PeerError::Refused(HelloRefusal::NotReady)
                | PeerError::TimedOut
                | PeerError::Unreachable(_)
        )
    }
}

impl From<io::Error> for PeerError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match (tls, error.kind()) {
            (Some(tls), _) => PeerError::from(tls),
            (
                None,
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof,
            ) => PeerError::Closed,
            (None, io::ErrorKind::TimedOut) => PeerError::TimedOut,
            (None, kind) => PeerError::Unreachable(kind),
        }
    }
}

impl From<PeerFault> for PeerError {
    fn from(fault: PeerFault) -> Self {
        PeerError::Fault(fault)
    }
}

impl From<&Error> for PeerError {
    fn from(error: &Error) -> Self {
        PeerError::Fault(match error {
            Error::AlertReceived(alert) => return PeerError::Alert(*alert),
            Error::InvalidCertificate(reason) => certificate_fault(reason),
            Error::InvalidMessage(_) => PeerFault::NotTls,
            Error::NoApplicationProtocol => PeerFault::Alpn,
            Error::NoCertificatesPresented => PeerFault::CertificateMissing,
            Error::PeerIncompatible(
                PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            ) => PeerFault::CertificateInvalid,
            Error::PeerIncompatible(_) => PeerFault::Incompatible,
            _ => PeerFault::Tls,
        })
    }
}

fn certificate_fault(reason: &CertificateError) -> PeerFault {
    match reason {
        CertificateError::BadSignature | CertificateError::UnknownIssuer => {
            PeerFault::CertificateIssuer
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            PeerFault::CertificateExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            PeerFault::CertificateNotYetValid
        }
        _ => PeerFault::CertificateInvalid,
    }
}
