//! Where requests, keepalives and reads go: into this node's own log when it leads, to the leader
//! when there is one, nowhere yet when there is none.

use std::sync::PoisonError;

use crate::base::mutation::{self, Mutation};
use crate::base::{Instant, NodeId, ReadContext, Sequence, Span, limits};
use crate::raft::{ProposeError, Role};
use crate::replica::core::{CAUGHT_UP, Leadership};
use crate::replica::expiry::ExpiryTable;
use crate::replica::intake::Pressure;
use crate::replica::reservations::Origin;
use crate::replica::{Action, Now, Replica, Ticket, View};
use crate::state::{Bind, Operation, Outcome, Refusal};
use crate::wire::{ForwardRefusal, ForwardedCommand, KeepaliveAnswer, PeerMessage, stamp_command};

/// How long nothing is forwarded to a node that said it does not lead, unless the leader changes
/// first: its answer and the next attempt must not chase each other.
const HOLD: Span = Span::from_millis(20);

impl Replica {
    /// Notices a change of leader or role since the last time, and what follows from it.
    pub(super) fn notice_leadership(&mut self, now: Instant) {
        let leads = self.raft.role() == Role::Leader;
        let current = Leadership { leader: self.raft.leader(), term: self.raft.term(), leads };
        if current != self.leadership {
            if !leads {
                self.intake.reset();
                self.expiry = None;
            }
            if (current.leads, current.term) != (self.leadership.leads, self.leadership.term) {
                self.restart_snapshots();
            }
            self.leadership = current;
            self.forward_held_until = None;
            self.published.status = true;
            self.send_everything_again(now);
            self.divergence.tell_again();
            self.transfer.leader_changed();
            let asks = !self.caught_up && !self.is_fenced() && !self.reads.holds(CAUGHT_UP);
            if asks && current.leader.is_some() {
                self.reads.ask(CAUGHT_UP, Instant::from_micros(u64::MAX));
            }
        }
        if leads && self.expiry.is_none() && !self.is_fenced() && self.has_applied_own_term() {
            let table = ExpiryTable::open(&self.view().machine, now);
            self.expiry = Some(table);
            self.retire_hosts(now);
            self.published.status = true;
        }
    }

    fn has_applied_own_term(&self) -> bool {
        self.view().machine.applied_term() == self.raft.term()
    }

    /// What was under way may have been lost with the leader or the connection: all of it goes
    /// again, under the same numbers.
    pub(super) fn send_everything_again(&mut self, now: Instant) {
        self.requests.requeue_all();
        self.reads.retry_older(now);
        self.keeper.restart(now);
        self.members.restart();
    }

    /// What a leader proposes of its own: the end of overdue leases, the trimming of history.
    pub(super) fn propose_own(&mut self, now: Now) {
        let Some(expiry) = &mut self.expiry else { return };
        let overdue = expiry.take_overdue(now.instant);
        // A host's worth of leases may end at once; one entry must stay a legal command.
        for part in overdue.chunks(limits::EXPIRE_LEASES_MAX) {
            let view = self.view();
            let leases = part
                .iter()
                .filter_map(|&id| view.machine.lease(id))
                .map(|lease| (lease.id, lease.generation))
                .collect();
            drop(view);
            let term = self.raft.term();
            self.requests.pursue(Operation::ExpireLeases { term, leases }, now.instant);
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let due = self.retention.due(&view.machine, &self.options, now);
        drop(view);
        if let Some(revision) = due {
            self.requests.pursue(Operation::Compact { revision }, now.instant);
        }
    }

    /// Hands over the requests that wait.
    pub(super) fn route_requests(&mut self, now: Now) {
        if self.leadership.leads {
            if self.is_fenced() || self.raft.transferring().is_some() {
                // It waits for the next leader, or for this one to stay.
                return;
            }
            let commands = self.requests.take_queued(usize::MAX, now.instant);
            let node = self.node;
            self.take_forwarded(node, &commands);
            self.append_accepted(now);
            return;
        }
        let Some(leader) = self.leadership.leader else { return };
        if self.forward_held_until.is_some() {
            return;
        }
        while self.requests.has_queued() {
            let commands = self.requests.take_queued(limits::APPEND_BYTES_MAX, now.instant);
            if commands.is_empty() {
                break;
            }
            self.send(leader, PeerMessage::Forward { commands });
        }
    }

    /// Requests arrived, from a peer or from this node: those that may be appended wait for it, the
    /// others are refused, which is certain: nothing of them is in the log.
    pub(super) fn take_forwarded(&mut self, from: NodeId, commands: &[ForwardedCommand]) {
        if !self.leadership.leads || self.is_fenced() {
            let all = commands.iter().map(|c| (c.sequence, c.attempt)).collect();
            self.refuse(from, all, ForwardRefusal::NotLeader);
            return;
        }
        if from != self.node && !self.has_applied_own_term() && self.has_reservations() {
            // Others may follow in the entries before this term: they hold from the first request.
            let all = commands.iter().map(|c| (c.sequence, c.attempt)).collect();
            self.refuse(from, all, ForwardRefusal::NotLeader);
            return;
        }
        let pressure = Pressure {
            disk_full: self.disk.refuses_writes(),
            log_full: self.raft.log_bytes() >= limits::LOG_BYTES_MAX,
            store_bytes_max: self.options.store_bytes_max,
        };
        let mut refused = Vec::new();
        {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            let membership = self.raft.membership();
            let origin = Origin {
                node: from,
                name: membership.members().get(&from).map(|member| member.name.as_str()),
                leads: from == self.node,
                term: self.raft.term(),
            };
            for command in commands {
                if let Err(reason) = self.intake.offer(origin, command, &view.machine, pressure) {
                    refused.push((reason, (command.sequence, command.attempt)));
                }
            }
        }
        for (reason, attempt) in refused {
            self.refuse(from, vec![attempt], reason);
        }
    }

    /// Whether the cluster's reservations let a node administrate it.
    pub(super) fn may_administrate(&mut self, node: NodeId) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let members = self.raft.membership().members();
        let name = members.get(&node).map(|member| member.name.as_str());
        self.intake.reservations(&view.machine).allow_administration(name)
    }

    fn has_reservations(&mut self) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        !self.intake.reservations(&view.machine).is_empty()
    }

    fn append_accepted(&mut self, now: Now) {
        if !self.intake.has_accepted() {
            return;
        }
        let stamped =
            self.intake.accepted().iter().map(|command| stamp_command(now.wall, command)).collect();
        match self.raft.propose(now.instant, stamped) {
            Ok(_) => self.intake.appended(),
            Err(error) => {
                let reason = match error {
                    ProposeError::TooMuchUncommitted { .. } => ForwardRefusal::Overloaded,
                    // The next leader is asked, or this one again in a moment.
                    _ => ForwardRefusal::NotLeader,
                };
                for (node, sequence, attempt) in self.intake.reject_accepted() {
                    self.refuse(node, vec![(sequence, attempt)], reason);
                }
            }
        }
    }

    fn refuse(&mut self, to: NodeId, requests: Vec<(Sequence, u32)>, reason: ForwardRefusal) {
        if requests.is_empty() {
            return;
        }
        if to == self.node {
            for (sequence, attempt) in requests {
                if let Some((ticket, error)) = self.requests.refused(sequence, attempt, reason) {
                    self.answer(ticket, Err(error));
                }
            }
        } else {
            self.send(to, PeerMessage::ForwardRefused { requests, reason });
        }
    }

    pub(super) fn hold_forwarding(&mut self, now: Instant) {
        self.forward_held_until = Some(now + HOLD);
    }

    /// Sends the keepalives that are due.
    pub(super) fn route_keepalives(&mut self, now: Instant) {
        let Some(leader) = self.leadership.leader.filter(|_| !self.is_fenced()) else { return };
        let shortest = self.view().promises.shortest_bound_ttl();
        let Some(request) = self.keeper.take_due(shortest, now) else { return };
        if leader == self.node {
            self.intake.keepalive(leader, request, now);
        } else {
            self.send(leader, PeerMessage::Keepalive(request));
        }
    }

    /// Asks for a quorum's word, once for all reads and keepalives that arrived until now.
    pub(super) fn ask_reads(&mut self, now: Instant) {
        let keepalives = self.expiry.is_some() && self.intake.has_keepalives();
        if self.leadership.leader.is_none() || !(self.reads.has_asking() || keepalives) {
            return;
        }
        let context = self.next_context();
        if self.raft.read(now, context).is_err() {
            return;
        }
        self.reads.asked(context, now);
        if keepalives {
            self.intake.keepalives_asked(context);
        }
        if mutation::active(Mutation::KeepaliveWithoutQuorum) {
            self.keepalives_confirmed(context, now);
        }
    }

    /// The quorum has confirmed that this node led after these keepalives arrived.
    pub(super) fn keepalives_confirmed(&mut self, context: ReadContext, now: Instant) {
        for received in self.intake.keepalives_confirmed(context) {
            let Some(expiry) = &mut self.expiry else { return };
            let all = received.request.leases.iter().copied();
            let gone = all.filter(|&lease| !expiry.renew(lease, received.at)).collect();
            let answer = KeepaliveAnswer { context: received.request.context, gone };
            if received.from == self.node {
                self.keepalive_answered(now, &answer);
            } else {
                self.send(received.from, PeerMessage::KeepaliveAnswer(answer));
            }
        }
    }

    /// The leader's word on leases that this node keeps alive.
    pub(super) fn keepalive_answered(&mut self, now: Instant, answer: &KeepaliveAnswer) {
        let mut told = Vec::new();
        {
            if self.is_fenced() {
                return;
            }
            let mut view = Self::view_mut(&self.view);
            let is_known = |lease| view.machine.lease(lease).is_some();
            let Some(mut confirmed) = self.keeper.answered(answer, is_known) else { return };
            if mutation::active(Mutation::PromiseFromAnswer) {
                confirmed.sent = now;
            }
            let changed = view.promises.advance(now);
            self.published.promises.extend(changed);
            let View { machine, promises, .. } = &mut *view;
            for &lease in &confirmed.alive {
                let Some(known) = machine.lease(lease) else { continue };
                if known.bind == Bind::None {
                    promises.keep(known, confirmed.sent);
                }
                self.published.promises.extend(promises.confirm(lease, confirmed.sent));
            }
            let revision = machine.revision();
            for &(ticket, lease, is_alive) in &confirmed.callers {
                let outcome = if is_alive {
                    Outcome::Done { revision }
                } else {
                    Outcome::Refused(Refusal::LeaseNotFound { lease })
                };
                told.push((ticket, outcome));
            }
        }
        for (ticket, outcome) in told {
            self.answer(ticket, Ok(outcome));
        }
    }

    /// Answers the reads whose index or revision the view now holds.
    pub(super) fn serve_reads(&mut self) {
        if self.is_fenced() {
            return;
        }
        let (applied, revision) = {
            let view = self.view();
            (view.machine.applied_index(), view.machine.revision())
        };
        let served: Vec<Ticket> = self.reads.take_served(applied, revision);
        for ticket in served {
            self.answer(ticket, Ok(Outcome::Done { revision }));
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: PeerMessage) {
        assert!(to != self.node, "a node does not send to itself over the network");
        self.actions.push(Action::Send { to, message });
    }
}
