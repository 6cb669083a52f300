//! An asynchronous client of the local socket, for programs that do not want to write HTTP
//! themselves.
//!
//! It adds nothing that `curl` could not do, but does with care what is easy to get wrong:
//!
//! - *Not applied*, *unknown* and *applied* stay apart ([`Error::applied`]); a write whose outcome
//!   is unknown is sent again only under an idempotency key ([`WriteOptions::retrying`]).
//! - A watch that loses its connection, or hears nothing for too long, resumes after the last
//!   revision it saw ([`Watch`]).
//! - What a holder was promised is counted from before the question, on a clock that runs during
//!   suspend, and needs no daemon to run out ([`Hold`]).
//!
//! It imports nothing of the daemon but the shapes of its JSON. All waiting is tokio's; every
//! method may be dropped at any await: a write may then have been applied, a read has no effect,
//! and a [`Hold`] or [`Acquiring`] that is dropped gives up its place.

mod access;
mod acquire;
mod barrier;
mod ca;
mod call;
mod clock;
mod connection;
mod error;
mod hold;
mod kv;
mod lease;
mod node;
mod token;
mod under_lease;
mod watch;

#[cfg(test)]
mod client_test;
#[cfg(test)]
mod scripted_daemon;

pub use crate::api::types::{
    AccessAnswer, AccessCheckAnswer, AccessCheckRequest, AccessRight, AccessRuleView,
    AccessSubject, AcquireRequest, Applied, BarrierView, BarriersAnswer, Becomes, Bind,
    CampaignRequest, ChangeDone, ChangePhase, Code, CompactAnswer, Compare, CompareOp,
    DeleteAnswer, DurationText, ElectionMessage, ElectionView, ElectionsAnswer, Field,
    GrantLeaseRequest, HeldAnswer, HexId, Incarnation, KeepaliveAnswer, LeaderAnswer,
    LeaderRequest, LeaseAnswer, LeaseMessage, LeaseState, LeaseView, LeasesAnswer, LeftAnswer,
    ListAnswer, LockView, LocksAnswer, MemberAt, MemberRole, MemberView, MembersAnswer,
    MembersMessage, MembersRequest, Mode, NewcomerView, NodeRole, NodeState, Operand, Place,
    Problem, PutAnswer, RebuildAnswer, Record, ReleaseAnswer, ReloadAnswer, RevokeAnswer,
    StatusAnswer, Target, TxnAnswer, TxnOperation, TxnRequest, TxnResult, WantedMember, WatchEvent,
    WatchEventKind, WatchMessage,
};
pub use crate::api::types::{CaAnswer, CaMemberView, CaPhase};
pub use crate::api::types::{TokenAnswer, TokenPhase, TokenRequest, TokenView, TokensAnswer};
pub use acquire::{AcquireOptions, Acquiring, CampaignOptions, Turn};
pub use barrier::{Attendance, Attending, BarrierOptions};
pub use call::{Client, Consistency, IdempotencyKey, ReadOptions, WriteOptions};
pub use clock::BootInstant;
pub use error::Error;
pub use hold::{Condition, Hold, HoldState, Loss};
pub use kv::{DeleteOptions, GetOptions, ListOptions, PutCondition, PutOptions};
pub use lease::{ElectionWatch, Kept, LeaseEvents};
pub use node::MembersChange;
#[cfg(test)]
pub(crate) use scripted_daemon::{Reply, ScriptedDaemon, Seen, StreamHandle};
pub use watch::{Watch, WatchOptions, WatchStep};
