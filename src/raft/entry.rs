//! One entry of the replicated log. What a command means is the state machine's business.

use bytes::Bytes;

use crate::base::{Index, Term};
use crate::raft::Membership;

/// An entry: one slot of the log, which decides one value for ever (Raft paper, section 5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// Its place in the log; the first entry is 1.
    pub index: Index,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Opaque bytes for the state machine.
    Command(Bytes),
    /// Nothing: opens a leader's term so that earlier entries commit with it (section 5.4.2).
    Empty,
    /// The configuration from this entry on, in force as soon as it is in the log.
    Membership(Membership),
}

impl Entry {
    /// Bytes that the entry counts for in windows and limits: its payload and a fixed head.
    pub fn size_bytes(&self) -> usize {
        const HEAD: usize = 32;
        HEAD + match &self.payload {
            Payload::Command(bytes) => bytes.len(),
            Payload::Empty => 0,
            Payload::Membership(membership) => membership.members().len() * 96,
        }
    }
}
