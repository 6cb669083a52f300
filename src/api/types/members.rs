//! Who the members of the cluster are, how that is changed, and how a change comes along.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::types::{Incarnation, Problem};

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Receives the log only.
    Learner,
    /// Votes.
    Voter,
    /// A role that this program does not know.
    #[serde(other)]
    Unknown,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name. Two members have the same one only while one replaces the other.
    pub name: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Whether it votes.
    pub role: MemberRole,
    /// Where the others reach it.
    pub address: String,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
    /// While a change is under way: its role after it; null when it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<Becomes>,
    /// On the leader: the last log index known durable there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
    /// On the leader: whether it answered lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}

/// What becomes of a member by the change under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Becomes {
    /// It will only receive the log.
    Learner,
    /// It leaves.
    Removed,
    /// It will vote.
    Voter,
    /// Something that this program does not know.
    #[serde(other)]
    Unknown,
}

/// How far a change of members has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangePhase {
    /// The new voters learn, and get their votes when they keep up.
    CatchingUp,
    /// The wanted set is in force, and not committed, or still together with the one before.
    Joint,
    /// A phase that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The answer to `GET /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// By name.
    pub members: Vec<MemberView>,
    /// Whether two majorities decide: a change is being carried out.
    pub joint: bool,
    /// How far a change has come; nothing when none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ChangePhase>,
    /// On the leader: those who shall vote and do not yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newcomers: Vec<NewcomerView>,
    /// The log index of this set of members.
    #[serde(default)]
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// How one who shall vote comes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewcomerView {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Whether it answers the leader.
    pub connected: bool,
    /// It has the log up to here...
    pub matched_index: u64,
    /// ...of so much.
    pub last_index: u64,
    /// Whether it needs, or is being sent, the whole state first.
    pub snapshot: bool,
    /// Whether it keeps up, so that it may vote.
    pub caught_up: bool,
}

/// One wanted member: the name of one that there is, or a name with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WantedMember {
    /// One that there is.
    Known(String),
    /// One that is reached there. It is asked who it is: a new node is added, a member's new life
    /// replaces the former, and a member itself gets the address.
    At(MemberAt),
}

/// A node and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberAt {
    /// Its name; its certificate carries it.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// `PUT /v1/members`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembersRequest {
    /// All who shall vote.
    pub voters: Vec<WantedMember>,
    /// All who shall only receive the log.
    pub learners: Vec<WantedMember>,
    /// Change only if this is the log index of the members as they are: so that nobody undoes what
    /// he has not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Change even if so few of the wanted voters answer that nothing could be committed.
    pub force: bool,
    /// Take the place of a change whose new voters have not caught up.
    pub supersede: bool,
}

/// The messages of `PUT /v1/members`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MembersMessage {
    /// The new voters learn.
    CatchingUp {
        /// The log index of the members as they are.
        index: u64,
        /// How they come along.
        members: Vec<NewcomerView>,
        /// What the change waits for that will not come about by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits: Option<String>,
    },
    /// The last message: the wanted set is reached.
    Done(ChangeDone),
    /// The last message: it is not known, or will not be, reached.
    Error(Problem),
    /// The wanted set is in force, and not committed, or still together with the one before.
    Joint {
        /// The log index of the members as they are.
        index: u64,
        /// What the change waits for that will not come about by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits: Option<String>,
    },
    /// A message that this program does not know.
    #[serde(other)]
    Unknown,
}

/// A change of members that was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeDone {
    /// The log index of the new members.
    pub index: u64,
    /// Who votes now, with their incarnations.
    pub voters: BTreeMap<String, Incarnation>,
    /// Who only receives the log, with their incarnations.
    pub learners: BTreeMap<String, Incarnation>,
    /// What to think about.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `POST /v1/leader`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaderRequest {
    /// Who shall lead; the best successor unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// The answer to `POST /v1/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAnswer {
    /// Who leads.
    pub leader: String,
    /// In which term.
    pub term: u64,
}
