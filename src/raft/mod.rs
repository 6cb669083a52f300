//! Consensus: elections, replication, membership arithmetic and linearizable reads. Pure.
//!
//! (The protocol in prose, the input and output contract and the invariants are written here.)

mod entry;
mod membership;
mod message;
mod options;
mod ready;
mod status;

pub use entry::{Entry, Payload};
pub use membership::{Member, Membership, MembershipError};
pub use message::{AppendRejection, Body, Campaign, Message};
pub use options::Options;
pub use ready::{HardState, PersistToken, ReadState, Ready};
pub use status::{Progress, ProgressState, Role, Status};
