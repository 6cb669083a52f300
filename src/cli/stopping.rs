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
//! - a quarter of the time to live before `valid_until`: SIGTERM (10 s: with 2.5 s left);
//! - a twentieth before `valid_until`: SIGKILL, repeated until nothing is left (10 s: with 0.5 s
//!   left, and the margin's 0.625 s after it).
//!
//! Both are local: they need neither the daemon nor the network. `lost` before that time means that
//! the lease was taken away (revoked, released by someone): only the margin can be counted on, so
//! SIGTERM goes out at once and SIGKILL half a margin later. A daemon that died without a word can
//! give nothing away before `valid_until`, so its command gets up to the same quarter to end by
//! itself.

use std::time::Duration;

use crate::client::BootInstant;

/// Between two rounds of killing: what was being forked during one is met by the next.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(20);

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
    /// For a lease of `ttl` that is promised until `valid_until`.
    pub(super) fn new(ttl: Duration, valid_until: BootInstant) -> Self {
        Self { ttl, valid_until, stage: Stage::Running }
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
        self.begin(now + self.ttl / 4);
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
        self.valid_until - self.ttl / 4
    }

    fn kill_at(&self) -> BootInstant {
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
        let mut stopping = Stopping::new(TTL, at(9_000));
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
        let mut stopping = Stopping::new(TTL, at(9_000));
        stopping.promised(at(12_000));
        stopping.promised(at(3_000));
        assert_eq!(stopping.next_deadline(), at(9_500));
        assert_eq!(stopping.step(at(9_500)), Some(Step::Terminate));
        stopping.promised(at(30_000));
        assert_eq!(stopping.next_deadline(), at(11_500), "what has begun goes on");
    }

    #[test]
    fn lost_leaves_half_a_margin_and_never_more_than_the_promise() {
        let mut stopping = Stopping::new(TTL, at(9_000));
        stopping.told_lost(at(1_000));
        assert_eq!(stopping.step(at(1_000)), Some(Step::Terminate));
        assert_eq!(stopping.next_deadline(), at(1_312) + Duration::from_micros(500));
        let mut late = Stopping::new(TTL, at(9_000));
        late.told_lost(at(9_000));
        assert_eq!(late.step(at(9_000)), Some(Step::Terminate));
        assert_eq!(late.step(at(9_000)), Some(Step::Kill));
    }

    #[test]
    fn a_daemon_that_dies_leaves_a_quarter_and_lost_after_it_shortens_that() {
        let mut stopping = Stopping::new(TTL, at(9_000));
        stopping.daemon_gone(at(1_000));
        assert_eq!(stopping.step(at(1_000)), Some(Step::Terminate));
        assert_eq!(stopping.next_deadline(), at(3_500));
        stopping.told_lost(at(1_100));
        assert!(stopping.next_deadline() < at(1_500));
        assert_eq!(stopping.step(at(1_500)), Some(Step::Kill));
    }
}
