//! Decides what a caller is told when a request fails, and whether it may have been applied.
//!
//! The daemon's own words are in [`Problem`]; whether to try again is decided in `call.rs`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::types::{Applied, Code, Problem};

/// Why a request failed. [`Error::applied`] says what became of a write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection ended after the request was handed over and before the answer was complete.
    #[error("the connection to the daemon broke before its answer was complete: {detail}")]
    Broken {
        /// What the connection said.
        detail: String,
    },
    /// No connection could be made; nothing was sent.
    #[error(
        "cannot reach the daemon at {}: {source}; is quorumd running, and may this user open its \
         socket?",
        socket.display()
    )]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The request was refused here, before it was sent.
    #[error("{detail}")]
    Invalid {
        /// What is wrong with it.
        detail: String,
    },
    /// The daemon answered that it failed.
    #[error("{}", described(.0))]
    Problem(Box<Problem>),
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {waited:?}")]
    Silent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The daemon's answer is not what its API promises.
    #[error("the daemon's answer cannot be understood (status {status}): {detail}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
}

fn described(problem: &Problem) -> String {
    match (problem.title.is_empty(), problem.detail.is_empty()) {
        (_, true) => problem.title.clone(),
        (true, false) => problem.detail.clone(),
        (false, false) => format!("{}: {}", problem.title, problem.detail),
    }
}

impl Error {
    /// Whether a write that failed so was applied. For reads it means nothing.
    pub fn applied(&self) -> Applied {
        match self {
            Self::Connect { .. } | Self::Invalid { .. } => Applied::No,
            Self::Broken { .. } | Self::Silent { .. } | Self::Unexpected { .. } => Applied::Maybe,
            Self::Problem(problem) => {
                let unsaid = if problem.status == 504 { Applied::Maybe } else { Applied::No };
                problem.applied.unwrap_or(unsaid)
            }
        }
    }

    /// The daemon's code, when it was the daemon that said no.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// The daemon's problem document, when there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the same request may succeed a little later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Connect { .. } | Self::Silent { .. } => true,
            Self::Problem(problem) => matches!(
                problem.code,
                Code::Lagged
                    | Code::NoLeader
                    | Code::NotReady
                    | Code::OutcomeUnknown
                    | Code::ShuttingDown
                    | Code::Timeout
                    | Code::TooManyRequests
                    | Code::Unavailable
            ),
            Self::Invalid { .. } | Self::Unexpected { .. } => false,
        }
    }

    pub(super) fn unexpected(status: u16, detail: impl ToString) -> Self {
        Self::Unexpected { status, detail: detail.to_string() }
    }
}
