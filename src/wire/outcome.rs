//! The fields of an outcome, as they are kept behind an idempotency key.
//!
//! What an outcome says is decided by `state/`; how long it is kept, too.

use bytes::Bytes;

use super::codec::{one_to, required};
use super::command::mode;
use super::entry::EmptyProto;
use crate::base::{LeaseId, Revision, Token, limits};
use crate::state::{Mode, Outcome, QueueEntry, Record, Refusal, TxnResult};
use crate::wire::WireError;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OutcomeProto {
    #[prost(oneof = "KindProto", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    kind: Option<KindProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum KindProto {
    #[prost(message, tag = "1")]
    Acquired(AcquiredProto),
    #[prost(message, tag = "2")]
    Compacted(CountProto),
    #[prost(message, tag = "3")]
    Deleted(CountProto),
    /// The revision.
    #[prost(uint64, tag = "4")]
    Done(u64),
    #[prost(message, tag = "5")]
    Duplicate(EmptyProto),
    #[prost(message, tag = "6")]
    Granted(GrantedProto),
    #[prost(message, tag = "7")]
    Put(PutOutcomeProto),
    #[prost(message, tag = "8")]
    Refused(RefusalProto),
    /// The revision.
    #[prost(uint64, tag = "9")]
    Released(u64),
    #[prost(message, tag = "10")]
    Txn(TxnOutcomeProto),
    #[prost(message, tag = "11")]
    Revoked(CountProto),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AcquiredProto {
    #[prost(fixed64, tag = "1")]
    lease: u64,
    #[prost(uint64, tag = "2")]
    token: u64,
    #[prost(uint64, tag = "3")]
    ahead: u64,
    #[prost(uint64, tag = "4")]
    revision: u64,
}

/// A number (how many were deleted or revoked; the oldest readable revision) and the revision.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct CountProto {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct GrantedProto {
    #[prost(fixed64, tag = "1")]
    lease: u64,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PutOutcomeProto {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    create_revision: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnOutcomeProto {
    #[prost(bool, tag = "1")]
    succeeded: bool,
    #[prost(message, repeated, tag = "2")]
    results: Vec<ResultProto>,
    #[prost(uint64, tag = "4")]
    revision: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResultProto {
    #[prost(oneof = "ResultKindProto", tags = "1, 2, 3")]
    kind: Option<ResultKindProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ResultKindProto {
    /// How many.
    #[prost(uint64, tag = "1")]
    Deleted(u64),
    #[prost(message, tag = "2")]
    Got(RecordsProto),
    #[prost(message, tag = "3")]
    Put(PutOutcomeProto),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordsProto {
    #[prost(message, repeated, tag = "1")]
    records: Vec<RecordProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordProto {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint64, tag = "3")]
    create_revision: u64,
    #[prost(uint64, tag = "4")]
    mod_revision: u64,
    #[prost(uint64, tag = "5")]
    version: u64,
    #[prost(fixed64, optional, tag = "6")]
    lease: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusalProto {
    #[prost(oneof = "RefusalKindProto", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    kind: Option<RefusalKindProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RefusalKindProto {
    /// The oldest readable revision.
    #[prost(uint64, tag = "1")]
    Compacted(u64),
    #[prost(message, tag = "2")]
    DuplicateKey(EmptyProto),
    /// The store's revision.
    #[prost(uint64, tag = "3")]
    FutureRevision(u64),
    /// The lease that was named.
    #[prost(fixed64, tag = "4")]
    LeaseNotFound(u64),
    #[prost(message, tag = "5")]
    LockHeld(HoldersProto),
    #[prost(message, tag = "6")]
    NotHeld(EmptyProto),
    /// The key's last change.
    #[prost(uint64, tag = "7")]
    PreconditionFailed(u64),
    /// What the others name.
    #[prost(uint32, tag = "8")]
    SlotsDiffer(u32),
    #[prost(message, tag = "9")]
    Stale(EmptyProto),
    /// The token of the place that the lease has.
    #[prost(uint64, tag = "10")]
    OtherMode(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
struct HoldersProto {
    #[prost(message, repeated, tag = "1")]
    holders: Vec<QueueEntryProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueueEntryProto {
    #[prost(uint64, tag = "1")]
    token: u64,
    #[prost(fixed64, tag = "2")]
    lease: u64,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
    #[prost(bool, tag = "4")]
    shared: bool,
}

impl From<&Outcome> for OutcomeProto {
    fn from(outcome: &Outcome) -> Self {
        let kind = match outcome {
            Outcome::Acquired { lease, token, ahead, revision } => {
                KindProto::Acquired(AcquiredProto {
                    lease: lease.0,
                    token: token.0,
                    ahead: *ahead,
                    revision: revision.0,
                })
            }
            Outcome::Compacted { compact_revision, revision } => {
                KindProto::Compacted(counted(compact_revision.0, *revision))
            }
            Outcome::Deleted { deleted, revision } => {
                KindProto::Deleted(counted(*deleted, *revision))
            }
            Outcome::Done { revision } => KindProto::Done(revision.0),
            Outcome::Duplicate => KindProto::Duplicate(EmptyProto {}),
            Outcome::Granted { lease, revision } => {
                KindProto::Granted(GrantedProto { lease: lease.0, revision: revision.0 })
            }
            Outcome::Put { revision, create_revision, version } => {
                KindProto::Put(PutOutcomeProto {
                    revision: revision.0,
                    create_revision: create_revision.0,
                    version: *version,
                })
            }
            Outcome::Refused(refusal) => KindProto::Refused(refusal.into()),
            Outcome::Released { revision } => KindProto::Released(revision.0),
            Outcome::Revoked { revoked, revision } => {
                KindProto::Revoked(counted(*revoked, *revision))
            }
            Outcome::Txn { succeeded, revision, results } => KindProto::Txn(TxnOutcomeProto {
                succeeded: *succeeded,
                results: results.iter().map(ResultProto::from).collect(),
                revision: revision.0,
            }),
        };
        Self { kind: Some(kind) }
    }
}

fn counted(count: u64, revision: Revision) -> CountProto {
    CountProto { count, revision: revision.0 }
}

impl TryFrom<OutcomeProto> for Outcome {
    type Error = WireError;

    fn try_from(proto: OutcomeProto) -> Result<Self, WireError> {
        Ok(match required(proto.kind)? {
            KindProto::Acquired(acquired) => Self::Acquired {
                lease: LeaseId(acquired.lease),
                token: Token(acquired.token),
                ahead: acquired.ahead,
                revision: Revision(acquired.revision),
            },
            KindProto::Compacted(compacted) => Self::Compacted {
                compact_revision: Revision(compacted.count),
                revision: Revision(compacted.revision),
            },
            KindProto::Deleted(deleted) => {
                Self::Deleted { deleted: deleted.count, revision: Revision(deleted.revision) }
            }
            KindProto::Done(revision) => Self::Done { revision: Revision(revision) },
            KindProto::Duplicate(EmptyProto {}) => Self::Duplicate,
            KindProto::Granted(granted) => Self::Granted {
                lease: LeaseId(granted.lease),
                revision: Revision(granted.revision),
            },
            KindProto::Put(put) => Self::Put {
                revision: Revision(put.revision),
                create_revision: Revision(put.create_revision),
                version: put.version,
            },
            KindProto::Refused(refusal) => Self::Refused(refusal.try_into()?),
            KindProto::Released(revision) => Self::Released { revision: Revision(revision) },
            KindProto::Txn(txn) => Self::Txn {
                succeeded: txn.succeeded,
                revision: Revision(txn.revision),
                results: txn
                    .results
                    .into_iter()
                    .map(TxnResult::try_from)
                    .collect::<Result<_, _>>()?,
            },
            KindProto::Revoked(revoked) => {
                Self::Revoked { revoked: revoked.count, revision: Revision(revoked.revision) }
            }
        })
    }
}

impl From<&TxnResult> for ResultProto {
    fn from(result: &TxnResult) -> Self {
        let kind = match result {
            TxnResult::Deleted(deleted) => ResultKindProto::Deleted(*deleted),
            TxnResult::Got(records) => ResultKindProto::Got(RecordsProto {
                records: records.iter().map(RecordProto::from).collect(),
            }),
            TxnResult::Put { create_revision, version } => ResultKindProto::Put(PutOutcomeProto {
                revision: 0,
                create_revision: create_revision.0,
                version: *version,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<ResultProto> for TxnResult {
    type Error = WireError;

    fn try_from(proto: ResultProto) -> Result<Self, WireError> {
        Ok(match required(proto.kind)? {
            ResultKindProto::Deleted(deleted) => Self::Deleted(deleted),
            ResultKindProto::Got(got) => {
                Self::Got(got.records.into_iter().map(Record::try_from).collect::<Result<_, _>>()?)
            }
            ResultKindProto::Put(put) => {
                Self::Put { create_revision: Revision(put.create_revision), version: put.version }
            }
        })
    }
}

impl From<&Record> for RecordProto {
    fn from(record: &Record) -> Self {
        Self {
            key: record.key.clone(),
            value: record.value.clone(),
            create_revision: record.create_revision.0,
            mod_revision: record.mod_revision.0,
            version: record.version,
            lease: record.lease.map(|lease| lease.0),
        }
    }
}

impl TryFrom<RecordProto> for Record {
    type Error = WireError;

    fn try_from(proto: RecordProto) -> Result<Self, WireError> {
        Ok(Self {
            key: one_to(proto.key, limits::KEY_BYTES_MAX)?,
            value: proto.value,
            create_revision: Revision(proto.create_revision),
            mod_revision: Revision(proto.mod_revision),
            version: proto.version,
            lease: proto.lease.map(LeaseId),
        })
    }
}

impl From<&Refusal> for RefusalProto {
    fn from(refusal: &Refusal) -> Self {
        let kind = match refusal {
            Refusal::Compacted { compact_revision } => {
                RefusalKindProto::Compacted(compact_revision.0)
            }
            Refusal::DuplicateKey => RefusalKindProto::DuplicateKey(EmptyProto {}),
            Refusal::FutureRevision { revision } => RefusalKindProto::FutureRevision(revision.0),
            Refusal::LeaseNotFound { lease } => RefusalKindProto::LeaseNotFound(lease.0),
            Refusal::LockHeld { holders } => RefusalKindProto::LockHeld(HoldersProto {
                holders: holders
                    .iter()
                    .map(|entry| QueueEntryProto {
                        token: entry.token.0,
                        lease: entry.lease.0,
                        value: entry.value.clone(),
                        shared: entry.mode == Mode::Shared,
                    })
                    .collect(),
            }),
            Refusal::NotHeld => RefusalKindProto::NotHeld(EmptyProto {}),
            Refusal::PreconditionFailed { mod_revision } => {
                RefusalKindProto::PreconditionFailed(mod_revision.0)
            }
            Refusal::OtherMode { token } => RefusalKindProto::OtherMode(token.0),
            Refusal::SlotsDiffer { slots } => RefusalKindProto::SlotsDiffer(*slots),
            Refusal::Stale => RefusalKindProto::Stale(EmptyProto {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<RefusalProto> for Refusal {
    type Error = WireError;

    fn try_from(proto: RefusalProto) -> Result<Self, WireError> {
        Ok(match required(proto.kind)? {
            RefusalKindProto::Compacted(revision) => {
                Self::Compacted { compact_revision: Revision(revision) }
            }
            RefusalKindProto::DuplicateKey(EmptyProto {}) => Self::DuplicateKey,
            RefusalKindProto::FutureRevision(revision) => {
                Self::FutureRevision { revision: Revision(revision) }
            }
            RefusalKindProto::LeaseNotFound(lease) => Self::LeaseNotFound { lease: LeaseId(lease) },
            RefusalKindProto::LockHeld(held) => Self::LockHeld {
                holders: held
                    .holders
                    .into_iter()
                    .map(|entry| QueueEntry {
                        token: Token(entry.token),
                        lease: LeaseId(entry.lease),
                        mode: mode(entry.shared),
                        value: entry.value,
                    })
                    .collect(),
            },
            RefusalKindProto::NotHeld(EmptyProto {}) => Self::NotHeld,
            RefusalKindProto::PreconditionFailed(revision) => {
                Self::PreconditionFailed { mod_revision: Revision(revision) }
            }
            RefusalKindProto::OtherMode(token) => Self::OtherMode { token: Token(token) },
            RefusalKindProto::SlotsDiffer(slots) => Self::SlotsDiffer { slots },
            RefusalKindProto::Stale(EmptyProto {}) => Self::Stale,
        })
    }
}
