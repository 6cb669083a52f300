//! Decides how commands are started under guards, signalled with all their descendants, and waited
//! for.
//!
//! When they are signalled is for `run.rs`; what guards are told is in `orders.rs`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use super::exit::FAILED;
use super::orders::Orders;
use super::processes::{descendants, reap, signal_descendants};
use crate::client::BootInstant;

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

/// One of the commands of a [`Supervised`], valid until the next [`Supervised::clear`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Job(usize);

struct Guard {
    pid: Pid,
    /// Once it has ended: the status of its command.
    status: Option<u8>,
    /// It was killed itself, and cannot have seen to the end of its command.
    killed: bool,
    orders: Orders,
}

/// Commands and all their descendants.
///
/// - Every one of them is a descendant of this process until it has ended.
/// - A guard that ends by itself leaves no descendant.
pub(super) struct Supervised {
    own: OwnProgram,
    children: Arrivals,
    guards: Vec<Guard>,
}

impl Supervised {
    /// This process becomes a subreaper and must have no other children than those started here,
    /// and, as process 1 of a container, whatever orphans it is given.
    pub(super) fn new(own: OwnProgram) -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        Ok(Self { own, children: signal(SignalKind::child())?, guards: Vec::new() })
    }

    /// Starts a guard that waits for the order to start `command`. With `mute` the command is not
    /// told the socket of the service manager.
    pub(super) fn prepare(&mut self, command: &[OsString], mute: bool) -> io::Result<Job> {
        let (orders, theirs) = Orders::pair()?;
        let mut guard = self.own.command("__guard");
        guard.arg("--").args(command).stdin(Stdio::from(theirs));
        if mute {
            guard.env_remove("NOTIFY_SOCKET");
        }
        // Out of our group: the terminal's interrupt reaches the command through us, once.
        let pid = Pid::from_child(&guard.process_group(0).spawn()?);
        self.guards.push(Guard { pid, status: None, killed: false, orders });
        Ok(Job(self.guards.len() - 1))
    }

    /// Starts the command, with `environment` on top of ours and this standard input.
    pub(super) fn begin(
        &self,
        job: Job,
        environment: &[(&str, &OsStr)],
        input: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.guards[job.0].orders.begin(environment, input)
    }

    /// At `deadline` the guards kill their commands, whatever becomes of this process. One that is
    /// earlier than another before it changes nothing.
    pub(super) fn until(&self, deadline: BootInstant) {
        self.guards.iter().for_each(|guard| guard.orders.until(deadline));
    }

    /// The status of a command, once it and all its descendants have ended.
    pub(super) fn status(&self, job: Job) -> Option<u8> {
        self.guards[job.0].status
    }

    /// Whether none of the commands is left.
    pub(super) fn is_idle(&self) -> bool {
        self.guards.iter().all(|guard| guard.status.is_some())
    }

    /// Forgets the commands, all of which must have ended.
    pub(super) fn clear(&mut self) {
        assert!(self.is_idle(), "a command is forgotten only after its end");
        self.guards.clear();
    }

    /// Passes a signal on to the groups of the commands.
    pub(super) fn forward(&self, signal: Signal) {
        for guard in self.guards.iter().filter(|guard| guard.status.is_none()) {
            // It may end at this moment, and the command has then ended before it.
            let _ = kill_process(guard.pid, signal);
        }
    }

    /// Asks the commands and every descendant to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        signal_descendants(getpid(), &self.guard_pids(), Signal::TERM)?;
        // What is stopped could not hear it.
        signal_descendants(getpid(), &self.guard_pids(), Signal::CONT)?;
        Ok(())
    }

    /// Kills the commands and every descendant, and the guards once they are alone.
    pub(super) fn kill(&self) -> io::Result<()> {
        if signal_descendants(getpid(), &self.guard_pids(), Signal::KILL)? == 0 {
            signal_descendants(getpid(), &[], Signal::KILL)?;
        }
        Ok(())
    }

    /// How many processes are left, guards not among them.
    pub(super) fn left(&self) -> usize {
        let guards = self.guard_pids();
        descendants(getpid()).map_or(0, |all| all.iter().filter(|p| !guards.contains(p)).count())
    }

    fn guard_pids(&self) -> Vec<Pid> {
        let living = self.guards.iter().filter(|guard| guard.status.is_none());
        living.map(|guard| guard.pid).collect()
    }

    /// Resolves once the commands and all their descendants have ended and been reaped. May be
    /// dropped at any time and called again.
    pub(super) async fn none_left(&mut self) -> io::Result<()> {
        loop {
            let none_left = self.reap()?;
            if !self.is_idle() && !none_left {
                self.children.recv().await;
                continue;
            }
            for guard in &mut self.guards {
                guard.status.get_or_insert(FAILED);
            }
            if none_left || self.guards.iter().all(|guard| !guard.killed) {
                // Whoever is still there was given to process 1 of a container by others.
                return Ok(());
            }
            // The kernel has killed the command with its guard; what it left has come to us.
            signal_descendants(getpid(), &[], Signal::KILL)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes the status of whoever ends; resolves only with an error. For the times when nothing is
    /// waited for: process 1 of a container is given orphans at any time. May be dropped at any
    /// time.
    pub(super) async fn reap_on(&mut self) -> io::Result<()> {
        loop {
            self.reap()?;
            self.children.recv().await;
        }
    }

    fn reap(&mut self) -> io::Result<bool> {
        let reaped = reap()?;
        for ended in &reaped.ended {
            if let Some(guard) = self.guards.iter_mut().find(|guard| guard.pid == ended.pid) {
                (guard.status, guard.killed) = (Some(ended.status), ended.killed);
            }
        }
        Ok(reaped.none_left)
    }
}
