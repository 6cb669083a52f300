//! Decides when a command that runs under a lock is asked to end, and when it is killed.
//!
//! A pure rule: it is told the time, what the daemon says and nothing else. `run.rs` carries it
//! out, `client/hold.rs` knows until when the daemon's promise reaches.
//!
//! The arithmetic. The daemon promises that nobody else can hold before `valid_until`, and has kept
//! back a margin of a sixteenth of the time to live, at least 50 ms, before another can really win.
//! A confirmation comes several times within one time to live, so `valid_until` normally lies more
//! than half of it ahead. When confirmations stay away:
//!
//! - a twentieth of the time to live before `valid_until`: SIGKILL, repeated until nothing is left
//!   (10 s: with 0.5 s left, and the margin's 0.625 s after it);
//! - the grace before that: SIGTERM. The grace is a fifth of the time to live (10 s: 2 s) unless
//!   `--stop-grace` says more or less; more than a third would reach into the times when nothing is
//!   wrong.
//!
//! Both are local: they need neither the daemon nor the network. `lost` before that time means that
//! the lease was taken away (revoked, released by someone): only the margin can be counted on, so
//! SIGTERM goes out at once and SIGKILL half a margin later. A daemon that died without a word can
//! give nothing away before `valid_until`, so its command gets up to the same grace to end by
//! itself.

use std::time::Duration;

use crate::client::BootInstant;

/// Between two rounds of killing: what was being forked during one is met by the next.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The time to live must be at least so many times the grace.
pub(super) const GRACE_PER_TTL_MAX: u32 = 3;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send SIGKILL to whatever is left.
    Kill,
    /// Send SIGTERM to all.
    Terminate,
}

/// How far the stopping of one command has come.
///
/// - Once stopping has begun it never ends again, whatever is promised later.
/// - The time of the killing never moves back once it is set.
#[derive(Debug)]
pub(super) struct Stopping {
    ttl: Duration,
    grace: Duration,
    valid_until: BootInstant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Running,
    /// SIGTERM is due now, SIGKILL at this time.
    Asking(BootInstant),
    /// SIGTERM has been sent.
    Asked(BootInstant),
    /// SIGKILL is due at this time, again and again.
    Killing(BootInstant),
}

impl Stopping {
    /// For a lease of `ttl` that is promised until `valid_until`. The grace is cut at a third of
    /// `ttl`.
    pub(super) fn new(ttl: Duration, valid_until: BootInstant, grace: Option<Duration>) -> Self {
        let grace = grace.unwrap_or(ttl / 5).min(ttl / GRACE_PER_TTL_MAX);
        Self { ttl, grace, valid_until, stage: Stage::Running }
    }

    /// The daemon has confirmed the lease. An earlier time than before changes nothing: what was
    /// once promised holds.
    pub(super) fn promised(&mut self, valid_until: BootInstant) {
        self.valid_until = self.valid_until.max(valid_until);
    }

    /// The daemon has said that the lease is lost.
    pub(super) fn told_lost(&mut self, now: BootInstant) {
        self.begin(now + self.margin() / 2);
    }

    /// The daemon has gone without a word.
    pub(super) fn daemon_gone(&mut self, now: BootInstant) {
        self.begin(now + self.grace);
    }

    /// Whether the command is being stopped because the lease is lost or about to be.
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Running)
    }

    /// What must be done at `now`. To be called again with the same time until it says nothing.
    pub(super) fn step(&mut self, now: BootInstant) -> Option<Step> {
        if matches!(self.stage, Stage::Running) && now >= self.terminate_at() {
            self.begin(self.kill_at());
        }
        match self.stage {
            Stage::Asking(kill_at) => {
                self.stage = Stage::Asked(kill_at);
                Some(Step::Terminate)
            }
            Stage::Asked(kill_at) | Stage::Killing(kill_at) if now >= kill_at => {
                self.stage = Stage::Killing(now + KILL_AGAIN_AFTER);
                Some(Step::Kill)
            }
            Stage::Running | Stage::Asked(_) | Stage::Killing(_) => None,
        }
    }

    /// When [`Stopping::step`] must be called next. Late calls lose time, early ones are harmless.
    pub(super) fn next_deadline(&self) -> BootInstant {
        match self.stage {
            Stage::Running => self.terminate_at(),
            Stage::Asking(_) => BootInstant::default(),
            Stage::Asked(at) | Stage::Killing(at) => at,
        }
    }

    fn begin(&mut self, kill_at: BootInstant) {
        let kill_at = kill_at.min(self.kill_at());
        self.stage = match self.stage {
            Stage::Running => Stage::Asking(kill_at),
            Stage::Asking(at) => Stage::Asking(at.min(kill_at)),
            Stage::Asked(at) => Stage::Asked(at.min(kill_at)),
            Stage::Killing(at) => Stage::Killing(at),
        };
    }

    fn terminate_at(&self) -> BootInstant {
        self.kill_at() - self.grace
    }

    /// By then nothing may be left.
    pub(super) fn kill_at(&self) -> BootInstant {
        self.valid_until - self.ttl / 20
    }

    /// What the daemon keeps back of each promise (API.md; `base::limits::promise_margin`).
    fn margin(&self) -> Duration {
        (self.ttl / 16).max(Duration::from_millis(50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_since_boot(Duration::from_millis(100_000 + millis))
    }

    #[test]
    fn silence_asks_first_and_kills_before_the_promise_ends() {
        let mut stopping = Stopping::new(TTL, at(9_000), None);
        assert_eq!(stopping.step(at(0)), None);
        assert_eq!(stopping.next_deadline(), at(6_500));
        assert_eq!(stopping.step(at(6_499)), None);
        assert!(!stopping.has_begun());
        assert_eq!(stopping.step(at(6_500)), Some(Step::Terminate));
        assert_eq!(stopping.step(at(6_500)), None);
        assert_eq!(stopping.next_deadline(), at(8_500));
        assert_eq!(stopping.step(at(8_500)), Some(Step::Kill));
        assert_eq!(stopping.step(at(8_500)), None);
        assert_eq!(stopping.step(stopping.next_deadline()), Some(Step::Kill), "until none is left");
        assert!(stopping.next_deadline() < at(9_000));
    }

    #[test]
    fn a_confirmation_moves_the_deadline_and_an_older_promise_does_not() {
        let mut stopping = Stopping::new(TTL, at(9_000), None);
        stopping.promised(at(12_000));
        stopping.promised(at(3_000));
        assert_eq!(stopping.next_deadline(), at(9_500));
        assert_eq!(stopping.step(at(9_500)), Some(Step::Terminate));
        stopping.promised(at(30_000));
        assert_eq!(stopping.next_deadline(), at(11_500), "what has begun goes on");
    }

    #[test]
    fn lost_leaves_half_a_margin_and_never_more_than_the_promise() {
        let mut stopping = Stopping::new(TTL, at(9_000), None);
        stopping.told_lost(at(1_000));
        assert_eq!(stopping.step(at(1_000)), Some(Step::Terminate));
        assert_eq!(stopping.next_deadline(), at(1_312) + Duration::from_micros(500));
        let mut late = Stopping::new(TTL, at(9_000), None);
        late.told_lost(at(9_000));
        assert_eq!(late.step(at(9_000)), Some(Step::Terminate));
        assert_eq!(late.step(at(9_000)), Some(Step::Kill));
    }

    #[test]
    fn a_daemon_that_dies_leaves_the_grace_and_lost_after_it_shortens_that() {
        let mut stopping = Stopping::new(TTL, at(9_000), None);
        stopping.daemon_gone(at(1_000));
        assert_eq!(stopping.step(at(1_000)), Some(Step::Terminate));
        assert_eq!(stopping.next_deadline(), at(3_000));
        stopping.told_lost(at(1_100));
        assert!(stopping.next_deadline() < at(1_500));
        assert_eq!(stopping.step(at(1_500)), Some(Step::Kill));
    }

    #[test]
    fn the_grace_moves_the_asking_and_never_the_killing() {
        for (grace, asked) in [(0, 8_500), (1_000, 7_500), (3_000, 5_500), (60_000, 5_167)] {
            let stopping = Stopping::new(TTL, at(9_000), Some(Duration::from_millis(grace)));
            let begins = stopping.next_deadline();
            assert!(begins.since(at(asked)).as_millis() <= 1, "grace of {grace} ms");
            assert!(at(asked).since(begins).as_millis() <= 1, "grace of {grace} ms");
            assert_eq!(stopping.kill_at(), at(8_500));
        }
    }
}
