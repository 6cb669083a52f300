//! The handle of all links of one node: which peers there are, and what their tasks share.
//!
//! What the tasks do is in `dialer.rs` and `listener.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::base::{NodeId, Rng, Span, limits};
use crate::peer::listener::{Handshakes, Incoming};
use crate::peer::outbox::Outbox;
use crate::peer::refusals::RefusalLog;
use crate::peer::{Gatekeeper, PeerError, Refusal, RegistrarSlot, bulk, dialer, join, listener};
use crate::pki::LiveTls;
use crate::wire::PeerMessage;

/// How long a link that is closed by us may take to write what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Hints that wait for one dialer; see the table in `mod.rs`.
const POKES_MAX: usize = 4;

/// What the operator and the node say about links.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name, as in the certificates.
    pub cluster_name: String,
    /// This node's name, as in its certificate.
    pub name: String,
    /// Shortest wait between two attempts to dial a peer. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest wait between two attempts to dial a peer. Default 1 s.
    pub backoff_max: Duration,
    /// How long a TCP connection may take to come about. Default 2 s.
    pub dial_timeout: Duration,
    /// Unfinished handshakes that one IP address may have, at least 1. Default
    /// [`limits::HANDSHAKES_PER_ADDRESS_DEFAULT`].
    pub handshakes_per_address_max: usize,
    /// How long a connection may last before it is made anew. Default
    /// [`limits::PEER_CONNECTION_AGE_MAX`].
    pub connection_age_max: Duration,
    /// How long a connection may last whose certificate is trusted no more. Default
    /// [`limits::PEER_DISTRUSTED_AGE_MAX`].
    pub distrusted_age_max: Duration,
    /// Any number that differs from node to node: scatters the waits.
    pub seed: u64,
}

impl Options {
    /// The defaults for the node `name` of `cluster_name`.
    pub fn new(cluster_name: &str, name: &str, seed: u64) -> Options {
        Options {
            cluster_name: cluster_name.to_owned(),
            name: name.to_owned(),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            dial_timeout: Duration::from_secs(2),
            handshakes_per_address_max: limits::HANDSHAKES_PER_ADDRESS_DEFAULT,
            connection_age_max: duration(limits::PEER_CONNECTION_AGE_MAX),
            distrusted_age_max: duration(limits::PEER_DISTRUSTED_AGE_MAX),
            seed,
        }
    }
}

/// A peer to keep a link to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which node: whoever else answers under its name is not spoken to. While a member is
    /// replaced, two nodes have one name.
    pub node: NodeId,
    /// Its name; its certificate must carry it.
    pub name: String,
    /// Where it listens: "host:port", resolved at each attempt.
    pub address: String,
}

/// What links report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// The link on which this node *sends* to a peer ended: what was sent last may be lost.
    Down {
        /// The peer.
        peer: NodeId,
        /// Its name.
        name: String,
        /// It could not be dialed again at once: its process or host is gone, or refuses this node.
        /// False: it was dialed again, and `Up` follows; or it is a target no more.
        redial_failed: bool,
    },
    /// A peer sent this. The sender inside a consensus message is `from`.
    Message {
        /// The node of the connection, by certificate and hello.
        from: NodeId,
        /// What it sent.
        message: PeerMessage,
    },
    /// This node can send to a peer: it was dialed, and both sides have accepted each other.
    Up {
        /// The peer.
        peer: NodeId,
        /// Its name.
        name: String,
    },
}

/// All links, at one moment.
#[derive(Clone, Debug)]
pub struct LinksStatus {
    /// One per target, by node.
    pub peers: Vec<PeerStatus>,
    /// Failed connections in both directions by reason and source, oldest first.
    pub refusals: Vec<Refusal>,
}

/// The links with one target.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is dialed.
    pub address: String,
    /// For how long there has been an outgoing link; nothing while there is none.
    pub connected: Option<Duration>,
    /// Whether it has a link to this node.
    pub incoming: bool,
    /// Why the last attempt failed or the last link ended, if one did.
    pub last_error: Option<PeerError>,
    /// Failed attempts and lost links since the target was added.
    pub failures: u64,
    /// Messages that wait to be written.
    pub queued: usize,
    /// Messages that were dropped since the target was added.
    pub dropped: u64,
}

/// All links of one node. Dropped, everything ends at once; see [`Links::shutdown`].
pub struct Links {
    shared: Arc<Shared>,
    runtime: Handle,
    local_addr: SocketAddr,
    tasks: Mutex<Tasks>,
}

struct Tasks {
    /// None once it was told to end.
    listener: Option<JoinHandle<()>>,
    dialers: BTreeMap<NodeId, JoinHandle<()>>,
    /// Dialers of removed targets that may still be writing.
    leaving: BTreeMap<NodeId, JoinHandle<()>>,
    rng: Rng,
}

/// What the tasks share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) tls: LiveTls,
    pub(super) gatekeeper: Arc<dyn Gatekeeper>,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) refusals: RefusalLog,
    pub(super) handshakes: Handshakes,
    pub(super) incoming: Incoming,
    pub(super) registrar: Arc<RegistrarSlot>,
    /// Places for requests for certificates.
    pub(super) joins: Semaphore,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

/// A hint to a dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poke {
    /// The peer has connected to us: it lives.
    Arrived,
    /// The peer's connection to us ended: it may be gone.
    Lost,
    /// The target has another address.
    Moved,
}

/// One target, shared by its dialer, its senders and those who ask for its status.
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) outbox: Outbox,
    /// What is sent on the second connection; see `bulk.rs`.
    pub(super) bulk: Outbox,
    pokes: mpsc::Sender<Poke>,
    state: Mutex<PeerState>,
}

struct PeerState {
    address: String,
    connected: Option<Instant>,
    last_error: Option<PeerError>,
    failures: u64,
}

impl Links {
    /// Starts listening on a bound socket, on the current tokio runtime. There are no targets yet.
    ///
    /// `inbound` is the bounded channel on which everything is reported; while it is full, peers
    /// are read no further. Fails when the socket cannot be used, or when the options name another
    /// node than the certificate.
    pub fn start(
        socket: TcpListener,
        options: Options,
        tls: LiveTls,
        gatekeeper: Arc<dyn Gatekeeper>,
        inbound: mpsc::Sender<Inbound>,
    ) -> io::Result<Links> {
        let identity = tls.identity();
        if identity.cluster() != options.cluster_name || identity.name() != options.name {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "this is node {} of cluster {}, but its certificate names {identity}; give it \
                    its own certificate, or correct the names",
                    options.name, options.cluster_name
                ),
            ));
        }
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let local_addr = socket.local_addr()?;
        let rng = Rng::new(options.seed);
        let shared = Arc::new(Shared {
            options,
            tls,
            gatekeeper,
            inbound,
            refusals: RefusalLog::default(),
            handshakes: Handshakes::default(),
            incoming: Incoming::default(),
            registrar: Arc::default(),
            joins: Semaphore::new(join::AT_ONCE_MAX),
            peers: Mutex::default(),
        });
        let runtime = Handle::current();
        let listener = runtime.spawn(listener::run(Arc::clone(&shared), socket));
        let (dialers, leaving) = (BTreeMap::new(), BTreeMap::new());
        let listener = Some(listener);
        let tasks = Mutex::new(Tasks { listener, dialers, leaving, rng });
        Ok(Links { shared, runtime, local_addr, tasks })
    }

    /// Where those who answer requests for certificates are named; until then nobody does.
    pub fn registrar(&self) -> Arc<RegistrarSlot> {
        Arc::clone(&self.shared.registrar)
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Keeps links to exactly these peers from now on; may be called from any thread.
    ///
    /// New ones are dialed, changed addresses are dialed anew. Removed ones are told what is
    /// queued, then closed, and their links to this node are closed: who is no member any more is
    /// not listened to. The caller leaves the node itself out.
    pub fn set_targets(&self, targets: Vec<Target>) {
        let wanted: BTreeMap<NodeId, Target> =
            targets.into_iter().map(|target| (target.node, target)).collect();
        let mut tasks = lock(&self.tasks);
        let mut peers = lock(&self.shared.peers);
        // A node whose name changed is another target.
        let stays = |node: &NodeId, peer: &Peer| {
            wanted.get(node).is_some_and(|target| target.name == peer.name)
        };
        let removed: Vec<NodeId> =
            peers.iter().filter(|(node, peer)| !stays(node, peer)).map(|(&node, _)| node).collect();
        for node in removed {
            let Some(peer) = peers.remove(&node) else { continue };
            peer.close();
            self.shared.incoming.end(node);
            if let Some(dialer) = tasks.dialers.remove(&node) {
                tasks.leaving.insert(node, self.runtime.spawn(finish(dialer)));
            }
        }
        tasks.leaving.retain(|_, task| !task.is_finished());
        for (node, target) in wanted {
            if let Some(peer) = peers.get(&node) {
                peer.move_to(target.address);
                continue;
            }
            let (pokes, hints) = mpsc::channel(POKES_MAX);
            let peer = Arc::new(Peer::new(target, pokes));
            peers.insert(node, Arc::clone(&peer));
            let before = tasks.leaving.remove(&node);
            let (rng, bulk_rng) = (tasks.rng.fork(), tasks.rng.fork());
            let shared = Arc::clone(&self.shared);
            let dialer = self.runtime.spawn(async move {
                if let Some(before) = before {
                    // Its last report comes before our first one. It cannot fail: it is bounded.
                    let _ = before.await;
                }
                let (shared_too, peer_too) = (Arc::clone(&shared), Arc::clone(&peer));
                tokio::join!(
                    bulk::run(shared_too, peer_too, bulk_rng),
                    dialer::run(shared, peer, hints, rng)
                );
            });
            tasks.dialers.insert(node, dialer);
        }
    }

    /// Queues a message for the target `to`. Never blocks; may be called from any thread.
    ///
    /// False when it was dropped: no such target, or too much waits. True promises nothing: what
    /// was queued is lost with the link, and consensus sends again.
    pub fn send(&self, to: NodeId, message: PeerMessage) -> bool {
        let peer = lock(&self.shared.peers).get(&to).cloned();
        peer.is_some_and(|peer| {
            let outbox = if bulk::is_bulk(&message) { &peer.bulk } else { &peer.outbox };
            outbox.push(message)
        })
    }

    /// How all links are.
    pub fn status(&self) -> LinksStatus {
        let peers: Vec<Arc<Peer>> = lock(&self.shared.peers).values().cloned().collect();
        let peers = peers
            .iter()
            .map(|peer| peer.status(self.shared.incoming.has(peer.node), Instant::now()))
            .collect();
        LinksStatus { peers, refusals: self.shared.refusals.list() }
    }

    /// Stops accepting, writes what is queued for at most a second, and closes all links.
    ///
    /// Cancelled, the links go on closing. The last call: targets that are set later are dialed
    /// again.
    pub async fn shutdown(&self) {
        let ending: Vec<JoinHandle<()>> = {
            let mut tasks = lock(&self.tasks);
            let listener = tasks.listener.take();
            if let Some(listener) = &listener {
                listener.abort();
            }
            for peer in lock(&self.shared.peers).values() {
                peer.close();
            }
            let dialers = std::mem::take(&mut tasks.dialers);
            let leaving = std::mem::take(&mut tasks.leaving);
            let finishing = dialers.into_values().map(|task| self.runtime.spawn(finish(task)));
            // The port is free only when the listener has gone.
            let finishing = finishing.collect::<Vec<_>>();
            leaving.into_values().chain(finishing).chain(listener).collect()
        };
        for task in ending {
            // Bounded by `finish`; a panic of a dialer has been reported by the runtime.
            let _ = task.await;
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let tasks = lock(&self.tasks);
        if let Some(listener) = &tasks.listener {
            listener.abort();
        }
        for task in tasks.dialers.values().chain(tasks.leaving.values()) {
            task.abort();
        }
    }
}

/// Waits for a dialer whose outbox is closed, and ends it when it takes too long.
async fn finish(mut dialer: JoinHandle<()>) {
    if timeout(FLUSH_TIMEOUT, &mut dialer).await.is_err() {
        dialer.abort();
    }
}

impl Shared {
    /// Gives the dialer of `node` a hint, if there is one.
    pub(super) fn poke(&self, node: NodeId, poke: Poke) {
        if let Some(peer) = lock(&self.peers).get(&node) {
            peer.poke(poke);
        }
    }
}

impl Peer {
    fn new(target: Target, pokes: mpsc::Sender<Poke>) -> Self {
        let Target { node, name, address } = target;
        let state = PeerState { address, connected: None, last_error: None, failures: 0 };
        let outbox = Outbox::new(limits::PEER_QUEUE_FRAMES_MAX);
        let bulk = Outbox::new(limits::PEER_BULK_QUEUE_FRAMES_MAX);
        Self { node, name, outbox, bulk, pokes, state: Mutex::new(state) }
    }

    /// Takes no more messages: its tasks end when what is queued is written.
    fn close(&self) {
        self.outbox.close();
        self.bulk.close();
    }

    /// Where to dial.
    pub(super) fn address(&self) -> String {
        lock(&self.state).address.clone()
    }

    /// The outgoing link is up.
    pub(super) fn linked(&self, since: Instant) {
        lock(&self.state).connected = Some(since);
        self.outbox.link();
    }

    /// The outgoing link is gone.
    pub(super) fn unlinked(&self) {
        lock(&self.state).connected = None;
        self.outbox.unlink();
    }

    /// An attempt failed, or a link was lost.
    pub(super) fn failed(&self, error: PeerError) {
        let mut state = lock(&self.state);
        state.last_error = Some(error);
        state.failures += 1;
    }

    fn move_to(&self, address: String) {
        let mut state = lock(&self.state);
        if state.address != address {
            state.address = address;
            drop(state);
            self.poke(Poke::Moved);
        }
    }

    fn poke(&self, poke: Poke) {
        // Full: the dialer has hints enough to look. Closed: it ends.
        let _ = self.pokes.try_send(poke);
    }

    fn status(&self, incoming: bool, now: Instant) -> PeerStatus {
        let (queued, dropped) = self.outbox.counts();
        let state = lock(&self.state);
        PeerStatus {
            node: self.node,
            name: self.name.clone(),
            address: state.address.clone(),
            connected: state.connected.map(|since| now - since),
            incoming,
            last_error: state.last_error,
            failures: state.failures,
            queued,
            dropped,
        }
    }
}

const fn duration(span: Span) -> Duration {
    Duration::from_micros(span.as_micros())
}

/// What is locked is whole after each operation, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
