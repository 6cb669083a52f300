//! Whether a caller may do what its request says, and whether it still may while a stream goes on:
//! the one place where the API asks the access rules.
//!
//! What a request touches is said by its handler, from the request as it was parsed and before
//! anything is submitted; who may do that is decided by `host::AccessRules`.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{KeyRange, LeaseId, Span, Token};
use crate::host::{Denied, Subject, Wanted};
use crate::node::Consistency;
use crate::replica::{RequestError, View};
use crate::state::{IdempotencyKey, QueueKind, QueueName, queue_prefix};

use super::context::Context;
use super::problem::Fault;

/// What a request does and was found to be allowed. A stream keeps it and ends when the rules say
/// otherwise.
#[derive(Clone, Debug)]
pub(super) struct Permit {
    subject: Arc<Subject>,
    wanted: Vec<Wanted>,
}

/// Who asks, and by which name of its own for the request, if it has one.
pub(super) struct Claimant<'a> {
    /// Who.
    pub(super) subject: &'a Arc<Subject>,
    /// A repeated request is answered as the first one was, though its lease may be gone.
    pub(super) idempotency: Option<&'a IdempotencyKey>,
    /// How long to wait for a state that knows the lease.
    pub(super) timeout: Span,
}

/// Reading one key.
pub(super) fn read_key(key: &Bytes) -> Wanted {
    Wanted::Read(KeyRange::Key(key.clone()))
}

/// Reading all keys with a prefix.
pub(super) fn read_prefix(prefix: &Bytes) -> Wanted {
    Wanted::Read(KeyRange::Prefix(prefix.clone()))
}

/// Writing or deleting one key.
pub(super) fn write_key(key: &Bytes) -> Wanted {
    Wanted::Write(KeyRange::Key(key.clone()))
}

/// Deleting all keys with a prefix.
pub(super) fn write_prefix(prefix: &Bytes) -> Wanted {
    Wanted::Write(KeyRange::Prefix(prefix.clone()))
}

/// Looking at a lock or an election: the same as reading its places.
pub(super) fn read_queue(queue: &QueueName) -> Wanted {
    Wanted::Read(KeyRange::Prefix(queue_prefix(queue)))
}

/// Looking at all locks or all elections.
pub(super) fn read_queues(kind: QueueKind) -> Wanted {
    let all = match kind {
        QueueKind::Barrier => b"_barriers/".as_slice(),
        QueueKind::Election => b"_elections/",
        QueueKind::Lock => b"_locks/",
    };
    Wanted::Read(KeyRange::Prefix(Bytes::from_static(all)))
}

/// Taking, releasing or changing a place in a queue.
pub(super) fn use_queue(queue: &QueueName) -> Wanted {
    match queue.kind {
        QueueKind::Election => Wanted::Campaign(queue.name.clone()),
        QueueKind::Barrier | QueueKind::Lock => Wanted::Lock(queue.name.clone()),
    }
}

impl Context {
    /// Whether the subject may do all of this now.
    pub(super) fn permit(
        &self,
        subject: &Arc<Subject>,
        wanted: Vec<Wanted>,
    ) -> Result<Permit, Fault> {
        let permit = Permit { subject: subject.clone(), wanted };
        self.check(&permit).map(|()| permit)
    }

    /// Whether what was allowed still is.
    pub(super) fn check(&self, permit: &Permit) -> Result<(), Fault> {
        let rules = self.host.access();
        let answer = rules.authorize(&permit.subject, &permit.wanted);
        answer.map_err(|denied| self.denied(&permit.subject, denied))
    }

    fn denied(&self, subject: &Subject, denied: Denied) -> Fault {
        self.host.log_refusal(&denied, subject.pid());
        denied.into()
    }

    /// Becomes ready when a stream must end: the daemon stops, its state may not be looked at any
    /// more, or the caller may not do any more what it does.
    pub(super) async fn ended(&self, permit: &Permit) {
        let mut changes = self.host.access_changes();
        let stopped = self.stopped();
        tokio::pin!(stopped);
        loop {
            let rules = changes.borrow_and_update().clone();
            if rules.authorize(&permit.subject, &permit.wanted).is_err() {
                return;
            }
            tokio::select! {
                () = &mut stopped => return,
                // It cannot fail: the context holds the sender.
                _ = changes.changed() => {}
            }
        }
    }

    /// What a stream that must end says, and in a word.
    pub(super) fn ending(&self, permit: &Permit) -> (Fault, &'static str) {
        if self.node.fence().is_some() {
            return (Fault::diverged(), "diverged");
        }
        match self.check(permit) {
            Err(denied) if !*self.stop.borrow() => (denied, "forbidden"),
            _ => (Fault::shutting_down(), "shutting_down"),
        }
    }

    /// Whether the subject may use a lease of this user, for as long as it may.
    pub(super) fn own_lease(&self, subject: &Arc<Subject>, owner: u32) -> Result<Permit, Fault> {
        let answer = self.host.access().authorize_lease(subject, owner);
        answer.map_err(|denied| self.denied(subject, denied))?;
        let own = subject.uid() == owner;
        let wanted = if own { Wanted::Lease } else { Wanted::Administrate };
        Ok(Permit { subject: subject.clone(), wanted: vec![wanted] })
    }

    /// Whether the subject may use the leases of all users.
    pub(super) fn owns_all_leases(&self, subject: &Subject) -> bool {
        self.host.access().authorize(subject, &[Wanted::Administrate]).is_ok()
    }

    /// Refuses to use leases that are another user's. One that this node does not know is looked
    /// for in the newest state, and one that nobody knows is not there: nothing goes past this that
    /// could come to be between here and the log.
    pub(super) async fn own_leases(
        &self,
        claimant: &Claimant<'_>,
        leases: impl IntoIterator<Item = LeaseId>,
    ) -> Result<(), Fault> {
        for lease in leases {
            let owner = |view: &View| view.machine.lease(lease).map(|lease| lease.uid);
            self.own(claimant, owner, Fault::lease_not_found).await?;
        }
        Ok(())
    }

    /// Refuses to use a place that stands under another user's lease, in the same way.
    pub(super) async fn own_place(
        &self,
        claimant: &Claimant<'_>,
        queue: &QueueName,
        token: Token,
    ) -> Result<(), Fault> {
        let owner = |view: &View| {
            let place = view.machine.place(queue, token)?;
            view.machine.lease(place.lease).map(|lease| lease.uid)
        };
        self.own(claimant, owner, Fault::token_not_held).await
    }

    async fn own(
        &self,
        claimant: &Claimant<'_>,
        owner: impl Fn(&View) -> Option<u32>,
        missing: impl Fn() -> Fault,
    ) -> Result<(), Fault> {
        if self.owns_all_leases(claimant.subject) {
            return Ok(());
        }
        let mut found = owner(&self.node.view());
        if found.is_none() {
            let newest = self.node.barrier(Consistency::Linearizable, claimant.timeout).await;
            newest.map_err(|error| match error {
                // Of a write: nothing has been submitted.
                RequestError::Timeout => Fault::no_leader(),
                other => other.into(),
            })?;
            found = owner(&self.node.view());
        }
        let Some(owner) = found else {
            let view = self.node.view();
            let known = |key| view.machine.idempotent_outcome(key).is_some();
            return match claimant.idempotency.is_some_and(known) {
                true => Ok(()),
                false => Err(missing()),
            };
        };
        self.own_lease(claimant.subject, owner).map(drop)
    }
}
