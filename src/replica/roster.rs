//! Who may connect: judges each hello against the membership and against what its sender has
//! promised before.
//!
//! Certificates are checked by `peer/`, which asks here only after the name in the certificate, in
//! the hello and in the configuration agree.

use std::collections::BTreeMap;

use crate::base::{ClusterId, Index, NodeId, Term};
use crate::raft::Membership;
use crate::storage::PeerMark;
use crate::wire::{
    Claim, Genesis, Hello, HelloAnswer, HelloRefusal, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    Standing,
};

/// What one node knows of itself and of the others, as far as a hello is concerned.
///
/// Invariants:
/// - A mark never moves back: what a peer has once demonstrably promised is remembered.
/// - The claim tells only what is durable here.
#[derive(Debug)]
pub struct Roster {
    cluster_name: String,
    claim: Claim,
    genesis: Option<Genesis>,
    membership: Membership,
    marks: BTreeMap<NodeId, PeerMark>,
    marks_changed: bool,
}

impl Roster {
    /// The roster of a node that is no member yet.
    pub fn blank(cluster_name: String, claim: Claim) -> Self {
        assert!(
            matches!(claim.standing, Standing::Blank { .. }),
            "a node without a cluster identity claims to be a member"
        );
        Self {
            cluster_name,
            claim,
            genesis: None,
            membership: Membership::default(),
            marks: BTreeMap::new(),
            marks_changed: false,
        }
    }

    /// The roster of a member.
    pub fn member(
        cluster_name: String,
        claim: Claim,
        genesis: Genesis,
        membership: Membership,
        marks: Vec<PeerMark>,
    ) -> Self {
        assert!(
            matches!(claim.standing, Standing::Member { cluster, .. }
                if cluster == genesis.cluster),
            "a member claims another cluster than its own"
        );
        Self {
            cluster_name,
            claim,
            genesis: Some(genesis),
            membership,
            marks: marks.into_iter().map(|mark| (mark.node, mark)).collect(),
            marks_changed: false,
        }
    }

    /// What this node says of itself.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// The cluster's identity, unless this node is blank.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.genesis.as_ref().map(|genesis| genesis.cluster)
    }

    /// The answer to a hello whose certificate fits its name and cluster.
    pub fn judge(&self, hello: &Hello) -> HelloAnswer {
        let version = PROTOCOL_VERSION_MAX.min(hello.version_max);
        if version < PROTOCOL_VERSION_MIN.max(hello.version_min) {
            return HelloAnswer::Refused(HelloRefusal::Version);
        }
        if hello.cluster_name != self.cluster_name {
            return HelloAnswer::Refused(HelloRefusal::ClusterName);
        }
        let answer = match (&hello.claim.standing, &self.genesis) {
            (Standing::Blank { seed_digest }, None) => return self.judge_blank(*seed_digest),
            (Standing::Blank { .. }, Some(genesis)) => {
                return match self.node_named(&hello.name) {
                    Some(node) if node == hello.claim.node => HelloAnswer::Genesis(genesis.clone()),
                    Some(_) => HelloAnswer::Refused(HelloRefusal::Incarnation),
                    None => HelloAnswer::Refused(HelloRefusal::Unknown),
                };
            }
            (Standing::Member { .. }, None) => Err(HelloRefusal::NotReady),
            (Standing::Member { .. }, Some(_)) => self.check_member(&hello.name, &hello.claim),
        };
        match answer {
            Ok(()) => HelloAnswer::Accepted { version, claim: self.claim() },
            Err(refusal) => HelloAnswer::Refused(refusal),
        }
    }

    /// Who answered, or why the answer is not taken.
    pub fn accept_answer(
        &self,
        peer_name: &str,
        answer: &HelloAnswer,
    ) -> Result<NodeId, HelloRefusal> {
        match answer {
            HelloAnswer::Accepted { version, claim } => {
                if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION_MAX).contains(version) {
                    return Err(HelloRefusal::Version);
                }
                self.check_member(peer_name, claim)?;
                Ok(claim.node)
            }
            HelloAnswer::Blank { .. } | HelloAnswer::Genesis(_) => Err(HelloRefusal::NotReady),
            HelloAnswer::Refused(refusal) => Err(*refusal),
        }
    }

    fn judge_blank(&self, seed_digest: u64) -> HelloAnswer {
        match self.claim.standing {
            Standing::Blank { seed_digest: ours } if ours == seed_digest => {
                HelloAnswer::Blank { claim: self.claim() }
            }
            Standing::Blank { .. } | Standing::Member { .. } => {
                HelloAnswer::Refused(HelloRefusal::Seeds)
            }
        }
    }

    fn check_member(&self, name: &str, claim: &Claim) -> Result<(), HelloRefusal> {
        let Some(known) = self.node_named(name) else { return Err(HelloRefusal::Unknown) };
        let Standing::Member { cluster, term, last_term, last_index } = claim.standing else {
            return Err(HelloRefusal::Incarnation);
        };
        if self.cluster() != Some(cluster) {
            return Err(HelloRefusal::ClusterIdentity);
        }
        if known != claim.node {
            return Err(HelloRefusal::Incarnation);
        }
        match self.marks.get(&claim.node) {
            Some(mark) => {
                // A log's last (term, index) never moves back on a disk that keeps what it synced:
                // entries are only ever cut off together with the arrival of one of a later term.
                let older = claim.boot < mark.boot
                    || term < mark.term
                    || (last_term, last_index) < (mark.last_term, mark.last_index);
                if older { Err(HelloRefusal::RolledBack) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    fn node_named(&self, name: &str) -> Option<NodeId> {
        let mut members = self.membership.members().iter();
        members.find(|(_, member)| member.name == name).map(|(&node, _)| node)
    }

    /// The membership in force has changed.
    pub(super) fn set_membership(&mut self, membership: Membership) {
        self.membership = membership;
    }

    /// This much is durable here from now on.
    pub(super) fn set_durable(&mut self, durable: (Term, Term, Index)) {
        if let Standing::Member { term, last_term, last_index, .. } = &mut self.claim.standing {
            (*term, *last_term, *last_index) = durable;
        }
    }

    /// A member that was accepted started its `boot`-th boot or a later one.
    pub fn mark_boot(&mut self, claim: &Claim) {
        let Standing::Member { term, last_term, last_index, .. } = claim.standing else { return };
        self.raise_mark(PeerMark {
            node: claim.node,
            boot: claim.boot,
            term,
            last_term,
            last_index,
        });
    }

    /// A peer has acknowledged that its log is durable up to this entry, in this term.
    pub(super) fn mark_promise(&mut self, node: NodeId, term: Term, last: (Term, Index)) {
        let boot = self.marks.get(&node).map_or(Default::default(), |mark| mark.boot);
        self.raise_mark(PeerMark { node, boot, term, last_term: last.0, last_index: last.1 });
    }

    fn raise_mark(&mut self, new: PeerMark) {
        let mark = self.marks.entry(new.node).or_insert_with(|| {
            self.marks_changed = true;
            new
        });
        if new.boot > mark.boot || new.term > mark.term {
            self.marks_changed = true;
        }
        mark.boot = mark.boot.max(new.boot);
        mark.term = mark.term.max(new.term);
        if (new.last_term, new.last_index) > (mark.last_term, mark.last_index) {
            (mark.last_term, mark.last_index) = (new.last_term, new.last_index);
            self.marks_changed = true;
        }
    }

    /// The marks to be made durable, if any moved since the last call.
    pub(super) fn take_changed_marks(&mut self) -> Vec<PeerMark> {
        if !std::mem::take(&mut self.marks_changed) {
            return Vec::new();
        }
        self.marks.values().copied().collect()
    }
}
