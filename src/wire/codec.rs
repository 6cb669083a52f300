//! What all encodings share: the sealed envelope, strict decoding, counting before allocating, and
//! codes for closed enums.
//!
//! Which fields a message has is said beside each message.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::wire::WireError;

/// Bytes of an envelope before its content: version and checksum.
pub(super) const SEAL_BYTES: usize = 1 + 4;

/// Seals a message for the disk, see [`seal_bytes`]. `context` is what the bytes are stored under,
/// so that a value that strayed under another key is noticed.
pub(super) fn seal(version: u8, context: &[u8], message: &impl Message) -> Vec<u8> {
    seal_bytes(version, context, &message.encode_to_vec())
}

/// Seals bytes for the disk, as every value there is sealed: version byte, CRC-32 (IEEE)
/// little-endian over `context`, the version byte and the content, then the content.
pub fn seal_bytes(version: u8, context: &[u8], content: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + content.len());
    sealed.extend_from_slice(&[version, 0, 0, 0, 0]);
    sealed.extend_from_slice(content);
    let sum = checksum(&[context, &[version], &sealed[SEAL_BYTES..]]);
    sealed[1..SEAL_BYTES].copy_from_slice(&sum.to_le_bytes());
    sealed
}

/// The content of an envelope, once its version is known and its checksum matches.
pub(super) fn open(known: u8, context: &[u8], sealed: &Bytes) -> Result<Bytes, WireError> {
    open_bytes(known, context, sealed)?;
    Ok(sealed.slice(SEAL_BYTES..))
}

/// What [`seal_bytes`] sealed under the same version and context; errors otherwise.
pub fn open_bytes<'a>(known: u8, context: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], WireError> {
    let Some((head, content)) = sealed.split_first_chunk::<SEAL_BYTES>() else {
        return Err(WireError::Truncated);
    };
    let [version, sum @ ..] = *head;
    if version != known {
        return Err(WireError::UnknownVersion(version));
    }
    if checksum(&[context, &[version], content]) != u32::from_le_bytes(sum) {
        return Err(WireError::Checksum);
    }
    Ok(content)
}

/// CRC-32 (IEEE) over `parts` in order.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Decodes a message and refuses fields that this program does not know, which prost would skip: an
/// entry that is half understood makes replicas differ.
///
/// What was skipped is missing from the length of the message when it is encoded again. Byte fields
/// of the result are slices of `bytes`, not copies.
pub(super) fn strict<M: Message + Default>(bytes: Bytes) -> Result<M, WireError> {
    let length = bytes.len();
    let message: M = lenient(bytes)?;
    if message.encoded_len() == length { Ok(message) } else { Err(WireError::UnknownField) }
}

/// Decodes a message and skips unknown fields: only for what is said before versions are agreed.
pub(super) fn lenient<M: Message + Default>(bytes: Bytes) -> Result<M, WireError> {
    M::decode(bytes).map_err(|_| WireError::Malformed("not the fields of this message"))
}

/// Refuses `bytes` when more than `limit` fields lie at `path` (field numbers from the outermost
/// message inwards), before anything is allocated for them: an empty field takes two bytes on the
/// wire and perhaps a hundred in memory.
pub(super) fn bound_count(bytes: &[u8], path: &[u32], limit: usize) -> Result<(), WireError> {
    if count(bytes, path)? > limit { Err(WireError::TooLong { limit }) } else { Ok(()) }
}

fn count(mut bytes: &[u8], path: &[u32]) -> Result<usize, WireError> {
    const BROKEN: WireError = WireError::Malformed("a field has no readable head");
    let (&wanted, deeper) = path.split_first().expect("a path names at least one field");
    let mut found = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(|_| BROKEN)?;
        if tag != wanted || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).map_err(|_| BROKEN)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(|_| BROKEN)?;
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (inner, rest) = bytes.split_at_checked(length).ok_or(WireError::Truncated)?;
        found += if deeper.is_empty() { 1 } else { count(inner, deeper)? };
        bytes = rest;
    }
    Ok(found)
}

/// Appends `message` to `buffer`, which is grown once.
pub(super) fn append(message: &impl Message, length: usize, buffer: &mut BytesMut) {
    buffer.reserve(length);
    message.encode_raw(buffer);
}

/// Refuses text that is empty or longer than `limit` bytes.
pub(super) fn bounded(text: String, limit: usize) -> Result<String, WireError> {
    if text.is_empty() {
        return Err(WireError::Malformed("a name is empty"));
    }
    if text.len() > limit { Err(WireError::TooLong { limit }) } else { Ok(text) }
}

/// Refuses bytes that are longer than `limit`.
pub(super) fn at_most(bytes: Bytes, limit: usize) -> Result<Bytes, WireError> {
    if bytes.len() > limit { Err(WireError::TooLong { limit }) } else { Ok(bytes) }
}

/// Refuses bytes that are empty or longer than `limit`.
pub(super) fn one_to(bytes: Bytes, limit: usize) -> Result<Bytes, WireError> {
    if bytes.is_empty() {
        return Err(WireError::Malformed("a key or name is empty"));
    }
    at_most(bytes, limit)
}

/// Takes a field that must be there.
pub(super) fn required<T>(field: Option<T>) -> Result<T, WireError> {
    field.ok_or(WireError::UnknownKind("content, or none at all"))
}

/// Two functions between a closed enum and its codes. Codes start at 1: zero is what prost reads
/// where nothing was written.
macro_rules! codes {
    (
        $to:ident, $from:ident, $kind:ident, $what:literal,
        { $($variant:ident = $code:literal),+ $(,)? }
    ) => {
        pub(super) fn $to(value: $kind) -> u32 {
            match value {
                $($kind::$variant => $code,)+
            }
        }

        pub(super) fn $from(code: u32) -> Result<$kind, $crate::wire::WireError> {
            match code {
                $($code => Ok($kind::$variant),)+
                _ => Err($crate::wire::WireError::UnknownKind($what)),
            }
        }
    };
}
pub(super) use codes;
