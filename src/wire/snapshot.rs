//! How a state travels from the leader to a member that the log cannot help: what is said, and the
//! fields of it.
//!
//! When it is said, and what follows a refusal, is decided by `replica/`. The rows are those of
//! `rows.rs`, as they lie on disk, each with its own checksum.

use bytes::Bytes;

use super::codec::{bound_count, checksum, codes, one_to, required, strict};
use super::entry::MembershipProto;
use crate::base::{Epoch, Index, Term, limits};
use crate::raft::LogStart;
use crate::wire::WireError;

codes!(refusal_code, refusal_of, SnapshotRefusal, "refusal of a snapshot", {
    Busy = 1,
    Checksum = 2,
    Digest = 3,
    DiskFull = 4,
    Incomplete = 5,
    Rows = 6,
    Stale = 7,
    TooLarge = 8,
    Unknown = 9,
});

/// What sender and receiver of a snapshot say to each other. Anything may be lost or repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotMessage {
    /// Leader to member: some of the rows.
    Chunk(SnapshotChunk),
    /// Leader to member: a state is there for it. Repeated while nothing is heard: it also asks how
    /// far the member is.
    Offer(SnapshotOffer),
    /// Member to leader: how far it is.
    Progress {
        /// Of which snapshot.
        id: u64,
        /// The chunk that it needs next; all before it have arrived.
        next: u32,
        /// It holds this state, or a later one, durably: nothing more is needed.
        done: bool,
    },
    /// Member to leader: it does not take it.
    Refused {
        /// Which snapshot.
        id: u64,
        /// Why.
        reason: SnapshotRefusal,
    },
}

/// What is on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader's term.
    pub term: Term,
    /// Names the snapshot; the sender uses no name twice.
    pub id: u64,
    /// The state's applied index with its term, and the configuration there, which is committed.
    pub start: LogStart,
    /// The digest of the state.
    pub digest: u64,
    /// Which history its revisions belong to.
    pub epoch: Epoch,
    /// How many rows it has.
    pub rows: u64,
}

/// Consecutive rows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Of which snapshot.
    pub id: u64,
    /// Counted from zero.
    pub number: u32,
    /// Whether no more follow.
    pub is_last: bool,
    /// The rows, by ascending key.
    pub rows: Vec<StoredRow>,
    /// Over all of it, made where it was read from the disk.
    pub checksum: u32,
}

/// A row as it lies on disk: what [`encode_row_key`](crate::wire::encode_row_key) and
/// [`encode_row`](crate::wire::encode_row) made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its encoded key.
    pub key: Bytes,
    /// Its sealed content.
    pub value: Bytes,
}

impl StoredRow {
    /// Bytes of key and content.
    pub fn size_bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Why a member does not take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotRefusal {
    /// Another one is being installed.
    #[error("another snapshot is being installed there")]
    Busy,
    /// A chunk is not what was read from the leader's disk.
    #[error("a part of it does not match its checksum")]
    Checksum,
    /// The rows make a state, but not the one that was announced.
    #[error("the state does not have the digest that was announced")]
    Digest,
    /// There is no room for it.
    #[error("the member's disk is full: free space on it")]
    DiskFull,
    /// Rows are missing, too many, or out of order.
    #[error("its rows are not all there, or out of order")]
    Incomplete,
    /// The rows make no state.
    #[error("its rows make no state: they are damaged, or a newer version wrote them")]
    Rows,
    /// The sender leads no more.
    #[error("its sender leads no more")]
    Stale,
    /// It is larger than this member takes.
    #[error("it is larger than the member's quota allows; raise quota.store_bytes there")]
    TooLarge,
    /// The member knows of no such snapshot: it was started anew, or gave up.
    #[error("the member does not know of it any more")]
    Unknown,
}

impl SnapshotChunk {
    /// A chunk with its checksum.
    pub fn new(id: u64, number: u32, is_last: bool, rows: Vec<StoredRow>) -> Self {
        let mut chunk = Self { id, number, is_last, rows, checksum: 0 };
        chunk.checksum = chunk.sum();
        chunk
    }

    /// Whether it is what its checksum was made over.
    pub fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }

    /// Bytes of keys and contents.
    pub fn size_bytes(&self) -> usize {
        self.rows.iter().map(StoredRow::size_bytes).sum()
    }

    fn sum(&self) -> u32 {
        let head = [&self.id.to_le_bytes()[..], &self.number.to_le_bytes(), &[self.is_last.into()]];
        let lengths: Vec<[u8; 4]> =
            self.rows.iter().map(|row| (row.key.len() as u32).to_le_bytes()).collect();
        let rows = self.rows.iter().zip(&lengths);
        let parts = rows.flat_map(|(row, length)| [&length[..], &row.key, &row.value]);
        checksum(&head.into_iter().chain(parts).collect::<Vec<_>>())
    }
}

/// The content of a frame about a snapshot.
pub(super) fn decode_snapshot(content: Bytes) -> Result<SnapshotMessage, WireError> {
    bound_count(&content, &[1, 4], limits::SNAPSHOT_CHUNK_ROWS_MAX)?;
    bound_count(&content, &[2, 5, 1], limits::MEMBERS_MAX)?;
    match required(strict::<SnapshotProto>(content)?.body)? {
        BodyProto::Chunk(chunk) => chunk.try_into().map(SnapshotMessage::Chunk),
        BodyProto::Offer(offer) => offer.try_into().map(SnapshotMessage::Offer),
        BodyProto::Progress(ProgressProto { id, next, done }) => {
            Ok(SnapshotMessage::Progress { id, next, done })
        }
        BodyProto::Refused(RefusedProto { id, reason }) => {
            Ok(SnapshotMessage::Refused { id, reason: refusal_of(reason)? })
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SnapshotProto {
    #[prost(oneof = "BodyProto", tags = "1, 2, 3, 4")]
    body: Option<BodyProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BodyProto {
    #[prost(message, tag = "1")]
    Chunk(ChunkProto),
    #[prost(message, tag = "2")]
    Offer(OfferProto),
    #[prost(message, tag = "3")]
    Progress(ProgressProto),
    #[prost(message, tag = "4")]
    Refused(RefusedProto),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChunkProto {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    number: u32,
    #[prost(bool, tag = "3")]
    is_last: bool,
    #[prost(message, repeated, tag = "4")]
    rows: Vec<StoredRowProto>,
    #[prost(fixed32, tag = "5")]
    checksum: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRowProto {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfferProto {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, tag = "2")]
    id: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(uint64, tag = "4")]
    index_term: u64,
    #[prost(message, optional, tag = "5")]
    membership: Option<MembershipProto>,
    #[prost(fixed64, tag = "6")]
    digest: u64,
    #[prost(uint64, tag = "7")]
    epoch: u64,
    #[prost(uint64, tag = "8")]
    rows: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ProgressProto {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    next: u32,
    #[prost(bool, tag = "3")]
    done: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RefusedProto {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    reason: u32,
}

impl From<&SnapshotMessage> for SnapshotProto {
    fn from(message: &SnapshotMessage) -> Self {
        let body = match message {
            SnapshotMessage::Chunk(chunk) => BodyProto::Chunk(ChunkProto {
                id: chunk.id,
                number: chunk.number,
                is_last: chunk.is_last,
                rows: chunk.rows.iter().map(StoredRowProto::from).collect(),
                checksum: chunk.checksum,
            }),
            SnapshotMessage::Offer(offer) => BodyProto::Offer(OfferProto {
                term: offer.term.0,
                id: offer.id,
                index: offer.start.index.0,
                index_term: offer.start.term.0,
                membership: Some((&offer.start.membership).into()),
                digest: offer.digest,
                epoch: offer.epoch.0,
                rows: offer.rows,
            }),
            &SnapshotMessage::Progress { id, next, done } => {
                BodyProto::Progress(ProgressProto { id, next, done })
            }
            &SnapshotMessage::Refused { id, reason } => {
                BodyProto::Refused(RefusedProto { id, reason: refusal_code(reason) })
            }
        };
        Self { body: Some(body) }
    }
}

impl From<&StoredRow> for StoredRowProto {
    fn from(row: &StoredRow) -> Self {
        Self { key: row.key.clone(), value: row.value.clone() }
    }
}

impl TryFrom<ChunkProto> for SnapshotChunk {
    type Error = WireError;

    fn try_from(proto: ChunkProto) -> Result<Self, WireError> {
        let row = |row: StoredRowProto| {
            let key = one_to(row.key, limits::FRAME_BYTES_MAX)?;
            Ok(StoredRow { key, value: one_to(row.value, limits::FRAME_BYTES_MAX)? })
        };
        let ChunkProto { id, number, is_last, rows, checksum } = proto;
        let rows = rows.into_iter().map(row).collect::<Result<_, WireError>>()?;
        Ok(Self { id, number, is_last, rows, checksum })
    }
}

impl TryFrom<OfferProto> for SnapshotOffer {
    type Error = WireError;

    fn try_from(proto: OfferProto) -> Result<Self, WireError> {
        if proto.index == 0 || proto.index_term == 0 || proto.index_term > proto.term {
            return Err(WireError::Malformed("a snapshot of nothing, or of a later term"));
        }
        Ok(Self {
            term: Term(proto.term),
            id: proto.id,
            start: LogStart {
                index: Index(proto.index),
                term: Term(proto.index_term),
                membership: required(proto.membership)?.try_into()?,
            },
            digest: proto.digest,
            epoch: Epoch(proto.epoch),
            rows: proto.rows,
        })
    }
}
