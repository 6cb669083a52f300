//! Decides that what is said on standard error never holds up what must happen in time.
//!
//! A terminal that is stopped (Ctrl-S) or a full pipe blocks whoever writes to it; the deadline of
//! a command that must be stopped does not wait for that. So a thread writes, and when it falls
//! behind, lines are dropped.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that wait for the writer; sent by whoever has something to say. Full means dropped.
const LINES_MAX: usize = 64;
/// How long the last lines are waited for at the end.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct Notices {
    lines: Option<SyncSender<String>>,
    finished: Receiver<()>,
}

impl Notices {
    pub(super) fn start() -> Self {
        let (lines, inbox) = sync_channel::<String>(LINES_MAX);
        let (done, finished) = sync_channel(1);
        // Ends when `lines` is dropped, or with the process.
        std::thread::spawn(move || {
            for line in inbox {
                // There is nobody to tell that standard error is gone.
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
            let _ = done.send(());
        });
        Self { lines: Some(lines), finished }
    }

    pub(super) fn say(&self, line: &str) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(format!("quorumctl: {line}\n"));
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.finished.recv_timeout(FLUSH_WITHIN);
    }
}
