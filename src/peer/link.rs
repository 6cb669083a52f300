//! A link that is up: how queued messages are written in batches, and how received ones are
//! checked.
//!
//! Who may have a link is decided in `hello.rs`; what follows its end, in `dialer.rs` and
//! `listener.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, split};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::base::{NodeId, Rng};
use crate::peer::hello::{self, Dialed};
use crate::peer::links::{Peer, Poke, Shared};
use crate::peer::outbox::Outbox;
use crate::peer::renewal::Renewal;
use crate::peer::{Inbound, PeerError, PeerFault, socket};
use crate::wire::{FrameDecoder, LinkClass, PeerMessage, encode_frame_into};

/// Frames are gathered up to this many bytes before they are written.
const WRITE_BYTES: usize = 256 * 1024;
/// A write buffer that grew beyond this is given back after use.
const WRITE_BUFFER_BYTES_KEPT: usize = 2 * WRITE_BYTES;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// How long each step of a handover may take: to write what was begun, and to be taken. So long the
/// peer may hear nothing.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How an outgoing link ended.
pub(super) enum Ended {
    /// The target was removed; everything queued was written.
    Closed,
    /// The link was lost.
    Lost(PeerError),
    /// The target has another address now.
    Moved,
    /// Another connection to the same node takes its place.
    Renewed {
        /// The other one.
        next: Box<Dialed>,
        /// Whether this one was closed in order, so that nothing of it is lost.
        whole: bool,
    },
}

/// Sends what is queued for `peer` until the link ends, or until another one takes its place
/// because this one is too old or was made with former TLS settings.
///
/// The other one is dialed while this one goes on, but for the hello: while that is under way
/// nothing is written here, so that no acknowledgement overtakes it (see [`hello::enter`]).
pub(super) async fn send(
    shared: &Shared,
    peer: &Peer,
    link: Dialed,
    pokes: &mut mpsc::Receiver<Poke>,
    rng: &mut Rng,
) -> Ended {
    let Dialed { proof, boot, stream } = link;
    let (reader, mut writer) = split(stream);
    let mut renewal = Renewal::new(shared, peer, proof, rng);
    let end = notice_end(reader);
    tokio::pin!(end);
    loop {
        // In a block of its own: what is written next borrows the same half.
        let reached = {
            let handover = Notify::new();
            let writing = write_batches(&peer.outbox, &mut writer, &handover);
            tokio::pin!(writing);
            let reached = tokio::select! {
                written = &mut writing => {
                    return written.map_or_else(Ended::Lost, |_| Ended::Closed);
                }
                error = &mut end => return Ended::Lost(error),
                ended = follow_hints(shared, peer, pokes) => return ended,
                reached = renewal.reach() => match reached {
                    Ok(reached) => reached,
                    Err(error) => return Ended::Lost(error),
                },
            };
            handover.notify_one();
            match timeout(HANDOVER_TIMEOUT, writing).await {
                Ok(Ok(Written::Handover)) => reached,
                Ok(Ok(Written::Closed)) => return Ended::Closed,
                Ok(Err(error)) => return Ended::Lost(error),
                Err(_) => return Ended::Lost(PeerError::TimedOut),
            }
        };
        let entering = hello::enter(shared, peer, reached, LinkClass::Consensus, Some(boot));
        match timeout(HANDOVER_TIMEOUT, entering).await {
            Ok(Ok(next)) => {
                let closed = timeout(HANDOVER_TIMEOUT, writer.shutdown()).await;
                let whole = matches!(closed, Ok(Ok(())));
                return Ended::Renewed { next: Box::new(next), whole };
            }
            // Judged and over, or never read, because the handshake failed: what is written from
            // now on overtakes nothing.
            Ok(Err(
                error @ (PeerError::Alert(_) | PeerError::Fault(_) | PeerError::Refused(_)),
            )) => renewal.failed(error),
            // The hello may yet be judged.
            Ok(Err(error)) => return Ended::Lost(error),
            Err(_) => return Ended::Lost(PeerError::TimedOut),
        }
    }
}

/// Why writing stopped without an error.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// The outbox was closed; everything was written, and the connection closed.
    Closed,
    /// Asked to; everything that was taken is written, and what waits is left where it is.
    Handover,
}

async fn write_batches(
    outbox: &Outbox,
    writer: &mut (impl AsyncWrite + Unpin),
    handover: &Notify,
) -> Result<Written, PeerError> {
    let mut batch = VecDeque::new();
    let mut buffer = BytesMut::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = handover.notified() => return Ok(Written::Handover),
            taken = outbox.take(&mut batch) => taken,
        };
        if !taken {
            writer.shutdown().await?;
            return Ok(Written::Closed);
        }
        while let Some(message) = batch.pop_front() {
            encode_frame_into(&message, &mut buffer);
            if buffer.len() >= WRITE_BYTES || batch.is_empty() {
                writer.write_all(&buffer).await?;
                buffer.clear();
            }
        }
        writer.flush().await?;
        if buffer.capacity() > WRITE_BUFFER_BYTES_KEPT {
            buffer = BytesMut::new();
        }
    }
}

/// The peer says nothing on this connection: whatever can be read is its end.
pub(super) async fn notice_end(mut reader: ReadHalf<TlsStream<TcpStream>>) -> PeerError {
    match reader.read(&mut [0; 1]).await {
        Ok(0) => PeerError::Closed,
        Ok(_) => PeerFault::UnexpectedData.into(),
        Err(error) => error.into(),
    }
}

/// Looks at the peer's address when there is a hint that the peer is gone. A bare connection is
/// enough: the question is only whether its listener lives, and the listener ignores it.
async fn follow_hints(shared: &Shared, peer: &Peer, pokes: &mut mpsc::Receiver<Poke>) -> Ended {
    loop {
        match pokes.recv().await {
            Some(Poke::Arrived) => {}
            Some(Poke::Lost) => {
                let address = peer.address();
                if let Err(error) = socket::connect(&address, shared.options.dial_timeout).await {
                    return Ended::Lost(error);
                }
            }
            Some(Poke::Moved) => return Ended::Moved,
            // Cannot be: `peer` holds the sender. The writer and the reader notice every end.
            None => std::future::pending().await,
        }
    }
}

/// Hands on what arrives from `node` until the connection ends, and says why it ended.
///
/// Waits while the inbound channel is full, so that TCP slows down this peer and no other.
pub(super) async fn receive(
    shared: &Shared,
    node: NodeId,
    reader: &mut (impl AsyncRead + Unpin),
    mut buffer: BytesMut,
) -> PeerError {
    let mut decoder = FrameDecoder::new();
    loop {
        while let Some(frame) = decoder.next(&mut buffer) {
            let message = match frame {
                Ok(message) => message,
                Err(error) => return PeerFault::Frame(error).into(),
            };
            if let PeerMessage::Raft(inner) = &message
                && inner.from != node
            {
                return PeerFault::SenderForged.into();
            }
            let inbound = Inbound::Message { from: node, message };
            if shared.inbound.send(inbound).await.is_err() {
                return PeerError::Closed;
            }
        }
        buffer.reserve(READ_BYTES);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return PeerError::Closed,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}
