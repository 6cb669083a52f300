//! The handle through which the local API and the daemon use this folder.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::enroll::Enrolment;
use crate::host::Bindings;
use crate::node::Node;

use super::file_status::{FileStatus, PublishStatus};
use super::files_options::{FileOptions, PublishedOptions};
use super::host_tasks::HostTasks;
use super::refusal_log::RefusalLog;
use super::reload::Reloads;
use super::{AccessOptions, AccessRules, Denied};

/// What one daemon does for its host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    bindings: Bindings,
    /// Who waits here looks again at what it was once allowed. Sent by whoever reads the
    /// configuration, received by every stream; only the newest value counts.
    access: watch::Sender<Arc<AccessRules>>,
    refusals: RefusalLog,
    enrolment: OnceLock<Arc<Enrolment>>,
    files: HostTasks<(PathBuf, FileOptions), FileStatus>,
    published: HostTasks<(PathBuf, PublishedOptions), PublishStatus>,
    reloads: Reloads,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Host {
    /// The host of a running node. Needs a running tokio runtime. Until it is told otherwise, its
    /// socket is for root and the daemon's own user.
    pub fn new(node: Node) -> Self {
        let rules = AccessRules::new(&AccessOptions::default());
        let access = watch::Sender::new(Arc::new(rules));
        let bindings = Bindings::new(node.clone());
        Self {
            shared: Arc::new(Shared {
                node,
                bindings,
                access,
                refusals: RefusalLog::default(),
                enrolment: OnceLock::new(),
                files: HostTasks::default(),
                published: HostTasks::default(),
                reloads: Reloads::default(),
            }),
        }
    }

    /// Callers who wait for a reload.
    pub(super) fn reloads(&self) -> &Reloads {
        &self.shared.reloads
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    /// The leases that end with processes.
    pub fn bindings(&self) -> &Bindings {
        &self.shared.bindings
    }

    /// The access rules in force.
    pub fn access(&self) -> Arc<AccessRules> {
        self.shared.access.borrow().clone()
    }

    /// Puts other rules in force, for requests from now on and for streams that are under way.
    pub fn set_access(&self, rules: AccessRules) {
        self.shared.access.send_replace(Arc::new(rules));
    }

    /// Tells when other rules come into force.
    pub fn access_changes(&self) -> watch::Receiver<Arc<AccessRules>> {
        self.shared.access.subscribe()
    }

    /// Logs that a caller was refused, for each user once in a second.
    pub fn log_refusal(&self, denied: &Denied, pid: Option<u32>) {
        self.shared.refusals.note(denied, pid, std::time::Instant::now());
    }

    /// What this daemon does about joining; nothing before it was set.
    pub fn enrolment(&self) -> Option<&Arc<Enrolment>> {
        self.shared.enrolment.get()
    }

    /// Sets that, once.
    pub fn set_enrolment(&self, enrolment: Arc<Enrolment>) {
        // A second one would answer nobody: the first stays.
        let _ = self.shared.enrolment.set(enrolment);
    }

    /// The tasks that keep files equal to keys.
    pub(super) fn files(&self) -> &HostTasks<(PathBuf, FileOptions), FileStatus> {
        &self.shared.files
    }

    /// The tasks that keep keys equal to directories.
    pub(super) fn published(&self) -> &HostTasks<(PathBuf, PublishedOptions), PublishStatus> {
        &self.shared.published
    }
}
