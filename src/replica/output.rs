//! Carries out what the consensus core wants done, in the order that it asks for.
//!
//! A write whose only news is the commit index is not made for its own sake: it travels with the
//! next one that must be synced. Losing it costs nothing but a little replay (`raft::HardState`).

use crate::base::{Index, Instant, Term};
use crate::raft::{HardState, Message, PersistToken, Ready};
use crate::replica::{Action, Now, Replica};
use crate::storage::{Cut, LogBatch};
use crate::wire::PeerMessage;

/// A `Ready` whose messages wait for the disk.
#[derive(Debug)]
pub(super) struct Unwritten {
    token: PersistToken,
    written: bool,
    /// What is durable once it is written: the term, and the term and index of the last entry.
    durable: Option<(Term, Term, Index)>,
    messages: Vec<Message>,
    /// When it was handed out; nothing for what needs no write.
    handed: Option<Instant>,
}

impl Replica {
    pub(super) fn carry_out(&mut self, now: Now, ready: Ready) {
        for message in ready.messages {
            self.send(message.to, PeerMessage::Raft(message));
        }
        if let Some(hard_state) = ready.hard_state {
            self.lazy_hard_state = Some(hard_state);
        }
        self.snapshots_needed(ready.snapshots);
        let begin = ready.cut.map(|point| Cut {
            index: point.index,
            term: point.term,
            membership: Some(point.membership),
        });
        let write = (ready.entries, begin);
        let after = ready.messages_after_persist;
        self.write(now.instant, ready.token, ready.must_sync, write, after);
        self.settle_written(now.instant);
        self.apply(now, ready.committed);
        for read in ready.reads {
            self.reads.confirmed(read.context, read.index);
            self.keepalives_confirmed(read.context, now.instant);
        }
        for context in ready.reads_aborted {
            self.reads.aborted(context);
            self.intake.keepalives_confirmed(context);
        }
    }

    fn write(
        &mut self,
        now: Instant,
        token: PersistToken,
        must_sync: bool,
        (entries, begin): (Vec<crate::raft::Entry>, Option<Cut>),
        messages: Vec<Message>,
    ) {
        assert!(must_sync || entries.is_empty(), "entries that need not be synced were handed out");
        let mut durable = None;
        if must_sync {
            let hard_state = self.lazy_hard_state.take();
            if let Some(HardState { term, .. }) = hard_state {
                self.written_term = term;
            }
            if let Some(begin) = &begin {
                self.written_last = (begin.term, begin.index);
                if let Some(last) = self.raft.last_kept_behind(begin.index) {
                    self.written_last = last;
                }
            }
            if let Some(last) = entries.last() {
                self.written_last = (last.term, last.index);
            }
            durable = Some((self.written_term, self.written_last.0, self.written_last.1));
            let entries = if entries.is_empty() { Vec::new() } else { vec![entries] };
            let batch = LogBatch {
                hard_state,
                begin: begin.map(Box::new),
                entries,
                cut: self.checkpoint.take_cut(),
                marks: self.due_marks(),
                must_sync: true,
            };
            self.actions.push(Action::Write { token, batch });
        }
        let handed = must_sync.then_some(now);
        self.unwritten.push_back(Unwritten {
            token,
            written: !must_sync,
            durable,
            messages,
            handed,
        });
    }

    /// The marks of what peers have promised travel with a write, but not with every one: each
    /// rewrites a page, and they need not be exact to notice an old copy of a disk.
    fn due_marks(&mut self) -> Vec<crate::storage::PeerMark> {
        const WRITES_BETWEEN_MARKS: u64 = 256;
        self.writes += 1;
        if self.writes % WRITES_BETWEEN_MARKS != 1 {
            return Vec::new();
        }
        self.roster().take_changed_marks()
    }

    /// When the oldest write that is not done was handed out.
    pub(super) fn oldest_write(&self) -> Option<Instant> {
        self.unwritten.iter().find_map(|unwritten| unwritten.handed)
    }

    /// A state was installed at `last`: what is under way is of a log that may be gone.
    pub(super) fn forget_durable(&mut self, last: (Term, Index)) {
        for unwritten in &mut self.unwritten {
            unwritten.durable = None;
        }
        self.durable_last = last;
    }

    /// The write with this token and all before it are durable.
    pub(super) fn written(&mut self, now: Instant, token: PersistToken) {
        for unwritten in &mut self.unwritten {
            unwritten.written |= unwritten.token <= token;
        }
        self.settle_written(now);
    }

    /// Lets go of what waited for the disk, strictly in order.
    fn settle_written(&mut self, now: Instant) {
        let mut last = None;
        while self.unwritten.front().is_some_and(|front| front.written) {
            let Some(front) = self.unwritten.pop_front() else { break };
            if let Some(handed) = front.handed {
                self.transfer.wrote(now.since(handed), now);
            }
            if let Some(durable) = front.durable {
                self.durable_last = (durable.1, durable.2);
                self.roster().set_durable(durable);
            }
            for message in front.messages {
                self.send(message.to, PeerMessage::Raft(message));
            }
            last = Some(front.token);
        }
        if let Some(token) = last {
            self.raft.persisted(now, token);
        }
    }
}
