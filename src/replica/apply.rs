//! Applies committed entries to the view, and tells everyone whom they concern.
//!
//! Applying cannot fail: an entry that this program does not understand stops the process, because
//! skipping it would let the replicas drift apart (RELIABILITY G4).

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant, LeaseId, Term};
use crate::raft::{Entry, Payload};
use crate::replica::{Action, Now, Replica, View};
use crate::state::{Applied, Bind, Command, Holder, LeaseChange, Operation, Outcome};
use crate::wire::decode_stamped;

impl Replica {
    pub(super) fn apply(&mut self, now: Now, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        if self.stopped {
            return;
        }
        if self.is_fenced() {
            self.pass_over(now.instant, &entries);
            return;
        }
        let shared = self.shared_view();
        let mut view = Self::view_mut(&shared);
        let mut changed = None;
        for entry in entries {
            self.checkpoint.applied(entry.size_bytes(), now.instant);
            match entry.payload {
                Payload::Command(bytes) => {
                    if !self.apply_command(
                        &mut view,
                        now.instant,
                        (entry.index, entry.term),
                        &bytes,
                    ) {
                        return;
                    }
                }
                Payload::Empty => view.machine.skip(entry.index, entry.term),
                Payload::Membership(membership) => {
                    view.machine.skip(entry.index, entry.term);
                    changed = Some((entry.index, membership));
                }
            }
            self.note_digest(&view.machine);
        }
        drop(view);
        self.raft.applied(last);
        if let Some((index, membership)) = changed {
            self.members_applied(now.instant, index, &membership);
        }
    }

    /// The state is not to be relied upon any more, who the members are must still be known.
    fn pass_over(&mut self, now: Instant, entries: &[Entry]) {
        for entry in entries {
            if let Payload::Membership(membership) = &entry.payload {
                self.members_applied(now, entry.index, membership);
            }
        }
    }

    /// False when the process must stop.
    fn apply_command(
        &mut self,
        view: &mut View,
        now: Instant,
        (index, term): (Index, Term),
        bytes: &Bytes,
    ) -> bool {
        // A payload from a peer is a slice of the whole frame that it came in; what the state keeps
        // of it must not keep the frame.
        let owned = Bytes::copy_from_slice(bytes);
        let (wall, command) = match decode_stamped(&owned) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.stopped = true;
                self.actions.push(Action::Fatal(format!(
                    "entry {index} of the log cannot be understood ({error}): it was written by a \
                     newer version; upgrade this daemon and start it again"
                )));
                return false;
            }
        };
        let applied = view.machine.apply(index, term, wall, &command);
        self.intake.applied(&command.request);
        if let Some(events) = &applied.events {
            self.intake.keys_changed(events);
            view.history.push(events.clone());
            self.published.events.push(events.clone());
        }
        if let Some(revision) = applied.compacted {
            view.history.trim(revision);
        }
        self.lease_changes(view, now, &applied);
        self.published.queues.extend(applied.queues.iter().cloned());
        self.settle_own(view, now, &command, applied);
        true
    }

    fn lease_changes(&mut self, view: &mut View, now: Instant, applied: &Applied) {
        for &change in &applied.leases {
            match change {
                LeaseChange::Began(id) => {
                    let Some(lease) = view.machine.lease(id) else { continue };
                    if let Some(expiry) = &mut self.expiry {
                        expiry.begin(lease, now);
                    }
                    if lease.bind == Bind::Node
                        && (lease.node, lease.boot) == (self.node, self.boot)
                    {
                        self.keeper.set_host(Some(id), now);
                    }
                }
                LeaseChange::Ended(id) => {
                    if let Some(expiry) = &mut self.expiry {
                        expiry.end(id);
                    }
                    if view.promises.end(id) {
                        self.published.promises.push(id);
                    }
                    if self.keeper.host() == Some(id) {
                        self.keeper.set_host(None, now);
                    }
                }
            }
        }
        self.published.leases.extend(applied.leases.iter().copied());
    }

    /// Tells the caller of this node, if the entry is one of its requests.
    fn settle_own(&mut self, view: &mut View, now: Instant, command: &Command, applied: Applied) {
        let request = &command.request;
        if (request.node, request.boot) != (self.node, self.boot) {
            return;
        }
        let settled = self.requests.applied(request.sequence);
        let new_lease = new_lease(&command.operation, &applied);
        let is_bound = |id| view.machine.lease(id).is_some_and(|lease| lease.bind != Bind::None);
        if let Some(id) = new_lease.filter(|&id| is_bound(id))
            && settled.as_ref().is_none_or(|settled| settled.ticket.is_none())
        {
            // Whoever asked was told "unknown", or has gone, and nothing will ever end what it does
            // not know of: the host's keepalives would hold it as long as this daemon runs.
            self.requests.pursue(Operation::RevokeLeases { leases: vec![id] }, now);
            return;
        }
        let Some(mut settled) = settled else { return };
        if let Operation::AdoptLeases { leases } = &command.operation {
            self.adopted(view, leases, settled.received);
        }
        if mutation::active(Mutation::PromiseFromAnswer) {
            settled.received = now;
        }
        if let Some(id) = new_lease {
            let lease = view.machine.lease(id).expect("an entry's new lease outlives the entry");
            view.promises.keep(lease, settled.received);
            self.keeper.quicken(view.promises.shortest_bound_ttl(), settled.received);
        }
        if let Some(ticket) = settled.ticket {
            self.answer(ticket, Ok(applied.outcome));
        }
    }
}

impl Replica {
    /// Leases of earlier boots are this boot's now. The entry gave them their full time to live on
    /// every leader's clock, and it was asked for at `since`: the proof is that of a grant.
    fn adopted(&mut self, view: &mut View, leases: &[LeaseId], since: Instant) {
        let own = (self.node, self.boot);
        for lease in leases.iter().filter_map(|&id| view.machine.lease(id)) {
            if lease.bind == Bind::Process && (lease.node, lease.boot) == own {
                view.promises.keep(lease, since);
                self.published.promises.push(lease.id);
            }
        }
        self.keeper.quicken(view.promises.shortest_bound_ttl(), since);
    }
}

/// The lease that this very entry made for its caller. An outcome that is only repeated, under an
/// idempotency key, makes none: its grant lies further back than the retry, and a promise counted
/// from the retry would last too long.
fn new_lease(operation: &Operation, applied: &Applied) -> Option<LeaseId> {
    let id = match (operation, &applied.outcome) {
        (Operation::GrantLease(_), Outcome::Granted { lease, .. }) => *lease,
        (Operation::Acquire(acquire), Outcome::Acquired { lease, .. })
            if matches!(acquire.holder, Holder::New(_)) =>
        {
            *lease
        }
        _ => return None,
    };
    applied.leases.contains(&LeaseChange::Began(id)).then_some(id)
}
