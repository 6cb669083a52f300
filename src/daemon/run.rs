//! `quorumd run`: puts one node together, in an order in which what can be refused is refused
//! before anything is touched, and takes it apart again in the other order.
//!
//! What the parts do is decided in the parts.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::api;
use crate::config::{Config, MemberRole, Seed};
use crate::enroll::Enrolment;
use crate::host::{AccessRules, Host, sees_all_users};
use crate::node::{self, Node, NodeStatus, Starting, Topic};
use crate::pki::LiveTls;
use crate::raft::Role;
use crate::replica;
use crate::telemetry;

use super::descriptors::Descriptors;
use super::exit::{ExitCode, Failure, conclude};
use super::reload::Reloading;
use super::signals::StopSignals;
use super::watchdog::Feeder;
use super::{check, dev_files, notify, parent, sockets};

/// Most threads of the runtime. The work of a node is in its own threads; these carry callers' and
/// peers' bytes, and a sidecar leaves the cores of a large host to those whom it serves.
const RUNTIME_THREADS_MAX: usize = 4;
/// A caller's connection, and its process.
const DESCRIPTORS_PER_CALLER: u64 = 2;
/// Descriptors beyond those of callers: files, peers, the runtime's own.
const DESCRIPTORS_SPARE: u64 = 256;
/// How long the node's threads may take to end beyond the grace.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Runs one node until SIGINT or SIGTERM, or until it can go on no longer. With `parent`, also
/// until the process with this id ends.
pub fn run(config: &Path, parent: Option<u32>) -> ExitCode {
    conclude(start(config, parent))
}

fn start(path: &Path, parent: Option<u32>) -> Result<(), Failure> {
    if let Some(parent) = parent {
        parent::exit_with(parent)?;
    }
    let usage = |error| Failure::new(ExitCode::Usage, error);
    let (config, warnings) = check::read(path)?;
    let log = telemetry::init_logging(config.log).map_err(|error| usage(anyhow!("{error}")))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let descriptors = Descriptors::take().map_err(usage)?;
    // Whatever this process makes is its own until it says otherwise.
    umask(Mode::RWXG | Mode::RWXO);
    raise_descriptor_limit(&config);
    let credentials = check::credentials(&config)?;
    let token = config.http.as_ref().map(|http| sockets::read_token(&http.token_file));
    let token = token.transpose().map_err(usage)?;
    let _lock = lock_data_dir(&config.data_dir)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(RUNTIME_THREADS_MAX))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let tls = LiveTls::new(&credentials).map_err(|error| usage(anyhow!("{error}")))?;
        let reloading = Reloading::new(path.to_owned(), config.clone(), token, tls.clone(), log);
        let reloading = reloading.context("cannot listen for signals")?;
        serve(&config, tls, reloading, descriptors).await
    });
    // Whatever still runs, runs for nobody.
    runtime.shutdown_background();
    result
}

/// Every caller needs a descriptor, and systemd starts processes with a soft limit of 1024.
fn raise_descriptor_limit(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    let needed = DESCRIPTORS_PER_CALLER * config.limits.connections as u64 + DESCRIPTORS_SPARE;
    let allowed = getrlimit(Resource::Nofile).current;
    if allowed.is_some_and(|allowed| allowed < needed) {
        tracing::warn!(
            ?allowed,
            needed,
            "limits.connections needs more open files than the system allows (LimitNOFILE)"
        );
    }
}

/// Makes the data directory and keeps every other daemon out of it. The databases in it are locked
/// too, but only once they are opened: this refuses before the socket and the port are touched.
pub(super) fn lock_data_dir(data_dir: &Path) -> Result<File, Failure> {
    dev_files::make_directory(data_dir)?;
    let path = data_dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            // For people; the lock is what counts.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(Failure::new(
                ExitCode::DataDirectory,
                anyhow!(
                    "the data directory {} is in use by the running quorumd with process id {}: \
                     two daemons never share one",
                    data_dir.display(),
                    holder.trim()
                ),
            ))
        }
        Err(fs::TryLockError::Error(error)) => {
            Err(anyhow!("cannot lock {}: {error}", path.display()).into())
        }
    }
}

async fn serve(
    config: &Config,
    tls: LiveTls,
    mut reloading: Reloading,
    descriptors: Descriptors,
) -> Result<(), Failure> {
    let mut signals = StopSignals::new().context("cannot listen for signals")?;
    let peers = TcpListener::bind(config.listen)
        .with_context(|| format!("cannot listen on {} for the other members", config.listen))?;
    let http = match &config.http {
        Some(http) => Some(
            tokio::net::TcpListener::bind(http.listen)
                .await
                .with_context(|| format!("cannot listen on {} (http.listen)", http.listen))?,
        ),
        None => None,
    };
    let local = sockets::Local::new(&config.socket, descriptors.local)?;
    let left_behind = local.left_behind(&config.socket);
    tracing::info!(
        node = %config.name, cluster = %config.cluster, version = env!("CARGO_PKG_VERSION"),
        socket = %config.socket.path.display(), peers = %config.listen, "starting"
    );
    notify::ready();
    notify::status("starting; at the first boot all members must be up together");
    let feeder = Feeder::while_starting();
    let starting = Starting::new(&config.name, &config.cluster);
    let node = tokio::select! {
        node = Node::start(node_options(config), peers, tls, &starting) => node,
        never = api::answer_not_ready(&local.listener, &starting) => match never {},
        never = tell_start(&starting) => match never {},
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the node had started");
            left_behind.remove();
            return Ok(());
        }
    };
    let outcome = match node {
        Ok(node) => {
            drop(feeder);
            let _feeder = Feeder::of(&node);
            let host = Host::new(node);
            let adopting = host.clone();
            tokio::spawn(async move { adopting.bindings().adopt(descriptors.processes).await });
            let tcp = http.map(|listener| (listener, reloading.token()));
            let listeners = api::Listeners { unix: local.listener, tcp };
            operate(&host, listeners, &mut reloading, &mut signals).await
        }
        Err(error) => Err(Failure::from(error)),
    };
    left_behind.remove();
    outcome
}

fn node_options(config: &Config) -> node::Options {
    let seed = |seed: &Seed| replica::Seed {
        address: seed.address.clone(),
        voter: seed.role == MemberRole::Voter,
    };
    node::Options {
        cluster_name: config.cluster.clone(),
        name: config.name.clone(),
        seeds: config.members.iter().map(|(name, given)| (name.clone(), seed(given))).collect(),
        data_dir: config.data_dir.clone(),
        reserve_bytes: config.disk_reserve_bytes,
        replica: config.replica_options(),
    }
}

/// From the node's start to its end.
async fn operate(
    host: &Host,
    listeners: api::Listeners,
    reloading: &mut Reloading,
    signals: &mut StopSignals,
) -> Result<(), Failure> {
    let node = host.node();
    let (stop, stopping) = oneshot::channel::<()>();
    // A stop that was never asked for is one too: the sender is gone with this function.
    let stopped = async move { stopping.await.unwrap_or_default() };
    let config = reloading.config();
    host.set_files(config.files.clone());
    host.set_publish(config.publish.clone());
    host.set_access(AccessRules::new(&config.access_options()));
    if !sees_all_users() {
        tracing::warn!(
            "this daemon runs in a user namespace of its own (PrivateUsers=?): users that it does \
             not map all look the same, and no access rule is ever about them"
        );
    }
    host.set_enrolment(Enrolment::start(node, &reloading.config().enroll_options()));
    let mut server =
        tokio::spawn(api::serve(host.clone(), listeners, reloading.options(), stopped));
    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = node.ended() => return Err(Failure::from(ended.as_ref())),
        ended = &mut server => {
            return Err(anyhow!("the local API ended by itself: {ended:?}").into());
        }
        never = tell_status(node) => match never {},
        never = reloading.run(host) => match never {},
    };
    let config = reloading.config();
    tracing::info!(signal, "stopping; a second signal stops at once");
    notify::stopping();
    let grace = Duration::from_micros(config.shutdown_grace.as_micros());
    let deadline = Instant::now() + grace;
    let orderly = async {
        // The others have another leader before anything of this one ends.
        node.give_way(config.replica_options().raft.election_timeout).await;
        node.drain();
        // A server that has ended by itself needs no telling.
        let _ = stop.send(());
        if timeout_at(deadline, &mut server).await.is_err() {
            tracing::warn!("callers that were not done within shutdown_grace are cut off");
        }
        if timeout_at(deadline + STOP_MARGIN, node.stop()).await.is_err() {
            tracing::warn!("the node's threads were not done in time");
        }
    };
    tokio::select! {
        () = orderly => {}
        ended = node.ended() => return Err(Failure::from(ended.as_ref())),
        signal = signals.next() => {
            return Err(anyhow!("{signal} again: stopped at once").into());
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the line that `systemctl status` shows while the node has not started.
async fn tell_start(starting: &Starting) -> std::convert::Infallible {
    let mut changes = starting.subscribe();
    loop {
        let sentence = changes.borrow_and_update().phase.sentence();
        notify::status(&sentence);
        // It cannot fail: `starting` holds the sender.
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps the line that `systemctl status` shows, for as long as it is polled.
async fn tell_status(node: &Node) -> std::convert::Infallible {
    let mut follower = node.follow(Topic::Status);
    let mut told = String::new();
    loop {
        let line = status_line(&node.status());
        if line != told {
            tracing::info!("{line}");
            notify::status(&line);
            told = line;
        }
        follower.changed().await;
    }
}

/// One line for people: what this node is, whom it follows, whether it can serve.
fn status_line(status: &NodeStatus) -> String {
    let replica = &status.replica;
    let leader = replica.leader.and_then(|leader| {
        replica.members.iter().find(|member| member.node == leader).map(|member| &member.name)
    });
    if let Some(removal) = replica.removed {
        return removal.to_string();
    }
    let role = match (replica.role, leader) {
        (Role::Leader, _) => "leader".to_owned(),
        (Role::Learner, Some(leader)) => format!("learner, follows {leader}"),
        (_, Some(leader)) => format!("follows {leader}"),
        (_, None) => "no leader: reads of the last known state only".to_owned(),
    };
    let connected = status.links.iter().filter(|link| link.connected).count();
    let ready = if replica.ready { "ready" } else { "not ready" };
    let disk = if replica.disk_full { "; disk full: writes are refused" } else { "" };
    format!("{role}; {ready}; {connected} of {} peers connected{disk}", status.links.len())
}
