//! What is encoded decodes to itself, and no bytes make a decoder panic or allocate more than a
//! small multiple of what it was fed.

use std::fmt::Debug;

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

use super::codec::checksum;
use super::samples_test as samples;
use crate::base::{Index, LeaseId, NodeId, Rng, Span, Term, WallMillis, limits};
use crate::raft::{Body, Entry, Message, Payload};
use crate::state::{Command, Operation, Row, RowKey, Selection, Txn, TxnOperation};
use crate::wire::{
    FrameDecoder, KeepaliveRequest, PeerMessage, SnapshotChunk, SnapshotMessage, StoredRow,
    WireError, decode_command, decode_entry_batch, decode_genesis, decode_hard_state, decode_hello,
    decode_hello_answer, decode_membership, decode_row, decode_row_key, decode_stamped,
    encode_command, encode_entry_batch, encode_frame, encode_frame_into, encode_genesis,
    encode_hard_state, encode_hello, encode_hello_answer, encode_membership, encode_row,
    encode_row_key, stamp_command,
};

fn check<T: Debug + PartialEq>(value: &T, decoded: Result<T, WireError>) {
    assert_eq!(decoded.as_ref(), Ok(value), "decoded to something else");
}

/// One value of every kind, encoded and decoded; returns the encodings.
fn round_trip(seed: u64) -> Vec<Vec<u8>> {
    let rng = &mut Rng::new(seed);
    let mut all = Vec::new();

    let command = samples::command(rng);
    let encoded = encode_command(&command);
    check(&command, decode_command(&encoded));
    let stamped = stamp_command(WallMillis(seed), &encoded);
    check(&(WallMillis(seed), command), decode_stamped(&stamped));
    all.extend([encoded.to_vec(), stamped.to_vec()]);

    let count = rng.between(1, 20);
    let first = rng.between(1, u64::MAX - 30);
    let entries = samples::entries(rng, first, count, 1);
    let encoded = encode_entry_batch(&entries);
    check(&entries, decode_entry_batch(&encoded));
    all.push(encoded);

    let state = samples::hard_state(rng);
    check(&state, decode_hard_state(&encode_hard_state(&state)));
    let membership = samples::membership(rng);
    check(&membership, decode_membership(&encode_membership(&membership)));
    let towards = samples::membership_with_goal(rng);
    check(&towards, decode_membership(&encode_membership(&towards)));
    let genesis = samples::genesis(rng);
    check(&genesis, decode_genesis(&encode_genesis(&genesis)));
    all.extend([
        encode_hard_state(&state),
        encode_membership(&membership),
        encode_genesis(&genesis),
    ]);

    let (key, row) = samples::row(rng, seed);
    let key_bytes = encode_row_key(&key);
    check(&key, decode_row_key(&key_bytes));
    let encoded = encode_row(&key_bytes, &row);
    check(&(key, row), decode_row(&key_bytes, &encoded));
    all.extend([key_bytes, encoded]);

    let hello = samples::hello(rng);
    check(&hello, decode_hello(&encode_hello(&hello)));
    let answer = samples::hello_answer(rng);
    check(&answer, decode_hello_answer(&encode_hello_answer(&answer)));
    let message = any_message(rng);
    let frame = encode_frame(&message);
    let mut buffer = BytesMut::from(&frame[..]);
    check(&message, FrameDecoder::new().next(&mut buffer).unwrap());
    assert!(buffer.is_empty(), "a frame leaves nothing behind");
    let report = samples::report(rng, seed);
    let report_frame = encode_frame(&report);
    let decoded = FrameDecoder::new().next(&mut BytesMut::from(&report_frame[..]));
    check(&report, decoded.unwrap());
    all.push(report_frame.to_vec());
    let kind = rng.below(8);
    let order = samples::members_message(rng, kind);
    let order_frame = encode_frame(&order);
    let mut buffer = BytesMut::from(&order_frame[..]);
    check(&order, FrameDecoder::new().next(&mut buffer).unwrap());
    all.push(order_frame.to_vec());
    all.extend([
        encode_hello(&hello).to_vec(),
        encode_hello_answer(&answer).to_vec(),
        frame.to_vec(),
    ]);
    all
}

/// Feeds `bytes` to every decoder. Results do not matter; panics do.
fn feed(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    let _ = decode_command(&shared);
    let _ = decode_stamped(&shared);
    let _ = decode_entry_batch(bytes);
    let _ = decode_hard_state(bytes);
    let _ = decode_membership(bytes);
    let _ = decode_genesis(bytes);
    let _ = decode_row_key(bytes);
    let _ = decode_row(&bytes[..bytes.len().min(9)], bytes);
    let _ = decode_hello(bytes);
    let _ = decode_hello_answer(bytes);
    let mut buffer = BytesMut::from(bytes);
    let mut decoder = FrameDecoder::new();
    while let Some(Ok(_)) = decoder.next(&mut buffer) {}
}

/// Makes the checksums right again, so that a mutation reaches the fields behind them.
fn reseal(bytes: &mut [u8]) {
    if bytes.len() > 9 {
        let sum = checksum(&[&bytes[4..5], &bytes[9..]]);
        let mut framed = bytes.to_vec();
        let length = (bytes.len() - 9) as u32;
        framed[..4].copy_from_slice(&length.to_le_bytes());
        framed[5..9].copy_from_slice(&sum.to_le_bytes());
        feed(&framed);
    }
    if bytes.len() > 5 {
        let sum = checksum(&[&bytes[..1], &bytes[5..]]);
        bytes[1..5].copy_from_slice(&sum.to_le_bytes());
        feed(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_type_survives_the_way_there_and_back(seed in any::<u64>()) {
        round_trip(seed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
        for version in [1, 0x10, 0x11, 0x12, 0x13, 0x14] {
            if let Some(byte) = bytes.get_mut(4) {
                *byte = version;
            }
            if let Some(byte) = bytes.first_mut() {
                *byte = 1;
            }
            reseal(&mut bytes);
        }
    }

    #[test]
    fn mutated_bytes_never_panic(seed in any::<u64>()) {
        let rng = &mut Rng::new(seed);
        for mut bytes in round_trip(seed) {
            for _ in 0..rng.between(1, 3) {
                let place = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes[place] ^= 1 << rng.below(8),
                    1 => bytes.truncate(place.max(1)),
                    _ => bytes.insert(place, rng.next_u64() as u8),
                }
            }
            feed(&bytes);
            reseal(&mut bytes);
        }
    }

    #[test]
    fn row_keys_sort_as_names_do(seed in any::<u64>()) {
        let rng = &mut Rng::new(seed);
        let mut draw = || {
            let kind = rng.below(7);
            samples::row(rng, kind).0
        };
        let (a, b) = (draw(), draw());
        prop_assert_eq!(encode_row_key(&a).cmp(&encode_row_key(&b)), a.cmp(&b));
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_messages(seed in any::<u64>()) {
        let rng = &mut Rng::new(seed);
        let messages: Vec<PeerMessage> =
            (0..rng.between(1, 5)).map(|_| any_message(rng)).collect();
        let mut stream = BytesMut::new();
        for message in &messages {
            encode_frame_into(message, &mut stream);
        }
        let (mut decoder, mut arrived, mut decoded) =
            (FrameDecoder::new(), BytesMut::new(), Vec::new());
        while stream.has_remaining() {
            let piece = rng.between(1, stream.len() as u64) as usize;
            arrived.extend_from_slice(&stream.split_to(piece));
            while let Some(message) = decoder.next(&mut arrived) {
                decoded.push(message.unwrap());
            }
        }
        prop_assert_eq!(decoded, messages);
    }
}

#[test]
fn any_changed_byte_of_what_is_on_disk_is_noticed() {
    let rng = &mut Rng::new(3);
    let entries = encode_entry_batch(&samples::entries(rng, 7, 4, 1));
    let genesis = encode_genesis(&samples::genesis(rng));
    let (key, row) = samples::row(rng, 6);
    let key = encode_row_key(&key);
    let row = encode_row(&key, &row);
    for flip in 0..8 {
        for place in 0..entries.len() {
            let mut bytes = entries.clone();
            bytes[place] ^= 1 << flip;
            assert!(decode_entry_batch(&bytes).is_err(), "byte {place} of a batch");
        }
        for place in 0..genesis.len() {
            let mut bytes = genesis.clone();
            bytes[place] ^= 1 << flip;
            assert!(decode_genesis(&bytes).is_err(), "byte {place} of an identity");
        }
        for place in 0..row.len() {
            let mut bytes = row.clone();
            bytes[place] ^= 1 << flip;
            assert!(decode_row(&key, &bytes).is_err(), "byte {place} of a row");
        }
        for place in 0..key.len() {
            let mut bytes = key.clone();
            bytes[place] ^= 1 << flip;
            assert!(decode_row(&bytes, &row).is_err(), "byte {place} of a row's key");
        }
    }
}

#[test]
fn payloads_are_slices_of_the_frame_and_not_copies() {
    let payload = Bytes::from(vec![7; 10_000]);
    let entry =
        Entry { term: Term(1), index: Index(1), payload: Payload::Command(payload.clone()) };
    let body = Body::AppendRequest {
        prev_index: Index(0),
        prev_term: Term(0),
        entries: vec![entry],
        commit: Index(0),
    };
    let message = Message { from: NodeId(1), to: NodeId(2), term: Term(1), body };
    let mut buffer = BytesMut::from(&encode_frame(&PeerMessage::Raft(message))[..]);
    let memory = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
    let decoded = FrameDecoder::new().next(&mut buffer).unwrap().unwrap();
    let PeerMessage::Raft(Message { body: Body::AppendRequest { entries, .. }, .. }) = decoded
    else {
        panic!("decoded to another message");
    };
    let Payload::Command(bytes) = &entries[0].payload else {
        panic!("decoded to another payload");
    };
    assert_eq!(*bytes, payload);
    assert!(memory.contains(&(bytes.as_ptr() as usize)), "the payload was copied");
}

#[test]
fn frames_are_refused_by_length_before_their_bytes_arrive() {
    let mut decoder = FrameDecoder::new();
    let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f, 0x10, 0, 0, 0, 0][..]);
    let refused = Some(Err(WireError::TooLong { limit: limits::FRAME_BYTES_MAX }));
    assert_eq!(decoder.next(&mut buffer), refused);
    buffer.clear();
    assert_eq!(decoder.next(&mut buffer), refused, "a broken stream stays broken");

    let mut hello = vec![0; 9];
    hello[..4].copy_from_slice(&(limits::HELLO_BYTES_MAX as u32 + 1).to_le_bytes());
    let refused = Err(WireError::TooLong { limit: limits::HELLO_BYTES_MAX });
    assert_eq!(decode_hello(&hello), refused);
}

/// A frame of four megabytes can hold two million empty entries, each forty times as large in
/// memory.
#[test]
fn many_empty_fields_are_refused_before_they_are_decoded() {
    let entries = [0x22, 0x00].repeat(limits::APPEND_ENTRIES_MAX + 1);
    let mut append = Vec::new();
    prost::encoding::encode_key(4, prost::encoding::WireType::LengthDelimited, &mut append);
    prost::encoding::encode_varint(entries.len() as u64, &mut append);
    append.extend_from_slice(&entries);
    let mut frame = Vec::new();
    frame.extend_from_slice(&(append.len() as u32).to_le_bytes());
    frame.push(0x10);
    frame.extend_from_slice(&checksum(&[&[0x10], &append]).to_le_bytes());
    frame.extend_from_slice(&append);
    let refused = Some(Err(WireError::TooLong { limit: limits::APPEND_ENTRIES_MAX }));
    assert_eq!(FrameDecoder::new().next(&mut BytesMut::from(&frame[..])), refused);

    let operation = TxnOperation::Get(Selection::Prefix(Bytes::new()));
    let txn = Txn { then: vec![operation; limits::TXN_OPERATIONS_MAX + 1], ..Txn::default() };
    let refused = Err(WireError::TooLong { limit: limits::TXN_OPERATIONS_MAX });
    assert_eq!(decode_command(&encode_command(&with(Operation::Txn(txn)))), refused);
}

fn with(operation: Operation) -> Command {
    Command { operation, idempotency: None, ..samples::command(&mut Rng::new(1)) }
}

#[test]
fn limits_of_commands_are_checked() {
    let put = |key: usize, value: usize| Operation::Put {
        key: vec![b'k'; key].into(),
        value: vec![b'v'; value].into(),
        lease: None,
        condition: crate::state::Condition::None,
    };
    let answer = |operation| decode_command(&encode_command(&with(operation))).err();
    assert_eq!(answer(put(limits::KEY_BYTES_MAX, limits::VALUE_BYTES_MAX)), None);
    assert_eq!(answer(put(0, 0)), Some(WireError::Malformed("a key or name is empty")));
    let limit = limits::KEY_BYTES_MAX;
    assert_eq!(answer(put(limit + 1, 0)), Some(WireError::TooLong { limit }));
    let limit = limits::VALUE_BYTES_MAX;
    assert_eq!(answer(put(1, limit + 1)), Some(WireError::TooLong { limit }));
    let Operation::GrantLease(lease) = samples::operation(&mut Rng::new(1), 4) else {
        panic!("the samples are in another order");
    };
    for ttl in [Span::ZERO, Span::from_millis(999), Span::from_secs(24 * 3600 + 1)] {
        let lease = crate::state::NewLease { ttl, ..lease.clone() };
        let refused = Some(WireError::Malformed("a time to live out of its bounds"));
        assert_eq!(answer(Operation::GrantLease(lease)), refused);
    }
}

#[test]
fn what_a_newer_program_writes_is_refused_and_never_skipped() {
    let command = with(Operation::NodeBooted);
    let mut newer = encode_command(&command).to_vec();
    newer[0] = 2;
    assert_eq!(decode_command(&newer.into()), Err(WireError::UnknownVersion(2)));
    let mut field = encode_command(&command).to_vec();
    field.extend_from_slice(&[0xb8, 0x06, 0x01]);
    assert_eq!(decode_command(&field.into()), Err(WireError::UnknownField));
    let mut operation = encode_command(&command).to_vec();
    let tail = operation.len() - 2;
    assert_eq!(operation[tail..], [0x7a, 0x00], "a booted node is the last field, and empty");
    operation.truncate(tail);
    assert!(matches!(decode_command(&operation.into()), Err(WireError::UnknownKind(_))));

    let hello = samples::hello(&mut Rng::new(1));
    let frame = encode_hello(&hello);
    let mut content = frame[9..].to_vec();
    content.extend_from_slice(&[0xb8, 0x06, 0x01]);
    let mut newer = (content.len() as u32).to_le_bytes().to_vec();
    newer.push(1);
    newer.extend_from_slice(&checksum(&[&[1], &content]).to_le_bytes());
    newer.extend_from_slice(&content);
    assert_eq!(decode_hello(&newer), Ok(hello), "only a hello skips what it does not know");
}

#[test]
fn rows_of_another_kind_than_their_key_are_refused() {
    let meta = encode_row_key(&RowKey::Meta);
    let sealed = encode_row(&meta, &Row::Meta(Default::default()));
    let lease = encode_row_key(&RowKey::Lease(LeaseId(1)));
    assert_eq!(decode_row(&lease, &sealed), Err(WireError::Checksum));
    let mut moved = sealed.clone();
    let sum = checksum(&[&lease, &sealed[..1], &sealed[5..]]);
    moved[1..5].copy_from_slice(&sum.to_le_bytes());
    let refused = Err(WireError::Malformed("a row of another kind than its key"));
    assert_eq!(decode_row(&lease, &moved), refused);
}

#[test]
fn a_chunk_says_of_itself_whether_it_is_what_was_read() {
    let row =
        |key: u8, value: u8| StoredRow { key: vec![key].into(), value: vec![value; 9].into() };
    let chunk = SnapshotChunk::new(7, 1, false, vec![row(1, 1), row(2, 2)]);
    assert!(chunk.is_intact());
    let spoilt: [fn(&mut SnapshotChunk); 5] = [
        |chunk| chunk.id += 1,
        |chunk| chunk.number += 1,
        |chunk| chunk.is_last = true,
        |chunk| chunk.rows.swap(0, 1),
        |chunk| drop(chunk.rows.pop()),
    ];
    for spoil in spoilt {
        let mut other = chunk.clone();
        spoil(&mut other);
        assert!(!other.is_intact(), "{other:?}");
    }
    // A byte that moved from the content of a row to its key.
    let mut moved = chunk;
    moved.rows[0] = StoredRow { key: vec![1, 1].into(), value: vec![1; 8].into() };
    assert!(!moved.is_intact());
}

#[test]
fn a_chunk_of_too_many_rows_is_refused_before_they_are_allocated() {
    let row = StoredRow { key: vec![1].into(), value: vec![1].into() };
    let rows = vec![row; limits::SNAPSHOT_CHUNK_ROWS_MAX + 1];
    let chunk = SnapshotChunk::new(7, 0, true, rows);
    let message = PeerMessage::Snapshot(SnapshotMessage::Chunk(chunk));
    let mut buffer = BytesMut::from(&encode_frame(&message)[..]);
    let limit = limits::SNAPSHOT_CHUNK_ROWS_MAX;
    assert_eq!(FrameDecoder::new().next(&mut buffer), Some(Err(WireError::TooLong { limit })));
}

fn any_message(rng: &mut Rng) -> PeerMessage {
    let kind = rng.below(16);
    if kind < 4 { samples::snapshot_message(rng, kind) } else { samples::peer_message(rng) }
}

#[test]
fn a_keepalive_of_all_leases_fits_in_a_frame() {
    let leases = (0..limits::LEASES_MAX as u64).map(|n| LeaseId(u64::MAX - n)).collect();
    let message = PeerMessage::Keepalive(KeepaliveRequest { context: 1, leases });
    let mut buffer = BytesMut::from(&encode_frame(&message)[..]);
    assert_eq!(FrameDecoder::new().next(&mut buffer), Some(Ok(message)));
}
