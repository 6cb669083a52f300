//! What this node may tell holders about their leases: valid for how long, at risk, lost.
//!
//! A promise is a statement about two clocks: for as long as it lasts on this node's clock, no
//! leader's clock can have let the lease end. The proof needs no comparison of clocks. A confirmed
//! keepalive reached the leader after it was sent, and the leader counts the full time to live from
//! when it got it; so counting from *before* the sending, on a clock that runs during suspend, and
//! giving up a margin for the difference of the two clocks' rates, ends first (RELIABILITY H6, L6).
//!
//! When keepalives are sent is decided by `keeper.rs`; when a lease ends in the cluster, by
//! `expiry.rs` of the leader.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::limits::promise_margin;
use crate::base::{Instant, LeaseId, Span};
use crate::state::{Bind, Lease};

/// What a holder is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// How it stands.
    pub state: PromiseState,
    /// For how long from now nobody else can be given what the lease protects. Zero when lost.
    pub valid_for: Span,
}

/// How a promise stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromiseState {
    /// Confirmed recently.
    Active,
    /// A confirmation is overdue; the promise still holds for its remaining time.
    AtRisk,
    /// Over. For a lease that this node keeps it never comes back.
    Lost,
}

/// The promises of one node.
///
/// Invariants:
/// - A promise is made only for a lease that was granted by, or confirmed to, this node.
/// - The base of a promise never moves back.
/// - A lost promise of a bound lease stays lost: its holder was told, and may have stopped.
#[derive(Debug, Default)]
pub struct Promises {
    kept: BTreeMap<LeaseId, Kept>,
    /// When the parent of bound leases was last confirmed, counted from before the sending.
    hosts: BTreeMap<LeaseId, Instant>,
    /// Lower bounds of the instants at which a promise may change its state.
    due: BTreeSet<(Instant, LeaseId)>,
    at_risk: BTreeSet<LeaseId>,
    /// How many bound leases have each time to live; the shortest sets the pace of the keeper.
    ttls: BTreeMap<Span, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    ttl: Span,
    bind: Bind,
    parent: Option<LeaseId>,
    base: Instant,
    told: PromiseState,
}

impl Kept {
    fn is_bound(&self) -> bool {
        self.bind != Bind::None
    }

    fn at_risk_from(&self, base: Instant) -> Instant {
        base + self.ttl.divided_by(2)
    }

    fn lost_from(&self, base: Instant) -> Instant {
        base + self.ttl.less(promise_margin(self.ttl))
    }
}

impl Promises {
    /// What may be told about a lease at `now`; nothing when this node has promised nothing.
    pub fn promise(&self, lease: LeaseId, now: Instant) -> Option<Promise> {
        let kept = self.kept.get(&lease)?;
        let base = self.base(kept);
        let lost_from = kept.lost_from(base);
        if kept.told == PromiseState::Lost || now >= lost_from {
            return Some(Promise { state: PromiseState::Lost, valid_for: Span::ZERO });
        }
        let overdue = now >= kept.at_risk_from(base);
        let state = if overdue { PromiseState::AtRisk } else { PromiseState::Active };
        Some(Promise { state, valid_for: lost_from.since(now) })
    }

    /// How many promises there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Starts a promise for a lease whose grant, or keepalive, left this node after `since`.
    pub(super) fn keep(&mut self, lease: &Lease, since: Instant) {
        assert!(lease.bind != Bind::Node, "nobody is promised a host's own lease {}", lease.id);
        if self.kept.contains_key(&lease.id) {
            self.confirm(lease.id, since);
            return;
        }
        let kept = Kept {
            ttl: lease.ttl,
            bind: lease.bind,
            parent: lease.parent,
            base: since,
            told: PromiseState::Active,
        };
        if kept.is_bound() {
            *self.ttls.entry(kept.ttl).or_default() += 1;
        }
        self.due.insert((kept.at_risk_from(since), lease.id));
        self.kept.insert(lease.id, kept);
    }

    /// A keepalive of this lease, or of the host lease above it, that left after `sent` was
    /// confirmed. Returns the leases that are at risk no longer.
    pub(super) fn confirm(&mut self, lease: LeaseId, sent: Instant) -> Vec<LeaseId> {
        match self.kept.get_mut(&lease) {
            Some(kept) => {
                kept.base = kept.base.max(sent);
                if kept.told == PromiseState::Lost && !kept.is_bound() {
                    kept.told = PromiseState::Active;
                    let from = kept.at_risk_from(kept.base);
                    self.due.insert((from, lease));
                }
            }
            None => {
                let base = self.hosts.entry(lease).or_insert(sent);
                *base = (*base).max(sent);
            }
        }
        let candidates: Vec<LeaseId> = self.at_risk.iter().copied().collect();
        let mut recovered = Vec::new();
        for id in candidates {
            let kept = self.kept[&id];
            let from = kept.at_risk_from(self.base(&kept));
            if from > sent && self.is_confirmed_by(&kept, id, lease) {
                self.at_risk.remove(&id);
                self.due.insert((from, id));
                self.kept.get_mut(&id).expect("it was just looked up").told = PromiseState::Active;
                recovered.push(id);
            }
        }
        recovered
    }

    fn is_confirmed_by(&self, kept: &Kept, id: LeaseId, confirmed: LeaseId) -> bool {
        id == confirmed || kept.parent == Some(confirmed)
    }

    /// The lease is gone from the cluster. Returns whether a promise ended with it.
    pub(super) fn end(&mut self, lease: LeaseId) -> bool {
        self.hosts.remove(&lease);
        self.at_risk.remove(&lease);
        let Some(kept) = self.kept.remove(&lease) else { return false };
        if kept.is_bound() {
            let count = self.ttls.get_mut(&kept.ttl).expect("every bound lease is counted");
            *count -= 1;
            if *count == 0 {
                self.ttls.remove(&kept.ttl);
            }
        }
        true
    }

    /// Moves promises along to `now`. Returns those that became at risk or lost.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut changed = Vec::new();
        while let Some(&(at, id)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(kept) = self.kept.get(&id).copied() else { continue };
            let base = self.base(&kept);
            let (risk, lost) = (kept.at_risk_from(base), kept.lost_from(base));
            let (told, next) = if kept.told == PromiseState::Lost || now >= lost {
                (PromiseState::Lost, None)
            } else if now >= risk {
                (PromiseState::AtRisk, Some(lost))
            } else {
                (PromiseState::Active, Some(risk))
            };
            if let Some(next) = next {
                self.due.insert((next, id));
            }
            match told {
                PromiseState::AtRisk => self.at_risk.insert(id),
                PromiseState::Active | PromiseState::Lost => self.at_risk.remove(&id),
            };
            if told != kept.told {
                self.kept.get_mut(&id).expect("it was just looked up").told = told;
                changed.push(id);
            }
        }
        changed
    }

    /// When [`advance`](Self::advance) may next have something to say.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    /// The shortest time to live among the leases that this node keeps alive itself.
    pub(super) fn shortest_bound_ttl(&self) -> Option<Span> {
        self.ttls.first_key_value().map(|(&ttl, _)| ttl)
    }

    fn base(&self, kept: &Kept) -> Instant {
        let host = kept.parent.and_then(|parent| self.hosts.get(&parent)).copied();
        host.map_or(kept.base, |host| kept.base.max(host))
    }
}

#[cfg(test)]
mod tests {
    use super::{PromiseState, Promises};
    use crate::base::{Instant, LeaseId, Span};
    use crate::replica::cluster_test::lease_record;
    use crate::state::{Bind, Lease};

    fn lease(id: u64, bind: Bind, parent: Option<u64>) -> Lease {
        lease_record(id, Span::from_secs(8), bind, parent)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Span::from_millis(millis)
    }

    fn state(promises: &Promises, id: u64, millis: u64) -> PromiseState {
        promises.promise(LeaseId(id), at(millis)).expect("a promise was made").state
    }

    #[test]
    fn a_promise_ends_a_margin_before_the_lease() {
        let mut promises = Promises::default();
        promises.keep(&lease(7, Bind::Connection, Some(1)), at(0));
        assert_eq!(state(&promises, 7, 3_999), PromiseState::Active);
        assert_eq!(state(&promises, 7, 4_000), PromiseState::AtRisk);
        assert_eq!(state(&promises, 7, 7_499), PromiseState::AtRisk);
        assert_eq!(state(&promises, 7, 7_500), PromiseState::Lost, "a sixteenth is given up");
        assert_eq!(promises.advance(at(4_000)), vec![LeaseId(7)]);
        assert_eq!(promises.advance(at(7_499)), vec![]);
        assert_eq!(promises.advance(at(7_500)), vec![LeaseId(7)]);
    }

    #[test]
    fn a_confirmed_host_lease_carries_its_children_and_no_others() {
        let mut promises = Promises::default();
        promises.keep(&lease(7, Bind::Connection, Some(1)), at(0));
        promises.keep(&lease(8, Bind::Connection, Some(2)), at(0));
        assert_eq!(promises.advance(at(5_000)).len(), 2);
        assert_eq!(promises.confirm(LeaseId(1), at(4_500)), vec![LeaseId(7)]);
        assert_eq!(state(&promises, 7, 5_000), PromiseState::Active);
        assert_eq!(state(&promises, 8, 5_000), PromiseState::AtRisk);
        assert_eq!(promises.advance(at(8_000)), vec![LeaseId(8)], "only the other one is lost");
    }

    #[test]
    fn what_was_told_lost_stays_lost_for_a_bound_lease_and_revives_for_a_kept_one() {
        let mut promises = Promises::default();
        promises.keep(&lease(7, Bind::Connection, Some(1)), at(0));
        promises.keep(&lease(9, Bind::None, None), at(0));
        promises.advance(at(8_000));
        promises.confirm(LeaseId(1), at(8_000));
        promises.confirm(LeaseId(9), at(8_000));
        assert_eq!(state(&promises, 7, 8_001), PromiseState::Lost);
        assert_eq!(state(&promises, 9, 8_001), PromiseState::Active);
        assert_eq!(promises.next_deadline(), Some(at(12_000)), "the revived one has a timer again");
    }

    #[test]
    fn an_old_confirmation_that_arrives_late_moves_nothing_back() {
        let mut promises = Promises::default();
        promises.keep(&lease(9, Bind::None, None), at(5_000));
        promises.confirm(LeaseId(9), at(1_000));
        let promise = promises.promise(LeaseId(9), at(5_000)).expect("a promise was made");
        assert_eq!(promise.valid_for, Span::from_millis(7_500));
    }

    #[test]
    fn the_shortest_time_to_live_follows_what_is_kept() {
        let mut promises = Promises::default();
        promises.keep(&lease(7, Bind::Connection, Some(1)), at(0));
        let mut short = lease(8, Bind::Connection, Some(1));
        short.ttl = Span::from_secs(2);
        promises.keep(&short, at(0));
        assert_eq!(promises.shortest_bound_ttl(), Some(Span::from_secs(2)));
        assert!(promises.end(LeaseId(8)), "it was promised");
        assert_eq!(promises.shortest_bound_ttl(), Some(Span::from_secs(8)));
        assert!(!promises.end(LeaseId(8)), "it ends once");
    }
}
