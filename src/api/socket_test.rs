//! The API as a client sees it, over a real socket, with a cluster of one behind it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::base::mutants_test::{hammer, mutate};
use crate::host::Host;
use crate::node::{Node, Topic};
use crate::pki::{Authority, Credentials, LiveTls, Validity};
use crate::replica::Seed;
use crate::state::{QueueKind, QueueName};

use super::{Listeners, Options, serve};

/// A node that needs nobody else.
async fn cluster_of_one(directory: &Path) -> Node {
    let authority = Authority::create("test").unwrap();
    let issued = authority.issue("n1", Validity::from_now(Duration::from_secs(3_600))).unwrap();
    let now = std::time::SystemTime::now();
    let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
    let credentials = Credentials::from_pem(certificate, key, authority.certificate_pem(), now);
    let tls = LiveTls::new(&credentials.unwrap()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = crate::node::Options {
        cluster_name: "test".to_owned(),
        name: "n1".to_owned(),
        seeds: BTreeMap::from([("n1".to_owned(), Seed { address, voter: true })]),
        data_dir: directory.join("data"),
        reserve_bytes: 0,
        replica: crate::replica::Options::default(),
    };
    let starting = crate::node::Starting::new(&options.name, &options.cluster_name);
    let node = Node::start(options, listener, tls, &starting).await.unwrap();
    let mut status = node.follow(Topic::Status);
    while !node.status().replica.ready {
        status.changed().await;
    }
    node
}

/// A daemon's API on a socket of its own.
pub(super) struct Server {
    pub(super) host: Host,
    node: Node,
    socket: PathBuf,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

pub(super) struct Reply {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A stream of messages, one per line. Dropping it closes the connection.
pub(super) struct Messages {
    pub(super) status: u16,
    body: Incoming,
    buffer: Vec<u8>,
    connection: JoinHandle<()>,
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Messages {
    /// The next line; nothing at the end.
    pub(super) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame());
            match frame.await.expect("a message within 20 s") {
                Some(frame) => self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return None,
            }
        }
    }

    pub(super) async fn message(&mut self) -> Value {
        let line = self.line().await.expect("another message");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Server {
    pub(super) async fn start(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let unix = UnixListener::bind(&socket).unwrap();
        let node = cluster_of_one(directory.path()).await;
        let (stop, stopped) = oneshot::channel();
        let host = Host::new(node.clone());
        let serving = host.clone();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let listeners = Listeners { unix, tcp: Some((tcp, watch::channel("secret".to_owned()).1)) };
        let task = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            serve(serving, listeners, watch::channel(options).1, stopped).await.unwrap();
        });
        Self { host, node, socket, port, stop: Some(stop), task: Some(task), _directory: directory }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (http::Response<Incoming>, JoinHandle<()>) {
        let socket = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path).header("host", "quorumd");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = tokio::time::timeout(Duration::from_secs(20), sender.send_request(request));
        (response.await.expect("an answer within 20 s").unwrap(), connection)
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (response, _connection) = self.send(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").await
    }

    async fn put(&self, key: &str, value: &str) -> Reply {
        self.ask("PUT", &format!("/v1/kv/{key}"), &[], value.to_owned()).await
    }

    pub(super) async fn stream(&self, method: &str, path: &str, body: Value) -> Messages {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (response, connection) = self.send(method, path, &[], body).await;
        let status = response.status().as_u16();
        Messages { status, body: response.into_body(), buffer: Vec::new(), connection }
    }

    /// Waits until a `GET` shows what is expected.
    async fn until(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.get(path).await.json();
            if expected(&seen) {
                return seen;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} stays at {seen}");
            tokio::task::yield_now().await;
        }
    }
}

fn refused(reply: &Reply, status: u16, code: &str) -> Value {
    let problem = reply.json();
    assert_eq!((reply.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(problem["type"], format!("/problems/{code}"));
    assert_eq!(problem["status"], status);
    problem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_bytes_with_revisions() {
    let server = Server::start(Options::default()).await;
    let created = server.put("a/b%20%2F", "v1").await;
    assert_eq!(created.status, 201);
    let revision = created.json()["revision"].as_u64().unwrap();
    assert_eq!(revision, 2, "the first write makes revision 2");
    let expected = json!({"key": "a/b /", "revision": 2, "create_revision": 2, "mod_revision": 2,
        "version": 1});
    assert_eq!(created.json(), expected);
    assert_eq!((created.header("etag"), created.header("quorumd-revision")), ("\"2\"", "2"));
    let again = server.put("a/b%20%2F", "v2").await;
    assert_eq!((again.status, &again.json()["version"]), (200, &json!(2)));
    let read = server.get("/v1/kv/a/b%20%2F").await;
    assert_eq!((read.status, read.body.as_ref()), (200, b"v2".as_slice()));
    assert_eq!(read.header("content-type"), "application/octet-stream");
    for (name, value) in [
        ("etag", "\"3\""),
        ("quorumd-revision", "3"),
        ("quorumd-epoch", "1"),
        ("quorumd-create-revision", "2"),
        ("quorumd-mod-revision", "3"),
        ("quorumd-version", "2"),
        ("quorumd-lease", ""),
    ] {
        assert_eq!(read.header(name), value, "{name}");
    }
    let past = server.get("/v1/kv/a/b%20%2F?revision=2").await;
    assert_eq!(past.body.as_ref(), b"v1");
    let accept = [("accept", "application/json")];
    let record = server.ask("GET", "/v1/kv/a/b%20%2F", &accept, "").await.json();
    let expected = json!({"key": "a/b /", "value": "v2", "create_revision": 2, "mod_revision": 3,
        "version": 2, "lease": null});
    assert_eq!(record, expected);
    let head = server.ask("HEAD", "/v1/kv/a/b%20%2F", &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "2", 0));
    let tag = [("if-none-match", "\"3\"")];
    let known = server.ask("GET", "/v1/kv/a/b%20%2F", &tag, "").await;
    assert_eq!((known.status, known.header("etag"), known.body.len()), (304, "\"3\"", 0));
    let binary = server.ask("PUT", "/v1/kv/%ff", &[], vec![0_u8, 0xfe]).await;
    assert_eq!(binary.json()["key_base64"], "/w==");
    let record = server.ask("GET", "/v1/kv/%ff", &accept, "").await.json();
    assert_eq!((&record["key_base64"], &record["value_base64"]), (&json!("/w=="), &json!("AP4=")));
    let missing = server.get("/v1/kv/none").await;
    refused(&missing, 404, "key_not_found");
    assert_eq!(missing.header("quorumd-revision"), "4");
    assert!(missing.json().get("applied").is_none(), "a read is not applied");
    let gone = server.ask("DELETE", "/v1/kv/a/b%20%2F", &[], "").await;
    assert_eq!((gone.status, gone.json()), (200, json!({"deleted": 1, "revision": 5})));
    let gone = server.ask("DELETE", "/v1/kv/a/b%20%2F", &[], "").await;
    assert_eq!(gone.json(), json!({"deleted": 0, "revision": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preconditions_and_idempotency_hold() {
    let server = Server::start(Options::default()).await;
    server.put("k", "1").await;
    let stale = server.ask("PUT", "/v1/kv/k", &[("if-match", "\"1\"")], "2").await;
    let problem = refused(&stale, 412, "precondition_failed");
    assert_eq!((&problem["mod_revision"], &problem["applied"]), (&json!(2), &json!("no")));
    assert_eq!(stale.header("quorumd-revision"), "2");
    let exists = server.ask("PUT", "/v1/kv/k", &[("if-none-match", "*")], "2").await;
    refused(&exists, 412, "precondition_failed");
    let absent = server.ask("PUT", "/v1/kv/n", &[("if-match", "\"7\"")], "2").await;
    assert_eq!(refused(&absent, 412, "precondition_failed")["mod_revision"], 0);
    let swapped = server.ask("PUT", "/v1/kv/k", &[("if-match", "\"2\"")], "2").await;
    assert_eq!(swapped.status, 200);
    let key = [("idempotency-key", "once")];
    let first = server.ask("PUT", "/v1/kv/i", &key, "1").await;
    let second = server.ask("PUT", "/v1/kv/i", &key, "1").await;
    assert_eq!((first.status, first.json()), (second.status, second.json()));
    let other = server.ask("DELETE", "/v1/kv/i", &key, "").await;
    refused(&other, 409, "conflict");
    let unquoted = server.ask("PUT", "/v1/kv/k", &[("if-match", "2")], "2").await;
    refused(&unquoted, 400, "invalid_request");
    let misplaced = server.ask("POST", "/v1/txn", &[("if-match", "\"2\"")], "{}").await;
    refused(&misplaced, 400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_pages_of_one_revision() {
    let server = Server::start(Options::default()).await;
    for key in ["b", "a", "~z", "c"] {
        server.put(key, "v").await;
    }
    let mut lock = server.stream("POST", "/v1/locks/l", json!({})).await;
    assert_eq!(lock.message().await["state"], "held");
    let keys = |list: &Value| {
        let keys = list["keys"].as_array().unwrap().iter();
        keys.map(|record| record["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = server.get("/v1/kv?prefix=").await.json();
    assert_eq!(keys(&all), ["a", "b", "c", "~z"], "reserved keys are listed by their prefix only");
    assert_eq!((&all["count"], &all["more"]), (&json!(4), &json!(false)));
    let first = server.get("/v1/kv?prefix=&limit=3&keys_only=true").await.json();
    assert_eq!((keys(&first).len(), &first["more"]), (3, &json!(true)));
    assert!(first["keys"][0].get("value").is_none());
    let revision = &first["revision"];
    server.put("d", "new").await;
    let path = format!("/v1/kv?prefix=&limit=3&start_after=c&revision={revision}");
    let second = server.get(&path).await.json();
    assert_eq!((keys(&second), &second["count"]), (vec!["~z".to_owned()], &json!(4)));
    let count = server.get("/v1/kv?prefix=&count_only=true").await.json();
    assert_eq!((&count["count"], &count["keys"]), (&json!(5), &json!([])));
    let reserved = server.get("/v1/kv?prefix=_locks/").await.json();
    assert_eq!(reserved["count"], 1);
    refused(&server.get("/v1/kv").await, 400, "invalid_request");
    refused(&server.get("/v1/kv?prefix=a&revision=999").await, 400, "invalid_request");
    let all = server.ask("DELETE", "/v1/kv?prefix=", &[], "").await;
    refused(&all, 400, "invalid_request");
    for path in ["/v1/kv?prefix=_", "/v1/kv?prefix=_locks/"] {
        refused(&server.ask("DELETE", path, &[], "").await, 403, "forbidden");
    }
    let all = server.ask("DELETE", "/v1/kv?prefix=&all=true", &[], "").await;
    assert_eq!(all.json()["deleted"], 5);
    assert_eq!(server.get("/v1/locks/l").await.json()["holders"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_compare_and_do_one_list() {
    let server = Server::start(Options::default()).await;
    server.put("k", "1").await;
    let txn = json!({
        "if": [{"key": "k", "field": "value", "op": "==", "value": "1"},
               {"key": "n", "field": "version", "op": "==", "value": 0}],
        "then": [{"put": {"key": "k", "value": "2"}}, {"get": {"key": "k"}},
                 {"delete": {"prefix": "zz"}}],
        "else": [{"get": {"prefix": ""}}]
    });
    let done = server.ask("POST", "/v1/txn", &[], txn.to_string()).await;
    let record = json!({"key": "k", "value": "2", "create_revision": 2, "mod_revision": 3,
        "version": 2, "lease": null});
    let expected = json!({"succeeded": true, "revision": 3, "results": [
        {"put": {"create_revision": 2, "mod_revision": 3, "version": 2}},
        {"get": {"count": 1, "keys": [record]}},
        {"delete": {"deleted": 0}}
    ]});
    assert_eq!(done.json(), expected);
    let other = server.ask("POST", "/v1/txn", &[], txn.to_string()).await.json();
    assert_eq!(
        (&other["succeeded"], &other["results"][0]["get"]["count"]),
        (&json!(false), &json!(1))
    );
    let reserved = json!({"then": [{"put": {"key": "_x", "value": ""}}]}).to_string();
    refused(&server.ask("POST", "/v1/txn", &[], reserved).await, 403, "forbidden");
    let twice = json!({"then": [{"put": {"key": "x", "value": ""}},
        {"put": {"key": "x", "value": ""}}]});
    let twice = server.ask("POST", "/v1/txn", &[], twice.to_string()).await;
    assert_eq!(refused(&twice, 400, "invalid_request")["applied"], "no");
    let operation = json!({"get": {"key": "k"}});
    let many = json!({"then": vec![operation; 129]}).to_string();
    refused(&server.ask("POST", "/v1/txn", &[], many).await, 413, "too_large");
    let compacted = server.ask("POST", "/v1/compact", &[], r#"{"revision": 3}"#).await;
    assert_eq!(compacted.json(), json!({"compact_revision": 3, "revision": 3}));
    let gone = server.get("/v1/kv/k?revision=2").await;
    assert_eq!(refused(&gone, 410, "compacted")["compact_revision"], 3);
    refused(&server.ask("POST", "/v1/compact", &[], "").await, 400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_met_with_their_errors() {
    let options = Options { value_bytes_max: 10, key_bytes_max: 4, ..Options::default() };
    let server = Server::start(options).await;
    refused(&server.put("k", "12345678901").await, 413, "too_large");
    assert_eq!(server.put("k", "1234567890").await.status, 201);
    refused(&server.put("12345", "").await, 413, "too_large");
    refused(&server.get("/v1/kv/12345").await, 413, "too_large");
    refused(&server.get("/v1/kv/k?nope=1").await, 400, "invalid_request");
    refused(&server.put("_k", "").await, 403, "forbidden");
    refused(&server.ask("GET", "/v1/kv/k", &[], "body").await, 400, "invalid_request");
    refused(&server.ask("PATCH", "/v1/kv/k", &[], "").await, 405, "method_not_allowed");
    refused(&server.get("/v1/nothing").await, 404, "no_such_route");
    for (path, body) in [
        ("/v1/leases", r#"{"tll": "10s"}"#),
        ("/v1/leases", r#"{"ttl": "500ms"}"#),
        ("/v1/leases", r#"{"bind": "process", "pid": 0}"#),
        ("/v1/leases", r#"{"pid": 1}"#),
        ("/v1/locks/l", r#"{"bind": "none"}"#),
        ("/v1/locks/l", r#"{"lease": "1", "ttl": "10s"}"#),
        ("/v1/locks/l", r#"{"slots": 0}"#),
        ("/v1/locks/l", r#"{"wait": 5}"#),
        ("/v1/locks/l", "{"),
        ("/v1/elections/e", r#"{"slots": 1}"#),
    ] {
        let reply = server.ask("POST", path, &[], body).await;
        assert_eq!(refused(&reply, 400, "invalid_request")["applied"], "no", "{path} {body}");
    }
    // A body without a length is bounded while it is read.
    let mut socket = UnixStream::connect(&server.socket).await.unwrap();
    let head = b"PUT /v1/kv/k HTTP/1.1\r\nhost: q\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head).await.unwrap();
    socket.write_all(b"b\r\n12345678901\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_told() {
    let server = Server::start(Options { connections_max: 1, ..Options::default() }).await;
    let watch = server.stream("GET", "/v1/watch?key=k", Value::Null).await;
    assert_eq!(watch.status, 200);
    let reply = server.get("/healthz").await;
    refused(&reply, 429, "too_many_requests");
    assert_eq!(reply.header("retry-after"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_answer_with_the_next_change() {
    let server = Server::start(Options::default()).await;
    server.put("k", "1").await;
    let now = server.get("/v1/kv/k?wait_after=1").await;
    assert_eq!(now.body.as_ref(), b"1");
    let none = server.get("/v1/kv/k?wait_after=2&timeout=10ms").await;
    assert_eq!((none.status, none.header("etag")), (304, "\"2\""));
    let (changed, _) = tokio::join!(server.get("/v1/kv/k?wait_after=2&timeout=20s"), async {
        server.put("k", "2").await
    });
    assert_eq!(changed.body.as_ref(), b"2");
    let (gone, _) = tokio::join!(server.get("/v1/kv/k?wait_after=3&timeout=20s"), async {
        server.ask("DELETE", "/v1/kv/k", &[], "").await
    });
    refused(&gone, 404, "key_not_found");
    refused(&server.get("/v1/kv/k?wait_after=3&timeout=20s").await, 404, "key_not_found");
    let absent = server.get("/v1/kv/k?wait_after=4&timeout=10ms").await;
    assert_eq!(absent.status, 304);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_deliver_whole_revisions() {
    let server = Server::start(Options::default()).await;
    server.put("p/a", "1").await;
    let mut watch = server.stream("GET", "/v1/watch?prefix=p/&prev=true", Value::Null).await;
    assert_eq!(watch.message().await, json!({"type": "synced", "revision": 2, "epoch": 1}));
    let path = "/v1/watch?prefix=p/&initial=true";
    let mut initial = server.stream("GET", path, Value::Null).await;
    let snapshot = initial.message().await;
    assert_eq!((&snapshot["type"], &snapshot["more"]), (&json!("snapshot"), &json!(false)));
    assert_eq!(snapshot["keys"][0]["value"], "1");
    assert_eq!(initial.message().await["type"], "synced");
    let txn = json!({"then": [{"put": {"key": "p/b", "value": "2"}}, {"delete": {"key": "p/a"}},
        {"put": {"key": "q", "value": "3"}}]});
    server.ask("POST", "/v1/txn", &[], txn.to_string()).await;
    let a = json!({"key": "p/a", "value": "1", "create_revision": 2, "mod_revision": 2,
        "version": 1, "lease": null});
    let b = json!({"type": "put", "key": "p/b", "value": "2", "create_revision": 3,
        "mod_revision": 3, "version": 1, "lease": null});
    let deleted = json!({"type": "delete", "key": "p/a", "prev": a});
    let expected = json!({"type": "changes", "revision": 3, "events": [deleted, b]});
    assert_eq!(watch.message().await, expected);
    let mut changes = expected;
    changes["events"][0].as_object_mut().unwrap().remove("prev");
    assert_eq!(initial.message().await, changes);
    server.ask("POST", "/v1/compact", &[], r#"{"revision": 3}"#).await;
    let gone = server.get("/v1/watch?key=k&from=2").await;
    assert_eq!(refused(&gone, 410, "compacted")["compact_revision"], 3);
    let other = server.get("/v1/watch?key=k&from=9&epoch=7").await;
    refused(&other, 410, "compacted");
    for path in ["/v1/watch", "/v1/watch?key=a&prefix=b", "/v1/watch?key="] {
        refused(&server.get(path).await, 400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_speak_server_sent_events_and_resume() {
    let server = Server::start(Options::default()).await;
    server.put("k", "1").await;
    server.put("k", "2").await;
    let accept = ("accept", "text/event-stream");
    let headers = [accept, ("last-event-id", "2")];
    let (response, connection) = server.send("GET", "/v1/watch?key=k", &headers, "").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body();
    let mut stream = Messages { status: 200, body, buffer: Vec::new(), connection };
    assert_eq!(stream.line().await.unwrap(), "id: 2");
    let data = r#"data: {"type":"synced","revision":2,"epoch":1}"#;
    assert_eq!(stream.line().await.unwrap(), data);
    assert_eq!(stream.line().await.unwrap(), "");
    assert_eq!(stream.line().await.unwrap(), "id: 3");
    assert!(stream.line().await.unwrap().starts_with(r#"data: {"type":"changes","revision":3"#));
    let bad = [accept, ("last-event-id", "x")];
    refused(&server.ask("GET", "/v1/watch?key=k", &bad, "").await, 400, "invalid_request");
}

/// What users of a sidecar rely on: whoever holds a lock on a connection loses it with that, and at
/// once; whoever waits on one leaves the queue with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_ends_with_its_connection() {
    let server = Server::start(Options::default()).await;
    let mut first = server.stream("POST", "/v1/locks/a%2Fb", json!({"info": "one"})).await;
    let held = first.message().await;
    assert_eq!((first.status, &held["state"]), (200, &json!("held")));
    assert!(held["valid_for_ms"].as_u64().unwrap() > 8_000, "{held}");
    let mut gone = server.stream("POST", "/v1/locks/a%2Fb", json!({})).await;
    assert_eq!(gone.message().await["position"], 1);
    let mut second = server.stream("POST", "/v1/locks/a%2Fb", json!({})).await;
    let waiting = second.message().await;
    assert_eq!((&waiting["state"], &waiting["position"]), (&json!("waiting"), &json!(2)));
    let holder = &waiting["holders"][0];
    assert_eq!((&holder["token"], &holder["info"]), (&held["token"], &json!("one")));
    assert_eq!((&holder["pid"], &holder["node"]), (&json!(std::process::id()), &json!("n1")));
    let view = server.get("/v1/locks/a%2Fb").await.json();
    assert_eq!((&view["name"], view["waiters"].as_array().unwrap().len()), (&json!("a/b"), 2));
    drop(gone);
    let path = "/v1/locks/a%2Fb";
    server.until(path, |lock| lock["waiters"].as_array().unwrap().len() == 1).await;
    drop(first);
    let mut message = second.message().await;
    while message["state"] == "waiting" {
        message = second.message().await;
    }
    assert_eq!(message["state"], "held");
    assert!(message["token"].as_u64() > held["token"].as_u64(), "{message} after {held}");
    let list = server.get("/v1/locks").await.json();
    assert_eq!(list["locks"][0]["name"], "a/b");
    drop(second);
    server
        .until("/v1/leases", |leases| {
            leases["leases"].as_array().unwrap().iter().all(|lease| lease["bind"] == "node")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_with_the_holders() {
    let server = Server::start(Options::default()).await;
    let mut first = server.stream("POST", "/v1/locks/l", json!({})).await;
    let held = first.message().await;
    let busy = server.ask("POST", "/v1/locks/l", &[], r#"{"wait": "0s"}"#).await;
    let problem = refused(&busy, 409, "lock_held");
    assert_eq!(problem["holders"][0]["token"], held["token"]);
    let mut stream = server.stream("POST", "/v1/locks/l", json!({"wait": "50ms"})).await;
    assert_eq!(stream.message().await["state"], "waiting");
    let last = stream.message().await;
    assert_eq!((&last["state"], &last["code"]), (&json!("error"), &json!("lock_held")));
    assert_eq!((&last["status"], &last["applied"]), (&json!(409), &json!("no")));
    assert_eq!(stream.line().await, None);
    let lease = server.ask("POST", "/v1/leases", &[], r#"{"ttl": "30s"}"#).await.json();
    let body = json!({"lease": lease["lease"], "wait": "50ms"}).to_string();
    let busy = server.ask("POST", "/v1/locks/l", &[], body).await;
    refused(&busy, 409, "lock_held");
    let view = server.get("/v1/locks/l").await.json();
    assert_eq!(view["waiters"], json!([]), "who gave up has left");
    let other = server.ask("POST", "/v1/locks/l", &[], r#"{"slots": 2}"#).await;
    refused(&other, 409, "conflict");
    refused(&server.ask("DELETE", "/v1/locks/l?token=1", &[], "").await, 404, "lock_not_held");
    refused(&server.ask("DELETE", "/v1/locks/l", &[], "").await, 400, "invalid_request");
    let path = format!("/v1/locks/l?token={}", held["token"]);
    assert_eq!(server.ask("DELETE", &path, &[], "").await.status, 200);
    let lost = first.message().await;
    assert_eq!((&lost["state"], &lost["reason"]), (&json!("lost"), &json!("the lease has ended")));
    assert_eq!(first.line().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_under_a_lease_answer_once() {
    let server = Server::start(Options::default()).await;
    let granted = server.ask("POST", "/v1/leases", &[], r#"{"ttl": "30s"}"#).await;
    assert_eq!(granted.status, 201);
    let lease = granted.json();
    assert_eq!((&lease["ttl_ms"], &lease["bind"]), (&json!(30_000), &json!("none")));
    let body = json!({"lease": lease["lease"]}).to_string();
    let first = server.ask("POST", "/v1/locks/l", &[], body.clone()).await;
    assert_eq!((first.status, &first.json()["name"]), (200, &json!("l")));
    let again = server.ask("POST", "/v1/locks/l", &[], body).await;
    assert_eq!(again.json()["token"], first.json()["token"], "the same request");
    let other = server.ask("POST", "/v1/leases", &[], "{}").await.json();
    let body = json!({"lease": other["lease"]}).to_string();
    let path = format!("/v1/locks/l?token={}", first.json()["token"]);
    let (second, _) = tokio::join!(server.ask("POST", "/v1/locks/l", &[], body), async {
        server.until("/v1/locks/l", |lock| lock["waiters"] != json!([])).await;
        server.ask("DELETE", &path, &[], "").await
    });
    assert_eq!(second.status, 200);
    assert!(second.json()["token"].as_u64() > first.json()["token"].as_u64());
    let unknown = server.ask("POST", "/v1/locks/l", &[], r#"{"lease": "dead"}"#).await;
    refused(&unknown, 404, "lease_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_tell_each_leader() {
    let server = Server::start(Options::default()).await;
    let path = "/v1/elections/e";
    assert_eq!(server.get(path).await.json()["leader"], Value::Null);
    let mut watch = server.stream("GET", "/v1/elections/e?watch=true", Value::Null).await;
    let message = watch.message().await;
    assert_eq!((&message["type"], &message["leader"]), (&json!("leader"), &Value::Null));
    let mut first = server.stream("POST", path, json!({"value": "one", "info": "x"})).await;
    let leads = first.message().await;
    assert_eq!(leads["state"], "leader");
    assert_eq!(watch.message().await["leader"]["value"], "one");
    let mut second = server.stream("POST", path, json!({"value": "two"})).await;
    assert_eq!(second.message().await["state"], "waiting");
    let proclaim = format!("{path}?token={}", leads["token"]);
    assert_eq!(server.ask("PUT", &proclaim, &[], "uno").await.status, 200);
    assert_eq!(watch.message().await["leader"]["value"], "uno");
    let view = server.get(path).await.json();
    assert_eq!((&view["leader"]["value"], &view["leader"]["info"]), (&json!("uno"), &json!("x")));
    assert_eq!(view["candidates"][0]["value"], "two");
    assert_eq!(server.ask("DELETE", &proclaim, &[], "").await.status, 200);
    assert_eq!(watch.message().await["leader"]["value"], "two");
    assert_eq!(first.message().await["state"], "lost");
    refused(&server.ask("PUT", &proclaim, &[], "x").await, 404, "lock_not_held");
    assert_eq!(second.message().await["state"], "leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_shown_and_revoked() {
    let server = Server::start(Options::default()).await;
    let body = r#"{"ttl": "5s", "bind": "connection", "info": "x"}"#;
    let mut stream = server.stream("POST", "/v1/leases", serde_json::from_str(body).unwrap()).await;
    let first = stream.message().await;
    assert_eq!((stream.status, &first["state"]), (201, &json!("active")));
    assert_eq!((&first["ttl_ms"], &first["bind"]), (&json!(5_000), &json!("connection")));
    let id = first["lease"].as_str().unwrap();
    let put = server.ask("PUT", &format!("/v1/kv/k?lease={id}"), &[], "v").await;
    assert_eq!(put.status, 201);
    assert_eq!(server.get("/v1/kv/k").await.header("quorumd-lease"), id);
    let view = server.get(&format!("/v1/leases/{id}")).await.json();
    assert_eq!((&view["node"], &view["info"]), (&json!("n1"), &json!("x")));
    assert_eq!(view["keys"], json!([{"key": "k"}]));
    assert!((4_000..=5_000).contains(&view["remaining_ms"].as_u64().unwrap()), "{view}");
    let mut events = server.stream("GET", &format!("/v1/leases/{id}/events"), Value::Null).await;
    assert_eq!(events.message().await["state"], "active");
    drop(stream);
    let lost = events.message().await;
    assert_eq!((&lost["state"], &lost["valid_for_ms"]), (&json!("lost"), &json!(0)));
    assert_eq!(events.line().await, None);
    refused(&server.get("/v1/kv/k").await, 404, "key_not_found");
    let path = format!("/v1/leases/{id}");
    refused(&server.get(&path).await, 404, "lease_not_found");
    refused(&server.ask("DELETE", &path, &[], "").await, 404, "lease_not_found");
    let keepalive = format!("{path}/keepalive");
    refused(&server.ask("POST", &keepalive, &[], "").await, 404, "lease_not_found");
    refused(&server.get("/v1/leases/XYZ").await, 400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_tells_streams_and_lets_requests_end() {
    let mut server = Server::start(Options::default()).await;
    let mut watch = server.stream("GET", "/v1/watch?key=k", Value::Null).await;
    assert_eq!(watch.message().await["type"], "synced");
    let mut lock = server.stream("POST", "/v1/locks/l", json!({})).await;
    assert_eq!(lock.message().await["state"], "held");
    drop(server.stop.take());
    let last = watch.message().await;
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("shutting_down")));
    assert_eq!(watch.line().await, None);
    let lost = lock.message().await;
    assert_eq!((&lost["state"], &lost["reason"]), (&json!("lost"), &json!("shutting_down")));
    let task = server.task.take().unwrap();
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("served out").unwrap();
    let queue = QueueName { kind: QueueKind::Lock, name: Bytes::from_static(b"l") };
    let mut changes = server.node.follow(Topic::Queue(queue.clone()));
    while server.node.view().machine.queue(&queue).is_some() {
        let changed = tokio::time::timeout(Duration::from_secs(20), changes.changed());
        changed.await.expect("the lock of a stream that was ended is released");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_health_and_metrics_answer() {
    let server = Server::start(Options::default()).await;
    let status = server.get("/v1/status").await.json();
    for field in [
        "node",
        "cluster",
        "version",
        "role",
        "leader",
        "term",
        "commit_index",
        "applied_index",
        "revision",
        "compact_revision",
        "members",
        "health",
        "storage",
    ] {
        assert!(status.get(field).is_some(), "{field} is missing in {status}");
    }
    let members = server.get("/v1/members").await.json();
    assert_eq!((&members["members"][0]["name"], &members["joint"]), (&json!("n1"), &json!(false)));
    assert_eq!(server.get("/healthz").await.body.as_ref(), b"ok\n");
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loopback_port_asks_for_its_token() {
    let server = Server::start(Options::default()).await;
    let ask = async |more: &str| {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let head = format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n{more}\r\n",
            server.port
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ask("authorization: Bearer secret\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = ask("").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = ask("authorization: Bearer secret\r\norigin: http://localhost\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

/// A client that sends all of its body before it reads anything still learns why it was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_answered_after_it_was_sent() {
    let server = Server::start(Options::default()).await;
    let body = vec![b'x'; 4 * 1024 * 1024];
    let mut socket = UnixStream::connect(&server.socket).await.unwrap();
    let head =
        format!("PUT /v1/kv/k HTTP/1.1\r\nhost: q\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// Waiting under a lease is one request without an answer: going away is leaving the queue, and the
/// lease stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_under_a_lease_leaves_the_queue() {
    let server = Server::start(Options::default()).await;
    let mut holder = server.stream("POST", "/v1/locks/l", json!({})).await;
    holder.message().await;
    let lease = server.ask("POST", "/v1/leases", &[], "{}").await.json();
    let body = json!({"lease": lease["lease"]}).to_string();
    let mut socket = UnixStream::connect(&server.socket).await.unwrap();
    let head = format!(
        "POST /v1/locks/l HTTP/1.1\r\nhost: q\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    server.until("/v1/locks/l", |lock| lock["waiters"] != json!([])).await;
    drop(socket);
    server.until("/v1/locks/l", |lock| lock["waiters"] == json!([])).await;
    let path = format!("/v1/leases/{}", lease["lease"].as_str().unwrap());
    assert_eq!(server.get(&path).await.status, 200);
}

/// A reader that does not read costs its own stream and nobody else anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_holds_up_nobody() {
    let server = Server::start(Options::default()).await;
    let _stuck = server.stream("GET", "/v1/watch?prefix=", Value::Null).await;
    let mut reader = server.stream("GET", "/v1/watch?prefix=", Value::Null).await;
    assert_eq!(reader.message().await["type"], "synced");
    let value = "x".repeat(100_000);
    for number in 0..20 {
        server.put(&format!("k{number}"), &value).await;
        let message = reader.message().await;
        assert_eq!(message["events"][0]["key"], format!("k{number}"));
    }
}

/// Whole requests that are almost right, on connections of their own: whatever a panic of a handler
/// or of the server would do, the next request is answered as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_almost_right_are_answered_or_closed() {
    let samples: Vec<String> = [
        ("GET", "/v1/kv?prefix=a%2F&limit=10&consistency=local", ""),
        ("PUT", "/v1/kv/a%2fb?lease=1f&timeout=5s", "value"),
        ("POST", "/v1/txn", r#"{"compare":[],"then":[{"put":{"key":"a","value":"b"}}]}"#),
        ("POST", "/v1/locks/l?x=y", r#"{"ttl":"10s","wait":false}"#),
        ("POST", "/v1/leases", r#"{"ttl":"10s","bind":"none"}"#),
        ("DELETE", "/v1/kv?prefix=zz", ""),
        ("GET", "/v1/status", ""),
    ]
    .iter()
    .map(|(method, path, body)| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: q\r\nif-none-match: \"3\"\r\n\
             idempotency-key: k\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    })
    .collect();
    let server = Server::start(Options::default()).await;
    let (mut requests, mut next) = (Vec::new(), samples.iter().cycle());
    hammer("api requests", 150, |rng| {
        let (sample, other) = (next.next().unwrap(), next.clone().next().unwrap());
        let mut bytes = sample.clone().into_bytes();
        mutate(rng, &mut bytes, other.as_bytes());
        requests.push(bytes);
    });
    for bytes in requests {
        let mut socket = UnixStream::connect(&server.socket).await.unwrap();
        // It may have been closed in the middle, which is an answer too.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = vec![0; 4_096];
        let read = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut answer));
        let read = read.await.expect("an answer or an end within 20 s").unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(read == 0 || answer.starts_with("HTTP/1.1 "), "{bytes:?} got {answer:?}");
        assert!(!answer.starts_with("HTTP/1.1 500"), "{bytes:?} got {answer:?}");
    }
    assert_eq!(server.get("/v1/status").await.status, 200);
}
