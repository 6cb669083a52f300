//! The local API: HTTP/1.1 on a unix socket, and on a loopback TCP port when that is configured.
//!
//! The contract is `docs/api.md`. This folder turns requests into operations and reads of `node/`,
//! and outcomes into answers and streams. It decides nothing about keys, leases or queues.
//!
//! A request comes in through `server.rs` (who may connect, how many, for how long), `route.rs`
//! finds its handler, `params.rs` and `body.rs` read it strictly, and the file of its resource does
//! the rest. Every failure is a `Fault` and meets its status in `problem.rs`, which alone decides
//! between 503 (certainly not applied) and 504 (unknown). Streams are futures in the body of their
//! answer (`stream.rs`): when the peer goes, hyper drops them, and the guards of `bound.rs` end
//! what was bound to the connection.
//!
//! [`types`] is shared with `client/`, and is all that it may use of this folder.

mod access;
mod answer;
mod barrier;
mod body;
mod bound;
mod ca;
mod connection;
mod context;
mod election;
mod file_status;
mod health;
#[cfg(test)]
mod hostile_test;
mod kv;
mod lease;
mod lock;
mod loopback;
mod members;
mod params;
#[cfg(test)]
mod params_test;
mod permit;
#[cfg(test)]
mod permit_test;
mod place;
mod problem;
mod reservation;
mod route;
mod server;
#[cfg(test)]
mod socket_test;
mod starting;
mod status;
mod stream;
mod tokens;
mod txn;
pub mod types;
mod watch;

pub use context::Options;
pub use server::{Listeners, serve};
pub use starting::answer_not_ready;
