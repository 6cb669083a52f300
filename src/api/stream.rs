//! Bodies of answers: bytes at once, or messages as they come, as NDJSON or Server-Sent Events.
//!
//! A stream is one future that hands its messages to the connection one by one and goes on only
//! when the connection has taken the last: a slow reader holds one message here, the bounded buffer
//! of its connection, and nobody else. When the peer goes, the future is dropped with all that it
//! guards.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;

use super::params::accepts;

/// The body of an answer.
pub(super) enum Body {
    /// All of it.
    Full(Bytes),
    /// Messages as they come.
    Stream(Box<Streaming>),
}

/// A stream under way.
pub(super) struct Streaming {
    run: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    slot: Slot,
}

/// Where a stream's future leaves a message for its connection. Both are polled by the same task,
/// so that nobody needs to be woken; the lock is never contended.
type Slot = Arc<Mutex<Option<Bytes>>>;

impl Body {
    /// A body of these bytes.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(bytes.into())
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self::Full(Bytes::new())
    }

    /// A body that is what `run` emits.
    pub(super) fn stream<F, R>(run: F) -> Self
    where
        F: FnOnce(Emit) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        let slot = Slot::default();
        let run = run(Emit { slot: slot.clone() });
        Self::Stream(Box::new(Streaming { run: Some(Box::pin(run)), slot }))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => stream.poll(context).map(|next| next.map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.run.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(run) = &mut self.run else { return Poll::Ready(None) };
        let ended = run.as_mut().poll(context).is_ready();
        if ended {
            self.run = None;
        }
        let message = self.slot.lock().expect("no code panics while it holds this lock").take();
        match message {
            Some(message) => Poll::Ready(Some(message)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// The way of a stream's future to its connection.
pub(super) struct Emit {
    slot: Slot,
}

impl Emit {
    /// Hands over one message and waits until the connection has taken it.
    pub(super) async fn send(&self, message: Bytes) {
        let mut message = Some(message);
        std::future::poll_fn(|_| {
            let mut slot = self.slot.lock().expect("no code panics while it holds this lock");
            if slot.is_some() {
                return Poll::Pending;
            }
            match message.take() {
                Some(message) => {
                    *slot = Some(message);
                    Poll::Pending
                }
                None => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// How messages are told apart on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// One JSON document per line.
    Ndjson,
    /// Server-Sent Events (WHATWG HTML, section 9.2).
    Sse,
}

impl Framing {
    /// What the caller asked for; NDJSON unless it named the other.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if accepts(headers, "text/event-stream") { Self::Sse } else { Self::Ndjson }
    }

    /// One message. `id` is the revision after which another stream can go on.
    pub(super) fn encode<T: Serialize>(self, id: Option<u64>, message: &T) -> Bytes {
        let mut text = Vec::with_capacity(256);
        if self == Self::Sse {
            if let Some(id) = id {
                text.extend_from_slice(format!("id: {id}\n").as_bytes());
            }
            text.extend_from_slice(b"data: ");
        }
        serde_json::to_writer(&mut text, message).expect("the types of the API serialise");
        text.extend_from_slice(if self == Self::Sse { b"\n\n" } else { b"\n" });
        Bytes::from(text)
    }

    /// The answer around a stream.
    pub(super) fn response(self, status: StatusCode, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let media_type = match self {
            Self::Ndjson => HeaderValue::from_static("application/x-ndjson"),
            Self::Sse => HeaderValue::from_static("text/event-stream"),
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, media_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use hyper::body::Body as _;
    use serde_json::json;

    use super::{Body, Framing};

    fn poll(body: &mut Body) -> Poll<Option<Bytes>> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut context).map(|frame| {
            frame.map(|frame| frame.unwrap().into_data().expect("streams have data only"))
        })
    }

    /// A connection that does not ask gets no further message made: the reader sets the pace.
    #[test]
    fn the_reader_sets_the_pace_and_its_end_drops_the_future() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let mut body = Body::stream(|emit| async move {
            for number in 0..3_u8 {
                counter.fetch_add(1, Ordering::Relaxed);
                emit.send(Bytes::from(vec![number])).await;
            }
            std::future::pending::<()>().await;
        });
        assert_eq!(made.load(Ordering::Relaxed), 0);
        for number in 0..3_u8 {
            assert_eq!(poll(&mut body), Poll::Ready(Some(Bytes::from(vec![number]))));
            assert_eq!(made.load(Ordering::Relaxed), usize::from(number) + 1);
        }
        assert_eq!(poll(&mut body), Poll::Pending);
        assert_eq!(Arc::strong_count(&made), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&made), 1, "what the future guarded is still there");
    }

    #[test]
    fn a_stream_ends_after_its_last_message() {
        let mut body = Body::stream(|emit| async move { emit.send(Bytes::from("a")).await });
        assert!(!body.is_end_stream());
        assert_eq!(poll(&mut body), Poll::Ready(Some(Bytes::from("a"))));
        assert_eq!(poll(&mut body), Poll::Ready(None));
        assert!(body.is_end_stream());
        assert!(Body::empty().is_end_stream());
    }

    #[test]
    fn framings() {
        let message = json!({"a": "x\ny"});
        assert_eq!(Framing::Ndjson.encode(Some(4), &message), "{\"a\":\"x\\ny\"}\n");
        assert_eq!(Framing::Sse.encode(Some(4), &message), "id: 4\ndata: {\"a\":\"x\\ny\"}\n\n");
        assert_eq!(Framing::Sse.encode(None, &message), "data: {\"a\":\"x\\ny\"}\n\n");
    }
}
