//! What is said about a configuration file: mistakes and warnings, each with its place.
//!
//! What counts as a mistake is decided in `file` and `check`.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One mistake or warning, at one place of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as the caller named it.
    pub file: PathBuf,
    /// Line in the file; the first is 1.
    pub line: usize,
    /// Column in characters; the first is 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The content is wrong: every mistake that was found, in the order of the file.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", .file.display())]
    Read {
        /// The file, as the caller named it.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}
