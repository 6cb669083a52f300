//! Locks, semaphores and elections in the order of the log: tokens only grow (L5), no more hold
//! than there are slots (L5), places are granted in the order in which they were taken (L8), none
//! belongs to a lease that has ended (L7) and an expiry that a deposed leader decided ends nothing
//! (L3).
//!
//! Kept from the events of the log alone. What holders were told meanwhile is in
//! `holder_exclusive.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorumd::base::{LeaseId, Token};
use quorumd::raft::Entry;
use quorumd::state::{
    Applied, Command, EventKind, LeaseChange, Operation, Outcome, StateMachine, queue_prefix,
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
    places: Vec<(Token, LeaseId)>,
    last: Token,
}

impl Queue {
    fn ahead(&self, token: Token) -> Option<u64> {
        let rank = self.places.iter().position(|(place, _)| *place == token)?;
        Some((rank as u64 + 1).saturating_sub(u64::from(self.slots)))
    }
}

fn is_place(key: &[u8]) -> bool {
    key.starts_with(b"_locks/") || key.starts_with(b"_elections/")
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
                let lease = event.record.lease.expect("a place ends with its lease");
                queue.places.push((token, lease));
            }
            (EventKind::Put, Some(_)) => {}
            (EventKind::Delete, previous) => {
                let token = previous.as_ref().map(|record| Token(record.create_revision.get()));
                queue.places.retain(|(place, _)| Some(*place) != token);
            }
        }
    }

    fn check_queues(&self, applied: &Applied, machine: &StateMachine) {
        for name in &applied.queues {
            let Some(queue) = self.queues.get(&queue_prefix(name)) else { continue };
            let view = machine.queue(name);
            let all = |view: &quorumd::state::QueueView| {
                let places = view.holders.iter().chain(&view.waiters);
                places.map(|place| (place.token, place.lease)).collect()
            };
            let found: Vec<(Token, LeaseId)> = view.as_ref().map(all).unwrap_or_default();
            let holders = view.as_ref().map_or(0, |view| view.holders.len());
            crate::ensure!(
                found == queue.places && holders == found.len().min(queue.slots as usize),
                "lock_order",
                "{name:?} of {} slots is {view:?}, should be {:?}",
                queue.slots,
                queue.places
            );
            for &(token, lease) in &queue.places {
                let place = machine.place(name, token);
                let ahead = queue.ahead(token);
                crate::ensure!(
                    place.is_some_and(|p| Some(p.ahead) == ahead && p.lease == lease),
                    "lock_order",
                    "{name:?}: {token} stands at {place:?}, should have {ahead:?} ahead"
                );
            }
        }
    }
}
