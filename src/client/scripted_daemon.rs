//! A daemon for tests that answers on a unix socket exactly what the test says, and shows what it
//! was asked. It knows as much HTTP as that takes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which connection, counted from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(at, _)| at == name).map(|(_, value)| value.as_str())
    }

    /// `GET /v1/status`, to match on.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What is answered.
pub(crate) enum Reply {
    /// Closes the connection without an answer.
    Drop,
    /// Status, further header lines, body.
    Full(u16, Vec<(&'static str, String)>, String),
    /// Never answers.
    Silence,
    /// Goes on with what comes from the handle's other end.
    Stream(mpsc::UnboundedReceiver<String>),
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl ToString) -> Self {
        Self::Full(status, vec![("content-type", "application/json".into())], body.to_string())
    }

    pub(crate) fn problem(status: u16, code: &str, applied: &str) -> Self {
        Self::json(
            status,
            format!(
                r#"{{"type":"/problems/{code}","title":"{code}",
                "status":{status},"detail":"said so","code":"{code}","applied":"{applied}"}}"#
            ),
        )
    }
}

/// The test's end of a stream: an empty text breaks the connection, dropping it ends it in order.
#[derive(Clone)]
pub(crate) struct StreamHandle(mpsc::UnboundedSender<String>);

impl StreamHandle {
    pub(crate) fn new() -> (Self, Reply) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Reply::Stream(receiver))
    }

    pub(crate) fn line(&self, line: impl ToString) {
        // A client that is gone reads nothing any more.
        let _ = self.0.send(format!("{}\n", line.to_string()));
    }

    pub(crate) fn break_off(&self) {
        let _ = self.0.send(String::new());
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The daemon; it ends with the test's runtime.
pub(crate) struct ScriptedDaemon {
    pub(crate) socket: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many connections have been closed by the client.
    closed: watch::Receiver<usize>,
    _directory: tempfile::TempDir,
}

impl ScriptedDaemon {
    pub(crate) fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (closed_sender, closed) = watch::channel(0);
        let script: Arc<Script> = Arc::new(script);
        let log = seen.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log) = (script.clone(), log.clone());
                let closed = closed_sender.clone();
                tokio::spawn(async move {
                    serve(stream, connection, &*script, &log).await;
                    closed.send_modify(|count| *count += 1);
                });
            }
        });
        Self { socket, seen, closed, _directory: directory }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn closed(&self) -> usize {
        *self.closed.borrow()
    }

    pub(crate) async fn until_closed(&self, count: usize) {
        let mut closed = self.closed.clone();
        let waiting = closed.wait_for(|closed| *closed >= count);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    }
}

async fn serve(mut stream: UnixStream, connection: usize, script: &Script, log: &Mutex<Vec<Seen>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, connection).await {
        let reply = script(&seen);
        log.lock().unwrap().push(seen);
        match reply {
            Reply::Drop => return,
            Reply::Full(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                if stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Silence => until_closed(&mut stream).await,
            Reply::Stream(lines) => return send_lines(&mut stream, lines).await,
        }
    }
}

async fn until_closed(stream: &mut UnixStream) {
    let mut ignored = [0; 64];
    while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
}

async fn send_lines(stream: &mut UnixStream, mut lines: mpsc::UnboundedReceiver<String>) {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) if line.is_empty() => return,
                Some(line) => {
                    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
                None => {
                    let _ = stream.write_all(b"0\r\n\r\n").await;
                    return;
                }
            },
            read = stream.read(&mut ignored) => {
                if read.map_or(true, |count| count == 0) {
                    return;
                }
            }
        }
    }
}

async fn read_request(
    stream: &mut UnixStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..head_end + 4).collect()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let mut seen = Seen {
        connection,
        method: first.next()?.to_owned(),
        target: first.next()?.to_owned(),
        ..Seen::default()
    };
    for line in lines {
        if let Some((name, value)) = line.split_once(": ") {
            seen.headers.push((name.to_lowercase(), value.to_owned()));
        }
    }
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
    Some(seen)
}
