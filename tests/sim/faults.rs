//! Which faults a run has, and when.

use std::collections::BTreeMap;

use quorumd::base::Rng;
use quorumd::replica::Event;

use crate::cluster::{Cluster, Happening};
use crate::run::Lean;

/// The kinds of faults of one run, each more or less likely.
#[derive(Clone, Debug)]
pub struct Faults {
    kinds: Vec<Kind>,
    pause_between: u64,
    /// Those that last are over in half a second.
    short: bool,
    pub(crate) over: bool,
    /// Their chances.
    pub rng: Rng,
    /// How many were drawn.
    pub drawn: u64,
    /// How many there were of each kind.
    pub counts: BTreeMap<Kind, u64>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A byte of a file of a host that is down is wrong.
    BitRot,
    /// A process ends without warning, and its host's unsynced writes with it.
    Crash,
    /// All do.
    CrashAll,
    /// The leader does.
    CrashLeader,
    /// Connections break.
    Disconnect,
    /// Nothing can be written.
    DiskFull,
    /// A write or a sync fails, which ends the process.
    DiskFails,
    /// Writes take long.
    DiskSlow,
    /// One node is cut off, rather often the leader.
    Isolate,
    /// The leader is cut off from all but a learner or one voter, while callers go on.
    IsolateLeader,
    /// One node hears nobody, or is heard by nobody.
    OneWay,
    /// Two sides, now and then with a link across.
    Partition,
    /// A process is stopped.
    Pause,
    /// The leader's is.
    PauseLeader,
    /// A process is stopped in good order and started again.
    Shutdown,
    /// Messages to or from one node take long.
    SlowLinks,
    /// The wall clock jumps.
    WallClock,
}

const KINDS: [Kind; 17] = [
    Kind::BitRot,
    Kind::Crash,
    Kind::CrashAll,
    Kind::CrashLeader,
    Kind::Disconnect,
    Kind::DiskFull,
    Kind::DiskFails,
    Kind::DiskSlow,
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::OneWay,
    Kind::Partition,
    Kind::Pause,
    Kind::PauseLeader,
    Kind::Shutdown,
    Kind::SlowLinks,
    Kind::WallClock,
];

impl Faults {
    /// Which there are, and how often.
    pub fn draw(lean: Lean, rng: &mut Rng) -> Self {
        let often = rng.between(2, 4);
        let drawn: Vec<Kind> = KINDS.into_iter().filter(|_| rng.chance(1, often)).collect();
        let longest = if rng.chance(1, 2) { 2_500_000 } else { 700_000 };
        let kinds = match lean {
            Lean::Elections => vec![
                Kind::CrashLeader,
                Kind::Disconnect,
                Kind::IsolateLeader,
                Kind::OneWay,
                Kind::Partition,
                Kind::PauseLeader,
                Kind::SlowLinks,
            ],
            Lean::Leases => vec![
                Kind::Disconnect,
                Kind::Isolate,
                Kind::IsolateLeader,
                Kind::PauseLeader,
                Kind::SlowLinks,
            ],
            Lean::Members | Lean::Nothing => drawn,
            Lean::Restarts => vec![
                Kind::Crash,
                Kind::CrashAll,
                Kind::CrashLeader,
                Kind::DiskFails,
                Kind::DiskSlow,
                Kind::Shutdown,
            ],
        };
        let longest = if lean == Lean::Nothing { longest } else { 700_000 };
        Self {
            kinds,
            pause_between: rng.between(200_000, longest),
            short: rng.chance(1, 2) || lean == Lean::Elections,
            over: false,
            rng: rng.fork(),
            drawn: 0,
            counts: BTreeMap::new(),
        }
    }
}

impl Cluster {
    /// A fault begins, and the next is planned.
    pub fn next_fault(&mut self) {
        if self.faults.over || self.faults.kinds.is_empty() {
            return;
        }
        let after = 1_000 + self.rng.below(self.faults.pause_between);
        self.plan(after, Happening::Fault);
        let kind = self.rng.below(self.faults.kinds.len() as u64) as usize;
        let kind = self.faults.kinds[kind];
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        self.faults.drawn += 1;
        if self.plan.without_faults.contains(&self.faults.drawn) {
            return;
        }
        *self.faults.counts.entry(kind).or_default() += 1;
        self.say(format!("fault {}: {kind:?}", self.faults.drawn));
        match kind {
            Kind::BitRot => {
                let which = (self.rng.chance(1, 2), self.rng.below(1 << 40));
                self.crash_for_a_while(node);
                self.nodes[node].rot = Some(which);
            }
            Kind::Crash => self.crash_for_a_while(node),
            Kind::CrashAll => {
                for node in 0..self.nodes.len() {
                    self.crash_for_a_while(node);
                }
            }
            Kind::CrashLeader => {
                let leader = self.leader();
                self.crash_for_a_while(leader.unwrap_or(node));
            }
            Kind::Disconnect => self.disconnect(node),
            Kind::DiskFails | Kind::DiskFull | Kind::DiskSlow => self.disk_fault(kind, node),
            Kind::Pause => self.pause(node),
            Kind::PauseLeader => self.pause(self.leader().unwrap_or(node)),
            Kind::Shutdown => self.shut_down(node),
            Kind::WallClock => self.nodes[node].clock.step_wall(&mut self.rng),
            Kind::Isolate
            | Kind::IsolateLeader
            | Kind::OneWay
            | Kind::Partition
            | Kind::SlowLinks => self.network_fault(kind, node),
        }
    }

    fn network_fault(&mut self, kind: Kind, node: usize) {
        let often = self.rng.chance(1, 2);
        let node = if often { self.leader().unwrap_or(node) } else { node };
        let others = |node: usize, cluster: &Self| -> Vec<usize> {
            (0..cluster.nodes.len()).filter(|&other| other != node).collect()
        };
        let links = match kind {
            Kind::IsolateLeader => {
                let leader = self.leader().unwrap_or(node);
                let mut away = others(leader, self);
                let kept = self.rng.below(1 + away.len() as u64) as usize;
                if away.len() > 1 && kept < away.len() {
                    away.remove(kept);
                }
                away.into_iter().flat_map(|other| [(leader, other), (other, leader)]).collect()
            }
            Kind::OneWay => {
                let inbound = self.rng.chance(1, 2);
                let link = |other| if inbound { (other, node) } else { (node, other) };
                others(node, self).into_iter().map(link).collect()
            }
            Kind::Partition => {
                let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.chance(1, 2)).collect();
                let mut links = Vec::new();
                for from in 0..sides.len() {
                    for to in 0..sides.len() {
                        let crosses = from != to && sides[from] != sides[to];
                        // Now and then a link across is left: a partial partition.
                        if crosses && self.rng.chance(7, 8) {
                            links.push((from, to));
                        }
                    }
                }
                links
            }
            Kind::SlowLinks => {
                let more = 1_000 + self.rng.below(500_000);
                let (inward, outward) = (self.rng.chance(2, 3), self.rng.chance(2, 3));
                let mut links = Vec::new();
                for other in others(node, self) {
                    links.extend(inward.then_some((other, node)));
                    links.extend(outward.then_some((node, other)));
                }
                for &(from, to) in &links {
                    self.network.slow_down(from, to, more);
                }
                self.say(format!("{links:?} take {more} us more"));
                let after = self.fault_lasts(4_000_000);
                self.plan(after, Happening::Mend(links));
                return;
            }
            _ => {
                let others = others(node, self).into_iter();
                others.flat_map(|other| [(node, other), (other, node)]).collect()
            }
        };
        self.cut(links);
    }

    fn fault_lasts(&mut self, most: u64) -> u64 {
        let most = if self.faults.short { 500_000 } else { most };
        50_000 + self.rng.below(most)
    }

    fn disk_fault(&mut self, kind: Kind, node: usize) {
        let after = self.fault_lasts(3_000_000);
        match kind {
            Kind::DiskFull => self.set_full(node, true),
            Kind::DiskSlow => self.nodes[node].slowness = self.rng.between(5, 60),
            _ => {
                let nth = self.rng.below(40);
                let host = &mut self.nodes[node];
                host.faulty_disk = true;
                if self.rng.chance(2, 3) {
                    host.raft_disk.fail_after(nth);
                } else {
                    host.state_disk.fail_after(nth);
                }
                return;
            }
        }
        self.plan(after, Happening::DiskHeals(node));
    }

    /// A disk is as it should be again.
    pub fn disk_heals(&mut self, node: usize) {
        self.nodes[node].slowness = 1;
        if self.nodes[node].full {
            self.set_full(node, false);
        }
    }

    fn shut_down(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if std::mem::replace(&mut process.draining, true) {
            return;
        }
        self.handle(node, Event::Drain);
        let after = self.rng.below(1_000_000);
        let life = self.nodes[node].life;
        self.plan(after, Happening::Stop { node, life });
    }

    /// The node that leads the newest term, as far as it knows.
    pub fn leader(&self) -> Option<usize> {
        let raft = |node: usize| self.nodes[node].process.as_ref().map(|p| p.replica.raft());
        let leads = |node: &usize| {
            raft(*node).is_some_and(|raft| raft.role() == quorumd::raft::Role::Leader)
        };
        let all = (0..self.nodes.len()).filter(leads);
        all.max_by_key(|&node| raft(node).map(|raft| raft.term()))
    }

    fn crash_for_a_while(&mut self, node: usize) {
        if self.nodes[node].process.is_none() {
            return;
        }
        self.crash(node);
        let after = if self.rng.chance(1, 2) { 20_000 } else { 3_000_000 };
        let after = 1_000 + self.rng.below(after);
        self.plan(after, Happening::Start(node));
    }

    fn pause(&mut self, node: usize) {
        if !self.nodes[node].runs() {
            return;
        }
        let node_life = self.nodes[node].life;
        self.nodes[node].paused = true;
        self.say(format!("n{} is stopped", self.nodes[node].id));
        let after = if self.rng.chance(1, 2) { 300_000 } else { 4_000_000 };
        let after = self.fault_lasts(after);
        self.plan(after, Happening::Resume { node, life: node_life });
    }

    fn disconnect(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            if self.rng.chance(2, 3) {
                self.link_lost(node, other, false);
            }
            if self.rng.chance(2, 3) {
                self.link_lost(other, node, false);
            }
        }
    }

    fn cut(&mut self, links: Vec<(usize, usize)>) {
        for &(from, to) in &links {
            self.network.cut(from, to);
            if self.rng.chance(1, 2) {
                // A firewall may refuse at once what it cuts: that looks as if the peer were dead.
                let redial_failed = self.rng.chance(1, 2);
                let after = if redial_failed { 20_000 } else { 3_000_000 };
                let (life, after) = (self.nodes[from].life, self.rng.below(after));
                self.plan(after, Happening::LinkLost { from, to, life, redial_failed });
            }
        }
        self.say(format!("cut {links:?}"));
        let after = self.fault_lasts(4_000_000);
        self.plan(after, Happening::Mend(links));
    }

    /// All faults end: whatever is down comes back.
    pub fn end_faults(&mut self) {
        self.say("all faults end".to_owned());
        self.faults.over = true;
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.disk_heals(node);
            self.nodes[node].raft_disk.sound();
            self.nodes[node].state_disk.sound();
            self.start(node);
            let life = self.nodes[node].life;
            self.plan(0, Happening::Resume { node, life });
        }
    }
}
