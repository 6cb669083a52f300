//! Watches the free space of the data directory: writes are refused before the disk is full,
//! because a redb handle is of no use after an error of its file.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use crate::node::mailbox::{Mailbox, Told};
use crate::node::runner::Gauges;
use crate::replica::Event;

/// How often the free space is looked at.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// The free space of the file system that holds `path`, in bytes, as an unprivileged process may
/// use it (statvfs(3), `f_bavail`).
pub(super) fn free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A threshold with a gap, so that its two states do not alternate: below `bytes` it is reached,
/// and a quarter more must be free before it is not any more.
struct Threshold {
    bytes: u64,
    reached: bool,
}

impl Threshold {
    /// Whether it is reached now, and whether it was or is.
    fn look(&self, free: u64) -> (bool, bool) {
        let bound = if self.reached { self.bytes + self.bytes / 4 } else { self.bytes };
        let reached = free < bound;
        (reached, reached || self.reached)
    }
}

/// Runs until the node stops. Below `reserve` bytes the node accepts no writes as a leader; below
/// half of that it takes none of another leader either, because the disk counts as full. Between
/// the two it stays up to date while the disks of the others become low too.
pub(super) async fn run(
    data_dir: PathBuf,
    reserve: u64,
    gauges: Gauges,
    mailbox: Mailbox,
    mut stopped: watch::Receiver<bool>,
) {
    let mut low = Threshold { bytes: reserve, reached: false };
    let mut full = Threshold { bytes: reserve / 2, reached: false };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // An error: the last handle of the node is gone, and its threads with it.
            _ = stopped.wait_for(|&stopped| stopped) => return,
        }
        let Ok(bytes) = free_bytes(&data_dir) else { continue };
        gauges.free_bytes.store(bytes, Ordering::Relaxed);
        gauges.raft_bytes.store(size(&data_dir.join("raft.redb")), Ordering::Relaxed);
        gauges.state_bytes.store(size(&data_dir.join("state.redb")), Ordering::Relaxed);
        let (is_low, tell_low) = low.look(bytes);
        if is_low != low.reached {
            log(is_low, bytes, reserve);
        }
        if !tell_low || mailbox.tell(Event::DiskLow { low: is_low }) == Told::Taken {
            low.reached = is_low;
        }
        // Repeated while it is full, because the writer says "free" after each write that succeeds.
        let (is_full, tell_full) = full.look(bytes);
        if !tell_full || mailbox.tell(Event::Disk { full: is_full }) == Told::Taken {
            full.reached = is_full;
        }
    }
}

fn log(is_low: bool, free_bytes: u64, reserve_bytes: u64) {
    if is_low {
        tracing::error!(
            free_bytes,
            reserve_bytes,
            "the disk is nearly full: writes are refused until space is freed"
        );
    } else {
        tracing::info!(free_bytes, "the disk has space again: writes go on");
    }
}

fn size(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
