//! Decides what can be asked of `lock` and `elect` about the command that they run.
//!
//! One round of running is in `run.rs`, beginning anew in `restart.rs`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::Signal;

use super::command::duration;
use super::exit::{Failure, USAGE};
use super::signals::by_name;
use super::stopping::GRACE_PER_TTL_MAX;

/// The time to live that the daemon gives unless told another (API.md).
const TTL_DEFAULT: Duration = Duration::from_secs(10);

/// When to wait for the turn again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Restart {
    /// Whenever it has ended, unless a signal asked for it
    Always,
    /// Never
    #[default]
    Never,
    /// When it was lost, or the command failed
    OnFailure,
    /// When it was lost
    OnLost,
}

/// When the service manager is told that this is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Ready {
    /// When it is held, and the command has been started
    Held,
    /// When it is waited for
    Queued,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Running a command")]
pub(super) struct Running {
    /// When to wait for the turn and run again; the daemon may be away meanwhile
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(super) restart: Restart,
    /// How long before SIGKILL the command gets SIGTERM when its time runs out [default: a fifth
    /// of the time to live, of which it may be a third]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) stop_grace: Option<Duration>,
    /// Kill what is left so long after SIGTERM, SIGINT or SIGQUIT was passed on [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) kill_after: Option<Duration>,
    /// A line for /bin/sh, run to its end when it is held, before the command; if it fails, the
    /// command is not run
    #[arg(long, visible_alias = "on-held", value_name = "LINE")]
    pub(super) on_elected: Option<OsString>,
    /// A line for /bin/sh, run when the hold ends, before anyone else can hold
    #[arg(long, value_name = "LINE")]
    pub(super) on_lost: Option<OsString>,
    /// Send this to the command when a confirmation is overdue
    #[arg(long, value_name = "SIGNAL", value_parser = by_name)]
    pub(super) signal_at_risk: Option<Signal>,
    /// Tell the service manager (NOTIFY_SOCKET) how it stands, and when it is ready
    #[arg(
        long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
        default_missing_value = "held"
    )]
    pub(super) notify: Option<Ready>,
    /// Run this while it is held; it is stopped before anyone else can hold
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

impl Running {
    /// Whether there is nothing to run and nobody to tell.
    pub(super) fn is_plain(&self) -> bool {
        let has_hook = self.on_elected.is_some() || self.on_lost.is_some();
        self.command.is_empty() && !has_hook && self.notify.is_none()
    }

    /// Makes the time to live long enough for the grace, or says that it is too short.
    pub(super) fn fit(&self, ttl: &mut Option<Duration>) -> Result<(), Failure> {
        if self.is_plain() && self.restart != Restart::Never {
            return Err(Failure::new(USAGE, "--restart needs a command or a hook"));
        }
        let Some(grace) = self.stop_grace else { return Ok(()) };
        let needed = grace.saturating_mul(GRACE_PER_TTL_MAX);
        match *ttl {
            Some(ttl) if ttl < needed => Err(Failure::new(
                USAGE,
                format!("--stop-grace may be a third of --ttl: use --ttl {}s", seconds_up(needed)),
            )),
            None if needed > TTL_DEFAULT => {
                *ttl = Some(Duration::from_secs(seconds_up(needed)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn seconds_up(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        running: Running,
    }

    fn running(line: &str) -> Running {
        Line::try_parse_from(line.split(' ')).unwrap().running
    }

    #[test]
    fn a_long_grace_makes_the_time_to_live_longer_or_is_refused() {
        let fit = |line: &str, mut ttl: Option<Duration>| {
            running(line).fit(&mut ttl).map(|()| ttl).map_err(|failure| failure.message)
        };
        let seconds = Duration::from_secs;
        assert_eq!(fit("l --stop-grace 3s -- x", None), Ok(None));
        assert_eq!(fit("l --stop-grace 4s -- x", None), Ok(Some(seconds(12))));
        assert_eq!(fit("l --stop-grace 4s -- x", Some(seconds(12))), Ok(Some(seconds(12))));
        let refused = fit("l --stop-grace 5100ms -- x", Some(seconds(15))).unwrap_err();
        assert!(refused.contains("--ttl 16s"), "{refused}");
        assert!(fit("l --restart always", None).unwrap_err().contains("needs a command"));
    }

    #[test]
    fn notify_stands_alone_or_says_when() {
        assert_eq!(running("l --notify -- x").notify, Some(Ready::Held));
        assert_eq!(running("l --notify=queued -- x").notify, Some(Ready::Queued));
        assert_eq!(running("l -- --notify").notify, None);
        assert!(running("l").is_plain());
        assert!(!running("l --on-lost true").is_plain());
    }
}
