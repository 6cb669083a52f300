//! quorumd: cluster coordination as a sidecar.
//!
//! The modules, bottom-up; each may use only what `tests/tidy.rs` allows it:
//!
//! - [`base`]: words that all layers share
//! - [`raft`]: consensus, pure
//! - [`state`]: the replicated state machine, pure
//! - [`watch`]: recent history and the place of each watcher in it, pure
//! - [`wire`]: every byte that outlives a process
//! - [`storage`]: the durable log and the durable state
//! - [`replica`]: one member as a synchronous object: events in, actions out
//! - [`pki`]: certificates and TLS settings
//! - [`peer`]: links between daemons
//! - [`node`]: the running daemon: threads and tasks around one replica
//! - [`enroll`]: how a host becomes a member: tokens, certificates, the change of members
//! - [`host`]: what the host adds: who asks
//! - [`api`]: the local HTTP API
//! - [`client`]: an asynchronous client of the local API
//! - [`telemetry`]: what operators see of a running daemon
//! - [`config`]: the configuration file
//! - [`daemon`]: assembly of the process
//! - [`cli`]: the command line `quorumctl`

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

// The simulated disk is written for the simulator, which sees this library from outside; the unit
// tests of `storage/` include the same file.
#[cfg(test)]
extern crate self as quorumd;

pub mod api;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod base;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod enroll;
pub mod host;
pub mod node;
pub mod peer;
pub mod pki;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod raft;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod replica;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod state;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod storage;
pub mod telemetry;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod watch;
#[deny(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod wire;
