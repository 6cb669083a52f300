//! What a daemon adds to its cluster because it runs on the same host as its callers.
//!
//! The kernel tells it who asks and when a process ends; it can read and write this host's files.
//! None of that is replicated state: it is found again after a restart.
//!
//! - [`AccessRules`]: what a [`Subject`] may do, by its user, groups, unit and control group.
//! - [`Bindings`]: which leases end with which processes. One task watches all of them, until the
//!   last handle is gone; one talks to systemd's file-descriptor store.
//! - [`Caller`]: who asks, as the kernel tells.
//! - [`FilesOptions`]: files that follow keys; [`FileStatus`]: how one stands.
//! - [`PublishOptions`]: directories that keys follow; [`PublishStatus`]: how one stands.
//! - [`FileWatch`]: tells when files may have changed.
//! - [`Process`]: one process, pinned; [`ProcessIdentity`]: what tells it from all others.
//! - [`TargetError`]: why a caller may not bind a lease to a process.
//! - [`ReloadRequest`]: a caller who wants the daemon's files to be read again.
//! - [`Host`]: what the local API and the daemon use of this folder, behind one cheap handle.

mod access;
#[cfg(test)]
mod access_test;
mod adopt;
mod bindings;
mod caller;
mod credentials;
mod fd_store;
mod file_content;
mod file_inputs;
mod file_status;
mod file_task;
mod file_watch;
#[cfg(test)]
mod file_watch_test;
mod files;
mod files_options;
#[cfg(test)]
mod files_test;
mod handle;
mod helper_command;
mod host_tasks;
mod identity;
mod key_interest;
mod named;
mod ownership;
mod proc_files;
mod process;
mod publish_rule;
mod published_directory;
mod publisher;
mod refusal_log;
mod reload;
mod standing;
mod state_file;
mod target;
mod target_file;
mod template;

#[cfg(test)]
mod process_test;

pub use access::{
    AccessOptions, AccessRuleOptions, AccessRules, Decision, Denied, Facts, Subject, Wanted,
};
pub use bindings::Bindings;
pub use caller::Caller;
pub use credentials::sees_all_users;
pub use fd_store::STORED_PROCESS_PREFIX;
pub use file_status::{FileState, FileStatus, PublishStatus};
pub use file_watch::FileWatch;
pub use files_options::{
    CommandOptions, ContentOptions, FileOptions, FilesOptions, FormatOptions, OnConflictOptions,
    OnMissingOptions, OnVanishOptions, PublishOptions, PublishedOptions, TemplateOptions,
};
pub use handle::Host;
pub use identity::{NoIdentity, ProcessIdentity};
pub use process::{Found, Process};
pub use reload::{ReloadReport, ReloadRequest, ReloadRequests};
pub use target::TargetError;
