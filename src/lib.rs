//! quorumd: cluster coordination as a sidecar.
//!
//! The modules, bottom-up; each may use only what `tests/tidy.rs` allows it:
//!
//! - [`base`]: words that all layers share
//! - [`raft`]: consensus, pure
//! - [`state`]: the replicated state machine, pure
//! - [`watch`]: recent history and the place of each watcher in it, pure
//! - [`wire`]: every byte that outlives a process
//! - [`pki`]: certificates and TLS settings
//! - [`peer`]: links between daemons
//! - [`api`]: the local HTTP API
//! - [`telemetry`]: what operators see of a running daemon
//! - [`config`]: the configuration file

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(
    clippy::unwrap_used,
    clippy::dbg_macro,
    clippy::todo,
    clippy::unimplemented,
    clippy::print_stdout
)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

pub mod api;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod base;
pub mod config;
pub mod peer;
pub mod pki;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod raft;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod state;
pub mod telemetry;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod watch;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod wire;
