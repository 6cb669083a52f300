//! How the cluster gets from one configuration to the next: what a leader appends by order and by
//! itself, and how those are told who are no members any more.
//!
//! Which nodes are wanted, and whether they are fit to vote, is decided above; what a configuration
//! is, in `membership`; which one is in force, in `configurations`.

use std::collections::BTreeMap;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant, NodeId, Span, limits};
use crate::raft::configurations::Configurations;
use crate::raft::progress::Feed;
use crate::raft::roles::{Leader, State};
use crate::raft::{Member, Membership, Payload, Proposed, Raft};

/// Election timeouts for which a node that was removed is told so, from the commit on.
const PARTING_TIMEOUTS: u64 = 3;

/// Why no change of membership was begun. Nothing has changed, and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The target is joint: only the core makes joint configurations.
    #[error("the target of a change is not a joint configuration")]
    Joint,
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The leader has not committed an entry of its own term yet; it does not know whether a change
    /// of an earlier leader is under way elsewhere (RELIABILITY D1).
    #[error("this leader has not committed an entry of its term yet")]
    TermNotOpened,
    /// Together with who votes now, the target has too many members.
    #[error("a configuration has at most {members_max} members, those that leave included")]
    TooManyMembers {
        /// The most allowed.
        members_max: usize,
    },
    /// The target has too many voters.
    #[error("a configuration has at most {voters_max} voters")]
    TooManyVoters {
        /// The most allowed.
        voters_max: usize,
    },
    /// The leader is handing over.
    #[error("the lead is being handed over to {to}")]
    Transferring {
        /// Who shall lead.
        to: NodeId,
    },
    /// The target is what is in force.
    #[error("the target is the configuration in force")]
    Unchanged,
    /// The change before is not committed, or its joint configuration not left yet.
    #[error("the change of entry {index} is still under way")]
    UnderWay {
        /// The entry of the configuration in force.
        index: Index,
    },
}

/// A node that the configuration in force does not name any more, and that has not been told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parting {
    member: Member,
    /// The entry of the configuration that removes it.
    index: Index,
    /// When it is given up; set once its removal is committed.
    until: Option<Instant>,
}

impl Raft {
    /// Begins the change to `target`, which is not joint and may carry a goal. It is one entry when
    /// at most one voter differs and this leader keeps its vote; else a joint configuration, which
    /// whoever leads leaves by itself once it is committed. In force, here, at once; the change is
    /// done when [`committed_membership`](Raft::committed_membership) is not joint any more.
    ///
    /// A leader that is no voter of the target commits the joint configuration, hands over to the
    /// best voter of the target, and the change is finished by that one.
    pub fn change_membership(
        &mut self,
        now: Instant,
        target: Membership,
    ) -> Result<Proposed, ChangeError> {
        self.advance_clock(now);
        let State::Leader(leader) = &self.state else {
            return Err(ChangeError::NotLeader { leader: self.leader() });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(ChangeError::Transferring { to: transfer.to });
        }
        let unopened = mutation::active(Mutation::ChangeBeforeOwnCommit);
        if self.commit < leader.opening && !unopened {
            return Err(ChangeError::TermNotOpened);
        }
        let index = self.membership_index();
        let early = mutation::active(Mutation::ChangeOverUncommitted);
        if (index > self.commit && !early) || self.membership().is_joint() {
            return Err(ChangeError::UnderWay { index });
        }
        if target.is_joint() {
            return Err(ChangeError::Joint);
        }
        if *self.membership() == target {
            return Err(ChangeError::Unchanged);
        }
        if target.voters().len() > limits::VOTERS_MAX {
            return Err(ChangeError::TooManyVoters { voters_max: limits::VOTERS_MAX });
        }
        let next = self.step_towards(target);
        if next.members().len() > limits::MEMBERS_MAX {
            return Err(ChangeError::TooManyMembers { members_max: limits::MEMBERS_MAX });
        }
        self.append_configuration(next);
        let last = self.log.last_index();
        Ok(Proposed { term: self.term, first: last, last })
    }

    /// The index of the entry that holds the configuration in force, or of the start of the log.
    pub fn membership_index(&self) -> Index {
        self.configurations.current_index()
    }

    /// The newest configuration that is known to be committed, and its index.
    pub fn committed_membership(&self) -> (Index, &Membership) {
        self.configurations.committed(self.commit)
    }

    /// Everybody but this node whom it must be able to talk to: the members of the newest committed
    /// configuration and of all later ones (a truncation may bring an earlier one back), and on a
    /// leader those who were just removed and are still being told.
    pub fn contacts(&self) -> BTreeMap<NodeId, Member> {
        let (committed, _) = self.committed_membership();
        let mut contacts = BTreeMap::new();
        if let State::Leader(leader) = &self.state {
            let parting = leader.parting.iter();
            contacts.extend(parting.map(|(node, parting)| (*node, parting.member.clone())));
        }
        // Of a node that is in several, what the newest says is right.
        for (_, membership) in self.configurations.iter().filter(|(at, _)| *at >= committed) {
            let members = membership.members().iter();
            contacts.extend(members.map(|(node, member)| (*node, member.clone())));
        }
        contacts.remove(&self.node);
        contacts
    }

    /// What a leader does by itself about a committed joint configuration: leaves it, or when it
    /// has no vote in what would remain, lets another one lead who has.
    ///
    /// Left is only what is committed, and only after an entry of the leader's own term is: else
    /// the outgoing half might not know yet that it is one (RELIABILITY D3). And no node ever
    /// appends an entry that takes its own vote away: if it crashed then, it could neither campaign
    /// nor be passed by others whose logs are shorter.
    pub(super) fn settle_configuration(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let opened = self.commit >= leader.opening;
        let early = mutation::active(Mutation::JointLeftEarly);
        let committed = early || self.membership_index() <= self.commit;
        if !opened || !committed || !self.membership().is_joint() || leader.transfer.is_some() {
            return;
        }
        if self.membership().voters().contains(&self.node) {
            let rest = self.membership().without_outgoing();
            self.append_configuration(rest);
        } else if self.now >= leader.hand_over_at
            && let Some(to) = self.successor()
        {
            self.begin_transfer(to);
        }
    }

    /// Forgets those who have been told that they are removed, or who could not be told for long
    /// enough. Whoever holds the entry that removes it knows that it is committed: it is not sent
    /// before ([`send_limit`]).
    pub(super) fn release_parting(&mut self) {
        let timeout = self.options.election_timeout.as_micros();
        let patience = Span::from_micros(timeout.saturating_mul(PARTING_TIMEOUTS));
        let (now, commit) = (self.now, self.commit);
        let State::Leader(Leader { feeds, parting, .. }) = &mut self.state else { return };
        parting.retain(|node, parting| {
            if parting.index > commit {
                return true;
            }
            let until = *parting.until.get_or_insert(now + patience);
            let told = feeds.get(node).is_none_or(|feed| feed.matched() >= parting.index);
            let keep = !told && now < until;
            if !keep {
                feeds.remove(node);
            }
            keep
        });
    }

    /// The next configuration on the way to `target`. One voter more or less may be changed at once
    /// (dissertation, 4.1), but not the vote of the leader itself, see
    /// [`settle_configuration`](Raft::settle_configuration).
    fn step_towards(&self, target: Membership) -> Membership {
        let current = self.membership();
        let differing = current.voters().symmetric_difference(target.voters()).count();
        if differing <= 1 && target.voters().contains(&self.node) {
            target
        } else {
            current.joint_with(target)
        }
    }

    fn append_configuration(&mut self, next: Membership) {
        let now = self.now;
        let (before, index) = (self.membership().clone(), self.log.last_index().next());
        assert!(next.is_voter(self.node), "leader {} would take its own vote away", self.node);
        self.append_own(Payload::Membership(next.clone()));
        self.configurations.append(index, next.clone());
        let feeds: Vec<(NodeId, Feed)> =
            next.members().keys().map(|node| (*node, self.new_feed(*node, index))).collect();
        let State::Leader(leader) = &mut self.state else { return };
        part(&mut leader.parting, &before, index, &next);
        for (node, feed) in feeds.into_iter().filter(|(node, _)| *node != self.node) {
            leader.feeds.entry(node).or_insert(feed);
        }
        // Whoever the leader needs from now on has an election timeout to answer. A change that was
        // forced upon voters who were silent would else depose it before it has even asked.
        for voter in next.voters() {
            if let Some(feed) = leader.feeds.get_mut(voter) {
                feed.heard(now);
            }
        }
    }
}

/// Who was removed by configurations that are not known to be committed, or by the newest: a leader
/// before may not have come to tell them.
pub(super) fn parting_from(raft: &Raft) -> BTreeMap<NodeId, Parting> {
    let (newest, mut parting) = (raft.membership_index(), BTreeMap::new());
    for (before, index, after) in raft.configurations.steps() {
        if index > raft.commit || index == newest {
            part(&mut parting, before, index, after);
        }
    }
    parting.remove(&raft.node);
    parting
}

/// Up to which entry `node` may be sent the log now. Who has no vote gets what is committed: nobody
/// waits for it to hold more. And a configuration that makes a node lose its vote or its membership
/// comes to it only when it is committed.
///
/// Else such a node could hold the longest log of those that are left when the leader dies, and
/// neither campaign, having no vote in its own eyes, nor let the others win. And whoever sees its
/// own removal can rely on it and retire (RELIABILITY D11).
pub(super) fn send_limit(
    configurations: &Configurations,
    commit: Index,
    node: NodeId,
) -> Option<Index> {
    if !configurations.current().is_voter(node) {
        return Some(commit);
    }
    if configurations.current_index() <= commit {
        return None;
    }
    let loses = |before: &Membership, after: &Membership| {
        before.is_voter(node) && !after.is_voter(node)
            || before.contains(node) && !after.contains(node)
    };
    let mut steps = configurations.steps();
    let found = steps.find(|(before, index, after)| *index > commit && loses(before, after));
    found.map(|(_, index, _)| index.previous())
}

fn part(
    parting: &mut BTreeMap<NodeId, Parting>,
    before: &Membership,
    index: Index,
    after: &Membership,
) {
    parting.retain(|node, _| !after.contains(*node));
    for (node, member) in before.members() {
        if !after.contains(*node) {
            let member = member.clone();
            parting.insert(*node, Parting { member, index, until: None });
        }
    }
}
