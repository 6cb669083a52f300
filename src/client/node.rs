//! The node and its cluster: status, members, health and compaction.

use std::time::Duration;

use hyper::Method;

use super::call::message;
use super::call::{Call, Client, WriteOptions};
use super::connection::Lines;
use super::error::Error;
use crate::api::types::{
    ChangeDone, CompactAnswer, CompactRequest, LeaderAnswer, LeaderRequest, MembersAnswer,
    MembersMessage, MembersRequest, RebuildAnswer, ReloadAnswer, StatusAnswer,
};

impl Client {
    /// How this node stands; answered without a leader too.
    pub async fn status(&self) -> Result<StatusAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/status")).await
    }

    /// The members of the cluster.
    pub async fn members(&self) -> Result<MembersAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/members")).await
    }

    /// Declares the whole wanted set of members, and hands over what is told until it is reached.
    /// The change goes on when the stream is dropped; the same set again is the same change.
    pub async fn change_members(&self, wanted: &MembersRequest) -> Result<MembersChange, Error> {
        let call = Call::new(Method::PUT, "/v1/members").json(wanted)?.within(CHANGE_TIMEOUT);
        Ok(MembersChange { lines: self.stream(&call).await? })
    }

    /// Gives up a change whose new voters have not caught up: the members stay as they are now.
    pub async fn cancel_change(&self) -> Result<ChangeDone, Error> {
        let call = Call::new(Method::POST, "/v1/members/cancel").within(CHANGE_TIMEOUT);
        self.json(&call).await
    }

    /// Lets the named voter lead, or the best one; resolves when it does.
    pub async fn move_leader(&self, to: Option<&str>) -> Result<LeaderAnswer, Error> {
        let request = LeaderRequest { to: to.map(str::to_owned) };
        let call = Call::new(Method::POST, "/v1/leader").json(&request)?.within(CHANGE_TIMEOUT);
        self.json(&call).await
    }

    /// Forgets the history before `revision`.
    pub async fn compact(
        &self,
        revision: u64,
        options: &WriteOptions,
    ) -> Result<CompactAnswer, Error> {
        let call = Call::new(Method::POST, "/v1/compact").json(&CompactRequest { revision })?;
        self.json(&call.write(options)).await
    }

    /// Has the state of this node, whose daemon is fenced off, replaced by the leader's. The daemon
    /// ends when that is done.
    pub async fn rebuild(&self) -> Result<RebuildAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/rebuild")).await
    }

    /// Has the daemon read its configuration, certificates and token again: all of it is in force
    /// afterwards, or nothing, and the error says why.
    pub async fn reload(&self) -> Result<ReloadAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/reload")).await
    }

    /// Whether the daemon answers at all.
    pub async fn is_alive(&self) -> bool {
        self.answer(&Call::new(Method::GET, "/healthz")).await.is_ok()
    }

    /// Succeeds when this node has a leader and is caught up; otherwise the error says why not.
    pub async fn ready(&self) -> Result<(), Error> {
        self.answer(&Call::new(Method::GET, "/readyz")).await.map(|_| ())
    }
}

/// How long the daemon may take to begin a change: new nodes are dialled first.
const CHANGE_TIMEOUT: Option<Duration> = Some(Duration::from_secs(15));

/// A change of members under way.
pub struct MembersChange {
    lines: Lines,
}

impl MembersChange {
    /// The next message; the last one is `Done` or `Error`. May be dropped at any time. An error
    /// means that this client hears no more of the change, which goes on.
    pub async fn next(&mut self) -> Result<Option<MembersMessage>, Error> {
        self.lines.next().await?.map(|line| message(&line)).transpose()
    }
}
