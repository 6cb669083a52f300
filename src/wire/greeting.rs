//! The fields of a hello and of its answer, as prost messages.
//!
//! Unknown fields are skipped here, and only here: a hello is how two programs of different age
//! find the version that both speak. What the answer must be is decided by `replica/`.

use bytes::Bytes;

use super::codec::{bound_count, bounded, codes, lenient, required};
use super::entry::GenesisProto;
use crate::base::{Boot, ClusterId, Index, NodeId, Term, limits};
use crate::wire::{Claim, Hello, HelloAnswer, HelloRefusal, LinkClass, Standing, WireError};

codes!(class_code, class_of, LinkClass, "link", { Bootstrap = 1, Bulk = 3, Consensus = 2 });
codes!(refusal_code, refusal_of, HelloRefusal, "refusal of a hello", {
    CertificateCluster = 1,
    CertificateName = 2,
    ClusterName = 3,
    ClusterIdentity = 4,
    Incarnation = 5,
    Seeds = 6,
    ToName = 7,
    Unknown = 8,
    Version = 9,
    RolledBack = 10,
    NotReady = 11,
    Removed = 12,
});

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HelloProto {
    #[prost(uint32, tag = "1")]
    version_min: u32,
    #[prost(uint32, tag = "2")]
    version_max: u32,
    #[prost(uint32, tag = "3")]
    class: u32,
    #[prost(string, tag = "4")]
    cluster_name: String,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(string, tag = "6")]
    to_name: String,
    #[prost(message, optional, tag = "7")]
    claim: Option<ClaimProto>,
    /// Zero when any node of the name is meant.
    #[prost(fixed64, tag = "8")]
    to_node: u64,
}

impl From<&Hello> for HelloProto {
    fn from(hello: &Hello) -> Self {
        Self {
            version_min: hello.version_min,
            version_max: hello.version_max,
            class: class_code(hello.class),
            cluster_name: hello.cluster_name.clone(),
            name: hello.name.clone(),
            to_name: hello.to_name.clone(),
            claim: Some((&hello.claim).into()),
            to_node: hello.to_node.map_or(0, |node| node.0),
        }
    }
}

impl HelloProto {
    pub(super) fn read(content: Bytes) -> Result<Hello, WireError> {
        let proto: Self = lenient(content)?;
        if proto.version_min == 0 || proto.version_min > proto.version_max {
            return Err(WireError::Malformed("an empty range of protocol versions"));
        }
        Ok(Hello {
            version_min: proto.version_min,
            version_max: proto.version_max,
            class: class_of(proto.class)?,
            cluster_name: bounded(proto.cluster_name, limits::NODE_NAME_BYTES_MAX)?,
            name: bounded(proto.name, limits::NODE_NAME_BYTES_MAX)?,
            to_name: bounded(proto.to_name, limits::NODE_NAME_BYTES_MAX)?,
            claim: required(proto.claim)?.try_into()?,
            to_node: (proto.to_node != 0).then_some(NodeId(proto.to_node)),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClaimProto {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    boot: u64,
    #[prost(oneof = "StandingProto", tags = "3, 4")]
    standing: Option<StandingProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum StandingProto {
    #[prost(message, tag = "3")]
    Blank(BlankProto),
    #[prost(message, tag = "4")]
    Member(StandingMemberProto),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct BlankProto {
    #[prost(fixed64, tag = "1")]
    seed_digest: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StandingMemberProto {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    last_term: u64,
    #[prost(uint64, tag = "4")]
    last_index: u64,
    #[prost(uint64, tag = "5")]
    membership: u64,
    #[prost(string, tag = "6")]
    address: String,
}

impl From<&Claim> for ClaimProto {
    fn from(claim: &Claim) -> Self {
        let standing = match &claim.standing {
            &Standing::Blank { seed_digest } => StandingProto::Blank(BlankProto { seed_digest }),
            Standing::Member { cluster, term, last_term, last_index, membership, address } => {
                StandingProto::Member(StandingMemberProto {
                    cluster: cluster.0,
                    term: term.0,
                    last_term: last_term.0,
                    last_index: last_index.0,
                    membership: membership.0,
                    address: address.clone(),
                })
            }
        };
        Self { node: claim.node.0, boot: claim.boot.0, standing: Some(standing) }
    }
}

impl TryFrom<ClaimProto> for Claim {
    type Error = WireError;

    fn try_from(proto: ClaimProto) -> Result<Self, WireError> {
        let standing = match required(proto.standing)? {
            StandingProto::Blank(BlankProto { seed_digest }) => Standing::Blank { seed_digest },
            StandingProto::Member(member) => {
                if member.last_term > member.term {
                    return Err(WireError::Malformed("a last entry above the term"));
                }
                Standing::Member {
                    cluster: ClusterId(member.cluster),
                    term: Term(member.term),
                    last_term: Term(member.last_term),
                    last_index: Index(member.last_index),
                    membership: Index(member.membership),
                    address: match member.address {
                        none if none.is_empty() => none,
                        some => bounded(some, limits::ADDRESS_BYTES_MAX)?,
                    },
                }
            }
        };
        Ok(Self { node: NodeId(proto.node), boot: Boot(proto.boot), standing })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HelloAnswerProto {
    #[prost(oneof = "AnswerProto", tags = "1, 2, 3, 4")]
    answer: Option<AnswerProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerProto {
    #[prost(message, tag = "1")]
    Accepted(AcceptedProto),
    #[prost(message, tag = "2")]
    Blank(ClaimProto),
    #[prost(message, tag = "3")]
    Genesis(GenesisProto),
    #[prost(uint32, tag = "4")]
    Refused(u32),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AcceptedProto {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    claim: Option<ClaimProto>,
}

impl From<&HelloAnswer> for HelloAnswerProto {
    fn from(answer: &HelloAnswer) -> Self {
        let answer = match answer {
            HelloAnswer::Accepted { version, claim } => AnswerProto::Accepted(AcceptedProto {
                version: *version,
                claim: Some(claim.into()),
            }),
            HelloAnswer::Blank { claim } => AnswerProto::Blank(claim.into()),
            HelloAnswer::Genesis(genesis) => AnswerProto::Genesis(genesis.into()),
            HelloAnswer::Refused(refusal) => AnswerProto::Refused(refusal_code(*refusal)),
        };
        Self { answer: Some(answer) }
    }
}

impl HelloAnswerProto {
    pub(super) fn read(content: Bytes) -> Result<HelloAnswer, WireError> {
        bound_count(&content, &[3, 2, 1], limits::MEMBERS_MAX)?;
        Ok(match required(lenient::<Self>(content)?.answer)? {
            AnswerProto::Accepted(accepted) => HelloAnswer::Accepted {
                version: accepted.version,
                claim: required(accepted.claim)?.try_into()?,
            },
            AnswerProto::Blank(claim) => HelloAnswer::Blank { claim: claim.try_into()? },
            AnswerProto::Genesis(genesis) => HelloAnswer::Genesis(genesis.try_into()?),
            AnswerProto::Refused(code) => HelloAnswer::Refused(refusal_of(code)?),
        })
    }
}
