//! Power cuts at every write and sync of the real storage code, and again inside recovery
//! (RELIABILITY F3, F4, F6, F10, C18): what is found is what was before the write in flight, or
//! after.

use std::collections::BTreeMap;

use super::disk::Disk;
use crate::base::{Boot, Index, NodeId, Rng, Term};
use crate::raft::{Entry, HardState, Payload};
use crate::state::{Row, RowChange, RowKey};
use crate::storage::{
    Cut, Identity, LogBatch, PeerMark, RaftStore, RecoveredLog, StateStore, StorageError,
};
use crate::wire::{Genesis, samples_test as samples};

/// Images that are drawn of each crash: subsets of the writes that were not synced.
const IMAGES: u64 = 4;

fn identity(node: u64) -> Identity {
    Identity { node: NodeId(node), name: "alpha".to_owned(), cluster_name: "test".to_owned() }
}

fn open(disk: &Disk) -> Result<(RaftStore, RecoveredLog), StorageError> {
    RaftStore::create_or_open(disk.clone(), || identity(7))
}

/// What a log must hold, kept in the obvious way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    genesis: Option<Genesis>,
    hard_state: HardState,
    cut: Cut,
    entries: Vec<Entry>,
    marks: BTreeMap<NodeId, PeerMark>,
}

#[derive(Clone, Debug)]
enum Step {
    Cluster(Genesis, LogBatch),
    Genesis(Genesis),
    Write(LogBatch),
}

impl Model {
    fn of(log: &RecoveredLog) -> Self {
        Self {
            genesis: log.genesis.clone(),
            hard_state: log.hard_state,
            cut: log.cut.clone(),
            entries: log.entries.clone(),
            marks: log.marks.iter().map(|mark| (mark.node, *mark)).collect(),
        }
    }

    fn last(&self) -> Index {
        self.entries.last().map_or(self.cut.index, |entry| entry.index)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Cluster(genesis, batch) => {
                self.genesis = Some(genesis.clone());
                self.marks.clear();
                self.apply(&Step::Write(batch.clone()));
            }
            Step::Genesis(genesis) => self.genesis = Some(genesis.clone()),
            Step::Write(batch) => {
                self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
                for append in &batch.entries {
                    if let Some(first) = append.first() {
                        self.entries.retain(|entry| entry.index < first.index);
                        self.entries.extend_from_slice(append);
                    }
                }
                if let Some(cut) = &batch.cut {
                    self.entries.retain(|entry| entry.index > cut.index);
                    self.cut = cut.clone();
                }
                self.marks.extend(batch.marks.iter().map(|mark| (mark.node, *mark)));
            }
        }
    }
}

fn perform(store: &mut RaftStore, step: &Step) -> Result<(), StorageError> {
    match step {
        Step::Cluster(genesis, batch) => store.start_cluster(genesis, batch),
        Step::Genesis(genesis) => store.set_genesis(genesis),
        Step::Write(batch) => store.write(batch),
    }
}

fn run_of(first: u64, count: u64, term: u64, bytes: usize) -> Vec<Entry> {
    let entry = |index| Entry {
        term: Term(term),
        index: Index(index),
        payload: Payload::Command(vec![index as u8; bytes].into()),
    };
    (first..first + count).map(entry).collect()
}

fn hard_state(term: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term: Term(term), vote: Some(NodeId(term)), commit: Index(commit) })
}

fn appended(entries: Vec<Entry>, term: u64, commit: u64) -> Step {
    let hard_state = hard_state(term, commit);
    Step::Write(LogBatch {
        hard_state,
        entries: vec![entries],
        must_sync: true,
        ..LogBatch::default()
    })
}

fn cut(index: u64, term: u64) -> Step {
    let cut = Cut { index: Index(index), term: Term(term), membership: None };
    Step::Write(LogBatch { cut: Some(cut), must_sync: true, ..LogBatch::default() })
}

/// Each kind of change, in and across tail and rows.
fn steps() -> Vec<Step> {
    let rng = &mut Rng::new(1);
    let mark = PeerMark {
        node: NodeId(9),
        boot: Boot(2),
        term: Term(1),
        last_term: Term(1),
        last_index: Index(4),
    };
    vec![
        Step::Genesis(samples::genesis(rng)),
        appended(run_of(1, 1, 1, 310), 1, 0),
        appended(run_of(2, 3, 1, 310), 1, 1),
        // Truncates within the tail.
        appended(run_of(3, 4, 2, 310), 2, 2),
        // Moves the tail into a row.
        appended(run_of(7, 8, 2, 310), 2, 6),
        Step::Write(LogBatch { marks: vec![mark], must_sync: true, ..LogBatch::default() }),
        // Several rows at once.
        appended(run_of(15, 400, 2, 310), 2, 14),
        appended(run_of(415, 2, 2, 310), 2, 14),
        // Truncates in the middle of a row, below the tail.
        appended(run_of(300, 2, 3, 310), 3, 299),
        // Two appends in one write, the second rewrites a part of the first.
        Step::Write(LogBatch {
            hard_state: hard_state(4, 301),
            entries: vec![run_of(302, 5, 3, 310), vec![], run_of(304, 2, 4, 310)],
            must_sync: true,
            ..LogBatch::default()
        }),
        // Behind whole rows, in the middle of another.
        cut(210, 2),
        cut(303, 3),
        // Append and cut in one write; the cut reaches into the append.
        Step::Write(LogBatch {
            hard_state: hard_state(4, 308),
            entries: vec![run_of(306, 5, 4, 310)],
            cut: Some(Cut { index: Index(307), term: Term(4), membership: None }),
            must_sync: true,
            ..LogBatch::default()
        }),
        // A saved state from elsewhere, beyond the log, and an entry after it.
        Step::Write(LogBatch {
            hard_state: hard_state(6, 900),
            entries: vec![run_of(901, 1, 6, 5_000)],
            cut: Some(Cut {
                index: Index(900),
                term: Term(5),
                membership: Some(samples::membership(rng)),
            }),
            must_sync: true,
            ..LogBatch::default()
        }),
        appended(run_of(901, 1, 7, 0), 7, 900),
        // Another cluster goes on with this log: identity, log, hard state and marks together.
        Step::Cluster(
            samples::genesis(rng),
            LogBatch {
                hard_state: hard_state(8, 903),
                entries: vec![run_of(902, 2, 8, 100)],
                must_sync: true,
                ..LogBatch::default()
            },
        ),
        appended(run_of(904, 1, 9, 310), 9, 903),
    ]
}

/// Opens `disk` as the next start would; panics with the reason when it is refused.
fn reopened(disk: &Disk, context: &str) -> RecoveredLog {
    match open(disk) {
        Ok((_, log)) => log,
        Err(error) => panic!("{context}: refused to open: {error}"),
    }
}

/// Cuts the power in the middle of opening `image`, `times` times, and returns what is left.
fn crashed_while_opening(image: Disk, times: u32, rng: &mut Rng) -> Disk {
    let mut image = image;
    for _ in 0..times {
        let at = rng.below(12);
        image.power_off_after(at);
        let opened = open(&image);
        image = image.crash(rng);
        drop(opened);
    }
    image
}

#[test]
fn a_crash_at_each_write_and_sync_leaves_before_or_after() {
    let steps = steps();
    let rng = &mut Rng::new(2);
    let (mut points, mut after_seen, mut before_seen) = (0, 0, 0);
    for number in 0..steps.len() {
        let mut at = 0;
        loop {
            let disk = Disk::new();
            let (mut store, log) = open(&disk).unwrap();
            let mut before = Model::of(&log);
            for step in &steps[..number] {
                perform(&mut store, step).unwrap();
                before.apply(step);
            }
            let mut after = before.clone();
            after.apply(&steps[number]);
            disk.power_off_after(at);
            let acknowledged = perform(&mut store, &steps[number]).is_ok();
            assert!(acknowledged || store.write(&LogBatch::default()).is_err(), "not latched");
            for _ in 0..IMAGES {
                let image = disk.crash(rng);
                let image = crashed_while_opening(image, rng.below(3) as u32, rng);
                let context = format!("step {number}, power cut at change {at}");
                let found = Model::of(&reopened(&image, &context));
                if acknowledged || found != before {
                    assert!(found == after, "{context}: neither before nor after");
                    after_seen += 1;
                } else {
                    before_seen += 1;
                }
            }
            points += 1;
            at += 1;
            if acknowledged {
                break;
            }
        }
    }
    assert!(before_seen > 50 && after_seen > 50, "{before_seen} before, {after_seen} after");
    eprintln!(
        "raft.redb: {points} crash points, {IMAGES} images each: {before_seen} found as before, \
         {after_seen} as after"
    );
}

#[test]
fn a_crash_while_the_file_is_made_leaves_nothing_or_all() {
    let rng = &mut Rng::new(3);
    let mut points = 0;
    for at in 0.. {
        let disk = Disk::new();
        disk.power_off_after(at);
        let first = RaftStore::create_or_open(disk.clone(), || identity(1));
        for _ in 0..IMAGES * 4 {
            let image = crashed_while_opening(disk.crash(rng), rng.below(3) as u32, rng);
            let log = reopened(&image, &format!("made, power cut at change {at}"));
            let made = first.as_ref().ok().map(|(_, log)| log.boot);
            assert!(made.is_none() || log.identity == identity(1), "another identity was drawn");
            assert!(log.boot > made.unwrap_or(Boot(0)), "a boot was counted twice");
            let model = Model { marks: BTreeMap::new(), ..Model::default() };
            assert_eq!(Model::of(&log), model);
        }
        points += 1;
        if first.is_ok() {
            break;
        }
    }
    eprintln!("raft.redb: {points} crash points while it is made");
}

/// A long life with many crashes: what is found after each is the model's, before or after.
#[test]
fn a_life_of_random_writes_and_crashes_agrees_with_the_model() {
    let mut crashes = 0;
    for seed in 0..12 {
        let rng = &mut Rng::new(seed);
        let mut disk = Disk::new();
        let (mut store, log) = open(&disk).unwrap();
        let (mut model, mut boot) = (Model::of(&log), log.boot);
        for number in 0..60 {
            let step = random_step(&model, rng);
            let crash = rng.chance(1, 4);
            if crash {
                disk.power_off_after(rng.below(10));
            }
            let mut after = model.clone();
            after.apply(&step);
            let acknowledged = perform(&mut store, &step).is_ok();
            if !crash {
                assert!(acknowledged, "seed {seed}, step {number}: failed without a fault");
                model = after;
                continue;
            }
            crashes += 1;
            let times = rng.below(3) as u32;
            disk = crashed_while_opening(disk.crash(rng), times, rng);
            let (next, log) = open(&disk)
                .unwrap_or_else(|error| panic!("seed {seed}, step {number}: refused: {error}"));
            store = next;
            let found = Model::of(&log);
            assert!(
                found == after || (!acknowledged && found == model),
                "seed {seed}, step {number}: neither before nor after"
            );
            assert!(log.boot > boot, "seed {seed}, step {number}: a boot was counted twice");
            (model, boot) = (found, log.boot);
        }
    }
    assert!(crashes > 100, "only {crashes} crashes");
    eprintln!("raft.redb: {crashes} random crashes");
}

fn random_step(model: &Model, rng: &mut Rng) -> Step {
    let state = model.hard_state;
    let mut batch = LogBatch { must_sync: true, ..LogBatch::default() };
    let last = model.last();
    let mut term = state.term.0.max(1);
    if rng.chance(5, 6) {
        let uncommitted = last.0 - state.commit.0.max(model.cut.index.0);
        let first = last.0 + 1 - if rng.chance(1, 3) { rng.below(uncommitted + 1) } else { 0 };
        term += u64::from(first <= last.0);
        let count = *[1, 1, 1, 3, 20, 300].get(rng.below(6) as usize).unwrap();
        let bytes = *[0, 310, 310, 3_000].get(rng.below(4) as usize).unwrap();
        batch.entries.push(run_of(first, count, term, bytes));
    }
    let mut after = model.clone();
    after.apply(&Step::Write(batch.clone()));
    let known = state.commit.0.max(model.cut.index.0);
    let commit = rng.between(known, after.last().0);
    batch.hard_state = hard_state(term, commit);
    if rng.chance(1, 6) && commit > model.cut.index.0 {
        let index = Index(rng.between(model.cut.index.0 + 1, commit));
        let term = after.entries.iter().find(|entry| entry.index == index).unwrap().term;
        batch.cut = Some(Cut { index, term, membership: None });
    }
    Step::Write(batch)
}

#[test]
fn a_crash_at_each_point_of_a_save_leaves_before_or_after() {
    let rng = &mut Rng::new(4);
    let owner = identity(7);
    let saves: Vec<Vec<RowChange>> = (0..6)
        .map(|save| {
            (0..30)
                .map(|kind| {
                    let (key, row) = samples::row(&mut Rng::new(kind % 23 + save / 2), kind);
                    let row = if (kind + save) % 5 == 0 { None } else { Some(row) };
                    RowChange { key, row }
                })
                .collect()
        })
        .collect();
    let (mut points, mut after_seen, mut before_seen) = (0, 0, 0);
    for number in 0..saves.len() {
        for at in 0.. {
            let disk = Disk::new();
            let (mut store, rows) = StateStore::create_or_open(disk.clone(), &owner).unwrap();
            let mut before: BTreeMap<RowKey, Row> = rows.into_iter().collect();
            for changes in &saves[..number] {
                store.save(changes).unwrap();
                change(&mut before, changes);
            }
            let mut after = before.clone();
            change(&mut after, &saves[number]);
            disk.power_off_after(at);
            let acknowledged = store.save(&saves[number]).is_ok();
            for _ in 0..IMAGES {
                let mut image = disk.crash(rng);
                if rng.chance(1, 2) {
                    image.power_off_after(rng.below(12));
                    let opened = StateStore::create_or_open(image.clone(), &owner);
                    image = image.crash(rng);
                    drop(opened);
                }
                let (_, rows) = StateStore::create_or_open(image, &owner)
                    .unwrap_or_else(|error| panic!("save {number}, change {at}: {error}"));
                let found: BTreeMap<RowKey, Row> = rows.into_iter().collect();
                if acknowledged || found != before {
                    assert!(found == after, "save {number}, change {at}: neither before nor after");
                    after_seen += 1;
                } else {
                    before_seen += 1;
                }
            }
            points += 1;
            if acknowledged {
                break;
            }
        }
    }
    assert!(before_seen > 20 && after_seen > 20, "{before_seen} before, {after_seen} after");
    eprintln!(
        "state.redb: {points} crash points, {IMAGES} images each: {before_seen} found as before, \
         {after_seen} as after"
    );
}

fn change(rows: &mut BTreeMap<RowKey, Row>, changes: &[RowChange]) {
    for change in changes {
        match &change.row {
            Some(row) => rows.insert(change.key.clone(), row.clone()),
            None => rows.remove(&change.key),
        };
    }
}

/// One operation fails and the next ones work again, as on a disk with a bad moment (RELIABILITY
/// F2, F3): the handle stays latched, and a new one finds before or after.
#[test]
fn a_single_failed_operation_latches_the_store() {
    let steps = steps();
    let mut points = 0;
    for number in 1..steps.len() {
        for at in 0.. {
            let disk = Disk::new();
            let (mut store, log) = open(&disk).unwrap();
            let mut before = Model::of(&log);
            for step in &steps[..number] {
                perform(&mut store, step).unwrap();
                before.apply(step);
            }
            let mut after = before.clone();
            after.apply(&steps[number]);
            disk.fail_after(at);
            let Err(error) = perform(&mut store, &steps[number]) else {
                break;
            };
            assert!(
                matches!(error, StorageError::Io { .. } | StorageError::Sync { .. }),
                "step {number}, change {at}: {error}"
            );
            let latched = perform(&mut store, &steps[number]);
            assert!(matches!(latched, Err(StorageError::Latched { .. })), "{latched:?}");
            drop(store);
            let found = Model::of(&reopened(&disk, &format!("step {number}, change {at} failed")));
            assert!(found == before || found == after, "step {number}, change {at}");
            points += 1;
        }
    }
    eprintln!("raft.redb: {points} single failures");
}
