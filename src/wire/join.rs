//! What a host without a certificate, or with one that ends soon, asks a member, and the answers.
//!
//! Spoken on the peer port under its own application protocol, one request and one answer on each
//! connection. Who gets a certificate is decided by `enroll/`.

use bytes::Bytes;

/// The request: the first frame of a connection, at most
/// [`JOIN_REQUEST_BYTES_MAX`](crate::base::limits::JOIN_REQUEST_BYTES_MAX) long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinRequest {
    /// A first certificate, for a token.
    Join(JoinOrder),
    /// The next certificate of the node that the connection's own certificate names.
    Renew {
        /// A request for a certificate (PKCS#10, DER); only its key counts.
        request: Bytes,
    },
}

/// A host wants to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinOrder {
    /// The id of the token.
    pub token: String,
    /// The name that it wants.
    pub name: String,
    /// Where the members will reach it: "host:port".
    pub address: String,
    /// Whether it wants to vote, once it has caught up.
    pub voter: bool,
    /// A request for a certificate (PKCS#10, DER); only its key counts.
    pub request: Bytes,
    /// A signature with the token's secret over [`JoinOrder::proven`].
    pub proof: Bytes,
}

impl JoinOrder {
    /// What the proof covers: everything else in the order, and a value that only the two ends of
    /// this connection can derive (RFC 8446, section 7.5). So it is of no use to anybody else, nor
    /// a second time.
    pub fn proven(&self, exporter: &[u8; 32]) -> Vec<u8> {
        let mut message = b"quorumd-join/1\0".to_vec();
        message.extend_from_slice(exporter);
        message.push(u8::from(self.voter));
        for part in
            [self.token.as_bytes(), self.name.as_bytes(), self.address.as_bytes(), &self.request]
        {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            message.extend_from_slice(&length.to_le_bytes());
            message.extend_from_slice(part);
        }
        message
    }
}

/// The answer, at most [`JOIN_ANSWER_BYTES_MAX`](crate::base::limits::JOIN_ANSWER_BYTES_MAX) long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// This member does not have the authority's key; those at these addresses may.
    Ask {
        /// Each "host:port"; at least one.
        addresses: Vec<String>,
    },
    /// Here it is.
    Issued(Admission),
    /// No.
    Refused(JoinRefusal),
}

/// What a host that was let in needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The certificate, PEM.
    pub certificate: String,
    /// All roots that members trust, PEM.
    pub roots: String,
    /// The voters, by name and address.
    pub voters: Vec<(String, String)>,
    /// Whether the host will become a voter.
    pub voter: bool,
}

/// Why there is no certificate: a closed set of sentences for the person at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// Too many ask at once.
    #[error("this member is busy with others that join; ask again in a moment")]
    Busy,
    /// The token's time is over.
    #[error("the join token has expired; make a new one with `quorumctl token create`")]
    Expired,
    /// The name or the address cannot be one, or the request for a certificate is none.
    #[error("the request is malformed; compare the versions of both programs")]
    Malformed,
    /// A member has the name.
    #[error(
        "a member of this name exists; to replace it, make the token with \
         `quorumctl token create --replace NAME`"
    )]
    NameTaken,
    /// Another host has joined by this name and is not a member yet.
    #[error(
        "another host is joining under this name; use another name, or, if that host is lost, make \
         the token with `quorumctl token create --replace NAME`"
    )]
    NameWanted,
    /// No member is known that has the authority's key.
    #[error(
        "no member that is known here holds the key of the authority; docs/operations.md says how \
         one is given it"
    )]
    NoAuthority,
    /// The certificate that was shown is of no member.
    #[error(
        "the node is no member of the cluster (any more): let it join again, with a token and an \
         empty data directory"
    )]
    NotMember,
    /// No leader can be reached from here.
    #[error("the cluster has no leader that can be reached; ask again in a moment")]
    NotReady,
    /// The proof does not fit the token.
    #[error("the secret of the join token is not the right one")]
    Proof,
    /// The token was revoked.
    #[error("the join token was revoked; make a new one with `quorumctl token create`")]
    Revoked,
    /// The token does not allow a vote.
    #[error(
        "the join token is for a learner; join without --voter, or make a token with \
         `quorumctl token create --role voter`"
    )]
    Role,
    /// The token is for another name.
    #[error("the join token was made for another name; use that name, or make another token")]
    TokenName,
    /// There is no such token.
    #[error(
        "the cluster does not know this join token: it was used or expired long ago, or is for \
         another cluster of the same authority; make a new one with `quorumctl token create`"
    )]
    Unknown,
    /// The token was used by another host.
    #[error("the join token has been used; make a new one with `quorumctl token create`")]
    Used,
}

impl JoinRefusal {
    /// Whether the same request may be taken in a moment.
    pub fn is_transient(self) -> bool {
        matches!(self, JoinRefusal::Busy | JoinRefusal::NotReady)
    }
}
