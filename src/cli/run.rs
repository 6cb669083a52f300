//! Decides how a command runs under a lock: signals are passed on, warnings given, and it is
//! stopped before anybody else can hold.
//!
//! When is decided in `stopping.rs`, how in `supervise.rs`; `client/hold.rs` says how the lock
//! stands.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::command::Session;
use super::exit::{CANNOT_RUN, Failure, LOST};
use super::notices::Notices;
use super::output::shown;
use super::signals::Signals;
use super::stopping::{Step, Stopping};
use super::supervise::Supervised;
use crate::client::{BootInstant, Condition, Hold, HoldState, Loss};

/// How long the daemon is given to confirm a release; after it, closing the connection releases.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);
/// How long a socket may take to accept a connection when only whether it does is of interest.
const ACCEPT_WITHIN: Duration = Duration::from_millis(50);

/// Runs `command` while `hold` is held and releases it when the command and all its descendants
/// have ended. The status to exit with.
pub(super) async fn run_while_holding(
    session: &Session,
    mut hold: Hold,
    command: &[OsString],
) -> Result<u8, Failure> {
    let notices = Notices::start();
    let mut signals = Signals::listen()?;
    let mut supervised = start(session, &hold, command)?;
    let mut stopping = Stopping::new(hold.ttl(), hold.valid_until());
    let mut last = Condition::Held;
    let status = loop {
        carry_out(&mut stopping, &supervised, &notices)?;
        tokio::select! {
            biased;
            status = supervised.ended() => break status?,
            () = stopping.next_deadline().reached() => {}
            signal = signals.next() => supervised.forward(signal),
            state = hold.changed(), if !matches!(last, Condition::Lost(_)) => {
                stopping.promised(state.valid_until);
                if last != state.condition {
                    hear(&state, &mut stopping, &notices);
                }
                last = state.condition;
                if let Condition::Lost(Loss::Disconnected { .. }) = last {
                    carry_out(&mut stopping, &supervised, &notices)?;
                    if daemon_accepts(session.client.socket()).await {
                        // It lives and has ended our connection, which releases the lock.
                        stopping.told_lost(BootInstant::now());
                    }
                }
            }
        }
    };
    if stopping.has_begun() {
        notices.say(&format!("{} was lost and the command has been stopped", named(&hold)));
        return Ok(LOST);
    }
    // Whatever comes of it: dropping the hold closes its connection, and that releases too.
    let _ = tokio::time::timeout(RELEASE_WITHIN, hold.release()).await;
    Ok(status)
}

fn start(session: &Session, hold: &Hold, command: &[OsString]) -> Result<Supervised, Failure> {
    // The command may change its directory.
    let socket = std::path::absolute(session.client.socket())?;
    let (token, lease) = (hold.token().to_string(), hold.lease().to_string());
    let environment: [(&str, &OsStr); 4] = [
        ("QUORUMD_LEASE", lease.as_ref()),
        ("QUORUMD_NAME", OsStr::from_bytes(hold.name())),
        ("QUORUMD_SOCKET", socket.as_os_str()),
        ("QUORUMD_TOKEN", token.as_ref()),
    ];
    Supervised::start(&session.own, command, &environment)
        .map_err(|error| Failure::new(CANNOT_RUN, format!("cannot start the guard: {error}")))
}

fn carry_out(
    stopping: &mut Stopping,
    supervised: &Supervised,
    notices: &Notices,
) -> io::Result<()> {
    // One time for all steps: a round of killing on a busy host takes longer than the pause after
    // it, and whoever was killed must be reaped before the next.
    let now = BootInstant::now();
    while let Some(step) = stopping.step(now) {
        match step {
            Step::Terminate => {
                supervised.terminate()?;
                notices.say("stopping the command with SIGTERM, before anyone else can hold");
            }
            Step::Kill => {
                supervised.kill()?;
                if supervised.left() > 0 {
                    notices.say("killing what is left of the command with SIGKILL");
                }
            }
        }
    }
    Ok(())
}

fn hear(state: &HoldState, stopping: &mut Stopping, notices: &Notices) {
    let now = BootInstant::now();
    match &state.condition {
        Condition::AtRisk { reason } => {
            let left = state.valid_until.remaining().as_millis();
            notices.say(&format!("at risk, nobody else can hold for another {left} ms: {reason}"));
        }
        Condition::Held => {}
        Condition::Lost(Loss::Disconnected { detail }) => {
            stopping.daemon_gone(now);
            notices.say(&format!("the daemon is gone: {detail}"));
        }
        // The deadline has come before it.
        Condition::Lost(Loss::Expired) => notices.say("the daemon has not answered in time"),
        Condition::Lost(Loss::Told { reason }) => {
            stopping.told_lost(now);
            notices.say(&format!("lost: {reason}"));
        }
    }
}

async fn daemon_accepts(socket: &Path) -> bool {
    match tokio::time::timeout(ACCEPT_WITHIN, UnixStream::connect(socket)).await {
        Ok(connected) => connected.is_ok(),
        // A socket that neither accepts nor refuses belongs to a daemon that lives.
        Err(_) => true,
    }
}

fn named(hold: &Hold) -> String {
    format!("\"{}\"", shown(hold.name()))
}
