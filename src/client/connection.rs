//! Decides when a connection to the socket is opened, used again and given up.
//!
//! Knows HTTP, and nothing of what is asked: `call.rs` builds requests and reads answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::error::Error;

/// Idle connections kept for the next request; more are closed.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long an idle connection is used again. Well below the daemon's own limit (300 s), so that a
/// write is not sent into a connection that is being closed, which would leave its outcome unknown.
const IDLE_FOR_MAX: Duration = Duration::from_secs(60);
/// Longest answer that is read whole, in bytes: a page of a list ends at 4 MiB of keys and values,
/// in base64 and with its field names less than this.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest line of a stream in bytes: one transaction may set 128 values of 1 MiB in 1.5 MiB of
/// JSON, and show as many previous ones.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One connection; dropping it closes it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The connections of one client to one socket.
///
/// - A connection is in `idle` only after its last answer was read to the end.
pub(super) struct Connections {
    socket: PathBuf,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

/// The status, headers and whole body of an answer.
pub(super) struct Answer {
    pub(super) head: http::response::Parts,
    pub(super) body: Bytes,
}

impl Connections {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends and reads the whole answer. The connection goes back to the idle ones.
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let (response, connection) = self.send(request).await?;
        let (head, body) = response.into_parts();
        let body = read_whole(body, head.status.as_u16()).await?;
        if !connection.sender.is_closed() {
            self.give_back(connection);
        }
        Ok(Answer { head, body })
    }

    /// Sends and hands over the stream of the answer, with the connection that it owns.
    pub(super) async fn follow(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(http::response::Parts, Lines), Error> {
        let (response, connection) = self.send(request).await?;
        let (head, body) = response.into_parts();
        let lines = Lines { body, buffer: BytesMut::new(), searched: 0, _connection: connection };
        Ok((head, lines))
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        loop {
            let (mut connection, reused) = match self.take_idle() {
                Some(connection) => (connection, true),
                None => (self.open().await?, false),
            };
            if let Err(error) = connection.sender.ready().await {
                if reused {
                    continue;
                }
                return Err(self.not_sent(io::Error::other(error)));
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut failed) => match failed.take_message() {
                    // Not a byte of it was written, so it can go out on another connection.
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(self.not_sent(io::Error::other(failed.into_error()))),
                    None => {
                        return Err(Error::Broken { detail: failed.into_error().to_string() });
                    }
                },
            }
        }
    }

    async fn open(&self) -> Result<Connection, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.not_sent(e))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.not_sent(io::Error::other(error)))?;
        let driver = tokio::spawn(async move {
            // Its error reaches whoever waits for an answer on it.
            let _ = connection.await;
        });
        Ok(Connection { sender, driver })
    }

    fn not_sent(&self, source: io::Error) -> Error {
        Error::Connect { socket: self.socket.clone(), source }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|(since, connection)| {
            since.elapsed() < IDLE_FOR_MAX && !connection.sender.is_closed()
        });
        idle.pop().map(|(_, connection)| connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((Instant::now(), connection));
        }
    }
}

async fn read_whole(mut body: Incoming, status: u16) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Broken { detail: error.to_string() })?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > ANSWER_BYTES_MAX {
                let detail = format!("longer than {ANSWER_BYTES_MAX} bytes");
                return Err(Error::unexpected(status, detail));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// The lines of an answer that goes on, one JSON message each. Dropping it closes the connection.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// So far there is no end of line in the buffer.
    searched: usize,
    _connection: Connection,
}

impl Lines {
    /// The next line that is not empty, without its end; nothing when the stream has ended in
    /// order. May be dropped at any time: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(line) = self.take_line() {
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| Error::Broken { detail: error.to_string() })?;
            if let Ok(data) = frame.into_data() {
                if self.buffer.len() + data.len() > LINE_BYTES_MAX {
                    let detail = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                    return Err(Error::unexpected(200, detail));
                }
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.searched + end);
        self.buffer.advance(1);
        self.searched = 0;
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line.freeze())
    }

    /// What is left of an answer that turns out to be no stream, such as a problem document.
    pub(super) async fn rest(self) -> Result<Bytes, Error> {
        read_whole(self.body, 200).await
    }
}
