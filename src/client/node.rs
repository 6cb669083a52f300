//! The node and its cluster: status, members, health and compaction.

use hyper::Method;

use super::call::{Call, Client, WriteOptions};
use super::error::Error;
use crate::api::types::{CompactAnswer, CompactRequest, MembersAnswer, StatusAnswer};

impl Client {
    /// How this node stands; answered without a leader too.
    pub async fn status(&self) -> Result<StatusAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/status")).await
    }

    /// The members of the cluster.
    pub async fn members(&self) -> Result<MembersAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/members")).await
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

    /// Whether the daemon answers at all.
    pub async fn is_alive(&self) -> bool {
        self.answer(&Call::new(Method::GET, "/healthz")).await.is_ok()
    }

    /// Succeeds when this node has a leader and is caught up; otherwise the error says why not.
    pub async fn ready(&self) -> Result<(), Error> {
        self.answer(&Call::new(Method::GET, "/readyz")).await.map(|_| ())
    }
}
