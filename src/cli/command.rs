//! Decides what the command line looks like as a whole: global options, the commands, and how a
//! failure is told.
//!
//! What each command takes and does is in the file of its group.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::access::AccessCommand;
use super::barrier::Barrier;
use super::ca::CaCommand;
use super::elect::Elect;
use super::exit::{DONE, FAILED, Failure, USAGE};
use super::guard::{Executed, Guarded};
use super::kv::{Compact, Delete, Get, List, Put, Txn};
use super::lease::LeaseCommand;
use super::lock::Lock;
use super::members::Members;
use super::node::{rebuild, reload, status};
use super::output::{Output, say};
use super::supervise::OwnProgram;
use super::token::TokenCommand;
use super::unit::UnitStop;
use super::watch::Watch;
use crate::client::{Client, DurationText, IdempotencyKey, WriteOptions};

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 error; 2 wrong usage; 3 not found; 4 condition not met, lock not free or \
barrier not complete in time; 5 daemon unreachable, no leader or not ready (nothing was \
changed); 6 outcome of a write unknown; 7 lock or leadership lost while it was held. With -- CMD \
otherwise the status of CMD, 128 and the signal's number when a signal ended it, 126 when it \
cannot be run, 127 when it is not found.";

/// Keys, watches, leases, locks and elections of a quorumd cluster, through the daemon of this host
#[derive(Debug, Parser)]
#[command(name = "quorumctl", version, after_help = EXIT_STATUS, propagate_version = true)]
pub(super) struct CommandLine {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        env = "QUORUMD_SOCKET",
        default_value = "/run/quorumd/quorumd.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// The form of the output
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The access rules of this host, and whom they allow what
    #[command(subcommand)]
    Access(AccessCommand),
    /// Wait until as many have come as it counts, then run a command
    Barrier(Barrier),
    /// The authority that signs the members' certificates
    #[command(subcommand)]
    Ca(CaCommand),
    /// Forget the history before a revision
    Compact(Compact),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Delete a key, or all keys with a prefix
    Delete(Delete),
    /// Win an election, run a command while leading; or observe one
    Elect(Elect),
    #[command(name = "__exec", hide = true)]
    Exec(Executed),
    /// Print the value of a key
    Get(Get),
    #[command(name = "__guard", hide = true)]
    Guard(Guarded),
    /// Grant, keep alive, revoke and look at leases
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// List keys with their values
    List(List),
    /// Take a lock, run a command while holding it
    Lock(Lock),
    /// The members of the cluster, and changes of them
    #[command(subcommand_precedence_over_arg = true)]
    Members(Members),
    /// Set a key
    Put(Put),
    /// Replace the state of this node, which differs from the others', by the leader's
    Rebuild,
    /// Have the daemon read its configuration, certificates and token again
    Reload,
    /// How this node and its cluster are
    Status,
    /// Tokens by which hosts join the cluster
    #[command(subcommand)]
    Token(TokenCommand),
    /// Do several operations at once, or none
    Txn(Txn),
    /// What quorumd-elect@ and quorumd-lock@ run after they have ended: stop the unit, then release
    UnitStop(UnitStop),
    /// Print changes as they happen
    Watch(Watch),
}

/// What every command works with.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) output: Output,
    pub(super) own: OwnProgram,
}

/// How a write is made.
#[derive(Args, Clone, Debug)]
pub(super) struct Writing {
    /// Makes the write safe to repeat: the daemon applies it once
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<IdempotencyKey>,
    /// Repeat the write for so long until its outcome is known
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    retry_for: Option<Duration>,
    /// How long the daemon may take [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

impl Writing {
    pub(super) fn options(&self) -> WriteOptions {
        WriteOptions {
            idempotency_key: self.idempotency_key.clone(),
            retry_for: self.retry_for,
            timeout: self.timeout,
        }
    }
}

/// A duration as the API writes it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<DurationText>().map(|duration| duration.0).map_err(|error| error.to_string())
}

fn idempotency_key(text: &str) -> Result<IdempotencyKey, String> {
    IdempotencyKey::new(text).map_err(|error| error.to_string())
}

/// Runs one command line, of which `arguments` begins with the program's name; the exit status.
pub fn run(own: OwnProgram, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help goes to standard output, an error to standard error; neither has another way to
            // fail than that its reader is gone.
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { DONE };
        }
    };
    let output = line.output;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(Output::Text, &Failure::from(error)),
    };
    match runtime.block_on(line.run(own)) {
        Ok(status) => status,
        Err(failure) => tell(output, &failure),
    }
}

fn tell(output: Output, failure: &Failure) -> u8 {
    match output {
        _ if failure.message.is_empty() => {}
        Output::Json => {
            let line = serde_json::to_string(failure).unwrap_or_default();
            // There is nobody to tell that standard error is gone.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        Output::Text => say(&failure.message),
    }
    failure.status
}

impl CommandLine {
    async fn run(self, own: OwnProgram) -> Result<u8, Failure> {
        let session = Session { client: Client::new(self.socket), output: self.output, own };
        let session = &session;
        match self.command {
            Command::Access(access) => access.run(session).await.map_err(Failure::of_a_read),
            Command::Barrier(barrier) => barrier.run(session).await,
            Command::Ca(command) => command.run(session).await,
            Command::Compact(compact) => compact.run(session).await,
            Command::Completions { shell } => completions(shell),
            Command::Delete(delete) => delete.run(session).await,
            Command::Elect(elect) => elect.run(session).await,
            Command::Exec(executed) => Err(executed.exec()),
            Command::Get(get) => get.run(session).await.map_err(Failure::of_a_read),
            Command::Guard(guarded) => guarded.guard(&session.own).await,
            Command::Lease(lease) => lease.run(session).await,
            Command::List(list) => list.run(session).await.map_err(Failure::of_a_read),
            Command::Lock(lock) => lock.run(session).await,
            Command::Members(members) => members.run(session).await,
            Command::Put(put) => put.run(session).await,
            Command::Rebuild => rebuild(session).await,
            Command::Reload => reload(session).await,
            Command::Status => status(session).await.map_err(Failure::of_a_read),
            Command::Token(token) => token.run(session).await,
            Command::Txn(txn) => txn.run(session).await,
            Command::UnitStop(stop) => stop.run(session).await,
            Command::Watch(watch) => watch.run(session).await.map_err(Failure::of_a_read),
        }
    }
}

fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "quorumctl", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(if script.is_empty() { FAILED } else { DONE })
}
