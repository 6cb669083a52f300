//! Decides which signals reach a supervised command through its supervisors, and which of them ask
//! for the end.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

/// What is passed on.
const FORWARDED: [Signal; 8] = [
    Signal::CONT,
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
];

/// A signal that is passed on, by its name with or without `SIG`.
pub(super) fn by_name(name: &str) -> Result<Signal, String> {
    let upper = name.to_ascii_uppercase();
    let found = match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        _ => {
            let names = "CONT, HUP, INT, QUIT, TERM, USR1, USR2, WINCH";
            return Err(format!("no signal of that name is passed on, only {names}"));
        }
    };
    Ok(found)
}

/// Whether it asks whoever gets it to end; SIGHUP does so only of those who do not read their
/// configuration anew.
pub(super) fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT | Signal::TERM)
}

/// Whether it ends who only waits.
pub(super) fn ends_waiting(signal: Signal) -> bool {
    signal == Signal::HUP || asks_to_end(signal)
}

/// The exit status of a program that a signal has ended, as a shell reports it.
pub(super) fn status_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// The signals that arrive at this process.
pub(super) struct Signals {
    arrivals: Vec<(Signal, Arrivals)>,
    /// Taken and passed on to nobody: a supervisor that is stopped by the terminal's stop key could
    /// not stop its command in time.
    _stop_key: Arrivals,
}

impl Signals {
    /// From now on they no longer end this process. One that was ignored when it began (nohup(1))
    /// stays ignored.
    pub(super) fn listen() -> io::Result<Self> {
        let ignored = ignored_mask();
        let mut arrivals = Vec::new();
        for forwarded in FORWARDED {
            let raw = forwarded.as_raw();
            if ignored & (1 << (raw - 1)) == 0 {
                arrivals.push((forwarded, signal(SignalKind::from_raw(raw))?));
            }
        }
        let stop_key = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
        Ok(Self { arrivals, _stop_key: stop_key })
    }

    /// The next one. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (which, arrivals) in &mut self.arrivals {
                if let Poll::Ready(Some(())) = arrivals.poll_recv(context) {
                    return Poll::Ready(*which);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A bit for each signal that this process ignores (proc_pid_status(5), SigIgn).
fn ignored_mask() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_passed_on_has_a_name() {
        for name in ["CONT", "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"] {
            let signal = by_name(name).unwrap();
            assert!(FORWARDED.contains(&signal));
            assert_eq!(by_name(&format!("sig{name}")), Ok(signal));
        }
        assert!(by_name("KILL").unwrap_err().contains("USR1"));
        assert_eq!(status_of(Signal::INT), 130);
    }
}
