//! One simulated host: its clocks, its two disks, and the process that runs on it, if one does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use quorumd::base::{Epoch, Index, Instant, NodeId, Rng};
use quorumd::raft::PersistToken;
use quorumd::replica::{Event, Options, Recovery, Replica, Roster, SnapshotDesk, Ticket, View};
use quorumd::state::{RestoreError, Row, StateMachine};
use quorumd::storage::{
    LogBatch, RaftStore, RecoveredLog, StateStore, StorageError, check, finish_install,
};
use quorumd::wire::Genesis;

use crate::clocks::Clock;
use crate::disk::Disk;
use crate::disks::StateWork;
use crate::shadow::Shadow;

/// The name of every simulated cluster.
pub const CLUSTER: &str = "sim";

/// One host.
pub struct Node {
    /// Its incarnation.
    pub id: NodeId,
    /// The name of its member.
    pub name: String,
    /// Its clocks.
    pub clock: Clock,
    /// Holds `raft.redb`.
    pub raft_disk: Disk,
    /// Holds `state.redb`.
    pub state_disk: Disk,
    /// What `raft.redb` must hold.
    pub durable: Shadow,
    /// Up to where the state is saved.
    pub saved: Index,
    /// Grows with each start.
    pub life: u64,
    /// A stopped process handles nothing.
    pub paused: bool,
    /// What arrived while it was stopped; of a message also when it was sent.
    pub inbox: Vec<(Option<u64>, Event)>,
    /// Nothing can be written.
    pub full: bool,
    /// How many times as long as usual a write takes at most.
    pub slowness: u64,
    /// A write was made to fail.
    pub faulty_disk: bool,
    /// A byte of a file is wrong at the next start: of the state's file or of the log's, which.
    pub rot: Option<(bool, u64)>,
    /// What it knows of its cluster; nothing while it is blank.
    pub genesis: Option<Genesis>,
    /// The process.
    pub process: Option<Process>,
}

/// A running process.
pub struct Process {
    /// The real thing.
    pub replica: Replica,
    /// What it shows.
    pub view: Arc<RwLock<View>>,
    /// Whom it lets in.
    pub roster: Arc<Mutex<Roster>>,
    /// `raft.redb`, unless it waits for space.
    pub raft_store: Option<RaftStore>,
    /// `state.redb`, unless it waits for space.
    pub state_store: Option<StateStore>,
    /// The last write found the disk full.
    pub raft_full: bool,
    /// The last save found the disk full.
    pub state_full: bool,
    /// What was handed out to be written.
    pub issued: Shadow,
    /// The write under way.
    pub writing: Option<(PersistToken, LogBatch)>,
    /// Those behind it.
    pub writes: VecDeque<(PersistToken, LogBatch)>,
    /// What is to be done with the state's file; the first is under way.
    pub state_work: VecDeque<StateWork>,
    /// Its open snapshots.
    pub desk: SnapshotDesk,
    /// Whether a poll is planned.
    pub poll_planned: bool,
    /// When the replica's own deadline is looked after.
    pub wake: Option<u64>,
    /// How often in a row it had a deadline that had passed already.
    pub stuck: u32,
    /// It takes nothing new any more.
    pub draining: bool,
    /// Requests that were not answered, for the property that each is.
    pub waiting: BTreeSet<Ticket>,
}

/// What the files of a host hold.
struct Files {
    raft_store: RaftStore,
    /// What the log's file held.
    found: Shadow,
    log: RecoveredLog,
    state_store: StateStore,
    machine: StateMachine,
}

impl Node {
    /// A host that was never started.
    pub fn new(id: NodeId, name: String, clock: Clock) -> Self {
        Self {
            id,
            name,
            clock,
            raft_disk: Disk::new(),
            state_disk: Disk::new(),
            durable: Shadow::default(),
            saved: Index(0),
            life: 0,
            paused: false,
            inbox: Vec::new(),
            full: false,
            slowness: 1,
            faulty_disk: false,
            rot: None,
            genesis: None,
            process: None,
        }
    }

    /// Whether it belongs to no cluster yet.
    pub fn blank(&self) -> bool {
        self.genesis.is_none()
    }

    /// Whether events are handled now.
    pub fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// Starts the process from what the disks hold; an error means that a fault of theirs is in its
    /// way.
    /// `inflight` is the batch whose write the crash cut off: it is there whole or not at all.
    pub fn start(
        &mut self,
        now: u64,
        options: &Options,
        inflight: Option<&LogBatch>,
        rng: &mut Rng,
    ) -> Result<(), StorageError> {
        let files = match self.open(&self.raft_disk, &self.state_disk) {
            Ok(files) => files,
            Err(StartError::Storage(error @ StorageError::Full { .. })) => return Err(error),
            Err(StartError::Storage(error)) if self.faulty_disk => {
                self.raft_disk = self.raft_disk.crash(rng);
                self.state_disk = self.state_disk.crash(rng);
                self.raft_disk.set_full(self.full);
                self.state_disk.set_full(self.full);
                self.faulty_disk = false;
                return Err(error);
            }
            Err(error) => panic!("invariant starts: n{} does not start: {error:?}", self.id),
        };
        self.life += 1;
        self.check_rot(&files);
        let Files { raft_store, found, log, state_store, machine } = files;
        self.check_recovered(&found, inflight);
        self.durable = Shadow::of(&log);
        self.check_saved(&machine);
        let recovery = Recovery { log, machine: Some(machine) };
        let at: Instant = self.clock.instant(now);
        let replica = Replica::recover(recovery, options.clone(), rng.fork(), at)
            .unwrap_or_else(|error| panic!("invariant starts: n{}: {error}", self.id));
        self.process = Some(Process {
            view: replica.shared_view(),
            roster: replica.shared_roster(),
            replica,
            raft_store: Some(raft_store),
            state_store: Some(state_store),
            raft_full: false,
            state_full: false,
            issued: self.durable.clone(),
            writing: None,
            writes: VecDeque::new(),
            state_work: VecDeque::new(),
            desk: SnapshotDesk::default(),
            poll_planned: false,
            wake: None,
            stuck: 0,
            draining: false,
            waiting: BTreeSet::new(),
        });
        Ok(())
    }

    fn open(&self, raft: &Disk, state: &Disk) -> Result<Files, StartError> {
        let genesis = self.genesis.as_ref().expect("a blank host is not started");
        let identity = self.identity();
        let opened = RaftStore::create_or_open(raft.clone(), || identity.clone());
        let (mut raft_store, mut log) = opened.map_err(StartError::Storage)?;
        if log.genesis.is_none() {
            raft_store.set_genesis(genesis).map_err(StartError::Storage)?;
            log.genesis = Some(genesis.clone());
        }
        let found = Shadow::of(&log);
        let opened = StateStore::create_or_open(state.clone(), &identity);
        let (state_store, rows) = opened.map_err(StartError::Storage)?;
        let meta = rows.iter().find_map(|(_, row)| match row {
            Row::Meta(meta) => Some(*meta),
            _ => None,
        });
        finish_install(&mut raft_store, &mut log, &state_store).map_err(StartError::Storage)?;
        check(&log, meta.as_ref()).map_err(StartError::Storage)?;
        let machine = if rows.is_empty() {
            StateMachine::new(Epoch(1))
        } else {
            StateMachine::restore(rows).map_err(StartError::State)?
        };
        Ok(Files { raft_store, found, log, state_store, machine })
    }

    /// A file of which one byte is wrong is refused, or holds the same (F8, F9: the byte means
    /// nothing). The host is then given its file back, as from a copy of the whole disk.
    fn check_rot(&mut self, sound: &Files) {
        let Some((of_state, place)) = self.rot.take() else { return };
        let disk = if of_state { &self.state_disk } else { &self.raft_disk };
        let mut content = disk.content();
        let at = (place % content.len() as u64) as usize;
        content[at] ^= 1 << (place % 8);
        let rotten = Disk::with_content(content);
        let copy = |disk: &Disk| Disk::with_content(disk.content());
        let opened = if of_state {
            self.open(&copy(&self.raft_disk), &rotten)
        } else {
            self.open(&rotten, &copy(&self.state_disk))
        };
        let Ok(files) = opened else { return };
        let same = Shadow::of(&files.log) == Shadow::of(&sound.log)
            && files.log.cut == sound.log.cut
            && files.machine.digest() == sound.machine.digest();
        crate::ensure!(
            same,
            "rot_found",
            "n{}: byte {at} of {} (state: {of_state}) is wrong, and is read as if it were right",
            self.id,
            disk.content().len()
        );
    }

    fn check_recovered(&self, found: &Shadow, inflight: Option<&LogBatch>) {
        let mut after = self.durable.clone();
        if let Some(batch) = inflight {
            after.apply(batch);
        }
        crate::ensure!(
            found.promises_as(&self.durable) || found.promises_as(&after),
            "log_survives_crash",
            "n{} was {:?}, would have been {:?}, is {:?}",
            self.id,
            (self.durable.hard_state, self.durable.entries.keys().last()),
            (after.hard_state, after.entries.keys().last()),
            (found.hard_state, found.entries.keys().last())
        );
    }

    /// What was saved is still saved (R13).
    fn check_saved(&mut self, machine: &StateMachine) {
        let found = machine.applied_index();
        crate::ensure!(
            found >= self.saved,
            "applied_monotone",
            "n{} had saved {} and starts at {found}",
            self.id,
            self.saved
        );
        self.saved = found;
    }

    /// Cuts the power. Returns the batch whose write was under way.
    pub fn crash(&mut self, rng: &mut Rng) -> Option<LogBatch> {
        let mut process = self.process.take()?;
        let inflight = process.writing.take().map(|(_, batch)| batch);
        if let Some(batch) = &inflight
            && let Some(store) = &mut process.raft_store
            && rng.chance(2, 3)
        {
            self.raft_disk.power_off_after(rng.below(12));
            // It fails where the power does, or has just become durable.
            let _ = store.write(batch);
        }
        if let Some(work) = process.state_work.pop_front()
            && let Some(store) = &mut process.state_store
            && rng.chance(2, 3)
        {
            self.state_disk.power_off_after(rng.below(16));
            let _ = match &work {
                StateWork::Save(changes) => store.save(changes),
                StateWork::Snapshot(job) => process.desk.perform(store, job).map(|_| ()),
            };
        }
        self.raft_disk = self.raft_disk.crash(rng);
        self.state_disk = self.state_disk.crash(rng);
        self.raft_disk.set_full(self.full);
        self.state_disk.set_full(self.full);
        self.ended();
        inflight
    }

    /// Ends the process in good order: what was handed out is written, and the files are closed.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        self.raft_disk.sound();
        self.state_disk.sound();
        let started = process.writing.take();
        for (_, batch) in started.into_iter().chain(process.writes.drain(..)) {
            let Some(store) = &mut process.raft_store else { break };
            if store.write(&batch).is_err() {
                break;
            }
            self.durable.apply(&batch);
        }
        if let Some(store) = &mut process.raft_store {
            // Like the daemon's, this fails on a full disk without harm.
            let _ = store.flush();
        }
        drop(process);
        self.ended();
    }

    fn ended(&mut self) {
        self.paused = false;
        self.faulty_disk = false;
        self.inbox.clear();
    }
}

/// Why a process does not start.
#[derive(Debug)]
#[allow(dead_code, reason = "shown by its Debug")]
enum StartError {
    Storage(StorageError),
    State(RestoreError),
}
