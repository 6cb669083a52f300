//! The local API: HTTP/1.1 on a unix socket, and on a loopback TCP port when that is configured.
//!
//! The contract is `docs/api.md`. This folder turns requests into operations and reads of `node/`,
//! and outcomes into answers and streams. It decides nothing about keys, leases or queues.

pub mod types;
