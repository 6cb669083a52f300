//! Decides what becomes of a command when the `quorumctl` above it is gone: it is killed, with all
//! its descendants.
//!
//! Two hidden commands. `__guard` lives between `quorumctl` and the command, passes signals on and
//! reaps; `__exec` becomes the command. When to stop it in good order is for `run.rs`.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal, setsid,
};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{CANNOT_RUN, COMMAND_NOT_FOUND, FAILED, Failure};
use super::notices::Notices;
use super::orders::{Begin, Obeyed};
use super::processes::{reap, signal_descendants};
use super::signals::Signals;
use super::supervise::OwnProgram;

/// Between two rounds of killing: what was being forked during one is met by the next.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The arguments of `__guard`.
#[derive(Args, Clone, Debug)]
pub(super) struct Guarded {
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The arguments of `__exec`.
#[derive(Args, Clone, Debug)]
pub(super) struct Executed {
    /// The process whose child this is; without it nothing may run.
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Guarded {
    /// Runs the command once it is told to, and returns its status once it and all its descendants
    /// have ended.
    pub(super) async fn guard(self, own: &OwnProgram) -> Result<u8, Failure> {
        set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
        let Some((begin, mut orders)) = Obeyed::begin()? else {
            return Err(Failure::new(CANNOT_RUN, ""));
        };
        let mut children = signal(SignalKind::child())?;
        let mut signals = Signals::listen()?;
        let command = Pid::from_child(&self.start(own, begin)?);
        let notices = Notices::start();
        let mut status = None;
        let mut killing = false;
        loop {
            let reaped = reap()?;
            if let Some(ended) = reaped.ended.iter().find(|ended| ended.pid == command) {
                status = Some(ended.status);
                if !reaped.none_left && !killing {
                    notices.say("the command has ended, some of its descendants have not: waiting");
                }
            }
            if reaped.none_left {
                return Ok(status.unwrap_or(FAILED));
            }
            tokio::select! {
                biased;
                _ = children.recv() => {}
                signal = signals.next() => match status {
                    None => pass_on(signal, command),
                    // Its id may be another's by now.
                    Some(_) => signal_descendants(getpid(), &[], signal).map(drop)?,
                },
                more = orders.next(), if !killing => killing = !more,
                () = tokio::time::sleep(KILL_AGAIN_AFTER), if killing => {}
            }
            if !killing && orders.is_overdue() {
                // Whoever should have stopped the command is stopped itself.
                notices.say("the time is over: killing the command with SIGKILL");
                killing = true;
            }
            if killing {
                signal_descendants(getpid(), &[], Signal::KILL)?;
            }
        }
    }

    fn start(&self, own: &OwnProgram, begin: Begin) -> Result<Child, Failure> {
        let mut exec = own.command("__exec");
        exec.arg("--parent").arg(getpid().as_raw_pid().to_string()).arg("--").args(&self.command);
        exec.stdin(Stdio::from(begin.input)).envs(begin.environment);
        exec.spawn().map_err(|error| {
            Failure::new(CANNOT_RUN, format!("cannot start {:?}: {error}", self.command[0]))
        })
    }
}

impl Executed {
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
