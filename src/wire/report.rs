//! What members tell the leader about themselves: the digest of their state, the room and the pace
//! of their disk.
//!
//! When they tell it, and what the leader makes of it, is decided in `replica/`. Losing, repeating
//! or reordering any of it is harmless.

use crate::base::{Index, Span};

/// The digest of the state at one index: the same on every member, or one of them has gone astray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestReport {
    /// After which entry.
    pub index: Index,
    /// The digest (`StateMachine::digest`).
    pub digest: u64,
}

/// How the disk of a voter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// How much room there is.
    pub room: DiskRoom,
    /// How long its writes of the log take, syncs included.
    pub write: Span,
}

/// How much room a disk has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskRoom {
    /// Enough.
    #[default]
    Enough,
    /// Less than the reserve: a leader takes no new writes.
    Low,
    /// None: nothing can be appended.
    Full,
}
