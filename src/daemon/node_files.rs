//! What `quorumd init` and `quorumd join` leave behind, and what they refuse to touch.
//!
//! ```text
//! CONFIG_DIR/quorumd.yaml    written last: with it the node is complete
//! CONFIG_DIR/tls/node.pem    certificate and key in one file, replaced as one by a renewal
//! CONFIG_DIR/tls/ca.pem      the trusted roots
//! CONFIG_DIR/tls/join.key    only between the question of a join and its answer
//! CONFIG_DIR/ca/             the authority; on the host of `init` only
//! ```

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use nix::unistd::User;

use crate::config::{self, Config};

use super::exit::{ExitCode, Failure};

/// The user that the packaged units run the daemon as.
const USER: &str = "quorumd";

/// Where a node is, in the words of the command line.
#[derive(Args, Clone, Debug)]
pub struct NodePlace {
    /// Its name: 1 to 63 letters, digits, "-", "_" or "."
    #[arg(long)]
    pub(super) name: String,
    /// Where it listens for the other members, such as 10.0.0.1:7400, or :7400 for all interfaces
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: String,
    /// Where the other members reach it, when that is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<String>,
    /// Where its configuration and certificates are written
    #[arg(long, value_name = "DIR", default_value = "/etc/quorumd")]
    pub(super) config_dir: PathBuf,
    /// Where it will keep its data
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quorumd")]
    pub(super) data_dir: PathBuf,
    /// Its socket
    #[arg(long, value_name = "PATH", default_value = "/run/quorumd/quorumd.sock")]
    pub(super) socket: PathBuf,
    /// The user that the daemon will run as, who gets the certificates [default: quorumd, if there
    /// is one and this is run by root]
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
}

/// A node whose files are about to be made. Paths are absolute.
pub(super) struct NodeFiles {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) advertise: String,
    pub(super) config: PathBuf,
    pub(super) tls: PathBuf,
    pub(super) authority: PathBuf,
    data_dir: PathBuf,
    socket: PathBuf,
    owner: Option<(u32, u32)>,
}

/// A voter, in a configuration.
pub(super) struct Voter {
    pub(super) name: String,
    pub(super) address: String,
}

impl NodeFiles {
    /// Refuses what could not work, and what is in the way.
    pub(super) fn plan(place: &NodePlace) -> Result<Self, Failure> {
        let usage = |error: anyhow::Error| Failure::new(ExitCode::Usage, error);
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))
        };
        let directory = absolute(&place.config_dir)?;
        let files = Self {
            name: place.name.clone(),
            listen: place.listen.clone(),
            advertise: advertise(place).map_err(usage)?,
            config: directory.join("quorumd.yaml"),
            tls: directory.join("tls"),
            authority: directory.join("ca"),
            data_dir: absolute(&place.data_dir)?,
            socket: absolute(&place.socket)?,
            owner: owner(place.user.as_deref()).map_err(usage)?,
        };
        for present in [
            files.config.clone(),
            files.certificate(),
            files.roots(),
            files.data_dir.join("raft.redb"),
        ] {
            if present.symlink_metadata().is_ok() {
                return Err(Failure::new(
                    ExitCode::DataDirectory,
                    anyhow!(
                        "{} exists: this host has a node already, and nothing was changed; to make \
                         a new one, move its configuration, certificates and data away",
                        present.display()
                    ),
                ));
            }
        }
        Ok(files)
    }

    /// Certificate and key.
    pub(super) fn certificate(&self) -> PathBuf {
        self.tls.join("node.pem")
    }

    /// The trusted roots.
    pub(super) fn roots(&self) -> PathBuf {
        self.tls.join("ca.pem")
    }

    /// The text of the configuration, which was read as the daemon will read it.
    pub(super) fn config_text(
        &self,
        cluster: &str,
        voters: &[Voter],
        authority: Option<&str>,
    ) -> Result<String, Failure> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let shown = |path: &Path| quoted(&path.display().to_string());
        let own = (quoted(&self.name), quoted(&self.advertise));
        let mut members = match voters.iter().any(|voter| voter.name == self.name) {
            true => String::new(),
            false => format!("  {}: {{address: {}, role: learner}}\n", own.0, own.1),
        };
        for voter in voters {
            members += &format!("  {}: {}\n", quoted(&voter.name), quoted(&voter.address));
        }
        let text = format!(
            "# Made by `quorumd {}`. docs/configuration.md explains each key.\n\
             cluster: {}\n\
             name: {}\n\
             listen: {}\n\
             # What this node starts from. Who is a member now, `quorumctl members` says.\n\
             members:\n\
             {members}\
             tls: {{cert: tls/node.pem, key: tls/node.pem, ca: tls/ca.pem, renew: auto}}\n\
             {}\
             data_dir: {}\n\
             socket: {{path: {}}}\n",
            if authority.is_some() { "init" } else { "join" },
            quoted(cluster),
            own.0,
            quoted(&self.listen),
            authority.unwrap_or_default(),
            shown(&self.data_dir),
            shown(&self.socket),
        );
        self.judge(&text)?;
        Ok(text)
    }

    /// The configuration that the text makes.
    pub(super) fn judge(&self, text: &str) -> Result<Config, Failure> {
        let directory = self.config.parent().unwrap_or(Path::new("/"));
        let parsed = config::parse(text.as_bytes(), &self.config, directory);
        let told = |error| {
            Failure::new(ExitCode::Usage, anyhow!("the command line does not make a node: {error}"))
        };
        parsed.map(|(config, _)| config).map_err(told)
    }

    /// Makes a directory for secrets, with its parents, or leaves the one that is there.
    pub(super) fn make_directory(&self, path: &Path) -> anyhow::Result<()> {
        let making = || format!("cannot make the directory {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(making)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.give(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error).with_context(making),
        }
    }

    /// Lets the daemon's user own a file.
    pub(super) fn give(&self, path: &Path) -> anyhow::Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to the daemon's user", path.display()))
    }
}

/// Where the others reach the node.
fn advertise(place: &NodePlace) -> anyhow::Result<String> {
    if let Some(advertise) = &place.advertise {
        return Ok(advertise.clone());
    }
    let listen: Option<SocketAddr> = place.listen.parse().ok();
    match listen {
        Some(listen) if !listen.ip().is_unspecified() => Ok(listen.to_string()),
        None if !place.listen.starts_with(':') => bail!(
            "--listen must be an IP address with a port, such as 10.0.0.1:7400, or :7400 for all \
             interfaces; found {:?}",
            place.listen
        ),
        _ => bail!(
            "--listen {} is all interfaces: say where the other members reach this node, with \
             --advertise HOST:PORT",
            place.listen
        ),
    }
}

/// Who shall own the certificates; nobody else than who runs this when nothing is said.
fn owner(named: Option<&str>) -> anyhow::Result<Option<(u32, u32)>> {
    let is_root = rustix::process::geteuid().is_root();
    let name = match named {
        Some(name) => name,
        None if is_root => USER,
        None => return Ok(None),
    };
    let user = User::from_name(name).with_context(|| format!("cannot look the user {name} up"))?;
    match (user, named) {
        (Some(user), _) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        (None, Some(name)) => bail!("there is no user {name} on this host"),
        (None, None) => Ok(None),
    }
}
