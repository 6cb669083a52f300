//! Every order of events within small bounds: real cores, a network that loses, repeats and
//! reorders, disks that write late, crashes. What must hold, holds in each state that can be
//! reached (RELIABILITY 2A, 3F).
//!
//! This is a search, not a sample: from a start, each state is entered once, and from each state
//! every event is tried that the bounds allow. What is bounded is counted ([`Bounds`]): terms,
//! proposals, crashes and so on; without `depth`, what remains is finite and explored whole.
//! Loss needs no event: a message need not arrive.
//!
//! Time stands still: a timer fires when the search says so. Therefore a leader hears from everyone
//! "just now", a retransmission is due with each heartbeat, and which of two timers is first is
//! open. Elections come in two kinds: as they are, with pre-vote and stickiness, or
//! ([`Bounds::eager`]) with none of that, as if a leader had told the node to campaign: more than
//! can happen, and less deep.
//!
//! ```text
//! cargo test --lib raft::model -- --nocapture
//! QUORUMD_MODEL=all cargo test --release --lib raft::model -- --nocapture --test-threads 2
//! ```

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the search remembers states by their hash, and says how long it took"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use bytes::Bytes;

use crate::base::mutation::{AVAILABLE, Mutation};
use crate::base::{Index, Instant, NodeId, Rng, Span, Term};
use crate::raft::roles::State;
use crate::raft::{
    Body, Campaign, Entry, HardState, Member, Membership, Message, Options, Payload, PersistToken,
    Raft, Ready, Restored, Role, check,
};

/// The only time there is.
const NOW: Instant = Instant::from_micros(1_000_000);

/// How often what may happen, from the start on.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// Highest term that a node may campaign in.
    terms: u64,
    /// Commands that leaders take.
    proposals: u8,
    /// Crashes, each followed by a restart at once.
    crashes: u8,
    /// Messages that arrive and stay under way.
    repeats: u8,
    /// Heartbeats of leaders, in rounds.
    beats: u8,
    /// Changes of membership, to the next of [`Bounds::target`].
    changes: u8,
    /// Voters after each change, in turn.
    target: &'static [&'static [u64]],
    /// Leaders that hand over.
    transfers: u8,
    /// Leaders that give up because they heard from no quorum.
    resignations: u8,
    /// Writes become durable when the search says so, and a crash may lose those that are not. Else
    /// each is durable at once.
    late_disks: bool,
    /// Elections begin with a real vote that no leader's life stands in the way of.
    eager: bool,
    /// Answers that change nothing any more are taken out of the network (not with
    /// [`Bounds::late_disks`]: a crash could bring a term back).
    tidy: bool,
    /// Events after the start; zero for as many as there are.
    depth: u16,
}

/// How often what has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    proposals: u8,
    crashes: u8,
    repeats: u8,
    beats: u8,
    changes: u8,
    transfers: u8,
    resignations: u8,
}

#[derive(Clone, Debug, Default, Hash)]
struct Disk {
    term: Term,
    vote: Option<NodeId>,
    commit: Index,
    log: Vec<Entry>,
}

#[derive(Clone, Debug, Hash)]
struct Write {
    hard_state: Option<(Term, Option<NodeId>, Index)>,
    entries: Vec<Entry>,
    messages: Vec<Message>,
}

#[derive(Clone, Debug, Hash)]
struct Node {
    raft: Raft,
    disk: Disk,
    writes: Vec<(PersistToken, Write)>,
}

/// One state of everything. What the nodes have in common is shared between states.
#[derive(Clone, Debug)]
struct World {
    nodes: Vec<(u64, Rc<Node>)>,
    /// Under way, sorted, each as often as it is.
    network: Vec<(u64, Rc<Message>)>,
    /// Who led which term.
    leaders: Vec<Option<NodeId>>,
    /// Whatever any node ever knew to be committed, each with the term in which it was.
    committed: Rc<Vec<(Term, Entry)>>,
    spent: Spent,
    /// What happened, for [`Seen`]; no part of the state.
    seen: Seen,
}

/// What the search must have met, or it has shown nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    elected: bool,
    second_leader: bool,
    command_committed: bool,
    replaced: bool,
    joint_committed: bool,
    change_committed: bool,
    handed_over: bool,
    lost_write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A message of the network, by its place.
    Arrive(usize),
    Change(usize),
    /// The node stops with so many of its writes durable, and starts again.
    Crash(usize, usize),
    Fire(usize),
    Persist(usize),
    Propose(usize),
    Repeat(usize),
    Resign(usize),
    Transfer(usize, usize),
}

/// Fewer than two lines of a hash map are worth a cryptographic hash.
type Known = HashMap<u64, u16, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug, Default)]
struct Report {
    states: u64,
    events: u64,
    deepest: usize,
    seen: Seen,
    /// The events that led to it, and what was wrong.
    failure: Option<(Vec<String>, String)>,
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn place(node: NodeId) -> usize {
    node.0 as usize - 1
}

fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    let set = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let member =
        |node: &NodeId| (*node, Member { name: node.0.to_string(), address: String::new() });
    let members: BTreeMap<_, _> = (&set(voters) | &set(learners)).iter().map(member).collect();
    Membership::new(set(voters), BTreeSet::new(), set(learners), members).unwrap()
}

fn options() -> Options {
    Options {
        election_timeout: Span::from_micros(3),
        heartbeat_interval: Span::ZERO,
        leader_lost_jitter: Span::ZERO,
        append_entries_max: 1,
        inflight_messages_max: 4,
        learner_pause: Span::ZERO,
        ..Options::default()
    }
}

/// Takes out what does not matter: when timers are due, and what comes of the random generator.
fn canonical(node: &mut Node) {
    let raft = &mut node.raft;
    raft.rng = Rng::new(0);
    match &mut raft.state {
        State::Candidate(own) | State::PreCandidate(own) => own.deadline = NOW,
        State::Follower(follower) => follower.deadline = NOW,
        State::Leader(leader) => leader.heartbeat_at = NOW,
    }
    let tokens: Vec<PersistToken> = node.writes.iter().map(|(token, _)| *token).collect();
    raft.writes.renumber(&tokens);
    for (number, (token, _)) in (1..).zip(&mut node.writes) {
        *token = PersistToken(number);
    }
}

impl Disk {
    fn write(&mut self, write: &Write) {
        if let Some((term, vote, commit)) = write.hard_state {
            assert!(term >= self.term, "the durable term goes back");
            let changed = term == self.term && self.vote.is_some() && vote != self.vote;
            assert!(!changed, "R4: the durable vote of term {term} changes");
            (self.term, self.vote, self.commit) = (term, vote, commit);
        }
        if let Some(first) = write.entries.first() {
            let keep = first.index.0 as usize - 1;
            assert!(keep <= self.log.len(), "R15: a write leaves a gap before {}", first.index);
            self.log.truncate(keep);
            self.log.extend_from_slice(&write.entries);
        }
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(index.0.checked_sub(1)? as usize)
    }
}

impl World {
    fn new(voters: &[u64], learners: &[u64]) -> Self {
        let base = membership(voters, learners);
        let nodes = (0..base.members().len())
            .map(|at| {
                let node = start(at, Disk::default(), &base);
                (hash_of(&node), Rc::new(node))
            })
            .collect();
        World {
            nodes,
            network: Vec::new(),
            leaders: Vec::new(),
            committed: Rc::default(),
            spent: Spent::default(),
            seen: Seen::default(),
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (hash, _) in &self.nodes {
            hash.hash(&mut hasher);
        }
        for (hash, _) in &self.network {
            hash.hash(&mut hasher);
        }
        (&self.leaders, &self.committed, &self.spent).hash(&mut hasher);
        hasher.finish()
    }

    /// Every event that may happen now.
    fn actions(&self, bounds: &Bounds) -> Vec<Action> {
        let (spent, mut actions) = (&self.spent, Vec::new());
        for (at, (hash, _)) in self.network.iter().enumerate() {
            // Which of two equal messages arrives makes no difference.
            if at > 0 && self.network[at - 1].0 == *hash {
                continue;
            }
            actions.push(Action::Arrive(at));
            if spent.repeats < bounds.repeats {
                actions.push(Action::Repeat(at));
            }
        }
        for (at, (_, node)) in self.nodes.iter().enumerate() {
            let raft = &node.raft;
            if !node.writes.is_empty() {
                actions.push(Action::Persist(at));
            }
            if spent.crashes < bounds.crashes {
                actions.extend((0..=node.writes.len()).map(|keep| Action::Crash(at, keep)));
            }
            match raft.role() {
                Role::Leader => {
                    if spent.beats < bounds.beats {
                        actions.push(Action::Fire(at));
                    }
                    if spent.proposals < bounds.proposals {
                        actions.push(Action::Propose(at));
                    }
                    if spent.changes < bounds.changes {
                        actions.push(Action::Change(at));
                    }
                    if spent.transfers < bounds.transfers {
                        let others = (0..self.nodes.len()).filter(|to| *to != at);
                        actions.extend(others.map(|to| Action::Transfer(at, to)));
                    }
                    if spent.resignations < bounds.resignations {
                        actions.push(Action::Resign(at));
                    }
                }
                Role::Candidate | Role::Follower | Role::PreCandidate => {
                    if raft.term().0 < bounds.terms && raft.membership().is_voter(id(at)) {
                        actions.push(Action::Fire(at));
                    }
                }
                Role::Learner => {}
            }
        }
        actions
    }

    /// Lets `action` happen. Panics when something does not hold then.
    fn perform(&mut self, action: Action, bounds: &Bounds) {
        match action {
            Action::Arrive(at) => {
                let (_, message) = self.network.remove(at);
                self.deliver(&message, bounds);
            }
            Action::Repeat(at) => {
                self.spent.repeats += 1;
                let message = Rc::clone(&self.network[at].1);
                self.deliver(&message, bounds);
            }
            Action::Change(at) => {
                let target = bounds.target[usize::from(self.spent.changes) % bounds.target.len()];
                let target = membership(target, &[]);
                self.spent.changes += 1;
                self.act(at, bounds, |raft| {
                    // Refused is refused.
                    let _ = raft.change_membership(NOW, target);
                });
            }
            Action::Crash(at, keep) => self.crash(at, keep, bounds),
            Action::Fire(at) => self.fire(at, bounds),
            Action::Persist(at) => self.persist(at, bounds),
            Action::Propose(at) => {
                self.spent.proposals += 1;
                let command = Bytes::from(vec![self.spent.proposals]);
                self.act(at, bounds, |raft| {
                    let _ = raft.propose(NOW, vec![command]);
                });
            }
            Action::Resign(at) => {
                self.spent.resignations += 1;
                self.act(at, bounds, |raft| raft.become_follower(raft.term(), None));
            }
            Action::Transfer(at, to) => {
                self.spent.transfers += 1;
                self.act(at, bounds, |raft| {
                    let _ = raft.transfer(NOW, id(to));
                });
            }
        }
    }

    fn fire(&mut self, at: usize, bounds: &Bounds) {
        let leads = self.nodes[at].1.raft.role() == Role::Leader;
        self.spent.beats += u8::from(leads);
        self.act(at, bounds, |raft| {
            if leads || !bounds.eager {
                raft.timeout(NOW);
            } else {
                raft.abort_reads();
                // A candidate's next term begins as a follower's does.
                raft.become_follower(raft.term(), None);
                raft.become_candidate();
                raft.request_votes(Campaign::Transfer);
            }
        });
    }

    fn deliver(&mut self, message: &Message, bounds: &Bounds) {
        let to = place(message.to);
        if to < self.nodes.len() {
            self.act(to, bounds, |raft| raft.step(NOW, message.clone()));
            let told = matches!(message.body, Body::TimeoutNow);
            self.seen.handed_over |= told && self.nodes[to].1.raft.role() == Role::Candidate;
        }
    }

    fn crash(&mut self, at: usize, keep: usize, bounds: &Bounds) {
        self.spent.crashes += 1;
        let (_, node) = &self.nodes[at];
        let mut disk = node.disk.clone();
        self.seen.lost_write |= keep < node.writes.len();
        for (_, write) in &node.writes[..keep] {
            disk.write(write);
        }
        let base = node.raft.configurations.iter().next().expect("the first is kept").1.clone();
        self.nodes[at].1 = Rc::new(start(at, disk, &base));
        self.act(at, bounds, |_| {});
    }

    fn persist(&mut self, at: usize, bounds: &Bounds) {
        let node = Rc::make_mut(&mut self.nodes[at].1);
        let (token, write) = node.writes.remove(0);
        node.disk.write(&write);
        for message in write.messages {
            self.post(message, bounds);
        }
        self.act(at, bounds, |raft| raft.persisted(NOW, token));
    }

    /// Does something to one core, takes what comes of it, and looks at everything.
    fn act(&mut self, at: usize, bounds: &Bounds, act: impl FnOnce(&mut Raft)) {
        let node = Rc::make_mut(&mut self.nodes[at].1);
        let before = Before::of(&node.raft);
        act(&mut node.raft);
        check(&node.raft);
        before.check(&node.raft);
        self.observe(at, &before);
        loop {
            let node = Rc::make_mut(&mut self.nodes[at].1);
            if !node.raft.has_ready() {
                break;
            }
            let ready = node.raft.ready();
            check(&node.raft);
            self.take(at, ready, bounds);
        }
        let node = Rc::make_mut(&mut self.nodes[at].1);
        canonical(node);
        check(&node.raft);
        self.nodes[at].0 = hash_of(node);
        self.check_all(at);
        if bounds.tidy {
            let raft = &self.nodes[at].1.raft;
            self.network.retain(|(_, message)| message.to != id(at) || !is_spent(raft, message));
        }
    }

    fn take(&mut self, at: usize, ready: Ready, bounds: &Bounds) {
        let Ready { token, hard_state, must_sync, entries, messages, committed, .. } = ready;
        for message in messages {
            self.post(message, bounds);
        }
        let node = Rc::make_mut(&mut self.nodes[at].1);
        for entry in &committed {
            assert_eq!(
                self.committed.get(entry.index.0 as usize - 1).map(|(_, entry)| entry),
                Some(entry),
                "R8: {} is applied and is not what was committed",
                entry.index
            );
            node.raft.applied(entry.index);
        }
        let messages = ready.messages_after_persist;
        if !must_sync && messages.is_empty() {
            return;
        }
        let hard_state = hard_state.map(|HardState { term, vote, commit }| (term, vote, commit));
        node.writes.push((token, Write { hard_state, entries, messages }));
        if !bounds.late_disks {
            let before = Before::of(&node.raft);
            let (token, write) = node.writes.remove(0);
            node.disk.write(&write);
            node.raft.persisted(NOW, token);
            for message in write.messages {
                self.post(message, bounds);
            }
            self.observe(at, &before);
        }
    }

    /// Puts a message on the network, after a look at what it promises.
    fn post(&mut self, message: Message, bounds: &Bounds) {
        self.check_promise(&message);
        let to = self.nodes.get(place(message.to));
        if bounds.tidy && to.is_some_and(|(_, node)| is_spent(&node.raft, &message)) {
            return;
        }
        let hash = hash_of(&message);
        let at = self.network.partition_point(|(other, _)| *other <= hash);
        self.network.insert(at, (hash, Rc::new(message)));
    }

    /// R9: what is sent is durable. R2 follows: the disk holds one vote for a term.
    fn check_promise(&self, message: &Message) {
        let Message { from, to, term, body } = message;
        let disk = &self.nodes[place(*from)].1.disk;
        match body {
            Body::VoteRequest { campaign: Campaign::Transfer | Campaign::Vote, .. } => {
                let own = (disk.term, disk.vote) == (*term, Some(*from));
                assert!(own, "R9: {from} asks for votes of {term}, its own is not durable");
            }
            Body::VoteResponse { campaign: Campaign::Transfer | Campaign::Vote, granted: true } => {
                let given = (disk.term, disk.vote) == (*term, Some(*to));
                assert!(given, "R9: {from} votes for {to} in {term}, and that is not durable");
            }
            Body::AppendAccepted { matched } => {
                assert!(disk.term >= *term, "R9: {from} accepts in {term}, which is not durable");
                let durable = disk.log.len() as u64;
                assert!(durable >= matched.0, "R9: {from} claims {matched}, holds {durable}");
                let Some((_, other)) = self.nodes.get(place(*to)) else { return };
                if other.raft.role() == Role::Leader && other.raft.term() == *term {
                    let held = disk.entry(*matched).map(|entry| entry.term);
                    let sent = other.raft.entry(*matched).map(|entry| entry.term);
                    assert_eq!(held, sent, "R9: {from} claims {matched} and holds another");
                }
            }
            _ => {}
        }
    }

    /// Takes note of who leads and what is committed.
    fn observe(&mut self, at: usize, before: &Before) {
        let node = Rc::clone(&self.nodes[at].1);
        let raft = &node.raft;
        if raft.role() == Role::Leader {
            let term = raft.term().0 as usize;
            self.leaders.resize(self.leaders.len().max(term + 1), None);
            let first = *self.leaders[term].get_or_insert(id(at));
            assert_eq!(first, id(at), "R1: two leaders in term {term}");
            self.seen.second_leader |= self.leaders.iter().flatten().any(|other| *other != first);
            self.seen.elected = true;
        }
        self.seen.replaced |= before.last > raft.log.last_index() || before.changed(raft);
        let known = self.committed.len() as u64;
        for index in known + 1..=raft.commit().0 {
            let entry = raft.entry(Index(index)).expect("the log is whole").clone();
            assert!(before.leads, "R10: {} commits {index} before any leader", id(at));
            self.check_quorum(&entry, &before.membership);
            match &entry.payload {
                Payload::Command(_) => self.seen.command_committed = true,
                Payload::Membership(new) if new.is_joint() => self.seen.joint_committed = true,
                Payload::Membership(_) => self.seen.change_committed = true,
                Payload::Empty => {}
            }
            Rc::make_mut(&mut self.committed).push((raft.term(), entry));
        }
    }

    /// R10: what commits is durable on a quorum of each half of the configuration in force.
    fn check_quorum(&self, entry: &Entry, membership: &Membership) {
        let holds =
            |node: &&NodeId| self.nodes[place(**node)].1.disk.entry(entry.index) == Some(entry);
        for half in [membership.voters(), membership.outgoing()] {
            let holders = half.iter().filter(holds).count();
            let enough = half.is_empty() || holders * 2 > half.len();
            let (index, of) = (entry.index, half.len());
            assert!(enough, "R10: {index} commits and is durable on {holders} of {of}");
        }
    }

    /// What spans nodes, after a change of the one at `at`.
    fn check_all(&self, at: usize) {
        let node = &self.nodes[at].1;
        for (number, (_, other)) in self.nodes.iter().enumerate() {
            if number != at {
                check_matching(&node.raft, &other.raft, id(at), id(number));
            }
            let raft = &other.raft;
            for (_, entry) in &self.committed[..raft.commit().0 as usize] {
                let held = raft.entry(entry.index);
                assert_eq!(held, Some(entry), "R11: what {} committed changed", id(number));
            }
            if raft.role() == Role::Leader {
                for (_, entry) in self.committed.iter().filter(|(term, _)| *term < raft.term()) {
                    let held = raft.entry(entry.index);
                    assert_eq!(held, Some(entry), "R7: leader {} lacks it", id(number));
                }
            }
        }
        check_change(&node.raft);
    }
}

/// Whether `message` is an answer that the node it is for has left behind, for good as long as its
/// disk is written at once.
fn is_spent(raft: &Raft, message: &Message) -> bool {
    let older = message.term < raft.term();
    match (&message.body, &raft.state) {
        (Body::AppendAccepted { matched }, State::Leader(leader))
            if message.term == raft.term() =>
        {
            let feed = leader.feeds.get(&message.from);
            feed.is_none_or(|feed| *matched <= feed.matched() && !feed.is_probing())
        }
        (Body::VoteResponse { campaign: Campaign::Transfer | Campaign::Vote, .. }, state) => {
            let counts = message.term == raft.term() && matches!(state, State::Candidate(_));
            message.term <= raft.term() && !counts
        }
        (Body::AppendAccepted { .. } | Body::AppendRejected(_), state) => {
            older || message.term == raft.term() && !matches!(state, State::Leader(_))
        }
        (Body::HeartbeatResponse { .. } | Body::TimeoutNow, _) => older,
        _ => false,
    }
}

fn start(at: usize, disk: Disk, base: &Membership) -> Node {
    let hard_state = HardState { term: disk.term, vote: disk.vote, commit: disk.commit };
    let restored = Restored {
        hard_state,
        snapshot_index: Index(0),
        snapshot_term: Term(0),
        membership: base.clone(),
        entries: disk.log.clone(),
        applied: Index(0),
    };
    let raft = Raft::new(id(at), options(), restored, Rng::new(0), NOW).unwrap();
    let mut node = Node { raft, disk, writes: Vec::new() };
    canonical(&mut node);
    node
}

/// R6: equal terms at an index mean equal logs up to there.
fn check_matching(a: &Raft, b: &Raft, name: NodeId, other: NodeId) {
    let mut equal = false;
    for index in (1..=a.log.last_index().min(b.log.last_index()).0).rev().map(Index) {
        let (left, right) = (a.entry(index), b.entry(index));
        equal |= left.map(|entry| entry.term) == right.map(|entry| entry.term);
        assert!(!equal || left == right, "R6: {name} and {other} differ at {index}");
    }
}

/// R14 b to d, on a leader: one change at a time, after an entry of its own term, and a joint
/// configuration is left when it is committed.
fn check_change(raft: &Raft) {
    let State::Leader(leader) = &raft.state else { return };
    let open = || raft.configurations.iter().filter(|(index, _)| *index > raft.commit);
    assert!(open().count() <= 1, "R14: two changes of membership are under way");
    for (index, _) in open().filter(|(index, _)| *index > leader.opening) {
        assert!(raft.commit >= leader.opening, "R14: {index} changes membership too early");
    }
    for (before, index, after) in raft.configurations.steps() {
        let leaves = before.is_joint() && !after.is_joint();
        let at = raft.configurations.iter().rfind(|(at, _)| *at < index);
        let entered = at.map_or(Index(0), |(at, _)| *at);
        assert!(!leaves || entered <= raft.commit, "R14: {index} leaves what is not committed");
    }
}

/// What was, to be compared with what is.
struct Before {
    leads: bool,
    term: Term,
    commit: Index,
    last: Index,
    last_term: Option<Term>,
    membership: Membership,
}

impl Before {
    fn of(raft: &Raft) -> Self {
        let last = raft.log.last_index();
        Self {
            leads: raft.role() == Role::Leader,
            term: raft.term(),
            commit: raft.commit(),
            last,
            last_term: raft.term_at(last),
            membership: raft.membership().clone(),
        }
    }

    fn changed(&self, raft: &Raft) -> bool {
        raft.term_at(self.last) != self.last_term
    }

    fn check(&self, raft: &Raft) {
        assert!(raft.term() >= self.term, "R4: the term goes back");
        assert!(raft.commit() >= self.commit, "R13: the commit index goes back");
        let leads = self.leads && raft.role() == Role::Leader && raft.term() == self.term;
        assert!(!leads || !self.changed(raft), "R5: a leader changes its own log");
    }
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.elected |= other.elected;
        self.second_leader |= other.second_leader;
        self.command_committed |= other.command_committed;
        self.replaced |= other.replaced;
        self.joint_committed |= other.joint_committed;
        self.change_committed |= other.change_committed;
        self.handed_over |= other.handed_over;
        self.lost_write |= other.lost_write;
    }
}

/// Whether the long runs were asked for.
fn everything() -> bool {
    std::env::var_os("QUORUMD_MODEL").is_some_and(|value| value == "all")
}

/// Explores everything from `start` on, and stops at the first failure.
fn explore(start: &World, bounds: &Bounds) -> Report {
    let mut report = Report::default();
    let mut known = Known::default();
    let mut path: Vec<(World, Vec<Action>, Option<Action>)> = Vec::new();
    known.insert(start.fingerprint(), 0);
    path.push((start.clone(), start.actions(bounds), None));
    while let Some((world, actions, current)) = path.last_mut() {
        let Some(action) = actions.pop() else {
            path.pop();
            continue;
        };
        *current = Some(action);
        report.events += 1;
        let mut next = world.clone();
        let result = catch_unwind(AssertUnwindSafe(|| next.perform(action, bounds)));
        if let Err(panic) = result {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let lines = path.iter().filter_map(|(world, _, action)| Some(world.tell((*action)?)));
            report.failure = Some((lines.collect(), said.unwrap_or_default()));
            break;
        }
        report.seen.add(&next.seen);
        let depth = path.len();
        report.deepest = report.deepest.max(depth);
        let entry = known.entry(next.fingerprint());
        let new = matches!(entry, std::collections::hash_map::Entry::Vacant(_));
        let best = entry.or_insert(u16::MAX);
        // With a bound on the depth a state counts anew when it is reached on a shorter way.
        let shorter = bounds.depth > 0 && (depth as u16) < *best;
        report.states += u64::from(new);
        if new || shorter {
            *best = depth as u16;
            if bounds.depth == 0 || depth < usize::from(bounds.depth) {
                let actions = next.actions(bounds);
                path.push((next, actions, None));
            }
        }
    }
    report
}

impl World {
    /// An event in words.
    fn tell(&self, action: Action) -> String {
        match action {
            Action::Arrive(at) | Action::Repeat(at) => {
                let Message { from, to, term, body } = &*self.network[at].1;
                let again = if matches!(action, Action::Repeat(_)) { " (again)" } else { "" };
                format!("n{from} -> n{to}{again}: t{term} {body:?}")
            }
            action => format!("{action:?}, places from 0"),
        }
    }

    /// Lets everything arrive and become durable, but what goes to or comes from `cut`.
    fn settle(&mut self, bounds: &Bounds, cut: &[usize]) {
        for _ in 0..1_000 {
            let Self { nodes, network, .. } = &*self;
            let writing = nodes.iter().position(|(_, node)| !node.writes.is_empty());
            let free = |message: &Message| {
                !cut.contains(&place(message.to)) && !cut.contains(&place(message.from))
            };
            let arriving = network.iter().position(|(_, message)| free(message));
            match (writing, arriving) {
                (Some(at), _) => self.perform(Action::Persist(at), bounds),
                (None, Some(at)) => self.perform(Action::Arrive(at), bounds),
                (None, None) => break,
            }
        }
        self.network.clear();
    }

    /// Requests for votes and answers arrive that are from or for `voters`, and nothing else.
    fn vote(&mut self, voters: &[usize]) {
        loop {
            let vote = self.network.iter().position(|(_, message)| {
                let among = [message.from, message.to].map(place);
                let kind = &message.body;
                let kind = matches!(kind, Body::VoteRequest { .. } | Body::VoteResponse { .. });
                kind && among.iter().any(|node| voters.contains(node))
            });
            let Some(vote) = vote else { break };
            self.perform(Action::Arrive(vote), &SETUP);
        }
    }

    /// Nothing of what happened so far counts against the bounds.
    fn begin(mut self) -> Self {
        self.spent = Spent::default();
        self.seen = Seen::default();
        self
    }
}

/// How one gets to a start.
const SETUP: Bounds = Bounds { eager: true, ..NONE };

/// Node 1 leads term 1, and everybody knows.
fn led(voters: &[u64], learners: &[u64]) -> World {
    let mut world = World::new(voters, learners);
    world.perform(Action::Fire(0), &SETUP);
    world.settle(&SETUP, &[]);
    world.perform(Action::Fire(0), &SETUP);
    world.settle(&SETUP, &[]);
    world.begin()
}

/// The paper's figure 8 with three servers, at its (b): 1 led term 1 and holds an entry of it that
/// nobody else has; 2 led term 2 and holds one that nobody else has; both were restarted. Terms 3
/// and 4 are to come.
fn figure_8() -> World {
    let mut world = World::new(&[1, 2, 3], &[]);
    for leader in [0, 1, 1] {
        world.perform(Action::Fire(leader), &SETUP);
        world.vote(&[2]);
        world.network.clear();
    }
    let logs: Vec<_> = world.nodes.iter().map(|(_, node)| node.disk.log.len()).collect();
    assert_eq!(logs, [1, 1, 0], "figure 8 begins with these logs");
    for leader in [0, 1] {
        world.perform(Action::Crash(leader, 0), &SETUP);
    }
    world.begin()
}

/// At its (c): 1 leads term 3 by the vote of 3, and 2 knows of that term.
fn figure_8_later() -> World {
    let mut world = figure_8();
    world.perform(Action::Fire(0), &SETUP);
    world.network.clear();
    world.perform(Action::Fire(0), &SETUP);
    world.vote(&[1, 2]);
    let (_, first) = &world.nodes[0];
    assert_eq!((first.raft.role(), first.raft.term()), (Role::Leader, Term(3)), "it was elected");
    world.begin()
}

/// Explores, says how much it was, and fails with the events that led to a failure.
fn run(name: &str, start: &World, bounds: &Bounds) -> Seen {
    let clock = std::time::Instant::now();
    let report = explore(start, bounds);
    let took = clock.elapsed().as_millis();
    eprintln!(
        "{name}: {} states, {} events, longest way {}, {took} ms",
        report.states, report.events, report.deepest
    );
    if let Some((events, said)) = report.failure {
        panic!("{name}: {said}\nafter\n  {}", events.join("\n  "));
    }
    report.seen
}

/// One search: from where, how far every day and how far in the long run, and what of [`Seen`] it
/// must have met.
struct Search {
    name: &'static str,
    start: fn() -> World,
    everyday: Bounds,
    long: Bounds,
    met: fn(&Seen) -> bool,
}

const NONE: Bounds = Bounds {
    terms: 0,
    proposals: 0,
    crashes: 0,
    repeats: 0,
    beats: 0,
    changes: 0,
    target: &[],
    transfers: 0,
    resignations: 0,
    late_disks: false,
    eager: false,
    tidy: false,
    depth: 0,
};
const EAGER: Bounds = Bounds { eager: true, tidy: true, ..NONE };

fn three() -> World {
    World::new(&[1, 2, 3], &[])
}

fn led_three() -> World {
    led(&[1, 2, 3], &[])
}

fn led_two() -> World {
    led(&[1, 2], &[])
}

fn led_with_learner() -> World {
    led(&[1, 2, 3], &[4])
}

const SEARCHES: [Search; 11] = [
    Search {
        name: "three nodes from nothing: a leader and a command",
        start: three,
        everyday: Bounds { terms: 1, proposals: 1, depth: 9, ..EAGER },
        long: Bounds { terms: 1, proposals: 1, ..EAGER },
        met: |seen| seen.elected,
    },
    Search {
        name: "three nodes from nothing: two leaders",
        start: three,
        everyday: Bounds { terms: 2, depth: 7, ..EAGER },
        long: Bounds { terms: 2, depth: 15, ..EAGER },
        met: |seen| seen.elected,
    },
    Search {
        name: "elections as they are, with pre-votes",
        start: three,
        everyday: Bounds { terms: 1, depth: 7, tidy: true, ..NONE },
        long: Bounds { terms: 1, depth: 14, tidy: true, ..NONE },
        met: |_| true,
    },
    Search {
        name: "a second leader while the first one writes",
        start: led_three,
        everyday: Bounds { terms: 2, proposals: 1, depth: 9, ..EAGER },
        long: Bounds { terms: 2, proposals: 1, ..EAGER },
        met: |seen| seen.second_leader && seen.command_committed,
    },
    Search {
        name: "figure 8 of the paper, terms 3 and 4",
        start: figure_8_later,
        everyday: Bounds { terms: 4, depth: 8, ..EAGER },
        long: Bounds { terms: 4, depth: 15, ..EAGER },
        met: |seen| seen.second_leader && seen.replaced,
    },
    Search {
        name: "disks that write late, and a crash",
        start: led_three,
        everyday: Bounds {
            terms: 2,
            proposals: 1,
            crashes: 1,
            late_disks: true,
            eager: true,
            depth: 8,
            ..NONE
        },
        long: Bounds {
            terms: 2,
            proposals: 1,
            crashes: 1,
            late_disks: true,
            eager: true,
            depth: 14,
            ..NONE
        },
        met: |seen| seen.lost_write && seen.command_committed,
    },
    Search {
        name: "messages that come again, and heartbeats",
        start: led_three,
        everyday: Bounds { terms: 1, proposals: 1, repeats: 1, beats: 1, depth: 8, ..EAGER },
        long: Bounds { terms: 2, proposals: 1, repeats: 1, beats: 1, depth: 13, ..EAGER },
        met: |seen| seen.command_committed,
    },
    Search {
        name: "voters {1,2,3} become {1}",
        start: led_three,
        everyday: Bounds { terms: 1, changes: 1, target: &[&[1]], ..EAGER },
        long: Bounds { terms: 2, changes: 1, target: &[&[1]], depth: 18, ..EAGER },
        met: |seen| seen.joint_committed && seen.change_committed,
    },
    Search {
        name: "voters {1,2,3} become {2,3}: the leader goes",
        start: led_three,
        everyday: Bounds { terms: 1, changes: 1, target: &[&[2, 3]], ..EAGER },
        long: Bounds { terms: 2, changes: 1, crashes: 1, target: &[&[2, 3]], depth: 14, ..EAGER },
        met: |seen| seen.joint_committed && seen.change_committed && seen.second_leader,
    },
    Search {
        name: "voters {1,2,3} become {1,2,4}",
        start: led_with_learner,
        everyday: Bounds { terms: 1, changes: 1, target: &[&[1, 2, 4]], depth: 9, ..EAGER },
        long: Bounds { terms: 2, changes: 1, target: &[&[1, 2, 4]], depth: 13, ..EAGER },
        met: |seen| seen.joint_committed,
    },
    Search {
        name: "the lead is handed over",
        start: led_three,
        everyday: Bounds { terms: 2, transfers: 1, depth: 7, tidy: true, ..NONE },
        long: Bounds { terms: 2, transfers: 1, proposals: 1, depth: 12, tidy: true, ..NONE },
        met: |seen| seen.handed_over,
    },
];

#[test]
fn what_must_hold_holds_in_every_state_within_the_bounds() {
    for search in &SEARCHES {
        let bounds = if everything() { &search.long } else { &search.everyday };
        let seen = run(search.name, &(search.start)(), bounds);
        assert!((search.met)(&seen), "{}: it met too little: {seen:?}", search.name);
    }
}

/// Deliberate errors of the core: where each is looked for, and how far.
fn errors() -> Vec<(Mutation, World, Bounds)> {
    let late = Bounds { late_disks: true, eager: true, ..NONE };
    let next = Bounds { terms: 2, proposals: 1, depth: 7, ..EAGER };
    let change = Bounds { terms: 2, changes: 1, target: &[&[1]], depth: 8, ..EAGER };
    let twice = Bounds { changes: 2, target: &[&[1, 2], &[1]], ..change };
    vec![
        (Mutation::AckBeforeSync, led_three(), Bounds { proposals: 1, depth: 6, ..late }),
        (Mutation::ChangeBeforeOwnCommit, led_three(), Bounds { target: &[&[1, 2]], ..change }),
        (Mutation::ChangeOverUncommitted, led_three(), twice),
        (Mutation::CommitByHalf, led_two(), Bounds { proposals: 1, depth: 8, ..late }),
        (
            Mutation::CommitOldTermByCounting,
            figure_8_later(),
            Bounds { terms: 4, depth: 7, ..EAGER },
        ),
        (Mutation::JointHalfCommits, led_three(), change),
        (Mutation::JointHalfElects, led_three(), Bounds { crashes: 1, ..change }),
        (Mutation::JointLeftEarly, led_three(), Bounds { proposals: 1, ..change }),
        (Mutation::LeaderCountsUnwritten, led_three(), Bounds { proposals: 1, depth: 8, ..late }),
        (Mutation::NewLeaderDropsTail, led_three(), next),
        (Mutation::PreVoteTakesVote, three(), Bounds { terms: 1, depth: 8, tidy: true, ..NONE }),
        (Mutation::RejectionCounts, led_three(), Bounds { proposals: 3, depth: 7, ..EAGER }),
        (Mutation::TailForgottenAtRestart, led_three(), Bounds { crashes: 1, depth: 8, ..next }),
        (
            Mutation::TruncateWithoutConflict,
            led_three(),
            Bounds { proposals: 2, repeats: 1, depth: 9, ..EAGER },
        ),
        (Mutation::VoteBeforeSync, three(), Bounds { terms: 1, depth: 6, ..late }),
        (Mutation::VoteForgottenInTerm, three(), Bounds { terms: 1, depth: 9, ..EAGER }),
        (Mutation::VoteToShorterLog, led_three(), next),
    ]
}

#[test]
fn deliberate_errors_of_the_core_are_found() {
    if !AVAILABLE {
        return;
    }
    for (error, start, bounds) in errors() {
        let clock = std::time::Instant::now();
        let report = error.with(|| explore(&start, &bounds));
        let took = clock.elapsed().as_millis();
        let Some((events, said)) = report.failure else {
            panic!("{error:?} is not found in {} states", report.states);
        };
        let said = said.lines().next().unwrap_or_default().to_owned();
        let (states, length) = (report.states, events.len());
        eprintln!("{error:?}: {states} states, {took} ms, {length} events: {said}");
    }
}
