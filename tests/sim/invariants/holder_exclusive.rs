//! As long as a holder was told that its lease is valid, nobody else is told that he holds, unless
//! both share (L5 to L7), tokens only grow, and the lease does not end (L1, L3). On true time: what
//! a holder was told ends when its host's clock says so, whatever that clock shows.

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::{LeaseId, Token};
use quorumd::state::{Mode, QueueName};

/// What holders were told.
#[derive(Debug, Default)]
pub struct HolderExclusive {
    /// Until when, in true microseconds, a lease was promised.
    until: BTreeMap<LeaseId, u64>,
    ended: BTreeSet<LeaseId>,
    locks: BTreeMap<QueueName, BTreeMap<LeaseId, (Token, Mode)>>,
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

    /// A caller is told that he holds one of `slots`, beside whom `mode` says, under a lease that
    /// was promised.
    pub fn held(
        &mut self,
        now: u64,
        (lock, slots, mode): (&QueueName, u32, Mode),
        lease: LeaseId,
        token: Token,
    ) {
        let holders = self.locks.entry(lock.clone()).or_default();
        let both_share = |other: Mode| (mode, other) == (Mode::Shared, Mode::Shared);
        if holders.insert(lease, (token, mode)).is_none() {
            self.holders += 1;
            // A node that lags may tell a reader of an earlier place after one of a later.
            let is_later =
                |(_, (other, mode)): &(_, &(Token, Mode))| *other > token && !both_share(*mode);
            let later = self.locks[lock].iter().find(is_later);
            crate::ensure!(
                slots > 1 || later.is_none(),
                "token_increases",
                "{lock:?}: {lease} holds with {token} after {later:?}"
            );
        }
        let promised = |other: &LeaseId| self.until.get(other).is_some_and(|&until| until > now);
        let others: Vec<&LeaseId> = self.locks[lock]
            .iter()
            .filter(|(other, (_, mode))| **other != lease && !both_share(*mode))
            .map(|(other, _)| other)
            .filter(|other| promised(other))
            .collect();
        crate::ensure!(
            others.len() < slots as usize,
            "holder_exclusive",
            "{lock:?} of {slots}: {lease} is told it holds, so were {others:?}, for {:?} us more",
            others.iter().map(|other| self.until[other] - now).collect::<Vec<u64>>()
        );
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
