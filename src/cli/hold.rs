//! What `lock` and `elect` share: waiting for the turn, and holding until interrupted.
//!
//! Running a command meanwhile is in `run.rs`.

use std::ffi::OsString;
use std::io;

use rustix::process::Signal;
use serde::Serialize;

use super::command::Session;
use super::exit::{DONE, Failure, LOST};
use super::output::{place_line, say, shown};
use super::run::run_while_holding;
use super::signals::Signals;
use crate::client::{Acquiring, Condition, Hold, HoldState, Loss, Place, Turn};

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Prize {
    Leadership,
    Lock,
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

/// Waits for the turn, then runs `command` or, when that is empty, holds until interrupted.
pub(super) async fn wait_and_hold(
    session: &Session,
    prize: Prize,
    name: &[u8],
    mut acquiring: Acquiring,
    command: &[OsString],
) -> Result<u8, Failure> {
    let hold = loop {
        match acquiring.next().await? {
            Turn::Held(hold) => break hold,
            Turn::Waiting { position, holders } => {
                let shown_state = Shown::Waiting { position, holders: &holders };
                if command.is_empty() {
                    session.output.print(&shown_state, shown_state.line())?;
                } else {
                    // Standard output is the command's.
                    let line = shown_state.line();
                    say(&format!("\"{}\": {line}", shown(name)));
                }
            }
        }
    };
    if command.is_empty() {
        hold_until_interrupted(session, prize, hold).await
    } else {
        run_while_holding(session, hold, command).await
    }
}

async fn hold_until_interrupted(
    session: &Session,
    prize: Prize,
    mut hold: Hold,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
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
                if matches!(signal, Signal::HUP | Signal::INT | Signal::QUIT | Signal::TERM) {
                    hold.release().await?;
                    return Ok(DONE);
                }
            }
        }
    }
}

fn print(session: &Session, prize: Prize, hold: &Hold, state: &HoldState) -> io::Result<()> {
    let (token, lease) = (hold.token(), hold.lease().to_string());
    let valid_for_ms = u64::try_from(state.valid_until.remaining().as_millis()).unwrap_or(u64::MAX);
    let shown_state = match &state.condition {
        Condition::AtRisk { reason } => Shown::AtRisk { token, valid_for_ms, reason },
        Condition::Held => match prize {
            Prize::Leadership => Shown::Leader { token, lease, valid_for_ms },
            Prize::Lock => Shown::Held { token, lease, valid_for_ms },
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
