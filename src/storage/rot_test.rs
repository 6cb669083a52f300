//! Rot while the process is not running: whatever changes in either file is found when it is
//! opened, or changes nothing that is served (RELIABILITY F8, F9).
//!
//! Each mutant of a small but whole pair of files is opened. It is refused with a sentence, or has
//! exactly the content that was written. One thing else may happen to a file that was not closed:
//! damage to the last commit of `raft.redb` cannot be told from a commit that was torn, and is
//! undone (which is why peers keep marks of each other). In `state.redb`, which commits in two
//! phases, one bit of redb's head can do that; the log then replays what was saved since, or is
//! found to begin later.
//!
//! `QUORUMD_DISK=all` changes every byte of both files, and each of redb's head to every value,
//! instead of a sample.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::disk::Disk;
use super::format::{
    KEY_BOOT, KEY_CUT, KEY_IDENTITY, decode_boot, decode_cut, decode_identity, decode_mark,
    encode_boot, encode_cut, encode_identity, encode_mark, mark_key,
};
use crate::base::mutants_test::{hammer, mutate};
use crate::base::{
    Boot, Epoch, Index, NodeId, RequestId, Revision, Rng, Sequence, Span, Term, WallMillis,
};
use crate::raft::{Entry, HardState, Payload};
use crate::state::{
    Acquire, Bind, Command, Condition, Holder, IdempotencyKey, Mode, NewLease, Operation, Patience,
    QueueKind, QueueName, Row, RowKey, Selection, StateMachine,
};
use crate::storage::{
    Cut, Identity, LogBatch, PeerMark, RaftStore, RecoveredLog, StateStore, StorageError,
};
use crate::wire::{samples_test as samples, seal_bytes};

const PAGE_BYTES: usize = 4_096;
const SECTOR_BYTES: usize = 512;
/// redb's head: what it is, and two commit slots.
const HEAD_BYTES: usize = 320;

/// What one kind of file is, for [`damage`]: how it is opened, and what of it counts.
struct File<T> {
    name: &'static str,
    open: fn(&Disk) -> Result<T, StorageError>,
    /// The file as it is, and what is read from it.
    content: Vec<u8>,
    expected: T,
    /// An earlier image of the same file, for writes that the disk lost.
    earlier: Vec<u8>,
    /// What is read when the last commit is undone, and how often at most that may happen.
    undone: Option<(T, u32)>,
}

/// How often what was seen.
#[derive(Debug, Default)]
struct Tally {
    found: u32,
    harmless: u32,
    undone: u32,
}

pub(super) fn identity() -> Identity {
    Identity { node: NodeId(7), name: "alpha".to_owned(), cluster_name: "test".to_owned() }
}

fn open_log(disk: &Disk) -> Result<RecoveredLog, StorageError> {
    let (_, mut log) = RaftStore::create_or_open(disk.clone(), || panic!("made anew"))?;
    // Each start counts one; it is compared where it matters, in `crash_test.rs`.
    log.boot = Boot(0);
    Ok(log)
}

fn open_state(disk: &Disk) -> Result<Vec<(RowKey, Row)>, StorageError> {
    Ok(StateStore::create_or_open(disk.clone(), &identity())?.1)
}

pub(super) fn entries(first: u64, count: u64, bytes: usize) -> Vec<Entry> {
    let entry = |index| Entry {
        term: Term(3),
        index: Index(index),
        payload: Payload::Command(vec![index as u8; bytes].into()),
    };
    (first..first + count).map(entry).collect()
}

pub(super) fn appended(first: u64, count: u64, commit: u64) -> LogBatch {
    let state = HardState { term: Term(3), vote: Some(NodeId(7)), commit: Index(commit) };
    LogBatch {
        hard_state: Some(state),
        entries: vec![entries(first, count, 310)],
        must_sync: true,
        ..LogBatch::default()
    }
}

/// The writes of a node that has lived a little: identity, marks, rows of the log, a cut, a tail.
pub(super) fn write_log(store: &mut RaftStore) {
    let mark = |node| PeerMark {
        node: NodeId(node),
        boot: Boot(2),
        term: Term(3),
        last_term: Term(3),
        last_index: Index(40),
    };
    store.set_genesis(&samples::genesis(&mut Rng::new(1))).unwrap();
    store.write(&appended(1, 40, 0)).unwrap();
    store.write(&appended(41, 20, 40)).unwrap();
    store.write(&appended(61, 5, 60)).unwrap();
    let cut = Cut {
        index: Index(30),
        term: Term(3),
        membership: Some(samples::membership(&mut Rng::new(2))),
    };
    let marks = vec![mark(8), mark(9)];
    store
        .write(&LogBatch { cut: Some(cut), marks, must_sync: true, ..LogBatch::default() })
        .unwrap();
    store.write(&appended(66, 2, 65)).unwrap();
}

/// `raft.redb` after a clean stop, and as a crash left it after its last write.
fn logs() -> [File<RecoveredLog>; 2] {
    let disk = Disk::new();
    let (mut store, _) = RaftStore::create_or_open(disk.clone(), identity).unwrap();
    write_log(&mut store);
    let earlier = disk.content();
    let before = open_log(&Disk::with_content(earlier.clone())).unwrap();
    store.write(&appended(68, 1, 67)).unwrap();
    let crashed = disk.content();
    drop(store);
    let file = |name, content: Vec<u8>, undone| File {
        name,
        open: open_log,
        expected: open_log(&Disk::with_content(content.clone())).unwrap(),
        content,
        earlier: earlier.clone(),
        undone,
    };
    [
        file("raft.redb, stopped", disk.content(), None),
        file("raft.redb, crashed", crashed, Some((before, u32::MAX))),
    ]
}

/// `state.redb` after a clean stop, and as a crash left it after its last save.
fn states() -> [File<Vec<(RowKey, Row)>>; 2] {
    let disk = Disk::new();
    let (mut store, _) = StateStore::create_or_open(disk.clone(), &identity()).unwrap();
    let mut state = StateMachine::new(Epoch(1));
    let mut sequence = 0;
    live_a_little(&mut state, &mut sequence);
    store.save(&state.take_row_changes()).unwrap();
    let earlier = disk.content();
    live_a_little(&mut state, &mut sequence);
    store.save(&state.take_row_changes()).unwrap();
    let crashed = disk.content();
    drop(store);
    let before = open_state(&Disk::with_content(earlier.clone())).unwrap();
    let file = |name, content: Vec<u8>, undone| {
        let expected = open_state(&Disk::with_content(content.clone())).unwrap();
        let restored = StateMachine::restore(expected.clone()).unwrap();
        assert_eq!(restored.digest(), state.digest(), "{name}");
        File { name, open: open_state, expected, content, earlier: earlier.clone(), undone }
    };
    [
        file("state.redb, stopped", disk.content(), None),
        // One bit of redb's head names the newest of two commits, and has no checksum.
        file("state.redb, crashed", crashed, Some((before, 2))),
    ]
}

/// Keys with history and tombstones, leases, places in a queue, requests, idempotency keys.
pub(super) fn live_a_little(state: &mut StateMachine, sequence: &mut u64) {
    let put = |key: String, value: usize| Operation::Put {
        key: Bytes::from(key),
        value: Bytes::from(vec![b'v'; value]),
        lease: None,
        condition: Condition::None,
    };
    let acquire = |name: &'static [u8]| {
        let lease = NewLease {
            ttl: Span::from_secs(10),
            bind: Bind::Process,
            pid: Some(7),
            uid: 1_000,
            info: "app".to_owned(),
            process: Some("kernel.1.7.i9".to_owned()),
        };
        Operation::Acquire(Acquire {
            queue: QueueName { kind: QueueKind::Lock, name: Bytes::from_static(name) },
            holder: Holder::New(lease),
            slots: 2,
            mode: Mode::Exclusive,
            value: Bytes::new(),
            patience: Patience::Wait,
        })
    };
    let mut operations: Vec<Operation> =
        (0..40).map(|key| put(format!("config/{}", key % 25), 50 + 20 * key)).collect();
    operations.push(Operation::Delete {
        selection: Selection::Prefix(Bytes::from_static(b"config/2")),
        condition: Condition::None,
    });
    operations.extend([acquire(b"l"), acquire(b"l"), acquire(b"m"), put("a".to_owned(), 3_000)]);
    operations.push(Operation::Compact { revision: Revision(*sequence + 3) });
    for operation in operations {
        *sequence += 1;
        let key = IdempotencyKey { uid: 0, key: format!("k{sequence}") };
        let command = Command {
            request: RequestId { node: NodeId(1), boot: Boot(1), sequence: Sequence(*sequence) },
            floor: Sequence(2),
            idempotency: sequence.is_multiple_of(5).then_some(key),
            operation,
        };
        state.apply(Index(*sequence), Term(3), WallMillis(*sequence), &command);
    }
}

/// The facts' own decoders, behind seals that are right.
#[test]
fn facts_that_are_almost_right_are_refused_or_taken() {
    let mark = PeerMark {
        node: NodeId(8),
        boot: Boot(2),
        term: Term(3),
        last_term: Term(3),
        last_index: Index(40),
    };
    hammer("facts", 2_000, |rng| {
        let cut =
            Cut { index: Index(30), term: Term(3), membership: Some(samples::membership(rng)) };
        let facts = [
            (KEY_IDENTITY.to_vec(), encode_identity(&identity())),
            (KEY_BOOT.to_vec(), encode_boot(Boot(7))),
            (KEY_CUT.to_vec(), encode_cut(KEY_CUT, &cut)),
            (mark_key(NodeId(8)), encode_mark(&mark)),
        ];
        let place = rng.below(4) as usize;
        let (mut key, mut sealed) = facts[place].clone();
        let other = &facts[(place + 1) % 4].1;
        if rng.chance(1, 8) {
            mutate(rng, &mut key, other);
        }
        if rng.chance(1, 2) {
            mutate(rng, &mut sealed, other);
        } else {
            let mut content = sealed.split_off(5);
            mutate(rng, &mut content, other);
            sealed = seal_bytes(1, &key, &content);
        }
        let _ = (decode_identity(&sealed), decode_boot(&sealed));
        let _ = (decode_cut(KEY_CUT, &sealed), decode_mark(&key, &sealed));
    });
}

/// Opens a mutant and says what became of it. Panics when it is anything that may not be.
fn judge<T: PartialEq>(file: &File<T>, mutant: Vec<u8>, what: &str, tally: &mut Tally) {
    let name = file.name;
    let length = mutant.len();
    let disk = Disk::with_content(mutant);
    let opened = catch_unwind(AssertUnwindSafe(|| (file.open)(&disk)));
    let Ok(opened) = opened else {
        panic!("{name}, {what}: opening panics");
    };
    let grown = disk.length().saturating_sub(length);
    assert!(grown <= 1 << 20, "{name}, {what}: the file grew by {grown} bytes");
    match opened {
        Ok(content) if content == file.expected => tally.harmless += 1,
        Ok(content) if file.undone.as_ref().is_some_and(|(undone, _)| *undone == content) => {
            tally.undone += 1;
        }
        Ok(_) => panic!("{name}, {what}: opened with other content"),
        Err(StorageError::Corrupt { .. } | StorageError::Format { .. }) => tally.found += 1,
        Err(error) => panic!("{name}, {what}: {error:?}"),
    }
}

/// Whether the long run was asked for.
pub(super) fn everything() -> bool {
    std::env::var_os("QUORUMD_DISK").is_some_and(|value| value == "all")
}

/// Changes single bytes: all of redb's head, and every byte or a sample of the rest.
fn rot_bytes<T: PartialEq>(file: &File<T>) -> Tally {
    let all = everything();
    let rng = &mut Rng::new(5);
    let mut tally = Tally::default();
    let mut rot = |place: usize, mask: u8| {
        let mut mutant = file.content.clone();
        mutant[place] ^= mask;
        judge(file, mutant, &format!("byte {place} with {mask:#04x}"), &mut tally);
    };
    // The byte that names the newest commit and how it was made.
    (0..8).for_each(|bit| rot(9, 1 << bit));
    if all {
        (0..HEAD_BYTES).for_each(|place| (1..=255).for_each(|mask| rot(place, mask)));
    }
    let mut place = 0;
    while place < file.content.len() {
        rot(place, rng.between(1, 255) as u8);
        let sample = place >= HEAD_BYTES && !all;
        place += if sample { rng.between(1, 600) as usize } else { 1 };
    }
    tally
}

/// Changes sectors and pages: wiped, written elsewhere, not written at all; and the length.
fn rot_blocks<T: PartialEq>(file: &File<T>) -> Tally {
    let (all, mut tally) = (everything(), Tally::default());
    for block in [SECTOR_BYTES, PAGE_BYTES] {
        for start in (0..file.content.len()).step_by(block) {
            let place = start..(start + block).min(file.content.len());
            let mut variants = vec![vec![0; place.len()], vec![0xff; place.len()]];
            if block == SECTOR_BYTES && !all && start / block % 7 != 0 {
                continue;
            }
            let other = (start + 3 * PAGE_BYTES) % file.content.len();
            variants.extend(file.content.get(other..other + place.len()).map(<[u8]>::to_vec));
            // A lost write of the head alone is an older file, whole and by itself without fault.
            if start > 0 {
                variants.extend(file.earlier.get(place.clone()).map(<[u8]>::to_vec));
            }
            for (kind, variant) in variants.into_iter().enumerate() {
                let mut mutant = file.content.clone();
                mutant[place.clone()].copy_from_slice(&variant);
                let what = format!("block {place:?}, kind {kind}");
                judge(file, mutant, &what, &mut tally);
            }
        }
    }
    for pages in 0..file.content.len() / PAGE_BYTES {
        for length in [pages * PAGE_BYTES, pages * PAGE_BYTES + 100] {
            if length > 0 {
                let mutant = file.content[..length].to_vec();
                judge(file, mutant, &format!("cut to {length} bytes"), &mut tally);
            }
        }
    }
    for more in [1, SECTOR_BYTES, PAGE_BYTES, 100 * PAGE_BYTES] {
        let mut mutant = file.content.clone();
        mutant.resize(file.content.len() + more, 0xa5);
        judge(file, mutant, &format!("{more} bytes longer"), &mut tally);
    }
    tally
}

fn rot<T: PartialEq>(file: &File<T>) {
    let bytes = rot_bytes(file);
    let blocks = rot_blocks(file);
    let undone = bytes.undone + blocks.undone;
    let most = file.undone.as_ref().map_or(0, |(_, most)| *most);
    assert!(undone <= most, "{}: {undone} times a commit was undone", file.name);
    assert!(bytes.found > 30 && blocks.found > 30, "{}: {bytes:?}, {blocks:?}", file.name);
    eprintln!("{} ({} bytes): bytes {bytes:?}; blocks {blocks:?}", file.name, file.content.len());
}

#[test]
fn a_damaged_log_is_refused_or_as_it_was() {
    logs().iter().for_each(rot);
}

#[test]
fn a_damaged_state_is_refused_or_as_it_was() {
    states().iter().for_each(rot);
}
