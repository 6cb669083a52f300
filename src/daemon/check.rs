//! `quorumd check`: says whether a node could start from a configuration, and starts nothing.
//!
//! It reads what the start would read: the file, the certificates, the token. It neither opens the
//! data directory, which a running daemon may hold, nor any port.

use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;

use crate::config::{self, Config, Finding};
use crate::pki::{Authority, Credentials, PkiError};

use super::exit::{ExitCode, Failure, conclude, say};
use super::sockets;

/// Reports every mistake that can be found without starting.
pub fn check(path: &Path) -> ExitCode {
    conclude(judge(path))
}

/// Everything that is read, and good.
pub(super) struct Examined {
    pub config: Config,
    pub warnings: Vec<Finding>,
    pub credentials: Credentials,
    /// Of the loopback port, when there is one.
    pub token: Option<String>,
}

fn judge(path: &Path) -> Result<(), Failure> {
    let (config, warnings) = read(path)?;
    let authority = config.authority.as_ref().map(|it| Authority::load(&it.directory));
    let authority = authority.and_then(Result::err).map(|error| error.to_string());
    let more = authority.into_iter().chain(config.files.problems()).collect();
    let examined = complete(config, warnings, more)?;
    let Examined { config, warnings, credentials, .. } = examined;
    for warning in &warnings {
        say(&format!("{warning} (warning)"));
    }
    let now = SystemTime::now();
    for expiry in credentials.expiries().iter().filter(|expiry| expiry.urgency(now) > 0) {
        say(&format!("{expiry} (warning)"));
    }
    say(&format!(
        "{}: node {} of cluster {} can start",
        path.display(),
        config.name,
        config.cluster
    ));
    Ok(())
}

/// Reads everything that a running daemon may read again, and says every mistake.
pub(super) fn examine(path: &Path) -> Result<Examined, Failure> {
    let (config, warnings) = read(path)?;
    complete(config, warnings, Vec::new())
}

/// Reads the files that the configuration names. With mistakes that were found elsewhere.
fn complete(
    config: Config,
    warnings: Vec<Finding>,
    mistakes: Vec<String>,
) -> Result<Examined, Failure> {
    // Both are told at once: one mistake must not hide the other.
    let credentials = credentials(&config);
    let token = config.http.as_ref().map(|http| sockets::read_token(&http.token_file)).transpose();
    match (credentials, token) {
        (Ok(credentials), Ok(token)) if mistakes.is_empty() => {
            Ok(Examined { config, warnings, credentials, token })
        }
        (credentials, token) => {
            let credentials = credentials.err().map(|failure| failure.error.to_string());
            let token = token.err().map(|error| format!("{error:#}"));
            let mistakes: Vec<String> =
                credentials.into_iter().chain(token).chain(mistakes).collect();
            Err(Failure::new(ExitCode::Usage, anyhow!(mistakes.join("\n"))))
        }
    }
}

/// The configuration at `path` with its warnings.
pub(super) fn read(path: &Path) -> Result<(Config, Vec<Finding>), Failure> {
    config::load(path).map_err(|error| Failure::new(ExitCode::Usage, anyhow!("{error}")))
}

/// The node's certificates, which must name the node that the configuration names.
pub(super) fn credentials(config: &Config) -> Result<Credentials, Failure> {
    let usage = |error: anyhow::Error| Failure::new(ExitCode::Usage, error);
    let credentials = Credentials::load(&config.tls.cert, &config.tls.key, &config.tls.ca)
        .map_err(|error| usage(anyhow!("{error}{}", way_back(config, &error))))?;
    let identity = credentials.identity();
    if identity.cluster() != config.cluster || identity.name() != config.name {
        return Err(usage(anyhow!(
            "the certificate {} is for {identity}, and the configuration is for node {} of cluster \
             {}: use this node's certificate, or correct `name` and `cluster`",
            config.tls.cert.display(),
            config.name,
            config.cluster
        )));
    }
    Ok(credentials)
}

/// What a host does that was away for so long that its certificate could not be renewed.
fn way_back(config: &Config, error: &PkiError) -> String {
    if !config.tls.renew || !matches!(error, PkiError::Expired { .. }) {
        return String::new();
    }
    format!(
        "\nit could not be renewed in time: this host was off for too long, or no member with the \
         authority's key could be asked. Let it join again: `quorumctl token create --replace {}` \
         on a member, then move {}, the directory of {} and the data directory {} away, and run \
         `quorumd join` here",
        config.name,
        "quorumd.yaml",
        config.tls.cert.display(),
        config.data_dir.display()
    )
}
