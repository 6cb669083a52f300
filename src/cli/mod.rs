//! The command line `quorumctl`: what a person or a script types, and what it prints.
//!
//! One file per group of commands; each defines its arguments and what is done with them, on
//! nothing but [`crate::client`]. `command.rs` lists them all, `exit.rs` the exit statuses,
//! `output.rs` how answers look.
//!
//! `lock NAME -- CMD` and `elect NAME -- CMD` are more than that: they run a command only for as
//! long as nobody else can hold. Three processes take part, besides what CMD starts:
//!
//! ```text
//! quorumctl lock      talks to the daemon; waits for the turn, again and again (restart.rs);
//!                     passes signals on, runs hooks, decides when CMD is stopped (run.rs,
//!                     stopping.rs) and stops it with all its descendants (supervise.rs)
//!   quorumctl __guard lives as long as any descendant of CMD; kills them all when its parent
//!                     dies, also by SIGKILL, and at the deadline that it was told (guard.rs,
//!                     orders.rs)
//!     quorumctl __exec → CMD
//!                     in a session of its own; killed by the kernel when the guard dies
//! ```
//!
//! Both `quorumctl` and the guard are subreapers (prctl(2), PR_SET_CHILD_SUBREAPER): a descendant
//! that loses its parent becomes a child of the guard, or of `quorumctl` once that is gone. So no
//! descendant escapes by forking twice or leaving its group or session, and `no child left` means
//! that none is left. A SIGSTOP of either is made good by the other. What escapes: a SIGKILL of
//! both at once leaves what CMD started (CMD itself dies), a SIGSTOP of both stops both clocks, and
//! a process of another user that CMD became cannot be signalled. The fencing token in
//! `QUORUMD_TOKEN` is for these.
//!
//! `--unit U` runs a unit of systemd instead, whose processes are systemd's to watch (unit.rs).

mod access;
mod barrier;
mod ca;
mod command;
mod elect;
mod exit;
mod guard;
mod hold;
mod kv;
mod lease;
mod lock;
mod members;
mod node;
mod notices;
mod orders;
mod output;
mod processes;
mod restart;
mod run;
mod running;
mod signals;
mod stopping;
mod supervise;
mod systemctl;
mod token;
mod unit;
mod unit_lease;
mod watch;
mod watch_cursor;
mod watch_event;
mod watch_exec;

#[cfg(test)]
mod command_test;
#[cfg(test)]
mod lock_scene;
#[cfg(test)]
mod lock_test;
#[cfg(test)]
mod running_test;

pub use command::run;
pub use supervise::OwnProgram;
