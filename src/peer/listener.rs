//! Which connections are accepted, how many at once, and what happens to those that are refused.
//!
//! What a connection must show is in `hello.rs`; what is read from it then, in `link.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::base::NodeId;
use crate::base::limits::HANDSHAKES_MAX;
use crate::peer::hello::{self, Accepted, HANDSHAKE_TIMEOUT, Received, Rejected};
use crate::peer::links::{Poke, Shared};
use crate::peer::{PeerError, PeerFault, join, link, renewal};
use crate::wire::LinkClass;

/// How long a link that has a successor is still read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after the system had no file descriptor or memory for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for ever. Owns the tasks of all of them: they end with it.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        // While all places are taken, nobody is accepted: strangers wait in the kernel's backlog,
        // at most as long as one handshake may take.
        let permit = Arc::clone(&handshakes)
            .acquire_owned()
            .await
            .expect("the semaphore is local and never closed");
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, from)) => {
                let from = canonical(from);
                let places = &shared.handshakes;
                match places.take(from.ip(), shared.options.handshakes_per_address_max, permit) {
                    Some(place) => {
                        connections.spawn(serve(Arc::clone(&shared), socket, from, place));
                    }
                    None => refuse(&shared, from, PeerFault::TooManyConnections),
                }
            }
            Err(error) if is_exhaustion(&error) => {
                let reason = PeerError::Unreachable(error.kind());
                if shared.refusals.note(reason, "accept", Instant::now()) {
                    tracing::warn!(%error, "no connection can be accepted; raise LimitNOFILE");
                }
                sleep(EXHAUSTED_PAUSE).await;
            }
            // The connection was gone before it was accepted (accept(2)): the next one may be fine.
            Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
        }
    }
}

/// An IPv4 peer of a dual-stack socket is the same host as without the mapping.
fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

fn is_exhaustion(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|e| e.raw_os_error() == code))
}

/// One connection from its first byte to its end.
async fn serve(shared: Arc<Shared>, socket: TcpStream, from: SocketAddr, place: Place) {
    let received = timeout(HANDSHAKE_TIMEOUT, hello::receive(&shared, socket)).await;
    drop(place);
    match received {
        Ok(Ok(Some(Received::Link(accepted)))) => serve_link(&shared, from, accepted).await,
        Ok(Ok(Some(Received::Request(asked)))) => {
            if let Err(error) = join::answer(&shared, asked).await {
                reject(&shared, from, &Rejected::from(error));
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(rejected)) => reject(&shared, from, &rejected),
        Err(_) => reject(&shared, from, &Rejected::from(PeerError::TimedOut)),
    }
}

async fn serve_link(shared: &Shared, from: SocketAddr, accepted: Accepted) {
    let Accepted { name, node, class, proof, mut stream, buffer } = accepted;
    let link = shared.incoming.enter(node, class);
    // A bulk connection comes and goes without meaning anything.
    let is_sign_of_life = class == LinkClass::Consensus;
    if is_sign_of_life {
        shared.poke(node, Poke::Arrived);
    }
    let ended = {
        let receiving = link::receive(shared, node, &mut stream, buffer);
        tokio::pin!(receiving);
        tokio::select! {
            error = &mut receiving => Some(error),
            () = link.ended.notified() => None,
            () = link.superseded.notified() => {
                // Its dialer has another one and writes this one to its end.
                tokio::select! {
                    _ = timeout(DRAIN_TIMEOUT, receiving) => {}
                    () = link.ended.notified() => {}
                }
                None
            }
            end = renewal::outlived(&shared.options, proof) => end,
        }
    };
    shared.incoming.leave(node, class, &link);
    let Some(error) = ended else { return };
    if let PeerError::Fault(fault) = error {
        tracing::debug!(peer = %name, "closing the incoming link after a fault");
        refuse(shared, from, fault);
    }
    if is_sign_of_life {
        shared.poke(node, Poke::Lost);
    }
}

/// Reports why a connection did not become a link.
fn reject(shared: &Shared, from: SocketAddr, rejected: &Rejected) {
    let error = rejected.error;
    // Port scans, health checks and our own probes close without a word: not worth a line.
    if matches!(error, PeerError::Closed | PeerError::Unreachable(_)) {
        tracing::debug!(%from, reason = %error, "a connection ended before it became a link");
        return;
    }
    if !shared.refusals.note(error, &from.ip().to_string(), Instant::now()) {
        return;
    }
    let certificate = rejected.identity.as_ref().map(ToString::to_string).unwrap_or_default();
    if error.is_ordinary() {
        tracing::info!(%from, certificate, reason = %error, "no link with a peer that dialed");
    } else {
        tracing::warn!(%from, certificate, reason = %error, "refused a connection");
    }
}

fn refuse(shared: &Shared, from: SocketAddr, fault: PeerFault) {
    reject(shared, from, &Rejected::from(PeerError::from(fault)));
}

/// How many unfinished handshakes each address has.
///
/// - No entry is zero.
#[derive(Default)]
pub(super) struct Handshakes {
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One unfinished handshake, given back when dropped.
struct Place {
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Handshakes {
    fn take(&self, address: IpAddr, max: usize, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_address = lock(&self.by_address);
        let count = by_address.entry(address).or_insert(0);
        if *count >= max.max(1) {
            return None;
        }
        *count += 1;
        Some(Place { by_address: Arc::clone(&self.by_address), address, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = lock(&self.by_address);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// The incoming links of each node: of each class the newest, and the one before it for as long as
/// it is read to its end.
#[derive(Default)]
pub(super) struct Incoming {
    by_node: Mutex<BTreeMap<(NodeId, LinkClass), Pair>>,
}

struct Pair {
    newest: Arc<Link>,
    before: Option<Arc<Link>>,
}

/// What an incoming link is told.
#[derive(Default)]
struct Link {
    /// A newer one stands: what is on its way may still arrive.
    superseded: Notify,
    /// Nothing of it counts any more.
    ended: Notify,
}

impl Incoming {
    /// Enters a new link. An older one of the same node and class is superseded, and one that was
    /// superseded already is ended.
    fn enter(&self, node: NodeId, class: LinkClass) -> Arc<Link> {
        let newest = Arc::new(Link::default());
        let mut by_node = lock(&self.by_node);
        let older = by_node.remove(&(node, class));
        if let Some(older) = &older {
            older.newest.superseded.notify_one();
            older.end_before();
        }
        let pair = Pair { newest: Arc::clone(&newest), before: older.map(|it| it.newest) };
        by_node.insert((node, class), pair);
        newest
    }

    /// Takes a link that ended out. The one before the newest ends with it.
    fn leave(&self, node: NodeId, class: LinkClass, link: &Arc<Link>) {
        let mut by_node = lock(&self.by_node);
        let Some(pair) = by_node.get_mut(&(node, class)) else { return };
        if Arc::ptr_eq(&pair.newest, link) {
            pair.end_before();
            by_node.remove(&(node, class));
        } else if pair.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            pair.before = None;
        }
    }

    /// Ends the links of `node`.
    pub(super) fn end(&self, node: NodeId) {
        for class in [LinkClass::Bulk, LinkClass::Consensus] {
            if let Some(pair) = lock(&self.by_node).remove(&(node, class)) {
                pair.newest.ended.notify_one();
                pair.end_before();
            }
        }
    }

    /// Whether there is a link of `node` for consensus messages.
    pub(super) fn has(&self, node: NodeId) -> bool {
        lock(&self.by_node).contains_key(&(node, LinkClass::Consensus))
    }
}

impl Pair {
    fn end_before(&self) {
        if let Some(before) = &self.before {
            before.ended.notify_one();
        }
    }
}

/// The maps are whole after each operation, so that a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
