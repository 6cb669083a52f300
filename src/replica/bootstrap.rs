//! How a blank node gets into a cluster: by the first boot, or by being added to one that runs.
//!
//! At the first boot every listed member must be up, blank, and configured with the same list,
//! once. Then the member with the smallest name among the voters makes the identity, with the
//! incarnation of every member in it, and makes it durable before it tells anyone. The others take
//! it from whoever has it. A member that comes back blank later is not in it with its new
//! incarnation: so no lost vote can be given twice, not even during the first boot (RELIABILITY D9,
//! C3). Such a node, and one that the cluster has never heard of, waits until an operator replaces
//! the member or adds it, and goes on asking.
//!
//! Asking the others is done by `node/`; what their answers mean is decided here.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ClusterId, Index, NodeId, Rng};
use crate::raft::{Member, Membership};
use crate::wire::{Claim, Genesis, HelloAnswer, HelloRefusal, Standing};

/// One member as the configuration lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Where the others reach it.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapStep {
    /// Make this durable, then start as a member.
    Adopt(Genesis),
    /// Give up: asking again would answer the same.
    Refused {
        /// Who refused.
        by: String,
        /// Why.
        refusal: HelloRefusal,
    },
    /// The cluster runs and this node is not in it: an operator has to add it. Ask again in a
    /// moment.
    Unlisted {
        /// Who said so.
        by: String,
        /// Whether it has a member of this name, with another data directory.
        replaces: bool,
    },
    /// Ask those in `waiting_for` again in a moment.
    Wait,
}

/// A blank node on its way into its cluster.
#[derive(Debug)]
pub struct Bootstrap {
    name: String,
    seeds: BTreeMap<String, Seed>,
    known: BTreeMap<String, NodeId>,
    rng: Rng,
}

impl Bootstrap {
    /// A blank node named `name` with the incarnation `node`. `rng` must be seeded from the
    /// kernel's randomness: the cluster's identity is drawn from it.
    ///
    /// Panics when the list has no voter or does not hold `name`: the configuration is checked
    /// before.
    pub fn new(name: String, node: NodeId, seeds: BTreeMap<String, Seed>, rng: Rng) -> Self {
        assert!(seeds.contains_key(&name), "{name} is not among the listed members");
        assert!(seeds.values().any(|seed| seed.voter), "no listed member votes");
        let known = BTreeMap::from([(name.clone(), node)]);
        Self { name, seeds, known, rng }
    }

    /// A hash of the list that all blank members must agree on.
    pub fn seed_digest(seeds: &BTreeMap<String, Seed>) -> u64 {
        // FNV-1a over a rendering that no name or address can imitate, since neither holds a
        // newline.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (name, seed) in seeds {
            let line = format!("{name}\n{}\n{}\n", seed.address, seed.voter);
            for byte in line.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    /// The others that have not yet been seen, and so must be asked; the one who makes the identity
    /// is always among them for everyone else.
    pub fn waiting_for(&self) -> Vec<String> {
        let coordinator = self.coordinator();
        let others = self.seeds.keys().filter(|name| **name != self.name);
        others
            .filter(|name| *name == coordinator || !self.known.contains_key(*name))
            .cloned()
            .collect()
    }

    /// What to do before anyone has answered: a cluster of one needs no one else.
    pub fn begin(&mut self) -> BootstrapStep {
        self.step()
    }

    /// A member answered a bootstrap hello.
    pub fn answered(&mut self, peer: &str, answer: &HelloAnswer) -> BootstrapStep {
        match answer {
            HelloAnswer::Genesis(genesis) => {
                let listed = genesis.membership.members().get(&self.known[&self.name]);
                match listed {
                    Some(member) if member.name == self.name => {
                        BootstrapStep::Adopt(genesis.clone())
                    }
                    Some(_) | None => self.unlisted(peer, true),
                }
            }
            HelloAnswer::Blank { claim } => self.seen(peer, claim),
            HelloAnswer::Refused(HelloRefusal::NotReady) | HelloAnswer::Accepted { .. } => {
                BootstrapStep::Wait
            }
            HelloAnswer::Refused(HelloRefusal::Incarnation) => self.unlisted(peer, true),
            HelloAnswer::Refused(HelloRefusal::Removed | HelloRefusal::Unknown) => {
                self.unlisted(peer, false)
            }
            HelloAnswer::Refused(refusal) => self.refused(peer, *refusal),
        }
    }

    /// A blank member was seen, by its hello or by its answer.
    pub fn seen(&mut self, peer: &str, claim: &Claim) -> BootstrapStep {
        if !self.seeds.contains_key(peer) || !matches!(claim.standing, Standing::Blank { .. }) {
            return BootstrapStep::Wait;
        }
        self.known.insert(peer.to_owned(), claim.node);
        self.step()
    }

    fn unlisted(&self, peer: &str, replaces: bool) -> BootstrapStep {
        BootstrapStep::Unlisted { by: peer.to_owned(), replaces }
    }

    fn refused(&self, peer: &str, refusal: HelloRefusal) -> BootstrapStep {
        BootstrapStep::Refused { by: peer.to_owned(), refusal }
    }

    fn coordinator(&self) -> &String {
        let mut voters = self.seeds.iter().filter(|(_, seed)| seed.voter);
        voters.next().map(|(name, _)| name).expect("new() checked that a member votes")
    }

    fn step(&mut self) -> BootstrapStep {
        let complete = self.seeds.keys().all(|name| self.known.contains_key(name));
        if self.coordinator() != &self.name || !complete {
            return BootstrapStep::Wait;
        }
        let distinct: BTreeSet<NodeId> = self.known.values().copied().collect();
        if distinct.len() < self.seeds.len() {
            // Two data directories with one incarnation: one is a copy of the other.
            return self.refused(&self.name, HelloRefusal::Incarnation);
        }
        let pick = |voter: bool| -> BTreeSet<NodeId> {
            let named = self.seeds.iter().filter(|(_, seed)| seed.voter == voter);
            named.map(|(name, _)| self.known[name]).collect()
        };
        let members = self.seeds.iter().map(|(name, seed)| {
            let member = Member { name: name.clone(), address: seed.address.clone() };
            (self.known[name], member)
        });
        let membership =
            Membership::new(pick(true), BTreeSet::new(), pick(false), members.collect())
                .expect("every seed is a voter or a learner, has one member, and one votes");
        let cluster = ClusterId(self.rng.next_u64() | 1);
        BootstrapStep::Adopt(Genesis { cluster, membership, index: Index(0) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Bootstrap, BootstrapStep, Seed};
    use crate::base::{Boot, NodeId, Rng};
    use crate::wire::{Claim, HelloAnswer, HelloRefusal, Standing};

    fn seeds() -> BTreeMap<String, Seed> {
        let seed =
            |name: &str, voter| (name.to_owned(), Seed { address: format!("{name}:1"), voter });
        BTreeMap::from([seed("a", false), seed("b", true), seed("c", true), seed("d", true)])
    }

    fn start(name: &str, node: u64) -> Bootstrap {
        Bootstrap::new(name.to_owned(), NodeId(node), seeds(), Rng::new(node))
    }

    fn blank(node: u64) -> Claim {
        let standing = Standing::Blank { seed_digest: Bootstrap::seed_digest(&seeds()) };
        Claim { node: NodeId(node), boot: Boot(1), standing }
    }

    #[test]
    fn only_the_first_voter_makes_the_identity_and_only_when_all_were_seen() {
        let mut first = start("b", 2);
        assert_eq!(first.seen("a", &blank(1)), BootstrapStep::Wait);
        assert_eq!(first.seen("c", &blank(3)), BootstrapStep::Wait);
        assert_eq!(first.waiting_for(), vec!["d".to_owned()]);
        let BootstrapStep::Adopt(genesis) = first.seen("d", &blank(4)) else {
            panic!("all were seen");
        };
        assert_eq!(genesis.membership.voters().len(), 3);
        assert!(genesis.membership.learners().contains(&NodeId(1)), "a learns");

        let mut other = start("c", 3);
        for (name, node) in [("a", 1), ("b", 2), ("d", 4)] {
            assert_eq!(other.seen(name, &blank(node)), BootstrapStep::Wait, "c makes none");
        }
        assert_eq!(other.waiting_for(), vec!["b".to_owned()], "it goes on asking the maker");
        let answer = HelloAnswer::Genesis(genesis.clone());
        assert_eq!(other.answered("b", &answer), BootstrapStep::Adopt(genesis));
    }

    #[test]
    fn a_member_that_was_wiped_in_the_middle_waits_to_be_replaced() {
        let mut first = start("b", 2);
        for (name, node) in [("a", 1), ("c", 3)] {
            first.seen(name, &blank(node));
        }
        let BootstrapStep::Adopt(genesis) = first.seen("d", &blank(4)) else {
            panic!("all were seen");
        };
        let mut wiped = start("c", 33);
        let unlisted = BootstrapStep::Unlisted { by: "b".to_owned(), replaces: true };
        assert_eq!(wiped.answered("b", &HelloAnswer::Genesis(genesis)), unlisted);
        let refused = HelloAnswer::Refused(HelloRefusal::Incarnation);
        assert_eq!(wiped.answered("b", &refused), unlisted);
    }

    #[test]
    fn a_node_that_the_cluster_does_not_know_waits_to_be_added() {
        let mut new = start("d", 4);
        let unknown = HelloAnswer::Refused(HelloRefusal::Unknown);
        let unlisted = BootstrapStep::Unlisted { by: "b".to_owned(), replaces: false };
        assert_eq!(new.answered("b", &unknown), unlisted);
        assert_eq!(new.waiting_for(), ["a", "b", "c"], "it goes on asking");
    }

    #[test]
    fn a_copied_data_directory_is_noticed() {
        let mut first = start("b", 2);
        first.seen("a", &blank(1));
        first.seen("c", &blank(3));
        assert!(matches!(first.seen("d", &blank(3)), BootstrapStep::Refused { .. }));
    }

    #[test]
    fn a_cluster_of_one_needs_nobody() {
        let seeds =
            BTreeMap::from([("n1".to_owned(), Seed { address: "n1:1".to_owned(), voter: true })]);
        let mut only = Bootstrap::new("n1".to_owned(), NodeId(9), seeds, Rng::new(1));
        assert!(matches!(only.begin(), BootstrapStep::Adopt(_)));
    }
}
