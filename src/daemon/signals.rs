//! Which signals mean "stop".
//!
//! What stopping means is decided by `run` and `dev`.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Signals that follow each other faster than this are one: timeout(1), for one, sends each signal
/// to its child and then to the whole group. A person who presses Ctrl-C again is slower.
const ONE_SIGNAL: Duration = Duration::from_millis(200);

/// SIGINT and SIGTERM, from the moment when this is made: a signal that comes before anyone waits
/// is not lost, and none has its default effect any more.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    last: Option<Instant>,
}

impl StopSignals {
    /// Needs a running tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            last: None,
        })
    }

    /// Waits for the next of them and says which. May be dropped at any await: nothing is lost.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
            };
            let now = Instant::now();
            if self.last.is_none_or(|last| now - last > ONE_SIGNAL) {
                self.last = Some(now);
                return name;
            }
        }
    }
}
