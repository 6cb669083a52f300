//! Decides that what is said on standard error, or to the service manager, never holds up what must
//! happen in time.
//!
//! A terminal that is stopped (Ctrl-S) or a full pipe blocks whoever writes to it; the deadline of
//! a command that must be stopped does not wait for that. So a thread writes, and when it falls
//! behind, lines are dropped.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

/// Lines that wait for the writer; sent by whoever has something to say. Full means dropped.
const LINES_MAX: usize = 64;
/// How long the last lines are waited for at the end.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

enum Notice {
    /// The service is ready (sd_notify(3)).
    Ready,
    /// A line on standard error.
    Say(String),
    /// The line that `systemctl status` shows.
    Status(String),
}

pub(super) struct Notices {
    lines: Option<SyncSender<Notice>>,
    finished: Receiver<()>,
}

impl Notices {
    pub(super) fn start() -> Self {
        let (lines, inbox) = sync_channel::<Notice>(LINES_MAX);
        let (done, finished) = sync_channel(1);
        // Ends when `lines` is dropped, or with the process.
        std::thread::spawn(move || {
            inbox.iter().for_each(write);
            let _ = done.send(());
        });
        Self { lines: Some(lines), finished }
    }

    pub(super) fn say(&self, line: &str) {
        self.send(Notice::Say(format!("quorumctl: {line}\n")));
    }

    /// Nothing, where no service manager listens.
    pub(super) fn ready(&self) {
        self.send(Notice::Ready);
    }

    /// Nothing, where no service manager listens.
    pub(super) fn status(&self, line: &str) {
        self.send(Notice::Status(line.to_owned()));
    }

    fn send(&self, notice: Notice) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(notice);
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.finished.recv_timeout(FLUSH_WITHIN);
    }
}

fn write(notice: Notice) {
    // There is nobody to tell that standard error, or the service manager, is gone.
    match notice {
        Notice::Ready => drop(sd_notify::notify(&[NotifyState::Ready])),
        Notice::Say(line) => drop(std::io::stderr().lock().write_all(line.as_bytes())),
        Notice::Status(line) => drop(sd_notify::notify(&[NotifyState::Status(&line)])),
    }
}
