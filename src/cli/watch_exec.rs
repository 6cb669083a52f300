//! Decides how `watch --exec` runs a command for each change: one at a time, in order, none left
//! out, and none twice unless this program dies between the end of a command and the note of it.
//!
//! What the command is handed is in `watch_event.rs`, what is remembered in `watch_cursor.rs`; how
//! a watch goes on after its connection is gone is the client's. While a command runs nothing is
//! read (unless `--coalesce` wants it): the daemon keeps a bounded amount, then ends the stream,
//! and the client takes it up again from the revision that it has.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::time::Instant;

use super::command::Session;
use super::exit::{CANNOT_RUN, DONE, Failure};
use super::notices::Notices;
use super::output::shown;
use super::signals::{Signals, ends_waiting};
use super::supervise::{Job, Supervised};
use super::watch_cursor::CursorFile;
use super::watch_event::{Event, Reason};
use crate::client::{Code, Error, Record, Target, Watch, WatchMessage, WatchOptions, WatchStep};

/// The first pause before a command that failed is run again; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// Before a daemon that is not there is asked again.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often it is noted that nothing happened, so that a later start finds its history.
const NOTE_PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// What is done when the command fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Run it again for the same event, after a pause, until it succeeds
    Retry,
    /// Go on with the next event
    Skip,
    /// End with its status; the event is not noted as dealt with
    #[default]
    Stop,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Running a command for each change")]
pub(super) struct Handling {
    /// Make one event of all that came while the command ran: of each key the newest
    #[arg(long, requires = "command")]
    coalesce: bool,
    /// Note here what has been dealt with, and go on from there at the next start
    #[arg(long, value_name = "FILE", requires = "command", conflicts_with = "from")]
    state: Option<PathBuf>,
    /// When the command fails
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    on_error: OnError,
    /// Run this for each change, which is its standard input as JSON; last on the line
    #[arg(
        long = "exec", id = "command", value_name = "CMD", num_args = 1..,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<OsString>,
}

struct Handler<'a> {
    session: &'a Session,
    target: Target,
    handling: Handling,
    cursor: Option<CursorFile>,
    supervised: Supervised,
    notices: Notices,
    /// What the command deals with now, or will again.
    current: Option<Event>,
    running: Option<Job>,
    again_at: Option<Instant>,
    pause: Duration,
    /// What comes next. Without `--coalesce` only while nothing is `current`.
    next: Option<Event>,
    epoch: u64,
    /// A state that is on its way, and why it comes.
    state: Option<(Reason, Vec<Record>)>,
    /// Everything up to here has been dealt with, once that is known; and when it was last noted.
    noted: Option<(u64, Instant)>,
    is_ending: bool,
}

/// Runs the command for each change until a signal comes or the command fails.
pub(super) async fn watch_and_run(
    session: &Session,
    target: Target,
    mut options: WatchOptions,
    handling: Handling,
) -> Result<u8, Failure> {
    let mut handler = Handler::new(session, target, handling, &mut options)?;
    let mut watch = session.client.watch(handler.target.clone(), options);
    let mut signals = Signals::listen()?;
    loop {
        handler.start_next()?;
        if handler.is_ending && handler.running.is_none() {
            return Ok(DONE);
        }
        let reads = handler.wants_more();
        let (runs, again_at) = (handler.running.is_some(), handler.again_at);
        tokio::select! {
            ended = handler.supervised.none_left(), if runs => {
                ended?;
                if let Some(status) = handler.ended()? {
                    return Ok(status);
                }
            }
            signal = signals.next() => {
                if handler.is_ending {
                    handler.supervised.forward(signal);
                }
                handler.is_ending |= ends_waiting(signal);
            }
            () = pass(again_at) => handler.again_at = None,
            step = step(&mut watch), if reads => match step {
                Ok(WatchStep::Message(message)) => handler.take(message)?,
                Ok(WatchStep::Interrupted(error)) => {
                    handler.notices.say(&format!("interrupted, resuming: {error}"));
                }
                // It began without the state that was there, and has missed changes since.
                Err(error) if error.code() == Some(Code::Compacted) && !options.initial => {
                    options = WatchOptions { initial: true, from: None, ..options };
                    watch = session.client.watch(handler.target.clone(), options);
                    handler.state = Some((Reason::Resync, Vec::new()));
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// The next step; a daemon that is not there yet is waited for.
async fn step(watch: &mut Watch) -> Result<WatchStep, Error> {
    match watch.step().await {
        Err(error) if error.is_transient() => {
            tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
            Ok(WatchStep::Interrupted(error))
        }
        other => other,
    }
}

async fn pass(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is watched, as the state file names it.
fn name(target: &Target) -> String {
    match target {
        Target::Key(key) => format!("key {}", shown(key)),
        Target::Prefix(prefix) => format!("prefix {}", shown(prefix)),
    }
}

impl<'a> Handler<'a> {
    /// With the place from which a file says to go on, noted in `options`.
    fn new(
        session: &'a Session,
        target: Target,
        handling: Handling,
        options: &mut WatchOptions,
    ) -> Result<Self, Failure> {
        let mut cursor = None;
        let mut noted = None;
        if let Some(path) = &handling.state {
            let (file, found) = CursorFile::open(path, &name(&target))?;
            cursor = Some(file);
            if let Some(found) = found {
                options.from = Some(found.revision + 1);
                options.epoch = Some(found.epoch);
                options.initial = true;
                noted = Some((found.revision, Instant::now()));
            }
        }
        let is_fresh = options.initial && options.from.is_none();
        Ok(Self {
            session,
            target,
            handling,
            cursor,
            supervised: Supervised::new(session.own.clone())?,
            notices: Notices::start(),
            current: None,
            running: None,
            again_at: None,
            pause: PAUSE_FIRST,
            next: None,
            epoch: options.epoch.unwrap_or(0),
            state: is_fresh.then_some((Reason::Initial, Vec::new())),
            noted,
            is_ending: false,
        })
    }

    fn wants_more(&self) -> bool {
        let is_free = self.current.is_none() && self.next.is_none();
        !self.is_ending && (is_free || self.handling.coalesce)
    }

    fn take(&mut self, message: WatchMessage) -> Result<(), Failure> {
        match message {
            WatchMessage::Changes { revision, events } => {
                let epoch = self.epoch;
                self.push(Event::Changes { revision, epoch, revisions: 1, events });
            }
            WatchMessage::Resync { .. } => self.state = Some((Reason::Resync, Vec::new())),
            WatchMessage::Snapshot { revision, epoch, keys, more } => {
                self.epoch = epoch;
                let (reason, mut all) = self.state.take().unwrap_or((Reason::Resync, Vec::new()));
                all.extend(keys);
                if more {
                    self.state = Some((reason, all));
                } else {
                    self.push(Event::Snapshot { revision, epoch, reason, keys: all });
                }
            }
            WatchMessage::Synced { revision, epoch } => {
                self.epoch = epoch;
                if let Some((reason, keys)) = self.state.take() {
                    // There was nothing to send.
                    self.push(Event::Snapshot { revision, epoch, reason, keys });
                } else if self.noted.is_none() && self.current.is_none() && self.next.is_none() {
                    self.note(revision, epoch)?;
                }
            }
            WatchMessage::Progress { revision } => {
                let is_due = self.noted.is_none_or(|(_, at)| at.elapsed() >= NOTE_PROGRESS_EVERY);
                if is_due && self.current.is_none() && self.next.is_none() {
                    self.note(revision, self.epoch)?;
                }
            }
            WatchMessage::Leader { present } => {
                let not = if present { "again" } else { "not" };
                self.notices.say(&format!("this node is {not} in contact with a leader"));
            }
            WatchMessage::Error(_) | WatchMessage::Unknown => {}
        }
        Ok(())
    }

    fn push(&mut self, event: Event) {
        match &mut self.next {
            Some(next) => next.absorb(event),
            None => self.next = Some(event),
        }
    }

    /// Everything up to `revision` has been dealt with.
    fn note(&mut self, revision: u64, epoch: u64) -> Result<(), Failure> {
        if let Some(cursor) = &self.cursor {
            cursor.save(revision, epoch)?;
        }
        self.noted = Some((revision, Instant::now()));
        Ok(())
    }

    fn start_next(&mut self) -> Result<(), Failure> {
        if self.running.is_some() || self.again_at.is_some() || self.is_ending {
            return Ok(());
        }
        match (&mut self.current, self.next.take()) {
            (Some(current), Some(next)) if self.handling.coalesce => current.absorb(next),
            (Some(_), next) => self.next = next,
            (None, next) => self.current = next,
        }
        let Some(event) = &self.current else { return Ok(()) };
        let input = written(event)?;
        let revision = event.revision().to_string();
        let socket = std::path::absolute(self.session.client.socket())?;
        let environment: [(&str, &OsStr); 3] = [
            ("QUORUMD_EVENT", event.name().as_ref()),
            ("QUORUMD_REVISION", revision.as_ref()),
            ("QUORUMD_SOCKET", socket.as_os_str()),
        ];
        self.supervised.clear();
        let job = self.supervised.prepare(&self.handling.command, false).and_then(|job| {
            self.supervised.begin(job, &environment, input.as_fd())?;
            Ok(job)
        });
        let fails = |error| Failure::new(CANNOT_RUN, format!("cannot start the guard: {error}"));
        self.running = Some(job.map_err(fails)?);
        Ok(())
    }

    /// The command has ended. The status to end with, if this is the end.
    fn ended(&mut self) -> Result<Option<u8>, Failure> {
        let job = self.running.take().expect("it is called when what runs has ended");
        let status = self.supervised.status(job).unwrap_or(CANNOT_RUN);
        let event = self.current.as_ref().expect("what runs deals with an event");
        let (revision, epoch) = (event.revision(), event.epoch());
        let failed = |what: &str| format!("revision {revision}: status {status}, {what}");
        match self.handling.on_error {
            _ if status == DONE => {}
            OnError::Retry => {
                let line = failed(&format!("again in {} ms", self.pause.as_millis()));
                self.notices.say(&line);
                self.again_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_LONGEST);
                return Ok(None);
            }
            OnError::Skip => self.notices.say(&failed("skipped")),
            OnError::Stop => {
                self.notices.say(&failed("stopping"));
                return Ok(Some(status));
            }
        }
        self.pause = PAUSE_FIRST;
        self.current = None;
        self.note(revision, epoch)?;
        Ok(None)
    }
}

/// A file in memory that holds the event, to be read from its beginning.
fn written(event: &Event) -> Result<File, Failure> {
    let mut file =
        File::from(memfd_create("event", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?);
    let text = serde_json::to_string(event).map_err(std::io::Error::from)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}
