//! What a daemon adds to its cluster because it runs on the same host as its callers.
//!
//! The kernel tells it who asks and when a process ends; it can read and write this host's files.
//! None of that is replicated state: it is found again after a restart.
//!
//! - [`AccessRules`]: what a [`Subject`] may do, by its user, groups, unit and control group.
//! - [`Caller`]: who asks, as the kernel tells.
//! - [`FileWatch`]: tells when files may have changed.
//! - [`Process`]: one process, pinned; [`ProcessIdentity`]: what tells it from all others.
//! - [`TargetError`]: why a caller may not bind a lease to a process.
//! - [`Host`]: what the local API and the daemon use of this folder, behind one cheap handle.

mod access;
#[cfg(test)]
mod access_test;
mod caller;
mod credentials;
mod file_watch;
#[cfg(test)]
mod file_watch_test;
mod handle;
mod identity;
mod pattern;
mod proc_files;
mod process;
mod refusal_log;
mod target;

#[cfg(test)]
mod process_test;

pub use access::{
    AccessOptions, AccessRuleOptions, AccessRules, Decision, Denied, Facts, Subject, Wanted,
};
pub use caller::Caller;
pub use credentials::sees_all_users;
pub use file_watch::FileWatch;
pub use handle::Host;
pub use identity::{NoIdentity, ProcessIdentity};
pub use pattern::KeyRange;
pub use process::{Found, Process};
pub use target::TargetError;
