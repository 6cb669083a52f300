//! The JSON of the local API as Rust types, shared by the server and by `client/`: nothing but
//! shapes.
//!
//! Requests refuse unknown fields, so that a typo never drops a precondition. Answers ignore
//! unknown fields and carry `#[serde(other)]` variants, so that an older client can talk to a newer
//! daemon and the other way round. Bytes that are valid UTF-8 stand in `key` / `value` / `name`,
//! others in `key_base64` / `value_base64` / `name_base64`.

mod access;
mod barrier;
mod ca;
mod files;
mod kv;
mod members;
mod node;
mod problem;
mod queue;
mod text;
mod tokens;
mod watch;

#[cfg(test)]
mod types_test;

pub use access::{
    AccessAnswer, AccessCheckAnswer, AccessCheckRequest, AccessRight, AccessRuleView,
    AccessSubject, Reservation,
};
pub use barrier::{
    BarrierMessage, BarrierRequest, BarrierView, BarriersAnswer, LeftAnswer, ReadyAnswer,
};
pub use ca::{CaAnswer, CaFinishRequest, CaMemberView, CaPhase};
pub use files::{FileStateView, FileView, PublishView};
pub use kv::{
    CompactAnswer, CompactRequest, Compare, CompareOp, DeleteAnswer, Field, ListAnswer, Operand,
    PutAnswer, Record, Target, TxnAnswer, TxnOperation, TxnRequest, TxnResult,
};
pub use members::{
    Becomes, ChangeDone, ChangePhase, LeaderAnswer, LeaderRequest, MemberAt, MemberRole,
    MemberView, MembersAnswer, MembersMessage, MembersRequest, NewcomerView, WantedMember,
};
pub use node::{
    HealthNote, LinkView, NodeRole, NodeState, RebuildAnswer, ReloadAnswer, SnapshotView,
    StatusAnswer, StorageView,
};
pub use problem::{Applied, Code, Problem};
pub use queue::{
    AcquireRequest, Bind, CampaignRequest, ElectionMessage, ElectionView, ElectionsAnswer,
    GrantLeaseRequest, HeldAnswer, KeepaliveAnswer, LeaseAnswer, LeaseMessage, LeaseState,
    LeaseView, LeasesAnswer, LockView, LocksAnswer, Mode, Place, PlaceMessage, ReleaseAnswer,
    RevokeAnswer,
};
pub use text::{DurationText, DurationTextError, HexId, Incarnation, KeyName};
pub use tokens::{TokenAnswer, TokenPhase, TokenRequest, TokenView, TokensAnswer};
pub use watch::{WatchEvent, WatchEventKind, WatchMessage};
