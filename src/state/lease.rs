//! Leases: a forest in which every lease that is bound to something on a host hangs under that
//! host's own lease, and ends with it.
//!
//! A host has such a lease for each boot of its daemon. What is bound to a connection ends when the
//! next boot is heard of; what is bound to a process stays under the lease of the boot that is
//! gone, which nobody keeps alive any more, until the next boot adopts it or its time is up. So a
//! process that has died in between is never kept alive by a keepalive of the new boot.
//!
//! When a lease is overdue is decided by the leader in `replica/`; here an expiry is only carried
//! out, or found to be void. Which keys hang on a lease is kept up to date by `keys.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::mutation::{self, Mutation};
use crate::base::{Boot, LeaseId, NodeId, RequestId, Term, limits, mix};
use crate::state::{Bind, Lease, LeaseChange, NewLease, Outcome, Refusal, RowKey, StateMachine};

use super::digest::lease_hash;
use super::machine::Effects;

/// All leases.
///
/// - `children` has exactly the pairs (parent, child) of leases that name a parent; the parent
///   exists.
/// - `hosts` has exactly the leases with `Bind::Node`; a node has at most one per boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    map: BTreeMap<LeaseId, Lease>,
    children: BTreeSet<(LeaseId, LeaseId)>,
    hosts: BTreeMap<(NodeId, Boot), LeaseId>,
}

impl Leases {
    /// The lease of this name.
    pub(super) fn find(&self, lease: LeaseId) -> Option<&Lease> {
        self.map.get(&lease)
    }

    /// All leases by id.
    pub(super) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.map.values()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.map.len()
    }

    /// The host's own lease of the newest boot that has one.
    pub(super) fn host(&self, node: NodeId) -> Option<&Lease> {
        let boots = self.hosts.range((node, Boot(0))..=(node, Boot(u64::MAX)));
        boots.last().map(|(_, lease)| &self.map[lease])
    }

    /// Whether this boot of a node has a host lease.
    pub(super) fn has_host(&self, node: NodeId, boot: Boot) -> bool {
        self.hosts.contains_key(&(node, boot))
    }

    /// The leases that hang directly under this one, by id.
    pub(super) fn children(&self, lease: LeaseId) -> impl Iterator<Item = LeaseId> {
        let pairs = self.children.range((lease, LeaseId(0))..=(lease, LeaseId(u64::MAX)));
        pairs.map(|(_, child)| *child)
    }

    /// The key set of a lease that exists.
    pub(super) fn keys_mut(&mut self, lease: LeaseId) -> &mut BTreeSet<Bytes> {
        let lease = self.map.get_mut(&lease);
        &mut lease.expect("whoever attaches a key has looked for its lease").keys
    }

    /// Adds a lease and its place in the forest.
    pub(super) fn insert(&mut self, lease: Lease) {
        let id = lease.id;
        assert!(id != LeaseId(0), "zero never names a lease");
        if let Some(parent) = lease.parent {
            self.children.insert((parent, id));
        }
        if lease.bind == Bind::Node {
            let other = self.hosts.insert((lease.node, lease.boot), id);
            assert!(other.is_none(), "{}/{} has two host leases", lease.node, lease.boot);
        }
        let other = self.map.insert(id, lease);
        assert!(other.is_none(), "lease {id} was made twice");
    }

    /// The own leases of a node's boots before that of the request.
    fn of_boots_before(&self, request: RequestId) -> Vec<LeaseId> {
        let former = (request.node, Boot(0))..(request.node, request.boot);
        self.hosts.range(former).map(|(_, lease)| *lease).collect()
    }

    /// Changes a lease that exists, other than a host's own, and its place in the forest. Returns
    /// it as it was, without its keys.
    fn change(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease)) -> Lease {
        let lease = self.map.get_mut(&id).expect("only leases that were found are changed");
        assert!(lease.bind != Bind::Node, "the own lease {id} of a host changes");
        let before = Lease { keys: BTreeSet::new(), info: lease.info.clone(), ..lease.clone() };
        change(lease);
        assert!(lease.id == id, "lease {id} became {}", lease.id);
        let after = lease.parent;
        if before.parent != after {
            self.children.extend(after.map(|parent| (parent, id)));
            if let Some(parent) = before.parent {
                self.children.remove(&(parent, id));
            }
        }
        before
    }

    fn remove(&mut self, id: LeaseId) -> Lease {
        let lease = self.map.remove(&id).expect("only leases that were found are ended");
        assert!(lease.keys.is_empty(), "lease {id} ends with {} keys", lease.keys.len());
        if let Some(parent) = lease.parent {
            self.children.remove(&(parent, id));
        }
        if lease.bind == Bind::Node {
            self.hosts.remove(&(lease.node, lease.boot));
        }
        lease
    }
}

impl StateMachine {
    /// `Operation::GrantLease`.
    ///
    /// There is no refusal of its own for `Bind::Node`, which no caller can send: it is answered as
    /// if a lease had been named that cannot exist.
    pub(super) fn grant(
        &mut self,
        request: RequestId,
        new: &NewLease,
        effects: &mut Effects,
    ) -> Outcome {
        if let Err(refusal) = may_be_made(new) {
            return refusal.into();
        }
        let lease = self.make_lease(request, new, false, effects);
        Outcome::Granted { lease, revision: self.revision }
    }

    /// Makes a lease, and before it the host's own lease where it needs one as parent.
    pub(super) fn make_lease(
        &mut self,
        request: RequestId,
        new: &NewLease,
        owned_by_place: bool,
        effects: &mut Effects,
    ) -> LeaseId {
        let parent = match new.bind {
            Bind::Connection | Bind::Process => Some(self.host_lease_of(request, effects)),
            Bind::Node | Bind::None => None,
        };
        self.leases_made += 1;
        let id = LeaseId(mix(self.leases_made));
        let lease = Lease {
            id,
            ttl: new.ttl,
            bind: new.bind,
            parent,
            node: request.node,
            boot: request.boot,
            pid: new.pid,
            uid: new.uid,
            info: new.info.clone(),
            generation: 1,
            owned_by_place,
            process: new.process.clone().filter(|_| new.bind == Bind::Process),
            keys: BTreeSet::new(),
        };
        self.digest.add(lease_hash(&lease));
        self.dirty.mark(RowKey::Lease(id));
        effects.leases.push(LeaseChange::Began(id));
        self.leases.insert(lease);
        id
    }

    fn host_lease_of(&mut self, request: RequestId, effects: &mut Effects) -> LeaseId {
        if let Some(lease) = self.leases.hosts.get(&(request.node, request.boot)) {
            return *lease;
        }
        let host = NewLease {
            ttl: limits::NODE_TTL,
            bind: Bind::Node,
            pid: None,
            uid: 0,
            info: String::new(),
            process: None,
        };
        self.make_lease(request, &host, false, effects)
    }

    /// `Operation::RevokeLeases`.
    pub(super) fn revoke(&mut self, leases: &[LeaseId], effects: &mut Effects) -> Outcome {
        if let [lease] = leases
            && let Err(refusal) = self.lease_exists(Some(*lease))
        {
            return refusal.into();
        }
        let found: BTreeSet<LeaseId> =
            leases.iter().copied().filter(|lease| self.leases.find(*lease).is_some()).collect();
        self.end_leases(&found, effects);
        Outcome::Revoked { revoked: found.len() as u64, revision: self.revision_after(effects) }
    }

    /// `Operation::ExpireLeases`. `named` is the term of the leader whose clock decided: the entry
    /// of a leader that was deposed since carries another (RELIABILITY H1), and a lease whose terms
    /// changed since has another generation (L3, H11).
    pub(super) fn expire(
        &mut self,
        named: Term,
        leases: &[(LeaseId, u64)],
        effects: &mut Effects,
    ) -> Outcome {
        if named == self.applied_term || mutation::active(Mutation::ExpiryIgnoresTerm) {
            let due = leases.iter().filter(|(lease, generation)| {
                self.leases.find(*lease).is_some_and(|lease| lease.generation == *generation)
            });
            let due: BTreeSet<LeaseId> = due.map(|(lease, _)| *lease).collect();
            self.end_leases(&due, effects);
        }
        Outcome::Done { revision: self.revision_after(effects) }
    }

    /// `Operation::NodeBooted`: the former boots of this daemon can keep nothing alive any more.
    /// What was bound through them hangs under their host leases; of that only what is bound to a
    /// process that can be known again stays, until it is adopted.
    pub(super) fn node_booted(&mut self, request: RequestId, effects: &mut Effects) -> Outcome {
        let mut ends = BTreeSet::new();
        for host in self.leases.of_boots_before(request) {
            let children = self.leases.children(host);
            let (stay, go): (Vec<_>, Vec<_>) = children.partition(|&child| self.outlives(child));
            ends.extend(go);
            if stay.is_empty() {
                ends.insert(host);
            }
        }
        self.end_leases(&ends, effects);
        Outcome::Done { revision: self.revision_after(effects) }
    }

    /// Whether a lease stays when the boot that granted it is gone.
    fn outlives(&self, lease: LeaseId) -> bool {
        let lease = self.leases.find(lease);
        lease.is_some_and(|lease| lease.bind == Bind::Process && lease.process.is_some())
    }

    /// `Operation::AdoptLeases`. Its generation grows, so that an expiry that was decided before is
    /// void, and it counts as begun anew: the promise of the new boot is counted from then.
    pub(super) fn adopt(
        &mut self,
        request: RequestId,
        leases: &[LeaseId],
        effects: &mut Effects,
    ) -> Outcome {
        let (node, boot) = (request.node, request.boot);
        let may = |lease: &Lease| lease.node == node && lease.boot <= boot;
        let found: BTreeSet<LeaseId> = leases
            .iter()
            .copied()
            .filter(|&id| self.outlives(id) && self.leases.find(id).is_some_and(may))
            .collect();
        for id in found {
            let host = self.host_lease_of(request, effects);
            self.change_lease(id, |lease| {
                (lease.parent, lease.boot) = (Some(host), boot);
                lease.generation += 1;
            });
            effects.leases.push(LeaseChange::Began(id));
        }
        let empty = |host: &LeaseId| self.leases.children(*host).next().is_none();
        let former: BTreeSet<LeaseId> =
            self.leases.of_boots_before(request).into_iter().filter(empty).collect();
        self.end_leases(&former, effects);
        Outcome::Done { revision: self.revision_after(effects) }
    }

    /// `Operation::BindLease`.
    pub(super) fn bind(&mut self, request: RequestId, id: LeaseId, process: &str) -> Outcome {
        // Only the node that watches the process can say which one it is.
        let is_of_node = |lease: &Lease| lease.bind == Bind::Process && lease.node == request.node;
        if !self.leases.find(id).is_some_and(is_of_node) {
            return Refusal::LeaseNotFound { lease: id }.into();
        }
        self.change_lease(id, |lease| lease.process = Some(process.to_owned()));
        Outcome::Done { revision: self.revision }
    }

    /// The process of a lease that was made just now does not count yet.
    pub(super) fn unbind(&mut self, id: LeaseId) {
        self.change_lease(id, |lease| lease.process = None);
    }

    fn change_lease(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease)) {
        let before = self.leases.change(id, change);
        let after = self.leases.find(id).expect("it was changed just now");
        assert!(before.parent.is_none() == after.parent.is_none(), "lease {id} left its host");
        self.digest.subtract(lease_hash(&before));
        self.digest.add(lease_hash(after));
        self.dirty.mark(RowKey::Lease(id));
    }

    /// Ends leases that exist, with all that hang under them and all their keys.
    pub(super) fn end_leases(&mut self, roots: &BTreeSet<LeaseId>, effects: &mut Effects) {
        let mut found = BTreeSet::new();
        let mut waiting: Vec<LeaseId> = roots.iter().rev().copied().collect();
        let mut order = Vec::new();
        while let Some(lease) = waiting.pop() {
            if found.insert(lease) {
                order.push(lease);
                waiting.extend(self.leases.children(lease));
            }
        }
        // Children go before their parents, so that a parent named by a lease always exists.
        order.sort_by_key(|lease| self.depth(*lease));
        for lease in order.into_iter().rev() {
            self.end_lease(lease, effects);
        }
    }

    fn depth(&self, lease: LeaseId) -> usize {
        let parent = |lease: &LeaseId| self.leases.find(*lease).and_then(|lease| lease.parent);
        std::iter::successors(Some(lease), parent).count()
    }

    fn end_lease(&mut self, id: LeaseId, effects: &mut Effects) {
        if mutation::active(Mutation::DeadWaiterStays) {
            self.leases.keys_mut(id).retain(|key| !key.starts_with(b"_"));
        }
        let lease = self.leases.find(id).expect("only leases that were found are ended");
        let keys: Vec<Bytes> = lease.keys.iter().cloned().collect();
        for key in keys {
            assert!(self.delete_key(&key, effects), "a key of lease {id} does not exist");
        }
        let lease = self.leases.remove(id);
        self.digest.subtract(lease_hash(&lease));
        self.dirty.mark(RowKey::Lease(id));
        effects.leases.push(LeaseChange::Ended(id));
    }
}

/// A host's own lease is made as a parent only.
pub(super) fn may_be_made(new: &NewLease) -> Result<(), Refusal> {
    match new.bind {
        Bind::Node => Err(Refusal::LeaseNotFound { lease: LeaseId(0) }),
        Bind::Connection | Bind::None | Bind::Process => Ok(()),
    }
}
