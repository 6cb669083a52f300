//! The command line `quorumctl`: what a person or a script types, and what it prints.
//!
//! One file per group of commands; each defines its arguments and what is done with them, on
//! nothing but [`crate::client`]. `command.rs` lists them all, `exit.rs` the exit statuses,
//! `output.rs` how answers look.
//!
//! `lock NAME -- CMD` and `elect NAME -- CMD` are more than that: they run a command only for as
//! long as nobody else can hold. Four processes take part:
//!
//! ```text
//! quorumctl lock      talks to the daemon; forwards signals; decides when CMD is stopped (run.rs,
//!                     stopping.rs) and stops it with all its descendants (supervise.rs)
//!   quorumctl __guard lives as long as any descendant of CMD; kills them all when its parent
//!                     dies, also by SIGKILL (guard.rs)
//!     quorumctl __exec → CMD   in a session of its own; killed by the kernel when the guard dies
//! ```
//!
//! Both `quorumctl` and the guard are subreapers (prctl(2), PR_SET_CHILD_SUBREAPER): a descendant
//! that loses its parent becomes a child of the guard, or of `quorumctl` once that is gone. So no
//! descendant escapes by forking twice or leaving its group or session, and `no child left` means
//! that none is left. What escapes: a SIGKILL of both at once leaves those that CMD started; a
//! SIGSTOP of `quorumctl` stops its clock; a process of another user that CMD became cannot be
//! signalled. The fencing token in `QUORUMD_TOKEN` is for these.

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
mod output;
mod processes;
mod run;
mod signals;
mod stopping;
mod supervise;
mod watch;

#[cfg(test)]
mod command_test;
#[cfg(test)]
mod lock_test;

pub use command::run;
pub use supervise::OwnProgram;
