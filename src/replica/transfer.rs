//! When a leader hands over by itself, and to whom: before its process ends, when its state is
//! fenced off, and when its disk is full or much slower than another voter's.
//!
//! How it is done is decided in `raft/`; on request of an operator, in `members.rs`. Whoever gives
//! way only tries: without a fit successor it goes on leading.
//!
//! Every voter measures how long its own writes take, and tells the leader that and how much room
//! its disk has, as long as one of them is not as it should be. So a leader compares like with
//! like, without the network in between, and never hands over to a disk that is no better. After it
//! has given way to another disk it does not do so again for a while: two bad disks must not play
//! ball.

use std::collections::BTreeMap;

use crate::base::{Instant, NodeId, Span};
use crate::raft::{ProgressState, Role};
use crate::replica::Replica;
use crate::wire::{DiskReport, DiskRoom, PeerMessage};

/// Between two attempts of a leader that must not lead: one may take an election timeout.
const TRY_AGAIN: Span = Span::from_millis(250);
/// A voter's writes must take at most this part of the leader's for its disk to be a better one.
const BETTER_BY: u64 = 2;
/// Each new measurement counts for one part in so many.
const WEIGHT: u64 = 8;

/// What a node knows of disks, and how it gives way.
///
/// Invariants:
/// - `others` has reports of members only as long as this node leads the term that they were told
///   in.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// The process is about to stop.
    leaving: bool,
    /// Not before.
    try_at: Option<Instant>,
    /// Not for the sake of a disk before.
    calm_until: Option<Instant>,
    /// How long this node's writes take, of late, and when the last one was done.
    pace: Option<(Span, Instant)>,
    /// Since when they take too long.
    slow_since: Option<Instant>,
    others: BTreeMap<NodeId, (DiskReport, Instant)>,
    /// What was told to the leader last, and when, if it was not that all is well.
    told: Option<(DiskReport, Instant)>,
}

impl Transfer {
    /// Whoever leads now was told nothing, and tells this node anew.
    pub(super) fn leader_changed(&mut self) {
        self.others.clear();
        self.told = None;
        self.slow_since = None;
    }

    /// The process is about to stop: lead no more.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.try_at = None;
    }

    /// A write took so long.
    pub(super) fn wrote(&mut self, took: Span, now: Instant) {
        let pace = self.pace.map_or(took, |(before, _)| {
            let sum = before.as_micros() * (WEIGHT - 1) + took.as_micros();
            Span::from_micros(sum / WEIGHT)
        });
        self.pace = Some((pace, now));
    }
}

impl Replica {
    /// What this node says of its disk; a write that is not done yet counts for its age.
    fn disk_report(&self, now: Instant) -> DiskReport {
        let room = match (self.disk.full, self.disk.low) {
            (true, _) => DiskRoom::Full,
            (_, true) => DiskRoom::Low,
            _ => DiskRoom::Enough,
        };
        let pace = self.transfer.pace.map_or(Span::ZERO, |(pace, _)| pace);
        let waiting = self.oldest_write().map_or(Span::ZERO, |since| now.since(since));
        DiskReport { room, write: pace.max(waiting) }
    }

    /// Whether a disk is nothing to talk about: silence says that.
    fn is_sound(&self, disk: DiskReport) -> bool {
        disk.room == DiskRoom::Enough && disk.write < self.options.slow_disk.divided_by(BETTER_BY)
    }

    /// Tells the leader when the disk is not sound, again and again, and when it is so again.
    pub(super) fn tell_disk(&mut self, now: Instant) {
        let Some(leader) = self.leadership.leader.filter(|_| !self.leadership.leads) else {
            return;
        };
        if self.raft.role() == Role::Learner {
            return;
        }
        let report = self.disk_report(now);
        let is_sound = self.is_sound(report);
        let is_due = match self.transfer.told {
            Some((told, at)) if !is_sound => {
                told.room != report.room || now.since(at) >= self.options.disk_report_every
            }
            Some(_) => true,
            None => !is_sound,
        };
        if is_due {
            self.transfer.told = (!is_sound).then_some((report, now));
            self.send(leader, PeerMessage::Disk(report));
        }
    }

    /// Another voter's disk.
    pub(super) fn disk_reported(&mut self, now: Instant, from: NodeId, report: DiskReport) {
        if self.leadership.leads && self.raft.membership().is_voter(from) {
            self.transfer.others.insert(from, (report, now));
        }
    }

    /// What is known of a voter's disk. What is not sound is told again and again, so what was said
    /// long ago is over.
    fn disk_of(&self, node: NodeId, now: Instant) -> DiskReport {
        let fresh = self.options.disk_report_every.times(5);
        let sound = DiskReport { room: DiskRoom::Enough, write: Span::ZERO };
        match self.transfer.others.get(&node) {
            Some((report, at)) if now.since(*at) < fresh => *report,
            _ => sound,
        }
    }

    /// Gives way when this node must not lead, or should not.
    pub(super) fn give_way(&mut self, now: Instant) {
        if !self.leadership.leads || self.raft.transferring().is_some() {
            return;
        }
        if self.transfer.try_at.is_some_and(|at| now < at) {
            return;
        }
        let own = self.disk_report(now);
        let is_slow = self.is_slow(own.write, now);
        let is_calm = self.transfer.calm_until.is_some_and(|until| now < until);
        let must = self.transfer.leaving || self.is_fenced();
        let (why, heir) = if must {
            ("this node must not lead any more", self.heir(now, |_| true).or(self.raft.successor()))
        } else if is_calm {
            return;
        } else if own.room != DiskRoom::Enough {
            ("the disk of this node has no room", self.heir(now, |_| true))
        } else if is_slow {
            let better = own.write.divided_by(BETTER_BY);
            ("the disk of this node is slow", self.heir(now, |disk| disk.write <= better))
        } else {
            return;
        };
        self.transfer.try_at = Some(now + TRY_AGAIN);
        let Some(heir) = heir else { return };
        if self.raft.transfer(now, heir).is_ok() {
            tracing::info!(to = %heir, why, "handing the lead over");
            if !must {
                self.transfer.calm_until = Some(now + self.options.disk_calm);
            }
        }
    }

    /// Whether writes have been taking too long for long enough. A disk on which nothing was
    /// written of late is not known to be slow.
    fn is_slow(&mut self, write: Span, now: Instant) -> bool {
        let period = self.options.slow_disk_period;
        let is_known = self.oldest_write().is_some()
            || self.transfer.pace.is_some_and(|(_, at)| now.since(at) < period);
        if write < self.options.slow_disk || !is_known {
            self.transfer.slow_since = None;
            return false;
        }
        now.since(*self.transfer.slow_since.get_or_insert(now)) >= period
    }

    /// The voter with most of the log among those that keep up, have room, and whose disk is `fit`.
    fn heir(&self, now: Instant, fit: impl Fn(DiskReport) -> bool) -> Option<NodeId> {
        let status = self.raft.status();
        let fed = status.progress.iter().filter(|(node, progress)| {
            status.membership.voters().contains(node)
                && progress.recent_active
                && progress.state == ProgressState::Replicate
                && progress.matched >= status.commit
        });
        let fit = fed.filter(|(node, _)| {
            let disk = self.disk_of(**node, now);
            disk.room == DiskRoom::Enough && fit(disk)
        });
        // Of equals the one with the least id.
        let best = fit.max_by_key(|(node, progress)| (progress.matched, std::cmp::Reverse(**node)));
        best.map(|(&node, _)| node)
    }
}
