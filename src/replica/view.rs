//! What those who read look at: the applied state, its history, and this node's promises.

use crate::replica::{Fence, Promises, Removal};
use crate::state::StateMachine;
use crate::watch::History;

/// The part of a replica that others may read, under a lock that the replica's owner provides. It
/// changes only within [`Replica::poll`](crate::replica::Replica::poll).
#[derive(Debug)]
pub struct View {
    /// The applied state.
    pub machine: StateMachine,
    /// The last revisions, for watches.
    pub history: History,
    /// What this node has promised about leases.
    pub promises: Promises,
    /// When this node is no member any more, its state is frozen, and nobody is to be served from
    /// it.
    pub removed: Option<Removal>,
    /// Why nobody may look at any of it: this state is not what the others made of the same log.
    pub fence: Option<Fence>,
}
