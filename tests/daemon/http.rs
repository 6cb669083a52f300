//! How tests speak to a daemon: HTTP/1.1 over its unix socket, with nothing of the code under test.
//!
//! One connection per request, as `curl --unix-socket` does it. Streams are read by a thread that
//! notes when each line came, so that two streams can be compared on one clock.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a daemon may keep a request waiting before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A header that holds a number.
    pub fn number(&self, name: &str) -> u64 {
        let text = self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        text.trim_matches('"').parse().unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The `code` of a problem document.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// The bytes of a request. `line` is `METHOD TARGET`.
pub fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let has_body = line.starts_with('P') || !body.is_empty();
    if has_body {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Asks, and waits for the answer.
pub fn try_ask(
    socket: &Path,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let stream = send(socket, &request(line, headers, body))?;
    read_answer(&mut BufReader::new(stream), line.starts_with("HEAD "))
}

/// Asks a daemon that must answer.
#[track_caller]
pub fn ask(socket: &Path, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_ask(socket, line, headers, body).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[track_caller]
pub fn get(socket: &Path, target: &str) -> Answer {
    ask(socket, &format!("GET {target}"), &[], b"")
}

#[track_caller]
pub fn put(socket: &Path, target: &str, value: &str) -> Answer {
    ask(socket, &format!("PUT {target}"), &[], value.as_bytes())
}

#[track_caller]
pub fn post(socket: &Path, target: &str, body: &str) -> Answer {
    ask(socket, &format!("POST {target}"), &[], body.as_bytes())
}

/// Sends bytes on a connection of their own and leaves the answer unread: a stopped daemon answers
/// when it goes on.
pub fn send(socket: &Path, bytes: &[u8]) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A daemon may refuse by the head and close before it has read the rest.
    match stream.write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(stream),
    }
}

/// Reads one answer. `bare`: it has no body whatever its head says.
pub fn read_answer(reader: &mut impl BufRead, bare: bool) -> io::Result<Answer> {
    let (status, headers) = read_head(reader)?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    if bare || status == 304 || status == 204 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = read_chunk(reader)? {
            answer.body.extend(chunk);
        }
    } else if let Some(length) = answer.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        answer.body.resize(length, 0);
        reader.read_exact(&mut answer.body)?;
    } else {
        reader.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let line = read_line(reader)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// The next chunk (RFC 9112, section 7.1); nothing at the end.
fn read_chunk(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let length = read_line(reader)?;
    let length = usize::from_str_radix(&length, 16).map_err(io::Error::other)?;
    let mut chunk = vec![0; length];
    reader.read_exact(&mut chunk)?;
    read_line(reader)?;
    Ok((length > 0).then_some(chunk))
}

/// A line of a stream, and when it came.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: Instant,
    pub text: String,
}

impl Line {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }
}

/// A stream under way. Dropping it closes the connection.
pub struct Stream {
    connection: UnixStream,
    lines: Receiver<Line>,
    pub status: u16,
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It fails only when the daemon was faster.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}

impl Stream {
    /// Opens a stream and reads the head of its answer.
    #[track_caller]
    pub fn open(socket: &Path, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let connection = send(socket, &request(line, headers, body)).unwrap();
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        let (status, _) = read_head(&mut reader).unwrap_or_else(|error| panic!("{line}: {error}"));
        // From here on silence is no failure; `next` has its own deadline.
        connection.set_read_timeout(None).unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            while let Ok(Some(chunk)) = read_chunk(&mut reader) {
                let at = Instant::now();
                rest.extend(chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(Line { at, text }).is_err() {
                        return;
                    }
                }
            }
        });
        Self { connection, lines, status }
    }

    /// The next line; nothing at the end of the stream.
    #[track_caller]
    pub fn line(&self) -> Option<Line> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the stream says nothing for {PATIENCE:?}"),
        }
    }

    /// The next message.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.line().expect("the stream has ended").json()
    }

    /// The next message in which `field` is `value`, and when it came; others are passed over.
    #[track_caller]
    pub fn until(&self, field: &str, value: &str) -> (Instant, Value) {
        let mut passed = Vec::new();
        loop {
            let Some(line) = self.line() else {
                panic!("the stream ended without {field} {value}: {passed:#?}");
            };
            let message = line.json();
            if message[field] == value {
                return (line.at, message);
            }
            passed.push(message);
        }
    }

    /// What has come so far and was not read.
    pub fn drain(&self) -> Vec<Value> {
        self.lines.try_iter().map(|line| line.json()).collect()
    }
}
