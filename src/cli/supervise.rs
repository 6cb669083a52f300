//! Decides how a command is started under a guard, signalled with all its descendants, and waited
//! for.
//!
//! When it is signalled is for `run.rs`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use super::exit::FAILED;
use super::processes::{descendants, reap, signal_descendants};

/// How this program starts itself again.
#[derive(Clone, Debug)]
pub struct OwnProgram {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl OwnProgram {
    /// The program of this process, also when its file has been replaced since.
    pub fn current() -> Self {
        let path = std::env::current_exe().ok().filter(|path| path.exists());
        Self::new(path.unwrap_or_else(|| "/proc/self/exe".into()), Vec::new())
    }

    /// The program `path`, which takes `arguments` before the command line.
    pub fn new(path: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { path, arguments }
    }

    pub(super) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(name);
        command
    }
}

/// A command and all its descendants.
///
/// - Every one of them is a descendant of this process until it has ended.
pub(super) struct Supervised {
    guard: Pid,
    children: Arrivals,
    status: Option<u8>,
}

impl Supervised {
    /// Starts `command` with `environment` on top of ours. This process becomes a subreaper and
    /// must have no other children.
    pub(super) fn start(
        own: &OwnProgram,
        command: &[OsString],
        environment: &[(&str, &OsStr)],
    ) -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        let children = signal(SignalKind::child())?;
        let mut guard = own.command("__guard");
        guard.arg("--parent").arg(getpid().as_raw_pid().to_string()).arg("--").args(command);
        guard.envs(environment.iter().copied());
        // Out of our group: the terminal's interrupt reaches the command through us, once.
        let guard = Pid::from_child(&guard.process_group(0).spawn()?);
        Ok(Self { guard, children, status: None })
    }

    /// Passes a signal on to the command's group.
    pub(super) fn forward(&self, signal: Signal) {
        if self.status.is_none() {
            // The guard may end at this moment, and the command has then ended before it.
            let _ = kill_process(self.guard, signal);
        }
    }

    /// Asks the command and every descendant to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        signal_descendants(getpid(), Some(self.guard), Signal::TERM)?;
        // What is stopped could not hear it.
        signal_descendants(getpid(), Some(self.guard), Signal::CONT)?;
        Ok(())
    }

    /// Kills the command and every descendant, and the guard once it is alone.
    pub(super) fn kill(&self) -> io::Result<()> {
        if signal_descendants(getpid(), Some(self.guard), Signal::KILL)? == 0 {
            signal_descendants(getpid(), None, Signal::KILL)?;
        }
        Ok(())
    }

    /// How many processes are left, the guard not among them.
    pub(super) fn left(&self) -> usize {
        descendants(getpid()).map_or(0, |all| all.iter().filter(|pid| **pid != self.guard).count())
    }

    /// Resolves with the status of the command once it and all its descendants have ended and been
    /// reaped. May be dropped at any time and called again.
    pub(super) async fn ended(&mut self) -> io::Result<u8> {
        loop {
            let reaped = reap()?;
            if let Some((_, status)) = reaped.ended.iter().find(|(pid, _)| *pid == self.guard) {
                self.status = Some(*status);
            }
            if reaped.none_left {
                return Ok(self.status.unwrap_or(FAILED));
            }
            if self.status.is_some() {
                // The guard outlives all others, so it has been killed. So was the command, by the
                // kernel; what the command left behind has come to us.
                signal_descendants(getpid(), None, Signal::KILL)?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            } else {
                self.children.recv().await;
            }
        }
    }
}
