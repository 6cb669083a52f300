//! The clocks of one host: an offset and a rate of its own, and a wall clock that may be wrong.

use quorumd::base::{Instant, Rng, WallMillis};
use quorumd::replica::Now;

/// Most parts per million by which a clock runs fast or slow. Promises give up a sixteenth for the
/// difference of two clocks; real ones differ by a hundredth of this.
pub const DRIFT_PPM_MAX: u64 = 20_000;

const MILLION: i128 = 1_000_000;

/// The clocks of one host.
#[derive(Clone, Debug)]
pub struct Clock {
    offset: i128,
    rate_ppm: i128,
    wall_skew_ms: i64,
}

impl Clock {
    /// A clock that runs at a rate of its own.
    pub fn new(drift_ppm_max: u64, rng: &mut Rng) -> Self {
        let rate = i128::from(rng.between(0, 2 * drift_ppm_max)) - i128::from(drift_ppm_max);
        let mut clock = Self { offset: 0, rate_ppm: MILLION + rate, wall_skew_ms: 0 };
        clock.reboot(rng);
        clock
    }

    /// The host starts again: its monotonic clock begins anew, its wall clock is set anew.
    pub fn reboot(&mut self, rng: &mut Rng) {
        self.offset = i128::from(rng.below(1_000_000_000)) + 3_600 * MILLION;
        self.wall_skew_ms = rng.below(4_000) as i64 - 2_000;
    }

    /// The wall clock jumps.
    pub fn step_wall(&mut self, rng: &mut Rng) {
        self.wall_skew_ms += rng.below(40_000) as i64 - 20_000;
    }

    /// What the host reads at a true time.
    pub fn now(&self, truth: u64) -> Now {
        let wall = 1_700_000_000_000 + (truth / 1_000) as i64 + self.wall_skew_ms;
        Now { instant: self.instant(truth), wall: WallMillis(wall as u64) }
    }

    /// The monotonic clock at a true time.
    pub fn instant(&self, truth: u64) -> Instant {
        let micros = self.offset + i128::from(truth) * self.rate_ppm / MILLION;
        Instant::from_micros(micros as u64)
    }

    /// The first true time at which the monotonic clock shows `instant`.
    pub fn truth(&self, instant: Instant) -> u64 {
        let local = i128::from(instant.as_micros()) - self.offset;
        let mut truth = u64::try_from((local * MILLION / self.rate_ppm).max(0)).unwrap_or(u64::MAX);
        while truth > 0 && self.instant(truth - 1) >= instant {
            truth -= 1;
        }
        while self.instant(truth) < instant {
            truth = truth.saturating_add(1);
            if truth == u64::MAX {
                break;
            }
        }
        truth
    }
}
