//! The order in which a node starts: directory, files, links, identity, replica, threads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Index, NodeId, Rng};
use crate::node::bootstrap::{self, Newcomer};
use crate::node::error::StartError;
use crate::node::fence_file;
use crate::node::gatekeeper::{Gate, News};
use crate::node::handle::Shared;
use crate::node::introduce::Introducer;
use crate::node::threads::{Stores, spawn};
use crate::node::{Clock, Node, StartPhase, Starting};
use crate::peer::Links;
use crate::pki::LiveTls;
use crate::replica::{Bootstrap, Event, Recovery, Replica, Roster, Seed};
use crate::state::{Row, StateMachine};
use crate::storage::{Identity, RaftStore, RecoveredLog, StateStore, check, finish_install};
use crate::wire::{Claim, Standing};

/// What a node is started with.
#[derive(Debug)]
pub struct Options {
    /// The cluster's name.
    pub cluster_name: String,
    /// This node's name.
    pub name: String,
    /// The members as the configuration lists them; they only count at the first boot.
    pub seeds: BTreeMap<String, Seed>,
    /// Where `raft.redb` and `state.redb` are; made, with mode 0700, when it does not exist.
    pub data_dir: PathBuf,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
    /// Of the replica.
    pub replica: crate::replica::Options,
}

/// Elements of the channel between `peer/` and the inbound task: full, and peers are read no
/// further.
const INBOUND_MAX: usize = 1_024;

impl Node {
    /// Starts a node on the current tokio runtime, listening for its peers on `listener`.
    ///
    /// On a blank data directory this resolves only once all listed members were up together, or,
    /// when their cluster runs already, once this node was added to it; `starting` says what it
    /// waits for.
    pub async fn start(
        options: Options,
        listener: TcpListener,
        tls: LiveTls,
        starting: &Starting,
    ) -> Result<Node, StartError> {
        make_directory(&options.data_dir)?;
        let fresh = || Identity {
            node: NodeId(random() | 1),
            name: options.name.clone(),
            cluster_name: options.cluster_name.clone(),
        };
        let path = options.data_dir.join("raft.redb");
        let (mut raft_store, mut log) = RaftStore::open_path(&path, fresh)?;
        check_identity(&options, &log)?;
        starting.is(log.identity.node);
        let (gate, mut news) = Gate::new(first_roster(&options, &log), voters(&options, &log));
        let (inbound_sender, inbound) = tokio::sync::mpsc::channel(INBOUND_MAX);
        let link_options =
            crate::peer::Options::new(&options.cluster_name, &options.name, random());
        let links = Links::start(listener, link_options, tls.clone(), gate.clone(), inbound_sender);
        let links = links.map_err(peer_port)?;
        if log.genesis.is_none() {
            let newcomer = Newcomer {
                cluster_name: options.cluster_name.clone(),
                name: options.name.clone(),
                node: log.identity.node,
                seeds: options.seeds.clone(),
                tls: &tls,
                gate: &gate,
                starting,
            };
            let genesis = match bootstrap::run(&newcomer, Rng::new(random())).await {
                Ok(genesis) => genesis,
                Err(error) => {
                    // Whoever starts it again finds the port free.
                    links.shutdown().await;
                    return Err(error);
                }
            };
            raft_store.set_genesis(&genesis)?;
            tracing::info!(cluster = %genesis.cluster, "this node belongs to a cluster now");
            log.genesis = Some(genesis);
        }
        starting.waits(StartPhase::Loading);
        let (state_store, machine) = open_state(&options.data_dir, &mut raft_store, &mut log)?;
        let identity = log.identity.clone();
        let recovery = Recovery { log, machine };
        let seed = Rng::new(random());
        let mut replica =
            Replica::recover(recovery, options.replica.clone(), seed, Clock.instant())?;
        restore_fence(&options.data_dir, &mut replica)?;
        gate.set_roster(replica.shared_roster());
        let stores = Stores { raft: raft_store, state: state_store, identity };
        let introducer = Introducer {
            tls,
            cluster_name: options.cluster_name.clone(),
            name: options.name.clone(),
            gate,
            registrar: links.registrar(),
        };
        let node = spawn(options, replica, stores, Arc::new(links), introducer, inbound);
        let shared = Arc::clone(&node.shared);
        tokio::spawn(async move {
            while let Some(news) = news.recv().await {
                tell(&shared, news);
            }
        });
        Ok(node)
    }
}

fn peer_port(source: std::io::Error) -> StartError {
    StartError::Io { what: "the peer port cannot be used".to_owned(), source }
}

/// A state that was found to differ from that of the others is not served after a restart either.
fn restore_fence(data_dir: &Path, replica: &mut Replica) -> Result<(), StartError> {
    let fence = fence_file::read(data_dir).map_err(|source| StartError::Io {
        what: format!("the mark of a fence in {} cannot be read", data_dir.display()),
        source,
    })?;
    if let Some(fence) = fence {
        tracing::error!("this node's state differs from that of a quorum: rebuild it");
        replica.fence_again(fence);
    }
    Ok(())
}

/// Hands on what the others have said of this node.
fn tell(shared: &Shared, news: News) {
    match news {
        News::Ended(reason) => drop(shared.ended.send_replace(Some(Arc::new(reason)))),
        News::Removed(removed) => {
            // When the node has stopped, nobody needs to know.
            shared.mailbox.tell_always(Event::PeersSayRemoved { removed });
        }
    }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        StartError::Io {
            what: format!("the data directory {} cannot be made", path.display()),
            source,
        }
    })
}

/// A data directory that was made under another name is another node's.
fn check_identity(options: &Options, log: &RecoveredLog) -> Result<(), StartError> {
    let identity = &log.identity;
    if identity.name == options.name && identity.cluster_name == options.cluster_name {
        return Ok(());
    }
    Err(StartError::Directory {
        path: options.data_dir.display().to_string(),
        node: identity.name.clone(),
        cluster: identity.cluster_name.clone(),
    })
}

/// The names of the voters, as far as this node knows: those listed at first, later the members.
/// After `quorumd recover` a list in the configuration may name what is no member any more, and
/// what such a node says of the cluster's identity counts for nothing.
fn voters(options: &Options, log: &RecoveredLog) -> BTreeSet<String> {
    match log.membership() {
        Some(membership) => membership.voter_names(),
        None => {
            let voters = options.seeds.iter().filter(|(_, seed)| seed.voter);
            voters.map(|(name, _)| name.clone()).collect()
        }
    }
}

fn first_roster(options: &Options, log: &RecoveredLog) -> Roster {
    let seed_digest = Bootstrap::seed_digest(&options.seeds);
    let claim = |standing| Claim { node: log.identity.node, boot: log.boot, standing };
    match &log.genesis {
        None => Roster::blank(options.cluster_name.clone(), claim(Standing::Blank { seed_digest })),
        Some(genesis) => {
            let last = log.entries.last();
            let (last_term, last_index) =
                last.map_or((log.cut.term, log.cut.index), |entry| (entry.term, entry.index));
            let standing = Standing::Member {
                cluster: genesis.cluster,
                term: log.hard_state.term,
                last_term,
                last_index,
                // The replica will know, in a moment.
                membership: Index(0),
                address: String::new(),
            };
            let membership =
                log.cut.membership.clone().unwrap_or_else(|| genesis.membership.clone());
            Roster::member(
                options.cluster_name.clone(),
                claim(standing),
                genesis.clone(),
                (Index(0), membership),
                log.marks.clone(),
            )
        }
    }
}

fn open_state(
    data_dir: &Path,
    raft_store: &mut RaftStore,
    log: &mut RecoveredLog,
) -> Result<(StateStore, Option<StateMachine>), StartError> {
    let path = data_dir.join("state.redb");
    let (store, rows) = StateStore::open_path(&path, &log.identity)?;
    finish_install(raft_store, log, &store)?;
    let meta = rows.iter().find_map(|(_, row)| match row {
        Row::Meta(meta) => Some(meta),
        _ => None,
    });
    check(log, meta)?;
    let machine = if rows.is_empty() { None } else { Some(StateMachine::restore(rows)?) };
    Ok((store, machine))
}

/// Sixty-four bits from the kernel.
fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert!(
        matches!(filled, Ok(8)),
        "getrandom(2) gives eight bytes without fail once the kernel has started"
    );
    u64::from_le_bytes(bytes)
}
