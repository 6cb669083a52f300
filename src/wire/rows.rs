//! How the rows of the saved state are written down.
//!
//! Which rows there are is decided by `state/`; which table holds them, by `storage/`. The key of a
//! row sorts as [`RowKey`] does, byte by byte, and the checksum of a value covers its key.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::codec::{at_most, bound_count, one_to, open, required, seal, strict};
use super::command::{
    bind_code, bind_of, idempotency_key, info, kind_code, process_of, queue_name, slots, ttl,
};
use super::entry::EmptyProto;
use super::outcome::OutcomeProto;
use crate::base::{
    Boot, Epoch, Index, LeaseId, NodeId, Revision, Sequence, Term, WallMillis, limits,
};
use crate::state::{Lease, Meta, Row, RowKey};
use crate::wire::WireError;

const ROW_VERSION: u8 = 1;

// The order of these is that of the variants of `RowKey`.
const KEY_IDEMPOTENCY: u8 = 1;
const KEY_LEASE: u8 = 2;
const KEY_META: u8 = 3;
const KEY_QUEUE: u8 = 4;
const KEY_REQUESTS: u8 = 5;
const KEY_VERSION: u8 = 6;

/// Encodes the name of a row: its kind, then its parts, so that bytes sort as names do.
///
/// Numbers are big-endian. In a version's key a zero byte becomes `00 ff` and the key ends with
/// `00 00`, so that no key is a prefix of another and shorter keys sort first.
pub fn encode_row_key(key: &RowKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    match key {
        RowKey::Idempotency(key) => {
            bytes.push(KEY_IDEMPOTENCY);
            bytes.extend_from_slice(&key.uid.to_be_bytes());
            bytes.extend_from_slice(key.key.as_bytes());
        }
        RowKey::Lease(lease) => {
            bytes.push(KEY_LEASE);
            bytes.extend_from_slice(&lease.0.to_be_bytes());
        }
        RowKey::Meta => bytes.push(KEY_META),
        RowKey::Queue(queue) => {
            bytes.push(KEY_QUEUE);
            let kind = u8::try_from(kind_code(queue.kind)).expect("codes of queues are small");
            bytes.push(kind);
            bytes.extend_from_slice(&queue.name);
        }
        RowKey::Requests(node) => {
            bytes.push(KEY_REQUESTS);
            bytes.extend_from_slice(&node.0.to_be_bytes());
        }
        RowKey::Version(key, revision) => {
            bytes.reserve(1 + key.len() + 2 + 8);
            bytes.push(KEY_VERSION);
            for &byte in key {
                bytes.push(byte);
                if byte == 0 {
                    bytes.push(0xff);
                }
            }
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&revision.0.to_be_bytes());
        }
    }
    bytes
}

/// Decodes the name of a row; errors on anything that [`encode_row_key`] does not make.
pub fn decode_row_key(bytes: &[u8]) -> Result<RowKey, WireError> {
    let (&kind, rest) = bytes.split_first().ok_or(WireError::Truncated)?;
    match kind {
        KEY_IDEMPOTENCY => {
            let (uid, key) = rest.split_first_chunk().ok_or(WireError::Truncated)?;
            let key = String::from_utf8(key.to_vec())
                .map_err(|_| WireError::Malformed("an idempotency key beyond visible ASCII"))?;
            idempotency_key(u32::from_be_bytes(*uid), key).map(RowKey::Idempotency)
        }
        KEY_LEASE => Ok(RowKey::Lease(LeaseId(number(rest)?))),
        KEY_META if rest.is_empty() => Ok(RowKey::Meta),
        KEY_META => Err(WireError::Malformed("bytes after the key of the counters")),
        KEY_QUEUE => {
            let (&kind, name) = rest.split_first().ok_or(WireError::Truncated)?;
            queue_name(u32::from(kind), Bytes::copy_from_slice(name)).map(RowKey::Queue)
        }
        KEY_REQUESTS => Ok(RowKey::Requests(NodeId(number(rest)?))),
        KEY_VERSION => version_key(rest),
        _ => Err(WireError::UnknownKind("row")),
    }
}

/// Encodes a row for storage under `key`, which [`encode_row_key`] made: version, checksum over key
/// and content, content.
///
/// Panics when the row is of another kind than the key, or a lease is not the one the key names.
/// The `keys` of a lease are not stored.
pub fn encode_row(key: &[u8], row: &Row) -> Vec<u8> {
    seal(ROW_VERSION, key, &RowProto::new(key, row))
}

/// Decodes a row that is stored under `key`, with its name.
pub fn decode_row(key: &[u8], value: &[u8]) -> Result<(RowKey, Row), WireError> {
    let content = open(ROW_VERSION, key, &Bytes::copy_from_slice(value))?;
    let key = decode_row_key(key)?;
    for path in OUTCOME_LISTS {
        bound_count(&content, path, OUTCOME_ITEMS_MAX)?;
    }
    let body = required(strict::<RowProto>(content)?.body)?;
    let row = match (&key, body) {
        (RowKey::Idempotency(_), BodyProto::Idempotency(row)) => Row::Idempotency {
            wall: WallMillis(row.wall),
            outcome: required(row.outcome)?.try_into()?,
        },
        (RowKey::Lease(id), BodyProto::Lease(row)) => Row::Lease(lease(*id, row)?),
        (RowKey::Meta, BodyProto::Meta(row)) => Row::Meta(meta(row)),
        (RowKey::Queue(_), BodyProto::QueueSlots(count)) => Row::Queue { slots: slots(count)? },
        (RowKey::Requests(_), BodyProto::Requests(row)) => requests(row)?,
        (RowKey::Version(..), BodyProto::Tombstone(EmptyProto {})) => Row::Tombstone,
        (RowKey::Version(..), BodyProto::Version(row)) => Row::Version {
            value: at_most(row.value, limits::VALUE_BYTES_MAX)?,
            create_revision: Revision(row.create_revision),
            version: row.version,
            lease: row.lease.map(LeaseId),
        },
        _ => return Err(WireError::Malformed("a row of another kind than its key")),
    };
    Ok((key, row))
}

/// Records or results in one stored outcome: bounds what a corrupt row makes us allocate.
const OUTCOME_ITEMS_MAX: usize = 1_000_000;
/// Where the lists of a stored outcome lie, from the row inwards: results of a transaction, records
/// of one result, holders of a refused lock.
const OUTCOME_LISTS: [&[u32]; 3] = [&[1, 2, 10, 2], &[1, 2, 10, 2, 2, 1], &[1, 2, 8, 5, 1]];

fn number(bytes: &[u8]) -> Result<u64, WireError> {
    let bytes = bytes.try_into().map_err(|_| WireError::Malformed("a number of another length"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn version_key(bytes: &[u8]) -> Result<RowKey, WireError> {
    let mut key = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    loop {
        match rest.next().ok_or(WireError::Truncated)? {
            0 => match rest.next().ok_or(WireError::Truncated)? {
                0 => break,
                0xff => key.push(0),
                _ => return Err(WireError::Malformed("an escape that does not exist")),
            },
            &byte => key.push(byte),
        }
    }
    let revision = Revision(number(rest.as_slice())?);
    Ok(RowKey::Version(one_to(key.into(), limits::KEY_BYTES_MAX)?, revision))
}

fn meta(row: MetaProto) -> Meta {
    Meta {
        applied_index: Index(row.applied_index),
        applied_term: Term(row.applied_term),
        revision: Revision(row.revision),
        compact_revision: Revision(row.compact_revision),
        epoch: Epoch(row.epoch),
        leases_made: row.leases_made,
        wall: WallMillis(row.wall),
        digest: row.digest,
    }
}

fn lease(id: LeaseId, row: LeaseProto) -> Result<Lease, WireError> {
    let bind = bind_of(row.bind)?;
    Ok(Lease {
        id,
        ttl: ttl(row.ttl_micros)?,
        bind,
        parent: row.parent.map(LeaseId),
        node: NodeId(row.node),
        boot: Boot(row.boot),
        pid: row.pid,
        uid: row.uid,
        info: info(row.info)?,
        generation: row.generation,
        owned_by_place: row.owned_by_place,
        process: process_of(bind, row.process)?,
        keys: BTreeSet::new(),
    })
}

fn requests(row: RequestsProto) -> Result<Row, WireError> {
    let limit = limits::DEDUPE_WINDOW_MAX;
    if row.applied.len() > limit {
        return Err(WireError::TooLong { limit });
    }
    if row.applied.first().is_some_and(|first| *first < row.floor)
        || !row.applied.is_sorted_by(|a, b| a < b)
    {
        return Err(WireError::Malformed("applied requests below their floor or out of order"));
    }
    Ok(Row::Requests {
        boot: Boot(row.boot),
        floor: Sequence(row.floor),
        applied: row.applied.into_iter().map(Sequence).collect(),
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct RowProto {
    #[prost(oneof = "BodyProto", tags = "1, 2, 3, 4, 5, 6, 7")]
    body: Option<BodyProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BodyProto {
    #[prost(message, tag = "1")]
    Idempotency(IdempotencyRowProto),
    #[prost(message, tag = "2")]
    Lease(LeaseProto),
    #[prost(message, tag = "3")]
    Meta(MetaProto),
    #[prost(uint32, tag = "4")]
    QueueSlots(u32),
    #[prost(message, tag = "5")]
    Requests(RequestsProto),
    #[prost(message, tag = "6")]
    Tombstone(EmptyProto),
    #[prost(message, tag = "7")]
    Version(VersionProto),
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdempotencyRowProto {
    #[prost(uint64, tag = "1")]
    wall: u64,
    #[prost(message, optional, tag = "2")]
    outcome: Option<OutcomeProto>,
}

/// A lease; its id is in the key of the row.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseProto {
    #[prost(uint64, tag = "1")]
    ttl_micros: u64,
    #[prost(uint32, tag = "2")]
    bind: u32,
    #[prost(fixed64, optional, tag = "3")]
    parent: Option<u64>,
    #[prost(fixed64, tag = "4")]
    node: u64,
    #[prost(uint64, tag = "5")]
    boot: u64,
    #[prost(uint32, optional, tag = "6")]
    pid: Option<u32>,
    #[prost(uint32, tag = "7")]
    uid: u32,
    #[prost(string, tag = "8")]
    info: String,
    #[prost(uint64, tag = "9")]
    generation: u64,
    #[prost(bool, tag = "10")]
    owned_by_place: bool,
    #[prost(string, optional, tag = "11")]
    process: Option<String>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct MetaProto {
    #[prost(uint64, tag = "1")]
    applied_index: u64,
    #[prost(uint64, tag = "2")]
    applied_term: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(uint64, tag = "4")]
    compact_revision: u64,
    #[prost(uint64, tag = "5")]
    epoch: u64,
    #[prost(uint64, tag = "6")]
    leases_made: u64,
    #[prost(uint64, tag = "7")]
    wall: u64,
    #[prost(fixed64, tag = "8")]
    digest: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestsProto {
    #[prost(uint64, tag = "1")]
    boot: u64,
    #[prost(uint64, tag = "2")]
    floor: u64,
    /// Strictly increasing, none below the floor.
    #[prost(uint64, repeated, tag = "3")]
    applied: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VersionProto {
    #[prost(bytes = "bytes", tag = "1")]
    value: Bytes,
    #[prost(uint64, tag = "2")]
    create_revision: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(fixed64, optional, tag = "4")]
    lease: Option<u64>,
}

impl RowProto {
    fn new(key: &[u8], row: &Row) -> Self {
        let body = match row {
            Row::Idempotency { wall, outcome } => BodyProto::Idempotency(IdempotencyRowProto {
                wall: wall.0,
                outcome: Some(outcome.into()),
            }),
            Row::Lease(lease) => BodyProto::Lease(LeaseProto::new(key, lease)),
            Row::Meta(meta) => BodyProto::Meta(MetaProto {
                applied_index: meta.applied_index.0,
                applied_term: meta.applied_term.0,
                revision: meta.revision.0,
                compact_revision: meta.compact_revision.0,
                epoch: meta.epoch.0,
                leases_made: meta.leases_made,
                wall: meta.wall.0,
                digest: meta.digest,
            }),
            Row::Queue { slots } => BodyProto::QueueSlots(*slots),
            Row::Requests { boot, floor, applied } => BodyProto::Requests(RequestsProto {
                boot: boot.0,
                floor: floor.0,
                applied: applied.iter().map(|sequence| sequence.0).collect(),
            }),
            Row::Tombstone => BodyProto::Tombstone(EmptyProto {}),
            Row::Version { value, create_revision, version, lease } => {
                BodyProto::Version(VersionProto {
                    value: value.clone(),
                    create_revision: create_revision.0,
                    version: *version,
                    lease: lease.map(|lease| lease.0),
                })
            }
        };
        let kind = match row {
            Row::Idempotency { .. } => KEY_IDEMPOTENCY,
            Row::Lease(_) => KEY_LEASE,
            Row::Meta(_) => KEY_META,
            Row::Queue { .. } => KEY_QUEUE,
            Row::Requests { .. } => KEY_REQUESTS,
            Row::Tombstone | Row::Version { .. } => KEY_VERSION,
        };
        assert_eq!(key.first(), Some(&kind), "a row is stored under a key of its own kind");
        Self { body: Some(body) }
    }
}

impl LeaseProto {
    fn new(key: &[u8], lease: &Lease) -> Self {
        let expected = encode_row_key(&RowKey::Lease(lease.id));
        assert_eq!(key, expected, "lease {} is stored under its own name", lease.id);
        Self {
            ttl_micros: lease.ttl.as_micros(),
            bind: bind_code(lease.bind),
            parent: lease.parent.map(|parent| parent.0),
            node: lease.node.0,
            boot: lease.boot.0,
            pid: lease.pid,
            uid: lease.uid,
            info: lease.info.clone(),
            generation: lease.generation,
            owned_by_place: lease.owned_by_place,
            process: lease.process.clone(),
        }
    }
}
