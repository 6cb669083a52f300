//! Decides the exit status of `quorumctl`, and what it says when it fails.
//!
//! | status | means |
//! |---|---|
//! | 0 | done |
//! | 1 | another error |
//! | 2 | the command line is wrong |
//! | 3 | no such key, lease, lock |
//! | 4 | the condition did not hold, the lock was not free or the barrier not complete in time |
//! | 5 | the daemon cannot be reached, has no leader or is not ready: nothing was changed |
//! | 6 | the write may or may not have been applied |
//! | 7 | the lock or the leadership was lost while it was held |
//! | 126, 127 | CMD cannot be run, is not found |
//! | else | that of CMD; 128 and the signal's number when a signal ended it |

use std::io;

use serde::Serialize;

use crate::client::{Applied, Code, Error};

pub(super) const DONE: u8 = 0;
pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const NOT_FOUND: u8 = 3;
pub(super) const NOT_SO: u8 = 4;
pub(super) const UNAVAILABLE: u8 = 5;
pub(super) const UNKNOWN: u8 = 6;
pub(super) const LOST: u8 = 7;
pub(super) const CANNOT_RUN: u8 = 126;
pub(super) const COMMAND_NOT_FOUND: u8 = 127;

/// Why a command failed. Without a message there is nobody left to read it.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub(super) status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
    #[serde(rename = "detail")]
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, code: None, applied: None, message: message.into() }
    }

    /// The same failure of something that changes nothing: nothing can have been applied.
    pub(super) fn of_a_read(mut self) -> Self {
        self.applied = None;
        if self.status == UNKNOWN {
            self.status = UNAVAILABLE;
        }
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match (error.code(), error.applied()) {
            (Some(Code::KeyNotFound | Code::LeaseNotFound | Code::LockNotHeld), _) => NOT_FOUND,
            (Some(Code::Conflict | Code::LockHeld | Code::PreconditionFailed), _)
            | (Some(Code::BarrierIncomplete), _) => NOT_SO,
            (_, Applied::Maybe) => UNKNOWN,
            _ if matches!(error, Error::Invalid { .. }) => USAGE,
            _ if error.is_transient() => UNAVAILABLE,
            _ => FAILED,
        };
        let (code, applied) = (error.code(), Some(error.applied()));
        Self { status, code, applied, message: error.to_string() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader of the output has seen enough, as with `| head`.
            return Self::new(128 + 13, "");
        }
        Self::new(FAILED, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(FAILED, format!("{error:#}"))
    }
}
