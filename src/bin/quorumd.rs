//! The daemon's program: reads the command line. What each command does is decided in
//! `quorumd::daemon`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use quorumd::daemon;

/// Cluster coordination as a sidecar: one daemon per host.
#[derive(Parser)]
#[command(name = "quorumd", version)]
enum Command {
    /// Run one node in the foreground
    Run {
        /// Its configuration
        #[arg(long, default_value = "/etc/quorumd/quorumd.yaml")]
        config: PathBuf,
        #[arg(long, hide = true)]
        exit_with_parent: Option<u32>,
    },
    /// Say what is wrong with a configuration, and start nothing
    Check {
        #[arg(long, default_value = "/etc/quorumd/quorumd.yaml")]
        config: PathBuf,
    },
    /// Make the first node of a new cluster, with an authority of its own
    Init(daemon::InitOptions),
    /// Make a node of this host, which the members of a cluster let in for a token
    Join(daemon::JoinOptions),
    /// Look at a stopped node's data, or go on with it alone when the quorum is lost for good
    Recover(daemon::RecoverOptions),
    /// Run a cluster of processes on loopback, to try things and for tests
    Dev(daemon::DevOptions),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Run { config, exit_with_parent } => daemon::run(&config, exit_with_parent),
        Command::Check { config } => daemon::check(&config),
        Command::Dev(options) => daemon::dev(&options),
        Command::Init(options) => daemon::init(&options),
        Command::Join(options) => daemon::join(&options),
        Command::Recover(options) => daemon::recover(&options),
        Command::Version => daemon::version(),
    }
    .into()
}
