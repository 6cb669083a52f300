//! Reads the clocks of the process: the one place where real time enters.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::base::{Instant, Span, WallMillis};
use crate::replica::Now;

/// The clocks of this process.
///
/// `CLOCK_BOOTTIME` runs on during suspend (clock_gettime(2)): a lease must not look valid because
/// the host slept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// This host's monotonic time.
    pub fn instant(self) -> Instant {
        let time = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000;
        Instant::from_micros(secs * 1_000_000 + micros)
    }

    /// Both clocks.
    pub fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = WallMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Now { instant: self.instant(), wall }
    }
}

/// The same length of time for the standard library.
pub(super) fn duration(span: Span) -> std::time::Duration {
    std::time::Duration::from_micros(span.as_micros())
}
