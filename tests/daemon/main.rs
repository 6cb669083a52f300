//! The programs as their users meet them: real processes, real sockets, real kills.
//!
//! One test program, because each links the whole library. What a cluster under test is made of is
//! in `harness.rs`, how it is spoken to in `http.rs`, how its nodes are cut off from each other in
//! `network.rs`, how it is kept busy in `workload.rs`, and single programs are started by
//! `started.rs`; every other file is one topic.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod harness;
mod http;
mod network;
mod started;
mod workload;

mod access;
mod api_scripts;
mod bad_input;
mod certs;
mod cli;
mod data_dir;
mod dev;
mod disk_full;
mod divergence;
mod examples;
mod files;
mod handover;
mod holder;
mod join;
mod kill;
mod members;
mod namespaces;
mod partition;
mod pause;
mod peer_port;
mod process_bound;
mod publish;
mod readme;
mod recover;
mod run;
mod running;
mod snapshot;
mod status;
mod unit_hold;
mod units;
mod watch_exec;
