//! The running daemon: threads and tasks around one replica. Moves bytes and wakes tasks; decides
//! nothing that could lose, duplicate or mislabel a request.
//!
//! | thread or task | owns | input | ends |
//! |---|---|---|---|
//! | `replica` thread (`runner.rs`) | the `Replica`, those who wait | the mailbox | when told to |
//! | `writer` thread (`writer.rs`) | `raft.redb` | writes, in order | with the replica thread |
//! | `saver` thread (`saver.rs`) | `state.redb` | one save at a time | likewise |
//! | disk task (`disk.rs`) | nothing | a timer | when the node stops |
//! | inbound task (`inbound.rs`) | nothing | what `peer/` received | when `peer/` stops |
//! | callers' tasks (`handle.rs`) | nothing | their own | at their own pace |
//!
//! The replica thread is the only one that changes the view; the others read it under a read lock
//! that is never held over an await. It takes every event that waits, polls the replica once, and
//! carries out the actions in their order. Writes and saves run beside it; a fatal error of either
//! ends the process through [`Ended`], because what the page cache says after a failed sync cannot
//! be trusted (RELIABILITY F1).

mod bootstrap;
mod clock;
mod disk;
mod error;
#[cfg(test)]
mod failed_disk_test;
mod fence_file;
mod gatekeeper;
mod handle;
mod hub;
mod inbound;
mod introduce;
mod mailbox;
#[cfg(test)]
mod node_test;
mod runner;
mod saver;
mod start;
mod starting;
mod status;
mod threads;
mod writer;

pub use clock::Clock;
pub use error::{Ended, StartError};
pub use handle::{Consistency, Node};
pub use hub::{Follower, Topic, Watcher};
pub use introduce::{Introduced, IntroductionError};
pub use start::Options;
pub use starting::{StartPhase, StartStatus, Starting};
pub use status::{CertificateStatus, LinkStatus, NodeStatus, StorageStatus};

/// An order about the members is told and answered in these words, from the local API to the
/// leader.
pub use crate::raft::{Goal, Member, Membership};
pub use crate::wire::{
    ChangeReport, MembersOrder, MembersRefusal, MembersReply, Newcomer, WantedMembers,
};
