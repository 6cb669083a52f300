//! As long as a holder was told that its lease is valid, nobody else is told that he holds (L5 to
//! L7), tokens only grow, and the lease does not end (L1, L3). On true time: what a holder was told
//! ends when its host's clock says so, whatever that clock shows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorumd::base::{LeaseId, Token};

/// What holders were told.
#[derive(Debug, Default)]
pub struct HolderExclusive {
    /// Until when, in true microseconds, a lease was promised.
    until: BTreeMap<LeaseId, u64>,
    ended: BTreeSet<LeaseId>,
    locks: BTreeMap<Bytes, BTreeMap<LeaseId, Token>>,
    /// How often somebody new was told that he holds.
    pub holders: u64,
}

impl HolderExclusive {
    /// The caller behind a lease is told that it is valid until `until`.
    pub fn promised(&mut self, now: u64, lease: LeaseId, until: u64) {
        crate::ensure!(
            until <= now || !self.ended.contains(&lease),
            "lease_minimum",
            "lease {lease} has ended and is told to be valid for {} us",
            until.saturating_sub(now)
        );
        let known = self.until.entry(lease).or_default();
        *known = until.max(*known);
    }

    /// A caller is told that he holds a lock, under a lease that was promised.
    pub fn held(&mut self, now: u64, lock: &Bytes, lease: LeaseId, token: Token) {
        let holders = self.locks.entry(lock.clone()).or_default();
        if holders.insert(lease, token).is_some() {
            self.others(now, lock, lease);
            return;
        }
        self.holders += 1;
        let holders = &self.locks[lock];
        for (&other, &earlier) in holders.iter().filter(|(other, _)| **other != lease) {
            crate::ensure!(
                earlier < token,
                "token_increases",
                "{lock:?}: {lease} holds with {token} after {other} with {earlier}"
            );
        }
        self.others(now, lock, lease);
    }

    fn others(&self, now: u64, lock: &Bytes, lease: LeaseId) {
        for other in self.locks[lock].keys().filter(|other| **other != lease) {
            let until = self.until.get(other).copied().unwrap_or(0);
            crate::ensure!(
                until <= now,
                "holder_exclusive",
                "{lock:?}: {lease} is told it holds, {other} was told so for {} us more",
                until.saturating_sub(now)
            );
        }
    }

    /// The caller has given the lease up, or does not live any more.
    pub fn given_up(&mut self, lease: LeaseId) {
        self.until.remove(&lease);
    }

    /// The lease has ended.
    pub fn ended(&mut self, now: u64, lease: LeaseId) {
        self.ended.insert(lease);
        let until = self.until.remove(&lease).unwrap_or(0);
        crate::ensure!(
            until <= now,
            "lease_minimum",
            "lease {lease} ends, and was promised for {} us more",
            until.saturating_sub(now)
        );
    }
}
