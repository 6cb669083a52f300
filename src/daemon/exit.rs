//! How the process ends: the exit codes that scripts and units rely on, and the last words.
//!
//! What went wrong is decided elsewhere; here it gets its number (docs/configuration.md lists
//! them).

use std::io::Write;

use anyhow::anyhow;

use crate::node::{Ended, StartError};
use crate::storage::StorageError;

/// The exit codes of `quorumd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitCode {
    /// 0: stopped cleanly.
    Clean,
    /// 3: the data directory is in use, or belongs to another node or cluster.
    DataDirectory,
    /// 1: anything else.
    Other,
    /// 4: a write or sync failed, or what is on disk is damaged.
    Storage,
    /// 2: the command line or the configuration is wrong.
    Usage,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl ExitCode {
    /// The number that the parent process sees.
    pub fn number(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::DataDirectory => 3,
            Self::Storage => 4,
        }
    }
}

/// Why a command ends without success: what is said, and the code.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: ExitCode,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: ExitCode::Other, error }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Directory { .. } | StartError::Refused { .. } => ExitCode::DataDirectory,
            StartError::Pki(_) => ExitCode::Usage,
            StartError::Recover(_) | StartError::State(_) => ExitCode::Storage,
            StartError::Storage(StorageError::InUse { .. }) => ExitCode::DataDirectory,
            StartError::Storage(_) => ExitCode::Storage,
            _ => ExitCode::Other,
        };
        Self { code, error: anyhow!("{error}") }
    }
}

impl From<&Ended> for Failure {
    fn from(ended: &Ended) -> Self {
        let code = match ended {
            Ended::Refused { .. } => ExitCode::DataDirectory,
            Ended::Storage(_) | Ended::StoppedOnFullDisk => ExitCode::Storage,
            _ => ExitCode::Other,
        };
        Self { code, error: anyhow!("{ended}") }
    }
}

/// Prints the program's version.
pub fn version() -> ExitCode {
    say(&format!("quorumd {}", env!("CARGO_PKG_VERSION")));
    ExitCode::Clean
}

/// Writes a line for the person who started the command. A closed stream is no reason to fail.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The code of a command that is over; what went wrong is written to the error stream.
pub(super) fn conclude(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::Clean,
        Err(failure) => {
            let _ = writeln!(std::io::stderr().lock(), "quorumd: {:#}", failure.error);
            failure.code
        }
    }
}
