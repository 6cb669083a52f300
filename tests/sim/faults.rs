//! Which faults a run has, and when.

use quorumd::base::Rng;

use crate::cluster::{Cluster, Happening};

/// The kinds of faults of one run, each more or less likely.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    kinds: Vec<Kind>,
    pause_between: u64,
    over: bool,
    /// How many there were.
    pub count: u64,
    /// Crashes among them.
    pub crashes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    CrashAll,
    CrashLeader,
    Disconnect,
    Isolate,
    OneWay,
    Partition,
    Pause,
    WallClock,
}

const KINDS: [Kind; 9] = [
    Kind::Crash,
    Kind::CrashAll,
    Kind::CrashLeader,
    Kind::Disconnect,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Partition,
    Kind::Pause,
    Kind::WallClock,
];

impl Faults {
    /// Which there are, and how often.
    pub fn draw(rng: &mut Rng) -> Self {
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.chance(1, 2)).collect();
        Self { kinds, pause_between: rng.between(300_000, 2_500_000), ..Self::default() }
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
        self.faults.count += 1;
        self.say(format!("fault: {kind:?}"));
        match kind {
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
            Kind::Isolate => {
                let node = if self.rng.chance(1, 2) { self.leader().unwrap_or(node) } else { node };
                let others = (0..self.nodes.len()).filter(|&other| other != node);
                let links = others.flat_map(|other| [(node, other), (other, node)]).collect();
                self.cut(links);
            }
            Kind::OneWay => {
                let node = if self.rng.chance(1, 2) { self.leader().unwrap_or(node) } else { node };
                let inbound = self.rng.chance(1, 2);
                let others = (0..self.nodes.len()).filter(|&other| other != node);
                let link = |other| if inbound { (other, node) } else { (node, other) };
                self.cut(others.map(link).collect());
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
                self.cut(links);
            }
            Kind::Pause => self.pause(node),
            Kind::WallClock => self.nodes[node].clock.step_wall(&mut self.rng),
        }
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
        self.faults.crashes += 1;
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
        let after = if self.rng.chance(1, 2) { 300_000 } else { 5_000_000 };
        let after = 1_000 + self.rng.below(after);
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
        let after = 50_000 + self.rng.below(4_000_000);
        self.plan(after, Happening::Mend(links));
    }

    /// All faults end: whatever is down comes back.
    pub fn end_faults(&mut self) {
        self.say("all faults end".to_owned());
        self.faults.over = true;
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.start(node);
            let life = self.nodes[node].life;
            self.plan(0, Happening::Resume { node, life });
        }
    }
}
