//! How a state gets from the leader to a member that the log cannot help, and what follows when it
//! is there.
//!
//! The two sides are kept in `snapshot_sender.rs` and `snapshot_receiver.rs`, the work on
//! `state.redb` in `snapshot_job.rs`. Here they meet the core, the view and those who wait.
//!
//! While a state is being installed nothing is saved and nothing is appended: the log cannot come
//! to hold the state's last entry meanwhile, so that the installed state is always the newer one.

use std::collections::BTreeSet;

use crate::base::{Index, Instant, LeaseId, NodeId, RequestId};
use crate::raft::LogStart;
use crate::replica::snapshot_receiver::Circumstances;
use crate::replica::snapshot_sender::Step;
use crate::replica::{Action, Replica, RequestError, SnapshotDone, View};
use crate::state::{Bind, LeaseChange, Meta, Operation, Outcome, StateMachine};
use crate::watch::History;
use crate::wire::{PeerMessage, SnapshotMessage, SnapshotOffer, SnapshotRefusal, decode_command};

/// A snapshot on its way, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The other member.
    pub member: NodeId,
    /// Whether this node sends it.
    pub outgoing: bool,
    /// How it stands.
    pub phase: SnapshotPhase,
    /// The applied index of the state; zero while it is not known.
    pub index: Index,
    /// Its rows.
    pub rows: u64,
    /// Rows that the receiver has.
    pub rows_done: u64,
    /// Why the last one was refused, until one succeeds.
    pub refusal: Option<SnapshotRefusal>,
}

/// How a snapshot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SnapshotPhase {
    /// Refused or given up; it is tried again.
    Failed,
    /// The receiver puts it in the place of its state.
    Installing,
    /// Chunks travel.
    Transferring,
    /// Others are served first.
    Waiting,
}

impl Replica {
    /// The core names members that the log cannot help.
    pub(super) fn snapshots_needed(&mut self, members: Vec<NodeId>) {
        for to in members {
            self.sender.need(to);
        }
    }

    /// A change of term or leadership: what was sent in the name of the former one ends.
    pub(super) fn restart_snapshots(&mut self) {
        let steps = self.sender.abort();
        self.take_steps(Instant::ZERO, steps);
        self.receiver.term_began();
    }

    /// Does what is due.
    pub(super) fn advance_snapshots(&mut self, now: Instant) {
        let steps = self.sender.advance(self.options.snapshot_bytes_per_second, now);
        self.take_steps(now, steps);
        self.receiver.forget_idle(now);
        if self.receiver.is_complete() && self.checkpoint.pause() {
            let job = self.receiver.take_complete().expect("it was just said to be complete");
            self.actions.push(Action::Snapshot(job));
        }
    }

    /// When [`advance_snapshots`](Self::advance_snapshots) has something to do.
    pub(super) fn snapshot_deadline(&self) -> Option<Instant> {
        let deadlines = [self.sender.next_deadline(), self.receiver.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// A member speaks of a snapshot.
    pub(super) fn snapshot_message(
        &mut self,
        now: Instant,
        from: NodeId,
        message: SnapshotMessage,
    ) {
        let bytes_max = self.options.snapshot_bytes_max();
        match message {
            SnapshotMessage::Chunk(chunk) => {
                let answer = self.receiver.chunk(from, chunk, bytes_max, now);
                self.send(from, PeerMessage::Snapshot(answer));
            }
            SnapshotMessage::Offer(offer) => {
                let around = Circumstances {
                    term: self.raft.term(),
                    leader: self.raft.leader(),
                    commit: self.needs_no_state_up_to(),
                    disk_full: self.disk.refuses_writes(),
                };
                if let Some(answer) = self.receiver.offer(from, offer, around, now) {
                    self.send(from, PeerMessage::Snapshot(answer));
                }
            }
            SnapshotMessage::Progress { id, next, done } => {
                let steps = self.sender.progress(from, (id, next, done), now);
                self.take_steps(now, steps);
            }
            SnapshotMessage::Refused { id, reason } => {
                let steps = self.sender.refused(from, id, reason, now);
                self.take_steps(now, steps);
            }
        }
        self.published.status = true;
    }

    /// The owner of the saved state has done a job.
    pub(super) fn snapshot_done(&mut self, now: Instant, done: SnapshotDone) {
        match done {
            SnapshotDone::Installed { id, result } => self.state_arrived(now, id, result),
            SnapshotDone::Opened { id, opened } => {
                let Some(to) = self.sender.member(id) else { return };
                let offer = opened.and_then(|(meta, rows)| self.offer(id, &meta, rows));
                if let Some(offer) = &offer {
                    self.raft.snapshot_started(to, offer.start.index);
                }
                let steps = self.sender.opened(to, offer, now);
                self.take_steps(now, steps);
            }
            SnapshotDone::Read { id, chunk } => {
                let Some(to) = self.sender.member(id) else { return };
                let steps = self.sender.read(to, chunk, now);
                self.take_steps(now, steps);
            }
        }
        self.published.status = true;
    }

    /// What a state is announced as. The log is cut behind the saved state only, so that it knows
    /// term and configuration there; nothing when it does not.
    fn offer(&self, id: u64, meta: &Meta, rows: u64) -> Option<SnapshotOffer> {
        let start = self.raft.log_start(meta.applied_index)?;
        assert_eq!(start.term, meta.applied_term, "entry {} has two terms", start.index);
        let (term, digest, epoch) = (self.raft.term(), meta.digest, meta.epoch);
        Some(SnapshotOffer { term, id, start, digest, epoch, rows })
    }

    fn take_steps(&mut self, now: Instant, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Ended(to) => self.raft.snapshot_ended(now, to),
                Step::Job(job) => self.actions.push(Action::Snapshot(job)),
                Step::Send(to, message) => self.send(to, PeerMessage::Snapshot(message)),
            }
        }
    }

    fn state_arrived(
        &mut self,
        now: Instant,
        id: u64,
        result: Result<Box<StateMachine>, SnapshotRefusal>,
    ) {
        let Some((from, offer)) = self.receiver.installed(id) else { return };
        let answer = match result {
            Ok(machine) => {
                self.install(now, *machine, offer.start);
                SnapshotMessage::Progress { id, next: 0, done: true }
            }
            Err(reason) => {
                self.checkpoint.resume(None);
                self.receiver.refused(from, id, reason)
            }
        };
        self.send(from, PeerMessage::Snapshot(answer));
    }

    /// The state at `start` is durable: everything that followed from the former one is made anew.
    fn install(&mut self, now: Instant, machine: StateMachine, start: LogStart) {
        let (index, term) = (start.index, start.term);
        let membership = start.membership.clone();
        if !self.raft.install(now, start) {
            if self.divergence.is_rebuilding() {
                self.rebuilt(index);
                return;
            }
            // Nothing was appended meanwhile: only a leader that lies can make this happen.
            self.stopped = true;
            self.actions.push(Action::Fatal(format!(
                "the state at entry {index} was installed, and the log has passed it meanwhile: \
                 start this daemon again, which brings them together"
            )));
            return;
        }
        tracing::info!(%index, "a state from the leader was installed");
        self.checkpoint.resume(Some(index));
        self.forget_durable((term, index));
        self.intake.reset();
        self.expiry = None;
        self.divergence = Default::default();
        let history = History::of(self.options.watch_history(), &machine);
        let former = {
            let mut view = Self::view_mut(&self.view);
            view.history = history;
            view.fence = None;
            std::mem::replace(&mut view.machine, machine)
        };
        self.leases_replaced(now, &former);
        self.settle_skipped();
        self.members_applied(now, index, &membership);
        let view = self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let queues = former.queue_names().chain(view.machine.queue_names());
        self.published.queues.extend(queues.cloned());
        self.published.installed = Some(view.machine.revision());
        self.published.status = true;
    }

    /// Entries up to here need no state from elsewhere. A node that is being rebuilt takes an older
    /// state than its log, as long as the log goes on from there.
    fn needs_no_state_up_to(&self) -> Index {
        match self.divergence.is_rebuilding() {
            true => Index(self.raft.first_index().get().saturating_sub(2)),
            false => self.raft.commit(),
        }
    }

    /// The saved state is the leader's, and older than this node's log, which was handed out to be
    /// applied long ago: the next start applies it again.
    fn rebuilt(&mut self, index: Index) {
        self.divergence = Default::default();
        Self::view_mut(&self.view).fence = None;
        self.stopped = true;
        self.actions.push(Action::Fatal(format!(
            "the state was rebuilt from the leader's at entry {index}: this daemon stops, and \
             serves again when it is started"
        )));
    }

    /// What changed about leases in between: beginnings and ends that this node never saw.
    fn leases_replaced(&mut self, now: Instant, former: &StateMachine) {
        let shared = self.shared_view();
        let mut view = Self::view_mut(&shared);
        let View { machine, promises, .. } = &mut *view;
        let before: BTreeSet<LeaseId> = former.leases().map(|lease| lease.id).collect();
        let own = (self.node, self.boot);
        let (mut host, mut orphans, mut adopted) = (None, Vec::new(), Vec::new());
        for lease in machine.leases() {
            let is_own = (lease.node, lease.boot) == own;
            if lease.bind == Bind::Node && is_own {
                host = Some(lease.id);
            }
            if !before.contains(&lease.id) {
                self.published.leases.push(LeaseChange::Began(lease.id));
                // Whoever asked for it is told "unknown": nothing would ever end it.
                if is_own && !matches!(lease.bind, Bind::Node | Bind::None) {
                    orphans.push(lease.id);
                }
            } else if is_own && former.lease(lease.id).is_some_and(|it| it.boot != lease.boot) {
                // Adopted by an entry that this node never saw: asked for again, so that there is
                // an instant from which to promise.
                adopted.push(lease.id);
            }
        }
        for lease in before.into_iter().filter(|&lease| machine.lease(lease).is_none()) {
            self.published.leases.push(LeaseChange::Ended(lease));
            if promises.end(lease) {
                self.published.promises.push(lease);
            }
        }
        drop(view);
        self.keeper.set_host(host, now);
        if !orphans.is_empty() {
            self.requests.pursue(Operation::RevokeLeases { leases: orphans }, now);
        }
        if !adopted.is_empty() {
            self.requests.pursue(Operation::AdoptLeases { leases: adopted }, now);
        }
    }

    /// Requests of this node that were applied by an entry that it never saw. What they brought
    /// about is in the state; what they were answered is known only behind an idempotency key.
    fn settle_skipped(&mut self) {
        let (node, boot) = (self.node, self.boot);
        let answers: Vec<_> = {
            let view = self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let is_settled = |sequence| view.machine.is_settled(RequestId { node, boot, sequence });
            let skipped = self.requests.take_skipped(is_settled);
            let outcome = |command: &bytes::Bytes| {
                let key = decode_command(command).ok()?.idempotency?;
                let outcome = view.machine.idempotent_outcome(&key)?;
                // A lease that was granted is revoked, since its promise was never made.
                let grants = matches!(outcome, Outcome::Acquired { .. } | Outcome::Granted { .. });
                (!grants).then(|| outcome.clone())
            };
            let answer = |command| outcome(command).ok_or(RequestError::OutcomeUnknown);
            skipped.iter().map(|(ticket, command)| (*ticket, answer(command))).collect()
        };
        for (ticket, answer) in answers {
            self.answer(ticket, answer);
        }
    }
}
