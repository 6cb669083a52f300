//! Decides how a unit of systemd is run on the host that holds: started when it is won, watched,
//! and stopped before anybody else can hold.
//!
//! `lock NAME --unit U` and `elect NAME --unit U` run the unit U; with `--as-unit` they *are* a
//! unit that others are bound to. `unit_lease.rs` keeps the lease, `systemctl.rs` does the starting
//! and stopping, `stopping.rs` says when.
//!
//! Between the note and the lease, whoever dies is outlived by what is needed: the lease is bound
//! to no process, so it lives on for its time to live; the note is on disk before the unit is
//! started, so that `unit-stop`, which systemd runs as `ExecStopPost=` whatever became of the
//! process, finds what to stop, by when, and which lease to end after that.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use sd_notify::NotifyState;

use super::command::{Session, duration};
use super::exit::{DONE, FAILED, Failure, LOST};
use super::output::{say, shown};
use super::signals::Signals;
use super::stopping::{Step, Stopping};
use super::systemctl::{Job, Killer};
use super::unit_lease::{Keeper, Note, Notebook, Place};
use crate::client::{BootInstant, Code, DurationText, GrantLeaseRequest, HexId, WriteOptions};

/// Before a daemon that is away is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Before it campaigns again after its unit has ended, unless told otherwise.
const PAUSE_DEFAULT: Duration = Duration::from_secs(10);
/// Between two signs of life when systemd wants them more rarely.
const SIGN_EVERY_MAX: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Running a unit of systemd")]
pub(super) struct UnitOptions {
    /// Start this systemd unit when it is won, and stop it before anyone else can win
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["command", "wait"])]
    unit: Option<String>,
    /// Be this systemd unit: ready while it is held; what is bound to it is stopped first
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["command", "wait", "unit"])]
    as_unit: Option<String>,
    /// How long to let the others try after the unit has ended [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "unit")]
    pause: Option<Duration>,
    #[command(flatten)]
    notes: NotesOption,
}

#[derive(Args, Clone, Debug)]
struct NotesOption {
    /// Where to note, for `unit-stop`, what is held: a directory that does not outlive the boot
    #[arg(long, value_name = "DIR", env = "RUNTIME_DIRECTORY", hide_env = true)]
    notes: Option<PathBuf>,
}

/// `unit-stop`: what `ExecStopPost=` of quorumd-elect@ and quorumd-lock@ runs.
#[derive(Args, Clone, Debug)]
pub(super) struct UnitStop {
    #[command(flatten)]
    notes: NotesOption,
}

impl UnitOptions {
    /// What to do with a unit, when something is.
    pub(super) fn job(&self) -> Option<Job> {
        let own = self.as_unit.clone().map(Job::Is);
        self.unit.clone().map(Job::Runs).or(own)
    }

    /// Holds again and again until it is told to end. The status to exit with.
    pub(super) async fn run(
        self,
        session: &Session,
        job: Job,
        place: Place,
        lease: GrantLeaseRequest,
    ) -> Result<u8, Failure> {
        let signals = Signals::listen()?;
        tell(&[NotifyState::Status("starting")]);
        let _signs = Signs::start();
        let notebook = Notebook(self.notes.notes);
        let pause = self.pause.unwrap_or(PAUSE_DEFAULT);
        let mut runner = Runner { session, job, place, grant: lease, notebook, signals };
        if runner.notebook.0.is_none() {
            runner.note("no --notes: if this process is killed, nobody stops what it has started");
        }
        runner.clear_up().await?;
        if let Job::Runs(_) = runner.job {
            tell(&[NotifyState::Ready]);
        }
        loop {
            match runner.term().await? {
                End::Asked => return Ok(DONE),
                // The unit that this is begins anew.
                End::Lost(why) if matches!(runner.job, Job::Is(_)) => {
                    runner.note(&format!("lost: {why}"));
                    return Ok(LOST);
                }
                End::Ended(why) | End::Lost(why) => {
                    runner.note(&format!("{why}; the others may go first"));
                    if runner.waits(pause).await {
                        return Ok(DONE);
                    }
                }
            }
        }
    }
}

impl UnitStop {
    /// Stops what the note says, in time, and ends the lease then.
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let notebook = Notebook(self.notes.notes);
        let Some(note) = notebook.read()? else { return Ok(DONE) };
        let mut signals = Signals::listen()?;
        say("what ran under the lease is stopped, then the lease is ended");
        let keeper = Keeper::new(&session.client, &note, None);
        let mut stopping = Stopping::new(note.ttl(), note.valid_until(), None);
        let keeper = wind_up(note.job(), keeper, &mut stopping, &mut signals).await.0;
        keeper.revoke().await;
        notebook.remove();
        Ok(DONE)
    }
}

/// How a time of holding ended.
enum End {
    /// This process was asked to end.
    Asked,
    /// The unit ended by itself.
    Ended(String),
    /// The hold is lost, or was never won.
    Lost(String),
}

struct Runner<'a> {
    session: &'a Session,
    job: Job,
    place: Place,
    grant: GrantLeaseRequest,
    notebook: Notebook,
    signals: Signals,
}

impl Runner<'_> {
    /// What is left of an earlier process, or was started by somebody else, does not run on.
    async fn clear_up(&mut self) -> Result<(), Failure> {
        let left = UnitStop { notes: NotesOption { notes: self.notebook.0.clone() } };
        if left.run(self.session).await? != DONE {
            return Err(Failure::new(FAILED, "what an earlier process left could not be ended"));
        }
        if self.job.is_running().await {
            self.note("the unit runs although this host holds nothing: it is stopped");
            self.job.stop().await;
        }
        Ok(())
    }

    /// From the asking to the end of one hold. Nothing of it is left when it returns.
    async fn term(&mut self) -> Result<End, Failure> {
        self.tell_status("waits for the daemon");
        let Some(note) = self.grant_lease().await? else { return Ok(End::Asked) };
        let mut keeper = Keeper::new(&self.session.client, &note, Some(self.place.clone()));
        self.tell_status("waits for its turn");
        let won = self.win(&mut keeper).await;
        let token = match won {
            Ok(Ok(token)) => token,
            Ok(Err(end)) => {
                keeper.revoke().await;
                return Ok(end);
            }
            Err(failure) => {
                keeper.revoke().await;
                return Err(failure);
            }
        };
        keeper.holds(token);
        self.hold(keeper, note, token).await
    }

    /// The lease, once the daemon gives one; nothing when this process was asked to end.
    async fn grant_lease(&mut self) -> Result<Option<Note>, Failure> {
        let once = WriteOptions::default();
        loop {
            let asking = self.session.client.grant_lease(&self.grant, &once);
            let granted = tokio::select! {
                granted = asking => granted,
                () = asked(&mut self.signals) => return Ok(None),
            };
            match granted {
                Ok(kept) => {
                    let ttl = Duration::from_millis(kept.answer.ttl_ms);
                    let lease = kept.answer.lease;
                    return Ok(Some(Note::new(&self.job, lease, ttl, kept.valid_until)));
                }
                Err(error) if error.is_transient() => self.note(&error.to_string()),
                Err(error) => return Err(error.into()),
            }
            if self.waits(ASK_AGAIN_AFTER).await {
                return Ok(None);
            }
        }
    }

    /// The token, once it is held and for long enough to begin something.
    async fn win(&mut self, keeper: &mut Keeper) -> Result<Result<u64, End>, Failure> {
        let client = self.session.client.clone();
        loop {
            let lease: HexId = keeper.lease();
            tokio::select! {
                answer = self.place.ask(&client, lease) => match answer {
                    Ok(held) => {
                        let left = keeper.standing().valid_until.remaining();
                        if left > keeper.ttl() / 2 {
                            return Ok(Ok(held.token));
                        }
                    }
                    Err(error) if error.code() == Some(Code::LockHeld) => continue,
                    Err(error) if error.code() == Some(Code::LeaseNotFound) => {
                        return Ok(Err(End::Lost("the lease ended while waiting".to_owned())));
                    }
                    Err(error) if error.is_transient() => {}
                    Err(error) => return Err(error.into()),
                },
                () = asked(&mut self.signals) => return Ok(Err(End::Asked)),
            }
            if let Some(why) = keeper.standing().lost {
                return Ok(Err(End::Lost(why)));
            }
            if self.waits(ASK_AGAIN_AFTER).await {
                return Ok(Err(End::Asked));
            }
        }
    }

    /// From when it is held until nothing runs any more.
    async fn hold(
        &mut self,
        mut keeper: Keeper,
        mut note: Note,
        token: u64,
    ) -> Result<End, Failure> {
        note.promised(keeper.standing().valid_until);
        if let Err(error) = self.write(&note, token) {
            keeper.revoke().await;
            return Err(error);
        }
        self.note(&format!("held, token {token}, lease {}", keeper.lease()));
        self.tell_status(&format!("holds, token {token}"));
        if let Job::Is(_) = self.job {
            tell(&[NotifyState::Ready]);
        }
        let mut stopping = Stopping::new(keeper.ttl(), note.valid_until(), None);
        let (end, keeper) = {
            let mut running = Box::pin(self.job.run());
            loop {
                if let Some(why) = keeper.standing().lost {
                    stopping.told_lost(BootInstant::now());
                    break (End::Lost(why), keeper);
                }
                if stopping.step(BootInstant::now()).is_some() {
                    let why = "the daemon has not confirmed it in time".to_owned();
                    break (End::Lost(why), keeper);
                }
                tokio::select! {
                    biased;
                    () = stopping.next_deadline().reached() => {}
                    why = &mut running => break (End::Ended(why), keeper),
                    standing = keeper.changed() => {
                        stopping.promised(standing.valid_until);
                        note.promised(standing.valid_until);
                        // An older note only makes `unit-stop` hurry more.
                        let _ = self.notebook.write(&note);
                    }
                    () = asked(&mut self.signals) => break (End::Asked, keeper),
                }
            }
        };
        if let End::Lost(why) = &end {
            self.note(&format!("lost: {why}; what ran under it is stopped now"));
            self.job.begin_anew().await;
        }
        let (keeper, was_asked) =
            wind_up(&self.job, keeper, &mut stopping, &mut self.signals).await;
        keeper.revoke().await;
        self.notebook.remove();
        Ok(if was_asked { End::Asked } else { end })
    }

    fn write(&self, note: &Note, token: u64) -> Result<(), Failure> {
        self.notebook.write(note)?;
        Ok(self.notebook.write_environment(note.lease(), token)?)
    }

    /// Lets time pass. True when this process was asked to end meanwhile.
    async fn waits(&mut self, span: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(span) => false,
            () = asked(&mut self.signals) => true,
        }
    }

    fn note(&self, line: &str) {
        say(&format!("\"{}\": {line}", shown(self.place.name())));
    }

    fn tell_status(&self, line: &str) {
        tell(&[NotifyState::Status(line)]);
    }
}

/// Stops what runs, asking first and killing when it must be, and returns when nothing is left of
/// it. The lease is kept meanwhile. True when this process was asked to end during it.
async fn wind_up(
    job: &Job,
    mut keeper: Keeper,
    stopping: &mut Stopping,
    signals: &mut Signals,
) -> (Keeper, bool) {
    let mut killer = Killer::of(job).await;
    let mut stopped = Box::pin(job.stop());
    let (mut was_asked, mut is_killing) = (false, false);
    loop {
        let now = BootInstant::now();
        while let Some(step) = stopping.step(now) {
            if step == Step::Kill {
                killer.kill();
                if !is_killing {
                    say("what is left is killed, before anyone else can hold");
                }
                is_killing = true;
            }
        }
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = stopping.next_deadline().reached() => {}
            standing = keeper.changed() => {
                stopping.promised(standing.valid_until);
                if standing.lost.is_some() {
                    stopping.told_lost(BootInstant::now());
                }
            }
            () = asked(signals) => was_asked = true,
        }
    }
    drop(stopped);
    (keeper, was_asked)
}

/// Resolves when this process is asked to end. May be dropped at any time.
async fn asked(signals: &mut Signals) {
    loop {
        if matches!(signals.next().await, Signal::INT | Signal::QUIT | Signal::TERM) {
            return;
        }
    }
}

/// Outside systemd this does nothing, and nothing depends on it.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Signs of life for systemd (`WatchdogSec=`) until it is dropped. They come from the one thread of
/// this program, so a process that hangs or is stopped sends none, and systemd kills it while its
/// lease still holds.
struct Signs(Option<tokio::task::JoinHandle<()>>);

impl Signs {
    fn start() -> Self {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        Self(limit.map(|limit| {
            let every = (limit / 3).min(SIGN_EVERY_MAX);
            tokio::spawn(async move {
                loop {
                    tell(&[NotifyState::Watchdog]);
                    tokio::time::sleep(every).await;
                }
            })
        }))
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The lease that a unit is to run under.
pub(super) fn lease_request(ttl: Option<Duration>, info: Option<String>) -> GrantLeaseRequest {
    GrantLeaseRequest { ttl: ttl.map(DurationText), info, ..GrantLeaseRequest::default() }
}
