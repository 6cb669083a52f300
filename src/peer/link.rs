//! A link that is up: how queued messages are written in batches, and how received ones are
//! checked.
//!
//! Who may have a link is decided in `hello.rs`; what follows its end, in `dialer.rs` and
//! `listener.rs`.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsStream;

use crate::base::NodeId;
use crate::peer::links::{Peer, Poke, Shared};
use crate::peer::outbox::Outbox;
use crate::peer::{Inbound, PeerError, PeerFault, socket};
use crate::wire::{FrameDecoder, PeerMessage, encode_frame_into};

/// Frames are gathered up to this many bytes before they are written.
const WRITE_BYTES: usize = 256 * 1024;
/// A write buffer that grew beyond this is given back after use.
const WRITE_BUFFER_BYTES_KEPT: usize = 2 * WRITE_BYTES;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// How an outgoing link ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The target was removed; everything queued was written.
    Closed,
    /// The link was lost.
    Lost(PeerError),
    /// The target has another address now.
    Moved,
}

/// Sends what is queued for `peer` until the link ends.
pub(super) async fn send(
    shared: &Shared,
    peer: &Peer,
    stream: TlsStream<TcpStream>,
    pokes: &mut mpsc::Receiver<Poke>,
) -> Ended {
    let (reader, writer) = split(stream);
    tokio::select! {
        ended = write_queue(&peer.outbox, writer) => ended,
        error = notice_end(reader) => Ended::Lost(error),
        ended = follow_hints(shared, peer, pokes) => ended,
    }
}

async fn write_queue(outbox: &Outbox, mut writer: WriteHalf<TlsStream<TcpStream>>) -> Ended {
    match write_batches(outbox, &mut writer).await {
        Ok(()) => Ended::Closed,
        Err(error) => Ended::Lost(error),
    }
}

async fn write_batches(
    outbox: &Outbox,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), PeerError> {
    let mut batch = VecDeque::new();
    let mut buffer = BytesMut::new();
    while outbox.take(&mut batch).await {
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
    writer.shutdown().await?;
    Ok(())
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
