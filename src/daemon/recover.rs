//! `quorumd recover`: what a stopped node holds, and the cluster of this node alone that goes on
//! with it when the quorum is lost for good.
//!
//! What the new cluster consists of is decided in `replica::Survivor`, how it replaces the old one
//! in one transaction in `storage/`. Here is who may do it, and what is said. It needs no other
//! member, and starts nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use rustix::rand::{GetRandomFlags, getrandom};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::base::{ClusterId, WallMillis};
use crate::config::Config;
use crate::replica::{Held, Part, RecoverError, Survivor};
use crate::state::{Row, RowKey, StateMachine};
use crate::storage::{
    Identity, RaftStore, RecoveredLog, StateStore, StorageError, check, finish_install,
};

use super::check::read;
use super::exit::{ExitCode, Failure, conclude, say};
use super::run::lock_data_dir;

/// What `quorumd recover` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct RecoverOptions {
    /// The configuration of the node
    #[arg(long, default_value = "/etc/quorumd/quorumd.yaml")]
    config: PathBuf,
    /// Say what the node holds and change nothing: to choose the survivor with the longest log
    #[arg(long, group = "what")]
    inspect: bool,
    /// Make this node the only voter of a new cluster that goes on with its data
    #[arg(long, group = "what")]
    force_new_cluster: bool,
    /// Do not ask: writes that other members acknowledged may be lost
    #[arg(long, requires = "force_new_cluster")]
    yes: bool,
}

/// Does it, and says what it did.
pub fn recover(options: &RecoverOptions) -> ExitCode {
    conclude(if options.force_new_cluster {
        force_new_cluster(&options.config, options.yes)
    } else {
        inspect(&options.config)
    })
}

fn inspect(path: &Path) -> Result<(), Failure> {
    let config = config(path)?;
    let written = last_written(&config);
    let path = config.data_dir.join("raft.redb");
    let (mut store, mut log) = RaftStore::open_copy(&path).map_err(storage)?;
    owned(&config, &log)?;
    let state = config.data_dir.join("state.redb");
    let rows = match state.exists() {
        true => {
            let opened = StateStore::open_copy(&state, &log.identity).map_err(storage)?;
            finish_install(&mut store, &mut log, &opened.0).map_err(storage)?;
            opened.1
        }
        false => Vec::new(),
    };
    let survivor = survivor(log, rows)?;
    say(&facts(&survivor, written));
    say(ADVICE);
    Ok(())
}

fn force_new_cluster(path: &Path, is_confirmed: bool) -> Result<(), Failure> {
    let config = config(path)?;
    let _lock = lock_data_dir(&config.data_dir)?;
    let written = last_written(&config);
    let fresh = || Identity {
        node: crate::base::NodeId(0),
        name: String::new(),
        cluster_name: String::new(),
    };
    let path = config.data_dir.join("raft.redb");
    let (mut store, mut log) = RaftStore::open_path(&path, fresh).map_err(storage)?;
    owned(&config, &log)?;
    let path = config.data_dir.join("state.redb");
    let (state, rows) = StateStore::open_path(&path, &log.identity).map_err(storage)?;
    finish_install(&mut store, &mut log, &state).map_err(storage)?;
    drop(state);
    let survivor = survivor(log, rows)?;
    if survivor.part() == Part::VoterAlone {
        return Err(anyhow!(
            "node {} is the only voter of its cluster and needs no other member: start it with \
             `quorumd run`; nothing was changed",
            config.name
        )
        .into());
    }
    say(&facts(&survivor, written));
    say(&warning(&survivor));
    if !is_confirmed {
        confirm(&config.cluster)?;
    }
    let address = address(&config, &survivor)?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let wall = WallMillis(u64::try_from(wall).unwrap_or_default());
    let cluster = ClusterId(random()? | 1);
    let (genesis, batch) = survivor.new_cluster(cluster, &address, wall);
    store.start_cluster(&genesis, &batch).map_err(storage)?;
    say(&outcome(&config, &survivor, cluster));
    Ok(())
}

/// The configuration, which must be one of a node that has data.
fn config(path: &Path) -> Result<Config, Failure> {
    let (config, warnings) = read(path)?;
    for warning in &warnings {
        say(&format!("{warning} (warning)"));
    }
    if config.data_dir.join("raft.redb").exists() {
        return Ok(config);
    }
    Err(Failure::new(
        ExitCode::DataDirectory,
        anyhow!("there is no raft.redb in {}: no node has run there", config.data_dir.display()),
    ))
}

fn owned(config: &Config, log: &RecoveredLog) -> Result<(), Failure> {
    let Identity { name, cluster_name, .. } = &log.identity;
    if (name, cluster_name) == (&config.name, &config.cluster) {
        return Ok(());
    }
    let (path, (name, cluster)) = (config.data_dir.display(), (&config.name, &config.cluster));
    Err(Failure::new(
        ExitCode::DataDirectory,
        anyhow!(
            "the data directory {path} belongs to node {:?} of cluster {:?}, and the configuration \
             is that of node {name:?} of cluster {cluster:?}",
            log.identity.name,
            log.identity.cluster_name,
        ),
    ))
}

fn survivor(log: RecoveredLog, rows: Vec<(RowKey, Row)>) -> Result<Survivor, Failure> {
    let meta = rows.iter().find_map(|(_, row)| match row {
        Row::Meta(meta) => Some(meta),
        _ => None,
    });
    check(&log, meta).map_err(storage)?;
    let machine = match rows.is_empty() {
        true => None,
        false => Some(StateMachine::restore(rows).map_err(|error| {
            Failure::new(ExitCode::Storage, anyhow!("state.redb cannot be used: {error}"))
        })?),
    };
    Survivor::new(log, machine).map_err(|error| match error {
        RecoverError::NoGenesis => Failure::new(ExitCode::DataDirectory, anyhow!("{error}")),
        error => Failure::new(ExitCode::Storage, anyhow!("{error}")),
    })
}

fn storage(error: StorageError) -> Failure {
    let code = match error {
        StorageError::InUse { .. } => ExitCode::DataDirectory,
        _ => ExitCode::Storage,
    };
    Failure::new(code, anyhow!("{error}"))
}

/// Where the others reach this node: as it was agreed upon, or as the configuration says.
fn address(config: &Config, survivor: &Survivor) -> Result<String, Failure> {
    let member = survivor.membership().members().get(&survivor.log().identity.node);
    let listed = config.members.get(&config.name);
    member
        .map(|member| member.address.clone())
        .or_else(|| listed.map(|seed| seed.address.clone()))
        .ok_or_else(|| {
            Failure::new(
                ExitCode::Usage,
                anyhow!("`members` in the configuration does not say how others reach this node"),
            )
        })
}

/// Only an explicit word counts, and only one that is about this cluster.
fn confirm(cluster: &str) -> Result<(), Failure> {
    let refused = |error| Err(Failure::new(ExitCode::Usage, error));
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return refused(anyhow!(
            "nothing was changed: say that it is meant with --yes, or on a terminal"
        ));
    }
    let mut output = std::io::stdout();
    let asked = write!(output, "Type the name of the cluster to go on: ");
    asked.and_then(|()| output.flush()).context("cannot ask")?;
    let mut line = String::new();
    input.read_line(&mut line).context("cannot read the answer")?;
    if line.trim() == cluster {
        return Ok(());
    }
    refused(anyhow!("nothing was changed: {:?} is not the name of the cluster", line.trim()))
}

const ADVICE: &str = "\
Nothing was changed. Inspect every survivor, and go on with the one whose last entry has the highest
term, and among those of one term the highest index: it has all that any of them has acknowledged.";

/// What the node holds.
fn facts(survivor: &Survivor, written: Option<SystemTime>) -> String {
    let log = survivor.log();
    let (committed, all) = (survivor.committed, survivor.all);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{name:<18}{value}");
    };
    line("node", format!("{} (incarnation {})", log.identity.name, log.identity.node));
    let cluster = survivor.cluster();
    line("cluster", format!("{} (identity {cluster})", log.identity.cluster_name));
    line("part", part(survivor));
    line("last entry", format!("term {}, index {}", all.term, all.index));
    line("committed", format!("index {}, as far as this node knows", committed.index));
    line("not committed", uncommitted(survivor));
    line("state", numbers(&all));
    line("last written", written.map_or("unknown".to_owned(), time));
    let stamp = UNIX_EPOCH + std::time::Duration::from_millis(all.wall.0);
    line("newest command", if all.wall.0 == 0 { "none".to_owned() } else { time(stamp) });
    text.truncate(text.trim_end().len());
    text
}

fn part(survivor: &Survivor) -> String {
    let membership = survivor.membership();
    let learners = membership.members().iter().filter(|(node, _)| !membership.is_voter(**node));
    let learners: BTreeSet<String> = learners.map(|(_, member)| member.name.clone()).collect();
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(" ");
    let part = match survivor.part() {
        Part::Learner => "learner",
        Part::Removed => "removed from the cluster",
        Part::Voter => "voter",
        Part::VoterAlone => "the only voter",
    };
    let learners = if learners.is_empty() { "none".to_owned() } else { list(learners) };
    format!("{part}; voters: {}; learners: {learners}", list(membership.voter_names()))
}

fn uncommitted(survivor: &Survivor) -> String {
    let (committed, all) = (survivor.committed, survivor.all);
    match all.index.since(committed.index) {
        0 => "nothing".to_owned(),
        count => format!(
            "the last {count} ({} to {}): from revision {} on, to {}",
            committed.index.next(),
            all.index,
            committed.revision,
            all.revision
        ),
    }
}

fn numbers(held: &Held) -> String {
    let Held { revision, epoch, keys, leases, .. } = held;
    format!("revision {revision} of epoch {epoch}, {keys} keys, {leases} leases")
}

/// What is given up, before it is.
fn warning(survivor: &Survivor) -> String {
    let all = survivor.all;
    let mut text = format!(
        "\nThis node would go on alone, as a new cluster.\n\
         - May be lost: whatever other members acknowledged after term {}, index {}.\n",
        all.term, all.index
    );
    if all.index > survivor.committed.index {
        let _ = writeln!(
            text,
            "- May appear: what is not known to be committed here ({}). It may have been\n  \
             acknowledged, or its callers were told that its outcome is unknown. It is kept,\n  \
             and counts from now on.",
            uncommitted(survivor)
        );
    }
    text += match survivor.part() {
        Part::Learner => {
            "- This node is a learner: the voters may have agreed on more than was ever sent here. \
             Prefer any\n  voter whose data is left.\n"
        }
        Part::Removed => {
            "- This node was removed from its cluster: nothing that was agreed upon since is here. \
             Prefer any\n  member whose data is left.\n"
        }
        Part::Voter | Part::VoterAlone => "",
    };
    text += "- The others must never run again with their data. If a majority of them is alive,\n  \
             the cluster is not lost: two clusters would serve their hosts, and both would\n  \
             grant the same locks.";
    text
}

/// What was done, and what comes next.
fn outcome(config: &Config, survivor: &Survivor, cluster: ClusterId) -> String {
    let all = survivor.all;
    let others: BTreeSet<&str> = survivor
        .membership()
        .members()
        .iter()
        .filter(|(node, _)| **node != survivor.log().identity.node)
        .map(|(_, member)| member.name.as_str())
        .collect();
    format!(
        "\nDone: {name} is the only voter of cluster {} with the new identity {cluster}.\n\
         Kept: everything up to term {}, index {}: {}.\n\
         Its watchers are told that a new epoch began, and read anew; leases have their full time \
         again.\n\nNext:\n\
         1. Start it:            systemctl start quorumd   (or: quorumd run --config ...)\n\
         2. Wipe the others:     remove the data directories of {}; with their old data they are \
         refused\n\
         3. Start and add them:  quorumctl members add ... (docs/operations.md, \"Quorum lost for \
         good\")",
        config.cluster,
        all.term,
        all.index,
        numbers(&all),
        others.into_iter().collect::<Vec<_>>().join(", "),
        name = config.name,
    )
}

fn last_written(config: &Config) -> Option<SystemTime> {
    fs::metadata(config.data_dir.join("raft.redb")).and_then(|data| data.modified()).ok()
}

/// Sixty-four bits from the kernel.
fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("getrandom(2) failed")?;
    Ok(u64::from_le_bytes(bytes))
}

/// A moment as RFC 3339 writes it, in UTC, to the second.
fn time(at: SystemTime) -> String {
    let second =
        OffsetDateTime::from(at).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // Only a year of more than four digits has no such form.
    second.format(&Rfc3339).unwrap_or_else(|_| "at no time that has a date".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn moments_are_written_as_rfc_3339_does() {
        let written = |seconds| super::time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(written(0), "1970-01-01T00:00:00Z");
        assert_eq!(written(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
