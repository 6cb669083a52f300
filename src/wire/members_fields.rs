//! The fields of orders about members and of their replies, as prost messages.
//!
//! What they mean is said in `members.rs`.

use std::collections::BTreeMap;

use super::codec::{bounded, required};
use crate::base::{Index, NodeId, limits};
use crate::raft::Member;
use crate::wire::{
    ChangeReport, MembersAnswer, MembersOrder, MembersRefusal, MembersReply, MembersRequest,
    Newcomer, WantedMembers, WireError,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RequestProto {
    #[prost(uint64, tag = "1")]
    context: u64,
    #[prost(oneof = "OrderProto", tags = "2, 3, 4, 5")]
    order: Option<OrderProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OrderProto {
    /// The base.
    #[prost(uint64, tag = "2")]
    Cancel(u64),
    #[prost(message, tag = "3")]
    Change(WantedProto),
    #[prost(message, tag = "4")]
    Report(NothingProto),
    /// The node; zero for the best successor.
    #[prost(fixed64, tag = "5")]
    Transfer(u64),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NothingProto {}

#[derive(Clone, PartialEq, prost::Message)]
struct WantedProto {
    #[prost(uint64, tag = "1")]
    base: u64,
    #[prost(bool, tag = "2")]
    force: bool,
    #[prost(bool, tag = "3")]
    supersede: bool,
    #[prost(message, repeated, tag = "4")]
    members: Vec<WantedMemberProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WantedMemberProto {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(bool, tag = "4")]
    voter: bool,
}

/// Where the members of an order are, to be counted before they are decoded.
pub(super) const WANTED_PATH: [u32; 2] = [3, 4];

impl From<&MembersRequest> for RequestProto {
    fn from(request: &MembersRequest) -> Self {
        let order = match &request.order {
            MembersOrder::Cancel { base } => OrderProto::Cancel(base.0),
            MembersOrder::Change(wanted) => OrderProto::Change(wanted.into()),
            MembersOrder::Report => OrderProto::Report(NothingProto {}),
            MembersOrder::Transfer { to } => OrderProto::Transfer(to.map_or(0, |node| node.0)),
        };
        Self { context: request.context, order: Some(order) }
    }
}

impl From<&WantedMembers> for WantedProto {
    fn from(wanted: &WantedMembers) -> Self {
        let member = |voter| {
            move |(node, member): (&NodeId, &Member)| WantedMemberProto {
                node: node.0,
                name: member.name.clone(),
                address: member.address.clone(),
                voter,
            }
        };
        let voters = wanted.voters.iter().map(member(true));
        let members = voters.chain(wanted.learners.iter().map(member(false))).collect();
        let (force, supersede) = (wanted.force, wanted.supersede);
        Self { base: wanted.base.0, force, supersede, members }
    }
}

impl TryFrom<RequestProto> for MembersRequest {
    type Error = WireError;

    fn try_from(proto: RequestProto) -> Result<Self, WireError> {
        let order = match required(proto.order)? {
            OrderProto::Cancel(base) => MembersOrder::Cancel { base: Index(base) },
            OrderProto::Change(wanted) => MembersOrder::Change(wanted.try_into()?),
            OrderProto::Report(NothingProto {}) => MembersOrder::Report,
            OrderProto::Transfer(0) => MembersOrder::Transfer { to: None },
            OrderProto::Transfer(node) => MembersOrder::Transfer { to: Some(NodeId(node)) },
        };
        Ok(Self { context: proto.context, order })
    }
}

impl TryFrom<WantedProto> for WantedMembers {
    type Error = WireError;

    fn try_from(proto: WantedProto) -> Result<Self, WireError> {
        let (mut voters, mut learners) = (BTreeMap::new(), BTreeMap::new());
        let mut last = None;
        for wanted in proto.members {
            let (node, voter) = (NodeId(wanted.node), wanted.voter);
            // Voters first, each half sorted: so that no two encodings mean the same.
            if last.is_some_and(|last| last >= (!voter, node)) {
                return Err(WireError::Malformed("the wanted members are not sorted"));
            }
            last = Some((!voter, node));
            let name = bounded(wanted.name, limits::NODE_NAME_BYTES_MAX)?;
            let address = bounded(wanted.address, limits::ADDRESS_BYTES_MAX)?;
            let half = if voter { &mut voters } else { &mut learners };
            half.insert(node, Member { name, address });
        }
        if voters.keys().any(|node| learners.contains_key(node)) {
            return Err(WireError::Malformed("a node shall vote and learn"));
        }
        let (force, supersede) = (proto.force, proto.supersede);
        Ok(Self { base: Index(proto.base), force, supersede, voters, learners })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnswerProto {
    #[prost(uint64, tag = "1")]
    context: u64,
    #[prost(oneof = "ReplyProto", tags = "2, 3")]
    reply: Option<ReplyProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ReplyProto {
    #[prost(message, tag = "2")]
    Report(ReportProto),
    #[prost(message, tag = "3")]
    Refused(RefusedProto),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReportProto {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    last_index: u64,
    #[prost(message, repeated, tag = "3")]
    newcomers: Vec<NewcomerProto>,
    #[prost(fixed64, repeated, tag = "4")]
    silent: Vec<u64>,
}

/// Where the newcomers of a report are, to be counted before they are decoded.
pub(super) const NEWCOMERS_PATH: [u32; 2] = [2, 3];

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NewcomerProto {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    matched: u64,
    #[prost(bool, tag = "3")]
    active: bool,
    #[prost(bool, tag = "4")]
    snapshot: bool,
    #[prost(bool, tag = "5")]
    caught_up: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusedProto {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(fixed64, repeated, tag = "2")]
    silent: Vec<u64>,
    #[prost(uint32, tag = "3")]
    voters: u32,
}

const QUORUM_LOST: u32 = 10;

/// Every refusal without fields, with its code; `QUORUM_LOST` is the one with fields.
const PLAIN: [(u32, MembersRefusal); 13] = [
    (1, MembersRefusal::Busy),
    (2, MembersRefusal::Malformed),
    (3, MembersRefusal::Moved),
    (4, MembersRefusal::NameTwice),
    (5, MembersRefusal::NoSuccessor),
    (6, MembersRefusal::NoVoter),
    (7, MembersRefusal::NotLeader),
    (8, MembersRefusal::NotVoter),
    (9, MembersRefusal::SuccessorNotReady),
    (11, MembersRefusal::TooManyMembers),
    (12, MembersRefusal::TooManyVoters),
    (13, MembersRefusal::UnderWay),
    (14, MembersRefusal::Forbidden),
];

impl From<&MembersAnswer> for AnswerProto {
    fn from(answer: &MembersAnswer) -> Self {
        let reply = match &answer.reply {
            MembersReply::Report(report) => ReplyProto::Report(report.into()),
            MembersReply::Refused(MembersRefusal::QuorumLost { silent, voters }) => {
                let silent = silent.iter().map(|node| node.0).collect();
                ReplyProto::Refused(RefusedProto { code: QUORUM_LOST, silent, voters: *voters })
            }
            MembersReply::Refused(plain) => {
                let code = PLAIN.iter().find(|(_, refusal)| refusal == plain);
                let (code, _) = code.expect("every refusal without fields is in the table");
                ReplyProto::Refused(RefusedProto { code: *code, silent: Vec::new(), voters: 0 })
            }
        };
        Self { context: answer.context, reply: Some(reply) }
    }
}

impl From<&ChangeReport> for ReportProto {
    fn from(report: &ChangeReport) -> Self {
        let newcomer = |newcomer: &Newcomer| NewcomerProto {
            node: newcomer.node.0,
            matched: newcomer.matched.0,
            active: newcomer.active,
            snapshot: newcomer.snapshot,
            caught_up: newcomer.caught_up,
        };
        Self {
            index: report.index.0,
            last_index: report.last_index.0,
            newcomers: report.newcomers.iter().map(newcomer).collect(),
            silent: report.silent.iter().map(|node| node.0).collect(),
        }
    }
}

impl TryFrom<AnswerProto> for MembersAnswer {
    type Error = WireError;

    fn try_from(proto: AnswerProto) -> Result<Self, WireError> {
        let reply = match required(proto.reply)? {
            ReplyProto::Report(report) => {
                let newcomer = |proto: NewcomerProto| Newcomer {
                    node: NodeId(proto.node),
                    active: proto.active,
                    matched: Index(proto.matched),
                    snapshot: proto.snapshot,
                    caught_up: proto.caught_up,
                };
                MembersReply::Report(ChangeReport {
                    index: Index(report.index),
                    last_index: Index(report.last_index),
                    newcomers: report.newcomers.into_iter().map(newcomer).collect(),
                    silent: nodes(report.silent)?,
                })
            }
            ReplyProto::Refused(refused) => MembersReply::Refused(refused.try_into()?),
        };
        Ok(Self { context: proto.context, reply })
    }
}

impl TryFrom<RefusedProto> for MembersRefusal {
    type Error = WireError;

    fn try_from(proto: RefusedProto) -> Result<Self, WireError> {
        if proto.code == QUORUM_LOST {
            return Ok(Self::QuorumLost { silent: nodes(proto.silent)?, voters: proto.voters });
        }
        if !proto.silent.is_empty() || proto.voters != 0 {
            return Err(WireError::Malformed("a refusal with fields of another"));
        }
        let known = PLAIN.into_iter().find(|(code, _)| *code == proto.code);
        let (_, refusal) = known.ok_or(WireError::UnknownKind("refusal of an order"))?;
        Ok(refusal)
    }
}

fn nodes(ids: Vec<u64>) -> Result<Vec<NodeId>, WireError> {
    if ids.len() > limits::MEMBERS_MAX {
        return Err(WireError::TooLong { limit: limits::MEMBERS_MAX });
    }
    Ok(ids.into_iter().map(NodeId).collect())
}
