//! The requests that this node took: numbered, handed to the leader, and told their outcome exactly
//! once.
//!
//! A request keeps its number through every attempt, so that however often it is handed over, it is
//! applied once (`state/` drops the repetitions). What is certain about a request that has no
//! outcome is decided here: it is *unknown* exactly when some attempt of it was handed over and not
//! refused. Whom to hand it to, and when, is decided by `core.rs`; whether the leader takes it, by
//! `intake.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Boot, Instant, NodeId, RequestId, Sequence, limits};
use crate::replica::{RequestError, Ticket, UnavailableReason};
use crate::state::{Command, IdempotencyKey, Operation};
use crate::wire::{ForwardRefusal, ForwardedCommand, encode_command};

/// The requests of one boot that are not settled.
///
/// Invariants:
/// - Every number below the floor is settled: its outcome was told, or nobody will ever ask.
/// - A request is in `queue` exactly when no attempt of it is under way.
/// - `unrefused` counts the attempts that may still lead to the log.
#[derive(Debug)]
pub(super) struct Requests {
    node: NodeId,
    boot: Boot,
    next: Sequence,
    pending: BTreeMap<Sequence, Pending>,
    queue: VecDeque<Sequence>,
    deadlines: BTreeSet<(Instant, Sequence)>,
    tickets: BTreeMap<Ticket, Sequence>,
}

#[derive(Debug)]
struct Pending {
    ticket: Option<Ticket>,
    command: Bytes,
    received: Instant,
    /// None: never given up; for what the node itself must bring about.
    deadline: Option<Instant>,
    attempts: u32,
    unrefused: u32,
    handed: Option<Instant>,
    /// The last certain reason why it was not taken.
    refusal: Option<RequestError>,
}

/// The number below the first that a boot gives to its requests, reads and keepalives. No two boots
/// share one: what a peer still has to say to the boot before this one, it may say to this one
/// (`peer/` keeps a few messages for a node that is down), and it must not be taken for an answer.
pub(super) fn first_number(boot: Boot) -> u64 {
    boot.get() << 32
}

/// A request that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// Who waits for it, if anyone still does.
    pub(super) ticket: Option<Ticket>,
    /// When this node got it.
    pub(super) received: Instant,
}

impl Requests {
    pub(super) fn new(node: NodeId, boot: Boot) -> Self {
        Self {
            node,
            boot,
            next: Sequence(first_number(boot)).next(),
            pending: BTreeMap::new(),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            tickets: BTreeMap::new(),
        }
    }

    /// How many are not settled.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes a request of a caller.
    pub(super) fn submit(
        &mut self,
        ticket: Ticket,
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let window = self.next.get() - self.floor().get();
        if self.pending.len() >= limits::PENDING_REQUESTS_MAX
            || window >= limits::DEDUPE_WINDOW_MAX as u64
        {
            return Err(RequestError::TooManyRequests);
        }
        let sequence = self.add(operation, idempotency, now, Some(ticket), Some(deadline));
        self.deadlines.insert((deadline, sequence));
        self.tickets.insert(ticket, sequence);
        Ok(())
    }

    /// Takes a request of the node itself, which is pursued until it has an outcome.
    pub(super) fn pursue(&mut self, operation: Operation, now: Instant) {
        self.add(operation, None, now, None, None);
    }

    fn add(
        &mut self,
        operation: Operation,
        idempotency: Option<IdempotencyKey>,
        now: Instant,
        ticket: Option<Ticket>,
        deadline: Option<Instant>,
    ) -> Sequence {
        let sequence = self.next;
        self.next = self.next.next();
        let request = RequestId { node: self.node, boot: self.boot, sequence };
        let floor = self.pending.first_key_value().map_or(sequence, |(&first, _)| first);
        let command = Command { request, floor, idempotency, operation };
        let pending = Pending {
            ticket,
            command: encode_command(&command),
            received: now,
            deadline,
            attempts: 0,
            unrefused: 0,
            handed: None,
            refusal: None,
        };
        self.pending.insert(sequence, pending);
        self.queue.push_back(sequence);
        sequence
    }

    /// Every number below this is settled.
    fn floor(&self) -> Sequence {
        self.pending.first_key_value().map_or(self.next, |(&first, _)| first)
    }

    /// Whether something waits to be handed over.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes what waits to be handed over, up to `bytes_max` and at least one, and counts the
    /// attempt.
    pub(super) fn take_queued(&mut self, bytes_max: usize, now: Instant) -> Vec<ForwardedCommand> {
        let mut taken = Vec::with_capacity(self.queue.len());
        let mut bytes = 0;
        while let Some(&sequence) = self.queue.front() {
            let Some(pending) = self.pending.get_mut(&sequence) else {
                self.queue.pop_front();
                continue;
            };
            bytes += pending.command.len() + 32;
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            self.queue.pop_front();
            pending.attempts += 1;
            pending.unrefused += 1;
            pending.handed = Some(now);
            taken.push(ForwardedCommand {
                sequence,
                attempt: pending.attempts,
                command: pending.command.clone(),
            });
        }
        taken
    }

    /// The leader changed or can be reached again: whatever was under way may be lost, queue all of
    /// it.
    pub(super) fn requeue_all(&mut self) {
        self.requeue(|_| true);
    }

    /// Queues again what was handed over before `handed_before` and has no outcome.
    pub(super) fn requeue_older(&mut self, handed_before: Instant) {
        self.requeue(|handed| handed < handed_before);
    }

    fn requeue(&mut self, is_due: impl Fn(Instant) -> bool) {
        for (&sequence, pending) in &mut self.pending {
            if pending.handed.is_some_and(&is_due) {
                pending.handed = None;
                self.queue.push_back(sequence);
            }
        }
        // The leader appends in this order, and callers expect what they sent first to come first.
        self.queue.make_contiguous().sort_unstable();
    }

    /// An attempt was refused before anything was appended. Returns the answer when it is certain
    /// and there is nothing left to try.
    pub(super) fn refused(
        &mut self,
        sequence: Sequence,
        attempt: u32,
        refusal: ForwardRefusal,
    ) -> Option<(Ticket, RequestError)> {
        let pending = self.pending.get_mut(&sequence)?;
        if pending.unrefused == 0 || attempt > pending.attempts {
            return None;
        }
        pending.unrefused -= 1;
        let is_latest = attempt == pending.attempts && pending.handed.is_some();
        if is_latest {
            pending.handed = None;
        }
        let error = match refusal {
            ForwardRefusal::NotLeader => {
                if is_latest {
                    self.queue.push_back(sequence);
                }
                return None;
            }
            ForwardRefusal::Forbidden => RequestError::Forbidden,
            ForwardRefusal::DiskFull => RequestError::Unavailable(UnavailableReason::DiskFull),
            ForwardRefusal::Malformed => RequestError::Unavailable(UnavailableReason::Malformed),
            ForwardRefusal::Overloaded => RequestError::Unavailable(UnavailableReason::Overloaded),
            ForwardRefusal::Quota => RequestError::QuotaExceeded,
        };
        pending.refusal = Some(error);
        // What is forbidden stays so: the node itself needs it in vain.
        let pursued = pending.deadline.is_none() && error != RequestError::Forbidden;
        if pending.unrefused > 0 || pursued {
            // An earlier attempt may still be applied, or the node itself needs it: ask again
            // later.
            if is_latest {
                pending.handed = Some(pending.received);
            }
            return None;
        }
        let ticket = pending.ticket;
        self.settle(sequence);
        ticket.map(|ticket| (ticket, error))
    }

    /// An entry of this boot was applied.
    pub(super) fn applied(&mut self, sequence: Sequence) -> Option<Settled> {
        self.settle(sequence)
    }

    /// Settles those whose entry this node never saw, because a state took its place. Who waits for
    /// one is returned, with its command.
    pub(super) fn take_skipped(
        &mut self,
        is_settled: impl Fn(Sequence) -> bool,
    ) -> Vec<(Ticket, Bytes)> {
        let all = self.pending.iter();
        let skipped =
            all.filter(|(sequence, pending)| pending.attempts > 0 && is_settled(**sequence));
        let skipped: Vec<(Sequence, Bytes)> =
            skipped.map(|(&sequence, pending)| (sequence, pending.command.clone())).collect();
        let mut waiting = Vec::new();
        for (sequence, command) in skipped {
            if let Some(ticket) = self.settle(sequence).and_then(|settled| settled.ticket) {
                waiting.push((ticket, command));
            }
        }
        waiting
    }

    /// Nobody waits any more. A request that was never handed over is dropped.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        let Some(sequence) = self.tickets.remove(&ticket) else { return };
        let pending = self.pending.get_mut(&sequence).expect("a ticket names a pending request");
        pending.ticket = None;
        if pending.attempts == 0 {
            self.settle(sequence);
        }
    }

    /// Those whose time is up, with what is certain about them.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<(Ticket, RequestError)> {
        let mut answers = Vec::new();
        while let Some(&(deadline, sequence)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let pending = &self.pending[&sequence];
            let certain = mutation::active(Mutation::UnknownToldAsRefused);
            let error = if pending.unrefused > 0 && !certain {
                RequestError::OutcomeUnknown
            } else {
                pending.refusal.unwrap_or(RequestError::NoLeader)
            };
            if let Some(settled) = self.settle(sequence)
                && let Some(ticket) = settled.ticket
            {
                answers.push((ticket, error));
            }
        }
        answers
    }

    /// All that callers wait for, with what is certain: `error` where nothing was handed over. What
    /// the node itself must bring about goes on.
    pub(super) fn take_all(&mut self, error: RequestError) -> Vec<(Ticket, RequestError)> {
        let tickets = std::mem::take(&mut self.tickets);
        let mut answers = Vec::with_capacity(tickets.len());
        for (ticket, sequence) in tickets {
            let is_unknown = self.pending[&sequence].unrefused > 0;
            let error = if is_unknown { RequestError::OutcomeUnknown } else { error };
            self.settle(sequence);
            answers.push((ticket, error));
        }
        answers
    }

    /// When the next request is overdue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Whether anything is under way and may have to be sent again.
    pub(super) fn has_handed(&self) -> bool {
        self.pending.len() > self.queue.len()
    }

    fn settle(&mut self, sequence: Sequence) -> Option<Settled> {
        let pending = self.pending.remove(&sequence)?;
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, sequence));
        }
        if let Some(ticket) = pending.ticket {
            self.tickets.remove(&ticket);
        }
        Some(Settled { ticket: pending.ticket, received: pending.received })
    }
}

#[cfg(test)]
mod tests {
    use super::Requests;
    use crate::base::{Boot, Instant, NodeId, Span};
    use crate::replica::{RequestError, Ticket};
    use crate::state::Operation;
    use crate::wire::ForwardRefusal;

    fn handed_over(boot: u64, deadline: Instant) -> (Requests, crate::wire::ForwardedCommand) {
        let mut requests = Requests::new(NodeId(1), Boot(boot));
        let operation = Operation::NodeBooted;
        requests
            .submit(Ticket(1), operation, None, Instant::ZERO, deadline)
            .expect("there is room");
        let mut taken = requests.take_queued(usize::MAX, Instant::ZERO);
        let taken = taken.pop().expect("it waited");
        (requests, taken)
    }

    #[test]
    fn a_refusal_meant_for_the_boot_before_makes_nothing_certain() {
        let deadline = Instant::ZERO + Span::from_secs(1);
        let (_, before) = handed_over(1, deadline);
        let (mut requests, _) = handed_over(2, deadline);
        let refusal = ForwardRefusal::Overloaded;
        assert_eq!(requests.refused(before.sequence, before.attempt, refusal), None);
        let unknown = vec![(Ticket(1), RequestError::OutcomeUnknown)];
        assert_eq!(requests.take_overdue(deadline), unknown, "the attempt may be in the log");
    }
}
