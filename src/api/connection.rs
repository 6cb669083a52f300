//! One connection: who is on its other end, what it is doing, and when it has taken too long.
//!
//! Which limits there are is decided in `base/limits.rs`; who closes a connection that is over one,
//! in `server.rs`.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::base::{Span, limits};

/// How long a peer may leave what is sent to it unread while its socket's buffer is full.
const WRITE_TIMEOUT: Span = Span::from_secs(30);

/// What a connection is doing, and since when. Written by its own task with a few relaxed stores
/// per request, read by the sweep about once a second: no timer per request.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    phase: AtomicU8,
    since_millis: AtomicU64,
    /// When a write was first refused for want of room; zero when none is.
    blocked_millis: AtomicU64,
    closing: AtomicBool,
    killed: AtomicBool,
    wake: Notify,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between requests.
    Idle = 0,
    /// A head has begun to arrive.
    Head = 1,
    /// A request is being answered: bounded by the request itself.
    Request = 2,
}

/// What the connection's task is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Finish what is under way, then close.
    Close,
    /// Close now.
    Kill,
}

impl Activity {
    /// A new connection.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Idle as u8),
            since_millis: AtomicU64::new(0),
            blocked_millis: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Something else is being done from now on.
    pub(super) fn enter(&self, phase: Phase) {
        self.since_millis.store(self.millis(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether it takes longer than it may.
    pub(super) fn is_overdue(&self) -> bool {
        let now = self.millis();
        let blocked = self.blocked_millis.load(Ordering::Relaxed);
        if blocked > 0 && now.saturating_sub(blocked) > WRITE_TIMEOUT.as_millis() {
            return true;
        }
        let phase = self.phase.load(Ordering::Relaxed);
        let limit = match phase {
            phase if phase == Phase::Idle as u8 => limits::IDLE_TIMEOUT,
            phase if phase == Phase::Head as u8 => limits::HEAD_TIMEOUT,
            _ => return false,
        };
        now.saturating_sub(self.since_millis.load(Ordering::Relaxed)) > limit.as_millis()
    }

    /// Tells the connection's task.
    pub(super) fn order(&self, order: Order) {
        match order {
            Order::Close => self.closing.store(true, Ordering::Relaxed),
            Order::Kill => self.killed.store(true, Ordering::Relaxed),
        }
        self.wake.notify_one();
    }

    /// The next order.
    pub(super) async fn ordered(&self) -> Order {
        loop {
            self.wake.notified().await;
            if self.killed.load(Ordering::Relaxed) {
                return Order::Kill;
            }
            if self.closing.swap(false, Ordering::Relaxed) {
                return Order::Close;
            }
        }
    }

    fn millis(&self) -> u64 {
        // From 1 on, so that zero can mean "not blocked".
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn read(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.enter(Phase::Head);
        }
    }

    fn wrote<T>(&self, poll: Poll<T>) -> Poll<T> {
        let blocked = self.blocked_millis.load(Ordering::Relaxed);
        match &poll {
            Poll::Pending if blocked == 0 => {
                self.blocked_millis.store(self.millis(), Ordering::Relaxed);
            }
            Poll::Ready(_) if blocked != 0 => self.blocked_millis.store(0, Ordering::Relaxed),
            _ => {}
        }
        poll
    }
}

/// A socket that notes what happens on it.
pub(super) struct Observed<S> {
    io: TokioIo<S>,
    activity: std::sync::Arc<Activity>,
}

impl<S> Observed<S> {
    /// Around a socket.
    pub(super) fn new(socket: S, activity: std::sync::Arc<Activity>) -> Self {
        Self { io: TokioIo::new(socket), activity }
    }
}

impl<S: AsyncRead + Unpin> Read for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_read(context, buffer);
        if poll.is_ready() {
            this.activity.read();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> Write for Observed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write(context, buffer);
        this.activity.wrote(poll)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write_vectored(context, buffers);
        this.activity.wrote(poll)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use super::{Activity, Phase, WRITE_TIMEOUT};
    use crate::base::{Span, limits};

    fn aged(phase: Phase, span: Span) -> Activity {
        let age = Duration::from_micros(span.as_micros());
        let started = Instant::now().checked_sub(age).expect("the clock is older than that");
        let activity = Activity { started, ..Activity::new() };
        activity.phase.store(phase as u8, Ordering::Relaxed);
        activity.since_millis.store(1, Ordering::Relaxed);
        activity
    }

    /// Half a head, sent slowly, is what slowloris is; an idle connection may wait for longer, and
    /// a request takes the time that it asked for.
    #[test]
    fn heads_and_idle_connections_have_their_time() {
        let second = Span::from_secs(1);
        assert!(!aged(Phase::Head, limits::HEAD_TIMEOUT.less(second)).is_overdue());
        assert!(aged(Phase::Head, limits::HEAD_TIMEOUT + second).is_overdue());
        assert!(!aged(Phase::Idle, limits::HEAD_TIMEOUT + second).is_overdue());
        assert!(aged(Phase::Idle, limits::IDLE_TIMEOUT + second).is_overdue());
        assert!(!aged(Phase::Request, limits::IDLE_TIMEOUT + second).is_overdue());
    }

    #[test]
    fn a_peer_that_does_not_read_is_overdue_whatever_it_asked() {
        let activity = aged(Phase::Request, WRITE_TIMEOUT + Span::from_secs(1));
        activity.blocked_millis.store(1, Ordering::Relaxed);
        assert!(activity.is_overdue());
        let _ = activity.wrote(Poll::Ready(()));
        assert!(!activity.is_overdue(), "it has read again");
        let _ = activity.wrote::<()>(Poll::Pending);
        assert!(!activity.is_overdue(), "it was blocked just now");
    }

    #[test]
    fn a_head_begins_with_its_first_byte() {
        let activity = aged(Phase::Idle, limits::HEAD_TIMEOUT + Span::from_secs(1));
        activity.read();
        assert!(!activity.is_overdue());
        assert_eq!(activity.phase.load(Ordering::Relaxed), Phase::Head as u8);
    }
}
