//! One simulated host: its clocks, its two disks, and the process that runs on it, if one does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use quorumd::base::{Epoch, Instant, NodeId, Rng};
use quorumd::raft::PersistToken;
use quorumd::replica::{Event, Options, Recovery, Replica, Roster, Ticket, View};
use quorumd::state::{Row, RowChange, StateMachine};
use quorumd::storage::{Identity, LogBatch, RaftStore, StateStore, check};
use quorumd::wire::Genesis;

use crate::clocks::Clock;
use crate::disk::Disk;
use crate::shadow::Shadow;

/// The name of every simulated cluster.
pub const CLUSTER: &str = "sim";

/// One host.
pub struct Node {
    /// Its incarnation.
    pub id: NodeId,
    /// Its clocks.
    pub clock: Clock,
    /// Holds `raft.redb`.
    pub raft_disk: Disk,
    /// Holds `state.redb`.
    pub state_disk: Disk,
    /// What `raft.redb` must hold.
    pub durable: Shadow,
    /// Grows with each start.
    pub life: u64,
    /// A stopped process handles nothing.
    pub paused: bool,
    /// What arrived while it was stopped.
    pub inbox: Vec<Event>,
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
    /// `raft.redb`.
    pub raft_store: RaftStore,
    /// `state.redb`.
    pub state_store: StateStore,
    /// What was handed out to be written.
    pub issued: Shadow,
    /// The write under way.
    pub writing: Option<(PersistToken, LogBatch)>,
    /// Those behind it.
    pub writes: VecDeque<(PersistToken, LogBatch)>,
    /// The save under way.
    pub saving: Option<Vec<RowChange>>,
    /// Whether a poll is planned.
    pub poll_planned: bool,
    /// When the replica's own deadline is looked after.
    pub wake: Option<u64>,
    /// How often in a row it had a deadline that had passed already.
    pub stuck: u32,
    /// Requests that were not answered, for the property that each is.
    pub waiting: BTreeSet<Ticket>,
}

impl Node {
    /// A host that was never started.
    pub fn new(id: NodeId, clock: Clock) -> Self {
        Self {
            id,
            clock,
            raft_disk: Disk::new(),
            state_disk: Disk::new(),
            durable: Shadow::default(),
            life: 0,
            paused: false,
            inbox: Vec::new(),
            process: None,
        }
    }

    /// The name of its member.
    pub fn name(id: NodeId) -> String {
        format!("n{id}")
    }

    /// Whether events are handled now.
    pub fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// Starts the process from what the disks hold. `inflight` is the batch whose write the crash
    /// cut off: it is there whole or not at all.
    pub fn start(
        &mut self,
        now: u64,
        genesis: &Genesis,
        options: &Options,
        inflight: Option<&LogBatch>,
        rng: &mut Rng,
    ) {
        self.life += 1;
        let identity =
            Identity { node: self.id, name: Self::name(self.id), cluster_name: CLUSTER.to_owned() };
        let opened = RaftStore::create_or_open(self.raft_disk.clone(), || identity.clone());
        let (mut raft_store, mut log) =
            opened.unwrap_or_else(|error| panic!("n{} does not start: {error}", self.id));
        if log.genesis.is_none() {
            raft_store.set_genesis(genesis).expect("the simulated disk is sound");
            log.genesis = Some(genesis.clone());
        }
        self.check_recovered(&Shadow::of(&log), inflight);
        self.durable = Shadow::of(&log);
        let (state_store, rows) = StateStore::create_or_open(self.state_disk.clone(), &identity)
            .unwrap_or_else(|error| panic!("n{} does not start: {error}", self.id));
        let meta = rows.iter().find_map(|(_, row)| match row {
            Row::Meta(meta) => Some(meta),
            _ => None,
        });
        check(&log, meta).unwrap_or_else(|error| panic!("n{} does not start: {error}", self.id));
        let machine = if rows.is_empty() {
            StateMachine::new(Epoch(1))
        } else {
            StateMachine::restore(rows).expect("rows that were saved can be restored")
        };
        let recovery = Recovery { log, machine: Some(machine) };
        let at: Instant = self.clock.instant(now);
        let replica = Replica::recover(recovery, options.clone(), rng.fork(), at)
            .unwrap_or_else(|error| panic!("n{} does not start: {error}", self.id));
        self.process = Some(Process {
            view: replica.shared_view(),
            roster: replica.shared_roster(),
            replica,
            raft_store,
            state_store,
            issued: self.durable.clone(),
            writing: None,
            writes: VecDeque::new(),
            saving: None,
            poll_planned: false,
            wake: None,
            stuck: 0,
            waiting: BTreeSet::new(),
        });
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

    /// Cuts the power. Returns the batch whose write was under way.
    pub fn crash(&mut self, rng: &mut Rng) -> Option<LogBatch> {
        let mut process = self.process.take()?;
        let inflight = process.writing.take().map(|(_, batch)| batch);
        if let Some(batch) = &inflight
            && rng.chance(2, 3)
        {
            self.raft_disk.power_off_after(rng.below(12));
            // It fails where the power does, or has just become durable.
            let _ = process.raft_store.write(batch);
        }
        if let Some(changes) = process.saving.take()
            && rng.chance(2, 3)
        {
            self.state_disk.power_off_after(rng.below(16));
            let _ = process.state_store.save(&changes);
        }
        self.raft_disk = self.raft_disk.crash(rng);
        self.state_disk = self.state_disk.crash(rng);
        self.paused = false;
        self.inbox.clear();
        inflight
    }
}
