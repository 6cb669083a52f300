//! Feeds systemd's watchdog (`WatchdogSec=`): a node whose replica or writer thread hangs is fed no
//! more, and systemd kills and starts it again.
//!
//! Whether the threads go round is asked through the node; the words to systemd are in `notify`.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::node::Node;

use super::notify;

/// Feeds until it is dropped. Without a watchdog it does nothing.
pub(super) struct Feeder(Option<JoinHandle<()>>);

impl Drop for Feeder {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Feeder {
    /// For a node that has no threads yet: reading a large state takes long, and killing it then
    /// would only make it begin anew. Needs a running tokio runtime, as the other does.
    pub fn while_starting() -> Self {
        Self(every().map(|every| tokio::spawn(feed_by_the_clock(every))))
    }

    /// For a running node.
    pub fn of(node: &Node) -> Self {
        let node = node.clone();
        Self(every().map(|every| tokio::spawn(feed_by_the_threads(every, node))))
    }
}

/// A third of what systemd allows, so that one late answer is no death.
fn every() -> Option<Duration> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
    Some(limit / 3)
}

async fn feed_by_the_clock(every: Duration) {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        notify::watchdog();
    }
}

async fn feed_by_the_threads(every: Duration, node: Node) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let mut pulse = std::pin::pin!(node.pulse());
        let goes_round = tokio::select! {
            goes_round = &mut pulse => goes_round,
            () = sleep(every) => {
                tracing::warn!(
                    waited = ?every,
                    "the replica or the writer thread has not answered the watchdog's question"
                );
                let goes_round = pulse.await;
                tracing::warn!(after = ?asked.elapsed(), "the threads have answered the watchdog");
                goes_round
            }
        };
        if !goes_round {
            // It has stopped: the process is about to end.
            return;
        }
        notify::watchdog();
    }
}
