//! How log entries, hard state, memberships and the identity of a cluster are written down.
//!
//! Under which key and in which table they are stored is decided by `storage/`; what a command
//! inside an entry says, by `command.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{bound_count, bounded, open, required, seal, strict};
use crate::base::{ClusterId, Index, NodeId, Term, limits};
use crate::raft::{Entry, Goal, HardState, Member, Membership, Payload};
use crate::wire::{Genesis, WireError};

const BATCH_VERSION: u8 = 1;
const HARD_STATE_VERSION: u8 = 1;
const MEMBERSHIP_VERSION: u8 = 1;
const GENESIS_VERSION: u8 = 1;

/// Encodes consecutive entries as one row of the log: version, checksum, content.
///
/// Panics when there is no entry, more than [`limits::APPEND_ENTRIES_MAX`], or a gap between them.
pub fn encode_entry_batch(entries: &[Entry]) -> Vec<u8> {
    let first = entries.first().expect("a row of the log holds at least one entry");
    assert!(
        entries.len() <= limits::APPEND_ENTRIES_MAX,
        "a row of {} entries is longer than {}",
        entries.len(),
        limits::APPEND_ENTRIES_MAX
    );
    let batch = BatchProto { first_index: first.index.0, entries: to_protos(entries) };
    seal(BATCH_VERSION, &[], &batch)
}

/// Decodes one row of the log. The payloads share one copy of `bytes`.
///
/// Errors when the checksum, the version or an entry is not understood. The result is never empty,
/// its indexes are consecutive from at least 1, and its terms do not decrease.
pub fn decode_entry_batch(bytes: &[u8]) -> Result<Vec<Entry>, WireError> {
    let content = open(BATCH_VERSION, &[], &Bytes::copy_from_slice(bytes))?;
    bound_count(&content, &[2], limits::APPEND_ENTRIES_MAX)?;
    bound_count(&content, &[2, 3, 1], MEMBERS_IN_BATCH_MAX)?;
    let batch: BatchProto = strict(content)?;
    if batch.entries.is_empty() {
        return Err(WireError::Malformed("a row of the log without entries"));
    }
    from_protos(batch.first_index, batch.entries)
}

/// Encodes term, vote and commit index: version, checksum, content.
pub fn encode_hard_state(state: &HardState) -> Vec<u8> {
    let proto = HardStateProto {
        term: state.term.0,
        vote: state.vote.map(|node| node.0),
        commit: state.commit.0,
    };
    seal(HARD_STATE_VERSION, &[], &proto)
}

/// Decodes term, vote and commit index.
pub fn decode_hard_state(bytes: &[u8]) -> Result<HardState, WireError> {
    let content = open(HARD_STATE_VERSION, &[], &Bytes::copy_from_slice(bytes))?;
    let proto: HardStateProto = strict(content)?;
    Ok(HardState {
        term: Term(proto.term),
        vote: proto.vote.map(NodeId),
        commit: Index(proto.commit),
    })
}

/// Encodes a configuration: version, checksum, content.
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    seal(MEMBERSHIP_VERSION, &[], &MembershipProto::from(membership))
}

/// Decodes a configuration, which then holds the invariants of [`Membership`].
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, WireError> {
    let content = open(MEMBERSHIP_VERSION, &[], &Bytes::copy_from_slice(bytes))?;
    bound_count(&content, &[1], limits::MEMBERS_MAX)?;
    strict::<MembershipProto>(content)?.try_into()
}

/// Encodes the identity of a cluster: version, checksum, content.
pub fn encode_genesis(genesis: &Genesis) -> Vec<u8> {
    seal(GENESIS_VERSION, &[], &GenesisProto::from(genesis))
}

/// Decodes the identity of a cluster.
pub fn decode_genesis(bytes: &[u8]) -> Result<Genesis, WireError> {
    let content = open(GENESIS_VERSION, &[], &Bytes::copy_from_slice(bytes))?;
    bound_count(&content, &[2, 1], limits::MEMBERS_MAX)?;
    strict::<GenesisProto>(content)?.try_into()
}

/// Members named in all configurations of one batch or append: one entry per change, and few
/// changes are under way at once.
pub(super) const MEMBERS_IN_BATCH_MAX: usize = 32 * limits::MEMBERS_MAX;

/// Entries for a message that says the first index itself. Panics on a gap.
pub(super) fn to_protos(entries: &[Entry]) -> Vec<EntryProto> {
    let mut protos = Vec::with_capacity(entries.len());
    let mut expected = entries.first().map(|entry| entry.index);
    for entry in entries {
        assert_eq!(Some(entry.index), expected, "entries written together follow each other");
        expected = Some(entry.index.next());
        let payload = match &entry.payload {
            Payload::Command(bytes) => PayloadProto::Command(bytes.clone()),
            Payload::Empty => PayloadProto::Empty(EmptyProto {}),
            Payload::Membership(membership) => PayloadProto::Membership(membership.into()),
        };
        protos.push(EntryProto { term: entry.term.0, payload: Some(payload) });
    }
    protos
}

/// The entries from `first_index` on, checked.
pub(super) fn from_protos(
    first_index: u64,
    protos: Vec<EntryProto>,
) -> Result<Vec<Entry>, WireError> {
    if first_index == 0 {
        return Err(WireError::Malformed("an entry at index zero"));
    }
    if first_index.checked_add(protos.len() as u64).is_none() {
        return Err(WireError::Malformed("an index beyond 64 bits"));
    }
    let mut entries = Vec::with_capacity(protos.len());
    let mut term = 1;
    for (index, proto) in (first_index..).zip(protos) {
        if proto.term < term {
            return Err(WireError::Malformed("the terms of consecutive entries decrease"));
        }
        term = proto.term;
        let payload = match required(proto.payload)? {
            PayloadProto::Command(bytes) => Payload::Command(bytes),
            PayloadProto::Empty(EmptyProto {}) => Payload::Empty,
            PayloadProto::Membership(membership) => Payload::Membership(membership.try_into()?),
        };
        entries.push(Entry { term: Term(term), index: Index(index), payload });
    }
    Ok(entries)
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchProto {
    #[prost(uint64, tag = "1")]
    first_index: u64,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<EntryProto>,
}

/// One entry; its index follows from its place.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EntryProto {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    #[prost(oneof = "PayloadProto", tags = "2, 3, 4")]
    pub(super) payload: Option<PayloadProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum PayloadProto {
    #[prost(bytes = "bytes", tag = "2")]
    Command(Bytes),
    #[prost(message, tag = "3")]
    Membership(MembershipProto),
    #[prost(message, tag = "4")]
    Empty(EmptyProto),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct EmptyProto {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HardStateProto {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, optional, tag = "2")]
    vote: Option<u64>,
    #[prost(uint64, tag = "3")]
    commit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MembershipProto {
    /// Sorted by node, each once.
    #[prost(message, repeated, tag = "1")]
    pub(super) members: Vec<MemberProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberProto {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    /// The sum of the flags below.
    #[prost(uint32, tag = "4")]
    roles: u32,
}

const VOTER: u32 = 1;
const OUTGOING: u32 = 2;
const LEARNER: u32 = 4;
/// Shall vote, or learn, when the change under way is done. A goal without voters is none.
const GOAL_VOTER: u32 = 8;
const GOAL_LEARNER: u32 = 16;

impl From<&Membership> for MembershipProto {
    fn from(membership: &Membership) -> Self {
        let flag = |set: &BTreeSet<NodeId>, node: &NodeId, flag: u32| {
            if set.contains(node) { flag } else { 0 }
        };
        let none = Goal::default();
        let goal = membership.goal().unwrap_or(&none);
        let members = membership.members().iter().map(|(node, member)| MemberProto {
            node: node.0,
            name: member.name.clone(),
            address: member.address.clone(),
            roles: flag(membership.voters(), node, VOTER)
                + flag(membership.outgoing(), node, OUTGOING)
                + flag(membership.learners(), node, LEARNER)
                + flag(&goal.voters, node, GOAL_VOTER)
                + flag(&goal.learners, node, GOAL_LEARNER),
        });
        Self { members: members.collect() }
    }
}

impl TryFrom<MembershipProto> for Membership {
    type Error = WireError;

    fn try_from(proto: MembershipProto) -> Result<Self, WireError> {
        let flags = [VOTER, OUTGOING, LEARNER, GOAL_VOTER, GOAL_LEARNER];
        let mut sets = flags.map(|flag| (flag, BTreeSet::new()));
        let mut members = BTreeMap::new();
        for member in proto.members {
            let node = NodeId(member.node);
            if members.last_key_value().is_some_and(|(last, _)| *last >= node) {
                return Err(WireError::Malformed("the members are not sorted"));
            }
            if member.roles >= 2 * GOAL_LEARNER {
                return Err(WireError::UnknownKind("member role"));
            }
            for (flag, set) in &mut sets {
                if member.roles & *flag != 0 {
                    set.insert(node);
                }
            }
            let name = bounded(member.name, limits::NODE_NAME_BYTES_MAX)?;
            let address = bounded(member.address, limits::ADDRESS_BYTES_MAX)?;
            members.insert(node, Member { name, address });
        }
        let [voters, outgoing, learners, goal_voters, goal_learners] = sets.map(|(_, set)| set);
        let goal = Goal { voters: goal_voters, learners: goal_learners };
        let goal = (goal != Goal::default()).then_some(goal);
        Membership::new(voters, outgoing, learners, members)
            .and_then(|membership| membership.with_goal(goal))
            .map_err(|_| WireError::Malformed("the members are no configuration"))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GenesisProto {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(message, optional, tag = "2")]
    membership: Option<MembershipProto>,
    #[prost(uint64, tag = "3")]
    index: u64,
}

impl From<&Genesis> for GenesisProto {
    fn from(genesis: &Genesis) -> Self {
        Self {
            cluster: genesis.cluster.0,
            membership: Some((&genesis.membership).into()),
            index: genesis.index.0,
        }
    }
}

impl TryFrom<GenesisProto> for Genesis {
    type Error = WireError;

    fn try_from(proto: GenesisProto) -> Result<Self, WireError> {
        if proto.cluster == 0 {
            return Err(WireError::Malformed("a cluster identity of zero"));
        }
        let membership = required(proto.membership)?.try_into()?;
        Ok(Self { cluster: ClusterId(proto.cluster), membership, index: Index(proto.index) })
    }
}
