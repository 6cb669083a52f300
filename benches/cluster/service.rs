//! What a figure needs from a cluster, so that each figure is taken of both in the same words.
//!
//! How a request looks on its wire is in `quorumd.rs` and `etcd.rs`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

/// A running cluster of three processes.
pub trait Cluster: Sized {
    /// One connection of one client.
    type Session: Session + 'static;
    /// Leases that are being kept alive.
    type Kept;

    /// What the column is called.
    const NAME: &'static str;

    /// Starts a cluster in an empty directory and waits until it is ready.
    async fn start(program: &Path, directory: &Path) -> Result<Self>;
    /// A new connection to a node.
    async fn session(&self, node: usize) -> Result<Self::Session>;
    /// The node that leads, as the node `asked` sees it.
    async fn leader(&self, asked: usize) -> Result<Option<usize>>;
    /// Keeps leases alive, spread over the hosts.
    async fn keep_leases(&self, count: usize, ttl: Duration) -> Result<Self::Kept>;
    /// Process ids of the nodes, in their order.
    fn pids(&self) -> Vec<u32>;
    /// Kills a node's process with SIGKILL.
    fn kill(&mut self, node: usize) -> Result<()>;
    /// Starts a killed node again and waits until it serves.
    async fn restart(&mut self, node: usize) -> Result<()>;
}

/// One connection. Requests on it follow one another.
pub trait Session {
    /// Where the events of one key arrive.
    type Watcher: Watcher + 'static;

    /// Writes a key.
    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()>;
    /// Reads a key, and fails unless it is there.
    async fn get(&mut self, key: &str, freshness: Freshness) -> Result<()>;
    /// Makes a lease that is not kept alive.
    async fn grant(&mut self, ttl: Duration) -> Result<String>;
    /// Waits for a lock; the answer is what releases it.
    async fn lock(&mut self, name: &str, lease: &str) -> Result<String>;
    /// Releases a lock.
    async fn unlock(&mut self, name: &str, held: &str) -> Result<()>;
    /// Watches one key on this connection, live when this returns.
    async fn watch(self, key: &str) -> Result<Self::Watcher>;
}

/// A stream of events.
pub trait Watcher {
    /// Waits for the next event.
    async fn event(&mut self) -> Result<()>;
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Reflects every write that was acknowledged before it began.
    Linearizable,
    /// The node's own state.
    Local,
}
