//! The benchmark of a whole cluster: three daemons, their local API, and etcd beside it if wanted.
//!
//! How to run it, and what each figure means: `docs/benchmarks.md`. What a figure asks of a cluster
//! is in `cluster/service.rs`, how the figures are taken in `cluster/figures.rs`.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the lints are for the pure folders; this program measures time and runs processes"
)]

#[path = "cluster/etcd.rs"]
mod etcd;
#[path = "cluster/figures.rs"]
mod figures;
#[path = "cluster/grpc.rs"]
mod grpc;
#[path = "cluster/holder.rs"]
mod holder;
#[path = "cluster/http1.rs"]
mod http1;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/messages.rs"]
mod messages;
#[path = "cluster/process.rs"]
mod process;
#[path = "cluster/quorumd.rs"]
mod quorumd;
#[path = "cluster/report.rs"]
mod report;
#[path = "cluster/service.rs"]
mod service;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::LocalSet;

use crate::etcd::Etcd;
use crate::figures::Plan;
use crate::quorumd::Quorumd;
use crate::report::{Figure, rows, table};
use crate::service::Cluster;

/// Measures a cluster of three daemons on this machine, and etcd beside it.
#[derive(Parser)]
struct Arguments {
    /// Only this group: start put get local lock handover watch leases failover holder
    #[arg(long)]
    only: Option<String>,
    /// Of put, get and local: only with so many clients (1 16 64 256)
    #[arg(long)]
    clients: Option<usize>,
    /// How long each load is measured
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measures this etcd in the same run
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// Measures only etcd
    #[arg(long, requires = "etcd")]
    no_quorumd: bool,
    /// This daemon instead of the one just built
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_quorumd"))]
    quorumd: PathBuf,
    /// Where the clusters keep their files: a directory on the disk that is meant
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Json,
    Text,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == holder::HOLD) {
        let socket = arguments.next().context("the socket is missing")?;
        return LocalSet::new().block_on(&runtime, holder::hold(Path::new(&socket)));
    }
    let arguments = Arguments::parse();
    // A connection per client and per lease, on both sides.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    LocalSet::new().block_on(&runtime, run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let plan = Plan {
        only: arguments.only.clone(),
        clients: arguments.clients,
        seconds: Duration::from_secs(arguments.seconds),
    };
    let mut ours = Vec::new();
    if !arguments.no_quorumd {
        ours = of_quorumd(arguments, &plan).await?;
    }
    let mut theirs = Vec::new();
    if let Some(program) = &arguments.etcd {
        let directory = directory(arguments)?;
        let mut cluster = Etcd::start(program, directory.path()).await?;
        theirs = figures::take(&mut cluster, &plan).await?;
    }
    let rows = rows(&ours, &theirs);
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Output::Text => print!("{}", table(&rows)),
    }
    Ok(())
}

async fn of_quorumd(arguments: &Arguments, plan: &Plan) -> Result<Vec<Figure>> {
    let directory = directory(arguments)?;
    let mut cluster = Quorumd::start(&arguments.quorumd, directory.path()).await?;
    let mut figures = figures::take(&mut cluster, plan).await?;
    if plan.wants("holder") {
        figures.extend(holder::figures(&cluster).await?);
    }
    let bytes = std::fs::metadata(&arguments.quorumd)?.len();
    figures.push(Figure::new("release binary", "MB", bytes as f64 / 1e6));
    Ok(figures)
}

fn directory(arguments: &Arguments) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(&arguments.dir)?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(&arguments.dir)?)
}
