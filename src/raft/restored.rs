//! Whether what the disk held can be the state of a node.
//!
//! What is done about a refusal is for the caller to decide: a node whose disk does not hold
//! together must not take part.

use crate::base::{Index, Term};
use crate::raft::core::POSITION_MAX;
use crate::raft::{Entry, HardState, Membership, Payload};

/// What a node's disk held at its start.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The log starts after this index; zero for a whole log.
    pub snapshot_index: Index,
    /// The term of the entry at `snapshot_index`; zero for a whole log.
    pub snapshot_term: Term,
    /// The configuration in force at `snapshot_index`.
    pub membership: Membership,
    /// The durable log after `snapshot_index`.
    pub entries: Vec<Entry>,
    /// What the state machine already contains.
    pub applied: Index,
}

/// Why a node cannot start from what its disk held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The state machine is ahead of the log.
    #[error("the state contains entries up to {applied}, but the log ends at {last}")]
    AppliedBeyondLog {
        /// What the state machine contains.
        applied: Index,
        /// The last entry of the log.
        last: Index,
    },
    /// Entries that the state machine lacks were cut from the log.
    #[error("the state contains entries up to {applied} only, but the log starts after {start}")]
    AppliedBeforeLog {
        /// What the state machine contains.
        applied: Index,
        /// Where the log starts.
        start: Index,
    },
    /// The log lost entries that were known to be committed.
    #[error("entries up to {commit} were committed, but the log ends at {last}")]
    CommitBeyondLog {
        /// The recorded commit index.
        commit: Index,
        /// The last entry of the log.
        last: Index,
    },
    /// An entry is missing, or one is there twice.
    #[error("the log holds entry {found} where entry {expected} belongs")]
    Gap {
        /// The index that belongs here.
        expected: Index,
        /// The index that was found.
        found: Index,
    },
    /// A configuration has no voters.
    #[error("the configuration at entry {index} has no voters")]
    NoVoters {
        /// Where it stands.
        index: Index,
    },
    /// An index or term is beyond what any cluster reaches.
    #[error("an index or term of the log is impossibly large")]
    TooLarge,
    /// The recorded term is older than the log: the hard state is of another time.
    #[error("the recorded term is {term}, but the log ends in term {last_term}")]
    TermBelowLog {
        /// The recorded term.
        term: Term,
        /// The term of the last entry.
        last_term: Term,
    },
    /// Terms decrease along the log.
    #[error("entry {index} is of term {term}, older than the entry before it")]
    TermOrder {
        /// The entry.
        index: Index,
        /// Its term.
        term: Term,
    },
}

/// Refuses what no run of this program can have written.
pub(super) fn verify(restored: &Restored) -> Result<(), RestoreError> {
    let Restored { hard_state, snapshot_index, snapshot_term, applied, .. } = *restored;
    let (mut last, mut last_term) = (snapshot_index, snapshot_term);
    if snapshot_index.get() > POSITION_MAX || hard_state.term.get() > POSITION_MAX {
        return Err(RestoreError::TooLarge);
    }
    if restored.membership.voters().is_empty() {
        return Err(RestoreError::NoVoters { index: snapshot_index });
    }
    for entry in &restored.entries {
        let expected = last.next();
        if entry.index != expected {
            return Err(RestoreError::Gap { expected, found: entry.index });
        }
        if entry.term < last_term {
            return Err(RestoreError::TermOrder { index: entry.index, term: entry.term });
        }
        if let Payload::Membership(membership) = &entry.payload
            && membership.voters().is_empty()
        {
            return Err(RestoreError::NoVoters { index: entry.index });
        }
        (last, last_term) = (entry.index, entry.term);
    }
    if hard_state.term < last_term {
        return Err(RestoreError::TermBelowLog { term: hard_state.term, last_term });
    }
    if hard_state.commit > last {
        return Err(RestoreError::CommitBeyondLog { commit: hard_state.commit, last });
    }
    if applied > last {
        return Err(RestoreError::AppliedBeyondLog { applied, last });
    }
    if applied < snapshot_index {
        return Err(RestoreError::AppliedBeforeLog { applied, start: snapshot_index });
    }
    Ok(())
}
