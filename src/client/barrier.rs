//! Decides how a barrier is entered and waited at.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::call::{Call, Client, WriteOptions, message};
use super::connection::Lines;
use super::error::Error;
use crate::api::types::{
    BarrierMessage, BarrierRequest, BarrierView, BarriersAnswer, DurationText, LeftAnswer,
};

const PATH: &str = "/v1/barriers/";

/// How one waits at a barrier.
#[derive(Clone, Debug, Default)]
pub struct BarrierOptions {
    /// Time to live of the lease without a sign of life of this host; the daemon's default is 10 s.
    pub ttl: Option<Duration>,
    /// How long to wait for the others; without limit unless named.
    pub wait: Option<Duration>,
    /// Free text for people.
    pub info: Option<String>,
}

/// How a place at a barrier stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attendance {
    /// All have come and are let go.
    Ready {
        /// The same for all that were let go together, greater for each later time.
        token: u64,
    },
    /// Others must still come.
    Waiting {
        /// How many are there.
        present: u64,
        /// How many must come.
        count: u32,
    },
}

/// A place at a barrier. Dropping it leaves the barrier: one that was not let go is not counted any
/// more.
pub struct Attending {
    lines: Lines,
}

impl Client {
    /// Waits until `count` callers wait at this barrier, and returns the token of this time.
    /// [`Code::BarrierIncomplete`](crate::client::Code::BarrierIncomplete) when the wait is over.
    pub async fn meet(
        &self,
        name: impl AsRef<[u8]>,
        count: u32,
        options: &BarrierOptions,
    ) -> Result<u64, Error> {
        let mut attending = self.attend(name, count, options).await?;
        loop {
            if let Attendance::Ready { token } = attending.next().await? {
                return Ok(token);
            }
        }
    }

    /// Enters a barrier, and tells how many have come.
    pub async fn attend(
        &self,
        name: impl AsRef<[u8]>,
        count: u32,
        options: &BarrierOptions,
    ) -> Result<Attending, Error> {
        let request = BarrierRequest {
            count,
            lease: None,
            ttl: options.ttl.map(DurationText),
            bind: None,
            pid: None,
            wait: options.wait.map(DurationText),
            info: options.info.clone(),
        };
        let call = Call::new(Method::POST, PATH).name(name.as_ref()).json(&request)?;
        Ok(Attending { lines: self.stream(&call).await? })
    }

    /// Who is at a barrier.
    pub async fn barrier(&self, name: impl AsRef<[u8]>) -> Result<BarrierView, Error> {
        self.json(&Call::new(Method::GET, PATH).name(name.as_ref())).await
    }

    /// Every barrier at which somebody is, on as many pages as it takes.
    pub async fn barriers(&self) -> Result<BarriersAnswer, Error> {
        let mut all: BarriersAnswer = self.json(&Call::new(Method::GET, "/v1/barriers")).await?;
        while let Some(last) = all.barriers.last().filter(|_| all.more) {
            let call = Call::new(Method::GET, "/v1/barriers").query("start_after", &last.name);
            let page: BarriersAnswer = self.json(&call).await?;
            all.barriers.extend(page.barriers);
            all.more = page.more;
        }
        Ok(all)
    }

    /// Takes a place out of a barrier, also somebody else's.
    pub async fn leave_barrier(
        &self,
        name: impl AsRef<[u8]>,
        place: u64,
        options: &WriteOptions,
    ) -> Result<LeftAnswer, Error> {
        let call = Call::new(Method::DELETE, PATH).name(name.as_ref());
        self.json(&call.query("place", place.to_string()).write(options)).await
    }
}

impl Attending {
    /// How the barrier stands now: to be called again until all have come. May be dropped at any
    /// time before that.
    pub async fn next(&mut self) -> Result<Attendance, Error> {
        loop {
            let Some(line): Option<Bytes> = self.lines.next().await? else {
                let detail = "the stream ended while waiting".to_owned();
                return Err(Error::Broken { detail });
            };
            match message(&line)? {
                BarrierMessage::Waiting { present, count, .. } => {
                    return Ok(Attendance::Waiting { present, count });
                }
                BarrierMessage::Ready { token, .. } => return Ok(Attendance::Ready { token }),
                BarrierMessage::Error(problem) => return Err(Error::Problem(Box::new(problem))),
                BarrierMessage::Lost { reason } => {
                    let detail = format!("the place at the barrier was lost: {reason}");
                    return Err(Error::Broken { detail });
                }
                BarrierMessage::Unknown => {}
            }
        }
    }
}
