//! What systemd is told (sd_notify(3)): ready, stopping, and a line for `systemctl status`.
//!
//! Ready means that the local socket serves, not that there is a quorum: a unit that waited for a
//! quorum would make systemd kill the first node of a cluster in a loop (etcd#13785).

use sd_notify::NotifyState;

/// The local socket serves.
pub(super) fn ready() {
    send(&[NotifyState::Ready]);
}

/// Files are read again; [`ready`] follows. A unit of `Type=notify-reload` waits for both.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}

/// An orderly stop has begun.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The node's own threads go round.
pub(super) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// The line that `systemctl status` shows.
pub(super) fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Outside systemd this does nothing. A failure is worth a line and no more: the daemon serves
/// whether systemd hears of it or not.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
