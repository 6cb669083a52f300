//! Lock, semaphore and election queues: who has a place, in which order, and who holds.
//!
//! A place is a key `_locks/<name>/<lease>` or `_elections/<name>/<lease>` that is attached to that
//! very lease. Its create revision is the fencing token and its rank; the first `slots` places
//! hold. Handing over needs no write of the next holder: it follows from the release. Because the
//! place ends with its lease, one whose lease has ended is never granted anything (RELIABILITY L7,
//! H4). When a holder may believe that it holds is decided in `replica/promises.rs`.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{LeaseId, RequestId, Token};
use crate::state::{
    Acquire, EventKind, Holder, Outcome, Patience, QueueEntry, QueueKind, QueueName, QueueView,
    Record, Refusal, RowKey, StateMachine,
};

use super::digest::queue_hash;
use super::lease::may_be_made;
use super::machine::Effects;

/// One lock or election that somebody holds.
///
/// - There is at least one place, except while the first is being taken.
/// - Places are in order of token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// How many may hold; at least 1.
    pub(super) slots: u32,
    places: VecDeque<Standing>,
}

/// A place as the queue keeps it; the value stays in the key.
///
/// Ordered by token. The lease only orders places of the same token: no `Acquire` makes such, a
/// transaction on the reserved keys, which the edge refuses, would.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    token: Token,
    lease: LeaseId,
    key: Bytes,
}

impl Queue {
    /// A queue that nobody stands in yet.
    pub(super) fn new(slots: u32) -> Self {
        assert!(slots > 0, "a queue has at least one slot");
        Self { slots, places: VecDeque::new() }
    }

    /// How many stand in it.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a place in order of its token.
    pub(super) fn enter(&mut self, token: Token, lease: LeaseId, key: Bytes) {
        let standing = Standing { token, lease, key };
        match self.places.binary_search(&standing) {
            Ok(_) => panic!("lease {lease} enters twice with token {token}"),
            // Nearly always the end; a restore brings places in order of their leases.
            Err(rank) => self.places.insert(rank, standing),
        }
    }

    fn leave(&mut self, token: Token, lease: LeaseId) {
        let rank = self.rank(token).expect("who leaves a queue stands in it");
        let same = self.places.range(rank..).position(|place| place.lease == lease);
        let place = self.places.remove(rank + same.expect("who leaves a queue stands in it"));
        assert!(
            place.is_some_and(|place| place.token == token),
            "lease {lease} left with another token than {token}"
        );
    }

    /// How many stand before this place.
    fn rank(&self, token: Token) -> Option<usize> {
        let rank = self.places.partition_point(|place| place.token < token);
        self.places.get(rank).filter(|place| place.token == token).map(|_| rank)
    }

    fn ahead(&self, rank: usize) -> u64 {
        let more = u64::from(mutation::active(Mutation::SlotsOffByOne));
        (rank as u64 + 1).saturating_sub(u64::from(self.slots) + more)
    }
}

/// Where someone stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many must leave before this one holds; zero: it holds.
    pub ahead: u64,
    /// Under which lease it stands.
    pub lease: LeaseId,
}

impl StateMachine {
    /// `Operation::Acquire`. A refusal leaves no trace, not even a lease.
    pub(super) fn acquire(
        &mut self,
        request: RequestId,
        acquire: &Acquire,
        effects: &mut Effects,
    ) -> Outcome {
        match &acquire.holder {
            Holder::Existing(lease) => {
                if let Err(refusal) = self.lease_exists(Some(*lease)) {
                    return refusal.into();
                }
                let key = queue_key(&acquire.queue, *lease);
                if let Some((mod_revision, content)) = self.keys.content(&key) {
                    if content.lease != Some(*lease) {
                        // Someone wrote past the edge. Taking the key over would give a token that
                        // is older than that of the holders.
                        return Refusal::PreconditionFailed { mod_revision }.into();
                    }
                    let token = Token(content.create_revision.get());
                    return self.acquired(&acquire.queue, *lease, token, effects);
                }
            }
            Holder::New(new) => {
                if let Err(refusal) = may_be_made(new) {
                    return refusal.into();
                }
            }
        }
        // The edge refuses zero slots; here they must only not break the queue.
        let slots = acquire.slots.max(1);
        if let Err(refusal) = self.may_enter(&acquire.queue, slots, acquire.patience) {
            return refusal.into();
        }
        let lease = match &acquire.holder {
            Holder::Existing(lease) => *lease,
            Holder::New(new) => self.make_lease(request, new, true, effects),
        };
        self.open_queue(&acquire.queue, slots);
        let key = queue_key(&acquire.queue, lease);
        let (created, _) = self.set_key(&key, acquire.value.clone(), Some(lease), effects);
        assert!(created == self.revision.next(), "a new place has the old token {created}");
        self.acquired(&acquire.queue, lease, Token(created.get()), effects)
    }

    fn may_enter(&self, name: &QueueName, slots: u32, patience: Patience) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get(name) else { return Ok(()) };
        if queue.slots != slots {
            return Err(Refusal::SlotsDiffer { slots: queue.slots });
        }
        match patience {
            Patience::Try if queue.ahead(queue.len()) > 0 => {
                let holders = queue.places.iter().take(queue.slots as usize);
                let holders = holders.map(|place| self.entry(place)).collect();
                Err(Refusal::LockHeld { holders })
            }
            Patience::Try | Patience::Wait => Ok(()),
        }
    }

    fn acquired(
        &self,
        name: &QueueName,
        lease: LeaseId,
        token: Token,
        effects: &Effects,
    ) -> Outcome {
        let place = self.place(name, token).expect("the place was taken or found just now");
        Outcome::Acquired {
            lease,
            token,
            ahead: place.ahead,
            revision: self.revision_after(effects),
        }
    }

    /// `Operation::Release`.
    pub(super) fn release(
        &mut self,
        name: &QueueName,
        token: Token,
        effects: &mut Effects,
    ) -> Outcome {
        let Some(place) = self.standing(name, token) else { return Refusal::NotHeld.into() };
        let (lease, key) = (place.lease, place.key.clone());
        if self.leases.find(lease).is_some_and(|lease| lease.owned_by_place) {
            self.end_leases(&BTreeSet::from([lease]), effects);
        } else {
            assert!(self.delete_key(&key, effects), "the key of a place does not exist");
        }
        Outcome::Released { revision: self.revision_after(effects) }
    }

    /// `Operation::Proclaim`. The key keeps its create revision, and with it the token.
    pub(super) fn proclaim(
        &mut self,
        name: &Bytes,
        token: Token,
        value: &Bytes,
        effects: &mut Effects,
    ) -> Outcome {
        let name = QueueName { kind: QueueKind::Election, name: name.clone() };
        let Some(place) = self.standing(&name, token) else { return Refusal::NotHeld.into() };
        let (lease, key) = (place.lease, place.key.clone());
        let (create_revision, version) = self.set_key(&key, value.clone(), Some(lease), effects);
        assert!(create_revision.get() == token.get(), "a proclamation moved token {token}");
        Outcome::Put { revision: self.revision_after(effects), create_revision, version }
    }

    /// Lets the queues follow the change of a key: the only code that adds or removes a place.
    pub(super) fn follow_place(
        &mut self,
        record: &Record,
        kind: EventKind,
        previous: Option<&Record>,
        effects: &mut Effects,
    ) {
        let before = previous.and_then(place_of);
        let after = match kind {
            EventKind::Put => place_of(record),
            EventKind::Delete => None,
        };
        let Some((name, lease)) = before.as_ref().or(after.as_ref()).cloned() else { return };
        let token = |record: &Record| Token(record.create_revision.get());
        match (previous.filter(|_| before.is_some()), after) {
            (Some(previous), None) => {
                let queue = self.queues.get_mut(&name).expect("who leaves a queue stands in it");
                queue.leave(token(previous), lease);
                if queue.len() == 0 {
                    self.close_queue(&name);
                }
            }
            (None, Some(_)) => {
                // Whoever acquires opens the queue with its slots first. A place that came as a
                // plain put, which the edge refuses, opens a lock.
                self.open_queue(&name, 1);
                let queue = self.queues.get_mut(&name).expect("the queue was opened above");
                queue.enter(token(record), lease, record.key.clone());
            }
            // The value of the place changed.
            (Some(_), Some(_)) | (None, None) => {}
        }
        effects.queues.insert(name);
    }

    fn open_queue(&mut self, name: &QueueName, slots: u32) {
        if !self.queues.contains_key(name) {
            self.queues.insert(name.clone(), Queue::new(slots));
            self.digest.add(queue_hash(name, slots));
            self.dirty.mark(RowKey::Queue(name.clone()));
        }
    }

    fn close_queue(&mut self, name: &QueueName) {
        let queue = self.queues.remove(name).expect("only a queue that was found is closed");
        assert!(queue.len() == 0, "{name:?} is closed with {} places", queue.len());
        self.digest.subtract(queue_hash(name, queue.slots));
        self.dirty.mark(RowKey::Queue(name.clone()));
    }

    fn standing(&self, name: &QueueName, token: Token) -> Option<&Standing> {
        let queue = self.queues.get(name)?;
        queue.rank(token).map(|rank| &queue.places[rank])
    }

    /// Where the place with this token stands; nothing when there is none. Costs a binary search.
    pub fn place(&self, name: &QueueName, token: Token) -> Option<Place> {
        let queue = self.queues.get(name)?;
        let rank = queue.rank(token)?;
        Some(Place { ahead: queue.ahead(rank), lease: queue.places[rank].lease })
    }

    /// How many places a lock or election has, holders and waiters together.
    pub fn queue_length(&self, name: &QueueName) -> usize {
        self.queues.get(name).map_or(0, |queue| queue.places.len())
    }

    /// A lock or election as it stands; nothing when nobody has a place in it.
    pub fn queue(&self, name: &QueueName) -> Option<QueueView> {
        let queue = self.queues.get(name)?;
        let mut holders: Vec<QueueEntry> =
            queue.places.iter().map(|place| self.entry(place)).collect();
        let waiters = holders.split_off(holders.len().min(queue.slots as usize));
        Some(QueueView { queue: name.clone(), slots: queue.slots, holders, waiters })
    }

    /// The names of all locks or all elections in which somebody has a place, in byte order.
    pub fn queues(&self, kind: QueueKind) -> impl Iterator<Item = QueueName> {
        let first = QueueName { kind, name: Bytes::new() };
        let names = self.queues.range(first..).map(|(name, _)| name.clone());
        names.take_while(move |name| name.kind == kind)
    }

    fn entry(&self, place: &Standing) -> QueueEntry {
        let (_, content) = self.keys.content(&place.key).expect("a place is a key that exists");
        QueueEntry { token: place.token, lease: place.lease, value: content.value.clone() }
    }
}

/// The place that a record is, if it is one.
pub(super) fn place_of(record: &Record) -> Option<(QueueName, LeaseId)> {
    if !super::keys::is_reserved(&record.key) {
        return None;
    }
    parse_queue_key(&record.key).filter(|(_, lease)| record.lease == Some(*lease))
}

/// The key of a lease's place in a queue: `_locks/<name>/<lease>` or `_elections/<name>/<lease>`,
/// the lease in hexadecimal, and of the name everything but `A-Za-z0-9._~-` as `%XX`, so that the
/// places of `a` and `a/b` never mix.
pub fn queue_key(queue: &QueueName, lease: LeaseId) -> Bytes {
    let mut key = queue_prefix(queue).to_vec();
    key.extend_from_slice(lease.to_string().as_bytes());
    key.into()
}

/// The prefix of the keys of all places in a queue.
pub fn queue_prefix(queue: &QueueName) -> Bytes {
    let mut key = kind_prefix(queue.kind).to_vec();
    for &byte in &queue.name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-') {
            key.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            key.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    key.push(b'/');
    key.into()
}

/// The queue and the lease that a key names, if `queue_key` would write exactly this key for them.
pub fn parse_queue_key(key: &[u8]) -> Option<(QueueName, LeaseId)> {
    let kinds = [QueueKind::Election, QueueKind::Lock];
    let kind = kinds.into_iter().find(|kind| key.starts_with(kind_prefix(*kind)))?;
    let rest = &key[kind_prefix(kind).len()..];
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let lease = std::str::from_utf8(&rest[slash + 1..]).ok()?;
    let lease = LeaseId(u64::from_str_radix(lease, 16).ok()?);
    let queue = QueueName { kind, name: decode(&rest[..slash])?.into() };
    // Other spellings of the same name and lease are no places: they would be a second key for one
    // place.
    (lease != LeaseId(0) && queue_key(&queue, lease) == key).then_some((queue, lease))
}

fn kind_prefix(kind: QueueKind) -> &'static [u8] {
    match kind {
        QueueKind::Election => b"_elections/",
        QueueKind::Lock => b"_locks/",
    }
}

fn decode(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(name.len());
    while let Some((&byte, rest)) = name.split_first() {
        name = rest;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(name.get(..2)?).ok()?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        name = &name[2..];
    }
    Some(decoded)
}
