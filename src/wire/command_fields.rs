//! The fields of a command, as prost messages: field numbers and types, nothing else.
//!
//! What is checked of them is decided in `command.rs`. A number is never used again for another
//! meaning.

use bytes::Bytes;

use super::entry::EmptyProto;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommandProto {
    #[prost(fixed64, tag = "1")]
    pub(super) node: u64,
    #[prost(uint64, tag = "2")]
    pub(super) boot: u64,
    #[prost(uint64, tag = "3")]
    pub(super) sequence: u64,
    #[prost(uint64, tag = "4")]
    pub(super) floor: u64,
    #[prost(message, optional, tag = "5")]
    pub(super) idempotency: Option<IdempotencyProto>,
    #[prost(
        oneof = "OperationProto",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23"
    )]
    pub(super) operation: Option<OperationProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OperationProto {
    #[prost(message, tag = "10")]
    Acquire(AcquireProto),
    /// The oldest revision that stays readable.
    #[prost(uint64, tag = "11")]
    Compact(u64),
    #[prost(message, tag = "12")]
    Delete(DeleteProto),
    #[prost(message, tag = "13")]
    ExpireLeases(ExpireProto),
    #[prost(message, tag = "14")]
    GrantLease(NewLeaseProto),
    #[prost(message, tag = "15")]
    NodeBooted(EmptyProto),
    #[prost(message, tag = "16")]
    Proclaim(ProclaimProto),
    #[prost(message, tag = "17")]
    Put(PutProto),
    #[prost(message, tag = "18")]
    Release(ReleaseProto),
    #[prost(message, tag = "19")]
    RevokeLeases(RevokeProto),
    /// Counted by number before it is decoded: see `TXN_TAG` in `command.rs`.
    #[prost(message, tag = "20")]
    Txn(TxnProto),
    #[prost(message, tag = "21")]
    StartEpoch(EmptyProto),
    #[prost(message, tag = "22")]
    AdoptLeases(AdoptProto),
    #[prost(message, tag = "23")]
    BindLease(BindProto),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IdempotencyProto {
    #[prost(uint32, tag = "1")]
    pub(super) uid: u32,
    #[prost(string, tag = "2")]
    pub(super) key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueNameProto {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) name: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AcquireProto {
    #[prost(message, optional, tag = "1")]
    pub(super) queue: Option<QueueNameProto>,
    #[prost(oneof = "HolderProto", tags = "2, 3")]
    pub(super) holder: Option<HolderProto>,
    #[prost(uint32, tag = "4")]
    pub(super) slots: u32,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
    #[prost(uint32, tag = "6")]
    pub(super) patience: u32,
    #[prost(bool, tag = "7")]
    pub(super) shared: bool,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum HolderProto {
    #[prost(fixed64, tag = "2")]
    Existing(u64),
    #[prost(message, tag = "3")]
    New(NewLeaseProto),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NewLeaseProto {
    #[prost(uint64, tag = "1")]
    pub(super) ttl_micros: u64,
    #[prost(uint32, tag = "2")]
    pub(super) bind: u32,
    #[prost(uint32, optional, tag = "3")]
    pub(super) pid: Option<u32>,
    #[prost(uint32, tag = "4")]
    pub(super) uid: u32,
    #[prost(string, tag = "5")]
    pub(super) info: String,
    #[prost(string, optional, tag = "6")]
    pub(super) process: Option<String>,
}

/// A single key, or a prefix that may be empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SelectionProto {
    #[prost(oneof = "WhichProto", tags = "1, 2")]
    pub(super) which: Option<WhichProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum WhichProto {
    #[prost(bytes = "bytes", tag = "1")]
    Key(Bytes),
    #[prost(bytes = "bytes", tag = "2")]
    Prefix(Bytes),
}

/// No field: nothing is asked.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ConditionProto {
    #[prost(oneof = "AskedProto", tags = "1, 2")]
    pub(super) asked: Option<AskedProto>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub(super) enum AskedProto {
    #[prost(message, tag = "1")]
    Absent(EmptyProto),
    #[prost(uint64, tag = "2")]
    ModRevision(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteProto {
    #[prost(message, optional, tag = "1")]
    pub(super) selection: Option<SelectionProto>,
    #[prost(message, optional, tag = "2")]
    pub(super) condition: Option<ConditionProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExpireProto {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    #[prost(fixed64, repeated, tag = "2")]
    pub(super) leases: Vec<u64>,
    /// As many as leases, in the same order.
    #[prost(uint64, repeated, tag = "3")]
    pub(super) generations: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProclaimProto {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) token: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutProto {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
    #[prost(fixed64, optional, tag = "3")]
    pub(super) lease: Option<u64>,
    #[prost(message, optional, tag = "4")]
    pub(super) condition: Option<ConditionProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReleaseProto {
    #[prost(message, optional, tag = "1")]
    pub(super) queue: Option<QueueNameProto>,
    #[prost(uint64, tag = "2")]
    pub(super) token: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RevokeProto {
    #[prost(fixed64, repeated, tag = "1")]
    pub(super) leases: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AdoptProto {
    #[prost(fixed64, repeated, tag = "1")]
    pub(super) leases: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BindProto {
    #[prost(fixed64, tag = "1")]
    pub(super) lease: u64,
    #[prost(string, tag = "2")]
    pub(super) process: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TxnProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) compares: Vec<CompareProto>,
    #[prost(message, repeated, tag = "2")]
    pub(super) then: Vec<TxnOperationProto>,
    #[prost(message, repeated, tag = "3")]
    pub(super) or_else: Vec<TxnOperationProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CompareProto {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(uint32, tag = "2")]
    pub(super) op: u32,
    #[prost(oneof = "FieldProto", tags = "3, 4, 5, 6, 7")]
    pub(super) field: Option<FieldProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum FieldProto {
    #[prost(uint64, tag = "3")]
    CreateRevision(u64),
    #[prost(fixed64, tag = "4")]
    Lease(u64),
    #[prost(uint64, tag = "5")]
    ModRevision(u64),
    #[prost(bytes = "bytes", tag = "6")]
    Value(Bytes),
    #[prost(uint64, tag = "7")]
    Version(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TxnOperationProto {
    #[prost(oneof = "ActProto", tags = "1, 2, 3")]
    pub(super) act: Option<ActProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ActProto {
    #[prost(message, tag = "1")]
    Delete(SelectionProto),
    #[prost(message, tag = "2")]
    Get(SelectionProto),
    #[prost(message, tag = "3")]
    Put(PutProto),
}
