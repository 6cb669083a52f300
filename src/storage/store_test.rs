//! What the two stores do besides surviving crashes: refusals, full disks, rot, the cost of a
//! commit.

use super::disk::Disk;
use crate::base::{Boot, Index, NodeId, Rng, Term};
use crate::raft::{Entry, HardState, Payload};
use crate::state::{Meta, Row, RowChange, RowKey};
use crate::storage::{
    Cut, Identity, LogBatch, RaftStore, RecoveredLog, StateStore, StorageError, check,
};
use crate::wire::samples_test as samples;

fn identity(node: u64) -> Identity {
    Identity { node: NodeId(node), name: "alpha".to_owned(), cluster_name: "test".to_owned() }
}

fn open(disk: &Disk) -> Result<(RaftStore, RecoveredLog), StorageError> {
    RaftStore::create_or_open(disk.clone(), || identity(7))
}

fn entries(first: u64, count: u64, bytes: usize) -> Vec<Entry> {
    let entry = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Command(vec![index as u8; bytes].into()),
    };
    (first..first + count).map(entry).collect()
}

fn append(first: u64, count: u64, commit: u64) -> LogBatch {
    let commit = Index(commit);
    LogBatch {
        hard_state: Some(HardState { term: Term(1), vote: None, commit }),
        entries: vec![entries(first, count, 310)],
        must_sync: true,
        ..LogBatch::default()
    }
}

/// The goal is 25 KB: three nodes then write less than 76 KB for one put.
#[test]
fn a_single_entry_costs_less_than_25_kilobytes() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    let mut index = 1;
    for _ in 0..500 {
        store.write(&append(index, 1, index - 1)).unwrap();
        index += 1;
    }
    let before = disk.counters();
    for _ in 0..500 {
        store.write(&append(index, 1, index - 1)).unwrap();
        index += 1;
    }
    let after = disk.counters();
    let bytes = (after.bytes_written - before.bytes_written) / 500;
    eprintln!("raft.redb: {bytes} bytes written per commit of one entry of 310 bytes");
    assert!(bytes <= 25_000, "{bytes} bytes per commit");
    let syncs = after.syncs - before.syncs;
    assert!((500..510).contains(&syncs), "{syncs} syncs: one per write, and few for growth");
    assert_eq!(store.file_bytes(), disk.content().len() as u64);
}

#[test]
fn boots_are_counted_and_content_comes_back() {
    let disk = Disk::new();
    let (mut store, log) = open(&disk).unwrap();
    assert_eq!((log.boot, log.entries.len()), (Boot(1), 0));
    store.write(&append(1, 40, 3)).unwrap();
    drop(store);
    let (_, log) = RaftStore::create_or_open(disk, || panic!("drawn again")).unwrap();
    assert_eq!(log.boot, Boot(2));
    assert_eq!(log.identity, identity(7));
    assert_eq!(log.entries, entries(1, 40, 310));
    assert_eq!(log.hard_state.commit, Index(3));
}

#[test]
fn a_mere_commit_index_waits_for_the_next_write() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    store.write(&append(1, 2, 0)).unwrap();
    let syncs = disk.counters().syncs;
    let mut commit = append(3, 0, 2);
    commit.must_sync = false;
    store.write(&commit).unwrap();
    assert_eq!(disk.counters().syncs, syncs, "it was written at once");
    store.flush().unwrap();
    assert_eq!(disk.counters().syncs, syncs + 1);
    let (_, log) = open(&disk.crash(&mut Rng::new(1))).unwrap();
    assert_eq!(log.hard_state.commit, Index(2));
}

#[test]
fn a_vote_never_waits() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    let vote = HardState { term: Term(2), vote: Some(NodeId(1)), commit: Index(0) };
    store.write(&LogBatch { hard_state: Some(vote), ..LogBatch::default() }).unwrap();
    let (_, log) = open(&disk.crash(&mut Rng::new(1))).unwrap();
    assert_eq!(log.hard_state, vote);
}

#[test]
fn a_full_disk_is_told_apart_and_passes() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    store.write(&append(1, 1, 0)).unwrap();
    disk.set_full(true);
    let error = store.write(&append(2, 1, 1)).unwrap_err();
    assert!(matches!(error, StorageError::Full { .. }), "{error:?}");
    disk.set_full(false);
    let error = store.write(&append(2, 1, 1)).unwrap_err();
    assert!(matches!(error, StorageError::Latched { .. }), "{error:?}");
    drop(store);
    let (mut store, log) = open(&disk).unwrap();
    let next = log.entries.len() as u64 + 1;
    store.write(&append(next, 1, 1)).unwrap();
}

#[test]
fn a_failed_sync_is_told_apart() {
    let mut last = None;
    for at in 0.. {
        let disk = Disk::new();
        let (mut store, _) = open(&disk).unwrap();
        store.write(&append(1, 1, 0)).unwrap();
        disk.fail_after(at);
        match store.write(&append(2, 1, 0)) {
            Ok(()) => break,
            Err(error) => last = Some(error),
        }
    }
    assert!(matches!(last, Some(StorageError::Sync { .. })), "a commit ends with a sync: {last:?}");
}

/// Rot while the process is not running: a bit changes anywhere in the file.
#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    store.write(&append(1, 30, 0)).unwrap();
    store.write(&append(31, 1, 10)).unwrap();
    store.write(&append(32, 2, 31)).unwrap();
    store.set_genesis(&samples::genesis(&mut Rng::new(1))).unwrap();
    drop(store);
    let content = disk.content();
    let (_, expected) = open(&Disk::with_content(content.clone())).unwrap();
    let rng = &mut Rng::new(5);
    let (mut found, mut harmless, mut undone) = (0, 0, 0);
    for start in (0..content.len()).step_by(97) {
        let place = (start + rng.below(97) as usize).min(content.len() - 1);
        let mut rotten = content.clone();
        rotten[place] ^= 1 << rng.below(8);
        match open(&Disk::with_content(rotten)) {
            Ok((_, log)) if log == expected => harmless += 1,
            // redb's head names the newest of two commits in one bit.
            Ok(_) if place < 512 => undone += 1,
            Ok(_) => panic!("byte {place}: opened with other content"),
            Err(StorageError::Corrupt { .. } | StorageError::Format { .. }) => found += 1,
            Err(error) => panic!("byte {place}: {error:?}"),
        }
    }
    assert!(found > 50, "only {found} found");
    eprintln!("raft.redb: {found} flips found, {harmless} harmless, {undone} undid a commit");
}

#[test]
fn a_second_process_and_foreign_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let (store, log) = RaftStore::open_path(&path, || identity(7)).unwrap();
    assert_eq!(log.boot, Boot(1));
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let error = RaftStore::open_path(&path, || identity(8)).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error:?}");
    drop(store);
    let (_, log) = RaftStore::open_path(&path, || identity(8)).unwrap();
    assert_eq!((log.identity, log.boot), (identity(7), Boot(2)));

    let error = StateStore::open_path(&path, &identity(7)).unwrap_err();
    assert!(matches!(error, StorageError::Format { .. }), "{error:?}");
    let text = Disk::with_content(vec![b'x'; 10_000]);
    let error = open(&text).unwrap_err();
    assert!(matches!(error, StorageError::Format { .. }), "{error:?}");

    let disk = Disk::new();
    drop(StateStore::create_or_open(disk.clone(), &identity(7)).unwrap());
    drop(StateStore::create_or_open(disk.clone(), &identity(7)).unwrap());
    let error = StateStore::create_or_open(disk, &identity(8)).unwrap_err();
    assert!(matches!(error, StorageError::Mismatch { .. }), "{error:?}");
}

/// A head that was wiped is damage, and no reason to begin anew.
#[test]
fn a_file_whose_head_is_gone_is_not_made_anew() {
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    store.write(&append(1, 3, 0)).unwrap();
    drop(store);
    let mut content = disk.content();
    content[..4096].fill(0);
    let disk = Disk::with_content(content.clone());
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, StorageError::Format { .. }), "{error:?}");
    assert_eq!(disk.content(), content, "the file was changed");
}

#[test]
fn rows_are_saved_changed_and_removed() {
    let disk = Disk::new();
    let (mut store, rows) = StateStore::create_or_open(disk.clone(), &identity(7)).unwrap();
    assert!(rows.is_empty());
    let mut expected: Vec<(RowKey, Row)> =
        (0..70).map(|kind| samples::row(&mut Rng::new(kind), kind)).collect();
    let changes: Vec<RowChange> = expected
        .iter()
        .map(|(key, row)| RowChange { key: key.clone(), row: Some(row.clone()) })
        .collect();
    store.save(&changes).unwrap();
    let gone = expected.remove(0).0;
    store.save(&[RowChange { key: gone.clone(), row: None }]).unwrap();
    drop(store);
    let (_, rows) = StateStore::create_or_open(disk, &identity(7)).unwrap();
    expected.reverse();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    expected.dedup_by(|a, b| a.0 == b.0);
    let keys = |rows: &[(RowKey, Row)]| rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>();
    expected.retain(|row| row.0 != gone);
    assert_eq!(keys(&rows), keys(&expected), "rows come in the order of their names");
}

fn recovered(cut: u64, cut_term: u64, count: u64) -> RecoveredLog {
    RecoveredLog {
        identity: identity(7),
        boot: Boot(1),
        genesis: None,
        hard_state: HardState { term: Term(1), vote: None, commit: Index(cut) },
        cut: Cut { index: Index(cut), term: Term(cut_term), membership: None },
        entries: entries(cut + 1, count, 1),
        marks: Vec::new(),
    }
}

#[test]
fn the_two_files_are_checked_against_each_other() {
    let meta = |index, term| Meta {
        applied_index: Index(index),
        applied_term: Term(term),
        ..Meta::default()
    };
    let verdict = |log: &RecoveredLog, meta: Option<Meta>| {
        check(log, meta.as_ref()).err().map(|error| error.to_string())
    };
    let log = recovered(10, 1, 5);
    assert_eq!(verdict(&log, Some(meta(10, 1))), None);
    assert_eq!(verdict(&log, Some(meta(15, 1))), None);
    assert_eq!(verdict(&recovered(0, 0, 5), None), None);
    assert_eq!(verdict(&recovered(0, 0, 5), Some(meta(0, 0))), None);
    let refused = |log: &RecoveredLog, meta: Option<Meta>, words: &str| {
        let said = verdict(log, meta).unwrap();
        assert!(said.contains(words), "{said}");
        assert!(said.contains("replace the member"), "{said}");
    };
    refused(&log, None, "state.redb was removed");
    refused(&log, Some(meta(9, 1)), "state.redb is older than raft.redb");
    refused(&log, Some(meta(16, 1)), "raft.redb is older than state.redb");
    refused(&log, Some(meta(12, 2)), "not made together");
    refused(&log, Some(meta(10, 2)), "not made together");
}
