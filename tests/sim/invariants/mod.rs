//! What must hold in every run: one file per property, each with its source. A property that does
//! not hold panics with its name.
//!
//! The numbers are those of the project's list of invariants:
//!
//! | numbers | file | what |
//! |---|---|---|
//! | R1 | `election_safety` | one leader per term |
//! | R2, R4 | `vote_unique` | one vote per term, terms and votes never go back |
//! | R3 | `vote_legal` | votes go to complete logs |
//! | R5, R15 | `oracle.rs` | a leader only appends; appends are consecutive |
//! | R6 | `log_matching` | equal entries have equal logs before them |
//! | R7, R10, R11 | `committed_kept` | committed is on a quorum, in every later leader, for ever |
//! | R8, R16, K5 | `state_agrees` | equal states and events at equal indexes |
//! | R9 | `durable_before_send` | what is said is on the disk |
//! | R9, R17 | `progress_true` | what a leader counts is on that disk |
//! | R16 | `oracle.rs` | an installed state is committed and has the configuration of its place |
//! | R12, R13 | `order` | cut <= saved <= durable; applied only grows |
//! | R14 | `config_safety` | configurations follow each other safely |
//! | K1 to K5 | `histories` | what callers were told fits one order |
//! | K1, K4, K5, W8 | `store_model` | what each entry does, computed once more |
//! | K6, L6 | `read_confirmed` | reads and keepalives rest on a quorum |
//! | K7, L2 | `run.rs` | at the end there is one leader, one state, and nothing waits |
//! | L1, L5, L6 | `holder_exclusive` | what holders were told, on true time |
//! | L3, L5, L7, L8 | `lock_order` | queues and leases in the order of the log |
//! | W1 to W9 | `watch_complete` | every event once, in order, or told that not |
//!
//! R12 and R13 within a process are also checked by `quorumd::raft::check` after every poll. L4
//! does not apply: no read rests on a lease of the leader. W10 is the local API's, which is not
//! simulated.

pub mod committed_kept;
pub mod config_safety;
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
