//! How messages are cut out of a stream: length, kind, checksum, content.
//!
//! ```text
//! 0        4      5          9
//! | length | kind | checksum | content ... |
//! ```
//!
//! `length` counts the content only and is refused by limit before anything is allocated; the
//! checksum is CRC-32 (IEEE) over kind and content; all numbers are little-endian. TLS guards
//! against attackers already: the checksum guards against our own mistakes. What the content says
//! is decided in `peer.rs` and `greeting.rs`.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::codec::{append, checksum};
use super::greeting::{HelloAnswerProto, HelloProto};
use super::join_fields::{JoinAnswerProto, JoinRequestProto};
use super::peer::{PeerProto, decode_peer};
use crate::base::limits;
use crate::wire::{Hello, HelloAnswer, JoinAnswer, JoinRequest, PeerMessage, WireError};

const HEAD_BYTES: usize = 4 + 1 + 4;

const KIND_HELLO: u8 = 0x01;
const KIND_HELLO_ANSWER: u8 = 0x02;
const KIND_JOIN_REQUEST: u8 = 0x03;
const KIND_JOIN_ANSWER: u8 = 0x04;
/// The kinds of [`PeerMessage`], one per variant, are said in `peer.rs` and start here.
pub(super) const KIND_PEER_MIN: u8 = 0x10;

/// Encodes one message as one frame.
///
/// Panics when the content is longer than [`limits::FRAME_BYTES_MAX`]: who fills a message stops
/// before.
pub fn encode_frame(message: &PeerMessage) -> Bytes {
    let mut buffer = BytesMut::new();
    encode_frame_into(message, &mut buffer);
    buffer.freeze()
}

/// Appends one message as one frame to `buffer`, which is grown at most once; payloads are copied
/// once, into the buffer. Panics as [`encode_frame`] does.
pub fn encode_frame_into(message: &PeerMessage, buffer: &mut BytesMut) {
    match PeerProto::from(message) {
        PeerProto::Digest(proto) => put(PeerProto::DIGEST, &proto, buffer),
        PeerProto::Disk(proto) => put(PeerProto::DISK, &proto, buffer),
        PeerProto::Diverged(proto) => put(PeerProto::DIVERGED, &proto, buffer),
        PeerProto::Forward(proto) => put(PeerProto::FORWARD, &proto, buffer),
        PeerProto::ForwardRefused(proto) => put(PeerProto::FORWARD_REFUSED, &proto, buffer),
        PeerProto::Keepalive(proto) => put(PeerProto::KEEPALIVE, &proto, buffer),
        PeerProto::KeepaliveAnswer(proto) => put(PeerProto::KEEPALIVE_ANSWER, &proto, buffer),
        PeerProto::Members(proto) => put(PeerProto::MEMBERS, &proto, buffer),
        PeerProto::MembersAnswer(proto) => put(PeerProto::MEMBERS_ANSWER, &proto, buffer),
        PeerProto::Raft(proto) => put(PeerProto::RAFT, &proto, buffer),
        PeerProto::StateWanted(proto) => put(PeerProto::STATE_WANTED, &proto, buffer),
        PeerProto::Snapshot(proto) => put(PeerProto::SNAPSHOT, &proto, buffer),
    }
}

/// Cuts frames out of the stream of one accepted connection.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    failed: Option<WireError>,
}

impl FrameDecoder {
    /// A decoder at the beginning of a frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next message, when `buffer` holds a whole frame; its bytes are then taken from `buffer`.
    /// Nothing when more bytes are needed. Payloads are slices of the buffer: who keeps a small one
    /// for long copies it, because it keeps the memory of its whole neighbourhood alive.
    ///
    /// After an error the stream has no known frame border: every later call repeats the error.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Result<PeerMessage, WireError>> {
        if let Some(error) = self.failed {
            return Some(Err(error));
        }
        let message = match take(buffer, limits::FRAME_BYTES_MAX) {
            Ok(None) => return None,
            Ok(Some((kind, content))) => decode_peer(kind, content),
            Err(error) => Err(error),
        };
        self.failed = message.as_ref().err().copied();
        Some(message)
    }
}

/// Encodes the first frame of a connection. Panics when it is longer than
/// [`limits::HELLO_BYTES_MAX`], which names of legal length exclude.
pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut buffer = BytesMut::new();
    put(KIND_HELLO, &HelloProto::from(hello), &mut buffer);
    assert!(buffer.len() <= HEAD_BYTES + limits::HELLO_BYTES_MAX, "a hello of {}", buffer.len());
    buffer.freeze()
}

/// Encodes the answer to a hello as one frame.
pub fn encode_hello_answer(answer: &HelloAnswer) -> Bytes {
    let mut buffer = BytesMut::new();
    put(KIND_HELLO_ANSWER, &HelloAnswerProto::from(answer), &mut buffer);
    buffer.freeze()
}

/// Takes a hello out of `buffer`; nothing when more bytes are needed. Refuses by
/// [`limits::HELLO_BYTES_MAX`], since the dialer is not known to be a member.
pub fn read_hello(buffer: &mut BytesMut) -> Result<Option<Hello>, WireError> {
    match take(buffer, limits::HELLO_BYTES_MAX)? {
        Some((KIND_HELLO, content)) => HelloProto::read(content).map(Some),
        Some(_) => Err(WireError::UnknownKind("first frame")),
        None => Ok(None),
    }
}

/// Takes the answer to a hello out of `buffer`; nothing when more bytes are needed. It may hold the
/// first members of a cluster, so that the limit is that of all frames; the answering node has
/// shown its certificate.
pub fn read_hello_answer(buffer: &mut BytesMut) -> Result<Option<HelloAnswer>, WireError> {
    match take(buffer, limits::FRAME_BYTES_MAX)? {
        Some((KIND_HELLO_ANSWER, content)) => HelloAnswerProto::read(content).map(Some),
        Some(_) => Err(WireError::UnknownKind("answer to a hello")),
        None => Ok(None),
    }
}

/// Encodes a request for a certificate as one frame.
pub fn encode_join_request(request: &JoinRequest) -> Bytes {
    let mut buffer = BytesMut::new();
    put(KIND_JOIN_REQUEST, &JoinRequestProto::from(request), &mut buffer);
    buffer.freeze()
}

/// Encodes the answer to a request for a certificate as one frame.
pub fn encode_join_answer(answer: &JoinAnswer) -> Bytes {
    let mut buffer = BytesMut::new();
    put(KIND_JOIN_ANSWER, &JoinAnswerProto::from(answer), &mut buffer);
    buffer.freeze()
}

/// Takes a request for a certificate out of `buffer`; nothing when more bytes are needed. Refuses
/// by [`limits::JOIN_REQUEST_BYTES_MAX`], since nothing is known of who asks.
pub fn read_join_request(buffer: &mut BytesMut) -> Result<Option<JoinRequest>, WireError> {
    match take(buffer, limits::JOIN_REQUEST_BYTES_MAX)? {
        Some((KIND_JOIN_REQUEST, content)) => JoinRequestProto::read(content).map(Some),
        Some(_) => Err(WireError::UnknownKind("request for a certificate")),
        None => Ok(None),
    }
}

/// Takes the answer to a request for a certificate out of `buffer`; nothing when more bytes are
/// needed.
pub fn read_join_answer(buffer: &mut BytesMut) -> Result<Option<JoinAnswer>, WireError> {
    match take(buffer, limits::JOIN_ANSWER_BYTES_MAX)? {
        Some((KIND_JOIN_ANSWER, content)) => JoinAnswerProto::read(content).map(Some),
        Some(_) => Err(WireError::UnknownKind("answer to a request for a certificate")),
        None => Ok(None),
    }
}

/// Decodes a hello from exactly one frame.
pub fn decode_hello(frame: &[u8]) -> Result<Hello, WireError> {
    whole(frame, limits::HELLO_BYTES_MAX, read_hello)
}

/// Decodes the answer to a hello from exactly one frame.
pub fn decode_hello_answer(frame: &[u8]) -> Result<HelloAnswer, WireError> {
    whole(frame, limits::FRAME_BYTES_MAX, read_hello_answer)
}

fn whole<T>(
    frame: &[u8],
    limit: usize,
    read: fn(&mut BytesMut) -> Result<Option<T>, WireError>,
) -> Result<T, WireError> {
    if frame.len() > HEAD_BYTES + limit {
        return Err(WireError::TooLong { limit });
    }
    let mut buffer = BytesMut::from(frame);
    let value = read(&mut buffer)?.ok_or(WireError::Truncated)?;
    if buffer.is_empty() { Ok(value) } else { Err(WireError::Malformed("bytes after the frame")) }
}

fn put(kind: u8, message: &impl Message, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    assert!(
        length <= limits::FRAME_BYTES_MAX,
        "a message of {length} bytes is longer than a frame of {}",
        limits::FRAME_BYTES_MAX
    );
    let start = buffer.len();
    buffer.reserve(HEAD_BYTES + length);
    let length = u32::try_from(length).expect("the limit of a frame fits in 32 bits");
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&[kind, 0, 0, 0, 0]);
    append(message, length as usize, buffer);
    let content = &buffer[start + HEAD_BYTES..];
    assert_eq!(content.len(), length as usize, "a message is as long as it says");
    let sum = checksum(&[&[kind], content]);
    buffer[start + 5..start + HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Kind and content of the first frame in `buffer`, when it is there as a whole.
fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<(u8, Bytes)>, WireError> {
    let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, kind, sum @ ..] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > limit {
        return Err(WireError::TooLong { limit });
    }
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let content = buffer.split_to(length).freeze();
    if checksum(&[&[kind], &content]) != u32::from_le_bytes(sum) {
        return Err(WireError::Checksum);
    }
    Ok(Some((kind, content)))
}
