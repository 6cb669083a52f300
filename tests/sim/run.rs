//! One run: a time with faults, a time without, and what must be true then (K7).

use quorumd::raft::Role;
use quorumd::state::{Bind, Condition, Operation, QueueKind};

use crate::cluster::Cluster;
use crate::invariants::histories::Asked;
use crate::trace::Trace;
use crate::workload::{Purpose, read};

/// What a run was made of; runs in which nothing happened prove nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Things that happened.
    pub steps: u64,
    /// Faults.
    pub faults: u64,
    /// Crashes.
    pub crashes: u64,
    /// Simulated microseconds.
    pub micros: u64,
    /// Acknowledged writes.
    pub acked: u64,
    /// Served linearizable reads.
    pub reads: u64,
    /// Outcomes that were never learnt.
    pub unknown: u64,
    /// Terms with a leader.
    pub leaders: u64,
    /// New holders of locks.
    pub holders: u64,
    /// Revisions that watchers were sent.
    pub delivered: u64,
    /// Lines of trace.
    pub lines: u64,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        self.steps += other.steps;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.micros += other.micros;
        self.acked += other.acked;
        self.reads += other.reads;
        self.unknown += other.unknown;
        self.leaders += other.leaders;
        self.holders += other.holders;
        self.delivered += other.delivered;
        self.lines += other.lines;
    }
}

const SECOND: u64 = 1_000_000;

/// Runs one seed. Panics when something does not hold.
pub fn run(seed: u64, trace: Trace) -> Report {
    let mut cluster = Cluster::new(seed, trace);
    let faulty = cluster.rng.between(3 * SECOND, 7 * SECOND);
    cluster.run_until(faulty);
    cluster.end_faults();
    // Callers go on for a while; then they stop, and what they left behind must end by itself.
    cluster.run_until(cluster.now + 3 * SECOND);
    cluster.workload.over = true;
    cluster.begin_clients();
    cluster.run_until(cluster.now + 7 * SECOND);
    cluster.write_everywhere();
    cluster.run_until(cluster.now + SECOND);
    cluster.check_end();
    Report {
        steps: cluster.steps,
        faults: cluster.faults.count,
        crashes: cluster.faults.crashes,
        micros: cluster.now,
        acked: cluster.oracle.histories.acked,
        reads: cluster.oracle.histories.reads,
        unknown: cluster.oracle.histories.unknown,
        leaders: cluster.oracle.elections.count(),
        holders: cluster.oracle.holders.holders,
        delivered: cluster.workload.watchers.iter().map(|(w, _)| w.delivered).sum(),
        lines: cluster.trace.count(),
    }
}

impl Cluster {
    /// A fresh write through every node.
    fn write_everywhere(&mut self) {
        for node in 0..self.nodes.len() {
            self.workload.numbered += 1;
            let op = self.workload.numbered;
            let (key, value) = (bytes::Bytes::from("kend"), bytes::Bytes::from(format!("v{op}")));
            let asked = Asked::Put(key.clone(), value.clone(), Condition::None);
            let operation = Operation::Put { key, value, lease: None, condition: Condition::None };
            self.submit(0, node, (op, asked, Purpose::Write(None)), operation, None);
        }
    }

    fn check_end(&mut self) {
        let leader = self.leader();
        let last = self.oracle.committed.last();
        for host in &self.nodes {
            let process = host.process.as_ref().expect("all were started");
            let status = process.replica.status();
            crate::ensure!(
                status.leader.is_some() && status.leader == leader.map(|at| self.nodes[at].id),
                "converges",
                "n{} follows {:?} in term {}",
                host.id,
                status.leader,
                status.term
            );
            crate::ensure!(
                status.applied == last && status.last_index == last,
                "converges",
                "n{} has applied {} of {last}, its log ends at {}",
                host.id,
                status.applied,
                status.last_index
            );
            crate::ensure!(
                status.pending == 0 && process.waiting.is_empty(),
                "every_request_answered",
                "n{}: {} wait inside, {:?} outside",
                host.id,
                status.pending,
                process.waiting
            );
            crate::ensure!(status.ready, "converges", "n{} is not ready", host.id);
            let leads = process.replica.raft().role() == Role::Leader;
            crate::ensure!(leads == (status.leader == Some(host.id)), "converges", "n{}", host.id);
        }
        let end = self.oracle.truth.value_at(b"kend", quorumd::base::Revision(u64::MAX));
        crate::ensure!(end.0.is_some(), "converges", "no fresh write was committed");
        let machine = self.oracle.truth.machine();
        let kept = machine.leases().find(|lease| lease.bind != Bind::Node);
        crate::ensure!(kept.is_none(), "lease_bounded", "nobody keeps {kept:?}");
        let left = machine.queues(QueueKind::Lock).next();
        crate::ensure!(left.is_none(), "lease_bounded", "{left:?} is held by nobody");
        self.oracle.histories.check_end(&self.oracle.truth);
        for (watcher, place) in &mut self.workload.watchers {
            let host = &self.nodes[place.unwrap_or(0)];
            let process = host.process.as_ref().expect("all were started");
            watcher.read(&read(&process.view), &self.oracle.truth, 10_000);
            watcher.check_end(&self.oracle.truth);
        }
    }
}
