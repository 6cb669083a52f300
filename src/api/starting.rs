//! What the local socket answers before there is a node: alive, and not ready.
//!
//! A first boot waits until all members are up together, and a newcomer until it is added, which
//! may take as long as people need for it. Callers and systemd must not take that for a daemon that
//! hangs. Once the node is there, `server.rs` takes the listener over.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::base::{Epoch, Revision, limits};
use crate::node::{StartStatus, Starting};

use super::answer::{Stamp, json};
use super::health;
use super::kv::duration;
use super::problem::Fault;
use super::status::starting_view;
use super::stream::Body;

/// Connections that are answered at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 256;
/// Pause after a failed accept: out of descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers callers of `listener` until it is dropped, which may happen at any await: a caller whose
/// connection was accepted still gets its answer, the others wait in the backlog for who comes
/// next.
pub async fn answer_not_ready(listener: &UnixListener, starting: &Starting) -> Infallible {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            // Nobody closes the semaphore; were it closed, there would be nothing left to do.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let starting = starting.clone();
                tokio::spawn(async move {
                    // A caller that is slow to ask gets no answer: it will ask again.
                    let _ = timeout(duration(limits::HEAD_TIMEOUT), serve(stream, starting)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the local API could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, starting: Starting) {
    let answered = |request: Request<_>| answer(&request, &starting.status());
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answered(request))));
    // What fails here is the caller's connection.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, starting: &StartStatus) -> Response<Body> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/healthz" => return health::alive(),
        "/v1/status" if reads => {
            let nothing = Stamp { revision: Revision(0), epoch: Epoch(0) };
            return json(StatusCode::OK, &starting_view(starting), nothing);
        }
        _ => {}
    }
    let fault = Fault::from(&starting.phase);
    if reads { fault.into_response() } else { fault.of_write().into_response() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::answer_not_ready;
    use crate::node::Starting;

    async fn ask(socket: &std::path::Path, request: &str) -> String {
        let mut stream = UnixStream::connect(socket).await.expect("the socket serves");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer is text");
        answer
    }

    #[tokio::test]
    async fn a_starting_node_says_so() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a free path");
        let starting = Starting::new("n1", "blue");
        let asks = async {
            let alive = ask(&socket, "GET /healthz HTTP/1.1\r\nHost: q\r\n\r\n").await;
            assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
            let ready = ask(&socket, "GET /readyz HTTP/1.1\r\nHost: q\r\n\r\n").await;
            assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
            assert!(ready.contains("not_ready") && !ready.contains("applied\":"), "{ready}");
            let status = ask(&socket, "GET /v1/status HTTP/1.1\r\nHost: q\r\n\r\n").await;
            assert!(status.contains(r#""state":"starting""#), "{status}");
            let put = "PUT /v1/kv/a HTTP/1.1\r\nHost: q\r\nContent-Length: 2\r\n\r\nhi";
            let refused = ask(&socket, put).await;
            assert!(refused.contains(r#""applied":"no""#), "{refused}");
        };
        tokio::select! {
            _ = answer_not_ready(&listener, &starting) => {}
            () = asks => {}
        }
    }
}
