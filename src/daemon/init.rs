//! `quorumd init`: the first node of a new cluster, with an authority of its own.
//!
//! Further nodes come by `join.rs`.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use crate::pki::{Authority, Validity, replace_file};

use super::check;
use super::exit::{ExitCode, Failure, conclude, say};
use super::node_files::{NodeFiles, NodePlace, Voter};

/// What `quorumd init` is told.
#[derive(Args, Debug)]
pub struct InitOptions {
    #[command(flatten)]
    place: NodePlace,
    /// The name of the new cluster
    #[arg(long, default_value = "main")]
    cluster: String,
    /// How long the certificates of nodes are valid; they are renewed at two thirds of it
    #[arg(long, value_name = "DURATION", default_value = "2160h")]
    certificate_life: String,
}

/// Makes a cluster of one node, and starts nothing.
pub fn init(options: &InitOptions) -> ExitCode {
    conclude(make(options))
}

fn make(options: &InitOptions) -> Result<(), Failure> {
    let files = NodeFiles::plan(&options.place)?;
    if files.authority.symlink_metadata().is_ok() {
        return Err(Failure::new(
            ExitCode::DataDirectory,
            anyhow!(
                "{} exists and is not overwritten, because a lost authority cannot be made again; \
                 if no node needs it, move it away",
                files.authority.display()
            ),
        ));
    }
    let own = Voter { name: files.name.clone(), address: files.advertise.clone() };
    let life = serde_json::Value::from(options.certificate_life.as_str());
    let section = format!("ca: {{dir: ca, certificate_life: {life}}}\n");
    let text = files.config_text(&options.cluster, &[own], Some(&section))?;
    let life = config_life(&files, &text)?;
    let authority = Authority::create(&options.cluster).map_err(told)?;
    let issued = authority.issue(&files.name, Validity::of_life(life)).map_err(told)?;
    files.make_directory(&files.authority)?;
    authority.save(&files.authority).map_err(told)?;
    for file in ["ca.key", "ca.pem"] {
        files.give(&files.authority.join(file))?;
    }
    files.make_directory(&files.tls)?;
    let pair = issued.certificate_pem.clone() + &issued.key_pem;
    replace_file(&files.certificate(), 0o600, &pair).map_err(told)?;
    files.give(&files.certificate())?;
    replace_file(&files.roots(), 0o644, authority.certificate_pem()).map_err(told)?;
    files.give(&files.roots())?;
    replace_file(&files.config, 0o644, &text).map_err(told)?;
    let (config, _) = check::read(&files.config)?;
    check::credentials(&config)?;
    say(&format!(
        "The cluster {cluster} has its first node, {name}. Its authority is in {ca}: keep a copy \
         of that directory in a safe place.\n\
         \n\
         Next:\n  \
         systemctl enable --now quorumd          (or: quorumd run --config {config})\n  \
         quorumctl token create --role voter     prints a token, good once, for the next host\n  \
         quorumd join TOKEN --name NAME --listen ADDRESS:PORT --voter     on that host",
        cluster = options.cluster,
        name = files.name,
        ca = files.authority.display(),
        config = files.config.display(),
    ));
    Ok(())
}

/// The life of certificates as the configuration says it.
fn config_life(files: &NodeFiles, text: &str) -> Result<Duration, Failure> {
    let authority = files.judge(text)?.authority;
    let authority = authority.ok_or_else(|| anyhow!("the configuration has no authority"))?;
    Ok(Duration::from_micros(authority.life.as_micros()))
}

fn told(error: crate::pki::PkiError) -> Failure {
    Failure::new(ExitCode::Other, anyhow!("{error}"))
}
