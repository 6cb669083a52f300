//! What a developer's cluster has on disk, and how it comes to be there.
//!
//! ```text
//! DIR/lock              held while `quorumd dev` runs
//! DIR/plan.json         names and ports, chosen once
//! DIR/ca/               the private authority
//! DIR/<node>/           quorumd.yaml  tls/  data/  quorumd.sock  log
//! DIR/cluster.json      while the cluster runs
//! ```
//!
//! Every piece is made if it is missing and left alone if it is there, and each appears whole or
//! not at all: a start that was killed half-way is completed by the next one, and a configuration
//! that a developer edited stays as it is. Starting processes is left to `dev`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use crate::base::{Rng, limits};
use crate::config::Config;
use crate::pki::{Authority, Validity};

use super::check;
use super::exit::{ExitCode, Failure};

/// Name of every developer's cluster.
const CLUSTER: &str = "dev";
/// Nodes unless the command line says otherwise.
const NODES_DEFAULT: usize = 3;
/// Where ports are looked for: below the range from which the system takes ports for outgoing
/// connections (ip_local_port_range, ip(7)), which could take ours while the cluster is down.
const PORTS: (u64, u64) = (20_000, 31_999);
/// Ports that are tried before giving up.
const PORT_TRIES: usize = 1_000;
/// The certificates of a developer's cluster are valid for nearly as long as its authority.
const VALIDITY: Duration = Duration::from_secs(9 * 365 * 24 * 60 * 60);

/// A cluster that is ready to be started.
pub(super) struct DevCluster {
    /// Absolute.
    pub directory: PathBuf,
    pub nodes: Vec<DevNode>,
    /// Keeps every other `quorumd dev` away from the directory.
    _lock: File,
}

/// One node of it. Paths are absolute.
pub(super) struct DevNode {
    pub name: String,
    pub config_path: PathBuf,
    pub config: Config,
    pub log: PathBuf,
}

/// What was chosen when the cluster was first made.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    pub nodes: Vec<PlannedNode>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct PlannedNode {
    pub name: String,
    pub port: u16,
}

/// Makes what is missing in `directory`, and reads the rest. `nodes` must agree with what is there.
pub(super) fn prepare(directory: &Path, nodes: Option<usize>) -> Result<DevCluster, Failure> {
    let usage = |error: anyhow::Error| Failure::new(ExitCode::Usage, error);
    if nodes.is_some_and(|nodes| nodes == 0 || nodes > limits::VOTERS_MAX) {
        return Err(usage(anyhow!("--nodes must be between 1 and {}", limits::VOTERS_MAX)));
    }
    let directory = std::path::absolute(directory)
        .with_context(|| format!("cannot use the directory {}", directory.display()))?;
    check_socket_length(&directory).map_err(usage)?;
    make_directory(&directory)?;
    let lock = lock(&directory).map_err(|error| Failure::new(ExitCode::DataDirectory, error))?;
    let plan = match read_plan(&directory)? {
        Some(plan) => plan,
        None => make_plan(&directory, nodes.unwrap_or(NODES_DEFAULT)).map_err(usage)?,
    };
    let found = plan.nodes.len();
    if nodes.is_some_and(|nodes| nodes != found) {
        return Err(usage(anyhow!(
            "{} holds a cluster of {found}: leave out --nodes, or name another --dir",
            directory.display()
        )));
    }
    let authority = authority(&directory)?;
    let mut prepared = Vec::new();
    for node in &plan.nodes {
        prepared.push(prepare_node(&directory, &plan, &node.name, &authority)?);
    }
    Ok(DevCluster { directory, nodes: prepared, _lock: lock })
}

fn prepare_node(
    directory: &Path,
    plan: &Plan,
    name: &str,
    authority: &Authority,
) -> Result<DevNode, Failure> {
    let home = directory.join(name);
    make_directory(&home)?;
    let tls = home.join("tls");
    if !tls.exists() {
        make_whole(&tls, |new| {
            let issued = authority.issue(name, Validity::from_now(VALIDITY))?;
            issued.save(&new.join("node.crt"), &new.join("node.key"))?;
            fs::write(new.join("ca.crt"), authority.certificate_pem())?;
            Ok(())
        })?;
    }
    let config_path = home.join("quorumd.yaml");
    if !config_path.exists() {
        write_whole(&config_path, &config_text(plan, name))?;
    }
    let (config, _) = check::read(&config_path)?;
    Ok(DevNode { name: name.to_owned(), config_path, config, log: home.join("log") })
}

/// An ordinary configuration: `quorumd run --config` starts the node without any of us.
pub(super) fn config_text(plan: &Plan, name: &str) -> String {
    let members: String = plan
        .nodes
        .iter()
        .map(|node| format!("  {}: \"{}:{}\"\n", node.name, Ipv4Addr::LOCALHOST, node.port))
        .collect();
    format!(
        "# Made by `quorumd dev`, which keeps your changes.\n\
         cluster: {CLUSTER}\n\
         name: {name}\n\
         members:\n\
         {members}\
         tls: {{cert: tls/node.crt, key: tls/node.key, ca: tls/ca.crt}}\n\
         data_dir: data\n\
         socket: {{path: quorumd.sock, mode: \"0600\"}}\n"
    )
}

fn check_socket_length(directory: &Path) -> anyhow::Result<()> {
    let longest = directory.join("n9/quorumd.sock").as_os_str().len();
    // unix(7): 108 bytes with the closing zero.
    if longest > 107 {
        bail!(
            "the path {} is too long by {} bytes: the nodes' sockets could not be made in it; name \
             a shorter --dir",
            directory.display(),
            longest - 107
        );
    }
    Ok(())
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another `quorumd dev` runs in {}: stop it, or name another --dir",
            directory.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn read_plan(directory: &Path) -> anyhow::Result<Option<Plan>> {
    let path = directory.join("plan.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let plan: Plan = serde_json::from_slice(&text)
        .with_context(|| format!("{} was changed and is not understood", path.display()))?;
    let sane = (1..=limits::VOTERS_MAX).contains(&plan.nodes.len());
    let named = (1..).zip(&plan.nodes).all(|(number, node)| node.name == node_name(number));
    if !sane || !named {
        bail!("{} was changed and is not understood", path.display());
    }
    Ok(Some(plan))
}

fn make_plan(directory: &Path, nodes: usize) -> anyhow::Result<Plan> {
    let foreign = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name() != "lock" && entry.file_name() != "plan.json.new");
    if let Some(entry) = foreign {
        bail!(
            "{} holds {:?} and no cluster of `quorumd dev`: name an empty or a new --dir",
            directory.display(),
            entry.file_name()
        );
    }
    let ports = free_ports(nodes)?;
    let nodes =
        (1..).zip(ports).map(|(number, port)| PlannedNode { name: node_name(number), port });
    let plan = Plan { nodes: nodes.collect() };
    write_whole(&directory.join("plan.json"), &serde_json::to_string_pretty(&plan)?)?;
    Ok(plan)
}

fn node_name(number: usize) -> String {
    format!("n{number}")
}

fn authority(directory: &Path) -> anyhow::Result<Authority> {
    let path = directory.join("ca");
    if !path.exists() {
        make_whole(&path, |new| Ok(Authority::create(CLUSTER)?.save(new)?))?;
    }
    Ok(Authority::load(&path)?)
}

/// Makes a directory that only its owner can enter, or leaves the one that is there.
pub(super) fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Makes the directory `path` by filling another and renaming it: it is there whole or not at all.
fn make_whole(path: &Path, fill: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    make_directory(&new)?;
    fill(&new)?;
    fs::rename(&new, path).with_context(|| format!("cannot make {}", path.display()))
}

/// Writes a file whole or not at all.
pub(super) fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Ports of the loopback address on which nobody listens or is about to.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    let mut rng = Rng::new(u64::from_le_bytes(seed));
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..PORT_TRIES {
        if ports.len() == count {
            return Ok(ports);
        }
        let (least, most) = PORTS;
        let Ok(port) = u16::try_from(rng.between(least, most)) else { continue };
        // Without SO_REUSEADDR: also a port that another cluster only reserves is not free.
        let socket = TcpSocket::new_v4()?;
        if socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
            held.push(socket);
            ports.push(port);
        }
    }
    bail!("no free ports on {} between {} and {}", Ipv4Addr::LOCALHOST, PORTS.0, PORTS.1)
}

/// Reserves the port of a node for as long as the socket is kept. It is bound and never listens, so
/// that the node, which like this allows its address to be reused, can listen on it at any time,
/// and nobody else's search for a free port finds it. Fails when someone listens on it.
pub(super) fn reserve(listen: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    Ok(socket)
}
