//! Requests that were applied before: by their own id, and by the name that the caller gave them.
//!
//! A request id (node, boot, sequence) stops an entry that stands in the log twice: it changes
//! nothing and answers `Duplicate`, because its node has, or had, the answer of the first. An
//! idempotency key stops a caller's own retry, and answers with the stored outcome. Who retries is
//! decided in `replica/` and by callers.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::mutation::{self, Mutation};
use crate::base::{Boot, NodeId, RequestId, Sequence, WallMillis, limits};
use crate::state::{Command, IdempotencyKey, Outcome, Refusal, RowKey, StateMachine, TxnResult};

use super::digest::{idempotency_hash, requests_hash, sequence_hash};

/// Which requests of one boot of one node were applied.
///
/// - `applied` has no sequence below `floor`, and at most `DEDUPE_WINDOW_MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Requests {
    pub(super) boot: Boot,
    pub(super) floor: Sequence,
    pub(super) applied: BTreeSet<Sequence>,
}

/// The outcomes behind idempotency keys.
///
/// - `by_age` has exactly the keys of `outcomes`, by the stamp of the entry that made them.
/// - `bytes` is the sum of [`outcome_bytes`] over the stored outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Idempotency {
    outcomes: BTreeMap<IdempotencyKey, (WallMillis, Outcome)>,
    by_age: BTreeSet<(WallMillis, IdempotencyKey)>,
    bytes: u64,
}

impl Idempotency {
    /// The stored outcome with the stamp of its entry.
    pub(super) fn find(&self, key: &IdempotencyKey) -> Option<&(WallMillis, Outcome)> {
        self.outcomes.get(key)
    }

    /// All stored outcomes.
    pub(super) fn all(&self) -> impl Iterator<Item = (&IdempotencyKey, &(WallMillis, Outcome))> {
        self.outcomes.iter()
    }

    /// Stores an outcome under a key that is not known.
    pub(super) fn insert(&mut self, key: IdempotencyKey, wall: WallMillis, outcome: Outcome) {
        self.bytes += outcome_bytes(&outcome);
        self.by_age.insert((wall, key.clone()));
        let other = self.outcomes.insert(key, (wall, outcome));
        assert!(other.is_none(), "an idempotency key was remembered twice");
    }

    /// Takes the oldest out if it is older than it must be kept.
    fn pop_older(&mut self, now: WallMillis) -> Option<(IdempotencyKey, WallMillis, Outcome)> {
        let (wall, _) = self.by_age.first()?;
        if now.since(*wall) <= limits::IDEMPOTENCY_MILLIS_MIN {
            return None;
        }
        let (wall, key) = self.by_age.pop_first()?;
        let stored = self.outcomes.remove(&key);
        let (_, outcome) = stored.expect("both maps have the same keys");
        self.bytes -= outcome_bytes(&outcome);
        Some((key, wall, outcome))
    }
}

/// What a stored outcome holds in records that were read: the only part of it without a small
/// bound.
pub(super) fn outcome_bytes(outcome: &Outcome) -> u64 {
    let Outcome::Txn { results, .. } = outcome else { return 0 };
    let records = results.iter().flat_map(|result| match result {
        TxnResult::Got(records) => records.as_slice(),
        TxnResult::Deleted(_) | TxnResult::Put { .. } => &[],
    });
    records.map(|record| (record.key.len() + record.value.len() + 64) as u64).sum()
}

impl StateMachine {
    /// The answer to a request that must not run: it ran before, or its time is over. Records a
    /// request that may run, or that is answered by its idempotency key, as applied.
    pub(super) fn settled_outcome(&mut self, command: &Command) -> Option<Outcome> {
        if let Err(outcome) = self.admit(command.request, command.floor) {
            return Some(outcome);
        }
        let known = !mutation::active(Mutation::IdempotencyKeyIgnored);
        let key = command.idempotency.as_ref().filter(|_| known)?;
        self.idempotency.find(key).map(|(_, outcome)| outcome.clone())
    }

    fn admit(&mut self, request: RequestId, floor: Sequence) -> Result<(), Outcome> {
        let RequestId { node, boot, sequence } = request;
        match self.requests.get(&node) {
            Some(known) if boot < known.boot => return Err(Refusal::Stale.into()),
            Some(known) if boot == known.boot => {
                let last = mutation::active(Mutation::DedupeOffByOne);
                if sequence < known.floor && !(last && sequence.next() == known.floor) {
                    return Err(Refusal::Stale.into());
                }
                if known.applied.contains(&sequence) {
                    if mutation::active(Mutation::DuplicateApplied) {
                        return Ok(());
                    }
                    return Err(Outcome::Duplicate);
                }
            }
            _ => self.start_boot(node, boot),
        }
        let known = self.requests.get_mut(&node).expect("the record was found or made above");
        let new = known.applied.insert(sequence);
        assert!(new, "request {request} is recorded twice");
        self.digest.add(sequence_hash(node, boot, sequence));
        self.dirty.mark(RowKey::Requests(node));
        // A request does not settle itself, whatever its sender says.
        self.raise_floor(node, floor.min(sequence));
        Ok(())
    }

    /// Begins the record of a boot; what was known of former boots can only be stale from now on.
    fn start_boot(&mut self, node: NodeId, boot: Boot) {
        let requests = Requests { boot, floor: Sequence(0), applied: BTreeSet::new() };
        self.digest.add(requests_hash(node, boot, requests.floor));
        if let Some(former) = self.requests.insert(node, requests) {
            assert!(former.boot < boot, "boot {boot} of {node} follows {}", former.boot);
            self.digest.subtract(requests_hash(node, former.boot, former.floor));
            for sequence in former.applied {
                self.digest.subtract(sequence_hash(node, former.boot, sequence));
            }
        }
    }

    /// Forgets what is settled, and, where a node names no floor for too long, the oldest.
    fn raise_floor(&mut self, node: NodeId, floor: Sequence) {
        let known = self.requests.get_mut(&node).expect("the record was found or made before");
        let (boot, former) = (known.boot, known.floor);
        known.floor = known.floor.max(floor);
        while let Some(first) = known.applied.first().copied() {
            let full = known.applied.len() > limits::DEDUPE_WINDOW_MAX;
            if first >= known.floor && !full {
                break;
            }
            known.applied.pop_first();
            known.floor = known.floor.max(first.next());
            self.digest.subtract(sequence_hash(node, boot, first));
        }
        if known.floor != former {
            self.digest.subtract(requests_hash(node, boot, former));
            self.digest.add(requests_hash(node, boot, known.floor));
        }
    }

    /// Stores the outcome behind an idempotency key.
    ///
    /// A refusal is not stored: nothing was changed, so a retry is safe, and should succeed once
    /// the cause is gone. The results of a transaction are not stored (the list is then empty) when
    /// the records that it read are more than `IDEMPOTENCY_OUTCOME_BYTES_MAX`, or would make all
    /// stored ones more than `IDEMPOTENCY_BYTES_MAX`.
    pub(super) fn remember_outcome(&mut self, command: &Command, outcome: &Outcome) {
        let Some(key) = &command.idempotency else { return };
        if matches!(outcome, Outcome::Refused(_) | Outcome::Duplicate) {
            return;
        }
        if mutation::active(Mutation::IdempotencyKeyIgnored) && self.idempotency.find(key).is_some()
        {
            return;
        }
        let bytes = outcome_bytes(outcome);
        let all = self.idempotency.bytes + bytes;
        let stored = match outcome {
            Outcome::Txn { succeeded, revision, .. }
                if bytes > limits::IDEMPOTENCY_OUTCOME_BYTES_MAX
                    || all > limits::IDEMPOTENCY_BYTES_MAX =>
            {
                Outcome::Txn { succeeded: *succeeded, revision: *revision, results: Vec::new() }
            }
            _ => outcome.clone(),
        };
        self.digest.add(idempotency_hash(key, self.wall, &stored));
        self.dirty.mark(RowKey::Idempotency(key.clone()));
        self.idempotency.insert(key.clone(), self.wall, stored);
    }

    /// Forgets a bounded number of outcomes that are older than they must be kept. Each entry adds
    /// at most one, so the number of overdue ones only falls.
    pub(super) fn forget_outcomes(&mut self) {
        for _ in 0..limits::IDEMPOTENCY_FORGOTTEN_MAX {
            let Some((key, wall, outcome)) = self.idempotency.pop_older(self.wall) else { return };
            self.digest.subtract(idempotency_hash(&key, wall, &outcome));
            self.dirty.mark(RowKey::Idempotency(key));
        }
    }

    /// Whether a request of a present boot was applied, or can never be any more.
    pub fn is_settled(&self, request: RequestId) -> bool {
        self.requests.get(&request.node).is_some_and(|known| {
            let is_past = request.boot == known.boot && request.sequence < known.floor;
            let is_applied =
                request.boot == known.boot && known.applied.contains(&request.sequence);
            request.boot < known.boot || is_past || is_applied
        })
    }

    /// What the request with this idempotency key was answered, while it is remembered. The results
    /// of a transaction that read much are not kept: their list is then empty.
    pub fn idempotent_outcome(&self, key: &IdempotencyKey) -> Option<&Outcome> {
        self.idempotency.find(key).map(|(_, outcome)| outcome)
    }

    /// How many idempotency keys are remembered; `IDEMPOTENCY_KEYS_MAX` is held by who proposes.
    pub fn idempotency_len(&self) -> usize {
        self.idempotency.outcomes.len()
    }

    /// The stamp of the oldest remembered idempotency key.
    pub fn oldest_idempotency(&self) -> Option<WallMillis> {
        self.idempotency.by_age.first().map(|(wall, _)| *wall)
    }
}
