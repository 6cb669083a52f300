//! One run: a time with faults, a time without, and what must be true then (K7).

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::NodeId;
use quorumd::raft::Role;
use quorumd::state::{Bind, Condition, Operation, QueueKind};

use crate::cluster::Cluster;
use crate::invariants::histories::Asked;
use crate::trace::Trace;
use crate::workload::{Purpose, read};

/// What a run leans towards: aimed at one kind of mistake, for the deliberate ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lean {
    /// Leaders lose their followers, or their time, again and again, under load.
    Elections,
    /// Leaders are cut off together with holders of short leases.
    Leases,
    /// The members change all the time, over short logs.
    Members,
    /// Everything is as the seed has it.
    #[default]
    Nothing,
    /// Processes crash and come back, on slow disks.
    Restarts,
}

/// What is run: a seed, and what of it is left out to find out what matters.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// What it leans towards.
    pub lean: Lean,
    /// Nothing but three voters and so many learners: to measure them.
    pub learners: Option<u64>,
    /// Faults that do not happen, by their number.
    pub without_faults: BTreeSet<u64>,
    /// Things that callers do not begin, by their number.
    pub without_steps: BTreeSet<u64>,
}

impl Plan {
    /// All of a seed.
    pub fn of(seed: u64) -> Self {
        Self::leaning(Lean::Nothing, seed)
    }

    /// All of a seed, aimed.
    pub fn leaning(lean: Lean, seed: u64) -> Self {
        Self { seed, lean, ..Self::default() }
    }
}

/// What a run was made of, by name; runs in which nothing happened prove nothing.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<String, u64>,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
    }

    /// How much of this there was.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    fn count(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_owned()).or_default() += count;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in self.counts.iter().filter(|(name, _)| *name != "micros") {
            write!(f, "{name} {count}, ")?;
        }
        write!(f, "hours {:.2}", self.get("micros") as f64 / 3.6e9)
    }
}

const SECOND: u64 = 1_000_000;

/// Runs one seed. Panics when something does not hold.
pub fn run(plan: &Plan, trace: Trace) -> Report {
    let mut cluster = Cluster::new(plan.clone(), trace);
    let longer = if cluster.operator.active { 3 * SECOND } else { 0 };
    let faulty = longer + cluster.rng.between(3 * SECOND, 7 * SECOND);
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
    cluster.report()
}

impl Cluster {
    fn report(&self) -> Report {
        let mut report = Report::default();
        report.count("steps", self.steps);
        report.count("micros", self.now);
        report.count("acked", self.oracle.histories.acked);
        report.count("reads", self.oracle.histories.reads);
        report.count("local reads", self.workload.local_reads);
        report.count("transactions", self.workload.txns);
        report.count("unknown", self.oracle.histories.unknown);
        report.count("leaders", self.oracle.elections.count());
        report.count("holders", self.oracle.holders.holders);
        report.count("member changes", self.oracle.configs.changes);
        report.count("joint members", self.oracle.configs.joint);
        report.count("orders taken", self.operator.taken);
        report.count("orders refused", self.operator.refused);
        report.count("hosts wiped", self.operator.wiped);
        report.count("snapshots installed", self.oracle.installs);
        let watchers = &self.workload.watchers;
        report.count("watched", watchers.iter().map(|(w, _)| w.delivered).sum());
        report.count("watches refused", watchers.iter().map(|(w, _)| w.refused).sum());
        report.count("lines", self.trace.count());
        for (kind, count) in &self.faults.counts {
            report.count("faults", *count);
            report.count(&format!("{kind:?}"), *count);
        }
        report
    }

    /// A fresh write through every node.
    fn write_everywhere(&mut self) {
        for node in self.members() {
            self.workload.numbered += 1;
            let op = self.workload.numbered;
            let (key, value) = (bytes::Bytes::from("kend"), bytes::Bytes::from(format!("v{op}")));
            let asked = Asked::Put(key.clone(), value.clone(), Condition::None);
            let operation = Operation::Put { key, value, lease: None, condition: Condition::None };
            self.submit(0, node, (op, asked, Purpose::Write(None)), operation, None);
        }
    }

    /// The places of the members, as they are committed.
    fn members(&self) -> Vec<usize> {
        let members = self.oracle.configs.newest().members().keys();
        let place = |id: &NodeId| self.nodes.iter().position(|host| host.id == *id);
        members.map(|id| place(id).expect("whoever is wiped is replaced")).collect()
    }

    fn check_end(&mut self) {
        let leader = self.leader();
        let last = self.oracle.committed.last();
        let newest = self.oracle.configs.newest();
        crate::ensure!(
            !newest.is_joint() && newest.goal().is_none() && self.operator.waiting.is_empty(),
            "converges",
            "the members are still {newest:?}, orders wait: {:?}",
            self.operator.waiting
        );
        let members = self.members();
        for host in members.iter().map(|&member| &self.nodes[member]) {
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
        let kinds = [QueueKind::Barrier, QueueKind::Election, QueueKind::Lock];
        let left = kinds.into_iter().find_map(|kind| machine.queues(kind).next());
        crate::ensure!(left.is_none(), "lease_bounded", "{left:?} is held by nobody");
        self.oracle.histories.check_end(&self.oracle.truth);
        for (watcher, place) in &mut self.workload.watchers {
            let place = place.filter(|place| members.contains(place)).unwrap_or(members[0]);
            let host = &self.nodes[place];
            let process = host.process.as_ref().expect("all were started");
            // It may find that it has fallen behind, and begin anew.
            for _ in 0..3 {
                watcher.read(&read(&process.view), &self.oracle.truth, 10_000);
            }
            watcher.check_end(&self.oracle.truth);
        }
    }
}
