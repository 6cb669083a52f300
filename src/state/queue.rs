//! Lock, semaphore and election queues: who has a place, in which order, and who holds.
//!
//! A place is a key `_locks/<name>/<lease>` or `_elections/<name>/<lease>` that is attached to that
//! very lease. Its create revision is the fencing token and its rank; the first `slots` places
//! hold, or, of a lock with one slot, all shared places up to the first exclusive one. Handing over
//! needs no write of the next holder: it follows from the release. Because the place ends with its
//! lease, one whose lease has ended is never granted anything (RELIABILITY L7, H4). How the places
//! of a barrier are released is decided in `barrier.rs`, how places are called in `place_key.rs`,
//! and when a holder may believe that it holds in `replica/promises.rs`.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{LeaseId, RequestId, Revision, Token};
use crate::state::{
    Acquire, EventKind, Holder, Mode, Outcome, Patience, QueueEntry, QueueKind, QueueName,
    QueueView, Record, Refusal, RowKey, StateMachine, parse_queue_key, queue_key,
};

use super::barrier::released_by;
use super::digest::queue_hash;
use super::lease::may_be_made;
use super::machine::Effects;

/// One lock, election or barrier in which somebody has a place.
///
/// - There is at least one place, except while the first is being taken.
/// - Places are in order of token.
/// - `sharing` is how many places at the head are shared; `released` how many are released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    kind: QueueKind,
    /// How many may hold, or how many a barrier waits for; at least 1.
    pub(super) slots: u32,
    places: VecDeque<Standing>,
    sharing: usize,
    released: usize,
}

/// A place as the queue keeps it; the value stays in the key.
///
/// Ordered by token. Lease and key only order places of the same token: no `Acquire` makes such, a
/// transaction on the reserved keys, which the edge refuses, would.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    token: Token,
    pub(super) lease: LeaseId,
    pub(super) key: Bytes,
    mode: Mode,
    /// Of a barrier: the revision in which its generation was complete.
    pub(super) released: Option<Revision>,
}

impl Queue {
    /// A queue that nobody stands in yet.
    pub(super) fn new(kind: QueueKind, slots: u32) -> Self {
        assert!(slots > 0, "a queue has at least one slot");
        Self { kind, slots, places: VecDeque::new(), sharing: 0, released: 0 }
    }

    /// How many stand in it.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a place in order of its token.
    pub(super) fn enter(&mut self, standing: Standing) {
        self.released += usize::from(standing.released.is_some());
        match self.places.binary_search(&standing) {
            Ok(_) => panic!("{standing:?} enters twice"),
            // Nearly always the end; a restore brings places in order of their leases.
            Err(rank) => self.places.insert(rank, standing),
        }
        self.count_sharing();
    }

    fn leave(&mut self, standing: &Standing) {
        let rank = self.places.binary_search(standing).expect("who leaves a queue stands in it");
        self.places.remove(rank);
        self.released -= usize::from(standing.released.is_some());
        self.count_sharing();
    }

    fn count_sharing(&mut self) {
        let shared = self.places.iter().take_while(|place| place.mode == Mode::Shared);
        self.sharing = shared.count();
    }

    /// How many stand before this place.
    fn rank(&self, token: Token) -> Option<usize> {
        let rank = self.places.partition_point(|place| place.token < token);
        self.places.get(rank).filter(|place| place.token == token).map(|_| rank)
    }

    /// How many must leave before the place of this rank holds; how many must still come before a
    /// barrier lets it go.
    fn ahead(&self, rank: usize) -> u64 {
        let place = &self.places[rank];
        match self.kind {
            QueueKind::Barrier if place.released.is_some() => 0,
            QueueKind::Barrier => self.missing(0),
            QueueKind::Election | QueueKind::Lock => self.ahead_of(rank, place.mode),
        }
    }

    /// The same for one more place at the end.
    fn ahead_of_next(&self, mode: Mode) -> u64 {
        match self.kind {
            QueueKind::Barrier => self.missing(1),
            QueueKind::Election | QueueKind::Lock => self.ahead_of(self.len(), mode),
        }
    }

    fn ahead_of(&self, rank: usize, mode: Mode) -> u64 {
        if mode == Mode::Shared && self.slots == 1 {
            let overtakes = self.sharing > 0 && mutation::active(Mutation::SharedOvertakes);
            if rank <= self.sharing || overtakes {
                return 0;
            }
            // Everybody up to the last exclusive place before it, so that writers do not starve.
            let mut before = self.places.range(..rank);
            let last = before.rposition(|place| place.mode == Mode::Exclusive);
            return last.map_or(0, |last| last as u64 + 1);
        }
        let more = u64::from(mutation::active(Mutation::SlotsOffByOne));
        (rank as u64 + 1).saturating_sub(u64::from(self.slots) + more)
    }

    /// How many a barrier lacks once this many more have come.
    pub(super) fn missing(&self, more: usize) -> u64 {
        u64::from(self.slots).saturating_sub((self.len() - self.released + more) as u64)
    }

    /// The places whose barrier has not let them go.
    pub(super) fn unreleased(&self) -> impl Iterator<Item = &Standing> {
        self.places.iter().filter(|place| place.released.is_none())
    }

    fn holders(&self) -> Vec<&Standing> {
        let count = if self.slots == 1 { self.sharing.max(1) } else { self.slots as usize };
        match self.kind {
            QueueKind::Barrier => {
                self.places.iter().filter(|place| place.released.is_some()).collect()
            }
            QueueKind::Election | QueueKind::Lock => self.places.iter().take(count).collect(),
        }
    }

    fn waiters(&self) -> Vec<&Standing> {
        match self.kind {
            QueueKind::Barrier => self.unreleased().collect(),
            QueueKind::Election | QueueKind::Lock => {
                self.places.iter().skip(self.holders().len()).collect()
            }
        }
    }
}

/// Where someone stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many must leave before this one holds, or come before its barrier lets it go; zero: it
    /// holds, or was let go.
    pub ahead: u64,
    /// Under which lease it stands.
    pub lease: LeaseId,
    /// Of a barrier that let it go: the revision in which it did.
    pub released: Option<Revision>,
}

impl StateMachine {
    /// `Operation::Acquire`. A refusal leaves no trace, not even a lease.
    pub(super) fn acquire(
        &mut self,
        request: RequestId,
        acquire: &Acquire,
        effects: &mut Effects,
    ) -> Outcome {
        assert!(
            acquire.mode == Mode::Exclusive || acquire.queue.kind == QueueKind::Lock,
            "a shared place in {:?}",
            acquire.queue
        );
        match &acquire.holder {
            Holder::Existing(lease) => {
                if let Err(refusal) = self.lease_exists(Some(*lease)) {
                    return refusal.into();
                }
                match self.taken(acquire, *lease) {
                    Err(refusal) => return refusal.into(),
                    Ok(Some(token)) => {
                        return self.acquired(&acquire.queue, *lease, token, effects);
                    }
                    Ok(None) => {}
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
        if let Err(refusal) = self.may_enter(acquire, slots) {
            return refusal.into();
        }
        let lease = match &acquire.holder {
            Holder::Existing(lease) => *lease,
            Holder::New(new) => self.make_lease(request, new, true, effects),
        };
        self.open_queue(&acquire.queue, slots);
        let value = match acquire.queue.kind {
            QueueKind::Barrier => self.meet(&acquire.queue, effects),
            QueueKind::Election | QueueKind::Lock => acquire.value.clone(),
        };
        let key = queue_key(&acquire.queue, lease, acquire.mode);
        let (created, _) = self.set_key(&key, value, Some(lease), effects);
        assert!(created == self.revision.next(), "a new place has the old token {created}");
        let outcome = self.acquired(&acquire.queue, lease, Token(created.get()), effects);
        if matches!(&acquire.holder, Holder::New(new) if new.process.is_some())
            && matches!(outcome, Outcome::Acquired { ahead, .. } if ahead > 0)
        {
            // Nobody will hear of it before it holds: with the daemon it leaves the queue.
            self.unbind(lease);
        }
        outcome
    }

    /// The place that a lease has already, if it is what is asked for.
    fn taken(&self, acquire: &Acquire, lease: LeaseId) -> Result<Option<Token>, Refusal> {
        let modes = match acquire.queue.kind {
            QueueKind::Barrier | QueueKind::Election => &[Mode::Exclusive][..],
            QueueKind::Lock => &[Mode::Exclusive, Mode::Shared],
        };
        for &mode in modes {
            let key = queue_key(&acquire.queue, lease, mode);
            let Some((mod_revision, content)) = self.keys.content(&key) else { continue };
            let token = Token(content.create_revision.get());
            let is_place = content.lease == Some(lease);
            match (is_place, mode == acquire.mode) {
                (true, true) => return Ok(Some(token)),
                (true, false) => return Err(Refusal::OtherMode { token }),
                // Someone wrote past the edge. Taking the key over would give a token that is older
                // than that of the holders.
                (false, true) => return Err(Refusal::PreconditionFailed { mod_revision }),
                (false, false) => {}
            }
        }
        Ok(None)
    }

    fn may_enter(&self, acquire: &Acquire, slots: u32) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get(&acquire.queue) else {
            return match (acquire.patience, acquire.queue.kind) {
                (Patience::Try, QueueKind::Barrier) if slots > 1 => {
                    Err(Refusal::LockHeld { holders: Vec::new() })
                }
                _ => Ok(()),
            };
        };
        if queue.slots != slots {
            return Err(Refusal::SlotsDiffer { slots: queue.slots });
        }
        match acquire.patience {
            Patience::Try if queue.ahead_of_next(acquire.mode) > 0 => {
                let holders = match queue.kind {
                    QueueKind::Barrier => queue.waiters(),
                    QueueKind::Election | QueueKind::Lock => queue.holders(),
                };
                Err(Refusal::LockHeld { holders: self.entries(&holders) })
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
        let Some((name, _)) = before.as_ref().or(after.as_ref()).cloned() else { return };
        // Whoever acquires opens the queue with its slots first. A place that came as a plain put,
        // which the edge refuses, opens a queue of one slot.
        self.open_queue(&name, 1);
        let queue = self.queues.get_mut(&name).expect("the queue was opened above");
        if let Some((_, standing)) = before {
            queue.leave(&standing);
        }
        if let Some((_, standing)) = after {
            queue.enter(standing);
        }
        if queue.len() == 0 {
            self.close_queue(&name);
        }
        effects.queues.insert(name);
    }

    fn open_queue(&mut self, name: &QueueName, slots: u32) {
        if !self.queues.contains_key(name) {
            self.queues.insert(name.clone(), Queue::new(name.kind, slots));
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
        let Standing { lease, released, .. } = queue.places[rank];
        Some(Place { ahead: queue.ahead(rank), lease, released })
    }

    /// How many places a lock, election or barrier has, holders and waiters together.
    pub fn queue_length(&self, name: &QueueName) -> usize {
        self.queues.get(name).map_or(0, |queue| queue.places.len())
    }

    /// A lock, election or barrier as it stands; nothing when nobody has a place in it.
    pub fn queue(&self, name: &QueueName) -> Option<QueueView> {
        let queue = self.queues.get(name)?;
        let holders = self.entries(&queue.holders());
        let waiters = self.entries(&queue.waiters());
        Some(QueueView { queue: name.clone(), slots: queue.slots, holders, waiters })
    }

    /// The names of all queues of a kind in which somebody has a place, in byte order.
    pub fn queues(&self, kind: QueueKind) -> impl Iterator<Item = QueueName> {
        let first = QueueName { kind, name: Bytes::new() };
        let names = self.queues.range(first..).map(|(name, _)| name.clone());
        names.take_while(move |name| name.kind == kind)
    }

    fn entries(&self, places: &[&Standing]) -> Vec<QueueEntry> {
        let entry = |place: &&Standing| {
            let (_, content) = self.keys.content(&place.key).expect("a place is a key that exists");
            QueueEntry {
                token: place.token,
                lease: place.lease,
                mode: place.mode,
                value: content.value.clone(),
            }
        };
        places.iter().map(entry).collect()
    }
}

/// The place that a record is, if it is one.
pub(super) fn place_of(record: &Record) -> Option<(QueueName, Standing)> {
    if !super::keys::is_reserved(&record.key) {
        return None;
    }
    let (name, lease, mode) = parse_queue_key(&record.key)?;
    let standing = Standing {
        token: Token(record.create_revision.get()),
        lease,
        key: record.key.clone(),
        mode,
        released: released_by(name.kind, record),
    };
    (record.lease == Some(lease)).then_some((name, standing))
}
