//! Who may connect: judges each hello against the membership and against what its sender has
//! promised before.
//!
//! Certificates are checked by `peer/`, which asks here only after the name in the certificate, in
//! the hello and in the configuration agree.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ClusterId, Index, NodeId, Term, limits};
use crate::raft::{Member, Membership};
use crate::storage::PeerMark;
use crate::wire::{
    Claim, Genesis, Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN, Standing,
};

/// What one node knows of itself and of the others, as far as a hello is concerned.
///
/// Invariants:
/// - The boot and the term of a mark never move back, and within a term neither does its last
///   entry: what a peer has once demonstrably promised is remembered, also after it was removed.
/// - The claim tells only what is durable here.
/// - A guest is not known, and its claim is newer than the configuration that is committed here.
#[derive(Debug)]
pub struct Roster {
    cluster_name: String,
    claim: Claim,
    genesis: Option<Genesis>,
    /// The newest configuration that is known to be committed here, and its index.
    committed: Membership,
    committed_index: Index,
    /// Everybody who may speak: the members of that configuration and of the one in force, and
    /// those who are being told that they are none any more.
    known: BTreeMap<NodeId, Member>,
    /// Those who know of a newer configuration than this node, which may hold them: by it they are
    /// let in until this node has it too. With the index of theirs.
    guests: BTreeMap<NodeId, (Index, Member)>,
    marks: BTreeMap<NodeId, PeerMark>,
    marks_changed: bool,
}

/// Guests at once: as many nodes as may lead a cluster whose changes this node has missed. More are
/// let in and only not dialled.
const GUESTS_MAX: usize = 2 * limits::VOTERS_MAX;

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
            committed: Membership::default(),
            committed_index: Index(0),
            known: BTreeMap::new(),
            guests: BTreeMap::new(),
            marks: BTreeMap::new(),
            marks_changed: false,
        }
    }

    /// The roster of a member that knows `membership`, of this index, to be committed.
    pub fn member(
        cluster_name: String,
        claim: Claim,
        genesis: Genesis,
        membership: (Index, Membership),
        marks: Vec<PeerMark>,
    ) -> Self {
        assert!(
            matches!(claim.standing, Standing::Member { cluster, .. }
                if cluster == genesis.cluster),
            "a member claims another cluster than its own"
        );
        let known = membership.1.members().clone();
        let mut roster = Self {
            cluster_name,
            claim,
            genesis: Some(genesis),
            committed: Membership::default(),
            committed_index: Index(0),
            known: BTreeMap::new(),
            guests: BTreeMap::new(),
            marks: marks.into_iter().map(|mark| (mark.node, mark)).collect(),
            marks_changed: false,
        };
        roster.set_members(membership, known);
        roster
    }

    /// What this node says of itself.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// The cluster's identity, unless this node is blank.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.genesis.as_ref().map(|genesis| genesis.cluster)
    }

    /// The names of the voters of the newest configuration that is known to be committed here.
    pub fn voters(&self) -> BTreeSet<String> {
        self.committed.voter_names()
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
                return self.judge_newcomer(genesis.cluster, hello);
            }
            // A member wants to know whom it is about to add.
            (Standing::Member { .. }, None) if hello.class == LinkClass::Bootstrap => {
                return HelloAnswer::Blank { claim: self.claim() };
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

    /// A blank node that was added begins with the configuration that holds it, once that is
    /// committed: an uncommitted one may still be taken back.
    fn judge_newcomer(&self, cluster: ClusterId, hello: &Hello) -> HelloAnswer {
        match self.committed.members().get(&hello.claim.node) {
            Some(member) if member.name == hello.name => HelloAnswer::Genesis(Genesis {
                cluster,
                membership: self.committed.clone(),
                index: self.committed_index,
            }),
            Some(_) => HelloAnswer::Refused(HelloRefusal::Incarnation),
            None if self.known.contains_key(&hello.claim.node) => {
                HelloAnswer::Refused(HelloRefusal::NotReady)
            }
            None if self.known.values().any(|member| member.name == hello.name) => {
                HelloAnswer::Refused(HelloRefusal::Incarnation)
            }
            None => HelloAnswer::Refused(HelloRefusal::Unknown),
        }
    }

    fn check_member(&self, name: &str, claim: &Claim) -> Result<(), HelloRefusal> {
        let Standing::Member { cluster, term, last_term, last_index, membership, .. } =
            claim.standing
        else {
            return Err(HelloRefusal::Incarnation);
        };
        if self.cluster() != Some(cluster) {
            // Its nodes are named like members, or like those who once were.
            return Err(HelloRefusal::ClusterIdentity);
        }
        match self.known.get(&claim.node) {
            Some(member) if member.name == name => {}
            Some(_) => return Err(HelloRefusal::Incarnation),
            // It has seen changes that this node has not: they may be what makes it a member, and
            // it may be the leader that is to bring them.
            None if membership > self.committed_index => {}
            None => return Err(HelloRefusal::Removed),
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

    /// The newest configuration known to be committed, with its index, and everybody else who may
    /// speak because of the one in force.
    pub(super) fn set_members(
        &mut self,
        (index, committed): (Index, Membership),
        contacts: BTreeMap<NodeId, Member>,
    ) {
        let own = committed.members().get(&self.claim.node);
        if let Standing::Member { membership, address, .. } = &mut self.claim.standing {
            *membership = index;
            *address = own.map(|member| member.address.clone()).unwrap_or_default();
        }
        self.known = contacts;
        for (node, member) in committed.members() {
            self.known.entry(*node).or_insert_with(|| member.clone());
        }
        self.guests.retain(|node, (newer, _)| *newer > index && !self.known.contains_key(node));
        (self.committed_index, self.committed) = (index, committed);
    }

    /// Those who were let in because they know a newer configuration, and where to answer them.
    pub(super) fn guests(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.guests.iter().map(|(&node, (_, member))| (node, member))
    }

    /// A node of this name was let in.
    pub fn welcome(&mut self, name: &str, claim: &Claim) {
        self.mark_boot(claim);
        let Standing::Member { membership, address, .. } = &claim.standing else { return };
        let is_guest = !self.known.contains_key(&claim.node) && !address.is_empty();
        let has_room = self.guests.len() < GUESTS_MAX || self.guests.contains_key(&claim.node);
        if is_guest && has_room {
            let member = Member { name: name.to_owned(), address: address.clone() };
            self.guests.insert(claim.node, (*membership, member));
        }
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
            membership: Index(0),
            address: String::new(),
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
        let genesis =
            Genesis { cluster: ClusterId(1), membership: membership.clone(), index: Index(0) };
        let committed = (Index(10), membership);
        Roster::member("c".to_owned(), claim(1, 1, 1, (1, 1)), genesis, committed, Vec::new())
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
            to_node: None,
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

    /// A hello of node `node`, named `name`, that knows the configuration at `index`.
    fn knows(name: &str, node: u64, index: u64) -> Hello {
        let mut claim = claim(node, 1, 1, (1, 1));
        if let Standing::Member { membership, address, .. } = &mut claim.standing {
            (*membership, *address) = (Index(index), format!("{name}:9"));
        }
        Hello { name: name.to_owned(), claim, ..hello(roster().claim()) }
    }

    #[test]
    fn whoever_knows_newer_members_is_let_in_until_they_are_known_here() {
        // This node was away while n3 was added and became leader: were n3 refused as a stranger,
        // nobody could ever tell this node who the members are now.
        let mut roster = roster();
        let newer = knows("n3", 3, 11);
        assert!(matches!(roster.judge(&newer), HelloAnswer::Accepted { .. }));
        roster.welcome("n3", &newer.claim);
        let guests: Vec<_> = roster.guests().map(|(node, at)| (node, at.address.clone())).collect();
        assert_eq!(guests, [(NodeId(3), "n3:9".to_owned())], "its answers must reach it");
        let removed = HelloAnswer::Refused(HelloRefusal::Removed);
        for index in [0, 10] {
            assert_eq!(roster.judge(&knows("n3", 3, index)), removed, "not newer: {index}");
        }
        let (committed, known) = (roster.committed.clone(), roster.known.clone());
        roster.set_members((Index(11), committed), known);
        assert_eq!(roster.guests().count(), 0);
        assert_eq!(roster.judge(&newer), removed);
    }

    #[test]
    fn two_lives_of_one_name_may_speak_while_one_replaces_the_other() {
        let mut roster = roster();
        let mut contacts = roster.known.clone();
        contacts.insert(NodeId(22), Member { name: "n2".to_owned(), address: "n2:2".to_owned() });
        let committed = roster.committed.clone();
        roster.set_members((Index(10), committed), contacts);
        for node in [2, 22] {
            assert!(matches!(roster.judge(&knows("n2", node, 0)), HelloAnswer::Accepted { .. }));
        }
        let other = HelloAnswer::Refused(HelloRefusal::Incarnation);
        assert_eq!(roster.judge(&knows("n1", 22, 0)), other, "another name than it was added by");
    }

    #[test]
    fn a_blank_node_is_told_its_cluster_only_when_its_addition_is_committed() {
        let mut roster = roster();
        let blank = |name: &str, node| {
            let standing = Standing::Blank { seed_digest: 5 };
            let claim = Claim { node: NodeId(node), boot: Boot(1), standing };
            Hello { name: name.to_owned(), ..hello(claim) }
        };
        let refused = HelloAnswer::Refused;
        assert_eq!(roster.judge(&blank("n3", 3)), refused(HelloRefusal::Unknown));
        assert_eq!(roster.judge(&blank("n2", 22)), refused(HelloRefusal::Incarnation), "wiped");
        let mut contacts = roster.known.clone();
        contacts.insert(NodeId(3), Member { name: "n3".to_owned(), address: "n3:1".to_owned() });
        let before = roster.committed.clone();
        roster.set_members((Index(10), before.clone()), contacts.clone());
        assert_eq!(roster.judge(&blank("n3", 3)), refused(HelloRefusal::NotReady));
        let learners = BTreeSet::from([NodeId(3)]);
        let after =
            Membership::new(before.voters().clone(), BTreeSet::new(), learners, contacts.clone());
        let after = after.expect("a learner joined");
        roster.set_members((Index(11), after.clone()), contacts);
        let genesis = Genesis { cluster: ClusterId(1), membership: after, index: Index(11) };
        assert_eq!(roster.judge(&blank("n3", 3)), HelloAnswer::Genesis(genesis));
    }
}
