//! What happened in a run, one line each: the last lines for a failure, all of them for a replay.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use quorumd::raft::{Body, Message};
use quorumd::wire::{PeerMessage, SnapshotMessage};

/// Lines that are kept when not all are.
const LINES_KEPT: usize = 250;

/// A trace. Clones are the same trace, so that it outlives a run that panics.
#[derive(Clone, Default)]
pub struct Trace {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<String>,
    keep_all: bool,
    count: u64,
    drawn: (u64, u64),
}

impl Trace {
    /// A trace that keeps all lines, or only the last ones.
    pub fn new(keep_all: bool) -> Self {
        let trace = Self::default();
        trace.inner.borrow_mut().keep_all = keep_all;
        trace
    }

    /// Adds a line; `now` is simulated true time in microseconds.
    pub fn line(&self, now: u64, text: &str) {
        let mut inner = self.inner.borrow_mut();
        if !inner.keep_all && inner.lines.len() == LINES_KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(format!("{:>6}.{:06} {text}", now / 1_000_000, now % 1_000_000));
        inner.count += 1;
    }

    /// So many faults were drawn, and so many steps of callers begun.
    pub fn drawn(&self, faults: u64, begun: u64) {
        self.inner.borrow_mut().drawn = (faults, begun);
    }

    /// How many faults were drawn and steps of callers begun.
    pub fn counts(&self) -> (u64, u64) {
        self.inner.borrow().drawn
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.inner.borrow().count
    }

    /// What is kept, as text.
    pub fn text(&self) -> String {
        let inner = self.inner.borrow();
        let mut text = String::new();
        for line in &inner.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// A message in a few words.
pub fn brief(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Digest(report) => format!("digest {report:?}"),
        PeerMessage::Disk(report) => format!("{report:?}"),
        PeerMessage::StateWanted => "wants the state".to_owned(),
        PeerMessage::Diverged(report) => format!("diverged {report:?}"),
        PeerMessage::Forward { commands } => {
            let all: Vec<String> =
                commands.iter().map(|c| format!("{}#{}", c.sequence, c.attempt)).collect();
            format!("forward {}", all.join(" "))
        }
        PeerMessage::ForwardRefused { requests, reason } => {
            format!("forward refused {requests:?} {reason:?}")
        }
        PeerMessage::Keepalive(request) => format!("{request:?}"),
        PeerMessage::KeepaliveAnswer(answer) => format!("{answer:?}"),
        PeerMessage::Members(request) => format!("{request:?}"),
        PeerMessage::MembersAnswer(answer) => format!("{answer:?}"),
        PeerMessage::Raft(message) => raft(message),
        PeerMessage::Snapshot(SnapshotMessage::Chunk(chunk)) => {
            format!("chunk {} of {}, {} rows", chunk.number, chunk.id, chunk.rows.len())
        }
        PeerMessage::Snapshot(message) => format!("{message:?}"),
    }
}

fn raft(message: &Message) -> String {
    let body = match &message.body {
        Body::AppendRequest { prev_index, prev_term, entries, commit } => {
            let last = entries.last().map_or(*prev_index, |entry| entry.index);
            format!("append ({prev_index}@{prev_term}..{last}] commit {commit}")
        }
        other => format!("{other:?}"),
    };
    format!("t{} {body}", message.term)
}
