//! A state from another member takes the place of the saved one: power cuts at every write and
//! sync of both files and of the recovery after them, a full disk, and what may not be mixed
//! (RELIABILITY C4, C5, C16, C19, C21).

use bytes::Bytes;

use super::disk::Disk;
use crate::base::{
    Boot, Epoch, Index, NodeId, RequestId, Revision, Rng, Sequence, Term, WallMillis,
};
use crate::raft::{Entry, HardState, Payload};
use crate::state::{Command, Condition, Meta, Operation, Row, RowKey, StateMachine};
use crate::storage::{
    Cut, Identity, LogBatch, RaftStore, RecoveredLog, StateStore, StorageError, check,
    finish_install,
};
use crate::wire::{Genesis, StoredRow, encode_row, encode_row_key, samples_test as samples};

/// Images that are drawn of each crash.
const IMAGES: u64 = 3;

fn identity() -> Identity {
    Identity { node: NodeId(7), name: "alpha".to_owned(), cluster_name: "test".to_owned() }
}

/// A state after so many entries: history, tombstones and a compaction among them.
fn machine(entries: u64) -> StateMachine {
    let mut machine = StateMachine::new(Epoch(1));
    for number in 1..=entries {
        let key = Bytes::from(format!("k{}", number % 13));
        let operation = match number % 9 {
            7 => Operation::Compact { revision: Revision(number / 2) },
            _ => Operation::Put {
                key,
                value: vec![number as u8; 400].into(),
                lease: None,
                condition: Condition::None,
            },
        };
        let request = RequestId { node: NodeId(1), boot: Boot(1), sequence: Sequence(number) };
        let command = Command { request, floor: Sequence(number), idempotency: None, operation };
        machine.apply(Index(number), term_of(number), WallMillis(number), &command);
    }
    machine
}

/// What the cluster committed.
fn term_of(index: u64) -> Term {
    Term(1 + index / 20)
}

fn rows_of(mut machine: StateMachine) -> Vec<StoredRow> {
    let changes = machine.take_row_changes();
    let rows = changes.into_iter().filter_map(|change| {
        let key = encode_row_key(&change.key);
        let value = encode_row(&key, &change.row?).into();
        Some(StoredRow { key: key.into(), value })
    });
    let mut rows: Vec<StoredRow> = rows.collect();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

fn run_of(first: u64, last: u64, term: impl Fn(u64) -> Term) -> Vec<Entry> {
    let payload = || Payload::Command(vec![7; 200].into());
    (first..=last)
        .map(|index| Entry { term: term(index), index: Index(index), payload: payload() })
        .collect()
}

fn point(index: u64) -> Cut {
    let membership = Some(samples::membership(&mut Rng::new(3)));
    Cut { index: Index(index), term: term_of(index), membership }
}

fn meta(rows: &[(RowKey, Row)]) -> Option<Meta> {
    rows.iter().find_map(|(_, row)| match row {
        Row::Meta(meta) => Some(*meta),
        _ => None,
    })
}

/// Both files of one member.
#[derive(Clone)]
struct Host {
    raft: Disk,
    state: Disk,
}

/// What a start finds.
struct Started {
    raft: RaftStore,
    state: StateStore,
    log: RecoveredLog,
    rows: Vec<(RowKey, Row)>,
}

impl Host {
    /// A member that saved the state at 10 and has a log up to 60 of which no more is committed;
    /// from 21 on it is of another history if `other`.
    fn behind(other: bool) -> Self {
        let host = Self { raft: Disk::new(), state: Disk::new() };
        let mut started = host.start().expect("the disks are sound");
        let genesis: Genesis = samples::genesis(&mut Rng::new(1));
        started.raft.set_genesis(&genesis).expect("the disks are sound");
        let term = |index| if other && index > 20 { Term(2) } else { term_of(index) };
        let batch = LogBatch {
            hard_state: Some(HardState { term: Term(4), vote: None, commit: Index(10) }),
            entries: vec![run_of(1, 60, term)],
            must_sync: true,
            ..LogBatch::default()
        };
        started.raft.write(&batch).expect("the disks are sound");
        started.state.save(&machine(10).take_row_changes()).expect("the disks are sound");
        host
    }

    fn start(&self) -> Result<Started, StorageError> {
        let (mut raft, mut log) = RaftStore::create_or_open(self.raft.clone(), identity)?;
        let (state, rows) = StateStore::create_or_open(self.state.clone(), &identity())?;
        finish_install(&mut raft, &mut log, &state)?;
        check(&log, meta(&rows).as_ref())?;
        Ok(Started { raft, state, log, rows })
    }

    fn crash(&self, rng: &mut Rng) -> Self {
        Self { raft: self.raft.crash(rng), state: self.state.crash(rng) }
    }
}

/// What happens on the member, one step after the other, until a power cut makes one of them fail.
fn install(started: &mut Started, index: u64) -> Result<(), StorageError> {
    let rows = rows_of(machine(index));
    started.state.install(rows.iter(), &point(index))?;
    let batch = LogBatch {
        begin: Some(Box::new(point(index))),
        entries: vec![run_of(index + 1, index + 2, |_| Term(9))],
        hard_state: Some(HardState { term: Term(9), vote: None, commit: Index(index) }),
        must_sync: true,
        ..LogBatch::default()
    };
    started.raft.write(&batch)?;
    started.state.save(&[])
}

#[test]
fn a_crash_at_each_point_of_an_install_leaves_the_old_state_or_the_new_one() {
    let rng = &mut Rng::new(5);
    let (mut points, mut old, mut new) = (0, 0, 0);
    // Beyond the log, within a log of another history, within one that holds the point.
    for (other, index) in [(false, 90), (true, 50), (false, 50)] {
        let digests = [10, index].map(|entries| machine(entries).digest());
        for on_raft in [false, true] {
            for at in 0.. {
                let host = Host::behind(other);
                let mut started = host.start().expect("the disks are sound");
                let disk = if on_raft { &host.raft } else { &host.state };
                disk.power_off_after(at);
                let done = install(&mut started, index).is_ok();
                for _ in 0..IMAGES {
                    let mut image = host.crash(rng);
                    // And again in the recovery after it.
                    for _ in 0..rng.below(3) {
                        image.raft.power_off_after(rng.below(10));
                        image.state.power_off_after(rng.below(10));
                        let _ = image.start();
                        image = image.crash(rng);
                    }
                    let context = format!("{other} {index} {on_raft} at {at}");
                    let found = image.start().unwrap_or_else(|error| panic!("{context}: {error}"));
                    let machine = StateMachine::restore(found.rows).expect("it is whole");
                    let is_new = machine.digest() == digests[1];
                    assert!(is_new || (!done && machine.digest() == digests[0]), "{context}");
                    let cut = found.log.cut;
                    assert_eq!(
                        cut.index,
                        if is_new { Index(index) } else { Index(0) },
                        "{context}"
                    );
                    let first = found.log.entries.first();
                    if is_new {
                        assert_eq!(cut.membership, point(index).membership, "{context}");
                        assert!(first.is_none_or(|first| first.index == Index(index + 1)));
                        let stays = first.is_none_or(|first| first.term != Term(2));
                        assert!(stays, "{context}: entries of another history stay");
                        new += 1;
                    } else {
                        assert_eq!(found.log.entries.len(), 60, "{context}");
                        old += 1;
                    }
                }
                points += 1;
                if done {
                    break;
                }
            }
        }
    }
    assert!(old > 30 && new > 30, "{old} old, {new} new");
    eprintln!("install: {points} crash points, {IMAGES} images each: {old} old, {new} new");
}

#[test]
fn the_log_behind_an_installed_state_stays_only_when_it_holds_the_point() {
    // In the rows, in the tail; another term at the point; beyond the end.
    for (index, term, first) in [(30, 2, 31), (58, 3, 59), (30, 9, 0), (58, 9, 0), (70, 4, 0)] {
        let host = Host::behind(false);
        let mut started = host.start().expect("the disks are sound");
        let small = run_of(57, 60, term_of);
        let small = LogBatch { entries: vec![small], must_sync: true, ..LogBatch::default() };
        started.raft.write(&small).expect("the disks are sound");
        let begin = Cut { index: Index(index), term: Term(term), membership: None };
        let begin = Some(Box::new(begin));
        let hard_state = Some(HardState { term: Term(9), ..HardState::default() });
        let batch = LogBatch { begin, hard_state, must_sync: true, ..LogBatch::default() };
        started.raft.write(&batch).expect("the disks are sound");
        drop(started);
        let (_, log) = RaftStore::create_or_open(host.raft.clone(), identity).expect("it is whole");
        assert_eq!(log.cut.index, Index(index));
        let found = log.entries.first().map_or(0, |entry| entry.index.get());
        assert_eq!(found, first, "at {index} of term {term}");
        assert_eq!(log.entries.last().map_or(0, |entry| entry.index.get()), first.min(1) * 60);
    }
}

#[test]
fn a_full_disk_at_any_point_of_an_install_keeps_the_old_state() {
    let host = Host::behind(false);
    let mut started = host.start().expect("the disks are sound");
    let rows = rows_of(machine(90));
    host.state.set_full(true);
    let full = started.state.install(rows.iter(), &point(90));
    assert!(matches!(full, Err(StorageError::Full { .. })), "{full:?}");
    let latched = started.state.save(&[]);
    assert!(matches!(latched, Err(StorageError::Latched { .. })), "{latched:?}");
    host.state.set_full(false);
    drop(started);
    let mut started = host.start().expect("the old state is whole");
    assert_eq!(meta(&started.rows).map(|meta| meta.applied_index), Some(Index(10)));
    started.state.install(rows.iter(), &point(90)).expect("there is room again");
    drop(started);
    let started = host.start().expect("the new state is whole");
    let restored = StateMachine::restore(started.rows).expect("it is whole");
    assert_eq!(restored.digest(), machine(90).digest());
    assert_eq!(started.log.cut, point(90));
}

#[test]
fn an_installed_state_is_the_base_of_later_saves() {
    let host = Host::behind(true);
    let mut started = host.start().expect("the disks are sound");
    install(&mut started, 50).expect("the disks are sound");
    assert_eq!(started.state.installed(), None, "a save says that the log has followed");
    drop(started);
    let started = host.start().expect("the disks are sound");
    assert_eq!(started.state.installed(), None, "and so it is on disk");
    // A log that is older than the state is refused again, as without an install.
    let older = RecoveredLog { cut: Cut::default(), entries: Vec::new(), ..started.log.clone() };
    let meta = Meta { applied_index: Index(50), applied_term: Term(3), ..Meta::default() };
    assert!(matches!(check(&older, Some(&meta)), Err(StorageError::Mismatch { .. })));
}

#[test]
fn a_state_that_contradicts_what_was_committed_is_refused() {
    let host = Host::behind(true);
    let mut started = host.start().expect("the disks are sound");
    let hard_state = Some(HardState { term: Term(4), vote: None, commit: Index(55) });
    let batch = LogBatch { hard_state, must_sync: true, ..LogBatch::default() };
    started.raft.write(&batch).expect("the disks are sound");
    started.state.install(rows_of(machine(50)).iter(), &point(50)).expect("the disks are sound");
    drop(started);
    let refused = host.start().map(drop);
    assert!(matches!(refused, Err(StorageError::Mismatch { .. })), "{refused:?}");
}

#[test]
fn a_term_that_was_not_written_before_the_state_is_made_up_for() {
    let host = Host::behind(false);
    let mut started = host.start().expect("the disks are sound");
    let rows = rows_of(machine(90));
    started.state.install(rows.iter(), &point(90)).expect("the disks are sound");
    drop(started);
    let started = host.start().expect("the recorded term is older than that of the state");
    assert_eq!(started.log.hard_state.term, term_of(90));
    assert_eq!(started.log.entries, []);
}

#[test]
fn a_snapshot_stays_what_it_was_and_is_resumed_at_any_row() {
    let host = Host::behind(false);
    let mut started = host.start().expect("the disks are sound");
    let mut machine = machine(10);
    let snapshot = started.state.snapshot().expect("the disks are sound").expect("one was saved");
    machine.take_row_changes();
    for number in 11..=40 {
        machine.skip(Index(number), term_of(number));
        started.state.save(&machine.take_row_changes()).expect("the disks are sound");
    }
    started.state.install(rows_of(self::machine(90)).iter(), &point(90)).expect("they are sound");
    assert_eq!(snapshot.meta().applied_index, Index(10));
    let whole = snapshot.chunk(None, usize::MAX).expect("the disks are sound");
    assert!(whole.is_last && whole.rows.len() as u64 == snapshot.rows());
    let expected: Vec<StoredRow> = rows_of(self::machine(10));
    assert_eq!(whole.rows, expected);
    for bytes_max in [0, 1, 500, 2_000] {
        let (mut rows, mut after) = (Vec::new(), None::<Bytes>);
        loop {
            let chunk = snapshot.chunk(after.as_deref(), bytes_max).expect("the disks are sound");
            let bytes: usize = chunk.rows.iter().map(StoredRow::size_bytes).sum();
            assert!(bytes <= bytes_max || chunk.rows.len() == 1, "{bytes} bytes in one chunk");
            rows.extend(chunk.rows);
            after = rows.last().map(|row| row.key.clone());
            if chunk.is_last {
                break;
            }
        }
        assert_eq!(rows, expected, "at most {bytes_max} bytes at once");
    }
    let empty = StateStore::create_or_open(Disk::new(), &identity()).expect("it is new").0;
    assert!(empty.snapshot().expect("the disks are sound").is_none());
}
