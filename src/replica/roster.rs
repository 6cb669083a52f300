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
/// - The boot and the term of a mark never move back, and within a term neither does its last
///   entry: what a peer has once demonstrably promised is remembered.
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
        // Another cluster first: its nodes are named like members, or like those who once were.
        if let Standing::Member { cluster, .. } = claim.standing
            && self.cluster() != Some(cluster)
        {
            return Err(HelloRefusal::ClusterIdentity);
        }
        let Some(known) = self.node_named(name) else { return Err(HelloRefusal::Unknown) };
        let Standing::Member { term, last_term, last_index, .. } = claim.standing else {
            return Err(HelloRefusal::Incarnation);
        };
        if known != claim.node {
            return Err(HelloRefusal::Incarnation);
        }
        match self.marks.get(&claim.node) {
            Some(mark) => {
                // What was acknowledged to the leader of a term stays at least until a later term:
                // only the leader of a later term may replace it, even by less for a while.
                let lost = term == mark.term
                    && (last_term, last_index) < (mark.last_term, mark.last_index);
                let older = claim.boot < mark.boot || term < mark.term || lost;
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

    /// A member that was accepted started its `boot`-th boot or a later one, and has seen its term.
    /// The last entry that it claims is no promise: a leader of that very term may still replace
    /// it.
    pub fn mark_boot(&mut self, claim: &Claim) {
        let Standing::Member { term, .. } = claim.standing else { return };
        let (last_term, last_index) = (Term(0), Index(0));
        let (node, boot) = (claim.node, claim.boot);
        self.raise_mark(PeerMark { node, boot, term, last_term, last_index });
    }

    /// A member that answered this node's hello started its `boot`-th boot or a later one.
    ///
    /// Only the boot is taken from an answer: it may overtake a hello of the same peer, made a
    /// little earlier and still on its way, which would then look rolled back and end that peer's
    /// process. Acknowledgements and hellos of one peer travel one way and overtake nothing.
    pub fn mark_answer(&mut self, claim: &Claim) {
        let known = self.marks.get(&claim.node).copied();
        let mark = known.unwrap_or(PeerMark {
            node: claim.node,
            boot: claim.boot,
            term: Term(0),
            last_term: Term(0),
            last_index: Index(0),
        });
        self.raise_mark(PeerMark { boot: claim.boot, ..mark });
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
        if new.boot > mark.boot {
            self.marks_changed = true;
        }
        mark.boot = mark.boot.max(new.boot);
        let (before, after) = (
            (mark.term, mark.last_term, mark.last_index),
            (new.term, new.last_term, new.last_index),
        );
        // A later term begins with nothing acknowledged in it.
        if after > before {
            (mark.term, mark.last_term, mark.last_index) = after;
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::Roster;
    use crate::base::{Boot, ClusterId, Index, NodeId, Term};
    use crate::raft::{Member, Membership};
    use crate::wire::{Claim, Genesis, Hello, HelloAnswer, HelloRefusal, LinkClass, Standing};

    fn claim(node: u64, boot: u64, term: u64, last: (u64, u64)) -> Claim {
        let standing = Standing::Member {
            cluster: ClusterId(1),
            term: Term(term),
            last_term: Term(last.0),
            last_index: Index(last.1),
        };
        Claim { node: NodeId(node), boot: Boot(boot), standing }
    }

    fn roster() -> Roster {
        let voters = BTreeSet::from([NodeId(1), NodeId(2)]);
        let member = |node: &NodeId| {
            (*node, Member { name: format!("n{node}"), address: format!("n{node}:1") })
        };
        let members: BTreeMap<_, _> = voters.iter().map(member).collect();
        let membership =
            Membership::new(voters, BTreeSet::new(), BTreeSet::new(), members).expect("both vote");
        let genesis = Genesis { cluster: ClusterId(1), membership: membership.clone() };
        Roster::member("c".to_owned(), claim(1, 1, 1, (1, 1)), genesis, membership, Vec::new())
    }

    fn says(roster: &mut Roster, claim: Claim) -> Result<NodeId, HelloRefusal> {
        let version = crate::wire::PROTOCOL_VERSION_MAX;
        let answer = HelloAnswer::Accepted { version, claim: claim.clone() };
        let accepted = roster.accept_answer("n2", &answer);
        if accepted.is_ok() {
            roster.mark_boot(&claim);
        }
        accepted
    }

    #[test]
    fn a_member_whose_uncommitted_tail_was_replaced_by_a_shorter_one_is_healthy() {
        // In term 3 it acknowledged an entry that was never committed. The leader of term 4 has
        // entries of term 2 in that place, and a piece of them arrives first: for a while the last
        // entry is of an older term than the one that it replaced.
        let mut roster = roster();
        assert_eq!(says(&mut roster, claim(2, 1, 3, (2, 50))), Ok(NodeId(2)));
        roster.mark_promise(NodeId(2), Term(3), (Term(3), Index(60)));
        let replaced = HelloAnswer::Accepted { version: 1, claim: claim(2, 2, 4, (2, 51)) };
        assert_eq!(roster.accept_answer("n2", &replaced), Ok(NodeId(2)), "heard of at once");
        // Or it votes in term 4 before anything is replaced, and says so in a hello first.
        assert_eq!(says(&mut roster, claim(2, 1, 4, (3, 60))), Ok(NodeId(2)));
        assert_eq!(says(&mut roster, claim(2, 2, 4, (2, 51))), Ok(NodeId(2)));
        roster.mark_promise(NodeId(2), Term(4), (Term(2), Index(51)));
        assert_eq!(says(&mut roster, claim(2, 2, 4, (4, 90))), Ok(NodeId(2)));
    }

    #[test]
    fn an_old_copy_of_a_disk_is_noticed_by_its_boot_its_term_or_what_it_acknowledged() {
        let mut roster = roster();
        assert_eq!(says(&mut roster, claim(2, 5, 3, (2, 50))), Ok(NodeId(2)));
        roster.mark_promise(NodeId(2), Term(3), (Term(3), Index(60)));
        let older = Err(HelloRefusal::RolledBack);
        assert_eq!(says(&mut roster, claim(2, 4, 3, (3, 60))), older, "its boot");
        assert_eq!(says(&mut roster, claim(2, 6, 2, (3, 60))), older, "its term");
        assert_eq!(says(&mut roster, claim(2, 6, 3, (3, 59))), older, "its log");
        assert_eq!(says(&mut roster, claim(2, 6, 3, (3, 60))), Ok(NodeId(2)));
    }

    fn hello(claim: Claim) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            class: LinkClass::Consensus,
            cluster_name: "c".to_owned(),
            name: "n2".to_owned(),
            to_name: "n1".to_owned(),
            claim,
        }
    }

    #[test]
    fn a_hello_that_an_answer_of_the_same_peer_overtook_is_no_rollback() {
        // Two nodes dial each other at once. The first one's hello says 113 and is slow; meanwhile
        // it writes on and answers the other's hello with 116. Found by the simulator: the first
        // one was refused as rolled back, which ends its process.
        let mut roster = roster();
        roster.mark_answer(&claim(2, 1, 3, (3, 116)));
        let slow = hello(claim(2, 1, 3, (3, 113)));
        assert!(matches!(roster.judge(&slow), HelloAnswer::Accepted { .. }));
        // What it acknowledged itself still counts.
        roster.mark_promise(NodeId(2), Term(3), (Term(3), Index(114)));
        let refused = HelloAnswer::Refused(HelloRefusal::RolledBack);
        assert_eq!(roster.judge(&slow), refused);
    }
}
