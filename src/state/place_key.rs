//! How the keys of places in queues are called.
//!
//! Everything about a place that must outlive a restart is in its key, its value and its create
//! revision; what follows from them is decided in `queue.rs` and `barrier.rs`.

use bytes::Bytes;

use crate::base::LeaseId;
use crate::state::{Mode, QueueKind, QueueName};

/// What the key of a shared place ends with.
const SHARED: &str = ".shared";

/// The key of a lease's place in a queue: `_locks/<name>/<lease>`, `_elections/<name>/<lease>` or
/// `_barriers/<name>/<lease>`, the lease in hexadecimal, and of the name everything but
/// `A-Za-z0-9._~-` as `%XX`, so that the places of `a` and `a/b` never mix. A shared place in a
/// lock is called `_locks/<name>/<lease>.shared`.
pub fn queue_key(queue: &QueueName, lease: LeaseId, mode: Mode) -> Bytes {
    let mut key = queue_prefix(queue).to_vec();
    key.extend_from_slice(lease.to_string().as_bytes());
    if mode == Mode::Shared {
        key.extend_from_slice(SHARED.as_bytes());
    }
    key.into()
}

/// The prefix of the keys of all places in a queue.
pub fn queue_prefix(queue: &QueueName) -> Bytes {
    let mut key = kind_prefix(queue.kind).to_vec();
    for &byte in &queue.name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-') {
            key.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            key.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    key.push(b'/');
    key.into()
}

/// The queue, the lease and the mode that a key names, if `queue_key` would write exactly this key
/// for them. Only locks have shared places.
pub fn parse_queue_key(key: &[u8]) -> Option<(QueueName, LeaseId, Mode)> {
    let kinds = [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock];
    let kind = kinds.into_iter().find(|kind| key.starts_with(kind_prefix(*kind)))?;
    let rest = &key[kind_prefix(kind).len()..];
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let lease = std::str::from_utf8(&rest[slash + 1..]).ok()?;
    let (lease, mode) = match lease.strip_suffix(SHARED) {
        Some(lease) if kind == QueueKind::Lock => (lease, Mode::Shared),
        _ => (lease, Mode::Exclusive),
    };
    let lease = LeaseId(u64::from_str_radix(lease, 16).ok()?);
    let queue = QueueName { kind, name: decode(&rest[..slash])?.into() };
    // Other spellings of the same name and lease are no places: they would be a second key for one
    // place.
    let exact = lease != LeaseId(0) && queue_key(&queue, lease, mode) == key;
    exact.then_some((queue, lease, mode))
}

fn kind_prefix(kind: QueueKind) -> &'static [u8] {
    match kind {
        QueueKind::Barrier => b"_barriers/",
        QueueKind::Election => b"_elections/",
        QueueKind::Lock => b"_locks/",
    }
}

fn decode(mut name: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(name.len());
    while let Some((&byte, rest)) = name.split_first() {
        name = rest;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(name.get(..2)?).ok()?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        name = &name[2..];
    }
    Some(decoded)
}
