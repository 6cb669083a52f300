//! Decides how a watch goes on after its connection is gone: after the last revision it has seen.
//!
//! What the messages mean is the API's; this file only counts revisions and opens connections.

use std::time::Duration;

use hyper::Method;

use super::call::{Call, Client, message};
use super::connection::Lines;
use super::error::Error;
use crate::api::types::{Code, Target, WatchMessage};

/// The daemon sends something at least every 10 s (API.md); after this much silence the connection
/// is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The first pause before the connection is opened again; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(2);

/// What a watch shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchOptions {
    /// Begin with this revision; from now on unless named.
    pub from: Option<u64>,
    /// The history that `from` belongs to (`epoch` in messages); the present one unless named.
    pub epoch: Option<u64>,
    /// First the present state, then its changes, without a gap. Together with `from`: only if the
    /// history does not reach back to there, after a [`WatchMessage::Resync`].
    pub initial: bool,
    /// With what was there before.
    pub prev: bool,
    /// Treat the loss of the leader as the loss of the connection.
    pub require_leader: bool,
}

/// What happened to a watch.
#[derive(Debug)]
pub enum WatchStep {
    /// The connection is gone for this reason; it is opened again by the next call.
    Interrupted(Error),
    /// A message.
    Message(WatchMessage),
}

/// Where a watch stands.
///
/// - `next` is the lowest revision that has not been delivered, once that is known.
/// - `in_snapshot` is set only while some of a snapshot has been delivered, and not all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    next: Option<u64>,
    epoch: Option<u64>,
    in_snapshot: bool,
}

/// A watch that resumes by itself. Every change is delivered once and in order; if that becomes
/// impossible because the history is gone, a watch with `initial` yields [`WatchMessage::Resync`]
/// and a new snapshot, and one without ends with [`Code::Compacted`]. Dropping it closes the
/// connection.
pub struct Watch {
    client: Client,
    target: Target,
    options: WatchOptions,
    position: Position,
    lines: Option<Lines>,
    was_connected: bool,
    /// The next snapshot replaces what was delivered before.
    replaces: bool,
    pause: Option<Duration>,
    pub(super) silence_max: Duration,
}

impl Client {
    /// Watches a key or a prefix. Connects with the first call of [`Watch::next`], whose error says
    /// so if that fails.
    pub fn watch(&self, target: Target, options: WatchOptions) -> Watch {
        Watch {
            client: self.clone(),
            target,
            options,
            position: Position { next: options.from, epoch: options.epoch, in_snapshot: false },
            lines: None,
            was_connected: false,
            replaces: false,
            pause: None,
            silence_max: SILENCE_MAX,
        }
    }
}

impl Watch {
    /// The next message. An error is the end. May be dropped at any time.
    pub async fn next(&mut self) -> Result<WatchMessage, Error> {
        loop {
            if let WatchStep::Message(message) = self.step().await? {
                return Ok(message);
            }
        }
    }

    /// As [`Watch::next`], and tells of every interruption too.
    pub async fn step(&mut self) -> Result<WatchStep, Error> {
        loop {
            if self.lines.is_none() {
                if let Some(step) = self.connect().await? {
                    return Ok(step);
                }
                if std::mem::take(&mut self.replaces) {
                    let revision = self.position.next.map_or(0, |next| next.saturating_sub(1));
                    self.position = Position::default();
                    let resync = WatchMessage::Resync { compact_revision: 0, revision };
                    return Ok(WatchStep::Message(resync));
                }
            }
            let Some(lines) = &mut self.lines else { continue };
            let failure = match tokio::time::timeout(self.silence_max, lines.next()).await {
                Ok(Ok(Some(line))) => match message(&line)? {
                    WatchMessage::Error(problem) => Error::Problem(Box::new(problem)),
                    message => {
                        self.pause = None;
                        match self.take(message) {
                            Some(message) => return Ok(WatchStep::Message(message)),
                            None => continue,
                        }
                    }
                },
                Ok(Ok(None)) => Error::Broken { detail: "the stream ended".to_owned() },
                Ok(Err(error)) => error,
                Err(_) => Error::Silent { waited: self.silence_max },
            };
            self.lines = None;
            return self.interrupted(failure);
        }
    }

    /// Decides whether a failure is the end, and if not, from where to go on.
    fn interrupted(&mut self, failure: Error) -> Result<WatchStep, Error> {
        let compacted = failure.code() == Some(Code::Compacted);
        if compacted && self.options.initial {
            self.position.next = None;
            self.replaces = true;
        } else if compacted || !failure.is_transient() {
            return Err(failure);
        }
        let pause = self.pause.map_or(PAUSE_FIRST, |pause| (pause * 2).min(PAUSE_LONGEST));
        self.pause = Some(pause);
        Ok(WatchStep::Interrupted(failure))
    }

    async fn connect(&mut self) -> Result<Option<WatchStep>, Error> {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
        }
        if self.position.in_snapshot {
            self.position = Position::default();
            self.replaces = true;
        }
        match self.client.stream(&self.call()).await {
            Ok(lines) => {
                self.lines = Some(lines);
                self.was_connected = true;
                Ok(None)
            }
            Err(error)
                if !(self.was_connected
                    || self.options.initial && error.code() == Some(Code::Compacted)) =>
            {
                Err(error)
            }
            Err(error) => self.interrupted(error).map(Some),
        }
    }

    fn call(&self) -> Call {
        let call = Call::new(Method::GET, "/v1/watch");
        let call = match &self.target {
            Target::Key(key) => call.query("key", key),
            Target::Prefix(prefix) => call.query("prefix", prefix),
        };
        let call = call
            .query_if("prev", self.options.prev)
            .query_if("require_leader", self.options.require_leader);
        match self.position.next {
            // An epoch of zero was not told.
            Some(next) => call
                .query("from", next.to_string())
                .query_some("epoch", self.position.epoch.filter(|epoch| *epoch > 0)),
            None => call.query_if("initial", self.options.initial),
        }
    }

    /// Counts a message in; nothing when it has been delivered before.
    fn take(&mut self, message: WatchMessage) -> Option<WatchMessage> {
        let position = &mut self.position;
        match &message {
            WatchMessage::Changes { revision, .. } => {
                if position.next.is_some_and(|next| *revision < next) {
                    return None;
                }
                position.next = Some(revision + 1);
            }
            WatchMessage::Progress { revision } => {
                position.next = position.next.max(Some(revision + 1));
            }
            WatchMessage::Resync { .. } => *position = Position::default(),
            WatchMessage::Snapshot { epoch, .. } => {
                position.epoch = Some(*epoch);
                position.in_snapshot = true;
            }
            WatchMessage::Synced { revision, epoch } => {
                position.epoch = Some(*epoch);
                position.in_snapshot = false;
                // On a resume it is the first message, and what lies between is still to come.
                position.next = position.next.or(Some(revision + 1));
            }
            WatchMessage::Error(_) | WatchMessage::Leader { .. } | WatchMessage::Unknown => {}
        }
        Some(message)
    }
}
