//! Tells the log who was refused, and is not made to fill it by those who are.
//!
//! Names of keys and locks are told at `debug` only, values never.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Denied;

/// For how long further refusals of one user are counted instead of told.
const QUIET: Duration = Duration::from_secs(1);
/// Most users that are remembered: more than that have one line among them all.
const USERS_MAX: usize = 256;

/// Since when each user is counted, and how many refusals have been counted since.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    users: Mutex<BTreeMap<u32, (Instant, u64)>>,
}

impl RefusalLog {
    /// A refusal.
    pub(super) fn note(&self, denied: &Denied, pid: Option<u32>, now: Instant) {
        let Denied { uid, what, name, rule } = denied;
        tracing::debug!(uid, pid, what, name, rule, "a caller was refused");
        let Some(untold) = self.is_due(*uid, now) else { return };
        tracing::warn!(
            uid,
            pid,
            what,
            rule,
            untold,
            "the access rules refused a caller; further refusals of this user are counted for a \
             second"
        );
    }

    /// The number of refusals that went untold before this one, if this one is to be told.
    fn is_due(&self, uid: u32, now: Instant) -> Option<u64> {
        // Each change is one step: a panic elsewhere leaves the table right.
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if !users.contains_key(&uid) && users.len() >= USERS_MAX {
            users.retain(|_, (since, _)| now.saturating_duration_since(*since) < QUIET);
        }
        // Beyond the bound all users share the place of one that no caller can have.
        let uid = if users.contains_key(&uid) || users.len() < USERS_MAX { uid } else { u32::MAX };
        match users.get_mut(&uid) {
            Some((since, untold)) if now.saturating_duration_since(*since) < QUIET => {
                *untold += 1;
                None
            }
            Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
            None => {
                users.insert(uid, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{QUIET, RefusalLog, USERS_MAX};

    #[test]
    fn each_user_has_one_line_in_a_second() {
        let (log, begin) = (RefusalLog::default(), Instant::now());
        assert_eq!(log.is_due(1, begin), Some(0));
        for _ in 0..1_000 {
            assert_eq!(log.is_due(1, begin + QUIET / 2), None);
        }
        assert_eq!(log.is_due(2, begin + QUIET / 2), Some(0), "another user is told");
        assert_eq!(log.is_due(1, begin + QUIET), Some(1_000));
        assert_eq!(log.is_due(1, begin + QUIET * 3), Some(0));
    }

    #[test]
    fn many_users_take_bounded_memory() {
        let (log, begin) = (RefusalLog::default(), Instant::now());
        let told = (0..100_000).filter(|uid| log.is_due(*uid, begin).is_some()).count();
        assert_eq!(told, USERS_MAX + 1);
        assert!(log.users.lock().unwrap().len() <= USERS_MAX + 1);
        assert_eq!(log.is_due(7_000_000, begin + Duration::from_secs(2)), Some(0));
    }
}
