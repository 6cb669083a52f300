//! When this node tells the leader which leases live on: its host's own, and those of its callers.
//!
//! One heartbeat per host, not one per lease: what is bound on this host hangs under the host's
//! lease (DESIGN.md). What a confirmation allows to be promised is decided by `promises.rs`, what
//! the leader makes of a keepalive by `intake.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Boot, Instant, LeaseId, Span, limits};
use crate::replica::requests::first_number;
use crate::replica::{RequestError, Ticket};
use crate::wire::{KeepaliveAnswer, KeepaliveRequest};

/// Keepalives that this node has to send, and those under way.
///
/// Invariants:
/// - A context is never used twice, not by another boot either, so that a late answer confirms only
///   what it answers.
/// - The instant that a confirmation counts from lies before the sending.
/// - `due` holds exactly the callers of `deadlines`.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    host: Option<LeaseId>,
    host_due: Option<Instant>,
    queued: Vec<(Ticket, LeaseId)>,
    under_way: BTreeMap<u64, UnderWay>,
    contexts_used: u64,
    /// The callers that wait, and the same by when their time is up.
    deadlines: BTreeMap<Ticket, Instant>,
    due: BTreeSet<(Instant, Ticket)>,
}

#[derive(Debug)]
struct UnderWay {
    sent: Instant,
    leases: Vec<LeaseId>,
    callers: Vec<(Ticket, LeaseId)>,
}

/// What an answer confirms.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// Counted from here.
    pub(super) sent: Instant,
    /// Those that live on.
    pub(super) alive: Vec<LeaseId>,
    /// The callers to be told, each with whether its lease lives on.
    pub(super) callers: Vec<(Ticket, LeaseId, bool)>,
}

/// How often a keepalive is repeated within the shortest time to live that depends on it: three may
/// be lost in a row before a holder is told that it is at risk half-way.
const BEATS_PER_TTL: u64 = 5;
/// After how long without an answer a keepalive counts as lost and is forgotten.
const FORGET_AFTER: Span = Span::from_secs(30);

impl Keeper {
    /// The keeper of one boot.
    pub(super) fn of_boot(boot: Boot) -> Self {
        Self { contexts_used: first_number(boot), ..Self::default() }
    }

    /// This node's own lease began or ended.
    pub(super) fn set_host(&mut self, host: Option<LeaseId>, now: Instant) {
        if self.host != host {
            self.host = host;
            self.host_due = host.map(|_| now);
        }
    }

    /// This node's own lease, as long as it lives.
    pub(super) fn host(&self) -> Option<LeaseId> {
        self.host
    }

    /// A lease that hangs under the host's began: the pace may have to quicken.
    pub(super) fn quicken(&mut self, shortest_ttl: Option<Span>, now: Instant) {
        let next = now + Self::pace(shortest_ttl);
        if let Some(due) = &mut self.host_due {
            *due = (*due).min(next);
        }
    }

    /// A caller keeps a lease alive.
    pub(super) fn queue(&mut self, ticket: Ticket, lease: LeaseId, deadline: Instant) {
        self.queued.push((ticket, lease));
        self.deadlines.insert(ticket, deadline);
        self.due.insert((deadline, ticket));
    }

    /// The callers whose time is up. A keepalive is not a write: nothing is unknown about it that
    /// the next one would not tell.
    pub(super) fn take_overdue(
        &mut self,
        has_leader: bool,
        now: Instant,
    ) -> Vec<(Ticket, RequestError)> {
        let error = if has_leader { RequestError::Timeout } else { RequestError::NoLeader };
        let mut answers = Vec::new();
        while let Some(&(deadline, ticket)) = self.due.first()
            && deadline <= now
        {
            self.forget(ticket);
            answers.push((ticket, error));
        }
        if !answers.is_empty() {
            self.queued.retain(|(ticket, _)| self.deadlines.contains_key(ticket));
        }
        answers
    }

    /// All callers that wait. The host's own keepalives go on.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        let tickets = std::mem::take(&mut self.deadlines).into_keys().collect();
        self.due.clear();
        self.queued.clear();
        tickets
    }

    /// Whether a keepalive waits for its answer.
    pub(super) fn has_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// The leader changed, or can be reached again: what was under way may be lost, send all of it
    /// now.
    pub(super) fn restart(&mut self, now: Instant) {
        for (_, lost) in std::mem::take(&mut self.under_way) {
            self.queued.extend(lost.callers);
        }
        self.host_due = self.host.map(|_| now);
    }

    /// Queues again the callers whose keepalive left before `sent_before` and was never answered.
    pub(super) fn resend(&mut self, sent_before: Instant) {
        for way in self.under_way.values_mut().filter(|way| way.sent < sent_before) {
            self.queued.append(&mut way.callers);
        }
    }

    /// The next keepalive to send, if any is due at `now`.
    pub(super) fn take_due(
        &mut self,
        shortest_ttl: Option<Span>,
        now: Instant,
    ) -> Option<KeepaliveRequest> {
        let host_is_due = self.host_due.is_some_and(|due| due <= now);
        if !host_is_due && self.queued.is_empty() {
            return None;
        }
        self.under_way.retain(|_, way| now.since(way.sent) < FORGET_AFTER);
        let mut callers = std::mem::take(&mut self.queued);
        callers.retain(|(ticket, _)| self.deadlines.contains_key(ticket));
        let mut leases: Vec<LeaseId> = callers.iter().map(|&(_, lease)| lease).collect();
        if host_is_due {
            leases.extend(self.host);
            self.host_due = Some(now + Self::pace(shortest_ttl));
        }
        leases.sort_unstable();
        leases.dedup();
        self.contexts_used += 1;
        let context = self.contexts_used;
        let way = UnderWay { sent: now, leases: leases.clone(), callers };
        self.under_way.insert(context, way);
        Some(KeepaliveRequest { context, leases })
    }

    /// Takes an answer; nothing when it is not to one of ours, or came twice.
    ///
    /// The caller of a lease that lives, but of which this node has not heard yet, is not told:
    /// what it may be promised follows from the lease's time to live. It is asked for again with
    /// the next [`resend`](Self::resend).
    pub(super) fn answered(
        &mut self,
        answer: &KeepaliveAnswer,
        is_known: impl Fn(LeaseId) -> bool,
    ) -> Option<Confirmed> {
        let way = self.under_way.remove(&answer.context)?;
        let is_alive = |lease: &LeaseId| !answer.gone.contains(lease);
        let alive = way.leases.iter().filter(|lease| is_alive(lease)).copied().collect();
        let is_early = |lease: &LeaseId| is_alive(lease) && !is_known(*lease);
        let (early, told): (Vec<_>, Vec<_>) =
            way.callers.iter().copied().partition(|(_, lease)| is_early(lease));
        let waiting = told.into_iter().filter(|&(ticket, _)| self.forget(ticket));
        let callers = waiting.map(|(ticket, lease)| (ticket, lease, is_alive(&lease))).collect();
        if !early.is_empty() {
            // Under a context that nobody will answer.
            self.contexts_used += 1;
            let way = UnderWay { sent: way.sent, leases: Vec::new(), callers: early };
            self.under_way.insert(self.contexts_used, way);
        }
        Some(Confirmed { sent: way.sent, alive, callers })
    }

    /// When the host's next keepalive is due, should there be a leader to send it to, or a caller's
    /// time is up.
    pub(super) fn next_deadline(&self, has_leader: bool) -> Option<Instant> {
        let host = self.host_due.filter(|_| has_leader);
        host.into_iter().chain(self.due.first().map(|&(deadline, _)| deadline)).min()
    }

    /// The caller waits no more. False when it did not wait.
    fn forget(&mut self, ticket: Ticket) -> bool {
        let Some(deadline) = self.deadlines.remove(&ticket) else { return false };
        self.due.remove(&(deadline, ticket))
    }

    fn pace(shortest_ttl: Option<Span>) -> Span {
        let ttl = shortest_ttl.unwrap_or(limits::NODE_TTL).min(limits::NODE_TTL);
        ttl.divided_by(BEATS_PER_TTL)
    }
}

#[cfg(test)]
mod tests {
    use super::Keeper;
    use crate::base::{Instant, LeaseId, Span};
    use crate::replica::Ticket;
    use crate::wire::KeepaliveAnswer;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Span::from_millis(millis)
    }

    #[test]
    fn one_keepalive_carries_the_host_and_all_callers() {
        let mut keeper = Keeper::default();
        keeper.set_host(Some(LeaseId(1)), at(0));
        keeper.queue(Ticket(10), LeaseId(7), at(60_000));
        keeper.queue(Ticket(11), LeaseId(7), at(60_000));
        let ttl = Some(Span::from_secs(10));
        let request = keeper.take_due(ttl, at(0)).expect("both are due");
        assert_eq!(request.leases, vec![LeaseId(1), LeaseId(7)]);
        assert_eq!(keeper.take_due(ttl, at(1_999)), None);
        assert_eq!(keeper.next_deadline(true), Some(at(2_000)));

        let answer = KeepaliveAnswer { context: request.context, gone: vec![LeaseId(7)] };
        let confirmed = keeper.answered(&answer, |_| true).expect("it answers ours");
        assert_eq!(confirmed.alive, vec![LeaseId(1)]);
        assert_eq!(confirmed.sent, at(0), "counted from before the sending");
        let told = vec![(Ticket(10), LeaseId(7), false), (Ticket(11), LeaseId(7), false)];
        assert_eq!(confirmed.callers, told);
        assert_eq!(keeper.answered(&answer, |_| true), None, "an answer counts once");
    }

    #[test]
    fn a_change_of_leader_sends_again_what_was_under_way() {
        let mut keeper = Keeper::default();
        keeper.queue(Ticket(10), LeaseId(7), at(60_000));
        let lost = keeper.take_due(None, at(0)).expect("a caller waits");
        keeper.restart(at(50));
        let again = keeper.take_due(None, at(50)).expect("the caller still waits");
        assert_eq!(again.leases, lost.leases);
        assert!(again.context > lost.context, "a late answer to the first must not count");
        let late = KeepaliveAnswer { context: lost.context, gone: vec![] };
        assert_eq!(keeper.answered(&late, |_| true), None);
    }
}
