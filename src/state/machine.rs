//! Applying an entry: the order of its effects, and the counters of the whole state.
//!
//! What each operation does stands in the file of its subject: `keys.rs`, `txn.rs`, `lease.rs`,
//! `queue.rs`, `compact.rs`; who asked twice is found out in `dedupe.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::{Epoch, Index, NodeId, Revision, Term, WallMillis};
use crate::state::{
    Applied, Command, Event, LeaseChange, Meta, Operation, Outcome, QueueName, Refusal,
    RevisionEvents,
};

use super::dedupe::{Idempotency, Requests};
use super::digest::{Counters, Digest};
use super::keys::Keys;
use super::lease::Leases;
use super::query::WallIndex;
use super::queue::Queue;
use super::rows::Dirty;

/// The replicated state of a cluster at one applied index.
///
/// - `revision` grows by one for each entry that changes a key, and never otherwise; it is stored,
///   never derived from keys (RELIABILITY F12).
/// - `changed` has exactly the keys of each revision in `(compact_revision, revision]`, and all
///   their versions are retained; no version that a reader at `compact_revision` cannot see is.
/// - A lease's key set, the places of a queue and the digest always agree with the keys.
/// - Everything but `dirty`, `taken_revision` and `walls` follows from the log alone.
#[derive(Clone, Debug)]
pub struct StateMachine {
    pub(super) applied_index: Index,
    pub(super) applied_term: Term,
    pub(super) revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) epoch: Epoch,
    pub(super) leases_made: u64,
    pub(super) wall: WallMillis,
    pub(super) keys: Keys,
    /// The keys that each retained revision changed, in key order; the first element belongs to
    /// the revision after `max(compact_revision, 1)`.
    pub(super) changed: VecDeque<Vec<Bytes>>,
    pub(super) leases: Leases,
    pub(super) queues: BTreeMap<QueueName, Queue>,
    pub(super) requests: BTreeMap<NodeId, Requests>,
    pub(super) idempotency: Idempotency,
    pub(super) digest: Digest,
    /// Rows that changed since they were last taken.
    pub(super) dirty: Dirty,
    /// Coarse, for retention by age only; differs between replicas.
    pub(super) walls: WallIndex,
}

/// What one entry does beside its outcome, collected while it runs.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) events: Vec<Event>,
    pub(super) leases: Vec<LeaseChange>,
    pub(super) queues: BTreeSet<QueueName>,
    pub(super) compacted: Option<Revision>,
}

impl StateMachine {
    /// An empty store: revision 1, nothing applied.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            applied_index: Index(0),
            applied_term: Term(0),
            revision: Revision(1),
            compact_revision: Revision(0),
            epoch,
            leases_made: 0,
            wall: WallMillis(0),
            keys: Keys::default(),
            changed: VecDeque::new(),
            leases: Leases::default(),
            queues: BTreeMap::new(),
            requests: BTreeMap::new(),
            idempotency: Idempotency::default(),
            digest: Digest::default(),
            dirty: Dirty::default(),
            walls: WallIndex::default(),
        }
    }

    /// Applies one entry: the only way in which the state changes. Cannot fail: what cannot be done
    /// is a refusal, the same on every replica. `index` is the one after the last applied; `wall`
    /// is the leader's stamp, in effect made non-decreasing. A put of a small value costs a few
    /// microseconds.
    pub fn apply(
        &mut self,
        index: Index,
        term: Term,
        wall: WallMillis,
        command: &Command,
    ) -> Applied {
        self.skip(index, term);
        self.wall = self.wall.max(wall);
        self.forget_outcomes();
        let mut effects = Effects::default();
        let outcome = match self.settled_outcome(command) {
            Some(outcome) => {
                assert!(effects.events.is_empty(), "a settled request changed a key");
                outcome
            }
            None => {
                let outcome = self.execute(command, &mut effects);
                self.remember_outcome(command, &outcome);
                outcome
            }
        };
        if let Outcome::Refused(_) = outcome {
            assert!(effects.events.is_empty(), "a refused entry changed a key: {outcome:?}");
            assert!(effects.leases.is_empty(), "a refused entry changed a lease: {outcome:?}");
        }
        let events = self.publish(effects.events);
        Applied {
            outcome,
            events,
            leases: effects.leases,
            queues: effects.queues.into_iter().collect(),
            compacted: effects.compacted,
        }
    }

    /// Passes over an entry that carries no command: an empty one or a change of membership.
    pub fn skip(&mut self, index: Index, term: Term) {
        assert!(
            index == self.applied_index.next(),
            "entry {index} is applied after {}",
            self.applied_index
        );
        assert!(
            term >= self.applied_term,
            "entry {index} of term {term} is applied after term {}",
            self.applied_term
        );
        self.applied_index = index;
        self.applied_term = term;
    }

    fn execute(&mut self, command: &Command, effects: &mut Effects) -> Outcome {
        let request = command.request;
        match &command.operation {
            Operation::Acquire(acquire) => self.acquire(request, acquire, effects),
            Operation::AdoptLeases { leases } => self.adopt(request, leases, effects),
            Operation::BindLease { lease, process } => self.bind(request, *lease, process),
            Operation::Compact { revision } => self.compact(*revision, effects),
            Operation::Delete { selection, condition } => {
                self.delete(selection, *condition, effects)
            }
            Operation::ExpireLeases { term, leases } => self.expire(*term, leases, effects),
            Operation::GrantLease(lease) => self.grant(request, lease, effects),
            Operation::NodeBooted => self.node_booted(request, effects),
            Operation::Proclaim { name, token, value } => {
                self.proclaim(name, *token, value, effects)
            }
            Operation::Put { key, value, lease, condition } => {
                self.put(key, value, *lease, *condition, effects)
            }
            Operation::Release { queue, token } => self.release(queue, *token, effects),
            Operation::RevokeLeases { leases } => self.revoke(leases, effects),
            Operation::StartEpoch => {
                self.epoch = self.epoch.next();
                Outcome::Done { revision: self.revision }
            }
            Operation::Txn(txn) => self.txn(txn, effects),
        }
    }

    /// Makes the new revision, if any key changed.
    fn publish(&mut self, mut events: Vec<Event>) -> Option<Arc<RevisionEvents>> {
        if events.is_empty() {
            return None;
        }
        events.sort_by(|a, b| a.record.key.cmp(&b.record.key));
        let revision = self.revision.next();
        for pair in events.windows(2) {
            assert!(
                pair[0].record.key < pair[1].record.key,
                "one key changed twice in revision {revision}"
            );
        }
        self.revision = revision;
        self.changed.push_back(events.iter().map(|event| event.record.key.clone()).collect());
        self.walls.note(self.wall, revision);
        Some(Arc::new(RevisionEvents { revision, events }))
    }

    /// The store's revision once the entry that has these effects so far is done.
    pub(super) fn revision_after(&self, effects: &Effects) -> Revision {
        if effects.events.is_empty() { self.revision } else { self.revision.next() }
    }

    /// The revision to which the first element of `changed` belongs.
    pub(super) fn first_retained(&self) -> Revision {
        self.compact_revision.max(Revision(1)).next()
    }

    /// The last applied index.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The term of the last applied entry.
    pub fn applied_term(&self) -> Term {
        self.applied_term
    }

    /// The store's revision: 1 when nothing was ever written.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest readable revision; zero when history was never compacted.
    pub fn compact_revision(&self) -> Revision {
        self.compact_revision
    }

    /// Which history the revisions belong to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The greatest wall-clock stamp of an applied entry.
    pub fn wall(&self) -> WallMillis {
        self.wall
    }

    /// Bytes of keys and values as they are now.
    pub fn live_bytes(&self) -> u64 {
        self.keys.live_bytes
    }

    /// Bytes of keys and values of all retained versions, the current ones among them.
    pub fn history_bytes(&self) -> u64 {
        self.keys.history_bytes
    }

    /// The digest of the state: equal on all replicas at equal applied index. Costs nothing.
    pub fn digest(&self) -> u64 {
        self.digest.fold(Counters {
            revision: self.revision,
            compact_revision: self.compact_revision,
            leases_made: self.leases_made,
            epoch: self.epoch,
        })
    }

    /// The counters as they are saved.
    pub(super) fn meta(&self) -> Meta {
        Meta {
            applied_index: self.applied_index,
            applied_term: self.applied_term,
            revision: self.revision,
            compact_revision: self.compact_revision,
            epoch: self.epoch,
            leases_made: self.leases_made,
            wall: self.wall,
            digest: self.digest(),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Outcome::Refused(refusal)
    }
}
