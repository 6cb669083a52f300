//! Which messages arrive, when, how often and in which order.
//!
//! Each ordered pair of nodes has a link that its sender dials. A link that is not up takes
//! nothing; one that is cut swallows everything, and may be noticed. Who dials and what is said
//! then is in `cluster.rs`.

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::Rng;

use crate::run::Lean;

/// How the network behaves in one run.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Messages lost, of a thousand.
    pub drop: u64,
    /// Messages delivered twice, of a thousand.
    pub duplicate: u64,
    /// Messages that take much longer, of a thousand; they are overtaken.
    pub slow: u64,
    /// Longest ordinary delay in microseconds.
    pub delay_max: u64,
}

impl Behaviour {
    /// Some networks are good, some are bad.
    pub fn draw(lean: Lean, rng: &mut Rng) -> Self {
        let bad = rng.chance(2, 3);
        if lean == Lean::Elections {
            let (drop, duplicate, slow) = (rng.below(60), 60, 50 + rng.below(150));
            return Self { drop, duplicate, slow, delay_max: 200 + rng.below(20_000) };
        }
        let upto = |rng: &mut Rng, most| if bad { rng.below(most) } else { 0 };
        Self {
            drop: upto(rng, 120),
            duplicate: upto(rng, 80),
            slow: upto(rng, 100),
            delay_max: 200 + rng.below(8_000),
        }
    }
}

/// The links between the nodes, which are named by their place in the cluster.
#[derive(Clone, Debug)]
pub struct Network {
    /// How it behaves.
    pub behaviour: Behaviour,
    up: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    slow: BTreeMap<(usize, usize), u64>,
    traffic: BTreeMap<usize, [u64; 4]>,
}

impl Network {
    /// A network without a link.
    pub fn new(behaviour: Behaviour) -> Self {
        let (up, cut, slow, traffic) = Default::default();
        Self { behaviour, up, cut, slow, traffic }
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.behaviour = Behaviour { drop: 0, duplicate: 0, slow: 0, delay_max: 2_000 };
    }

    /// Messages from `from` to `to` are swallowed from now on.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// They take so many microseconds more from now on.
    pub fn slow_down(&mut self, from: usize, to: usize, more: u64) {
        self.slow.insert((from, to), more);
    }

    /// They arrive again, and in time.
    pub fn mend(&mut self, from: usize, to: usize) {
        self.cut.remove(&(from, to));
        self.slow.remove(&(from, to));
    }

    /// Whether they are swallowed.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether the link is up.
    pub fn is_up(&self, from: usize, to: usize) -> bool {
        self.up.contains(&(from, to))
    }

    /// The link was dialled and accepted.
    pub fn set_up(&mut self, from: usize, to: usize) {
        self.up.insert((from, to));
    }

    /// The link is gone. True when it was up.
    pub fn set_down(&mut self, from: usize, to: usize) -> bool {
        self.up.remove(&(from, to))
    }

    /// A message of so many bytes was sent.
    pub fn count(&mut self, from: usize, to: usize, bytes: u64) {
        for (node, first) in [(from, 0), (to, 2)] {
            let traffic = self.traffic.entry(node).or_default();
            traffic[first] += 1;
            traffic[first + 1] += bytes;
        }
    }

    /// Messages and bytes that a node sent, and that were sent to it.
    pub fn traffic(&self, node: usize) -> [u64; 4] {
        self.traffic.get(&node).copied().unwrap_or_default()
    }

    /// After how many microseconds each copy of a message arrives.
    pub fn arrivals(&self, from: usize, to: usize, rng: &mut Rng) -> Vec<u64> {
        if !self.is_up(from, to) || self.is_cut(from, to) {
            return Vec::new();
        }
        if rng.chance(self.behaviour.drop, 1_000) {
            return Vec::new();
        }
        let copies = if rng.chance(self.behaviour.duplicate, 1_000) { 2 } else { 1 };
        let more = self.slow.get(&(from, to)).copied().unwrap_or(0);
        (0..copies).map(|_| more + self.delay(rng)).collect()
    }

    /// How long one message takes.
    pub fn delay(&self, rng: &mut Rng) -> u64 {
        let ordinary = 50 + rng.below(self.behaviour.delay_max);
        if rng.chance(self.behaviour.slow, 1_000) {
            ordinary + rng.below(600_000)
        } else {
            ordinary
        }
    }
}
