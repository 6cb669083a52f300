//! `quorumd dev`: starts a cluster of processes on loopback, watches it, and stops it.
//!
//! What it has on disk is made in `dev_files`. The nodes are ordinary: everything they do is
//! decided in `run`. No process outlives this one: each is started by its main thread, and asks the
//! kernel to be killed when that ends (`parent`).

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dev_files::{self, DevCluster, DevNode};
use super::exit::{ExitCode, Failure, conclude, say};
use super::signals::StopSignals;

/// How long the nodes may take until each has a leader and is caught up.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two questions to a node that is not ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a port may still be held by a process of a former run that was just killed.
const PORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node may take to stop beyond the grace of its own configuration.
const STOP_MARGIN: Duration = Duration::from_secs(2);
/// How long a node may take to answer one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of a node's log that are shown when it fails.
const LOG_LINES: usize = 10;

/// What the command line of `quorumd dev` says.
#[derive(Clone, Debug, clap::Args)]
pub struct DevOptions {
    /// Nodes of the cluster: 3, or as many as the directory holds already.
    #[arg(long)]
    pub nodes: Option<usize>,
    /// Where everything is kept: configurations, certificates, data, sockets, logs.
    #[arg(long = "dir", value_name = "DIR", default_value = "quorumd-dev")]
    pub directory: PathBuf,
}

/// Runs a cluster until SIGINT or SIGTERM.
pub fn dev(options: &DevOptions) -> ExitCode {
    conclude(start(options))
}

fn start(options: &DevOptions) -> Result<(), Failure> {
    let cluster = dev_files::prepare(&options.directory, options.nodes)?;
    // One thread, this one: a child is killed when the *thread* that started it ends (prctl(2)).
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(supervise(&cluster))
}

async fn supervise(cluster: &DevCluster) -> Result<(), Failure> {
    let mut signals = StopSignals::new().context("cannot listen for signals")?;
    remove_cluster_file(cluster)?;
    let _ports = reserve_ports(cluster).await?;
    let mut processes = Processes::start(cluster)?;
    let outcome = tokio::select! {
        signal = signals.next() => Ok(Some(signal)),
        ready = processes.ready() => ready.map(|()| None),
    };
    let outcome = match outcome {
        Ok(None) => {
            write_cluster_file(cluster, &processes)?;
            say(&instructions(cluster)?);
            Ok(processes.watch(&mut signals).await)
        }
        Ok(Some(signal)) => Ok(signal),
        Err(error) => Err(error),
    };
    if let Ok(signal) = &outcome {
        say(&format!("{signal}: stopping (again: at once)"));
    }
    let clean = processes.stop(&mut signals).await;
    remove_cluster_file(cluster)?;
    outcome?;
    if !clean {
        return Err(anyhow!("not every node stopped cleanly; their logs say more").into());
    }
    say("stopped; the same command starts this cluster again with its data");
    Ok(())
}

/// One socket per node that keeps its port from being taken. See [`dev_files::reserve`].
async fn reserve_ports(cluster: &DevCluster) -> anyhow::Result<Vec<TcpSocket>> {
    let deadline = Instant::now() + PORT_TIMEOUT;
    let mut sockets = Vec::new();
    for node in &cluster.nodes {
        let socket = loop {
            match dev_files::reserve(node.config.listen) {
                Ok(socket) => break socket,
                Err(error) if error.kind() != ErrorKind::AddrInUse || Instant::now() > deadline => {
                    bail!(
                        "{} of node {} cannot be used ({error}): stop the process that has it, or \
                         change it in {}/*/quorumd.yaml",
                        node.config.listen,
                        node.name,
                        cluster.directory.display()
                    );
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        };
        sockets.push(socket);
    }
    Ok(sockets)
}

/// The nodes' processes, in the order of the nodes.
struct Processes<'a> {
    running: Vec<Process<'a>>,
}

struct Process<'a> {
    node: &'a DevNode,
    pid: u32,
    /// Nothing once it has ended.
    child: Option<Child>,
}

impl<'a> Processes<'a> {
    fn start(cluster: &'a DevCluster) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut running = Vec::new();
        for node in &cluster.nodes {
            let child = start_node(&program, node)
                .with_context(|| format!("cannot start node {}", node.name))?;
            let pid = child.id().with_context(|| format!("node {} is gone already", node.name))?;
            running.push(Process { node, pid, child: Some(child) });
        }
        Ok(Self { running })
    }

    /// Waits until every node is ready. Fails when one ends first, or when it takes too long.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut waiting = JoinSet::new();
        for process in &self.running {
            let socket = process.node.config.socket.path.clone();
            let name = process.node.name.clone();
            waiting.spawn(async move {
                let answer = wait_until_ready(&socket, deadline).await;
                answer.map_err(|last| anyhow!("node {name} is not ready: {last}"))
            });
        }
        loop {
            tokio::select! {
                (index, status) = self.ended() => {
                    let Some(process) = self.running.get(index) else { continue };
                    bail!(
                        "node {} ended {}; the end of {}:\n{}",
                        process.node.name,
                        describe(status),
                        process.node.log.display(),
                        tail(&process.node.log)
                    );
                }
                done = waiting.join_next() => match done {
                    Some(answer) => answer.context("a task that waits for a node failed")??,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Tells of nodes that end on their own, until a signal comes.
    async fn watch(&mut self, signals: &mut StopSignals) -> &'static str {
        loop {
            tokio::select! {
                signal = signals.next() => return signal,
                (index, status) = self.ended() => {
                    let Some(process) = self.running.get(index) else { continue };
                    say(&format!(
                        "node {} (pid {}) ended {}; the others go on. To start it again:\n  \
                         quorumd run --config {}",
                        process.node.name,
                        process.pid,
                        describe(status),
                        process.node.config_path.display()
                    ));
                }
            }
        }
    }

    /// Waits for the next process to end; for ever when none runs. May be dropped at any await.
    async fn ended(&mut self) -> (usize, std::io::Result<ExitStatus>) {
        let mut waits = Vec::new();
        for (index, process) in self.running.iter_mut().enumerate() {
            if let Some(child) = &mut process.child {
                waits.push(Box::pin(async move { (index, child.wait().await) }));
            }
        }
        let (index, status) = first_of(waits).await;
        if let Some(process) = self.running.get_mut(index) {
            process.child = None;
        }
        (index, status)
    }

    /// Asks every process to stop, and kills those that do not; at once on a second signal. Says
    /// whether all ended cleanly.
    async fn stop(&mut self, signals: &mut StopSignals) -> bool {
        for process in self.running.iter().filter(|process| process.child.is_some()) {
            // A process that has just ended is no longer there to be asked.
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        let grace = |process: &Process<'_>| process.node.config.shutdown_grace.as_millis();
        let longest = self.running.iter().map(grace).max().unwrap_or(0);
        let deadline = Instant::now() + Duration::from_millis(longest) + STOP_MARGIN;
        let mut clean = true;
        while self.running.iter().any(|process| process.child.is_some()) {
            tokio::select! {
                (_, status) = self.ended() => clean &= status.is_ok_and(|status| status.success()),
                _ = signals.next() => break,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        for process in &mut self.running {
            if let Some(mut child) = process.child.take() {
                clean = false;
                // It fails only for a process that has ended.
                let _ = child.kill().await;
            }
        }
        clean
    }
}

/// The first of several futures to be done; the others are dropped. For ever when there is none.
async fn first_of<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    std::future::poll_fn(move |context| {
        let mut polled = futures.iter_mut().map(|future| std::pin::Pin::new(future).poll(context));
        polled.find(std::task::Poll::is_ready).unwrap_or(std::task::Poll::Pending)
    })
    .await
}

fn start_node(program: &Path, node: &DevNode) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&node.log)
        .with_context(|| format!("cannot open {}", node.log.display()))?;
    let also = log.try_clone()?;
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--config")
        .arg(&node.config_path)
        .arg("--exit-with-parent")
        .arg(std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(also)
        // Ctrl-C in a terminal reaches the whole group: it is for us, and we stop the nodes in
        // order.
        .process_group(0)
        // What systemd told us is not meant for the nodes.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM")
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Asks until the node says that it is ready. On error: what it said last.
async fn wait_until_ready(socket: &Path, deadline: Instant) -> Result<(), String> {
    let mut last = String::from("it was never asked");
    while Instant::now() < deadline {
        match timeout_at(deadline, timeout(ANSWER_TIMEOUT, ask_ready(socket))).await {
            Ok(Ok(Ok(status))) if status == "200" => return Ok(()),
            Ok(Ok(Ok(status))) => last = format!("/readyz answers {status}"),
            Ok(Ok(Err(error))) => last = format!("{}: {error}", socket.display()),
            Ok(Err(_)) | Err(_) => last = "it does not answer".to_owned(),
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(last)
}

/// The status that `GET /readyz` gets.
async fn ask_ready(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(64).read_to_end(&mut answer).await?;
    let line = String::from_utf8_lossy(&answer);
    Ok(line.split(' ').nth(1).unwrap_or("nothing").to_owned())
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("({status})"),
        Err(error) => format!("(its status is lost: {error})"),
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
    lines.into_iter().rev().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// What `DIR/cluster.json` says.
#[derive(Serialize)]
struct ClusterFile<'a> {
    nodes: Vec<ClusterNode<'a>>,
}

#[derive(Serialize)]
struct ClusterNode<'a> {
    name: &'a str,
    pid: u32,
    socket: &'a Path,
    config: &'a Path,
}

fn cluster_file(cluster: &DevCluster) -> PathBuf {
    cluster.directory.join("cluster.json")
}

fn write_cluster_file(cluster: &DevCluster, processes: &Processes<'_>) -> anyhow::Result<()> {
    let nodes = processes.running.iter().map(|process| ClusterNode {
        name: &process.node.name,
        pid: process.pid,
        socket: &process.node.config.socket.path,
        config: &process.node.config_path,
    });
    let text = serde_json::to_string_pretty(&ClusterFile { nodes: nodes.collect() })?;
    dev_files::write_whole(&cluster_file(cluster), &text)
}

/// It is there only while its processes run.
fn remove_cluster_file(cluster: &DevCluster) -> anyhow::Result<()> {
    let path = cluster_file(cluster);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What to try, with the paths of this cluster.
fn instructions(cluster: &DevCluster) -> anyhow::Result<String> {
    let sockets: Vec<_> = cluster.nodes.iter().map(|node| &node.config.socket.path).collect();
    let (Some(first), Some(last)) = (sockets.first(), sockets.last()) else {
        bail!("a cluster has at least one node");
    };
    let (first, last) = (first.display(), last.display());
    let control = std::env::current_exe()?.with_file_name("quorumctl");
    let control = if control.exists() {
        control.display().to_string()
    } else {
        "cargo run --release --bin quorumctl --".to_owned()
    };
    Ok(format!(
        "{} nodes are ready in {}; Ctrl-C stops them\n\n\
         curl --unix-socket {first} -X PUT -d hello http://q/v1/kv/greeting\n\
         curl --unix-socket {last} http://q/v1/kv/greeting\n\
         curl --unix-socket {last} -N 'http://q/v1/watch?prefix='\n\
         curl --unix-socket {first} http://q/v1/status\n\n\
         export QUORUMD_SOCKET={first}\n\
         {control} status\n\
         {control} lock demo -- sh -c 'echo holding with token $QUORUMD_TOKEN; sleep 5'\n\
         {control} elect demo -- sleep 60\n",
        cluster.nodes.len(),
        cluster.directory.display()
    ))
}
