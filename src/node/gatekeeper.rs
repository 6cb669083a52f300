//! Answers the questions of `peer/` about who may connect, from the replica's roster, and notices
//! when the others refuse this very node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::base::NodeId;
use crate::node::error::Ended;
use crate::peer::Gatekeeper;
use crate::replica::Roster;
use crate::wire::{Claim, Hello, HelloAnswer, HelloRefusal};

/// The gatekeeper of a node, before and after it belongs to a cluster.
pub(super) struct Gate {
    roster: Mutex<Arc<Mutex<Roster>>>,
    /// Blank members that said hello to this blank node: the first boot needs them.
    seen: Mutex<Vec<(String, Claim)>>,
    pub(super) seen_changed: Notify,
    /// Those voters whose cluster is another than that of this node's data.
    strangers: Mutex<BTreeSet<String>>,
    voters: BTreeSet<String>,
    refused: mpsc::UnboundedSender<Ended>,
}

impl Gate {
    /// `voters`: the members that vote, to tell one confused peer from a cluster that disagrees.
    pub(super) fn new(
        roster: Roster,
        voters: BTreeSet<String>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Ended>) {
        // Unbounded, because each element ends the process: there is one in practice.
        let (refused, receiver) = mpsc::unbounded_channel();
        let gate = Self {
            roster: Mutex::new(Arc::new(Mutex::new(roster))),
            seen: Mutex::default(),
            seen_changed: Notify::new(),
            strangers: Mutex::default(),
            voters,
            refused,
        };
        (Arc::new(gate), receiver)
    }

    /// The node belongs to a cluster from now on.
    pub(super) fn set_roster(&self, roster: Arc<Mutex<Roster>>) {
        *lock(&self.roster) = roster;
    }

    /// The blank members that said hello since the last call.
    pub(super) fn take_seen(&self) -> Vec<(String, Claim)> {
        std::mem::take(&mut lock(&self.seen))
    }

    fn roster(&self) -> Arc<Mutex<Roster>> {
        Arc::clone(&lock(&self.roster))
    }

    /// This node was refused. A data directory that was wiped, exchanged or rolled back stops the
    /// process: whoever says so knows more than this node does. That it belongs to another cluster
    /// is believed only when too many voters say so for a quorum to be left: a single one may
    /// itself be the stranger. Who dials from another cluster says so too; the members that such a
    /// directory lists may be at addresses where nobody is, so that nobody else would.
    fn notice_refusal(&self, by: &str, refusal: HelloRefusal) {
        let is_certain = match refusal {
            HelloRefusal::Incarnation | HelloRefusal::RolledBack => true,
            HelloRefusal::ClusterIdentity => {
                let mut strangers = lock(&self.strangers);
                if self.voters.contains(by) {
                    strangers.insert(by.to_owned());
                }
                strangers.len() > self.voters.len().saturating_sub(1) / 2
            }
            _ => false,
        };
        if is_certain {
            // The receiver lives as long as the process.
            let _ = self.refused.send(Ended::Refused { by: by.to_owned(), refusal });
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
            HelloAnswer::Accepted { .. } => {
                lock(&self.strangers).remove(&hello.name);
                roster.mark_boot(&hello.claim);
            }
            HelloAnswer::Refused(refusal @ HelloRefusal::ClusterIdentity) => {
                self.notice_refusal(&hello.name, *refusal);
            }
            HelloAnswer::Blank { .. } => {
                lock(&self.seen).push((hello.name.clone(), hello.claim.clone()));
                self.seen_changed.notify_one();
            }
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
                lock(&self.strangers).remove(peer_name);
                roster.mark_answer(claim);
            }
            HelloAnswer::Refused(refusal) => self.notice_refusal(peer_name, *refusal),
            _ => {}
        }
        accepted
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves a whole value behind, even by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
