//! Answers the questions of `peer/` about who may connect, from the replica's roster, and notices
//! when the others refuse this very node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::base::{NodeId, limits};
use crate::node::error::Ended;
use crate::peer::Gatekeeper;
use crate::replica::Roster;
use crate::wire::{Claim, Hello, HelloAnswer, HelloRefusal, LinkClass};

/// The gatekeeper of a node, before and after it belongs to a cluster.
pub(super) struct Gate {
    roster: Mutex<Arc<Mutex<Roster>>>,
    /// Blank members that said hello to this blank node: the first boot needs them.
    seen: Mutex<Vec<(String, Claim)>>,
    pub(super) seen_changed: Notify,
    /// What the others last said of this node, where it is one of the two things that count only
    /// when enough of them say so.
    words: Mutex<BTreeMap<String, HelloRefusal>>,
    /// The voters as this node knew them when it started.
    voters_before: BTreeSet<String>,
    news: mpsc::UnboundedSender<News>,
}

/// What the others have told this node about itself.
#[derive(Debug)]
pub(super) enum News {
    /// It must not go on.
    Ended(Ended),
    /// So many say that it was removed that no quorum is left which might know better; or one of
    /// them takes it again.
    Removed(bool),
}

impl Gate {
    /// `voters_before`: those that this node knows of when it starts, to tell one confused peer
    /// from a cluster that disagrees.
    pub(super) fn new(
        roster: Roster,
        voters_before: BTreeSet<String>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<News>) {
        // Unbounded, because what is told ends the process, or changes once in a long time.
        let (news, receiver) = mpsc::unbounded_channel();
        let gate = Self {
            roster: Mutex::new(Arc::new(Mutex::new(roster))),
            seen: Mutex::default(),
            seen_changed: Notify::new(),
            words: Mutex::default(),
            voters_before,
            news,
        };
        (Arc::new(gate), receiver)
    }

    /// The node belongs to a cluster from now on.
    pub(super) fn set_roster(&self, roster: Arc<Mutex<Roster>>) {
        *lock(&self.roster) = roster;
    }

    /// The blank members that said hello since the last call, and those members that asked who this
    /// is, to add it.
    pub(super) fn take_seen(&self) -> Vec<(String, Claim)> {
        std::mem::take(&mut lock(&self.seen))
    }

    fn roster(&self) -> Arc<Mutex<Roster>> {
        Arc::clone(&lock(&self.roster))
    }

    /// This node was refused.
    ///
    /// Proof of a rollback is one peer's memory of what this node itself has promised: nobody else
    /// need have it, a peer that is behind remembers less and not more, and a voter that has lost a
    /// promise must not give another. So one word of it ends the process.
    ///
    /// That this node was removed, or that its data belongs to another cluster, is believed only
    /// when too many voters say so for a quorum to be left: a single one may itself be behind or
    /// the stranger. Who dials from another cluster says so too; the members that such a directory
    /// lists may be at addresses where nobody is, so that nobody else would.
    fn notice_refusal(&self, by: &str, refusal: HelloRefusal, known: &BTreeSet<String>) {
        let is_certain = match refusal {
            HelloRefusal::RolledBack => true,
            HelloRefusal::ClusterIdentity | HelloRefusal::Removed => {
                let mut words = lock(&self.words);
                words.insert(by.to_owned(), refusal);
                let says_so = |voters: &BTreeSet<String>| {
                    let saying = voters.iter().filter(|name| words.get(*name) == Some(&refusal));
                    saying.count() > voters.len().saturating_sub(1) / 2
                };
                says_so(known) || says_so(&self.voters_before)
            }
            _ => false,
        };
        if !is_certain {
            return;
        }
        let news = match refusal {
            HelloRefusal::Removed => News::Removed(true),
            _ => News::Ended(Ended::Refused { by: by.to_owned(), refusal }),
        };
        // The receiver lives as long as the process.
        let _ = self.news.send(news);
    }

    /// A peer takes this node, or this node takes the peer: neither is a stranger to the other.
    fn forget_word(&self, by: &str) {
        let word = lock(&self.words).remove(by);
        if word == Some(HelloRefusal::Removed) {
            // The receiver lives as long as the process.
            let _ = self.news.send(News::Removed(false));
        }
    }
}

impl Gatekeeper for Gate {
    fn claim(&self) -> Claim {
        lock(&self.roster()).claim()
    }

    fn judge(&self, hello: &Hello) -> HelloAnswer {
        let roster = self.roster();
        let mut roster = lock(&roster);
        let answer = roster.judge(hello);
        match &answer {
            HelloAnswer::Accepted { .. } if hello.class == LinkClass::Consensus => {
                roster.welcome(&hello.name, &hello.claim);
            }
            HelloAnswer::Refused(refusal @ HelloRefusal::ClusterIdentity) => {
                self.notice_refusal(&hello.name, *refusal, &roster.voters());
            }
            HelloAnswer::Blank { .. } => {
                let mut seen = lock(&self.seen);
                // Nobody has to be seen twice before this node looks again.
                if seen.len() < limits::MEMBERS_MAX {
                    seen.push((hello.name.clone(), hello.claim.clone()));
                }
                self.seen_changed.notify_one();
            }
            HelloAnswer::Accepted { .. } => {}
            HelloAnswer::Genesis(_) | HelloAnswer::Refused(_) => {}
        }
        answer
    }

    fn accept_answer(&self, peer_name: &str, answer: &HelloAnswer) -> Result<NodeId, HelloRefusal> {
        let roster = self.roster();
        let mut roster = lock(&roster);
        let accepted = roster.accept_answer(peer_name, answer);
        match answer {
            HelloAnswer::Accepted { claim, .. } if accepted.is_ok() => {
                self.forget_word(peer_name);
                roster.mark_answer(claim);
            }
            HelloAnswer::Refused(refusal) => {
                self.notice_refusal(peer_name, *refusal, &roster.voters());
            }
            _ => {}
        }
        accepted
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves a whole value behind, even by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::{Gate, News};
    use crate::base::{Boot, ClusterId, Index, NodeId, Term};
    use crate::peer::Gatekeeper;
    use crate::raft::{Member, Membership};
    use crate::replica::Roster;
    use crate::wire::{Claim, Genesis, HelloAnswer, HelloRefusal, Standing};

    fn claim(node: u64) -> Claim {
        let standing = Standing::Member {
            cluster: ClusterId(1),
            term: Term(1),
            last_term: Term(1),
            last_index: Index(1),
            membership: Index(0),
            address: String::new(),
        };
        Claim { node: NodeId(node), boot: Boot(1), standing }
    }

    /// The first of three voters, and what it is told of itself.
    fn gate() -> (std::sync::Arc<Gate>, UnboundedReceiver<News>) {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let member = |node: &NodeId| {
            (*node, Member { name: format!("n{node}"), address: format!("n{node}:1") })
        };
        let members: BTreeMap<NodeId, Member> = voters.iter().map(member).collect();
        let membership = Membership::new(voters, BTreeSet::new(), BTreeSet::new(), members);
        let membership = membership.expect("all vote");
        let genesis =
            Genesis { cluster: ClusterId(1), membership: membership.clone(), index: Index(0) };
        let committed = (Index(5), membership);
        let roster = Roster::member("c".to_owned(), claim(1), genesis, committed, Vec::new());
        Gate::new(roster, ["n1", "n2", "n3"].map(str::to_owned).into())
    }

    #[test]
    fn one_confused_peer_stops_nobody_and_a_majority_is_believed() {
        for refusal in [HelloRefusal::Removed, HelloRefusal::ClusterIdentity] {
            let (gate, mut news) = gate();
            for by in ["n2", "n2", "n9"] {
                let refused = gate.accept_answer(by, &HelloAnswer::Refused(refusal));
                assert_eq!(refused, Err(refusal));
                assert!(news.try_recv().is_err(), "{by} alone, or no voter: {refusal:?}");
            }
            let _ = gate.accept_answer("n3", &HelloAnswer::Refused(refusal));
            match (refusal, news.try_recv()) {
                (HelloRefusal::Removed, Ok(News::Removed(true))) => {}
                (HelloRefusal::ClusterIdentity, Ok(News::Ended(_))) => {}
                (refusal, other) => panic!("{refusal:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_peer_that_takes_the_node_again_lifts_what_it_had_said() {
        let (gate, mut news) = gate();
        for by in ["n2", "n3"] {
            let _ = gate.accept_answer(by, &HelloAnswer::Refused(HelloRefusal::Removed));
        }
        assert!(matches!(news.try_recv(), Ok(News::Removed(true))));
        let accepted = HelloAnswer::Accepted { version: 1, claim: claim(2) };
        assert_eq!(gate.accept_answer("n2", &accepted), Ok(NodeId(2)));
        assert!(matches!(news.try_recv(), Ok(News::Removed(false))));
    }

    #[test]
    fn one_memory_of_a_lost_promise_ends_the_process() {
        let (gate, mut news) = gate();
        let _ = gate.accept_answer("n3", &HelloAnswer::Refused(HelloRefusal::RolledBack));
        assert!(matches!(news.try_recv(), Ok(News::Ended(_))));
    }
}
