//! Decides how a place in the queue of a lock or an election is asked for and waited for.
//!
//! From the moment it is held, `hold.rs` knows for how long.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::call::{Call, Client, ReadOptions, message};
use super::connection::Lines;
use super::error::Error;
use super::hold::{Hold, Kind};
use super::lease::Kept;
use crate::api::types::{
    AcquireRequest, CampaignRequest, Code, DurationText, HexId, LeaseView, Mode, Place,
    PlaceMessage,
};

/// How long the first confirmation of a lease that was just given is waited for.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// How a lock is asked for.
#[derive(Clone, Debug, Default)]
pub struct AcquireOptions {
    /// Time to live of the lease without a sign of life of this host; the daemon's default is 10 s.
    pub ttl: Option<Duration>,
    /// How long to wait; without limit unless named.
    pub wait: Option<Duration>,
    /// How many may hold at once; 1 unless named.
    pub slots: Option<u32>,
    /// Beside whom; not beside `slots` when shared.
    pub mode: Mode,
    /// Free text for people.
    pub info: Option<String>,
}

/// How one campaigns.
#[derive(Clone, Debug, Default)]
pub struct CampaignOptions {
    /// What the leader publishes.
    pub value: Bytes,
    /// As in [`AcquireOptions`].
    pub ttl: Option<Duration>,
    /// As in [`AcquireOptions`].
    pub wait: Option<Duration>,
    /// As in [`AcquireOptions`].
    pub info: Option<String>,
}

/// A place in a queue.
#[derive(Debug)]
pub enum Turn {
    /// It is held.
    Held(Hold),
    /// Others are first.
    Waiting {
        /// How many must leave before this one holds.
        position: u64,
        /// Who holds.
        holders: Vec<Place>,
    },
}

/// A place in a queue that is being waited for. Dropping it leaves the queue.
pub struct Acquiring {
    client: Client,
    kind: Kind,
    name: Bytes,
    lines: Option<Lines>,
}

impl Client {
    /// Waits for a lock and holds it until the guard is dropped. [`Code::LockHeld`] when the wait
    /// is over.
    pub async fn lock(
        &self,
        name: impl AsRef<[u8]>,
        options: &AcquireOptions,
    ) -> Result<Hold, Error> {
        self.acquire(name, options).await?.held().await
    }

    /// Waits until this one leads, and leads until the guard is dropped.
    pub async fn lead(
        &self,
        name: impl AsRef<[u8]>,
        options: &CampaignOptions,
    ) -> Result<Hold, Error> {
        self.campaign(name, options).await?.held().await
    }

    /// Asks for a lock, and tells how the queue moves.
    pub async fn acquire(
        &self,
        name: impl AsRef<[u8]>,
        options: &AcquireOptions,
    ) -> Result<Acquiring, Error> {
        let request = AcquireRequest {
            ttl: options.ttl.map(DurationText),
            wait: options.wait.map(DurationText),
            slots: options.slots,
            mode: (options.mode == Mode::Shared).then_some(Mode::Shared),
            info: options.info.clone(),
            ..AcquireRequest::default()
        };
        let call = Call::new(Method::POST, Kind::Lock.path()).name(name.as_ref()).json(&request)?;
        self.queue(Kind::Lock, name.as_ref(), &call).await
    }

    /// Campaigns, and tells how the queue moves.
    pub async fn campaign(
        &self,
        name: impl AsRef<[u8]>,
        options: &CampaignOptions,
    ) -> Result<Acquiring, Error> {
        let request = CampaignRequest {
            value: options.value.clone(),
            ttl: options.ttl.map(DurationText),
            wait: options.wait.map(DurationText),
            info: options.info.clone(),
            ..CampaignRequest::default()
        };
        let kind = Kind::Election;
        let call = Call::new(Method::POST, kind.path()).name(name.as_ref()).json(&request)?;
        self.queue(kind, name.as_ref(), &call).await
    }

    async fn queue(&self, kind: Kind, name: &[u8], call: &Call) -> Result<Acquiring, Error> {
        let lines = Some(self.stream(call).await?);
        Ok(Acquiring { client: self.clone(), kind, name: Bytes::copy_from_slice(name), lines })
    }
}

impl Acquiring {
    /// How the queue moved: to be called again until it is held. May be dropped at any time before
    /// that; to be dropped is to leave the queue only when the whole object is.
    pub async fn next(&mut self) -> Result<Turn, Error> {
        loop {
            let Some(lines) = &mut self.lines else {
                let detail = "this place in the queue has been taken or lost".to_owned();
                return Err(Error::Invalid { detail });
            };
            let Some(line) = lines.next().await? else {
                let detail = "the stream ended while waiting".to_owned();
                return Err(Error::Broken { detail });
            };
            match message(&line)? {
                PlaceMessage::Waiting { position, holders, .. } => {
                    return Ok(Turn::Waiting { position, holders });
                }
                PlaceMessage::Held { token, lease, .. }
                | PlaceMessage::Leader { token, lease, .. }
                | PlaceMessage::AtRisk { token, lease, .. } => {
                    return self.begin(token, lease).await.map(Turn::Held);
                }
                PlaceMessage::Error(problem) => return Err(Error::Problem(Box::new(problem))),
                PlaceMessage::Lost { reason } => {
                    let detail = format!("the place in the queue was lost: {reason}");
                    return Err(Error::Broken { detail });
                }
                PlaceMessage::Unknown => {}
            }
        }
    }

    async fn held(mut self) -> Result<Hold, Error> {
        loop {
            if let Turn::Held(hold) = self.next().await? {
                return Ok(hold);
            }
        }
    }

    /// The message that it is held may have waited in a buffer for any time, so how long it holds
    /// is asked for anew: from before that question the answer counts.
    async fn begin(&mut self, token: u64, lease: HexId) -> Result<Hold, Error> {
        let confirmed = tokio::time::timeout(CONFIRM_WITHIN, confirm(&self.client, lease)).await;
        let waited = CONFIRM_WITHIN;
        let confirmed = confirmed.map_err(|_| Error::Silent { waited })??;
        let lines = self.lines.take().expect("`next` has just read from it");
        let name = self.name.clone();
        Ok(Hold::begin(self.client.clone(), self.kind, name, token, &confirmed, lines))
    }
}

async fn confirm(client: &Client, lease: HexId) -> Result<Kept<LeaseView>, Error> {
    loop {
        match client.lease(lease, &ReadOptions::local()).await {
            Ok(kept) if kept.answer.valid_for_ms.is_some_and(|millis| millis > 0) => {
                return Ok(kept);
            }
            Ok(_) => {}
            Err(error) if error.code() == Some(Code::LeaseNotFound) => return Err(error),
            Err(error) if !error.is_transient() => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
