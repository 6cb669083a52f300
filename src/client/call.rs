//! Decides how a request is written, how long its answer is waited for and when it is sent again.
//!
//! Which requests there are is in `kv.rs`, `lease.rs`, `acquire.rs`, `watch.rs` and `node.rs`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::connection::{Answer, Connections, Lines};
use super::error::Error;
use crate::api::types::{Applied, DurationText, Problem};

/// The socket unless another is named (API.md).
const SOCKET_DEFAULT: &str = "/run/quorumd/quorumd.sock";
/// `timeout` unless the caller names one: the daemon's own default (API.md).
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// What a daemon that answers at the last moment is given on top.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// The first pause before a retry; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

/// A client of one daemon's socket. Cheap to clone; the clones share their connections.
#[derive(Clone)]
pub struct Client {
    connections: Arc<Connections>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket()).finish_non_exhaustive()
    }
}

/// Marks a write, so that sending it again through any node does not apply it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// 128 random bits as hexadecimal digits.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            // getrandom(2) fails only before the system has any entropy, or when it is interrupted.
            if let Ok(count) = getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
                filled += count;
            }
        }
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// The caller's own key: 1 to 128 visible ASCII characters, else [`Error::Invalid`].
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            let detail = "an idempotency key has 1 to 128 visible ASCII characters".to_owned();
            Err(Error::Invalid { detail })
        }
    }

    /// The key as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a write is made.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Makes it safe to send again.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Send again for so long while the daemon is away, has no leader or leaves the outcome
    /// unknown; under a random idempotency key unless one is given. Without it a write is sent
    /// once.
    pub retry_for: Option<Duration>,
    /// How long the daemon may take for one attempt; its default is 5 s.
    pub timeout: Option<Duration>,
}

impl WriteOptions {
    /// A write that is sent again for `retry_for` until its outcome is known, and applied once.
    pub fn retrying(retry_for: Duration) -> Self {
        Self { retry_for: Some(retry_for), ..Self::default() }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As fresh as if there were one copy only.
    #[default]
    Linearizable,
    /// What this node has: fast, possible without a leader, perhaps stale.
    Local {
        /// Wait until the node has applied this revision.
        min_revision: Option<u64>,
    },
}

/// How a read is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// How long the daemon may take; its default is 5 s.
    pub timeout: Option<Duration>,
}

impl ReadOptions {
    /// A read of what this node has.
    pub fn local() -> Self {
        Self { consistency: Consistency::Local { min_revision: None }, timeout: None }
    }
}

/// A request before it is sent, and as often as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    target: String,
    has_query: bool,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    timeout: Duration,
    retry_for: Option<Duration>,
    has_idempotency_key: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            target: path.to_owned(),
            has_query: false,
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: TIMEOUT_DEFAULT,
            retry_for: None,
            has_idempotency_key: false,
        }
    }

    /// Adds a name, percent-encoded, to the path.
    pub(super) fn name(mut self, name: &[u8]) -> Self {
        percent_encode(name, &mut self.target);
        self
    }

    pub(super) fn query(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.target.push_str(name);
        self.target.push('=');
        percent_encode(value.as_ref(), &mut self.target);
        self
    }

    pub(super) fn query_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value.to_string()),
            None => self,
        }
    }

    pub(super) fn query_if(self, name: &str, wanted: bool) -> Self {
        if wanted { self.query(name, "true") } else { self }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(super) fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Error::Invalid { detail: error.to_string() })?;
        Ok(self.header("content-type", "application/json").body(bytes.into()))
    }

    pub(super) fn write(mut self, options: &WriteOptions) -> Self {
        self.retry_for = options.retry_for;
        self = self.within(options.timeout);
        let generated = options.retry_for.map(|_| IdempotencyKey::random());
        match options.idempotency_key.clone().or(generated) {
            Some(key) => {
                self.has_idempotency_key = true;
                self.header("idempotency-key", key.0)
            }
            None => self,
        }
    }

    pub(super) fn read(mut self, options: &ReadOptions) -> Self {
        self = self.within(options.timeout);
        match options.consistency {
            Consistency::Linearizable => self,
            Consistency::Local { min_revision } => {
                self.query("consistency", "local").query_some("min_revision", min_revision)
            }
        }
    }

    pub(super) fn within(mut self, timeout: Option<Duration>) -> Self {
        let Some(timeout) = timeout else { return self };
        self.timeout = timeout;
        self.query("timeout", DurationText(timeout).to_string())
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target)
            .header("host", "quorumd")
            .header("user-agent", concat!("quorumd-client/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request
            .body(Full::new(self.body.clone()))
            .map_err(|error| Error::Invalid { detail: error.to_string() })
    }
}

/// Writes `bytes` so that they mean themselves in a path or a query.
fn percent_encode(bytes: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

impl Client {
    /// A client of the daemon behind `socket`. Connects when it is first used.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { connections: Arc::new(Connections::new(socket.into())) }
    }

    /// A client of the daemon that `QUORUMD_SOCKET` names, or of the one at its usual place.
    pub fn from_env() -> Self {
        let socket = std::env::var_os("QUORUMD_SOCKET").filter(|socket| !socket.is_empty());
        Self::new(socket.unwrap_or_else(|| SOCKET_DEFAULT.into()))
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        self.connections.socket()
    }

    /// Sends `call`, again if its options say so; an answer of success or the error.
    pub(super) async fn answer(&self, call: &Call) -> Result<Answer, Error> {
        let Some(retry_for) = call.retry_for else { return self.once(call).await };
        assert!(call.has_idempotency_key, "a write is sent again only under an idempotency key");
        let give_up = Instant::now() + retry_for;
        let mut pause = PAUSE_FIRST;
        let mut perhaps_applied = None;
        loop {
            let error = match self.once(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            let late = Instant::now() + pause >= give_up;
            let error = match (error.applied(), perhaps_applied.take()) {
                // That the last attempt was not applied says nothing about an earlier one.
                (Applied::No, Some(earlier)) => earlier,
                _ => error,
            };
            if late {
                return Err(error);
            }
            if error.applied() == Applied::Maybe {
                perhaps_applied = Some(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    /// The body of a successful answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let answer = self.answer(call).await?;
        let status = answer.head.status.as_u16();
        serde_json::from_slice(&answer.body).map_err(|error| Error::unexpected(status, error))
    }

    async fn once(&self, call: &Call) -> Result<Answer, Error> {
        let waited = call.timeout + ANSWER_GRACE;
        let answer = tokio::time::timeout(waited, self.connections.ask(call.request()?));
        let answer = answer.await.map_err(|_| Error::Silent { waited })??;
        if answer.head.status.is_success() {
            return Ok(answer);
        }
        Err(problem(answer.head.status.as_u16(), &answer.body))
    }

    /// Sends `call` and hands over the stream of messages that answers it. The head of the answer
    /// is waited for as long as for any other answer.
    pub(super) async fn stream(&self, call: &Call) -> Result<Lines, Error> {
        let waited = call.timeout + ANSWER_GRACE;
        let opening = async {
            let call = call.clone().header("accept", "application/x-ndjson");
            let (head, lines) = self.connections.follow(call.request()?).await?;
            if head.status.is_success() {
                return Ok(lines);
            }
            Err(problem(head.status.as_u16(), &lines.rest().await?))
        };
        tokio::time::timeout(waited, opening).await.map_err(|_| Error::Silent { waited })?
    }
}

fn problem(status: u16, body: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Error::Problem(Box::new(problem)),
        Err(error) => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            Error::unexpected(status, format!("{error} in {shown:?}"))
        }
    }
}

/// One message of a stream.
pub(super) fn message<T: DeserializeOwned>(line: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(line).map_err(|error| Error::unexpected(200, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_mean_themselves() {
        let call = Call::new(Method::GET, "/v1/kv/")
            .name(b"a/b c?\xff%")
            .query("prefix", "x&y=+")
            .query_if("all", true)
            .query_some("limit", None::<u64>);
        assert_eq!(call.target, "/v1/kv/a/b%20c%3F%FF%25?prefix=x%26y%3D%2B&all=true");
    }

    #[test]
    fn idempotency_keys_are_visible_ascii_and_never_the_same() {
        assert_ne!(IdempotencyKey::random(), IdempotencyKey::random());
        assert_eq!(IdempotencyKey::random().as_str().len(), 32);
        for bad in ["", "a b", "ä", &"x".repeat(129)] {
            assert!(IdempotencyKey::new(bad).is_err(), "{bad:?}");
        }
    }
}
