//! Decides which clock a promise is counted on: `CLOCK_BOOTTIME`, which runs on while the host
//! sleeps.
//!
//! What is promised, and until when, is for `hold.rs`. `std::time::Instant` will not do: it stands
//! still during suspend (clock_gettime(2)), so a lock would look valid because the laptop lid was
//! shut.

use std::io;
use std::ops::{Add, Sub};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A point in time as a length since the host booted, suspend included. Points of different hosts,
/// or of different boots, cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The present.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Self(Duration::new(secs, nanos))
    }

    /// The time since the host booted.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// The point that lies `since_boot` after the start of the host.
    pub fn from_since_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time from `earlier` to here, or nothing when `earlier` is not earlier.
    pub fn since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time that is left until this point; nothing once it has passed.
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    /// Resolves once this point has passed; after a suspend at once. Must be polled on a tokio
    /// runtime with its IO and time drivers on. May be dropped at any time.
    pub async fn reached(self) {
        if self.remaining().is_zero() || self.timer_fires().await.is_ok() {
            return;
        }
        // No descriptor was left for a timer of the boot clock. tokio's own timers stand still
        // during suspend, so look at the clock often.
        loop {
            let left = self.remaining();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
    }

    async fn timer_fires(self) -> io::Result<()> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let value = Timespec {
            tv_sec: i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(self.0.subsec_nanos()),
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: once, it_value: value };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &setting)?;
        let timer = watched(timer)?;
        let _ready = timer.readable().await?;
        Ok(())
    }
}

/// tokio deprecates the safe call because a type may lie about its descriptor. An `OwnedFd` does
/// not: it names one open file until it is dropped, which is all that the unsafe one asks for.
#[expect(deprecated, reason = "the replacement is unsafe, and an OwnedFd keeps its contract")]
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}

impl Add<Duration> for BootInstant {
    type Output = BootInstant;

    fn add(self, length: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(length))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = BootInstant;

    fn sub(self, length: Duration) -> BootInstant {
        BootInstant(self.0.saturating_sub(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_point_is_reached_no_earlier_than_it_says() {
        let point = BootInstant::now() + Duration::from_millis(20);
        point.reached().await;
        assert!(BootInstant::now() >= point);
        assert_eq!(point.remaining(), Duration::ZERO);
        (point - Duration::from_secs(1)).reached().await;
        BootInstant::default().reached().await;
    }
}
