//! Watches the free space of the data directory: writes are refused before the disk is full,
//! because a redb handle is of no use after an error of its file.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::node::mailbox::Mailbox;
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

/// Runs until the node stops. Below `reserve` bytes the disk counts as full; it must have a quarter
/// more before it counts as free again, so that the two do not alternate.
pub(super) async fn run(data_dir: PathBuf, reserve: u64, gauges: Gauges, mailbox: Mailbox) {
    let mut is_full = false;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(bytes) = free_bytes(&data_dir) else { continue };
        gauges.free_bytes.store(bytes, Ordering::Relaxed);
        gauges.raft_bytes.store(size(&data_dir.join("raft.redb")), Ordering::Relaxed);
        gauges.state_bytes.store(size(&data_dir.join("state.redb")), Ordering::Relaxed);
        let full = if is_full { bytes < reserve + reserve / 4 } else { bytes < reserve };
        if full != is_full {
            if full {
                tracing::error!(
                    free_bytes = bytes,
                    reserve_bytes = reserve,
                    "the disk is nearly full: writes are refused until space is freed"
                );
            } else {
                tracing::info!(free_bytes = bytes, "the disk has space again: writes go on");
            }
        }
        // Repeated while it is full, because the writer says "free" after each write that succeeds.
        if (full || is_full) && !mailbox.tell(Event::Disk { full }) {
            continue;
        }
        is_full = full;
    }
}

fn size(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
