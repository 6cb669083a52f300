//! Several replicas joined by a network in memory: what the tests of this folder are written with.
//!
//! Time stands still unless a test moves it; messages and writes are delivered in order, at once,
//! unless a link is cut. Faults of every other kind belong to the simulator in `tests/sim`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::{
    Boot, ClusterId, Index, Instant, LeaseId, NodeId, Revision, Rng, Span, WallMillis,
};
use crate::raft::{Member, Membership, Role};
use crate::replica::{
    Action, Event, Now, Options, Recovery, Replica, RequestError, SnapshotDesk, SnapshotJob, Ticket,
};
use crate::state::{
    Acquire, Bind, Condition, Holder, IdempotencyKey, Lease, Mode, NewLease, Operation, Outcome,
    Patience, QueueKind, QueueName,
};
use crate::storage::{Cut, Disk, Identity, RecoveredLog, StateStore};
use crate::wire::{
    Claim, Genesis, Hello, HelloAnswer, LinkClass, MembersOrder, MembersReply, PeerMessage,
    Standing,
};

pub(super) struct Cluster {
    pub(super) replicas: BTreeMap<NodeId, Replica>,
    pub(super) now: Instant,
    pub(super) answers: BTreeMap<(NodeId, Ticket), Result<Outcome, RequestError>>,
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) paused: BTreeSet<NodeId>,
    /// How long the writes of these take.
    pub(super) slow: BTreeMap<NodeId, Span>,
    disks: VecDeque<(Instant, NodeId, Event)>,
    pub(super) replies: BTreeMap<(NodeId, Ticket), Result<MembersReply, RequestError>>,
    /// Names that are not `n` and the number.
    pub(super) names: BTreeMap<NodeId, String>,
    /// Whether the transport asks the roster of the receiver about every sender.
    pub(super) gated: bool,
    /// What every node was told to look at again, by an installed state.
    pub(super) installed: BTreeMap<NodeId, Revision>,
    /// The saved state of each node.
    pub(super) stores: BTreeMap<NodeId, (StateStore, SnapshotDesk)>,
    /// Whether a node may end by itself, and why those did that have.
    pub(super) fatal_is_expected: bool,
    pub(super) ended: BTreeMap<NodeId, String>,
    /// Messages that are lost.
    pub(super) lose: fn(&PeerMessage) -> bool,
    /// Jobs of `state.redb` that wait until the test lets them go.
    pub(super) hold_jobs: bool,
    pub(super) held_jobs: VecDeque<(NodeId, SnapshotJob)>,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    tickets: u64,
}

impl Cluster {
    pub(super) fn new(size: u64) -> Self {
        Self::with(size, &Options::default())
    }

    pub(super) fn with(size: u64, options: &Options) -> Self {
        let nodes: BTreeSet<NodeId> = (1..=size).map(NodeId).collect();
        let mut cluster = Self {
            replicas: BTreeMap::new(),
            now: Instant::ZERO,
            answers: BTreeMap::new(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            slow: BTreeMap::new(),
            disks: VecDeque::new(),
            replies: BTreeMap::new(),
            names: BTreeMap::new(),
            gated: false,
            installed: BTreeMap::new(),
            stores: BTreeMap::new(),
            fatal_is_expected: false,
            ended: BTreeMap::new(),
            lose: |_| false,
            hold_jobs: false,
            held_jobs: VecDeque::new(),
            network: VecDeque::new(),
            tickets: 0,
        };
        for node in nodes {
            let log = blank_log(node, size);
            let store = StateStore::create_or_open(Disk::new(), &log.identity);
            let (store, _) = store.expect("a new disk is sound");
            cluster.stores.insert(node, (store, SnapshotDesk::default()));
            let recovery = Recovery { log, machine: None };
            let rng = Rng::new(node.get());
            let replica = Replica::recover(recovery, options.clone(), rng, Instant::ZERO)
                .expect("a fresh log is consistent");
            cluster.replicas.insert(node, replica);
        }
        cluster
    }

    fn clocks(&self) -> Now {
        Now { instant: self.now, wall: WallMillis(1_000_000 + self.now.as_micros() / 1_000) }
    }

    /// Delivers everything until nothing is left to do at this instant.
    pub(super) fn settle(&mut self) {
        self.settle_some(usize::MAX);
    }

    /// Delivers no more than so many messages, and the rest later.
    pub(super) fn settle_some(&mut self, most: usize) {
        let mut delivered = 0;
        loop {
            self.finish_writes();
            let nodes: Vec<NodeId> = self.replicas.keys().copied().collect();
            for node in nodes {
                if !self.paused.contains(&node) {
                    self.poll(node);
                }
            }
            if delivered == most {
                break;
            }
            delivered += 1;
            let Some((from, to, message)) = self.network.pop_front() else { break };
            let lost = self.cut.contains(&(from, to)) || (self.lose)(&message);
            if lost || self.paused.contains(&to) {
                continue;
            }
            if !self.replicas.contains_key(&to) || (self.gated && !self.lets_in(to, from)) {
                continue;
            }
            let now = self.clocks();
            let replica = self.replicas.get_mut(&to).expect("it was just looked up");
            replica.handle(now, Event::PeerMessage { from, message });
        }
    }

    fn finish_writes(&mut self) {
        let now = self.clocks();
        let (done, rest) = std::mem::take(&mut self.disks)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(at, ..)| *at <= now.instant);
        self.disks = rest;
        for (_, node, event) in done {
            self.replicas.get_mut(&node).expect("only members write").handle(now, event);
        }
    }

    fn poll(&mut self, node: NodeId) {
        loop {
            let now = self.clocks();
            let replica = self.replicas.get_mut(&node).expect("only members are polled");
            let actions = replica.poll(now);
            crate::raft::check(replica.raft());
            let mut completed = Vec::new();
            for action in actions {
                match action {
                    Action::Answer { ticket, result } => {
                        let before = self.answers.insert((node, ticket), result);
                        assert!(before.is_none(), "{ticket:?} was answered twice on {node}");
                    }
                    Action::Fatal(reason) => {
                        assert!(self.fatal_is_expected, "node {node} stopped: {reason}");
                        self.ended.insert(node, reason);
                        self.paused.insert(node);
                    }
                    Action::MembersReply { ticket, result } => {
                        let before = self.replies.insert((node, ticket), result);
                        assert!(before.is_none(), "{ticket:?} was replied to twice on {node}");
                    }
                    Action::Published(published) => {
                        self.installed.extend(published.installed.map(|revision| (node, revision)));
                    }
                    Action::Save(changes) => {
                        let (store, _) = self.stores.get_mut(&node).expect("each node has one");
                        store.save(&changes).expect("the disk is sound");
                        completed.push(Event::Saved);
                    }
                    Action::Snapshot(job) if self.hold_jobs => {
                        self.held_jobs.push_back((node, job));
                    }
                    Action::Snapshot(job) => {
                        completed.extend(perform(&mut self.stores, node, &job))
                    }
                    Action::Send { to, message } => self.network.push_back((node, to, message)),
                    Action::Write { token, .. } => match self.slow.get(&node) {
                        Some(&takes) => {
                            self.disks.push_back((self.now + takes, node, Event::Written(token)));
                        }
                        None => completed.push(Event::Written(token)),
                    },
                }
            }
            if completed.is_empty() {
                return;
            }
            let replica = self.replicas.get_mut(&node).expect("only members are polled");
            for event in completed {
                replica.handle(now, event);
            }
        }
    }

    /// Whether there is a link from one node to another, as the rosters of both see it.
    fn lets_in(&self, to: NodeId, from: NodeId) -> bool {
        let Some(sender) = self.replicas.get(&from) else { return false };
        if !sender.contacts().contains_key(&to) {
            return false;
        }
        let claim = sender.shared_roster().lock().expect("no test panics with it").claim();
        let name = self.names.get(&from).cloned().unwrap_or(format!("n{from}"));
        let hello = hello(&name, claim);
        let roster = self.replicas[&to].shared_roster();
        let mut roster = roster.lock().expect("no test panics with it");
        let is_in = matches!(roster.judge(&hello), HelloAnswer::Accepted { .. });
        if is_in {
            roster.welcome(&name, &hello.claim);
        }
        is_in
    }

    /// A blank node asks `via` for its cluster, and starts as a member when it is known there.
    pub(super) fn join(&mut self, node: NodeId, name: &str, via: NodeId) -> bool {
        let standing = Standing::Blank { seed_digest: 0 };
        let claim = Claim { node, boot: Boot(1), standing };
        let roster = self.replicas[&via].shared_roster();
        let answer = roster.lock().expect("no test panics with it").judge(&hello(name, claim));
        let HelloAnswer::Genesis(genesis) = answer else { return false };
        let mut log = blank_log(node, 1);
        log.identity.name = name.to_owned();
        log.genesis = Some(genesis);
        let store = StateStore::create_or_open(Disk::new(), &log.identity);
        let (store, _) = store.expect("a new disk is sound");
        self.stores.insert(node, (store, SnapshotDesk::default()));
        let recovery = Recovery { log, machine: None };
        let rng = Rng::new(node.get());
        let replica = Replica::recover(recovery, Options::default(), rng, self.now)
            .expect("a fresh log is consistent");
        self.replicas.insert(node, replica);
        self.names.insert(node, name.to_owned());
        true
    }

    pub(super) fn order(&mut self, node: NodeId, order: MembersOrder, timeout: Span) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.now + timeout;
        self.event(node, Event::Members { ticket, order, deadline });
        ticket
    }

    /// Lets time pass from deadline to deadline, delivering everything on the way.
    pub(super) fn advance(&mut self, span: Span) {
        let end = self.now + span;
        let mut stuck = 0;
        loop {
            self.settle();
            let running = self.replicas.iter().filter(|(node, _)| !self.paused.contains(node));
            let next = running.filter_map(|(_, replica)| replica.next_deadline()).min();
            let written = self.disks.iter().map(|(at, ..)| *at).min();
            let next = next.into_iter().chain(written).min();
            match next {
                Some(next) if next <= end => {
                    stuck = if next > self.now { 0 } else { stuck + 1 };
                    assert!(stuck < 100, "a deadline at {next} is never acted on");
                    self.now = self.now.max(next);
                }
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |replica: &&Replica| replica.raft().role() == Role::Leader;
        let all = self.replicas.iter().filter(|(_, replica)| leads(replica));
        all.max_by_key(|(_, replica)| replica.raft().term()).map(|(&node, _)| node)
    }

    /// Lets a few milliseconds pass, in which nothing is delivered.
    pub(super) fn advance_a_little(&mut self) {
        self.now += Span::from_millis(5);
    }

    /// The newest leader among these.
    pub(super) fn leader_among(&self, nodes: &[u64]) -> Option<NodeId> {
        let running = self.replicas.iter().filter(|(node, _)| !self.paused.contains(node));
        let leads = running.filter(|(_, replica)| replica.raft().role() == Role::Leader);
        let newest = leads.max_by_key(|(_, replica)| replica.raft().term()).map(|(&node, _)| node);
        newest.filter(|node| nodes.contains(&node.get()) || node.get() > 3)
    }

    pub(super) fn elect(&mut self) -> NodeId {
        self.advance(Span::from_secs(3));
        self.leader().expect("three seconds are enough to elect")
    }

    pub(super) fn another_than(&self, node: NodeId) -> NodeId {
        let mut others = self.replicas.keys().filter(|&&other| other != node);
        others.next().copied().expect("there is more than one member")
    }

    pub(super) fn event(&mut self, node: NodeId, event: Event) {
        let now = self.clocks();
        self.replicas.get_mut(&node).expect("it is a member").handle(now, event);
    }

    pub(super) fn submit(&mut self, node: NodeId, operation: Operation, timeout: Span) -> Ticket {
        self.submit_as(node, operation, None, timeout)
    }

    pub(super) fn submit_as(
        &mut self,
        node: NodeId,
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
        timeout: Span,
    ) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.now + timeout;
        self.event(node, Event::Submit { ticket, operation, idempotency, deadline });
        ticket
    }

    pub(super) fn read(&mut self, node: NodeId, timeout: Span) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.now + timeout;
        self.event(node, Event::Read { ticket, deadline });
        ticket
    }

    pub(super) fn keepalive(&mut self, node: NodeId, lease: LeaseId, timeout: Span) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = self.now + timeout;
        self.event(node, Event::Keepalive { ticket, lease, deadline });
        ticket
    }

    pub(super) fn answer(
        &self,
        node: NodeId,
        ticket: Ticket,
    ) -> Option<&Result<Outcome, RequestError>> {
        self.answers.get(&(node, ticket))
    }

    /// Lets the jobs go that were held, in their order.
    pub(super) fn release_jobs(&mut self) {
        self.hold_jobs = false;
        while let Some((node, job)) = self.held_jobs.pop_front() {
            if let Some(event) = perform(&mut self.stores, node, &job) {
                self.event(node, event);
            }
        }
    }

    pub(super) fn isolate(&mut self, node: NodeId) {
        for &other in self.replicas.keys().filter(|&&other| other != node) {
            self.cut.extend([(node, other), (other, node)]);
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn value(&self, node: NodeId, key: &str) -> Option<Bytes> {
        let view = self.replicas[&node].shared_view();
        let view = view.read().expect("no test panics while it reads");
        let record = view.machine.get(key.as_bytes(), None).expect("the present is readable");
        record.map(|record| record.value)
    }

    pub(super) fn promise(&self, node: NodeId, lease: LeaseId) -> Option<crate::replica::Promise> {
        let view = self.replicas[&node].shared_view();
        let view = view.read().expect("no test panics while it reads");
        view.promises.promise(lease, self.now)
    }
}

fn hello(name: &str, claim: Claim) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        class: LinkClass::Consensus,
        cluster_name: "test".to_owned(),
        name: name.to_owned(),
        to_name: String::new(),
        to_node: None,
        claim,
    }
}

fn perform(
    stores: &mut BTreeMap<NodeId, (StateStore, SnapshotDesk)>,
    node: NodeId,
    job: &SnapshotJob,
) -> Option<Event> {
    let (store, desk) = stores.get_mut(&node).expect("each node has one");
    desk.perform(store, job).expect("the disk is sound").map(Event::Snapshot)
}

/// The log of `node` in a new cluster of so many.
pub(super) fn blank_log(node: NodeId, size: u64) -> RecoveredLog {
    let nodes: BTreeSet<NodeId> = (1..=size).map(NodeId).collect();
    let member = |node: &NodeId| {
        let member = Member { name: format!("n{node}"), address: format!("n{node}:1") };
        (*node, member)
    };
    let members = nodes.iter().map(member).collect();
    let membership =
        Membership::new(nodes, BTreeSet::new(), BTreeSet::new(), members).expect("all are voters");
    RecoveredLog {
        identity: Identity { node, name: format!("n{node}"), cluster_name: "test".to_owned() },
        boot: Boot(1),
        genesis: Some(Genesis { cluster: ClusterId(1), membership, index: Index(0) }),
        hard_state: Default::default(),
        cut: Cut::default(),
        entries: Vec::new(),
        marks: Vec::new(),
    }
}

pub(super) fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: None,
        condition: Condition::None,
    }
}

pub(super) fn lease(ttl: Span, bind: Bind) -> NewLease {
    NewLease { ttl, bind, pid: None, uid: 0, info: String::new(), process: None }
}

pub(super) fn lock(name: &str, ttl: Span) -> Operation {
    let name = Bytes::copy_from_slice(name.as_bytes());
    Operation::Acquire(Acquire {
        queue: QueueName { kind: QueueKind::Lock, name },
        holder: Holder::New(lease(ttl, Bind::Connection)),
        slots: 1,
        mode: Mode::Exclusive,
        value: Bytes::new(),
        patience: Patience::Wait,
    })
}

/// A lease as the state machine would hold it, for the tests of tables that only read leases.
pub(super) fn lease_record(id: u64, ttl: Span, bind: Bind, parent: Option<u64>) -> Lease {
    Lease {
        id: LeaseId(id),
        ttl,
        bind,
        parent: parent.map(LeaseId),
        node: NodeId(1),
        boot: Boot(1),
        pid: None,
        uid: 0,
        info: String::new(),
        generation: 1,
        owned_by_place: false,
        process: None,
        keys: BTreeSet::new(),
    }
}
