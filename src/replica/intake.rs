//! What a leader takes into its log, and what it makes of keepalives.
//!
//! Limits are checked here, before an entry exists: applying never looks at a limit of one node
//! (RELIABILITY G7). A request that is in the log and not yet applied is not appended again,
//! however often it is sent; one that was applied is dropped by `state/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::reservations::{Origin, PREFIX, Reservations};
use crate::base::{Instant, NodeId, ReadContext, RequestId, Sequence, limits};
use crate::state::{Command, Holder, Operation, RevisionEvents, StateMachine, TxnOperation};
use crate::wire::{ForwardRefusal, ForwardedCommand, KeepaliveRequest, decode_command};

/// What one leader has under way in its term.
///
/// Invariants:
/// - `in_log` holds the requests of entries that this leader appended and has not applied.
#[derive(Debug, Default)]
pub(super) struct Intake {
    in_log: BTreeSet<RequestId>,
    accepted: Vec<Bytes>,
    accepted_ids: Vec<(NodeId, Sequence, u32, RequestId)>,
    keepalives: Vec<Received>,
    asked: BTreeMap<ReadContext, Vec<Received>>,
    /// As they were read from the state; nothing when they may have changed since.
    reservations: Option<Reservations>,
}

/// A keepalive with who sent it and when it arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) from: NodeId,
    pub(super) at: Instant,
    pub(super) request: KeepaliveRequest,
}

/// What stands in the way of new entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressure {
    pub(super) disk_full: bool,
    pub(super) log_full: bool,
    pub(super) store_bytes_max: u64,
}

impl Intake {
    /// Checks a forwarded command. Accepted ones wait to be appended.
    pub(super) fn offer(
        &mut self,
        origin: Origin<'_>,
        forwarded: &ForwardedCommand,
        machine: &StateMachine,
        pressure: Pressure,
    ) -> Result<(), ForwardRefusal> {
        let command = decode_command(&forwarded.command).map_err(|_| ForwardRefusal::Malformed)?;
        if command.request.node != origin.node || command.request.sequence != forwarded.sequence {
            return Err(ForwardRefusal::Malformed);
        }
        if self.in_log.contains(&command.request) {
            return Ok(());
        }
        self.check(origin, &command, machine, pressure)?;
        self.in_log.insert(command.request);
        self.accepted.push(forwarded.command.clone());
        let id = (origin.node, forwarded.sequence, forwarded.attempt, command.request);
        self.accepted_ids.push(id);
        Ok(())
    }

    fn check(
        &mut self,
        origin: Origin<'_>,
        command: &Command,
        machine: &StateMachine,
        pressure: Pressure,
    ) -> Result<(), ForwardRefusal> {
        if pressure.disk_full {
            return Err(ForwardRefusal::DiskFull);
        }
        if pressure.log_full {
            return Err(ForwardRefusal::Overloaded);
        }
        let key = command.idempotency.as_ref();
        let is_known = key.map(|key| machine.idempotent_outcome(key).is_some());
        if is_known == Some(true) {
            // It changes nothing and repeats what was answered: a refusal would say of a write that
            // was applied that it was not.
            return Ok(());
        }
        if !self.reservations(machine).allow(origin, &command.operation, machine) {
            return Err(ForwardRefusal::Forbidden);
        }
        if machine.history_bytes() >= pressure.store_bytes_max
            && grows_the_store(&command.operation)
        {
            return Err(ForwardRefusal::Quota);
        }
        if makes_a_lease(&command.operation) && machine.lease_count() >= limits::LEASES_MAX {
            return Err(ForwardRefusal::Overloaded);
        }
        if let Operation::Acquire(acquire) = &command.operation
            && machine.queue_length(&acquire.queue) >= limits::QUEUE_LENGTH_MAX
        {
            return Err(ForwardRefusal::Overloaded);
        }
        if is_known == Some(false) && machine.idempotency_len() >= limits::IDEMPOTENCY_KEYS_MAX {
            return Err(ForwardRefusal::Overloaded);
        }
        Ok(())
    }

    /// The reservations in force.
    pub(super) fn reservations(&mut self, machine: &StateMachine) -> &Reservations {
        self.reservations.get_or_insert_with(|| Reservations::read(machine))
    }

    /// Keys have changed.
    pub(super) fn keys_changed(&mut self, events: &RevisionEvents) {
        if events.events.iter().any(|event| event.record.key.starts_with(PREFIX)) {
            self.reservations = None;
        }
    }

    /// Whether anything waits to be appended.
    pub(super) fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// What was accepted and is not appended yet, in order.
    pub(super) fn accepted(&self) -> &[Bytes] {
        &self.accepted
    }

    /// All that was accepted is in the log now.
    pub(super) fn appended(&mut self) {
        self.accepted.clear();
        self.accepted_ids.clear();
    }

    /// What was accepted could not be appended after all: whom to tell about which attempt.
    pub(super) fn reject_accepted(&mut self) -> Vec<(NodeId, Sequence, u32)> {
        self.accepted.clear();
        let rejected = std::mem::take(&mut self.accepted_ids);
        for (_, _, _, request) in &rejected {
            self.in_log.remove(request);
        }
        rejected.into_iter().map(|(node, sequence, attempt, _)| (node, sequence, attempt)).collect()
    }

    /// An entry was applied.
    pub(super) fn applied(&mut self, request: &RequestId) {
        self.in_log.remove(request);
    }

    /// A keepalive arrived.
    pub(super) fn keepalive(&mut self, from: NodeId, request: KeepaliveRequest, at: Instant) {
        self.keepalives.push(Received { from, at, request });
    }

    /// Whether keepalives wait for a confirmation that has not been asked for.
    pub(super) fn has_keepalives(&self) -> bool {
        !self.keepalives.is_empty()
    }

    /// The keepalives that arrived until now wait for the confirmation of `context`.
    pub(super) fn keepalives_asked(&mut self, context: ReadContext) {
        self.asked.insert(context, std::mem::take(&mut self.keepalives));
    }

    /// The quorum confirmed `context`.
    pub(super) fn keepalives_confirmed(&mut self, context: ReadContext) -> Vec<Received> {
        self.asked.remove(&context).unwrap_or_default()
    }

    /// This node leads no more: nothing under way is its business. Those who sent it send it again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn grows_the_store(operation: &Operation) -> bool {
    match operation {
        Operation::Proclaim { .. } | Operation::Put { .. } => true,
        Operation::Txn(txn) => {
            let mut all = txn.then.iter().chain(&txn.or_else);
            all.any(|operation| matches!(operation, TxnOperation::Put { .. }))
        }
        // Locks and leases stay usable when configuration has filled the store, and whatever frees
        // space must always be possible.
        Operation::Acquire(_)
        | Operation::AdoptLeases { .. }
        | Operation::BindLease { .. }
        | Operation::Compact { .. }
        | Operation::Delete { .. }
        | Operation::ExpireLeases { .. }
        | Operation::GrantLease(_)
        | Operation::NodeBooted
        | Operation::Release { .. }
        | Operation::RevokeLeases { .. }
        | Operation::StartEpoch => false,
    }
}

fn makes_a_lease(operation: &Operation) -> bool {
    match operation {
        Operation::Acquire(acquire) => matches!(acquire.holder, Holder::New(_)),
        Operation::GrantLease(_) => true,
        _ => false,
    }
}
