//! Callers: what they ask for, through which node, and what they do with the answers.
//!
//! A caller does one thing at a time. One that was told "unknown" asks again through any node when
//! it gave the request a name of its own, and gives up otherwise. Those who lock are in
//! `lockers.rs`.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use quorumd::base::{Revision, Rng, Span};
use quorumd::raft::Membership;
use quorumd::replica::{Event, RequestError, Ticket, View};
use quorumd::state::{
    Compare, CompareField, CompareOp, Condition, IdempotencyKey, Operation, Outcome, Selection,
    Txn, TxnOperation,
};

use crate::cluster::{Cluster, Happening};
use crate::invariants::histories::Asked;
use crate::invariants::watch_complete::Watcher;
use crate::lockers::Locker;
use crate::node::Node;
use crate::run::Lean;

/// All callers of one run.
#[derive(Debug)]
pub struct Workload {
    /// The callers.
    pub clients: Vec<Client>,
    /// The watchers, each with the node it hangs on.
    pub watchers: Vec<(Watcher, Option<usize>)>,
    /// What was asked for and not answered.
    pub pending: BTreeMap<Ticket, Pending>,
    /// Nobody begins anything new.
    pub over: bool,
    pub(crate) keys: u64,
    pub(crate) locks: u64,
    pub(crate) think_max: u64,
    pub(crate) numbered: u64,
    /// The callers' own chances.
    pub(crate) rng: Rng,
    /// How many things callers have begun.
    pub(crate) begun: u64,
    /// Local reads that were served.
    pub local_reads: u64,
    /// Transactions that were answered.
    pub txns: u64,
}

/// One caller.
#[derive(Debug)]
pub struct Client {
    /// Whether an answer is waited for.
    pub waits: bool,
    /// Locks, or else reads and writes keys.
    pub locker: Option<Locker>,
    seen: BTreeMap<Bytes, Revision>,
    again: Option<Again>,
}

/// A request that may be sent once more.
#[derive(Clone, Debug)]
pub struct Again {
    op: u64,
    operation: Operation,
    key: IdempotencyKey,
    left: u32,
}

/// A request under way.
#[derive(Debug)]
pub struct Pending {
    /// Who asked.
    pub client: usize,
    /// The node that was asked.
    pub node: usize,
    /// The operation, as the histories know it.
    pub op: u64,
    /// What for.
    pub purpose: Purpose,
    /// When, in true time.
    pub asked: u64,
}

/// What is done with an answer.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Enter a lock.
    Acquire,
    /// Get a lease.
    Grant,
    /// Keep a lease alive.
    Keepalive,
    /// Read this node's own state, not older than this.
    Local(Revision),
    /// Read a key.
    Read(Bytes),
    /// Leave a lock, end a lease.
    Release,
    /// Write a key.
    Write(Option<Again>),
}

/// A view, to look at.
pub fn read(view: &RwLock<View>) -> RwLockReadGuard<'_, View> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

impl Workload {
    /// Who there is.
    pub fn draw(lean: Lean, rng: &mut Rng, nodes: usize) -> Self {
        let client = |locker| Client { waits: false, locker, seen: BTreeMap::new(), again: None };
        let mut clients: Vec<Client> = (0..rng.between(1, 5)).map(|_| client(None)).collect();
        let lockers = if lean == Lean::Leases { rng.between(3, 6) } else { rng.below(4) };
        clients.extend((0..lockers).map(|_| client(Some(Locker::default()))));
        let watcher = |rng: &mut Rng| {
            let prefixes: [&[u8]; 4] = [b"k", b"k1", b"_locks/", b"_"];
            let prefix = prefixes[rng.below(4) as usize];
            let pace = [1, 1, 10, 100][rng.below(4) as usize];
            let watcher = Watcher::new(prefix, rng.chance(1, 2)).slower(pace);
            (watcher.begin_at(rng.below(40)), None)
        };
        let longest = if rng.chance(1, 3) { 20_000 } else { 200_000 };
        Self {
            clients,
            watchers: (0..nodes.min(3)).map(|_| watcher(rng)).collect(),
            pending: BTreeMap::new(),
            over: false,
            keys: rng.between(1, 5),
            locks: if lean == Lean::Leases { rng.between(1, 2) } else { rng.between(1, 5) },
            think_max: rng.between(10_000, if lean == Lean::Elections { 20_000 } else { longest }),
            numbered: 0,
            rng: rng.fork(),
            begun: 0,
            local_reads: 0,
            txns: 0,
        }
    }
}

/// The configurations of all logs: a leader goes by the last of its own, committed or not.
fn in_force(nodes: &[Node]) -> impl Iterator<Item = &Membership> {
    let processes = nodes.iter().filter_map(|node| node.process.as_ref());
    processes.map(|process| process.replica.raft().membership())
}

impl Cluster {
    /// Every caller begins.
    pub fn begin_clients(&mut self) {
        for client in 0..self.workload.clients.len() {
            let after = self.rng.below(1_000_000);
            self.plan(after, Happening::Client(client));
        }
    }

    /// A caller's time has come.
    pub fn client_step(&mut self, client: usize) {
        if self.workload.clients[client].waits {
            return;
        }
        self.workload.begun += 1;
        if self.plan.without_steps.contains(&self.workload.begun) && !self.workload.over {
            self.plan(100_000, Happening::Client(client));
            return;
        }
        if self.workload.clients[client].locker.is_some() {
            self.locker_step(client);
            return;
        }
        if self.workload.over {
            return;
        }
        let Some(node) = self.any_running() else {
            self.plan(100_000, Happening::Client(client));
            return;
        };
        if let Some(mut again) = self.workload.clients[client].again.take() {
            again.left -= 1;
            let (op, operation, key) = (again.op, again.operation.clone(), again.key.clone());
            let asked = Asked::Other;
            let purpose = Purpose::Write(Some(again).filter(|again| again.left > 0));
            self.submit(client, node, (op, asked, purpose), operation, Some(key));
            return;
        }
        self.workload.numbered += 1;
        let op = self.workload.numbered;
        let key = Bytes::from(format!("k{}", self.rng.below(self.workload.keys)));
        match self.rng.below(24) {
            0..=8 => self.put(client, node, op, key),
            20..=21 => self.txn(client, node, op, key),
            22..=23 => self.local_read(client, node, op, &key),
            9..=10 => {
                let selection = Selection::Key(key.clone());
                let operation = Operation::Delete { selection, condition: Condition::None };
                self.write(client, node, (op, Asked::Delete(key)), operation);
            }
            11 => {
                let newest = self.oracle.truth.machine().revision().get();
                let revision = Revision(newest.saturating_sub(self.rng.below(30)).max(1));
                let operation = Operation::Compact { revision };
                self.write(client, node, (op, Asked::Other), operation);
            }
            _ => self.linearizable_read(client, node, op, key),
        }
    }

    fn put(&mut self, client: usize, node: usize, op: u64, key: Bytes) {
        let seen = self.workload.clients[client].seen.get(&key).copied();
        let condition = match (self.rng.below(4), seen) {
            (0, Some(Revision(0))) => Condition::Absent,
            (0 | 1, Some(revision)) if revision > Revision(0) => Condition::ModRevision(revision),
            _ => Condition::None,
        };
        let value = Bytes::from(format!("v{op}"));
        let asked = Asked::Put(key.clone(), value.clone(), condition);
        let operation = Operation::Put { key, value, lease: None, condition };
        self.write(client, node, (op, asked), operation);
    }

    /// Two keys together, when the first is as it was seen, or has a value.
    fn txn(&mut self, client: usize, node: usize, op: u64, key: Bytes) {
        let other = Bytes::from(format!("k{}", self.rng.below(self.workload.keys)));
        let seen = self.workload.clients[client].seen.get(&key).copied().unwrap_or_default();
        let value = Bytes::from(format!("v{op}"));
        let field = match self.rng.below(4) {
            0 => CompareField::Version(self.rng.below(4)),
            1 => CompareField::Value(Bytes::from(format!("v{}", self.rng.below(op)))),
            _ => CompareField::ModRevision(seen),
        };
        let ops = [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual];
        let compare = if self.rng.chance(1, 2) { 0 } else { self.rng.below(4) as usize };
        let put =
            |key: &Bytes| TxnOperation::Put { key: key.clone(), value: value.clone(), lease: None };
        let mut then = vec![TxnOperation::Get(Selection::Key(key.clone())), put(&key)];
        if other != key && self.rng.chance(3, 4) {
            let gone = TxnOperation::Delete(Selection::Key(other.clone()));
            then.push(if self.rng.chance(1, 4) { gone } else { put(&other) });
        }
        let or_else = vec![TxnOperation::Get(Selection::Key(other))];
        let compares = vec![Compare { key: key.clone(), field, op: ops[compare] }];
        let operation = Operation::Txn(Txn { compares, then, or_else });
        self.write(client, node, (op, Asked::Txn(key, value)), operation);
    }

    /// The node's own state, not older than what this caller has seen.
    fn local_read(&mut self, client: usize, node: usize, op: u64, key: &Bytes) {
        let seen = self.workload.clients[client].seen.get(key).copied().unwrap_or_default();
        let newest = self.oracle.truth.machine().revision();
        let revision = if self.rng.chance(1, 2) { seen } else { newest };
        let ticket = self.ask(client, node, op, Asked::Other, Purpose::Local(revision));
        self.say(format!("c{client} asks n{} {ticket:?}: {revision}", self.nodes[node].id));
        let deadline = self.deadline(node);
        self.handle(node, Event::WaitRevision { ticket, revision, deadline });
    }

    fn write(&mut self, client: usize, node: usize, op: (u64, Asked), operation: Operation) {
        let named = self.rng.chance(1, 2);
        let key = IdempotencyKey { uid: 7, key: format!("op-{}", op.0) };
        let again = Again { op: op.0, operation: operation.clone(), key: key.clone(), left: 4 };
        let purpose = Purpose::Write(Some(again).filter(|_| named));
        self.submit(client, node, (op.0, op.1, purpose), operation, Some(key).filter(|_| named));
    }

    /// Sends a write.
    pub fn submit(
        &mut self,
        client: usize,
        node: usize,
        (op, asked, purpose): (u64, Asked, Purpose),
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
    ) {
        let ticket = self.ask(client, node, op, asked, purpose);
        self.say(format!("c{client} asks n{} {ticket:?}: {operation:?}", self.nodes[node].id));
        let deadline = self.deadline(node);
        self.handle(node, Event::Submit { ticket, operation, idempotency, deadline });
    }

    fn linearizable_read(&mut self, client: usize, node: usize, op: u64, key: Bytes) {
        let asked = Asked::Read(key.clone());
        let ticket = self.ask(client, node, op, asked, Purpose::Read(key.clone()));
        self.say(format!("c{client} asks n{} {ticket:?}: read {key:?}", self.nodes[node].id));
        let deadline = self.deadline(node);
        self.handle(node, Event::Read { ticket, deadline });
    }

    /// Notes that something is asked for.
    pub fn ask(
        &mut self,
        client: usize,
        node: usize,
        op: u64,
        asked: Asked,
        purpose: Purpose,
    ) -> Ticket {
        self.workload.numbered += 1;
        let ticket = Ticket(self.workload.numbered);
        self.oracle.histories.begin(op, asked);
        self.workload.clients[client].waits = true;
        let asked = self.now;
        self.workload.pending.insert(ticket, Pending { client, node, op, purpose, asked });
        let process = self.nodes[node].process.as_mut().expect("a running node is asked");
        process.waiting.insert(ticket);
        ticket
    }

    /// When a request to this node is given up, on its clock.
    pub fn deadline(&mut self, node: usize) -> quorumd::base::Instant {
        let patience = Span::from_millis(self.rng.between(200, 3_000));
        self.nodes[node].clock.instant(self.now) + patience
    }

    /// Some node whose process runs.
    pub fn any_running(&mut self) -> Option<usize> {
        let running = self.running();
        let count = running.len() as u64;
        if count == 0 { None } else { Some(running[self.rng.below(count) as usize]) }
    }

    /// A node answers.
    pub fn answered(&mut self, node: usize, ticket: Ticket, result: Result<Outcome, RequestError>) {
        let process = self.nodes[node].process.as_mut().expect("it answers");
        crate::ensure!(
            process.waiting.remove(&ticket),
            "every_request_answered",
            "{ticket:?} is answered twice, or was never asked: {result:?}"
        );
        let Some(pending) = self.workload.pending.remove(&ticket) else { return };
        let Pending { client, op, purpose, asked, .. } = pending;
        self.workload.clients[client].waits = false;
        let think = self.rng.below(self.workload.think_max);
        self.plan(think, Happening::Client(client));
        let histories = &mut self.oracle.histories;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                histories.failed(op, error);
                if let Purpose::Write(again) = purpose
                    && error == RequestError::OutcomeUnknown
                {
                    self.workload.clients[client].again = again;
                }
                return;
            }
        };
        match purpose {
            Purpose::Local(revision) => {
                let process = self.nodes[node].process.as_ref().expect("it answers");
                let found = read(&process.view).machine.revision();
                crate::ensure!(
                    found >= revision,
                    "revision_reached",
                    "a local read of {revision} or later is served at {found}"
                );
                self.workload.local_reads += 1;
            }
            Purpose::Read(key) => {
                let process = self.nodes[node].process.as_ref().expect("it answers");
                let members = self.oracle.configs.all().chain(in_force(&self.nodes));
                self.oracle.followed.answered(self.nodes[node].id, asked, members, "a read");
                let view = read(&process.view);
                let record = view.machine.get(&key, None).expect("the present can be read");
                let revision = view.machine.revision();
                let value = record.as_ref().map(|record| &record.value[..]);
                histories.read(op, value, revision, &self.oracle.truth);
                let seen = record.as_ref().map_or(Revision(0), |record| record.mod_revision);
                self.workload.clients[client].seen.insert(key, seen);
            }
            Purpose::Keepalive => {
                if let Outcome::Done { .. } = outcome {
                    let members = self.oracle.configs.all().chain(in_force(&self.nodes));
                    let id = self.nodes[node].id;
                    self.oracle.followed.answered(id, asked, members, "a keepalive");
                }
                self.kept_alive(client, &outcome);
            }
            Purpose::Acquire | Purpose::Grant => {
                histories.wrote(op, &outcome, &self.oracle.truth);
                self.entered(client, node, &outcome);
            }
            Purpose::Release | Purpose::Write(_) => {
                self.workload.txns += u64::from(matches!(outcome, Outcome::Txn { .. }));
                histories.wrote(op, &outcome, &self.oracle.truth);
            }
        }
    }

    /// A node is about to crash: whoever waits for it never learns.
    pub fn lose_callers(&mut self, node: usize) {
        let lost: Vec<Ticket> = self
            .workload
            .pending
            .iter()
            .filter(|(_, pending)| pending.node == node)
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in lost {
            let Some(pending) = self.workload.pending.remove(&ticket) else { continue };
            self.oracle.histories.lost(pending.op);
            let client = &mut self.workload.clients[pending.client];
            client.waits = false;
            if let Purpose::Write(again) = pending.purpose {
                client.again = again;
            }
            let think = self.rng.below(self.workload.think_max);
            self.plan(think, Happening::Client(pending.client));
        }
        self.operator.waiting.retain(|_, asked| *asked != node);
        self.lose_lockers(node);
        for (watcher, place) in &mut self.workload.watchers {
            if *place == Some(node) {
                watcher.disconnected();
                *place = None;
            }
        }
    }

    /// Those who hang on a node see what it shows now.
    pub fn look_at_view(&mut self, node: usize) {
        self.tell_holders(node);
        let Some(process) = &self.nodes[node].process else { return };
        let view = read(&process.view);
        for (watcher, place) in &mut self.workload.watchers {
            if place.is_none() && self.rng.chance(1, 4) {
                *place = Some(node);
            }
            if *place == Some(node) && self.rng.chance(1, 60) {
                // Its reader goes on elsewhere.
                watcher.disconnected();
                *place = None;
            }
            if *place == Some(node) && self.rng.chance(3, 4 * watcher.pace) {
                let most = 1 + self.rng.below(6) as usize;
                watcher.read(&view, &self.oracle.truth, most);
            }
        }
    }
}
