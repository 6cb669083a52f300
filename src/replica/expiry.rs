//! The leader's side of leases: which ones are overdue on its clock.
//!
//! Only a leader that has opened its term has such a table, and it starts every lease with its full
//! time to live: what an earlier leader had counted is forgotten (RELIABILITY H2, L1). A lease is
//! renewed only by a keepalive that a quorum confirmed after it arrived; one whose expiry is under
//! way is not renewed any more. The expiry itself is a log entry
//! (`state::Operation::ExpireLeases`), and what it does is decided by `state/`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::mutation::{self, Mutation};
use crate::base::{Instant, LeaseId, Span};
use crate::state::{Lease, StateMachine};

/// When leases end on the clock of one leader during one term.
///
/// Invariants:
/// - Every lease of the applied state has exactly one entry, and no other lease has one.
/// - `children` has exactly the entries that name a parent, by that parent.
/// - Each entry that is not expiring has at least one element in `due`, at or before its end.
/// - The end of a lease only moves later, but for the own lease of a host that left, which nobody
///   is promised.
#[derive(Debug, Default)]
pub(super) struct ExpiryTable {
    entries: BTreeMap<LeaseId, Timed>,
    children: BTreeSet<(LeaseId, LeaseId)>,
    due: BTreeSet<(Instant, LeaseId)>,
    /// The own leases of hosts that are no members any more: they are not renewed, and end with the
    /// last of their children.
    departed: BTreeSet<LeaseId>,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    ttl: Span,
    parent: Option<LeaseId>,
    renewed: Instant,
    expiring: bool,
}

impl ExpiryTable {
    /// The table of a leader that has just opened its term: every lease has its full time.
    pub(super) fn open(machine: &StateMachine, now: Instant) -> Self {
        let mut table = Self::default();
        for lease in machine.leases() {
            table.begin(lease, now);
            if mutation::active(Mutation::NewLeaderShortensLeases)
                && let Some(timed) = table.entries.get_mut(&lease.id)
            {
                timed.ttl = timed.ttl.divided_by(2);
                table.due.insert((now + timed.ttl, lease.id));
            }
        }
        table
    }

    /// The lease was applied, or its terms changed, at `now`.
    pub(super) fn begin(&mut self, lease: &Lease, now: Instant) {
        let timed = Timed { ttl: lease.ttl, parent: lease.parent, renewed: now, expiring: false };
        if let Some(before) = self.entries.insert(lease.id, timed) {
            self.orphan(lease.id, before.parent);
        }
        self.children.extend(lease.parent.map(|parent| (parent, lease.id)));
        self.due.insert((now + lease.ttl, lease.id));
    }

    /// The lease is gone.
    pub(super) fn end(&mut self, lease: LeaseId) {
        if let Some(timed) = self.entries.remove(&lease) {
            self.orphan(lease, timed.parent);
        }
        self.departed.remove(&lease);
    }

    fn orphan(&mut self, child: LeaseId, parent: Option<LeaseId>) {
        if let Some(parent) = parent {
            self.children.remove(&(parent, child));
        }
    }

    /// These are the own leases of hosts that are no members now; all others are members'.
    pub(super) fn set_departed(&mut self, hosts: BTreeSet<LeaseId>, now: Instant) {
        // Their ends may have come nearer: look at once.
        self.due.extend(hosts.difference(&self.departed).map(|&host| (now, host)));
        self.departed = hosts;
    }

    /// A keepalive that arrived at `received` was confirmed by a quorum. False when the lease is
    /// not alive, or its end is under way.
    pub(super) fn renew(&mut self, lease: LeaseId, received: Instant) -> bool {
        match self.entries.get_mut(&lease) {
            Some(timed) if !timed.expiring && !self.departed.contains(&lease) => {
                timed.renewed = timed.renewed.max(received);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The leases that are overdue at `now`. They count as expiring from here on: the caller
    /// pursues their end until it is applied, or until it leads no more and this table is gone.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut overdue = Vec::new();
        while let Some(&(at, id)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(timed) = self.entries.get(&id).copied() else { continue };
            if timed.expiring {
                continue;
            }
            let end = self.end_of(id, &timed);
            if end > now {
                self.due.insert((end, id));
            } else {
                self.entries.get_mut(&id).expect("it was just looked up").expiring = true;
                overdue.push(id);
            }
        }
        overdue
    }

    /// When a lease may next be overdue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    /// A lease under a host's lease lives on with every keepalive of the host: it ends its own time
    /// after the later of its own renewal and the host's. The host's lease never ends before one
    /// that hangs under it, because it takes them with it, and their holders were promised their
    /// own time. That of a host that left has no time of its own.
    fn end_of(&self, id: LeaseId, timed: &Timed) -> Instant {
        let renewed = |timed: &Timed| {
            let host = timed.parent.and_then(|parent| self.entries.get(&parent));
            host.map_or(timed.renewed, |host| timed.renewed.max(host.renewed))
        };
        let own = if self.departed.contains(&id) { Span::ZERO } else { timed.ttl };
        let children = self.children.range((id, LeaseId(u64::MIN))..=(id, LeaseId(u64::MAX)));
        let children = children.filter_map(|(_, child)| self.entries.get(child));
        let last = children.map(|child| renewed(child) + child.ttl).max();
        last.map_or(renewed(timed) + own, |last| last.max(renewed(timed) + own))
    }
}

#[cfg(test)]
mod tests {
    use super::ExpiryTable;
    use crate::base::{Instant, LeaseId, Span};
    use crate::replica::cluster_test::lease_record;
    use crate::state::{Bind, Lease};

    fn lease(id: u64, ttl: u64, parent: Option<u64>) -> Lease {
        let bind = if parent.is_some() { Bind::Connection } else { Bind::None };
        lease_record(id, Span::from_secs(ttl), bind, parent)
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Span::from_secs(secs)
    }

    #[test]
    fn a_lease_ends_its_time_after_its_last_renewal_and_not_before() {
        let mut table = ExpiryTable::default();
        table.begin(&lease(5, 10, None), at(0));
        assert!(table.renew(LeaseId(5), at(7)), "it is alive");
        assert_eq!(table.take_overdue(at(16)), vec![], "seven and ten are seventeen");
        assert_eq!(table.take_overdue(at(17)), vec![LeaseId(5)]);
        assert!(!table.renew(LeaseId(5), at(18)), "its end is under way");
        assert_eq!(table.take_overdue(at(40)), vec![], "its end is proposed once");
    }

    #[test]
    fn children_live_by_the_keepalives_of_their_host() {
        let mut table = ExpiryTable::default();
        table.begin(&lease(1, 60, None), at(0));
        table.begin(&lease(5, 10, Some(1)), at(2));
        assert!(table.renew(LeaseId(1), at(9)), "the host is alive");
        assert_eq!(table.take_overdue(at(18)), vec![]);
        assert_eq!(table.take_overdue(at(19)), vec![LeaseId(5)], "ten after the host's nine");
    }

    #[test]
    fn a_child_whose_time_is_longer_than_its_hosts_has_all_of_it() {
        // Its holder, on a host that is cut off, was promised its own time: had it ended with the
        // host's sixty seconds, somebody else could hold while the promise lasts.
        let mut table = ExpiryTable::default();
        table.begin(&lease(1, 60, None), at(0));
        table.begin(&lease(5, 200, Some(1)), at(0));
        assert!(table.renew(LeaseId(1), at(10)), "the last keepalive of the host");
        assert_eq!(table.take_overdue(at(209)), vec![]);
        assert_eq!(table.take_overdue(at(210)), vec![LeaseId(1), LeaseId(5)]);
    }

    #[test]
    fn the_lease_of_a_host_that_left_ends_with_its_last_child_and_no_promise_is_broken() {
        let mut table = ExpiryTable::default();
        table.begin(&lease(1, 60, None), at(0));
        table.begin(&lease(5, 10, Some(1)), at(2));
        assert!(table.renew(LeaseId(1), at(9)), "a member's keepalive");
        table.set_departed([LeaseId(1)].into(), at(11));
        assert!(!table.renew(LeaseId(1), at(12)), "what is confirmed no more promises no more");
        assert_eq!(table.take_overdue(at(18)), vec![], "the holder was told so until nineteen");
        assert_eq!(table.take_overdue(at(19)), vec![LeaseId(1), LeaseId(5)]);

        let mut table = ExpiryTable::default();
        table.begin(&lease(1, 60, None), at(0));
        table.set_departed([LeaseId(1)].into(), at(11));
        assert_eq!(table.take_overdue(at(11)), vec![LeaseId(1)], "nothing was bound there");
    }

    #[test]
    fn a_fresh_child_has_its_full_time_whatever_its_host_did_before() {
        let mut table = ExpiryTable::default();
        table.begin(&lease(1, 60, None), at(0));
        table.begin(&lease(5, 10, Some(1)), at(30));
        assert_eq!(table.take_overdue(at(39)), vec![]);
        assert_eq!(table.take_overdue(at(40)), vec![LeaseId(5)]);
    }
}
