//! Golden bytes of every format and version: a change here is a change of a format.
//!
//! Each vector is checked both ways. A vector of an old version stays when a new one is added.

use bytes::BytesMut;

use super::samples_test as samples;
use crate::base::{Rng, WallMillis};
use crate::state::{Operation, QueueKind, QueueName, Row, RowKey};
use crate::wire::{
    FrameDecoder, PeerMessage, decode_command, decode_entry_batch, decode_genesis,
    decode_hard_state, decode_hello, decode_hello_answer, decode_membership, decode_row,
    decode_stamped, encode_command, encode_entry_batch, encode_frame, encode_genesis,
    encode_hard_state, encode_hello, encode_hello_answer, encode_membership, encode_row,
    encode_row_key, stamp_command,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Every vector by name, drawn anew from fixed seeds.
fn drawn() -> String {
    let mut lines = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        lines.push_str(&format!("{name} {}\n", hex(bytes)));
    };
    for kind in 0..11 {
        let mut command = samples::command(&mut Rng::new(40 + kind));
        command.operation = samples::operation(&mut Rng::new(kind), kind);
        line("command-v1", &encode_command(&command));
    }
    let command = encode_command(&samples::command(&mut Rng::new(2)));
    line("stamped-v1", &stamp_command(WallMillis(1_700_000_000_000), &command));
    line("batch-v1", &encode_entry_batch(&samples::entries(&mut Rng::new(8), 300, 6, 4)));
    line("hard-state-v1", &encode_hard_state(&samples::hard_state(&mut Rng::new(1))));
    line("membership-v1", &encode_membership(&samples::membership(&mut Rng::new(5))));
    line("membership-v1", &encode_membership(&samples::membership_with_goal(&mut Rng::new(7))));
    line("genesis-v1", &encode_genesis(&samples::genesis(&mut Rng::new(6))));
    for kind in 0..7 {
        let (key, row) = samples::row(&mut Rng::new(kind), kind);
        let key = encode_row_key(&key);
        line(&format!("row-v1 {}", hex(&key)), &encode_row(&key, &row));
    }
    for seed in 0..2 {
        line("hello", &encode_hello(&samples::hello(&mut Rng::new(seed))));
    }
    for seed in 0..6 {
        line("hello-answer", &encode_hello_answer(&samples::hello_answer(&mut Rng::new(seed))));
    }
    for kind in 0..11 {
        let message = samples::message(&mut Rng::new(kind), kind);
        line("frame", &encode_frame(&PeerMessage::Raft(message)));
    }
    for kind in 0..8 {
        let message = samples::members_message(&mut Rng::new(kind), kind);
        line("frame", &encode_frame(&message));
    }
    for seed in 0..12 {
        line("frame", &encode_frame(&samples::peer_message(&mut Rng::new(seed))));
    }
    let mut command = samples::command(&mut Rng::new(51));
    command.operation = samples::operation(&mut Rng::new(11), 11);
    line("command-v1", &encode_command(&command));
    for kind in 0..3 {
        line("frame", &encode_frame(&samples::report(&mut Rng::new(kind), kind)));
    }
    for kind in 0..8 {
        let message = samples::snapshot_message(&mut Rng::new(kind), kind);
        line("frame", &encode_frame(&message));
    }
    line("frame", &encode_frame(&PeerMessage::StateWanted));
    for kind in 0..2 {
        let rng = &mut Rng::new(60 + kind);
        let mut command = samples::command(rng);
        command.operation = Operation::Acquire(samples::acquire_shared(rng, kind));
        line("command-v1", &encode_command(&command));
    }
    let row = Row::Queue { slots: 3 };
    let name = QueueName { kind: QueueKind::Barrier, name: "b".into() };
    let key = encode_row_key(&RowKey::Queue(name));
    line(&format!("row-v1 {}", hex(&key)), &encode_row(&key, &row));
    for kind in 12..15 {
        let mut command = samples::command(&mut Rng::new(40 + kind));
        command.operation = samples::operation(&mut Rng::new(kind), kind);
        line("command-v1", &encode_command(&command));
    }
    let (key, row) = samples::row(&mut Rng::new(7), 7);
    let key = encode_row_key(&key);
    line(&format!("row-v1 {}", hex(&key)), &encode_row(&key, &row));
    lines
}

/// What was committed, byte by byte: `QUORUMD_REGENERATE=1` writes the file anew, and the
/// difference is then read line by line.
#[test]
fn encodings_are_those_that_were_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire/vectors.txt");
    if std::env::var_os("QUORUMD_REGENERATE").is_some() {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, drawn().as_bytes()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    for (number, (committed, drawn)) in committed.lines().zip(drawn().lines()).enumerate() {
        assert_eq!(committed, drawn, "line {} of vectors.txt", number + 1);
    }
    assert_eq!(committed.lines().count(), drawn().lines().count(), "lines of vectors.txt");
}

/// The committed bytes are read, whatever this program writes today, and give back themselves.
#[test]
fn committed_bytes_are_read() {
    for line in include_str!("vectors.txt").lines() {
        let mut words = line.split(' ');
        let (name, first) = (words.next().unwrap(), unhex(words.next().unwrap()));
        let again = match name {
            "command-v1" => encode_command(&decode_command(&first.clone().into()).unwrap()).into(),
            "stamped-v1" => {
                let (wall, command) = decode_stamped(&first.clone().into()).unwrap();
                stamp_command(wall, &encode_command(&command)).into()
            }
            "batch-v1" => encode_entry_batch(&decode_entry_batch(&first).unwrap()),
            "hard-state-v1" => encode_hard_state(&decode_hard_state(&first).unwrap()),
            "membership-v1" => encode_membership(&decode_membership(&first).unwrap()),
            "genesis-v1" => encode_genesis(&decode_genesis(&first).unwrap()),
            "row-v1" => {
                let value = unhex(words.next().unwrap());
                let (key, row) = decode_row(&first, &value).unwrap();
                assert_eq!(encode_row_key(&key), first, "{line}");
                assert_eq!(hex(&encode_row(&first, &row)), hex(&value), "{line}");
                continue;
            }
            "hello" => encode_hello(&decode_hello(&first).unwrap()).into(),
            "hello-answer" => encode_hello_answer(&decode_hello_answer(&first).unwrap()).into(),
            "frame" => {
                let mut buffer = BytesMut::from(&first[..]);
                encode_frame(&FrameDecoder::new().next(&mut buffer).unwrap().unwrap()).into()
            }
            _ => panic!("no decoder for {name}"),
        };
        assert_eq!(hex(&again), hex(&first), "{line}");
    }
}

/// A frame and a row drawn by hand from docs/formats.md, so that a mistake of encoder and decoder
/// together is noticed too.
#[test]
fn bytes_are_as_drawn_in_the_document() {
    use crate::base::{Index, NodeId, Term};
    use crate::raft::{Body, Entry, HardState, Message, Payload};

    let body = Body::AppendAccepted { matched: Index(300) };
    let message = Message { from: NodeId(1), to: NodeId(2), term: Term(7), body };
    let content = "090100000000000000110200000000000000180728ac02";
    let sum = super::codec::checksum(&[&[0x10], &unhex(content)]).to_le_bytes();
    let drawn = format!("1700000010{}{content}", hex(&sum));
    assert_eq!(hex(&encode_frame(&PeerMessage::Raft(message))), drawn);

    let entry = |index, payload| Entry { term: Term(3), index: Index(index), payload };
    let batch = [entry(9, Payload::Empty), entry(10, Payload::Command(vec![0xab].into()))];
    let content = "080912040803220012050803".to_owned() + "1201ab";
    let sum = super::codec::checksum(&[&[1], &unhex(&content)]).to_le_bytes();
    assert_eq!(hex(&encode_entry_batch(&batch)), format!("01{}{content}", hex(&sum)));

    let state = HardState { term: Term(3), vote: Some(NodeId(5)), commit: Index(10) };
    let content = "0803110500000000000000180a";
    let sum = super::codec::checksum(&[&[1], &unhex(content)]).to_le_bytes();
    assert_eq!(hex(&encode_hard_state(&state)), format!("01{}{content}", hex(&sum)));
}
