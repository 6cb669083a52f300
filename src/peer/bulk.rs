//! The second connection to a peer, for what is large and may wait: when it is dialed, and when it
//! is given up.
//!
//! A state on its way to a member must not stand in the way of heartbeats: it has a connection of
//! its own, which is there only while something is sent. Nobody is told when it comes and goes;
//! whoever sends on it hears by its acknowledgements, or does not, and sends again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::{sleep, timeout};

use crate::base::Rng;
use crate::peer::dialer::{Backoff, note_failure};
use crate::peer::link::notice_end;
use crate::peer::links::{Peer, Shared};
use crate::peer::outbox::Outbox;
use crate::peer::{PeerError, hello};
use crate::wire::{LinkClass, PeerMessage, SnapshotMessage, encode_frame_into};

/// How long a connection on which nothing is sent is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a message travels on the second connection.
pub(super) fn is_bulk(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Snapshot(SnapshotMessage::Chunk(_)))
}

/// Sends what is queued until the outbox is closed. What is queued for a peer that cannot be dialed
/// is dropped. A dial or a write that hangs ends with the task, see `finish` in `links.rs`.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, rng: Rng) {
    let mut backoff = Backoff::new(rng, shared.options.backoff_min, shared.options.backoff_max);
    let mut batch = VecDeque::new();
    while peer.bulk.take(&mut batch).await {
        let sent = send(&shared, &peer, &mut batch).await;
        batch.clear();
        peer.bulk.unlink();
        match sent {
            Ok(()) => backoff.reset(),
            Err(error) => {
                note_failure(&shared, &peer, error);
                sleep(backoff.next()).await;
            }
        }
    }
}

/// One connection, from `batch` on until there is nothing to send for a while.
async fn send(
    shared: &Shared,
    peer: &Peer,
    batch: &mut VecDeque<PeerMessage>,
) -> Result<(), PeerError> {
    let dialed = hello::dial(shared, peer, &peer.address(), LinkClass::Bulk).await?;
    peer.bulk.link();
    tracing::debug!(peer = %peer.name, node = %peer.node, "connected to peer for bulk");
    let (reader, mut writer) = split(dialed.stream);
    tokio::select! {
        written = write(&peer.bulk, &mut writer, batch) => written?,
        error = notice_end(reader) => return Err(error),
    }
    Ok(writer.shutdown().await?)
}

/// Returns when nothing was sent for a while, or the outbox is closed.
async fn write(
    outbox: &Outbox,
    writer: &mut (impl AsyncWrite + Unpin),
    batch: &mut VecDeque<PeerMessage>,
) -> Result<(), PeerError> {
    loop {
        while let Some(message) = batch.pop_front() {
            // A chunk at a time: several would only lie in memory twice.
            let mut buffer = BytesMut::new();
            encode_frame_into(&message, &mut buffer);
            writer.write_all(&buffer).await?;
        }
        writer.flush().await?;
        if !timeout(IDLE_TIMEOUT, outbox.take(batch)).await.unwrap_or(false) {
            return Ok(());
        }
    }
}
