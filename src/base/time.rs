//! Time as integers that are handed in: nothing below `node/` can look at a clock.
//!
//! `node/clock.rs` reads the clocks of a real process; the simulator invents them.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A point on one node's own monotonic clock, in microseconds since an arbitrary start. In
/// production this is `CLOCK_BOOTTIME`, which runs on during suspend (clock_gettime(2)): a lease
/// must not look valid because the host slept. Points of different nodes cannot be compared.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

/// A length of time in microseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Instant = Instant(0);

    /// A point `micros` microseconds after the start of the clock.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start of the clock.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here, or nothing when `earlier` is not earlier.
    pub const fn since(self, earlier: Instant) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// A span of `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// A span of `millis` milliseconds, or the longest span there is when that overflows.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// A span of `secs` seconds, or the longest span there is when that overflows.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, rounded down: a promise is never rounded up.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// This span `factor` times, or the longest span there is when that overflows.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// This span divided into `parts`, rounded down. Panics when `parts` is zero.
    #[must_use]
    pub const fn divided_by(self, parts: u64) -> Self {
        assert!(parts > 0, "a span is divided into at least one part");
        Self(self.0 / parts)
    }

    /// This span less `other`, or nothing when `other` is longer.
    #[must_use]
    pub const fn less(self, other: Span) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add<Span> for Instant {
    type Output = Instant;

    fn add(self, span: Span) -> Instant {
        Instant(self.0.saturating_add(span.0))
    }
}

impl AddAssign<Span> for Instant {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

impl Sub<Span> for Instant {
    type Output = Instant;

    fn sub(self, span: Span) -> Instant {
        Instant(self.0.saturating_sub(span.0))
    }
}

impl Add for Span {
    type Output = Span;

    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Span(self.0))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", Span(self.0))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millis, rest) = (self.0 / 1_000, self.0 % 1_000);
        if rest == 0 { write!(f, "{millis}ms") } else { write!(f, "{millis}.{rest:03}ms") }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Wall-clock milliseconds since the Unix epoch, as the leader stamped them into an entry. Never
/// decreases from one entry to the next. Decides how long history and idempotency keys are kept,
/// and never anything about a lease.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WallMillis(pub u64);

impl WallMillis {
    /// Milliseconds from `earlier` to here, or zero when `earlier` is not earlier.
    pub const fn since(self, earlier: WallMillis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
