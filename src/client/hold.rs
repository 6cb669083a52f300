//! Decides until when a lock or an election that was won may be relied on.
//!
//! How it was won is in `acquire.rs`; what a program does when it ends is the program's.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::call::{Call, Client, ReadOptions, WriteOptions, message};
use super::clock::BootInstant;
use super::connection::Lines;
use super::error::Error;
use super::lease::Kept;
use crate::api::types::{HexId, LeaseView, PlaceMessage, ReleaseAnswer};

/// A confirmation is asked for eight times within one time to live, within these bounds.
const CONFIRM_EVERY_MIN: Duration = Duration::from_millis(100);
const CONFIRM_EVERY_MAX: Duration = Duration::from_secs(5);

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Election,
    Lock,
}

impl Kind {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Election => "/v1/elections/",
            Self::Lock => "/v1/locks/",
        }
    }
}

/// How a hold ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The daemon closed the connection or died, without saying that the hold is lost: it ends at
    /// `valid_until` at the latest, or at once if the daemon lives and took the end of the
    /// connection for a release.
    Disconnected {
        /// What the connection said.
        detail: String,
    },
    /// No confirmation came in time, and the daemon did not say why: it hangs.
    Expired,
    /// The daemon said so.
    Told {
        /// Its reason.
        reason: String,
    },
}

/// How a hold stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Held, but a confirmation is overdue: nobody else can hold before `valid_until`.
    AtRisk {
        /// Why, as the daemon says.
        reason: String,
    },
    /// Held.
    Held,
    /// Not held any more. The last condition.
    Lost(Loss),
}

/// A condition and the promise that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldState {
    /// How it stands.
    pub condition: Condition,
    /// Nobody else can hold before this, unless this hold is released or its lease revoked. It is
    /// counted from before the question to which the daemon answered for how long, never from when
    /// the answer was read.
    pub valid_until: BootInstant,
}

/// A lock that is held, or an election that is won. Dropping it closes its connection, which
/// releases it.
#[derive(Debug)]
pub struct Hold {
    client: Client,
    kind: Kind,
    name: Bytes,
    token: u64,
    lease: HexId,
    ttl: Duration,
    state: watch::Receiver<HoldState>,
    keeper: JoinHandle<()>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Hold {
    pub(super) fn begin(
        client: Client,
        kind: Kind,
        name: Bytes,
        token: u64,
        confirmed: &Kept<LeaseView>,
        lines: Lines,
    ) -> Self {
        let lease = confirmed.answer.lease;
        let ttl = Duration::from_millis(confirmed.answer.ttl_ms);
        let first = HoldState { condition: Condition::Held, valid_until: confirmed.valid_until };
        let (sender, state) = watch::channel(first);
        let keeper = tokio::spawn(keep(client.clone(), lease, ttl, lines, sender));
        Self { client, kind, name, token, lease, ttl, state, keeper }
    }

    /// The fencing token: greater for every later holder. Send it along with whatever the lock
    /// protects, so that the resource can refuse those who believe too long that they hold.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The lease it is held under. Keys put with it end with the hold.
    pub fn lease(&self) -> HexId {
        self.lease
    }

    /// Time to live of the lease.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The name of the lock or election.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// How it stands.
    pub fn state(&self) -> HoldState {
        self.state.borrow().clone()
    }

    /// Until when nobody else can hold: see [`HoldState::valid_until`].
    pub fn valid_until(&self) -> BootInstant {
        self.state.borrow().valid_until
    }

    /// The next change of its state; never resolves after a state of loss was returned. May be
    /// dropped at any time.
    pub async fn changed(&mut self) -> HoldState {
        // The sender lives as long as this hold.
        let _ = self.state.changed().await;
        self.state.borrow_and_update().clone()
    }

    /// Resolves when it is lost. Race it against the work that the lock protects.
    pub async fn lost(&self) -> Loss {
        let mut state = self.state.clone();
        loop {
            if let Condition::Lost(loss) = &state.borrow_and_update().condition {
                return loss.clone();
            }
            if state.changed().await.is_err() {
                return Loss::Expired;
            }
        }
    }

    /// Publishes another value as the leader of an election.
    pub async fn proclaim(
        &self,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<ReleaseAnswer, Error> {
        let call = self.call(Method::PUT).body(value.into());
        self.client.json(&call.write(options)).await
    }

    /// Releases it, and answers when that is done. When this fails, closing the connection releases
    /// it.
    pub async fn release(self) -> Result<ReleaseAnswer, Error> {
        self.client.json(&self.call(Method::DELETE)).await
    }

    fn call(&self, method: Method) -> Call {
        Call::new(method, self.kind.path()).name(&self.name).query("token", self.token.to_string())
    }
}

/// Says when it is lost. Never ends: the end of the connection is a release, and what the lock
/// protects may still be winding up after it was lost.
async fn keep(
    client: Client,
    lease: HexId,
    ttl: Duration,
    mut lines: Lines,
    state: watch::Sender<HoldState>,
) {
    let loss = tokio::select! {
        loss = listen(&mut lines, &state) => loss,
        never = confirm(&client, lease, ttl, &state) => match never {},
        () = expire(&state) => Loss::Expired,
    };
    state.send_modify(|state| state.condition = Condition::Lost(loss));
    std::future::pending().await
}

async fn listen(lines: &mut Lines, state: &watch::Sender<HoldState>) -> Loss {
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Loss::Disconnected { detail: "the stream ended".to_owned() },
            Err(error) => return Loss::Disconnected { detail: error.to_string() },
        };
        let condition = match message(&line) {
            Ok(PlaceMessage::Held { .. } | PlaceMessage::Leader { .. }) => Condition::Held,
            Ok(PlaceMessage::AtRisk { reason, .. }) => {
                Condition::AtRisk { reason: reason.unwrap_or_default() }
            }
            Ok(PlaceMessage::Lost { reason }) => return Loss::Told { reason },
            Ok(PlaceMessage::Error(problem)) => return Loss::Told { reason: problem.detail },
            Ok(PlaceMessage::Waiting { .. }) => {
                let reason = "the daemon says that this place is waiting again".to_owned();
                return Loss::Told { reason };
            }
            Ok(PlaceMessage::Unknown) => continue,
            Err(error) => return Loss::Disconnected { detail: error.to_string() },
        };
        state.send_if_modified(|state| {
            let changed = state.condition != condition;
            state.condition = condition;
            changed
        });
    }
}

/// Asks again and again for how long the lease is promised. The stream tells that too, but a
/// message may have lain in a buffer while this process was stopped, and nothing bounds for how
/// long.
async fn confirm(
    client: &Client,
    lease: HexId,
    ttl: Duration,
    state: &watch::Sender<HoldState>,
) -> std::convert::Infallible {
    let every = (ttl / 8).clamp(CONFIRM_EVERY_MIN, CONFIRM_EVERY_MAX);
    // A daemon that hangs must not keep the next question from being asked.
    let options = ReadOptions { timeout: Some(every), ..ReadOptions::local() };
    loop {
        tokio::time::sleep(every).await;
        // Without an answer the promise runs out by itself; the stream tells why.
        let Ok(kept) = client.lease(lease, &options).await else { continue };
        state.send_if_modified(|state| {
            let later = kept.valid_until > state.valid_until;
            state.valid_until = state.valid_until.max(kept.valid_until);
            later
        });
    }
}

async fn expire(state: &watch::Sender<HoldState>) {
    loop {
        let until = state.borrow().valid_until;
        until.reached().await;
        if state.borrow().valid_until <= until {
            return;
        }
    }
}
