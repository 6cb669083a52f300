//! What must hold in every run: one file per property, each with its source.
//!
//! Numbers such as R1, K4 or L6 are those of the project's list of invariants; each file says what
//! its own means. A property that does not hold panics with its name.

pub mod committed_kept;
pub mod durable_before_send;
pub mod election_safety;
pub mod histories;
pub mod holder_exclusive;
pub mod lock_order;
pub mod log_matching;
pub mod order;
pub mod progress_true;
pub mod read_confirmed;
pub mod state_agrees;
pub mod store_model;
pub mod vote_legal;
pub mod vote_unique;
pub mod watch_complete;
