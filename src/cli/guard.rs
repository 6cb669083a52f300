//! Decides what becomes of a command when the `quorumctl` above it is gone: it is killed, with all
//! its descendants.
//!
//! Two hidden commands. `__guard` lives between `quorumctl` and the command, passes signals on and
//! reaps; `__exec` becomes the command. When to stop it in good order is for `run.rs`.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process, kill_process_group, pidfd_open,
    set_child_subreaper, set_parent_process_death_signal, setsid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::exit::{CANNOT_RUN, COMMAND_NOT_FOUND, FAILED, Failure};
use super::notices::Notices;
use super::processes::{reap, signal_descendants};
use super::signals::Signals;
use super::supervise::OwnProgram;

/// Between two rounds of killing: what was being forked during one is met by the next.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The arguments of both hidden commands.
#[derive(Args, Clone, Debug)]
pub(super) struct Guarded {
    /// The process whose child this is; without it nothing may run.
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Guarded {
    /// Runs the command and returns its status once it and all its descendants have ended.
    pub(super) async fn guard(self, own: &OwnProgram) -> Result<u8, Failure> {
        set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
        let mut orphaned = parent_gone(self.parent)?;
        let mut children = signal(SignalKind::child())?;
        let mut signals = Signals::listen()?;
        let mut exec = own.command("__exec");
        exec.arg("--parent").arg(getpid().as_raw_pid().to_string()).arg("--").args(&self.command);
        let child = exec.spawn().map_err(|error| {
            Failure::new(CANNOT_RUN, format!("cannot start {:?}: {error}", self.command[0]))
        })?;
        let command = Pid::from_child(&child);
        let notices = Notices::start();
        let mut status = None;
        let mut killing = false;
        loop {
            let reaped = reap()?;
            if let Some((_, ended)) = reaped.ended.iter().find(|(pid, _)| *pid == command) {
                status = Some(*ended);
                if !reaped.none_left {
                    notices.say("the command has ended, some of its descendants have not: waiting");
                }
            }
            if reaped.none_left {
                return Ok(status.unwrap_or(FAILED));
            }
            tokio::select! {
                _ = children.recv() => {}
                signal = signals.next() => match status {
                    None => pass_on(signal, command),
                    // Its id may be another's by now.
                    Some(_) => signal_descendants(getpid(), None, signal).map(drop)?,
                },
                _ = &mut orphaned, if !killing => killing = true,
                () = tokio::time::sleep(KILL_AGAIN_AFTER), if killing => {}
            }
            if killing {
                signal_descendants(getpid(), None, Signal::KILL)?;
            }
        }
    }

    /// Becomes the command.
    pub(super) fn exec(self) -> Failure {
        // The kernel forgets this when a set-user-ID program is executed (prctl(2)).
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return Failure::new(CANNOT_RUN, format!("cannot be tied to its guard: {error}"));
        }
        if getppid().map(Pid::as_raw_pid) != Some(self.parent) {
            return Failure::new(CANNOT_RUN, "its guard is gone");
        }
        // A session of its own, not only a group: a background group that reads from the terminal
        // is stopped by it, a process without a controlling terminal may read.
        if let Err(error) = setsid() {
            return Failure::new(CANNOT_RUN, format!("cannot begin a session: {error}"));
        }
        let (program, arguments) = self.command.split_first().expect("clap requires one");
        let error = Command::new(program).args(arguments).exec();
        let status = match error.kind() {
            io::ErrorKind::NotFound => COMMAND_NOT_FOUND,
            _ => CANNOT_RUN,
        };
        Failure::new(status, format!("cannot run {}: {error}", program.to_string_lossy()))
    }
}

fn pass_on(signal: Signal, command: Pid) {
    // Until it has begun its session there is no such group, only the process. It may also have
    // ended by now, which is as good as any answer to the signal.
    if kill_process_group(command, signal).is_err() {
        let _ = kill_process(command, signal);
    }
}

/// Resolves when the process `parent` has ended. A failure when it has already.
fn parent_gone(parent: i32) -> Result<oneshot::Receiver<()>, Failure> {
    let gone = || Failure::new(CANNOT_RUN, "the process that started this guard is gone");
    let pid = Pid::from_raw(parent).ok_or_else(gone)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    // Asked for after the descriptor was opened: if it is still our parent, the id has not passed
    // to another process in between.
    if getppid() != Some(pid) {
        return Err(gone());
    }
    let (sender, receiver) = oneshot::channel();
    // Ends with the process.
    std::thread::spawn(move || {
        while let Err(rustix::io::Errno::INTR) =
            poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None)
        {}
        let _ = sender.send(());
    });
    Ok(receiver)
}
