//! Locks, semaphores, elections and barriers in the order of the log: tokens only grow (L5), no
//! more hold than there are slots or share (L5), places are granted in the order in which they were
//! taken (L8), none belongs to a lease that has ended (L7) and an expiry that a deposed leader
//! decided ends nothing (L3). A barrier lets go exactly as many as it counts, in one revision, and
//! never has that many waiting.
//!
//! Kept from the events of the log alone. What holders were told meanwhile is in
//! `holder_exclusive.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorumd::base::{LeaseId, Revision, Token};
use quorumd::raft::Entry;
use quorumd::state::{
    Applied, Command, EventKind, LeaseChange, Operation, Outcome, QueueKind, QueueName, Record,
    StateMachine, queue_prefix,
};

/// All places that were ever taken.
#[derive(Debug, Default)]
pub struct LockOrder {
    queues: BTreeMap<Bytes, Queue>,
    /// The keys that end with each lease that lives.
    leases: BTreeMap<LeaseId, BTreeSet<Bytes>>,
}

#[derive(Debug, Default)]
struct Queue {
    slots: u32,
    places: Vec<Seen>,
    last: Token,
}

/// A place that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    token: Token,
    lease: LeaseId,
    shared: bool,
    /// Of a barrier: when it was let go.
    released: Option<Revision>,
}

impl Seen {
    fn of(record: &Record) -> Self {
        let ready = record.key.starts_with(b"_barriers/") && record.value == "ready";
        Self {
            token: Token(record.create_revision.get()),
            lease: record.lease.expect("a place ends with its lease"),
            shared: record.key.ends_with(b".shared"),
            released: ready.then_some(record.mod_revision),
        }
    }
}

impl Queue {
    fn ahead(&self, kind: QueueKind, token: Token) -> Option<u64> {
        let rank = self.places.iter().position(|place| place.token == token)?;
        let place = self.places[rank];
        let waiting = self.places.iter().filter(|place| place.released.is_none()).count();
        Some(match kind {
            QueueKind::Barrier if place.released.is_some() => 0,
            QueueKind::Barrier => u64::from(self.slots).saturating_sub(waiting as u64),
            _ if place.shared => {
                let before = self.places[..rank].iter().rposition(|place| !place.shared);
                before.map_or(0, |last| last as u64 + 1)
            }
            _ => (rank as u64 + 1).saturating_sub(u64::from(self.slots)),
        })
    }

    fn holders(&self, kind: QueueKind) -> Vec<Seen> {
        let holds = |place: &&Seen| self.ahead(kind, place.token) == Some(0);
        self.places.iter().filter(holds).copied().collect()
    }
}

fn is_place(key: &[u8]) -> bool {
    [&b"_locks/"[..], b"_elections/", b"_barriers/"].iter().any(|prefix| key.starts_with(prefix))
}

fn queue_of(key: &Bytes) -> Bytes {
    let end = key.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    key.slice(..end)
}

impl LockOrder {
    /// An entry was applied by the code under test, whose state is now `machine`.
    pub fn applied(
        &mut self,
        entry: &Entry,
        command: &Command,
        applied: &Applied,
        machine: &StateMachine,
    ) {
        self.check_expiry(entry, command, applied);
        if let (Operation::Acquire(acquire), Outcome::Acquired { .. }) =
            (&command.operation, &applied.outcome)
        {
            let queue = self.queues.entry(queue_prefix(&acquire.queue)).or_default();
            if queue.places.is_empty() {
                queue.slots = acquire.slots.max(1);
            }
        }
        for change in &applied.leases {
            if let LeaseChange::Began(lease) = change {
                self.leases.entry(*lease).or_default();
            }
        }
        for event in applied.events.iter().flat_map(|events| &events.events) {
            if let Some(previous) = &event.previous
                && let Some(keys) = previous.lease.and_then(|lease| self.leases.get_mut(&lease))
            {
                keys.remove(&previous.key);
            }
            if let Some(lease) = event.record.lease {
                let keys = self.leases.get_mut(&lease);
                crate::ensure!(keys.is_some(), "lease_keys", "{lease} does not live: {event:?}");
                let key = event.record.key.clone();
                keys.map(|keys| keys.insert(key)).unwrap_or_default();
            }
            self.follow(event);
        }
        for change in &applied.leases {
            let LeaseChange::Ended(lease) = change else { continue };
            let left = self.leases.remove(lease).unwrap_or_default();
            crate::ensure!(
                left.is_empty(),
                "no_grant_to_the_dead",
                "lease {lease} ends at {} and leaves {left:?}",
                entry.index
            );
        }
        self.check_queues(applied, machine);
    }

    fn check_expiry(&self, entry: &Entry, command: &Command, applied: &Applied) {
        let Operation::ExpireLeases { term, .. } = &command.operation else { return };
        crate::ensure!(
            *term == entry.term || applied.leases.is_empty(),
            "fenced_expiry",
            "{} was decided in term {term} and ends {:?} in term {}",
            entry.index,
            applied.leases,
            entry.term
        );
    }

    fn follow(&mut self, event: &quorumd::state::Event) {
        let key = &event.record.key;
        if !is_place(key) {
            return;
        }
        let queue = self.queues.entry(queue_of(key)).or_default();
        match (event.kind, &event.previous) {
            (EventKind::Put, None) => {
                let token = Token(event.record.create_revision.get());
                crate::ensure!(
                    token > queue.last,
                    "token_increases",
                    "{key:?} gets {token} after {}",
                    queue.last
                );
                queue.last = token;
                queue.places.push(Seen::of(&event.record));
            }
            (EventKind::Put, Some(_)) => {
                let seen = Seen::of(&event.record);
                let places = queue.places.iter_mut().filter(|place| place.token == seen.token);
                places.for_each(|place| *place = seen);
            }
            (EventKind::Delete, previous) => {
                let token = previous.as_ref().map(|record| Token(record.create_revision.get()));
                queue.places.retain(|place| Some(place.token) != token);
            }
        }
    }

    fn check_queues(&self, applied: &Applied, machine: &StateMachine) {
        for name in &applied.queues {
            let Some(queue) = self.queues.get(&queue_prefix(name)) else { continue };
            let view = machine.queue(name);
            let tokens = |places: &[quorumd::state::QueueEntry]| {
                places.iter().map(|place| (place.token, place.lease)).collect::<Vec<_>>()
            };
            let (holders, waiters) = view
                .as_ref()
                .map(|it| (tokens(&it.holders), tokens(&it.waiters)))
                .unwrap_or_default();
            let expected = |places: &[Seen]| {
                places.iter().map(|place| (place.token, place.lease)).collect::<Vec<_>>()
            };
            crate::ensure!(
                holders == expected(&queue.holders(name.kind))
                    && [holders, waiters].concat() == expected(&queue.places),
                "lock_order",
                "{name:?} of {} slots is {view:?}, should be {:?}",
                queue.slots,
                queue.places
            );
            for &Seen { token, lease, released, .. } in &queue.places {
                let place = machine.place(name, token);
                let ahead = queue.ahead(name.kind, token);
                let as_seen = |it: quorumd::state::Place| {
                    Some(it.ahead) == ahead && it.lease == lease && it.released == released
                };
                crate::ensure!(
                    place.is_some_and(as_seen),
                    "lock_order",
                    "{name:?}: {token} stands at {place:?}, should have {ahead:?} ahead"
                );
            }
            if name.kind == QueueKind::Barrier {
                check_barrier(name, queue, machine.revision());
            }
        }
    }
}

/// Of a barrier that changed in this revision.
fn check_barrier(name: &QueueName, queue: &Queue, now: Revision) {
    let waiting = queue.places.iter().filter(|place| place.released.is_none()).count();
    let let_go = queue.places.iter().filter(|place| place.released == Some(now)).count();
    crate::ensure!(
        waiting < queue.slots as usize
            && (let_go == 0 || (let_go, waiting) == (queue.slots as usize, 0)),
        "barrier_together",
        "{name:?} for {}: {let_go} go at {now}, {waiting} wait",
        queue.slots
    );
}
