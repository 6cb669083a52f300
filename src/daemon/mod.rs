//! Assembly of the process: order of start, signals, systemd, exit codes, and clusters for
//! developers.
//!
//! `quorumd run` is put together in `run`: configuration, logging, data directory, certificates,
//! node, local socket, in this order, so that what can be refused is refused before anything is
//! touched. Stopping goes the other way. `check` does the first part of it and starts nothing.
//!
//! `quorumd init` and `quorumd join` make the files of a node (`node_files`), and start nothing.
//! A running daemon reads its files again in `reload`, and puts in force what may change.
//!
//! `quorumd recover` opens the files of a node that does not run, and starts nothing.
//!
//! `quorumd dev` starts several ordinary daemons as processes of their own. What it needs on disk
//! is made in `dev_files`, from a plan that is written once; `dev` only starts, watches and stops
//! processes. A node of such a cluster knows nothing of it, but that it ends when its parent does
//! (`parent`).

mod check;
mod descriptors;
mod dev;
mod dev_files;
mod exit;
mod init;
mod join;
mod node_files;
mod notify;
mod parent;
mod recover;
mod reload;
mod run;
mod signals;
mod sockets;
mod watchdog;

#[cfg(test)]
mod dev_files_test;

pub use check::check;
pub use dev::{DevOptions, dev};
pub use exit::{ExitCode, version};
pub use init::{InitOptions, init};
pub use join::{JoinOptions, join};
pub use recover::{RecoverOptions, recover};
pub use run::run;
