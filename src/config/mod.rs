//! The configuration file: YAML in, a validated [`Config`] out, or every mistake in it at once.
//!
//! A file is read in three steps, each in a file of its own. `source` turns the text into a tree
//! whose nodes can be found again by line and column. `file` walks that tree along the schema:
//! kinds of values, ranges, keys that nobody knows. `check` looks at what the settings mean
//! together and fills in the defaults of `options`. A setting that is wrong in itself is left out
//! of the later checks, so that one mistake is reported once.
//!
//! The layers below know nothing of this folder: each takes its own options, and `options` makes
//! them. `docs/configuration.md` and `examples/quorumd.yaml` explain each key to people; a test
//! holds both against the code.

mod access;
mod check;
mod file;
mod files;
#[cfg(test)]
mod files_test;
#[cfg(test)]
mod hostile_test;
mod options;
mod publish;
mod report;
mod source;
mod values;

#[cfg(test)]
mod config_test;

pub use check::{load, parse};
pub use options::{Config, History, Http, Limits, MemberRole, Seed, Socket, TlsFiles};
pub use report::{ConfigError, Finding};
