//! Decides how a command runs while a lock or an election is held: signals are passed on, warnings
//! given, hooks run, and everything is stopped before anybody else can hold.
//!
//! When is decided in `stopping.rs`, how in `supervise.rs`; `client/hold.rs` says how the lock
//! stands, `restart.rs` what comes after.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;

use super::exit::{CANNOT_RUN, DONE, Failure};
use super::restart::{Round, Runner, is_answer_to};
use super::running::Ready;
use super::signals::ends_waiting;
use super::stopping::{Step, Stopping};
use super::supervise::Job;
use crate::client::{BootInstant, Condition, Hold, HoldState, Loss};

/// How long the daemon is given to confirm a release; after it, closing the connection releases.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);
/// How long a socket may take to accept a connection when only whether it does is of interest.
const ACCEPT_WITHIN: Duration = Duration::from_millis(50);
/// Between two rounds of killing after `--kill-after`.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The time in which it is held.
///
/// - Nothing that was started is left when it is over.
struct Tenure<'a, 'b> {
    runner: &'a mut Runner<'b>,
    hold: Hold,
    stopping: Stopping,
    last: Condition,
    /// The last signal that may have asked the command to end.
    asked: Option<Signal>,
    /// When what is left is killed, apart from `stopping`.
    kill_at: Option<BootInstant>,
    is_farewell_said: bool,
    socket: PathBuf,
}

/// Until when a [`Tenure`] is attended to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// All that was started has ended.
    AllEnded,
    /// A signal asks for the end, or it is lost and all that was started has ended.
    Asked,
}

/// Runs what there is to run while `hold` is held, and releases it when all of that and all
/// descendants have ended.
pub(super) async fn run_while_holding(
    runner: &mut Runner<'_>,
    hold: Hold,
) -> Result<Round, Failure> {
    // The command may change its directory.
    let socket = std::path::absolute(runner.session.client.socket())?;
    let stopping = Stopping::new(hold.ttl(), hold.valid_until(), runner.running.stop_grace);
    let last = Condition::Held;
    let (asked, kill_at, is_farewell_said) = (None, None, false);
    let mut tenure =
        Tenure { runner, hold, stopping, last, asked, kill_at, is_farewell_said, socket };
    let status = tenure.run().await?;
    let asked = tenure.asked.filter(|signal| is_answer_to(*signal, status));
    if tenure.stopping.has_begun() {
        let named = tenure.runner.named();
        tenure.runner.tell(&format!("{named} was lost and the command has been stopped"));
        return Ok(Round::Lost { asked });
    }
    // Whatever comes of it: dropping the hold closes its connection, and that releases too.
    let _ = tokio::time::timeout(RELEASE_WITHIN, tenure.hold.release()).await;
    Ok(Round::Ended { status, asked })
}

impl Tenure<'_, '_> {
    /// The status of the command, or of the hook that kept it from being run.
    async fn run(&mut self) -> Result<u8, Failure> {
        let running = self.runner.running;
        let mut status = DONE;
        if let Some(line) = &running.on_elected {
            let job = self.start(&hook(line), Some("elected"))?;
            self.attend(Until::AllEnded).await?;
            status = self.runner.supervised.status(job).unwrap_or(CANNOT_RUN);
            if status != DONE {
                self.runner.tell(&format!("--on-elected ended with status {status}"));
            }
        }
        if status == DONE && !self.is_over() {
            let until = if running.command.is_empty() {
                self.begun();
                self.attend(Until::Asked).await?;
                None
            } else {
                let job = self.start(&running.command, None)?;
                self.begun();
                self.attend(Until::AllEnded).await?;
                Some(job)
            };
            status = until.and_then(|job| self.runner.supervised.status(job)).unwrap_or(DONE);
        }
        if !self.is_farewell_said && running.on_lost.is_some() {
            self.say_farewell("ended")?;
            self.kill_at = Some(BootInstant::now() + self.hold.ttl());
            self.attend(Until::AllEnded).await?;
        }
        Ok(status)
    }

    fn is_over(&self) -> bool {
        self.stopping.has_begun() || self.asked.is_some_and(ends_waiting)
    }

    fn begun(&self) {
        let runner = &self.runner;
        if runner.running.notify.is_some() {
            let line = format!("{} is held, token {}", runner.named(), self.hold.token());
            runner.notices.status(&line);
        } else if runner.running.command.is_empty() {
            let line = format!("{} is held, token {}", runner.named(), self.hold.token());
            runner.notices.say(&line);
        }
        if runner.running.notify == Some(Ready::Held) {
            runner.notices.ready();
        }
    }

    fn start(&mut self, command: &[OsString], event: Option<&str>) -> Result<Job, Failure> {
        let (token, lease) = (self.hold.token().to_string(), self.hold.lease().to_string());
        let mut environment: Vec<(&str, &OsStr)> = vec![
            ("QUORUMD_LEASE", lease.as_ref()),
            ("QUORUMD_NAME", OsStr::from_bytes(self.hold.name())),
            ("QUORUMD_SOCKET", self.socket.as_os_str()),
            ("QUORUMD_TOKEN", token.as_ref()),
        ];
        environment.extend(event.map(|event| ("QUORUMD_EVENT", event.as_ref())));
        let supervised = &mut self.runner.supervised;
        supervised
            .prepare(command, self.runner.running.notify.is_some())
            .and_then(|job| {
                supervised.begin(job, &environment, std::io::stdin().as_fd())?;
                supervised.until(self.stopping.kill_at());
                Ok(job)
            })
            .map_err(|error| Failure::new(CANNOT_RUN, format!("cannot start the guard: {error}")))
    }

    fn say_farewell(&mut self, event: &str) -> Result<(), Failure> {
        self.is_farewell_said = true;
        if let Some(line) = &self.runner.running.on_lost {
            self.start(&hook(line), Some(event))?;
        }
        Ok(())
    }

    async fn attend(&mut self, until: Until) -> Result<(), Failure> {
        loop {
            self.carry_out()?;
            let to_the_end = until == Until::AllEnded || self.stopping.has_begun();
            if !to_the_end && self.is_over() {
                return Ok(());
            }
            let deadline = self.stopping.next_deadline();
            let deadline = self.kill_at.map_or(deadline, |at| at.min(deadline));
            let is_lost = matches!(self.last, Condition::Lost(_));
            let supervised = &mut self.runner.supervised;
            let ended = async {
                if to_the_end { supervised.none_left().await } else { supervised.reap_on().await }
            };
            tokio::select! {
                biased;
                ended = ended => {
                    ended?;
                    // This process may have been stopped for longer than the promise.
                    self.carry_out()?;
                    if self.runner.supervised.is_idle() {
                        return Ok(());
                    }
                }
                () = deadline.reached() => {}
                signal = self.runner.signals.next() => self.pass_on(signal),
                state = self.hold.changed(), if !is_lost => self.hear(state).await?,
            }
        }
    }

    fn carry_out(&mut self) -> Result<(), Failure> {
        // One time for all steps: a round of killing on a busy host takes longer than the pause
        // after it, and whoever was killed must be reaped before the next.
        let now = BootInstant::now();
        while let Some(step) = self.stopping.step(now) {
            let Runner { supervised, notices, .. } = &*self.runner;
            match step {
                Step::Terminate => {
                    if !supervised.is_idle() {
                        supervised.terminate()?;
                        notices.say("stopping the command with SIGTERM, before anyone else holds");
                    }
                    if !self.is_farewell_said {
                        self.say_farewell("lost")?;
                    }
                }
                Step::Kill => {
                    supervised.kill()?;
                    if supervised.left() > 0 {
                        notices.say("killing what is left of the command with SIGKILL");
                    }
                }
            }
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            let supervised = &self.runner.supervised;
            if supervised.left() > 0 {
                self.runner.notices.say("its time is over: killing what is left with SIGKILL");
            }
            supervised.kill()?;
            self.kill_at = Some(now + KILL_AGAIN_AFTER);
        }
        Ok(())
    }

    fn pass_on(&mut self, signal: Signal) {
        self.runner.supervised.forward(signal);
        if !ends_waiting(signal) {
            return;
        }
        self.asked = Some(signal);
        if let Some(after) = self.runner.running.kill_after.filter(|_| signal != Signal::HUP) {
            let at = BootInstant::now() + after;
            self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    async fn hear(&mut self, state: HoldState) -> Result<(), Failure> {
        self.stopping.promised(state.valid_until);
        self.runner.supervised.until(self.stopping.kill_at());
        if self.last == state.condition {
            return Ok(());
        }
        self.last = state.condition;
        let now = BootInstant::now();
        match &self.last {
            Condition::AtRisk { reason } => {
                let left = state.valid_until.remaining().as_millis();
                let line = format!("at risk, nobody else can hold for {left} ms: {reason}");
                self.runner.tell(&line);
                if let Some(signal) = self.runner.running.signal_at_risk {
                    self.runner.supervised.forward(signal);
                }
            }
            Condition::Held => self.runner.tell("held again for certain"),
            Condition::Lost(Loss::Disconnected { detail }) => {
                self.stopping.daemon_gone(now);
                self.runner.tell(&format!("the daemon is gone: {detail}"));
                self.carry_out()?;
                if daemon_accepts(self.runner.session.client.socket()).await {
                    // It lives and has ended our connection, which releases the lock.
                    self.stopping.told_lost(BootInstant::now());
                }
            }
            // The deadline has come before it.
            Condition::Lost(Loss::Expired) => {
                self.runner.tell("the daemon has not answered in time");
            }
            Condition::Lost(Loss::Told { reason }) => {
                self.stopping.told_lost(now);
                self.runner.tell(&format!("lost: {reason}"));
            }
        }
        Ok(())
    }
}

/// What runs a hook. Its line is the operator's own; names and values reach it as environment only.
fn hook(line: &OsStr) -> [OsString; 3] {
    ["/bin/sh".into(), "-c".into(), line.to_owned()]
}

async fn daemon_accepts(socket: &Path) -> bool {
    match tokio::time::timeout(ACCEPT_WITHIN, UnixStream::connect(socket)).await {
        Ok(connected) => connected.is_ok(),
        // A socket that neither accepts nor refuses belongs to a daemon that lives.
        Err(_) => true,
    }
}
