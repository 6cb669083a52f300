//! What ends with its connection: leases and places in queues, however the connection ends.
//!
//! A guard ([`Owned`]) ends its lease or leaves its place when it is dropped. The requests that
//! make them run in tasks of their own, so that a caller who goes while one is under way leaves
//! nothing behind: the answer finds nobody, and its guard is dropped. How a lease is ended over
//! changes of leader is decided in `replica/`, which also ends one whose request was answered as
//! unknown and applied later: nobody here will ever hear of it.
//!
//! What is bound to a process is guarded in the same way until its caller is told; from then on
//! `host/` ends it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::base::{LeaseId, Span, Token};
use crate::host::Host;
use crate::replica::RequestError;
use crate::state::{Holder, IdempotencyKey, Operation, Outcome, QueueName};

/// Everything that ends with connections of this server.
pub(super) struct Bound {
    shared: Arc<Shared>,
}

struct Shared {
    host: Host,
    owners: Mutex<Owners>,
}

/// How many guards there are of each: two requests with one lease, or one `Idempotency-Key`, are
/// the same request, and the last of them to go ends it.
#[derive(Default)]
struct Owners {
    leases: BTreeMap<LeaseId, usize>,
    places: BTreeMap<(QueueName, Token), usize>,
}

/// A guard: dropped, it ends what it names.
pub(super) struct Owned {
    shared: Arc<Shared>,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Lease(LeaseId),
    Nothing,
    Place(QueueName, Token),
}

impl Bound {
    /// Nothing yet.
    pub(super) fn new(host: Host) -> Self {
        Self { shared: Arc::new(Shared { host, owners: Mutex::default() }) }
    }

    /// Submits an operation that makes something which ends with the connection, and the guard of
    /// it. Dropping this future drops the guard as soon as there is one.
    pub(super) async fn submit(
        &self,
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
        timeout: Span,
    ) -> Result<(Outcome, Owned), RequestError> {
        let shared = self.shared.clone();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let claim = Claim::of(&operation);
            let result = shared.host.node().submit(operation, idempotency, timeout).await;
            let owned = result.map(|outcome| {
                let owned = shared.own(claim.made_by(&outcome));
                (outcome, owned)
            });
            // When nobody waits, the guard comes back in the error and is dropped here.
            drop(answer.send(owned));
        });
        answered.await.unwrap_or(Err(RequestError::OutcomeUnknown))
    }
}

/// What an operation makes that somebody must own.
enum Claim {
    Lease,
    Place(QueueName),
}

impl Claim {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Acquire(acquire) => match acquire.holder {
                Holder::Existing(_) => Self::Place(acquire.queue.clone()),
                Holder::New(_) => Self::Lease,
            },
            _ => Self::Lease,
        }
    }

    fn made_by(self, outcome: &Outcome) -> What {
        match (self, outcome) {
            (Self::Lease, Outcome::Acquired { lease, .. } | Outcome::Granted { lease, .. }) => {
                What::Lease(*lease)
            }
            // One that is held already is kept by its lease: this may be a repeated request, and
            // the caller of the first relies on it.
            (Self::Place(queue), Outcome::Acquired { token, ahead, .. }) if *ahead > 0 => {
                What::Place(queue, *token)
            }
            _ => What::Nothing,
        }
    }
}

impl Shared {
    fn owners(&self) -> MutexGuard<'_, Owners> {
        // Counts are changed in one step each: a panic elsewhere leaves them right.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that follows a process was told to somebody: this was a repeated request for it, and
    /// nothing of the first ends with it.
    fn end_lease(&self, lease: LeaseId) {
        let node = self.host.node();
        let own = (node.status().replica.node, node.status().replica.boot);
        let follows_elsewhere = node
            .view()
            .machine
            .lease(lease)
            .is_some_and(|lease| lease.process.is_some() && (lease.node, lease.boot) != own);
        if !follows_elsewhere && !self.host.bindings().holds(lease) {
            node.end_lease(lease);
        }
    }

    fn own(self: &Arc<Self>, what: What) -> Owned {
        let mut owners = self.owners();
        match &what {
            What::Lease(lease) => *owners.leases.entry(*lease).or_default() += 1,
            What::Nothing => {}
            What::Place(queue, token) => {
                *owners.places.entry((queue.clone(), *token)).or_default() += 1;
            }
        }
        drop(owners);
        Owned { shared: self.clone(), what }
    }
}

impl Owned {
    /// What it names stays.
    pub(super) fn release(mut self) {
        let what = std::mem::replace(&mut self.what, What::Nothing);
        self.forget(&what);
    }

    /// Whether no other guard names it.
    fn forget(&self, what: &What) -> bool {
        let mut owners = self.shared.owners();
        match what {
            What::Lease(lease) => forget(&mut owners.leases, lease),
            What::Nothing => false,
            What::Place(queue, token) => forget(&mut owners.places, &(queue.clone(), *token)),
        }
    }
}

fn forget<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        _ => {
            counts.remove(key);
            true
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let what = std::mem::replace(&mut self.what, What::Nothing);
        if !self.forget(&what) {
            return;
        }
        match what {
            What::Lease(lease) => self.shared.end_lease(lease),
            What::Nothing => {}
            What::Place(queue, token) => self.shared.host.node().leave_queue(queue, token),
        }
    }
}
