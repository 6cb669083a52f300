//! `quorumd join`: makes a node of this host, which a member lets in for a token.
//!
//! Who is let in is decided by a member that has the key of the authority (`enroll/`). The secret
//! of the token stays here: what goes out is a proof, for one connection, to a member whose
//! authority the token pins.
//!
//! The node's key is on disk before anybody is asked. So an answer that was lost costs nothing: the
//! same command asks again for the same key.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;

use crate::peer::{JoinCall, PeerError, PeerFault};
use crate::pki::{Credentials, JoinToken, KeyRequest, Pin, pinned_client, replace_file};
use crate::wire::{Admission, JoinAnswer, JoinOrder, JoinRefusal, JoinRequest};

use super::exit::{ExitCode, Failure, conclude, say};
use super::node_files::{NodeFiles, NodePlace, Voter};

/// Longest file or input with a token.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(500);
/// Members that are asked in one round, those that others named included.
const ASKED_MAX: usize = 32;

/// What `quorumd join` is told.
#[derive(Args, Debug)]
pub struct JoinOptions {
    /// The token. Other users of this host can see it in the list of processes: better --token-file
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the token; "-" for the standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    place: NodePlace,
    /// Become a voter, once it has caught up; the token must allow it
    #[arg(long)]
    voter: bool,
    /// How long to go on asking while no member can be reached or no leader is there
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
}

/// Gets a certificate and writes a configuration, and starts nothing.
pub fn join(options: &JoinOptions) -> ExitCode {
    conclude(make(options))
}

fn make(options: &JoinOptions) -> Result<(), Failure> {
    let usage = |error: anyhow::Error| Failure::new(ExitCode::Usage, error);
    let text = read_token(options).map_err(usage)?;
    let token = JoinToken::parse(&text).map_err(|fault| usage(anyhow!("{fault}")))?;
    let files = NodeFiles::plan(&options.place)?;
    // What the command line says is judged before the token is used up.
    let somebody = Voter { name: format!("{}-", files.name), address: "localhost:1".to_owned() };
    files.config_text(&token.cluster, &[somebody], None)?;
    files.make_directory(&files.tls)?;
    let key_path = files.tls.join("join.key");
    let key = own_key(&files, &key_path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let asking = Asking {
        token: &token,
        order: JoinOrder {
            token: token.id.clone(),
            name: files.name.clone(),
            address: files.advertise.clone(),
            voter: options.voter,
            request: Bytes::copy_from_slice(key.der()),
            proof: Bytes::new(),
        },
        patience: Duration::from_secs(options.patience),
    };
    let admission = runtime.block_on(asking.run())?;
    check(&token, &files, &key, &admission)?;
    keep(&token, &files, &key, &admission)?;
    // It is in the certificate's file now.
    fs::remove_file(&key_path).with_context(|| format!("cannot remove {}", key_path.display()))?;
    let becomes = if admission.voter { "a voter, once it has caught up" } else { "a learner" };
    say(&format!(
        "{name} may join the cluster {cluster}, and will be {becomes}.\n\
         \n\
         Next:\n  \
         systemctl enable --now quorumd     (or: quorumd run --config {config})\n\
         It is then added by itself; `quorumctl members` shows it. Start it within a day.",
        name = files.name,
        cluster = token.cluster,
        config = files.config.display(),
    ));
    Ok(())
}

fn read_token(options: &JoinOptions) -> anyhow::Result<String> {
    let mut text = String::new();
    match (&options.token, &options.token_file) {
        (Some(token), _) => text.clone_from(token),
        (None, Some(path)) if path == Path::new("-") => {
            std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
        }
        (None, Some(path)) => {
            let file = fs::File::open(path);
            let file = file.with_context(|| format!("cannot read {}", path.display()))?;
            file.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
        }
        (None, None) => bail!("a token is needed, or --token-file"),
    }
    Ok(text)
}

/// The key of an earlier attempt, or a fresh one, which is on disk when this returns.
fn own_key(files: &NodeFiles, path: &Path) -> anyhow::Result<KeyRequest> {
    match fs::read_to_string(path) {
        Ok(pem) => Ok(KeyRequest::of_pem(&pem)
            .with_context(|| format!("{} cannot be used: remove it", path.display()))?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyRequest::create()?;
            replace_file(path, 0o600, &key.key_pem())?;
            files.give(path)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Asks members until one gives a certificate, or says no.
struct Asking<'a> {
    token: &'a JoinToken,
    order: JoinOrder,
    patience: Duration,
}

/// What one member made of it.
enum Told {
    Admitted(Admission),
    /// Others may be asked.
    Others(Vec<String>),
    /// This one cannot be asked, or not now; says why.
    Later(String),
}

impl Asking<'_> {
    async fn run(&self) -> anyhow::Result<Admission> {
        let give_up = Instant::now() + self.patience;
        loop {
            let mut reasons = Vec::new();
            let mut asked: Vec<String> = Vec::new();
            let mut queue: VecDeque<String> = self.token.addresses.iter().cloned().collect();
            while let Some(address) = queue.pop_front() {
                if asked.contains(&address) || asked.len() >= ASKED_MAX {
                    continue;
                }
                asked.push(address.clone());
                match self.ask(&address).await? {
                    Told::Admitted(admission) => return Ok(admission),
                    // They are nearer to an answer than the rest.
                    Told::Others(others) => {
                        others.into_iter().rev().for_each(|other| queue.push_front(other));
                    }
                    Told::Later(reason) => reasons.push(format!("{address}: {reason}")),
                }
            }
            if Instant::now() >= give_up {
                bail!(
                    "no member could be asked for a certificate; the token may still be good, and \
                     the same command tries again:\n  {}",
                    reasons.join("\n  ")
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(&self, address: &str) -> anyhow::Result<Told> {
        let client = pinned_client(self.token.pin)?;
        let call = match JoinCall::dial(client, address).await {
            Ok(call) => call,
            Err(PeerError::Fault(PeerFault::CertificateIssuer)) => {
                return Ok(Told::Later(
                    "whoever listens there has no certificate of the authority that the token \
                     names: it is of another cluster, or somebody is in between; nothing was sent \
                     to it"
                        .to_owned(),
                ));
            }
            Err(error) => return Ok(Told::Later(error.to_string())),
        };
        if call.identity().cluster() != self.token.cluster {
            return Ok(Told::Later(format!(
                "the node there is of the cluster {}, and the token is for {}",
                call.identity().cluster(),
                self.token.cluster
            )));
        }
        let proof = self.token.prove(&self.order.proven(call.exporter()));
        let order = JoinOrder { proof: Bytes::from(proof), ..self.order.clone() };
        let by = call.identity().name().to_owned();
        match call.ask(&JoinRequest::Join(order)).await {
            Ok(JoinAnswer::Issued(admission)) => Ok(Told::Admitted(admission)),
            Ok(JoinAnswer::Ask { addresses }) => Ok(Told::Others(addresses)),
            Ok(JoinAnswer::Refused(refusal)) => match refusal {
                refusal if refusal.is_transient() => Ok(Told::Later(refusal.to_string())),
                refusal @ JoinRefusal::NoAuthority => Ok(Told::Later(refusal.to_string())),
                refusal => bail!("{by} refuses: {refusal}"),
            },
            Err(error) => Ok(Told::Later(error.to_string())),
        }
    }
}

/// Whether the answer is what was asked for. It came from a member, over a connection that nobody
/// else can have spoken on.
fn check(
    token: &JoinToken,
    files: &NodeFiles,
    key: &KeyRequest,
    admission: &Admission,
) -> anyhow::Result<()> {
    let roots = &admission.roots;
    let (certificate, key) = (&admission.certificate, key.key_pem());
    let credentials = Credentials::from_pem(certificate, &key, roots, SystemTime::now())
        .context("the member sent a certificate that cannot be used")?;
    let identity = credentials.identity();
    if identity.cluster() != token.cluster || identity.name() != files.name {
        bail!("the member sent a certificate for {identity}");
    }
    if !Pin::of_pem(roots).contains(&token.pin) {
        bail!("the member trusts other authorities than the one that the token names");
    }
    Ok(())
}

/// Writes everything, the configuration last.
fn keep(
    token: &JoinToken,
    files: &NodeFiles,
    key: &KeyRequest,
    admission: &Admission,
) -> Result<(), Failure> {
    let voter =
        |(name, address): &(String, String)| Voter { name: name.clone(), address: address.clone() };
    let voters: Vec<Voter> = admission.voters.iter().map(voter).collect();
    let text = files.config_text(&token.cluster, &voters, None)?;
    let pair = admission.certificate.clone() + &key.key_pem();
    for (path, mode, content) in [
        (files.certificate(), 0o600, &pair),
        (files.roots(), 0o644, &admission.roots),
        (files.config.clone(), 0o644, &text),
    ] {
        replace_file(&path, mode, content).map_err(|error| anyhow!("{error}"))?;
        if path != files.config {
            files.give(&path)?;
        }
    }
    Ok(())
}
