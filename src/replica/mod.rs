//! One member of the cluster as a synchronous object: consensus, state machine, requests, leases.
//!
//! Events go in (`Replica::handle`), actions come out (`Replica::poll`). Whatever can lose,
//! duplicate or mislabel a request happens in here, so that it happens under the simulator too.
//! There is no clock, no thread, no socket and no file: the owner does what the actions say, in
//! their order.
//!
//! # The way of a write
//!
//! 1. `Event::Submit` numbers the request (`requests.rs`). The number stays the same however often
//!    it is handed over.
//! 2. `poll` hands it over: into this node's own log when it leads (`intake.rs` checks the limits),
//!    in a `Forward` to the leader otherwise (`routing.rs`).
//! 3. The core replicates it (`raft/`). What it wants written and sent becomes actions in an order
//!    that keeps its promises (`output.rs`).
//! 4. Once committed, every replica applies it (`apply.rs`). The node that numbered it recognises
//!    it and answers: so its own view shows the write before its caller hears of it.
//!
//! A change of leader, or of the connection to it, hands over again whatever has no outcome;
//! `state/` applies each number once. A request whose time is up is *unknown* exactly when an
//! attempt of it was handed over and not refused; otherwise it is certainly not applied.
//!
//! # The way of a lease
//!
//! The leader's clock decides when a lease is overdue (`expiry.rs`), and a log entry ends it. A
//! node tells the leader which leases live on (`keeper.rs`); the leader believes it only after a
//! quorum has confirmed that it still leads (`intake.rs`, `routing.rs`). What the node may tell the
//! holder meanwhile follows from when it last *sent* a keepalive that was confirmed
//! (`promises.rs`).
//!
//! # The way of a change of members
//!
//! An operator's order goes to the leader from any node and is answered there (`members.rs`). New
//! voters learn first; when they keep up, the leader changes to the wanted set, and `raft/` does
//! it in one or two entries. A node that is removed says so to everybody (`standing.rs`).
//!
//! # What may be reordered
//!
//! Nothing: the actions of one poll are done in their order, and those of the next after them.
//! Writes and saves may take their time; their completions come back as events.

mod action;
mod apply;
mod bootstrap;
mod checkpoint;
#[cfg(test)]
mod cluster_test;
mod core;
mod divergence;
#[cfg(test)]
mod divergence_test;
mod event;
mod expiry;
mod intake;
mod keeper;
mod members;
#[cfg(test)]
mod members_test;
mod options;
mod output;
mod promises;
mod reads;
mod recover;
mod requests;
mod reservations;
#[cfg(test)]
mod reservations_test;
mod retention;
mod roster;
mod routing;
#[cfg(test)]
mod scenario_test;
#[cfg(test)]
mod script_hosts_test;
#[cfg(test)]
mod script_test;
mod snapshot_job;
mod snapshot_receiver;
mod snapshot_sender;
#[cfg(test)]
mod snapshot_test;
mod snapshots;
mod standing;
mod status;
mod survivor;
mod transfer;
#[cfg(test)]
mod transfer_test;
mod view;

pub use action::{Action, Published};
pub use bootstrap::{Bootstrap, BootstrapStep, Seed};
pub use core::Replica;
pub use divergence::Fence;
pub use event::{Event, Now, Ticket};
pub use options::Options;
pub use promises::{Promise, PromiseState, Promises};
pub use recover::{RecoverError, Recovery};
pub use roster::Roster;
pub use snapshot_job::{SnapshotDesk, SnapshotDone, SnapshotJob};
pub use snapshots::{SnapshotPhase, SnapshotStatus};
pub use status::{MemberStatus, Removal, ReplicaStatus, RequestError, UnavailableReason};
pub use survivor::{Held, Part, Survivor};
pub use view::View;

/// Its status speaks of the role that raft plays.
pub use crate::raft::Role;
