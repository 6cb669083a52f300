//! Whether this node is a member still, whom it speaks with, and what follows for leases when
//! somebody leaves.
//!
//! How the members are changed is in `members.rs`; who may connect is judged by `roster.rs`.
//!
//! # A node that was removed
//!
//! It takes no part any more: it answers its callers that it was removed, starts no keepalive, and
//! goes on running, because it may be added again. Its data directory is intact, so that it may
//! come back as the same incarnation: all that it ever promised it still knows.
//!
//! # The leases of a host that left
//!
//! A promise given is a promise: holders on that host were told for how long nobody else can hold,
//! and may not hear of the removal in time. So nothing is revoked early. The host's keepalives are
//! not confirmed any more; what is bound there ends its own time to live after the last one that
//! was, as if the host had vanished; and the host's own lease, about which nobody is promised
//! anything, ends with the last of them instead of after its own long time (`expiry.rs`).

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::base::{Index, Instant, NodeId};
use crate::raft::{Member, Membership};
use crate::replica::core::CAUGHT_UP;
use crate::replica::{Removal, Replica, RequestError, UnavailableReason};
use crate::state::Bind;

/// Where this node stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Configurations up to here are older than this node's membership: see `Genesis::index`.
    pub(super) joined: Index,
    /// It has applied a configuration without itself.
    removed: Option<Removal>,
    /// Its former peers say that it was removed.
    said: bool,
    /// What the roster and the links were last told of: the configurations in force and committed.
    told: Option<(Index, Index)>,
    /// Some contacts are no members in force: they may be forgotten without any change.
    parting: bool,
}

impl Standing {
    pub(super) fn since(joined: Index) -> Self {
        Self { joined, ..Self::default() }
    }

    /// Since when this node is no member, if it is none.
    pub(super) fn removal(&self) -> Option<Removal> {
        self.removed.or(self.said.then_some(Removal { at: None }))
    }
}

impl Replica {
    /// Everybody to have a link with: the members, those who are being told that they are none any
    /// more, and those who know of changes that this node has not seen. Not the node itself.
    pub fn contacts(&self) -> BTreeMap<NodeId, Member> {
        let mut contacts = self.raft.contacts();
        for (node, member) in self.roster().guests() {
            contacts.entry(node).or_insert_with(|| member.clone());
        }
        contacts
    }

    /// Tells the roster, and whoever keeps the links, when those who may speak have changed.
    pub(super) fn follow_contacts(&mut self) {
        let (committed, membership) = self.raft.committed_membership();
        let current = (self.raft.membership_index(), committed);
        let is_news = self.standing.told != Some(current);
        if !is_news && !self.standing.parting {
            return;
        }
        let contacts = self.raft.contacts();
        let members = self.raft.membership();
        let parting = contacts.keys().any(|&node| !members.contains(node));
        if is_news || parting != self.standing.parting {
            self.roster().set_members((committed, membership.clone()), contacts);
            self.standing.told = Some(current);
            self.standing.parting = parting;
            self.published.status = true;
        }
    }

    /// The configuration at `index` was applied.
    pub(super) fn members_applied(&mut self, now: Instant, index: Index, members: &Membership) {
        self.published.status = true;
        if members.contains(self.node) {
            self.standing.said = false;
            self.standing.removed = None;
        } else if index > self.standing.joined {
            // A later configuration without it is no other removal.
            self.standing.removed.get_or_insert(Removal { at: Some(index) });
        }
        self.retire_hosts(now);
    }

    /// The others say whether this node was removed.
    pub(super) fn peers_say_removed(&mut self, removed: bool) {
        self.standing.said = removed;
    }

    /// Tells the callers, and everybody who reads, that this node is no member any more, or is one
    /// again.
    pub(super) fn settle_standing(&mut self) {
        let removal = self.standing.removal();
        if removal == self.view().removed {
            return;
        }
        Self::view_mut(&self.view).removed = removal;
        self.published.status = true;
        let Some(removal) = removal else {
            // It is a member again, and has to hear what it has missed.
            if self.leadership.leader.is_some() && !self.reads.holds(CAUGHT_UP) {
                self.reads.ask(CAUGHT_UP, Instant::from_micros(u64::MAX));
            }
            return;
        };
        self.caught_up = false;
        let error = RequestError::Unavailable(UnavailableReason::Removed(removal));
        // What was handed over may have been applied after the last entry that this node will see.
        self.answer_all(error);
        for (ticket, error) in self.members.take_all(error) {
            self.members_answer(ticket, Err(error));
        }
    }

    /// On a leader: hosts that are no members keep nothing alive any more.
    pub(super) fn retire_hosts(&mut self, now: Instant) {
        let Some(expiry) = &mut self.expiry else { return };
        let members = self.raft.membership();
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let leases = view.machine.leases();
        let left = leases.filter(|lease| lease.bind == Bind::Node && !members.contains(lease.node));
        expiry.set_departed(left.map(|lease| lease.id).collect(), now);
    }
}
