//! Power cuts where `crash_test.rs` has none: while the state's file is made, at each point of
//! opening a file again and of the recovery after that, and across both files of a directory. Then
//! disks that fill up at each write, and rot under a running process (RELIABILITY 3G).

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::disk::Disk;
use super::rot_test::{appended, entries, everything, identity, live_a_little, write_log};
use crate::base::{Boot, Epoch, Index, NodeId, RequestId, Rng, Sequence, Term, WallMillis};
use crate::raft::HardState;
use crate::state::{Command, Condition, Meta, Operation, Row, RowChange, RowKey, StateMachine};
use crate::storage::{Cut, LogBatch, RaftStore, RecoveredLog, StateStore, StorageError, check};

/// Images that are drawn of each crash.
const IMAGES: u64 = 3;

type Rows = BTreeMap<RowKey, Row>;

fn open_log(disk: &Disk) -> Result<(RaftStore, RecoveredLog), StorageError> {
    RaftStore::create_or_open(disk.clone(), identity)
}

fn open_rows(disk: &Disk) -> Result<(StateStore, Rows), StorageError> {
    let (store, rows) = StateStore::create_or_open(disk.clone(), &identity())?;
    Ok((store, rows.into_iter().collect()))
}

#[test]
fn a_crash_while_the_state_file_is_made_leaves_nothing_or_all() {
    let rng = &mut Rng::new(1);
    let mut points = 0;
    for at in 0.. {
        let disk = Disk::new();
        disk.power_off_after(at);
        let made = open_rows(&disk).is_ok();
        for _ in 0..IMAGES * 4 {
            let image = disk.crash(rng);
            let (mut store, rows) = open_rows(&image)
                .unwrap_or_else(|error| panic!("power cut at change {at}: {error}"));
            assert!(rows.is_empty(), "change {at}: rows from nowhere");
            let mut state = StateMachine::new(Epoch(1));
            live_a_little(&mut state, &mut 0);
            store.save(&state.take_row_changes()).expect("it can be used as if nothing was");
        }
        points += 1;
        if made {
            break;
        }
    }
    eprintln!("state.redb: {points} crash points while it is made");
}

/// Opens `image` with the power cut at each point of opening, and again at each point of the
/// opening after that. Whatever the first opening that came to its end has read is what every later
/// one reads: a node that has acted on it does not find something else after the next crash
/// (RELIABILITY F4). Returns the number of crash points.
fn crash_in_recovery<T: Clone + Debug + PartialEq>(
    image: &Disk,
    allowed: &[T],
    open: &dyn Fn(&Disk) -> Result<T, StorageError>,
    depth: u32,
    rng: &mut Rng,
) -> u32 {
    let content = image.content();
    let mut points = 0;
    for at in 0.. {
        let disk = Disk::with_content(content.clone());
        disk.power_off_after(at);
        let opened = open(&disk);
        points += 1;
        let settled = opened.as_ref().ok().map(std::slice::from_ref);
        for _ in 0..if depth == 0 { IMAGES } else { 1 } {
            let left = disk.crash(rng);
            if depth > 0 {
                points +=
                    crash_in_recovery(&left, settled.unwrap_or(allowed), open, depth - 1, rng);
                continue;
            }
            let found = open(&left)
                .unwrap_or_else(|error| panic!("power cut at change {at} of opening: {error}"));
            let known = settled.unwrap_or(allowed).contains(&found);
            assert!(known, "power cut at change {at} of opening: other content");
        }
        if opened.is_ok() {
            return points;
        }
    }
    unreachable!("opening ends")
}

fn log_without_boot(disk: &Disk) -> Result<RecoveredLog, StorageError> {
    let (_, mut log) = open_log(disk)?;
    log.boot = Boot(0);
    Ok(log)
}

#[test]
fn a_crash_at_each_point_of_opening_and_of_the_next_opening_keeps_the_log() {
    let rng = &mut Rng::new(2);
    let base = Disk::new();
    let (mut store, _) = open_log(&base).unwrap();
    write_log(&mut store);
    drop(store);
    let base = base.content();
    let before = log_without_boot(&Disk::with_content(base.clone())).unwrap();
    let after = {
        let disk = Disk::with_content(base.clone());
        open_log(&disk).unwrap().0.write(&appended(68, 30, 67)).unwrap();
        log_without_boot(&disk).unwrap()
    };
    let stopped = Disk::with_content(base.clone());
    let mut points =
        crash_in_recovery(&stopped, std::slice::from_ref(&before), &log_without_boot, 1, rng);
    for at in 0.. {
        let disk = Disk::with_content(base.clone());
        let (mut store, _) = open_log(&disk).unwrap();
        disk.power_off_after(at);
        let acknowledged = store.write(&appended(68, 30, 67)).is_ok();
        let both = [after.clone(), before.clone()];
        let allowed = if acknowledged { &both[..1] } else { &both[..] };
        // Twice at each point is a minute's work.
        let depth = u32::from(everything() || at % 5 == 0);
        points += crash_in_recovery(&disk.crash(rng), allowed, &log_without_boot, depth, rng);
        if acknowledged {
            break;
        }
    }
    eprintln!("raft.redb: {points} crash points in recovery and in recovery from that");
}

#[test]
fn a_crash_at_each_point_of_opening_and_of_the_next_opening_keeps_the_state() {
    let rng = &mut Rng::new(3);
    let base = Disk::new();
    let (mut store, _) = open_rows(&base).unwrap();
    let (mut state, mut sequence) = (StateMachine::new(Epoch(1)), 0);
    live_a_little(&mut state, &mut sequence);
    store.save(&state.take_row_changes()).unwrap();
    drop(store);
    let base = base.content();
    live_a_little(&mut state, &mut sequence);
    let changes = state.take_row_changes();
    let open = |disk: &Disk| Ok(open_rows(disk)?.1);
    let before = open(&Disk::with_content(base.clone())).unwrap();
    let mut after = before.clone();
    change(&mut after, &changes);
    let mut points = 0;
    for at in 0.. {
        let disk = Disk::with_content(base.clone());
        let (mut store, _) = open_rows(&disk).unwrap();
        disk.power_off_after(at);
        let acknowledged = store.save(&changes).is_ok();
        let both = [after.clone(), before.clone()];
        let allowed = if acknowledged { &both[..1] } else { &both[..] };
        points += crash_in_recovery(&disk.crash(rng), allowed, &open, 0, rng);
        if acknowledged {
            break;
        }
    }
    eprintln!("state.redb: {points} crash points in recovery");
}

fn change(rows: &mut Rows, changes: &[RowChange]) {
    for change in changes {
        match &change.row {
            Some(row) => rows.insert(change.key.clone(), row.clone()),
            None => rows.remove(&change.key),
        };
    }
}

/// What a node does to its two files, in the order that `replica/` keeps: the log first, the state
/// up to what is durable there, the cut behind what is saved.
#[derive(Debug)]
enum Work {
    Append { first: u64, count: u64, commit: u64 },
    Cut(u64),
    Save(Vec<RowChange>),
}

fn work() -> Vec<Work> {
    let (mut state, mut sequence, mut all) = (StateMachine::new(Epoch(1)), 0, Vec::new());
    for _ in 0..3 {
        let first = sequence + 1;
        live_a_little(&mut state, &mut sequence);
        let count = sequence - first + 1;
        all.push(Work::Append { first, count, commit: sequence });
        all.push(Work::Save(state.take_row_changes()));
        all.push(Work::Cut(sequence - 5));
        all.push(Work::Cut(sequence));
    }
    all
}

fn perform(log: &mut RaftStore, state: &mut StateStore, work: &Work) -> Result<(), StorageError> {
    match work {
        Work::Append { first, count, commit } => log.write(&appended(*first, *count, *commit)),
        Work::Cut(index) => {
            let cut = Cut { index: Index(*index), term: Term(3), membership: None };
            log.write(&LogBatch { cut: Some(cut), must_sync: true, ..LogBatch::default() })
        }
        Work::Save(changes) => state.save(changes),
    }
}

/// Both files lose power in the same moment, whatever either of them was doing: the directory makes
/// a node that has everything that was acknowledged.
#[test]
fn a_crash_at_each_point_leaves_two_files_that_fit_together() {
    let rng = &mut Rng::new(4);
    let all = work();
    let mut points = 0;
    for number in 0..all.len() {
        for at in 0.. {
            let (log_disk, state_disk) = (Disk::new(), Disk::new());
            let (mut log, _) = open_log(&log_disk).unwrap();
            let (mut state, _) = open_rows(&state_disk).unwrap();
            let (mut last, mut rows, mut cut) = (0, Rows::new(), 0);
            for work in &all[..number] {
                perform(&mut log, &mut state, work).unwrap();
                match work {
                    Work::Append { first, count, .. } => last = first + count - 1,
                    Work::Cut(index) => cut = *index,
                    Work::Save(changes) => change(&mut rows, changes),
                }
            }
            let busy = match all[number] {
                Work::Save(_) => &state_disk,
                Work::Append { .. } | Work::Cut(_) => &log_disk,
            };
            busy.power_off_after(at);
            let acknowledged = perform(&mut log, &mut state, &all[number]).is_ok();
            for _ in 0..IMAGES {
                let (log_image, state_image) = (log_disk.crash(rng), state_disk.crash(rng));
                let (_, log) = open_log(&log_image).unwrap();
                let (_, found) = open_rows(&state_image).unwrap();
                let meta = match found.get(&RowKey::Meta) {
                    Some(Row::Meta(meta)) => Some(meta),
                    _ => None,
                };
                let context = format!("step {number}, change {at}");
                check(&log, meta).unwrap_or_else(|error| panic!("{context}: {error}"));
                let ends = log.entries.last().map_or(log.cut.index, |entry| entry.index);
                assert!(ends.0 >= last, "{context}: entries are lost");
                assert!(log.cut.index.0 >= cut, "{context}: a cut is undone");
                assert!(meta.map_or(0, applied) >= applied_of(&rows), "{context}: a save is lost");
                let rest = StateMachine::restore(found.clone());
                assert!(found.is_empty() || rest.is_ok(), "{context}: {:?}", rest.err());
            }
            points += 1;
            if acknowledged {
                break;
            }
        }
    }
    eprintln!("both files: {points} crash points of checkpoints and cuts");
}

fn applied(meta: &Meta) -> u64 {
    meta.applied_index.0
}

fn applied_of(rows: &Rows) -> u64 {
    match rows.get(&RowKey::Meta) {
        Some(Row::Meta(meta)) => applied(meta),
        _ => 0,
    }
}

/// The disk fills up at each change of a write, a cut and a save: the error says so, and when there
/// is space again the file is opened anew and takes the same once more, as the threads of `node/`
/// do. Opening while there is no space says the same or succeeds, and harms nothing.
#[test]
fn a_disk_that_fills_up_at_any_point_is_told_and_recovered_from() {
    let mut points = 0;
    let batches: Vec<LogBatch> = vec![
        appended(68, 1, 67),
        appended(68, 400, 67),
        LogBatch {
            cut: Some(Cut { index: Index(69), term: Term(3), membership: None }),
            ..appended(68, 5, 67)
        },
    ];
    for batch in &batches {
        for at in 0.. {
            let disk = Disk::new();
            let (mut store, _) = open_log(&disk).unwrap();
            write_log(&mut store);
            disk.full_after(at);
            let Err(error) = store.write(batch) else { break };
            assert!(matches!(error, StorageError::Full { .. }), "change {at}: {error:?}");
            drop(store);
            let while_full = open_log(&disk).map(|_| ());
            assert!(
                matches!(while_full, Ok(()) | Err(StorageError::Full { .. })),
                "{while_full:?}"
            );
            disk.set_full(false);
            let (mut store, _) = open_log(&disk).unwrap();
            store.write(batch).unwrap();
            drop(store);
            let (_, log) = open_log(&disk).unwrap();
            let first = log.cut.index.0 + 1;
            let last = batch.entries[0].last().unwrap().index.0;
            assert_eq!(log.entries, entries(first, last - first + 1, 310), "change {at}");
            points += 1;
        }
    }
    for at in 0.. {
        let disk = Disk::new();
        let (mut store, _) = open_rows(&disk).unwrap();
        let (mut state, mut sequence) = (StateMachine::new(Epoch(1)), 0);
        live_a_little(&mut state, &mut sequence);
        store.save(&state.take_row_changes()).unwrap();
        live_a_little(&mut state, &mut sequence);
        let changes = state.take_row_changes();
        disk.full_after(at);
        let Err(error) = store.save(&changes) else { break };
        assert!(matches!(error, StorageError::Full { .. }), "change {at}: {error:?}");
        drop(store);
        let while_full = open_rows(&disk).map(|_| ());
        assert!(matches!(while_full, Ok(()) | Err(StorageError::Full { .. })), "{while_full:?}");
        disk.set_full(false);
        let (mut store, _) = open_rows(&disk).unwrap();
        store.save(&changes).unwrap();
        drop(store);
        let rows = open_rows(&disk).unwrap().1;
        assert_eq!(StateMachine::restore(rows).unwrap().digest(), state.digest(), "change {at}");
        points += 1;
    }
    assert!(points > 30, "only {points} points");
    eprintln!("both files: {points} points at which the disk was full");
}

/// The disk is full when the files are to be made.
#[test]
fn files_that_cannot_be_made_for_want_of_space_say_so() {
    for at in 0.. {
        let (log, state) = (Disk::new(), Disk::new());
        log.full_after(at);
        state.full_after(at);
        let errors = [open_log(&log).map(|_| ()).err(), open_rows(&state).map(|_| ()).err()];
        for error in errors.iter().flatten() {
            assert!(matches!(error, StorageError::Full { .. }), "change {at}: {error:?}");
        }
        log.set_full(false);
        state.set_full(false);
        open_log(&log).unwrap();
        open_rows(&state).unwrap();
        if errors.iter().all(Option::is_none) {
            break;
        }
    }
}

/// Rows of the log are read again when entries are replaced in the middle of one. A byte that
/// changed since the file was opened, in a page that redb no longer has in memory, ends the store.
#[test]
fn rot_under_a_running_process_is_found_when_a_row_is_read_again() {
    let disk = Disk::new();
    let (mut store, _) = open_log(&disk).unwrap();
    store.write(&appended(1, 150, 0)).unwrap();
    let marked = disk.content();
    let place =
        marked.windows(300).position(|bytes| bytes == [77; 300]).expect("entry 77 is there");
    // More than redb keeps.
    for first in (151..).step_by(3_000).take(40) {
        store.write(&appended(first, 3_000, 0)).unwrap();
    }
    disk.rot(place + 100, 0x10);
    let term = Term(4);
    let replaced = LogBatch {
        hard_state: Some(HardState { term, vote: None, commit: Index(0) }),
        entries: vec![entries(140, 1, 310)],
        must_sync: true,
        ..LogBatch::default()
    };
    let error = store.write(&replaced).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
    let error = store.write(&replaced).unwrap_err();
    assert!(matches!(error, StorageError::Latched { .. }), "{error:?}");
}

/// The rows of a snapshot are read long after the file was checked. A byte of a value that changed
/// since, in a page that redb no longer has in memory, is not sent to another node.
#[test]
fn rot_under_a_running_process_is_found_when_a_snapshot_is_read() {
    let disk = Disk::new();
    let (mut store, _) = open_rows(&disk).unwrap();
    let mut state = StateMachine::new(Epoch(1));
    let mut place = None;
    for number in 1..=80 {
        let operation = Operation::Put {
            key: vec![number].into(),
            value: vec![number; 400_000].into(),
            lease: None,
            condition: Condition::None,
        };
        let sequence = u64::from(number);
        let command = Command {
            request: RequestId { node: NodeId(1), boot: Boot(1), sequence: Sequence(sequence) },
            floor: Sequence(sequence),
            idempotency: None,
            operation,
        };
        state.apply(Index(sequence), Term(1), WallMillis(1), &command);
        store.save(&state.take_row_changes()).unwrap();
        place = place.or_else(|| disk.content().windows(300).position(|bytes| bytes == [1; 300]));
    }
    disk.rot(place.expect("the first value is there"), 0x10);
    let snapshot = store.snapshot().unwrap().expect("something was saved");
    let error = snapshot.chunk(None, usize::MAX).map(|_| ()).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
}
