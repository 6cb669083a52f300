//! After a start: which leases that earlier boots of this daemon bound to processes go on.
//!
//! Until they are adopted nobody keeps them alive, so that whatever the daemon finds late, or not
//! at all, ends by itself. That adopting is safe is argued in `state/lease.rs` and `replica/`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{LeaseId, Span, limits};
use crate::host::{Bindings, Found, Process, ProcessIdentity};
use crate::node::{Consistency, Node};

use super::fd_store::STORED_PROCESS_PREFIX;

/// How long one attempt to see the whole state may take.
const LOOK_TIMEOUT: Span = Span::from_secs(10);
/// The pause before the next.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What is to be done about the leases of earlier boots.
#[derive(Debug, Default)]
struct Verdicts {
    alive: Vec<(LeaseId, Arc<Process>)>,
    ended: Vec<LeaseId>,
    unknown: usize,
}

impl Bindings {
    /// Finds the leases of earlier boots again: ends those whose processes have ended, goes on with
    /// those whose processes live, and leaves alone what cannot be told. `stored` are descriptors
    /// that systemd kept, by name. Returns when the whole state was seen once, which may take until
    /// there is a leader; what follows is pursued in the background.
    pub async fn adopt(&self, stored: Vec<(String, OwnedFd)>) {
        let node = self.node();
        // Everything that an earlier boot was told was committed before this.
        while node.barrier(Consistency::Linearizable, LOOK_TIMEOUT).await.is_err() {
            if node.is_draining() {
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        let mut kept: BTreeMap<ProcessIdentity, OwnedFd> = BTreeMap::new();
        for (name, descriptor) in stored {
            let identity = name.strip_prefix(STORED_PROCESS_PREFIX).map(str::parse);
            match identity {
                Some(Ok(identity)) => drop(kept.insert(identity, descriptor)),
                _ => self.store().drop_name(&name),
            }
        }
        let names: BTreeSet<ProcessIdentity> = kept.keys().cloned().collect();
        let verdicts = judge(former_leases(node), kept);
        let going_on: BTreeSet<&ProcessIdentity> =
            verdicts.alive.iter().map(|(_, process)| process.identity()).collect();
        for identity in names.iter().filter(|name| !going_on.contains(name)) {
            self.store().drop_process(identity);
        }
        self.carry_out(&verdicts);
    }

    fn carry_out(&self, verdicts: &Verdicts) {
        let node = self.node();
        for ended in verdicts.ended.chunks(limits::BOUND_LEASES_BATCH_MAX) {
            node.end_leases(ended.to_vec());
        }
        let mut alive = Vec::with_capacity(verdicts.alive.len());
        for (lease, process) in &verdicts.alive {
            // Watched first: an exit from here on ends it, adopted or not.
            match self.bind(*lease, process) {
                Ok(()) => alive.push(*lease),
                Err(error) => tracing::error!(%error, %lease, "a lease is not gone on with"),
            }
        }
        for alive in alive.chunks(limits::BOUND_LEASES_BATCH_MAX) {
            node.adopt_leases(alive.to_vec());
        }
        if !alive.is_empty() || !verdicts.ended.is_empty() || verdicts.unknown > 0 {
            tracing::info!(
                alive = alive.len(),
                ended = verdicts.ended.len(),
                unknown = verdicts.unknown,
                "leases that were bound to processes before this start"
            );
        }
    }
}

/// The leases that earlier boots of this node bound to processes which can be known again.
fn former_leases(node: &Node) -> Vec<(LeaseId, String)> {
    let status = node.status();
    let (own, boot) = (status.replica.node, status.replica.boot);
    let view = node.view();
    let former = view.machine.leases().filter(|it| it.node == own && it.boot < boot);
    former.filter_map(|lease| Some((lease.id, lease.process.clone()?))).collect()
}

fn judge(leases: Vec<(LeaseId, String)>, mut kept: BTreeMap<ProcessIdentity, OwnedFd>) -> Verdicts {
    enum Known {
        Alive(Arc<Process>),
        Ended,
        Unknown,
    }
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut verdicts = Verdicts::default();
    for (lease, text) in leases {
        let found = known.entry(text).or_insert_with_key(|text| {
            // A text that only another version of this program understands.
            let Ok(identity) = text.parse::<ProcessIdentity>() else { return Known::Unknown };
            let kept = kept.remove(&identity);
            match Process::find(&identity, kept) {
                Found::Alive(process) => Known::Alive(Arc::new(process)),
                Found::Ended => Known::Ended,
                Found::Unknown => Known::Unknown,
            }
        });
        match found {
            Known::Alive(process) => verdicts.alive.push((lease, process.clone())),
            Known::Ended => verdicts.ended.push(lease),
            Known::Unknown => verdicts.unknown += 1,
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::judge;
    use crate::base::LeaseId;
    use crate::host::Process;

    #[test]
    fn each_lease_follows_its_own_process_and_strange_texts_are_left_alone() {
        let mut children: Vec<_> =
            (0..2).map(|_| Command::new("sleep").arg("600").spawn().unwrap()).collect();
        let identity = |pid| Process::open(pid).unwrap().identity().to_string();
        let (a, b) = (identity(children[0].id()), identity(children[1].id()));
        children[1].kill().unwrap();
        children[1].wait().unwrap();
        let leases = vec![
            (LeaseId(1), a.clone()),
            (LeaseId(2), b),
            (LeaseId(3), a),
            (LeaseId(4), "from-the-future".to_owned()),
        ];
        let verdicts = judge(leases, BTreeMap::new());
        let alive: Vec<LeaseId> = verdicts.alive.iter().map(|(lease, _)| *lease).collect();
        assert_eq!(alive, vec![LeaseId(1), LeaseId(3)]);
        assert_eq!(verdicts.alive[0].1.pid(), children[0].id());
        assert_eq!(verdicts.ended, vec![LeaseId(2)]);
        assert_eq!(verdicts.unknown, 1);
        children[0].kill().unwrap();
        children[0].wait().unwrap();
    }
}
