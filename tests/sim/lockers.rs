//! Callers that lock: bound to their connection, or under a lease that they keep alive themselves.
//!
//! What they may believe is noted by the oracle after every step of a node; when they let go is
//! decided here. One that lets go says so, goes away, or just stops and lets its lease run out.

use bytes::Bytes;
use quorumd::base::{LeaseId, Span, Token};
use quorumd::replica::{Event, PromiseState};
use quorumd::state::{
    Acquire, Bind, Condition, Holder, Mode, NewLease, Operation, Outcome, Patience, QueueKind,
    QueueName,
};

use crate::cluster::{Cluster, Happening};
use crate::invariants::histories::Asked;
use crate::workload::{Purpose, read};

/// What a caller that locks has.
#[derive(Debug, Default)]
pub struct Locker {
    session: Option<Session>,
    /// What the request under way asks for.
    wanted: Option<(Lock, bool, Span)>,
}

#[derive(Clone, Debug)]
struct Session {
    lease: LeaseId,
    lock: Lock,
    token: Option<Token>,
    node: usize,
    bound: bool,
    ttl: Span,
    /// When it lets go, in true microseconds.
    until: u64,
}

/// A lock, a semaphore, an election or a barrier, and how it is asked for.
#[derive(Clone, Debug)]
struct Lock {
    queue: QueueName,
    slots: u32,
    mode: Mode,
}

/// A lock that only writers take, one that readers share, a semaphore, an election, a barrier.
fn lock(number: u64, reads: bool) -> Lock {
    let (kind, name, slots, shared) = match number {
        0 => (QueueKind::Lock, "l0", 1, false),
        1 => (QueueKind::Lock, "l1", 1, reads),
        2 => (QueueKind::Lock, "s0", 2, false),
        3 => (QueueKind::Election, "e0", 1, false),
        _ => (QueueKind::Barrier, "b0", 2, false),
    };
    let mode = if shared { Mode::Shared } else { Mode::Exclusive };
    Lock { queue: QueueName { kind, name: Bytes::from(name) }, slots, mode }
}

fn new_lease(ttl: Span, bind: Bind) -> NewLease {
    NewLease { ttl, bind, pid: None, uid: 7, info: String::new(), process: None }
}

fn enter(lock: &Lock, holder: Holder, patience: Patience) -> Operation {
    Operation::Acquire(Acquire {
        queue: lock.queue.clone(),
        holder,
        slots: lock.slots,
        mode: lock.mode,
        value: Bytes::new(),
        patience,
    })
}

impl Cluster {
    fn locker(&mut self, client: usize) -> &mut Locker {
        self.workload.clients[client].locker.as_mut().expect("this caller locks")
    }

    /// The next thing of a caller that locks.
    pub fn locker_step(&mut self, client: usize) {
        let Some(node) = self.any_running() else {
            self.plan(100_000, Happening::Client(client));
            return;
        };
        if let Some(session) = self.locker(client).session.clone() {
            self.session_step(client, node, session);
            return;
        }
        if self.workload.over {
            return;
        }
        let lock = lock(self.rng.below(self.workload.locks), self.rng.chance(2, 3));
        let ttl = Span::from_millis(self.rng.between(1_000, 3_000));
        let bound = self.rng.chance(2, 3);
        self.locker(client).wanted = Some((lock.clone(), bound, ttl));
        let (purpose, operation) = if bound {
            let wait = if self.rng.chance(1, 4) { Patience::Try } else { Patience::Wait };
            let lease = Holder::New(new_lease(ttl, Bind::Connection));
            (Purpose::Acquire, enter(&lock, lease, wait))
        } else {
            (Purpose::Grant, Operation::GrantLease(new_lease(ttl, Bind::None)))
        };
        self.numbered_submit(client, node, purpose, operation);
    }

    fn numbered_submit(
        &mut self,
        client: usize,
        node: usize,
        purpose: Purpose,
        operation: Operation,
    ) {
        self.workload.numbered += 1;
        let op = self.workload.numbered;
        self.submit(client, node, (op, Asked::Other, purpose), operation, None);
    }

    fn session_step(&mut self, client: usize, node: usize, session: Session) {
        let (now, lease) = (self.now, session.lease);
        if self.oracle.has_ended(lease) {
            self.locker(client).session = None;
            self.plan(1_000, Happening::Client(client));
            return;
        }
        if now >= session.until || self.workload.over {
            self.let_go(client, node, session);
            return;
        }
        if session.bound {
            self.plan(session.until - now, Happening::Client(client));
            return;
        }
        if session.token.is_none() {
            self.locker(client).wanted = Some((session.lock.clone(), false, session.ttl));
            let operation = enter(&session.lock, Holder::Existing(lease), Patience::Wait);
            self.numbered_submit(client, node, Purpose::Acquire, operation);
            return;
        }
        if self.rng.chance(1, 5) {
            self.use_lease(client, node, &session);
            return;
        }
        self.workload.numbered += 1;
        let op = self.workload.numbered;
        let ticket = self.ask(client, node, op, Asked::Other, Purpose::Keepalive);
        self.say(format!("c{client} asks n{} {ticket:?}: keep {lease}", self.nodes[node].id));
        let deadline = self.deadline(node);
        self.handle(node, Event::Keepalive { ticket, lease, deadline });
    }

    /// A candidate says something new, or a key is put under the lease.
    fn use_lease(&mut self, client: usize, node: usize, session: &Session) {
        let value = Bytes::from(format!("v{}", self.workload.numbered));
        let name = session.lock.queue.name.clone();
        let operation = match (session.lock.queue.kind, session.token) {
            (QueueKind::Election, Some(token)) => Operation::Proclaim { name, token, value },
            _ => Operation::Put {
                key: Bytes::from(format!("a{client}")),
                value,
                lease: Some(session.lease),
                condition: Condition::None,
            },
        };
        self.numbered_submit(client, node, Purpose::Release, operation);
    }

    fn let_go(&mut self, client: usize, node: usize, session: Session) {
        self.locker(client).session = None;
        let (lease, how) = (session.lease, self.rng.below(4));
        self.say(format!("c{client} lets {lease} go, the way {how}"));
        if !session.bound && how == 0 && session.token.is_some() {
            // It just stops; what it was told stays true for as long as it was told.
            self.plan(1_000_000, Happening::Client(client));
            return;
        }
        self.oracle.holders.given_up(lease);
        let at = session.node;
        match (session.bound, session.token) {
            (true, Some(token)) if how == 0 => {
                self.handle(at, Event::LeaveQueue { queue: session.lock.queue.clone(), token });
            }
            (true, _) if how < 3 => self.handle(at, Event::EndLeases(vec![lease])),
            (true, Some(token)) => {
                let operation = Operation::Release { queue: session.lock.queue.clone(), token };
                if self.nodes[at].runs() {
                    self.numbered_submit(client, at, Purpose::Release, operation);
                }
                self.handle(at, Event::EndLeases(vec![lease]));
            }
            _ => {
                let operation = Operation::RevokeLeases { leases: vec![lease] };
                self.numbered_submit(client, node, Purpose::Release, operation);
            }
        }
        if !self.workload.clients[client].waits {
            let think = self.rng.below(self.workload.think_max);
            self.plan(think, Happening::Client(client));
        }
    }

    /// A lease was granted, or a place in a lock.
    pub fn entered(&mut self, client: usize, node: usize, outcome: &Outcome) {
        let until = self.now + self.rng.between(200_000, 4_000_000);
        let locker = self.locker(client);
        let Some((lock, bound, ttl)) = locker.wanted.take() else { return };
        match *outcome {
            Outcome::Acquired { lease, token, .. } => match &mut locker.session {
                Some(session) => session.token = Some(token),
                None => {
                    let token = Some(token);
                    locker.session = Some(Session { lease, lock, token, node, bound, ttl, until });
                }
            },
            Outcome::Granted { lease, .. } => {
                let token = None;
                locker.session = Some(Session { lease, lock, token, node, bound, ttl, until });
            }
            _ => {}
        }
    }

    /// A keepalive was answered.
    pub fn kept_alive(&mut self, client: usize, outcome: &Outcome) {
        if let Outcome::Refused(_) = outcome {
            self.locker(client).session = None;
        }
    }

    /// A node is about to crash, and with it the connections to it.
    pub fn lose_lockers(&mut self, node: usize) {
        for client in 0..self.workload.clients.len() {
            let Some(locker) = &mut self.workload.clients[client].locker else { continue };
            let is_lost = |session: &mut Session| session.bound && session.node == node;
            if let Some(session) = locker.session.take_if(is_lost) {
                self.oracle.holders.given_up(session.lease);
                self.plan(50_000, Happening::Client(client));
            }
        }
    }

    /// Whoever asks this node now is told this.
    pub fn tell_holders(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let view = read(&process.view);
        let (clock, now) = (&self.nodes[node].clock, self.now);
        let local = clock.instant(now);
        for client in &self.workload.clients {
            let session = client.locker.as_ref().and_then(|locker| locker.session.as_ref());
            let Some(session) = session.filter(|s| !s.bound || s.node == node) else { continue };
            let Some(promise) = view.promises.promise(session.lease, local) else { continue };
            if promise.state == PromiseState::Lost {
                continue;
            }
            let until = clock.truth(local + promise.valid_for);
            self.oracle.holders.promised(now, session.lease, until);
            let Some(token) = session.token else { continue };
            let lock = &session.lock;
            let place = view.machine.place(&lock.queue, token);
            let holds = place.is_some_and(|it| it.ahead == 0 && it.lease == session.lease);
            if holds && lock.queue.kind != QueueKind::Barrier {
                let (holders, lease) = (&mut self.oracle.holders, session.lease);
                holders.held(now, (&lock.queue, lock.slots, lock.mode), lease, token);
            }
        }
    }
}
