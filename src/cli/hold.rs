//! What `lock` and `elect` share: waiting for the turn, and holding until interrupted.
//!
//! Running a command meanwhile is in `run.rs`, beginning anew after it in `restart.rs`.

use std::io;

use serde::Serialize;

use super::command::Session;
use super::exit::{DONE, Failure, LOST};
use super::output::{place_line, shown};
use super::restart::hold_again;
use super::running::Running;
use super::signals::{Signals, ends_waiting, status_of};
use crate::client::{
    AcquireOptions, Acquiring, CampaignOptions, Condition, Error, Hold, HoldState, Loss, Place,
    Turn,
};

/// What is waited for, and how.
#[derive(Clone, Debug)]
pub(super) enum Prize {
    Leadership(CampaignOptions),
    Lock(AcquireOptions),
}

impl Prize {
    pub(super) async fn ask(&self, session: &Session, name: &[u8]) -> Result<Acquiring, Error> {
        match self {
            Self::Leadership(options) => session.client.campaign(name, options).await,
            Self::Lock(options) => session.client.acquire(name, options).await,
        }
    }

    /// The time to live that is asked for, if one is.
    pub(super) fn ttl_mut(&mut self) -> &mut Option<std::time::Duration> {
        match self {
            Self::Leadership(options) => &mut options.ttl,
            Self::Lock(options) => &mut options.ttl,
        }
    }
}

/// A state as it is printed.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Shown<'a> {
    AtRisk { token: u64, valid_for_ms: u64, reason: &'a str },
    Held { token: u64, lease: String, valid_for_ms: u64 },
    Leader { token: u64, lease: String, valid_for_ms: u64 },
    Lost { token: u64, reason: &'a str },
    Waiting { position: u64, holders: &'a [Place] },
}

impl Shown<'_> {
    fn line(&self) -> String {
        match self {
            Self::AtRisk { valid_for_ms, reason, .. } => {
                format!("at risk, valid for {valid_for_ms} ms: {reason}")
            }
            Self::Held { token, lease, .. } => format!("held, token {token}, lease {lease}"),
            Self::Leader { token, lease, .. } => format!("leader, token {token}, lease {lease}"),
            Self::Lost { reason, .. } => format!("lost: {reason}"),
            Self::Waiting { position, holders } => {
                let holders: Vec<String> = holders.iter().map(place_line).collect();
                let by = if holders.is_empty() { "" } else { ", behind " };
                format!("waiting, position {position}{by}{}", holders.join("; "))
            }
        }
    }
}

/// Waits for the turn, then runs what there is to run or, when that is nothing, holds until
/// interrupted.
pub(super) async fn wait_and_hold(
    session: &Session,
    mut prize: Prize,
    name: &[u8],
    running: &Running,
) -> Result<u8, Failure> {
    running.fit(prize.ttl_mut())?;
    if !running.is_plain() {
        return hold_again(session, &prize, name, running).await;
    }
    let mut signals = Signals::listen()?;
    let mut acquiring = prize.ask(session, name).await?;
    let hold = loop {
        tokio::select! {
            turn = acquiring.next() => match turn? {
                Turn::Held(hold) => break hold,
                Turn::Waiting { position, holders } => {
                    let shown_state = Shown::Waiting { position, holders: &holders };
                    session.output.print(&shown_state, shown_state.line())?;
                }
            },
            signal = signals.next() => if ends_waiting(signal) {
                return Ok(status_of(signal));
            }
        }
    };
    hold_until_interrupted(session, &prize, hold, signals).await
}

/// A line about a place in a queue.
pub(super) fn waiting_line(name: &[u8], position: u64, holders: &[Place]) -> String {
    format!("\"{}\": {}", shown(name), Shown::Waiting { position, holders }.line())
}

async fn hold_until_interrupted(
    session: &Session,
    prize: &Prize,
    mut hold: Hold,
    mut signals: Signals,
) -> Result<u8, Failure> {
    let mut last = None;
    loop {
        let state = hold.state();
        if last.as_ref() != Some(&state.condition) {
            print(session, prize, &hold, &state)?;
            if let Condition::Lost(_) = state.condition {
                return Ok(LOST);
            }
            last = Some(state.condition);
        }
        tokio::select! {
            _ = hold.changed() => {}
            signal = signals.next() => {
                if ends_waiting(signal) {
                    hold.release().await?;
                    return Ok(DONE);
                }
            }
        }
    }
}

fn print(session: &Session, prize: &Prize, hold: &Hold, state: &HoldState) -> io::Result<()> {
    let (token, lease) = (hold.token(), hold.lease().to_string());
    let valid_for_ms = u64::try_from(state.valid_until.remaining().as_millis()).unwrap_or(u64::MAX);
    let shown_state = match &state.condition {
        Condition::AtRisk { reason } => Shown::AtRisk { token, valid_for_ms, reason },
        Condition::Held => match prize {
            Prize::Leadership(_) => Shown::Leader { token, lease, valid_for_ms },
            Prize::Lock(_) => Shown::Held { token, lease, valid_for_ms },
        },
        Condition::Lost(loss) => Shown::Lost { token, reason: reason_of(loss) },
    };
    session.output.print(&shown_state, shown_state.line())
}

fn reason_of(loss: &Loss) -> &str {
    match loss {
        Loss::Disconnected { detail } => detail,
        Loss::Expired => "the daemon has not confirmed it in time",
        Loss::Told { reason } => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_lines_or_documents() {
        let place = r#"{"token":3,"lease":"2","node":"n1","pid":4,"uid":0,"info":"x"}"#;
        let holders: [Place; 1] = [serde_json::from_str(place).unwrap()];
        let waiting = Shown::Waiting { position: 2, holders: &holders };
        assert_eq!(
            waiting.line(),
            "waiting, position 2, behind token 3 on n1 pid 4 uid 0 lease 2 (x)"
        );
        let held = Shown::Held { token: 7, lease: "a".into(), valid_for_ms: 9 };
        let json = r#"{"state":"held","token":7,"lease":"a","valid_for_ms":9}"#;
        assert_eq!(serde_json::to_string(&held).unwrap(), json);
    }
}
