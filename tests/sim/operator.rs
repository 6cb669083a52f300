//! An operator: declares who the members shall be, hands the lead over, wipes hosts and replaces
//! them, while everything else goes on.
//!
//! How a blank host comes to belong to the cluster is here too: it asks whoever runs, until
//! somebody knows it. At most one voter's disk is gone at a time: more than that no protocol
//! survives.

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::{Index, NodeId, Rng};
use quorumd::raft::{Member, Membership};
use quorumd::replica::{Event, Ticket};
use quorumd::wire::{
    Claim, Hello, HelloAnswer, LinkClass, MembersOrder, MembersReply, PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN, Standing, WantedMembers, decode_hello, decode_hello_answer, encode_hello,
    encode_hello_answer,
};

use crate::cluster::{Cluster, Happening};
use crate::disk::Disk;
use crate::node::CLUSTER;
use crate::run::Lean;
use crate::shadow::Shadow;

/// Most voters that are wanted.
const VOTERS_MAX: usize = 7;

/// After how long an order is over, in microseconds: callers wait for three seconds at most, and a
/// message is late by less than one.
const ORDER_LIFE: u64 = 3_700_000;

/// What the operator does and has done.
#[derive(Debug)]
pub struct Operator {
    /// Whether there is one.
    pub active: bool,
    /// Its chances.
    pub rng: Rng,
    /// Longest time between two orders.
    pub pause_between: u64,
    /// The orders that wait for a reply, each with the node that was asked.
    pub waiting: BTreeMap<Ticket, usize>,
    /// The next incarnation.
    pub next_id: u64,
    /// What the disks of those held that are gone.
    pub gone: BTreeMap<NodeId, Shadow>,
    /// When the last order was given, in true time.
    pub last_order: u64,
    /// A host is to be wiped, once no order can be under way any more: one that counts on the host
    /// could be taken after it is gone.
    pub wipes: bool,
    /// Orders that were taken.
    pub taken: u64,
    /// Orders that were refused, or whose fate is unknown.
    pub refused: u64,
    /// Hosts that were wiped.
    pub wiped: u64,
}

impl Operator {
    /// Some runs have one.
    pub fn draw(lean: Lean, rng: &mut Rng, hosts: u64) -> Self {
        let drawn = rng.chance(1, 2);
        Self {
            active: match lean {
                Lean::Members => true,
                Lean::Nothing => drawn,
                Lean::Elections | Lean::Leases | Lean::Restarts => false,
            },
            pause_between: rng.between(200_000, 1_500_000),
            rng: rng.fork(),
            waiting: BTreeMap::new(),
            next_id: hosts + 1,
            gone: BTreeMap::new(),
            last_order: 0,
            wipes: false,
            taken: 0,
            refused: 0,
            wiped: 0,
        }
    }
}

impl Cluster {
    /// The operator's next order.
    pub fn operator_step(&mut self) {
        if !self.operator.active {
            return;
        }
        let after = 10_000 + self.rng.below(self.operator.pause_between);
        self.plan(after, Happening::Operator);
        let Some((node, base, membership)) = self.seen_members() else { return };
        if self.faults.over {
            // Only what a cluster needs to be whole again.
            if self.lacks_a_voter(&membership) {
                let (voters, learners) = self.same_hosts(&membership);
                self.order_members(node, base, voters, learners);
            }
            return;
        }
        if self.operator.wipes {
            if self.now > self.operator.last_order + ORDER_LIFE {
                self.operator.wipes = false;
                self.wipe_somebody();
            }
            return;
        }
        match self.rng.below(8) {
            0 => {
                let members: Vec<NodeId> = membership.members().keys().copied().collect();
                let to = members[self.rng.below(members.len() as u64) as usize];
                let to = Some(to).filter(|_| self.rng.chance(1, 2));
                self.order(node, MembersOrder::Transfer { to });
            }
            1 => self.order(node, MembersOrder::Cancel { base }),
            2 => self.operator.wipes = true,
            3 | 4 => {
                let (voters, learners) = self.same_hosts(&membership);
                self.order_members(node, base, voters, learners);
            }
            _ => {
                let (mut voters, mut learners) = self.same_hosts(&membership);
                let changes = if self.rng.chance(2, 3) { 1 } else { self.nodes.len() };
                for _ in 0..changes {
                    let host = self.rng.below(self.nodes.len() as u64) as usize;
                    voters.remove(&host);
                    learners.remove(&host);
                    match self.rng.below(5) {
                        0 => {}
                        1 => drop(learners.insert(host)),
                        _ => drop(voters.insert(host)),
                    }
                }
                if (1..=VOTERS_MAX).contains(&voters.len()) {
                    self.order_members(node, base, voters, learners);
                }
            }
        }
    }

    /// Some node that runs, and the members as it shows them.
    fn seen_members(&mut self) -> Option<(usize, Index, Membership)> {
        let node = self.any_running()?;
        let raft = self.nodes[node].process.as_ref()?.replica.raft();
        Some((node, raft.membership_index(), raft.membership().clone()))
    }

    /// The hosts of the members by their names, whatever their incarnation is by now.
    fn same_hosts(&self, membership: &Membership) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let (mut voters, mut learners) = (BTreeSet::new(), BTreeSet::new());
        for (id, member) in membership.members() {
            let host = self.nodes.iter().position(|host| host.name == member.name);
            let host = host.expect("hosts keep their names");
            if membership.voters().contains(id) {
                voters.insert(host);
            } else if !membership.outgoing().contains(id) {
                learners.insert(host);
            }
        }
        learners.retain(|host| !voters.contains(host));
        (voters, learners)
    }

    fn lacks_a_voter(&self, membership: &Membership) -> bool {
        let lives = |id: &NodeId| self.nodes.iter().any(|host| host.id == *id);
        !membership.members().keys().all(lives)
    }

    fn order_members(
        &mut self,
        node: usize,
        base: Index,
        voters: BTreeSet<usize>,
        learners: BTreeSet<usize>,
    ) {
        let member = |&host: &usize| {
            let host = &self.nodes[host];
            let address = format!("{}:1", host.name);
            (host.id, Member { name: host.name.clone(), address })
        };
        let wanted = WantedMembers {
            base,
            force: false,
            supersede: self.rng.chance(1, 3) || self.faults.over,
            voters: voters.iter().map(member).collect(),
            learners: learners.iter().map(member).collect(),
        };
        self.order(node, MembersOrder::Change(wanted));
    }

    fn order(&mut self, node: usize, order: MembersOrder) {
        self.workload.numbered += 1;
        let ticket = Ticket(self.workload.numbered);
        self.operator.waiting.insert(ticket, node);
        self.operator.last_order = self.now;
        self.say(format!("operator asks n{} {ticket:?}: {order:?}", self.nodes[node].id));
        let deadline = self.deadline(node);
        self.handle(node, Event::Members { ticket, order, deadline });
    }

    /// An order was replied to.
    pub fn order_replied(&mut self, ticket: Ticket, reply: Option<&MembersReply>) {
        crate::ensure!(
            self.operator.waiting.remove(&ticket).is_some(),
            "every_request_answered",
            "{ticket:?} is replied to twice, or was never given: {reply:?}"
        );
        match reply {
            Some(MembersReply::Report(_)) => self.operator.taken += 1,
            Some(MembersReply::Refused(_)) | None => self.operator.refused += 1,
        }
    }

    /// A host loses its disks and comes back under the same name as somebody else.
    fn wipe_somebody(&mut self) {
        let everybody: Vec<&Membership> = self
            .nodes
            .iter()
            .filter_map(|host| host.process.as_ref())
            .map(|process| process.replica.raft().membership())
            .chain([self.oracle.configs.newest()])
            .collect();
        let whole = everybody.iter().all(|membership| {
            !membership.is_joint()
                && membership.goal().is_none()
                && membership.voters().len() >= 3
                && !self.lacks_a_voter(membership)
        });
        let all_run = self.nodes.iter().all(|host| host.process.is_some() || host.blank());
        if !whole || !all_run {
            return;
        }
        let host = self.rng.below(self.nodes.len() as u64) as usize;
        if self.nodes[host].blank() {
            return;
        }
        self.operator.wiped += 1;
        self.say(format!("n{} is wiped", self.nodes[host].id));
        self.crash(host);
        self.forget_inflight(host);
        let id = NodeId(self.operator.next_id);
        self.operator.next_id += 1;
        let wiped = &mut self.nodes[host];
        self.operator.gone.insert(wiped.id, std::mem::take(&mut wiped.durable));
        wiped.id = id;
        wiped.genesis = None;
        wiped.saved = Index(0);
        wiped.life += 1;
        wiped.rot = None;
        (wiped.raft_disk, wiped.state_disk) = (Disk::new(), Disk::new());
        wiped.raft_disk.set_full(wiped.full);
        wiped.state_disk.set_full(wiped.full);
        self.plan(50_000, Happening::Join(host));
    }

    /// A blank host asks one of the others who it is, and starts when it is told.
    pub fn join(&mut self, host: usize) {
        if !self.nodes[host].blank() {
            return;
        }
        let other = self.any_running();
        let answer = other.filter(|&other| {
            !self.network.is_cut(host, other) && !self.network.is_cut(other, host)
        });
        let answer = answer.map(|other| self.introduce(host, other));
        if let Some(HelloAnswer::Genesis(genesis)) = answer {
            self.say(format!("n{} joins at {}", self.nodes[host].id, genesis.index));
            self.nodes[host].genesis = Some(genesis);
            self.start(host);
        } else {
            let after = 20_000 + self.rng.below(200_000);
            self.plan(after, Happening::Join(host));
        }
    }

    fn introduce(&self, host: usize, other: usize) -> HelloAnswer {
        let host = &self.nodes[host];
        let standing = Standing::Blank { seed_digest: 0 };
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            class: LinkClass::Consensus,
            cluster_name: CLUSTER.to_owned(),
            name: host.name.clone(),
            to_name: self.nodes[other].name.clone(),
            to_node: None,
            claim: Claim { node: host.id, boot: Default::default(), standing },
        };
        let hello = decode_hello(&encode_hello(&hello)).expect("a hello can be decoded");
        let answer = self.roster(other).judge(&hello);
        decode_hello_answer(&encode_hello_answer(&answer)).expect("it can be decoded")
    }
}
