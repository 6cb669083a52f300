//! Decides when the turn is waited for again after it was lost or the command has ended.
//!
//! What happens while it is held is in `run.rs`.

use std::time::Duration;

use rustix::process::Signal;

use super::command::Session;
use super::exit::{Failure, LOST, UNAVAILABLE, UNKNOWN};
use super::hold::{Prize, waiting_line};
use super::notices::Notices;
use super::output::shown;
use super::run::run_while_holding;
use super::running::{Ready, Restart, Running};
use super::signals::{Signals, asks_to_end, ends_waiting, status_of};
use super::supervise::Supervised;
use crate::client::{BootInstant, Hold, Turn};

/// The first pause before another round; it doubles up to the longest, and begins anew after a
/// round that was held for longer than the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);

/// What all rounds of one `lock` or `elect` have.
pub(super) struct Runner<'a> {
    pub(super) session: &'a Session,
    pub(super) name: &'a [u8],
    pub(super) running: &'a Running,
    pub(super) signals: Signals,
    pub(super) supervised: Supervised,
    pub(super) notices: Notices,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// The command has ended by itself or because it was asked to by this signal.
    Ended { status: u8, asked: Option<Signal> },
    /// It was lost while it was held.
    Lost { asked: Option<Signal> },
    /// This signal came while it was waited for.
    NotHeld(Signal),
}

impl Round {
    /// Whether there shall be another.
    fn goes_on(self, restart: Restart) -> bool {
        match (self, restart) {
            (Self::Ended { asked: None, .. }, Restart::Always)
            | (Self::Lost { asked: None }, Restart::Always | Restart::OnFailure)
            | (Self::Lost { asked: None }, Restart::OnLost) => true,
            (Self::Ended { status, asked: None }, Restart::OnFailure) => status != 0,
            _ => false,
        }
    }

    fn status(self) -> u8 {
        match self {
            Self::Ended { status, .. } => status,
            Self::Lost { .. } => LOST,
            Self::NotHeld(signal) => status_of(signal),
        }
    }
}

/// Waits for the turn and runs what there is to run, as often as is wanted. The exit status.
pub(super) async fn hold_again(
    session: &Session,
    prize: &Prize,
    name: &[u8],
    running: &Running,
) -> Result<u8, Failure> {
    let mut runner = Runner {
        session,
        name,
        running,
        signals: Signals::listen()?,
        supervised: Supervised::new(session.own.clone())?,
        notices: Notices::start(),
    };
    let mut pause = PAUSE_FIRST;
    loop {
        let mut held_for = Duration::ZERO;
        let again = match runner.round(prize, &mut held_for).await {
            Ok(round) if round.goes_on(running.restart) => {
                format!("status {}", round.status())
            }
            Ok(round) => return Ok(round.status()),
            // Nothing is held: it is safe to ask again, whatever became of the last question.
            Err(failure)
                if running.restart != Restart::Never
                    && matches!(failure.status, UNAVAILABLE | UNKNOWN) =>
            {
                failure.message
            }
            Err(failure) => return Err(failure),
        };
        if held_for > PAUSE_LONGEST {
            pause = PAUSE_FIRST;
        }
        runner.tell(&format!("again in {} ms: {again}", pause.as_millis()));
        if let Some(signal) = runner.rest(pause).await? {
            return Ok(status_of(signal));
        }
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

impl Runner<'_> {
    async fn round(&mut self, prize: &Prize, held_for: &mut Duration) -> Result<Round, Failure> {
        self.supervised.clear();
        let hold = match self.wait(prize).await? {
            Ok(hold) => hold,
            Err(signal) => return Ok(Round::NotHeld(signal)),
        };
        let begun = BootInstant::now();
        let round = run_while_holding(self, hold).await;
        *held_for = BootInstant::now().since(begun);
        round
    }

    /// Waits for the turn; or the signal that ended the waiting.
    async fn wait(&mut self, prize: &Prize) -> Result<Result<Hold, Signal>, Failure> {
        let mut acquiring = None;
        loop {
            let turn = async {
                match &mut acquiring {
                    None => {
                        acquiring = Some(prize.ask(self.session, self.name).await?);
                        Ok(None)
                    }
                    Some(acquiring) => acquiring.next().await.map(Some),
                }
            };
            tokio::select! {
                turn = turn => match turn? {
                    None => if self.running.notify == Some(Ready::Queued) {
                        self.notices.ready();
                    },
                    Some(Turn::Held(hold)) => return Ok(Ok(hold)),
                    Some(Turn::Waiting { position, holders }) => {
                        let line = waiting_line(self.name, position, &holders);
                        self.tell(&line);
                    }
                },
                signal = self.signals.next() => if ends_waiting(signal) {
                    return Ok(Err(signal));
                },
                reaped = self.supervised.reap_on() => reaped?,
            }
        }
    }

    /// Pauses; the signal that ended it early, if one did.
    async fn rest(&mut self, pause: Duration) -> Result<Option<Signal>, Failure> {
        let end = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return Ok(None),
                signal = self.signals.next() => if ends_waiting(signal) {
                    return Ok(Some(signal));
                },
                reaped = self.supervised.reap_on() => reaped?,
            }
        }
    }

    /// A line on standard error (standard output is the command's) and for the service manager.
    pub(super) fn tell(&self, line: &str) {
        self.notices.say(line);
        if self.running.notify.is_some() {
            self.notices.status(line);
        }
    }

    /// What is held, as it is shown.
    pub(super) fn named(&self) -> String {
        format!("\"{}\"", shown(self.name))
    }
}

/// Whether a command that ended with `status` did so because `signal` was passed on to it.
pub(super) fn is_answer_to(signal: Signal, status: u8) -> bool {
    asks_to_end(signal) || (signal == Signal::HUP && status == status_of(signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_what_would_go_on() {
        let asked = Some(Signal::TERM);
        let (good, bad) = (0, 3);
        for (round, goes_on) in [
            (Round::Ended { status: good, asked: None }, [true, false, false, false]),
            (Round::Ended { status: bad, asked: None }, [true, true, false, false]),
            (Round::Lost { asked: None }, [true, true, true, false]),
            (Round::Lost { asked }, [false; 4]),
            (Round::Ended { status: bad, asked }, [false; 4]),
            (Round::NotHeld(Signal::INT), [false; 4]),
        ] {
            let all = [Restart::Always, Restart::OnFailure, Restart::OnLost, Restart::Never];
            assert_eq!(all.map(|restart| round.goes_on(restart)), goes_on, "{round:?}");
        }
        assert!(is_answer_to(Signal::TERM, 0));
        assert!(is_answer_to(Signal::HUP, 129) && !is_answer_to(Signal::HUP, 1));
    }
}
