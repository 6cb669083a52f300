//! What is said about who the members are: orders to the leader, from an operator on any node, and
//! its replies.
//!
//! What the leader makes of an order, and when it is sent again, is decided by `replica/`.

use std::collections::BTreeMap;

use crate::base::{Index, NodeId};
use crate::raft::{Goal, Member};

/// An order to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersRequest {
    /// Names it within the sender's boot; echoed.
    pub context: u64,
    /// What is wanted.
    pub order: MembersOrder,
}

/// What an operator wants of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersOrder {
    /// Give up the change that is under way: whoever votes now goes on voting, whoever learns goes
    /// on learning. Refused once the change has its own voters.
    Cancel {
        /// The configuration in force that the operator has seen.
        base: Index,
    },
    /// These shall be the members. The same set again is the same order.
    Change(WantedMembers),
    /// Say how the change that is under way stands.
    Report,
    /// Hand the lead over.
    Transfer {
        /// To whom; the best successor when nobody is named.
        to: Option<NodeId>,
    },
}

/// The set of members that an operator declares, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedMembers {
    /// The configuration in force that the operator has seen: the order counts only while it is.
    pub base: Index,
    /// Change even if so few of the voters answer that nothing could be committed.
    pub force: bool,
    /// Take the place of a change that still waits for its new voters.
    pub supersede: bool,
    /// Who shall vote.
    pub voters: BTreeMap<NodeId, Member>,
    /// Who shall receive the log without a vote.
    pub learners: BTreeMap<NodeId, Member>,
}

impl WantedMembers {
    /// The set as a configuration on its way to it carries it.
    pub fn goal(&self) -> Goal {
        let nodes = |half: &BTreeMap<NodeId, Member>| half.keys().copied().collect();
        Goal { voters: nodes(&self.voters), learners: nodes(&self.learners) }
    }
}

/// The leader's reply to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersAnswer {
    /// The request's number.
    pub context: u64,
    /// The reply.
    pub reply: MembersReply,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersReply {
    /// It was taken, by this request or an equal one before; how it stands now.
    Report(ChangeReport),
    /// Nothing was changed by it.
    Refused(MembersRefusal),
}

/// How a change of members stands, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeReport {
    /// The index of the configuration in force on the leader.
    pub index: Index,
    /// The last index in its log.
    pub last_index: Index,
    /// Those who shall vote and do not yet; empty when nothing waits for them.
    pub newcomers: Vec<Newcomer>,
    /// Voters of the wanted set that have not answered for an election timeout, when so many are
    /// silent that no quorum of it would be left: the change waits for them.
    pub silent: Vec<NodeId>,
}

/// One who shall vote and does not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Who.
    pub node: NodeId,
    /// Whether it answered the leader within an election timeout.
    pub active: bool,
    /// Known durable there up to this index.
    pub matched: Index,
    /// Whether it needs, or is being sent, the whole state.
    pub snapshot: bool,
    /// Whether it has shown that it keeps up; see `replica/members.rs`.
    pub caught_up: bool,
}

/// Why the leader did nothing about an order: a closed set, each with what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersRefusal {
    /// The leader cannot begin it at this moment; the asking node tries again.
    #[error("the leader is busy with the last change")]
    Busy,
    /// The cluster's reservations do not let the asking node administrate.
    #[error(
        "this node may not administrate the cluster: administration is reserved for others \
         (_access/)"
    )]
    Forbidden,
    /// Whatever is wrong with it, this node's own programs do not send it.
    #[error("the leader does not understand this order: upgrade it")]
    Malformed,
    /// Another change has been made since the operator looked.
    #[error(
        "the members have been changed meanwhile: look at them again (`quorumctl members list`), \
         then repeat what is still wanted"
    )]
    Moved,
    /// Two of the wanted members have the same name.
    #[error("a name may be given only once")]
    NameTwice,
    /// There is no other voter to hand over to.
    #[error("there is no other voter that could lead: none answers, or there is none")]
    NoSuccessor,
    /// Nobody would vote.
    #[error("a cluster needs at least one voter")]
    NoVoter,
    /// The receiver does not lead; the asking node tries again.
    #[error("the receiver does not lead")]
    NotLeader,
    /// The wanted leader has no vote, or is about to lose it.
    #[error("only a voter that stays one can lead")]
    NotVoter,
    /// So many of the wanted voters are silent that nothing could be committed.
    #[error(
        "of the {voters} voters wanted, {} do not answer, and the rest is no majority: nothing \
         could be committed any more; bring them back first, or say `force` if you know that they \
         will come back", silent.len()
    )]
    QuorumLost {
        /// Those who do not answer.
        silent: Vec<NodeId>,
        /// How many voters are wanted.
        voters: u32,
    },
    /// The wanted leader does not answer, or is too far behind to be brought up at once.
    #[error("it does not answer, or is too far behind to lead")]
    SuccessorNotReady,
    /// More members than are supported.
    #[error("a cluster has at most {} members", crate::base::limits::MEMBERS_MAX)]
    TooManyMembers,
    /// More voters than are supported.
    #[error(
        "a cluster has at most {} voters: let the others learn",
        crate::base::limits::VOTERS_MAX
    )]
    TooManyVoters,
    /// Another change is under way.
    #[error(
        "another change of members is under way: wait for it (`quorumctl members list` shows it), \
         cancel it (`quorumctl members cancel`), or say `supersede`, which works until its new \
         voters vote"
    )]
    UnderWay,
}
