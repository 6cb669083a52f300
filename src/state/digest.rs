//! The running hash of the state: which fields of a row count, and how they are mixed.
//!
//! It finds replicas that have come apart by a fault of ours or of the hardware; it is no defence
//! against someone who constructs collisions. When rows come and go is decided in the other files.

use crate::base::{Boot, Epoch, LeaseId, NodeId, Revision, Sequence, WallMillis, mix};
use crate::state::TxnResult;
use crate::state::{
    Bind, IdempotencyKey, Lease, Outcome, QueueKind, QueueName, Record, Row, RowKey,
};

use super::keys::Content;

/// The sum of the hashes of all rows but `Meta`. A sum does not depend on the order in which rows
/// came, so a restored state has the same one, and a change costs one hash instead of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    sum: u64,
}

impl Digest {
    /// A row has appeared.
    pub(super) fn add(&mut self, hash: u64) {
        self.sum = self.sum.wrapping_add(hash);
    }

    /// A row is gone.
    pub(super) fn subtract(&mut self, hash: u64) {
        self.sum = self.sum.wrapping_sub(hash);
    }

    /// The digest of the whole state: the rows and the counters that `Meta` holds.
    pub(super) fn fold(self, counters: Counters) -> u64 {
        Hash::new(0)
            .word(self.sum)
            .word(counters.revision.get())
            .word(counters.compact_revision.get())
            .word(counters.leases_made)
            .word(counters.epoch.get())
            .end()
    }
}

/// The counters that are part of the digest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) leases_made: u64,
    pub(super) epoch: Epoch,
}

/// Mixes typed fields, eight bytes at a time. For a given word each step is a bijection of the
/// state, so nothing that was mixed in can be lost before the end.
struct Hash(u64);

impl Hash {
    const fn new(kind: u64) -> Self {
        Self(mix(kind.wrapping_add(0x5155_4f52_554d_4431)))
    }

    const fn word(self, word: u64) -> Self {
        let mixed = (self.0 ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        Self((mixed ^ (mixed >> 32)).rotate_left(23))
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        // The length comes first, so that padding the tail with zeros is not ambiguous and two
        // neighbouring fields cannot trade bytes.
        let mut hash = self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word: [u8; 8] = chunk.try_into().expect("chunks_exact(8) yields eight bytes");
            hash = hash.word(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            hash = hash.word(u64::from_le_bytes(word));
        }
        hash
    }

    const fn lease(self, lease: Option<LeaseId>) -> Self {
        // Zero never names a lease.
        match lease {
            Some(lease) => self.word(lease.get()),
            None => self.word(0),
        }
    }

    const fn end(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of any row but `Meta`, which has none.
pub(super) fn row_hash(key: &RowKey, row: &Row) -> Option<u64> {
    match (key, row) {
        (RowKey::Idempotency(key), Row::Idempotency { wall, outcome }) => {
            Some(idempotency_hash(key, *wall, outcome))
        }
        (RowKey::Lease(_), Row::Lease(lease)) => Some(lease_hash(lease)),
        (RowKey::Queue(queue), Row::Queue { slots }) => Some(queue_hash(queue, *slots)),
        (RowKey::Requests(node), Row::Requests { boot, floor, applied }) => {
            let sum = requests_hash(*node, *boot, *floor);
            Some(applied.iter().fold(sum, |sum, sequence| {
                sum.wrapping_add(sequence_hash(*node, *boot, *sequence))
            }))
        }
        (RowKey::Version(key, revision), Row::Tombstone) => {
            Some(version_hash(key, *revision, None))
        }
        (
            RowKey::Version(key, revision),
            Row::Version { value, create_revision, version, lease },
        ) => {
            let content = Content {
                value: value.clone(),
                create_revision: *create_revision,
                version: *version,
                lease: *lease,
            };
            Some(version_hash(key, *revision, Some(&content)))
        }
        _ => None,
    }
}

/// The hash of one version of a key, or of a tombstone.
pub(super) fn version_hash(key: &[u8], revision: Revision, content: Option<&Content>) -> u64 {
    let hash = Hash::new(1).bytes(key).word(revision.get());
    match content {
        None => hash.word(0).end(),
        Some(content) => hash
            .word(1)
            .bytes(&content.value)
            .word(content.create_revision.get())
            .word(content.version)
            .lease(content.lease)
            .end(),
    }
}

/// The hash of a lease without its keys, which follow from the key versions.
pub(super) fn lease_hash(lease: &Lease) -> u64 {
    let bind = match lease.bind {
        Bind::Connection => 1,
        Bind::Node => 2,
        Bind::None => 3,
        Bind::Process => 4,
    };
    let hash = Hash::new(2)
        .word(lease.id.get())
        .word(lease.ttl.as_micros())
        .word(bind)
        .lease(lease.parent)
        .word(lease.node.get())
        .word(lease.boot.get())
        .word(lease.pid.map_or(0, |pid| u64::from(pid) + 1))
        .word(u64::from(lease.uid))
        .bytes(lease.info.as_bytes())
        .word(lease.generation)
        .word(u64::from(lease.owned_by_place));
    match &lease.process {
        Some(process) => hash.bytes(process.as_bytes()).end(),
        None => hash.end(),
    }
}

/// The hash of a queue's slots.
pub(super) fn queue_hash(queue: &QueueName, slots: u32) -> u64 {
    let kind = match queue.kind {
        QueueKind::Election => 1,
        QueueKind::Lock => 2,
        QueueKind::Barrier => 3,
    };
    Hash::new(3).word(kind).bytes(&queue.name).word(u64::from(slots)).end()
}

/// The part of a `Requests` row's hash that does not depend on the applied sequences. The row's
/// hash is this plus one `sequence_hash` each, so that one more request costs one hash.
pub(super) fn requests_hash(node: NodeId, boot: Boot, floor: Sequence) -> u64 {
    Hash::new(4).word(node.get()).word(boot.get()).word(floor.get()).end()
}

/// The part of a `Requests` row's hash that one applied sequence adds.
pub(super) fn sequence_hash(node: NodeId, boot: Boot, sequence: Sequence) -> u64 {
    Hash::new(5).word(node.get()).word(boot.get()).word(sequence.get()).end()
}

/// The hash of a remembered outcome.
pub(super) fn idempotency_hash(key: &IdempotencyKey, wall: WallMillis, outcome: &Outcome) -> u64 {
    let hash = Hash::new(6).word(u64::from(key.uid)).bytes(key.key.as_bytes()).word(wall.0);
    outcome_words(hash, outcome).end()
}

fn outcome_words(hash: Hash, outcome: &Outcome) -> Hash {
    match outcome {
        Outcome::Acquired { lease, token, ahead, revision } => {
            hash.word(1).word(lease.get()).word(token.get()).word(*ahead).word(revision.get())
        }
        Outcome::Compacted { compact_revision, revision } => {
            hash.word(2).word(compact_revision.get()).word(revision.get())
        }
        Outcome::Deleted { deleted, revision } => hash.word(3).word(*deleted).word(revision.get()),
        Outcome::Done { revision } => hash.word(4).word(revision.get()),
        Outcome::Granted { lease, revision } => hash.word(5).word(lease.get()).word(revision.get()),
        Outcome::Put { revision, create_revision, version } => {
            hash.word(6).word(revision.get()).word(create_revision.get()).word(*version)
        }
        Outcome::Released { revision } => hash.word(7).word(revision.get()),
        Outcome::Revoked { revoked, revision } => hash.word(8).word(*revoked).word(revision.get()),
        Outcome::Txn { succeeded, revision, results } => {
            let hash = hash.word(9).word(u64::from(*succeeded)).word(revision.get());
            results.iter().fold(hash.word(results.len() as u64), result_words)
        }
        // Neither is ever remembered (see dedupe.rs); a restore refuses a row that holds one.
        Outcome::Duplicate => hash.word(10),
        Outcome::Refused(_) => hash.word(11),
    }
}

fn result_words(hash: Hash, result: &TxnResult) -> Hash {
    match result {
        TxnResult::Deleted(deleted) => hash.word(1).word(*deleted),
        TxnResult::Got(records) => {
            records.iter().fold(hash.word(2).word(records.len() as u64), record_words)
        }
        TxnResult::Put { create_revision, version } => {
            hash.word(3).word(create_revision.get()).word(*version)
        }
    }
}

fn record_words(hash: Hash, record: &Record) -> Hash {
    hash.bytes(&record.key)
        .bytes(&record.value)
        .word(record.create_revision.get())
        .word(record.mod_revision.get())
        .word(record.version)
        .lease(record.lease)
}

#[cfg(test)]
mod tests {
    use super::Hash;

    /// The digest is compared between hosts of different makes and kept on disk: the function must
    /// never change by accident, and a byte more or less, or moved to its neighbour, must show.
    #[test]
    fn hash_is_fixed_and_tells_neighbouring_fields_apart() {
        assert_eq!(Hash::new(1).bytes(b"key").word(7).end(), 0x65c1_ca75_39d7_e8dd);
        let fields = |a: &[u8], b: &[u8]| Hash::new(1).bytes(a).bytes(b).end();
        assert_ne!(fields(b"ab", b"c"), fields(b"a", b"bc"), "a byte moved to the next field");
        assert_ne!(fields(b"a\0", b""), fields(b"a", b""), "a zero byte looks like padding");
        assert_ne!(fields(b"", b"a"), fields(b"a", b""), "fields were swapped");
    }
}
