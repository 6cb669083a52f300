//! The first frame of each connection between daemons, and its answer.
//!
//! Who may connect is decided by `replica/` (`Roster::judge`); this file only says what is said.

use crate::base::{Boot, ClusterId, Index, NodeId, Term};
use crate::raft::Membership;

/// The oldest protocol version that this program speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;
/// The newest protocol version that this program speaks.
pub const PROTOCOL_VERSION_MAX: u32 = 1;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkClass {
    /// Asks for a cluster identity only, and is closed after the answer: the first boot.
    Bootstrap,
    /// States that travel to members that the log cannot help: large, and in no hurry.
    Bulk,
    /// Consensus messages and forwarded requests.
    Consensus,
}

/// Says who dials. Everything in it is checked against the certificate and the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version that the dialer speaks.
    pub version_min: u32,
    /// Newest protocol version that the dialer speaks.
    pub version_max: u32,
    /// What the connection is for.
    pub class: LinkClass,
    /// The name of the cluster in the dialer's configuration.
    pub cluster_name: String,
    /// The dialer's name; its certificate must carry it.
    pub name: String,
    /// Whom the dialer believes it has reached.
    pub to_name: String,
    /// Which node it means by that name, when it means one: while a member is replaced, two bear
    /// the name.
    pub to_node: Option<NodeId>,
    /// What the dialer is.
    pub claim: Claim,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its incarnation.
    pub node: NodeId,
    /// How often its data directory was started.
    pub boot: Boot,
    /// Whether it belongs to a cluster already.
    pub standing: Standing,
}

/// Whether a node belongs to a cluster already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A fresh data directory.
    Blank {
        /// A hash over the sorted seed members of its configuration: all blank nodes must agree.
        seed_digest: u64,
    },
    /// A member, with what it has promised so far: a node whose disk was rolled back claims less
    /// than its peers remember.
    Member {
        /// The cluster's identity.
        cluster: ClusterId,
        /// Its durable term.
        term: Term,
        /// The term of its last durable entry.
        last_term: Term,
        /// The index of its last durable entry.
        last_index: Index,
        /// The index of the newest configuration that it knows to be committed. Whoever has a newer
        /// one knows better who is a member.
        membership: Index,
        /// Where that configuration says that it is reached; empty when it is not in it. One that
        /// is behind and does not know the dialer yet answers there.
        address: String,
    },
}

/// The identity of a cluster, made once and the same on all, with the members that a blank node
/// begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The identity.
    pub cluster: ClusterId,
    /// The configuration that this node has before the first entry of its log.
    pub membership: Membership,
    /// The index of that configuration in the log of whoever told it: zero at the first boot. A
    /// node that was added later meets older configurations on its way there, which do not hold it
    /// yet: that is no removal.
    pub index: Index,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloAnswer {
    /// Go on.
    Accepted {
        /// The protocol version to speak.
        version: u32,
        /// Who answers.
        claim: Claim,
    },
    /// By a blank node, to a blank dialer: not a member yet either. To a member that introduces
    /// itself: this is the incarnation to add.
    Blank {
        /// Who answers.
        claim: Claim,
    },
    /// To a blank dialer, by a member that knows the dialer as a member: take this identity.
    Genesis(Genesis),
    /// No. The connection is closed.
    Refused(HelloRefusal),
}

/// Why a connection is refused: a closed set, so that one can search from a log line to a code
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// The certificate names another cluster.
    #[error("the certificate is for another cluster")]
    CertificateCluster,
    /// The certificate names another node than the hello.
    #[error("the certificate is for another node than the one that speaks")]
    CertificateName,
    /// The configured cluster names differ.
    #[error("the configured cluster names differ")]
    ClusterName,
    /// The data directory belongs to another cluster of the same name.
    #[error(
        "its data directory belongs to another cluster: give it the data directory of this one, or \
         an empty one and replace the member"
    )]
    ClusterIdentity,
    /// The name is a member's, but the data directory is not: it was wiped or exchanged.
    #[error(
        "a member of this name exists with another data directory: this one was wiped or \
         exchanged, and its votes and acknowledgements are gone; restore the directory, or \
         replace the member with `quorumctl members replace NAME`"
    )]
    Incarnation,
    /// It was a member and is none any more, as far as this node knows.
    #[error(
        "it was removed from the cluster: stop it, or add it again with `quorumctl members add \
         NAME=HOST:PORT`"
    )]
    Removed,
    /// The dialer is blank and the seed members of the two configurations differ.
    #[error("the members listed in the two configurations differ")]
    Seeds,
    /// The dialer wanted to reach another node.
    #[error("the address leads to another node than the one it is configured for")]
    ToName,
    /// No member has this name.
    #[error(
        "no member of the cluster has this name: add it with `quorumctl members add \
         NAME=HOST:PORT`"
    )]
    Unknown,
    /// No common protocol version.
    #[error("the protocol versions do not overlap")]
    Version,
    /// It claims less than it has demonstrably promised before: its disk was rolled back.
    #[error(
        "its data directory is older than what it promised before: it was restored from a copy; \
         restore the newest directory, or replace the member"
    )]
    RolledBack,
    /// Blank here, member there: it must wait until this node has its identity.
    #[error("this node has no cluster identity yet")]
    NotReady,
}
