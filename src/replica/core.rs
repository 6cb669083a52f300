//! The replica itself: takes events, and once per batch turns everything that waits into actions.
//!
//! `handle` only records what happened; `poll` acts on all of it at once, so that many requests
//! share one append, one disk write and one round of heartbeats without a timer: batching comes
//! from being busy. Routing is in `routing.rs`, what the core wants done in `output.rs`, applying
//! in `apply.rs`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::base::{Boot, ClusterId, Index, Instant, NodeId, ReadContext, Term};
use crate::raft::{Body, HardState, Raft, Role};
use crate::replica::checkpoint::Checkpoint;
use crate::replica::divergence::Divergence;
use crate::replica::expiry::ExpiryTable;
use crate::replica::intake::Intake;
use crate::replica::keeper::Keeper;
use crate::replica::members::Members;
use crate::replica::output::Unwritten;
use crate::replica::reads::Reads;
use crate::replica::requests::Requests;
use crate::replica::retention::Retention;
use crate::replica::snapshot_receiver::Receiver;
use crate::replica::snapshot_sender::Sender;
use crate::replica::standing::Standing;
use crate::replica::transfer::Transfer;
use crate::replica::{
    Action, Event, MemberStatus, Now, Options, Published, ReplicaStatus, RequestError, Roster,
    Ticket, UnavailableReason, View,
};
use crate::state::{Operation, Outcome};
use crate::wire::{ForwardRefusal, PeerMessage};

/// The ticket of the one read that the replica asks for itself: is this node caught up? Owners draw
/// tickets from 1.
pub(super) const CAUGHT_UP: Ticket = Ticket(0);

/// One member of the cluster.
///
/// Invariants:
/// - An outcome is told at most once per ticket, and only when this node's own replica has applied
///   it.
/// - The expiry table exists only while this node leads and has applied an entry of its own term.
/// - Messages that promise something about the disk leave only after the write that they follow.
#[derive(Debug)]
pub struct Replica {
    pub(super) node: NodeId,
    pub(super) boot: Boot,
    /// The time of the last poll.
    pub(super) now: Instant,
    pub(super) cluster: ClusterId,
    pub(super) options: Options,
    pub(super) raft: Raft,
    pub(super) view: Arc<RwLock<View>>,
    pub(super) roster: Arc<Mutex<Roster>>,
    pub(super) requests: Requests,
    pub(super) reads: Reads,
    pub(super) intake: Intake,
    pub(super) keeper: Keeper,
    pub(super) expiry: Option<ExpiryTable>,
    pub(super) checkpoint: Checkpoint,
    pub(super) retention: Retention,
    pub(super) standing: Standing,
    pub(super) members: Members,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) unwritten: VecDeque<Unwritten>,
    /// A hard state whose only news is the commit index waits here for the next write.
    pub(super) lazy_hard_state: Option<HardState>,
    /// The term, and the term and index of the last entry, of the last write that was handed out.
    pub(super) written_term: Term,
    pub(super) written_last: (Term, Index),
    /// The term and index of the last entry that is durable here.
    pub(super) durable_last: (Term, Index),
    pub(super) writes: u64,
    pub(super) leadership: Leadership,
    pub(super) contexts_used: u64,
    pub(super) forward_held_until: Option<Instant>,
    pub(super) resend_at: Option<Instant>,
    pub(super) caught_up: bool,
    pub(super) disk: DiskSpace,
    pub(super) divergence: Divergence,
    pub(super) transfer: Transfer,
    pub(super) draining: bool,
    /// An entry could not be understood: nothing is applied any more, and the owner ends the
    /// process.
    pub(super) stopped: bool,
    pub(super) actions: Vec<Action>,
    pub(super) published: Published,
}

/// Who leads, as far as requests are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leadership {
    pub(super) leader: Option<NodeId>,
    pub(super) term: Term,
    pub(super) leads: bool,
}

/// How much room the disk has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskSpace {
    /// Nothing can be appended.
    pub(super) full: bool,
    /// Less is free than the reserve.
    pub(super) low: bool,
}

impl DiskSpace {
    /// Whether a leader takes no new writes.
    pub(super) fn refuses_writes(self) -> bool {
        self.full || self.low
    }
}

impl Replica {
    /// Records something that happened. Nothing comes of it before [`poll`](Self::poll).
    pub fn handle(&mut self, now: Now, event: Event) {
        let at = now.instant;
        match event {
            Event::Abandon(ticket) => {
                self.requests.abandon(ticket);
                self.reads.abandon(ticket);
                self.members.abandon(ticket);
            }
            Event::AdoptLeases(leases) => self.pursue(Operation::AdoptLeases { leases }, at),
            Event::Disk { full } => {
                self.published.status |= self.disk.full != full;
                self.disk.full = full;
            }
            Event::DiskLow { low } => {
                self.published.status |= self.disk.low != low;
                self.disk.low = low;
            }
            Event::Drain => self.draining = true,
            Event::GiveWay => self.transfer.leave(),
            Event::EndLeases(leases) => self.pursue(Operation::RevokeLeases { leases }, at),
            Event::Keepalive { ticket, lease, deadline } => {
                if self.admit(ticket) {
                    self.keeper.queue(ticket, lease, deadline);
                }
            }
            Event::LeaveQueue { queue, token } => {
                self.pursue(Operation::Release { queue, token }, at);
            }
            Event::Members { ticket, order, deadline } => match self.refuses() {
                None => self.members.ask(ticket, order, deadline),
                Some(error) => self.members_answer(ticket, Err(error)),
            },
            Event::PeerDown { peer, redial_failed } => {
                if redial_failed {
                    self.raft.leader_lost(at, peer);
                }
            }
            Event::PeerMessage { from, message } => self.peer_message(at, from, message),
            Event::PeersSayRemoved { removed } => self.peers_say_removed(removed),
            Event::PeerUp { peer } => {
                if self.raft.leader() == Some(peer) {
                    self.send_everything_again(at);
                }
            }
            Event::Read { ticket, deadline } => {
                if self.admit(ticket) {
                    self.reads.ask(ticket, deadline);
                }
            }
            Event::Saved => self.checkpoint.saved(),
            Event::Snapshot(done) => self.snapshot_done(at, done),
            Event::Submit { ticket, operation, idempotency, deadline } => {
                if self.admit(ticket)
                    && let Err(error) =
                        self.requests.submit(ticket, operation, idempotency, at, deadline)
                {
                    self.answer(ticket, Err(error));
                }
            }
            Event::Rebuild => self.divergence.rebuild(),
            Event::Timeout => {}
            Event::WaitRevision { ticket, revision, deadline } => {
                if self.admit(ticket) {
                    self.reads.wait_for(ticket, revision, deadline);
                }
            }
            Event::Written(token) => self.written(at, token),
        }
    }

    /// Acts on everything that waits. The actions are to be done in their order.
    pub fn poll(&mut self, now: Now) -> Vec<Action> {
        let at = now.instant;
        self.now = at;
        self.raft_timeout(at);
        self.end_overdue(at);
        loop {
            self.notice_leadership(at);
            self.tell_digest(at);
            self.ask_for_state(at);
            self.tell_disk(at);
            self.give_way(at);
            self.drive_change(at);
            self.route_members(at);
            self.propose_own(now);
            self.route_requests(now);
            self.route_keepalives(at);
            self.ask_reads(at);
            self.advance_snapshots(at);
            if !self.raft.has_ready() {
                break;
            }
            let ready = self.raft.ready();
            self.carry_out(now, ready);
        }
        self.serve_reads();
        self.follow_contacts();
        self.settle_standing();
        self.save_and_cut(now);
        if !self.published.is_empty() {
            let published = std::mem::take(&mut self.published);
            self.actions.push(Action::Published(published));
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`poll`](Self::poll) must be called even if nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        // What only a leader does, or can only be done with one, has no deadline without it: a
        // deadline that nothing can be done about would keep the owner spinning.
        let leading = self.expiry.as_ref().map(|expiry| (expiry, &self.retention));
        let candidates = [
            self.raft.next_deadline(),
            self.requests.next_deadline(),
            self.reads.next_deadline(),
            self.members.next_deadline(),
            self.keeper.next_deadline(self.leadership.leader.is_some()),
            self.view().promises.next_deadline(),
            leading.and_then(|(expiry, _)| expiry.next_deadline()),
            leading.and_then(|(_, retention)| retention.next_deadline()),
            self.snapshot_deadline(),
            self.checkpoint.next_deadline().filter(|_| !self.is_fenced()),
            self.resend_at,
            self.forward_held_until,
        ];
        candidates.into_iter().flatten().min()
    }

    /// What others may read. It changes only within [`poll`](Self::poll).
    pub fn shared_view(&self) -> Arc<RwLock<View>> {
        Arc::clone(&self.view)
    }

    /// Who may connect, for those who accept connections.
    pub fn shared_roster(&self) -> Arc<Mutex<Roster>> {
        Arc::clone(&self.roster)
    }

    /// The consensus core, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// A copy of what matters.
    pub fn status(&self) -> ReplicaStatus {
        let status = self.raft.status();
        let member = |(&node, member): (&NodeId, &crate::raft::Member)| MemberStatus {
            node,
            name: member.name.clone(),
            address: member.address.clone(),
            voter: status.membership.is_voter(node),
            leader: status.leader == Some(node),
            progress: status.progress.get(&node).copied(),
        };
        ReplicaStatus {
            node: self.node,
            boot: self.boot,
            cluster: self.cluster,
            role: status.role,
            term: status.term,
            leader: status.leader,
            commit: status.commit,
            applied: status.applied,
            last_index: status.last_index,
            persisted: status.persisted,
            log_bytes: self.raft.log_bytes(),
            saved: self.checkpoint.saved_index(),
            members: status.membership.members().iter().map(member).collect(),
            joint: status.membership.is_joint(),
            membership: status.membership.clone(),
            membership_index: self.raft.membership_index(),
            membership_committed: self.raft.committed_membership().0
                == self.raft.membership_index(),
            change: self.change_report(self.now),
            ready: self.caught_up
                && status.leader.is_some()
                && self.standing.removal().is_none()
                && !self.is_fenced(),
            disk_full: self.disk.refuses_writes(),
            pending: self.requests.len() + self.reads.len(),
            snapshots: self.receiver.status().into_iter().chain(self.sender.status()).collect(),
            removed: self.standing.removal(),
            fence: self.divergence.fence(),
            digests_agreed: self.divergence.agreed(),
        }
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        // A reader that panicked has changed nothing, and the writer's panics end the process.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view_mut(view: &RwLock<View>) -> RwLockWriteGuard<'_, View> {
        view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<Outcome, RequestError>) {
        if ticket == CAUGHT_UP {
            self.caught_up = result.is_ok();
            self.published.status = true;
        } else {
            self.actions.push(Action::Answer { ticket, result });
        }
    }

    /// Everybody who waits for an outcome, a read or a keepalive: with `error`, or as unknown where
    /// something was handed over.
    pub(super) fn answer_all(&mut self, error: RequestError) {
        let mut answers = self.requests.take_all(error);
        answers.extend(self.reads.take_all().into_iter().map(|ticket| (ticket, error)));
        answers.extend(self.keeper.take_all().into_iter().map(|ticket| (ticket, error)));
        for (ticket, error) in answers {
            self.answer(ticket, Err(error));
        }
    }

    pub(super) fn next_context(&mut self) -> ReadContext {
        self.contexts_used += 1;
        ReadContext(self.contexts_used)
    }

    fn pursue(&mut self, operation: Operation, now: Instant) {
        self.requests.pursue(operation, now);
    }

    fn admit(&mut self, ticket: Ticket) -> bool {
        let refused = self.refuses();
        if let Some(error) = refused {
            self.answer(ticket, Err(error));
        }
        refused.is_none()
    }

    /// Why nothing new is taken, if nothing is.
    fn refuses(&self) -> Option<RequestError> {
        let reason = match self.standing.removal() {
            _ if self.draining => UnavailableReason::ShuttingDown,
            Some(removal) => UnavailableReason::Removed(removal),
            None if self.is_fenced() => UnavailableReason::Diverged,
            None => return None,
        };
        Some(RequestError::Unavailable(reason))
    }

    fn peer_message(&mut self, now: Instant, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Digest(report) => self.digest_reported(now, from, report),
            PeerMessage::Disk(report) => self.disk_reported(now, from, report),
            PeerMessage::Diverged(expected) => self.digest_contradicted(now, from, expected),
            PeerMessage::Forward { commands } => self.take_forwarded(from, &commands),
            PeerMessage::ForwardRefused { requests, reason } => {
                if reason == ForwardRefusal::NotLeader {
                    self.hold_forwarding(now);
                }
                for (sequence, attempt) in requests {
                    if let Some((ticket, error)) = self.requests.refused(sequence, attempt, reason)
                    {
                        self.answer(ticket, Err(error));
                    }
                }
            }
            PeerMessage::Keepalive(request) => {
                if self.leadership.leads && !self.is_fenced() {
                    self.intake.keepalive(from, request, now);
                }
            }
            PeerMessage::KeepaliveAnswer(answer) => self.keepalive_answered(now, &answer),
            PeerMessage::StateWanted => {
                if self.leadership.leads && self.raft.membership().contains(from) {
                    self.sender.need(from);
                }
            }
            PeerMessage::Members(request) => self.order_arrived(now, from, &request),
            PeerMessage::MembersAnswer(answer) => {
                self.order_replied(answer.context, answer.reply);
            }
            PeerMessage::Snapshot(message) => self.snapshot_message(now, from, message),
            PeerMessage::Raft(message) => {
                if let Body::AppendAccepted { matched } = message.body {
                    self.mark_promise(from, message.term, matched);
                }
                let appends = matches!(
                    &message.body,
                    Body::AppendRequest { entries, .. } if !entries.is_empty()
                );
                // A full disk takes no entries: to the leader it looks as if they were lost.
                let installing = self.receiver.is_installing();
                if !(appends && (self.disk.full || installing || self.fenced_log_is_full())) {
                    self.raft.step(now, message);
                }
            }
        }
    }

    fn mark_promise(&mut self, from: NodeId, term: Term, matched: Index) {
        if term != self.raft.term() || self.raft.role() != Role::Leader {
            return;
        }
        if let Some(last_term) = self.raft.term_at(matched) {
            self.roster().mark_promise(from, term, (last_term, matched));
        }
    }

    pub(super) fn roster(&self) -> std::sync::MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raft_timeout(&mut self, now: Instant) {
        if self.raft.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.raft.timeout(now);
        }
    }

    fn end_overdue(&mut self, now: Instant) {
        // Readers are held up only when there is something to change.
        let due = self.view().promises.next_deadline();
        if due.is_some_and(|due| due <= now) {
            let changed = Self::view_mut(&self.view).promises.advance(now);
            self.published.promises.extend(changed);
        }
        let has_leader = self.raft.leader().is_some();
        let mut answers = self.requests.take_overdue(now);
        answers.extend(self.reads.take_overdue(has_leader, now));
        answers.extend(self.keeper.take_overdue(has_leader, now));
        for (ticket, error) in answers {
            self.answer(ticket, Err(error));
        }
        for (ticket, error) in self.members.take_overdue(now) {
            self.members_answer(ticket, Err(error));
        }
        if self.forward_held_until.is_some_and(|until| until <= now) {
            self.forward_held_until = None;
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            let before = now - self.options.resend_interval;
            self.requests.requeue_older(before);
            self.reads.retry_older(before);
            self.keeper.resend(before);
            self.members.resend(before);
            self.resend_at = None;
        }
        let under_way = self.requests.has_handed()
            || self.reads.has_asked()
            || self.keeper.has_under_way()
            || self.members.has_under_way();
        if self.resend_at.is_none() && under_way {
            self.resend_at = Some(now + self.options.resend_interval);
        }
    }
}
