//! Which process a caller means when it binds a lease: its own, or one that it names.
//!
//! How a lease follows its process is decided in `bindings.rs`.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::host::{Caller, Process};

use super::proc_files;

/// Why a lease cannot be bound to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// The process that connected has ended, whoever uses its connection now.
    CallerEnded,
    /// The connection tells of no process: the TCP port, or there are no more descriptors.
    CallerUnknown,
    /// The process with this number is another user's.
    Foreign(u32),
    /// The caller is in another pid namespace than the daemon, where the number means another
    /// process.
    Namespace(u32),
    /// There is no process with this number, or it cannot be seen.
    NoProcess(u32),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallerEnded => write!(
                f,
                "the process that made this connection has ended, though its connection is still \
                 open: let the process that is to hold connect by itself, or name it in \"pid\""
            ),
            Self::CallerUnknown => write!(
                f,
                "the daemon cannot see which process made this connection: name one in \"pid\""
            ),
            Self::Foreign(pid) => write!(f, "process {pid} is another user's"),
            Self::Namespace(pid) => write!(
                f,
                "\"pid\" {pid}: the caller is in another pid namespace than the daemon, where only \
                 its own number and those of the processes that it descends from can be told: \
                 leave \"pid\" out, or let that process ask by itself"
            ),
            Self::NoProcess(pid) => write!(f, "\"pid\": the daemon sees no process {pid}"),
        }
    }
}

/// The user that stands for all those of other user namespaces (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;
/// Most generations that a caller is followed up by. A chain is that long only by design.
const ANCESTORS_MAX: usize = 64;

impl Caller {
    /// The process that a lease of this caller is to be bound to: that with the number `pid` as the
    /// caller counts, or its own. It was alive a moment ago.
    ///
    /// # Errors
    ///
    /// When there is none, or the caller may not bind to it: only root may bind to other users'.
    pub fn target(&self, pid: Option<u32>) -> Result<Arc<Process>, TargetError> {
        let own = self.process.as_ref();
        let Some(pid) = pid else {
            let own = own.ok_or(TargetError::CallerUnknown)?;
            return if own.is_alive() { Ok(own.clone()) } else { Err(TargetError::CallerEnded) };
        };
        let here = self.translate(pid)?;
        if let Some(own) = own.filter(|own| own.pid() == here && here != 0 && own.is_alive()) {
            return Ok(own.clone());
        }
        let process = Process::open(here).map_err(|_| TargetError::NoProcess(pid))?;
        self.may_bind_to(&process, pid)?;
        // With the process pinned the number is looked up once more: now it cannot be given to
        // another one in between.
        if self.translate(pid)? != here || !process.is_alive() {
            return Err(TargetError::NoProcess(pid));
        }
        Ok(Arc::new(process))
    }

    fn may_bind_to(&self, process: &Process, pid: u32) -> Result<(), TargetError> {
        let owner = process.owner().map_err(|_| TargetError::NoProcess(pid))?;
        let same = [owner.real, owner.effective, owner.saved].iter().all(|uid| *uid == self.uid);
        match self.uid == 0 || (same && self.uid != OVERFLOW_UID) {
            true => Ok(()),
            false => Err(TargetError::Foreign(pid)),
        }
    }

    /// The number in the daemon's pid namespace of the process that is `pid` to the caller.
    fn translate(&self, pid: u32) -> Result<u32, TargetError> {
        // Who shows the token is this daemon's user, and counts as it does.
        let Some(own) = &self.process else { return Ok(pid) };
        if own.pid() == 0 {
            // A process of a namespace outside of the daemon's.
            return Err(TargetError::Namespace(pid));
        }
        let names = match own.look(proc_files::namespace_pids) {
            Ok(names) => names,
            Err(_) if !own.is_alive() => return Err(TargetError::CallerEnded),
            // `/proc` shows only the daemon's own processes, and so not `pid` either.
            Err(_) if own.pid() == pid => return Ok(pid),
            Err(_) => return Err(TargetError::NoProcess(pid)),
        };
        if names.len() == 1 {
            return Ok(pid);
        }
        // Deeper than the daemon. Whoever it descends from, and is as deep, is in the same
        // namespace: a number there is one process. Of all others it cannot be told.
        let mut at = own.pid();
        for _ in 0..ANCESTORS_MAX {
            let unseen = |_: io::Error| TargetError::Namespace(pid);
            let found = proc_files::namespace_pids(at).map_err(unseen)?;
            if found.len() != names.len() {
                break;
            }
            if found.last() == Some(&pid) {
                return Ok(at);
            }
            at = proc_files::parent(at).map_err(unseen)?;
            if at == 0 {
                break;
            }
        }
        Err(TargetError::Namespace(pid))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use super::TargetError;
    use crate::host::{Caller, Process};

    fn caller(uid: u32) -> Caller {
        let pid = std::process::id();
        let process = Some(Arc::new(Process::open(pid).unwrap()));
        Caller { uid, gid: uid, pid: Some(pid), process }
    }

    #[test]
    fn a_caller_binds_to_processes_of_its_own_user_and_root_to_all() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(caller(own).target(Some(pid)).unwrap().pid(), pid);
        assert_eq!(caller(0).target(Some(pid)).unwrap().pid(), pid);
        assert_eq!(caller(own + 1).target(Some(pid)), Err(TargetError::Foreign(pid)));
        assert_eq!(caller(own).target(None).unwrap().pid(), std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(caller(own).target(Some(pid)), Err(TargetError::NoProcess(pid)));
        assert_eq!(caller(own).target(Some(0)), Err(TargetError::NoProcess(0)));
        let most = u32::MAX;
        assert_eq!(caller(own).target(Some(most)), Err(TargetError::NoProcess(most)));
    }

    #[test]
    fn a_connection_without_a_process_must_name_one() {
        let token = Caller::with_token();
        assert_eq!(token.target(None), Err(TargetError::CallerUnknown));
        let own = std::process::id();
        assert_eq!(token.target(Some(own)).unwrap().pid(), own);
    }
}
