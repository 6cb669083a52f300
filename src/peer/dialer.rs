//! When a peer is dialed, how long to wait before dialing again, and when it is reported down.
//!
//! How a connection is greeted is in `hello.rs`; what is written on it, in `link.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::base::Rng;
use crate::peer::hello::Dialed;
use crate::peer::link::{self, Ended};
use crate::peer::links::{Peer, Poke, Shared};
use crate::peer::{Inbound, PeerError, hello};
use crate::wire::LinkClass;

/// A link that lived this long was healthy: the next one is dialed without waiting.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);

/// Keeps one outgoing link until its outbox is closed. Every `Up` that it reports is followed by
/// exactly one `Down`, unless the task is aborted.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    mut pokes: mpsc::Receiver<Poke>,
    mut rng: Rng,
) {
    let mut backoff =
        Backoff::new(rng.fork(), shared.options.backoff_min, shared.options.backoff_max);
    // Whether a link ended whose end has not been reported.
    let mut lost = false;
    while wait(backoff.next(), &peer, &mut pokes).await {
        let address = peer.address();
        let dialed = tokio::select! {
            dialed = hello::dial(&shared, &peer, &address, LinkClass::Consensus) => dialed,
            () = peer.outbox.closed() => break,
        };
        match dialed {
            Err(error) => {
                note_failure(&shared, &peer, error);
                if std::mem::take(&mut lost) {
                    tell_down(&shared, &peer, true).await;
                }
            }
            Ok(first) => {
                if std::mem::take(&mut lost) {
                    tell_down(&shared, &peer, false).await;
                }
                let since = Instant::now();
                peer.linked(since);
                shared.refusals.forget(&peer.name);
                tracing::info!(peer = %peer.name, node = %peer.node, "connected to peer");
                tell_up(&shared, &peer).await;
                let ended = keep(&shared, &peer, first, &mut pokes, &mut rng).await;
                peer.unlinked();
                lost = true;
                if since.elapsed() >= HEALTHY_AFTER {
                    backoff.reset();
                }
                match ended {
                    Ended::Closed => break,
                    Ended::Lost(error) => note_failure(&shared, &peer, error),
                    Ended::Moved | Ended::Renewed { .. } => backoff.reset(),
                }
            }
        }
    }
    if lost {
        tell_down(&shared, &peer, false).await;
    }
}

/// Uses a link, and those that take its place, until one ends without a successor.
async fn keep(
    shared: &Shared,
    peer: &Peer,
    first: Dialed,
    pokes: &mut mpsc::Receiver<Poke>,
    rng: &mut Rng,
) -> Ended {
    let mut ended = link::send(shared, peer, first, pokes, rng).await;
    while let Ended::Renewed { next, whole } = ended {
        tracing::debug!(peer = %peer.name, node = %peer.node, whole, "the link was renewed");
        shared.refusals.forget(&peer.name);
        if !whole {
            // Something may be lost, and whoever sent it has to know.
            tell_down(shared, peer, false).await;
            tell_up(shared, peer).await;
        }
        ended = link::send(shared, peer, *next, pokes, rng).await;
    }
    ended
}

/// Waits before dialing; cut short when the peer shows that it is there. False when the target was
/// removed.
async fn wait(delay: Duration, peer: &Peer, pokes: &mut mpsc::Receiver<Poke>) -> bool {
    let pause = sleep(delay);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            biased;
            () = peer.outbox.closed() => return false,
            () = &mut pause => return true,
            Some(poke) = pokes.recv() => match poke {
                Poke::Arrived | Poke::Moved => return true,
                Poke::Lost => {}
            },
        }
    }
}

/// An attempt failed, or a link was lost: kept for the status, and told once per reason.
pub(super) fn note_failure(shared: &Shared, peer: &Peer, error: PeerError) {
    peer.failed(error);
    if !shared.refusals.note(error, &peer.name, Instant::now()) {
        return;
    }
    let address = peer.address();
    if error.is_ordinary() {
        tracing::info!(peer = %peer.name, address, reason = %error, "no link to peer; dialing on");
    } else {
        tracing::warn!(peer = %peer.name, address, reason = %error, "no link to peer; dialing on");
    }
}

async fn tell_up(shared: &Shared, peer: &Peer) {
    let up = Inbound::Up { peer: peer.node, name: peer.name.clone() };
    // A closed inbound channel means that the node has stopped: shutdown follows.
    let _ = shared.inbound.send(up).await;
}

async fn tell_down(shared: &Shared, peer: &Peer, redial_failed: bool) {
    let node = peer.node;
    tracing::info!(peer = %peer.name, %node, redial_failed, "the link to a peer ended");
    let down = Inbound::Down { peer: node, name: peer.name.clone(), redial_failed };
    // A closed inbound channel means that the node has stopped and wants to know no more.
    let _ = shared.inbound.send(down).await;
}

/// How long to wait before the next attempt: nothing first, then doubling between two bounds, each
/// wait drawn from its upper half so that nodes that lost each other together do not dial in step.
pub(super) struct Backoff {
    rng: Rng,
    min: Duration,
    max: Duration,
    /// The wait before the next attempt, without the draw.
    delay: Duration,
}

impl Backoff {
    pub(super) fn new(rng: Rng, min: Duration, max: Duration) -> Self {
        Self { rng, min, max, delay: Duration::ZERO }
    }

    pub(super) fn reset(&mut self) {
        self.delay = Duration::ZERO;
    }

    /// The wait before the next attempt; the one after it will be longer.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).clamp(self.min, self.max);
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.between(micros / 2, micros))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;
    use crate::base::Rng;

    #[test]
    fn backoff_starts_at_once_doubles_and_is_bounded() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(Rng::new(1), millis(20), millis(1_000));
        assert_eq!(backoff.next(), Duration::ZERO);
        for expected in [20, 40, 80, 160, 320, 640, 1_000, 1_000] {
            let delay = backoff.next();
            assert!(
                (millis(expected) / 2..=millis(expected)).contains(&delay),
                "{delay:?} is not in the upper half of {expected} ms"
            );
        }
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
