//! `lease grant`, `keepalive`, `revoke`, `get`, `list` and `events`.

use std::time::Duration;

use clap::Subcommand;

use super::command::{Session, Writing, duration};
use super::exit::{DONE, Failure, LOST, USAGE};
use super::output::{shown, table};
use crate::client::{
    Bind, DurationText, GrantLeaseRequest, HexId, LeaseMessage, LeaseState, LeaseView, ReadOptions,
};

#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// Print the states of a lease as they change
    Events {
        /// The lease
        id: HexId,
    },
    /// Print a lease and its keys
    Get {
        /// The lease
        id: HexId,
    },
    /// Make a lease and print its id
    Grant {
        /// Time to live without a sign of life [default: 10s]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        /// What keeps it alive: `none`: keepalives; `process`: the daemon, while a process lives
        #[arg(long, value_parser = ["none", "process"])]
        bind: Option<String>,
        /// That process, which --bind process goes without saying for [default: the one that has
        /// started quorumctl]
        #[arg(long)]
        pid: Option<u32>,
        /// Free text for people
        #[arg(long)]
        info: Option<String>,
        #[command(flatten)]
        writing: Writing,
    },
    /// Give signs of life until interrupted
    Keepalive {
        /// The lease
        id: HexId,
        /// Only one
        #[arg(long)]
        once: bool,
    },
    /// List all leases
    List,
    /// End a lease and delete its keys
    Revoke {
        /// The lease
        id: HexId,
        #[command(flatten)]
        writing: Writing,
    },
}

impl LeaseCommand {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        match self {
            Self::Events { id } => events(session, id).await.map_err(Failure::of_a_read),
            Self::Get { id } => {
                let kept = session.client.lease(id, &ReadOptions::default()).await;
                let view = kept.map_err(|error| Failure::from(error).of_a_read())?.answer;
                session.output.print(&view, page(&view))?;
                Ok(DONE)
            }
            Self::Grant { ttl, bind, pid, info, writing } => {
                let (bind, pid) = binding(bind.as_deref(), pid)?;
                let request = GrantLeaseRequest { ttl: ttl.map(DurationText), bind, pid, info };
                let kept = session.client.grant_lease(&request, &writing.options()).await?;
                session.output.print(&kept.answer, kept.answer.lease.to_string())?;
                Ok(DONE)
            }
            Self::Keepalive { id, once } => keep_alive(session, id, once).await,
            Self::List => {
                let answer = session.client.leases().await;
                let answer = answer.map_err(|error| Failure::from(error).of_a_read())?;
                session.output.print(&answer, list_table(&answer.leases))?;
                Ok(DONE)
            }
            Self::Revoke { id, writing } => {
                let answer = session.client.revoke_lease(id, &writing.options()).await?;
                session.output.print(&answer, format!("revision {}", answer.revision))?;
                Ok(DONE)
            }
        }
    }
}

/// quorumctl itself is gone in a moment: what outlives it is whoever has started it.
fn binding(bind: Option<&str>, pid: Option<u32>) -> Result<(Option<Bind>, Option<u32>), Failure> {
    match (bind, pid) {
        (Some("process"), None) => {
            let parent = std::os::unix::process::parent_id();
            Ok((Some(Bind::Process), Some(parent)))
        }
        (Some("none"), Some(_)) => {
            let text = "--pid goes with --bind process";
            Err(Failure::new(USAGE, text.to_owned()))
        }
        (_, Some(pid)) => Ok((Some(Bind::Process), Some(pid))),
        (_, None) => Ok((None, None)),
    }
}

async fn keep_alive(session: &Session, id: HexId, once: bool) -> Result<u8, Failure> {
    let mut valid_until = None;
    loop {
        let pause = match session.client.keep_alive(id).await {
            Ok(kept) => {
                let text = format!("valid for {} ms", kept.answer.valid_for_ms);
                session.output.print(&kept.answer, text)?;
                valid_until = Some(kept.valid_until);
                Duration::from_millis(kept.answer.ttl_ms / 3)
            }
            // As long as the lease is valid, the next one may still come in time.
            Err(error) if error.is_transient() && valid_until.is_some() => {
                if valid_until.is_some_and(|until| until.remaining().is_zero()) {
                    return Err(Failure::new(LOST, format!("no confirmation in time: {error}")));
                }
                Duration::from_millis(100)
            }
            Err(error) => return Err(error.into()),
        };
        if once {
            return Ok(DONE);
        }
        tokio::time::sleep(pause).await;
    }
}

async fn events(session: &Session, id: HexId) -> Result<u8, Failure> {
    let mut events = session.client.lease_events(id).await?;
    while let Some(message) = events.next().await? {
        session.output.print(&message, event_line(&message))?;
        if message.state == LeaseState::Lost {
            return Ok(LOST);
        }
    }
    Ok(DONE)
}

fn event_line(message: &LeaseMessage) -> String {
    let state = match message.state {
        LeaseState::Active => "active",
        LeaseState::AtRisk => "at_risk",
        LeaseState::Error => "error",
        LeaseState::Lost => "lost",
        LeaseState::Unknown => "unknown",
    };
    let reason = message.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{state}, valid for {} ms{reason}", message.valid_for_ms)
}

fn bind_name(bind: Bind) -> &'static str {
    match bind {
        Bind::Connection => "connection",
        Bind::Node => "node",
        Bind::None => "none",
        Bind::Process => "process",
    }
}

fn page(view: &LeaseView) -> String {
    let known = |millis: Option<u64>| {
        millis.map_or_else(|| "not known here".to_owned(), |millis| format!("{millis} ms"))
    };
    let mut lines = vec![
        format!("lease: {}", view.lease),
        format!("ttl: {} ms", view.ttl_ms),
        format!("remaining: {}", known(view.remaining_ms)),
        format!("valid for: {}", known(view.valid_for_ms)),
        format!("bind: {}", bind_name(view.bind)),
        format!("node: {}", view.node.as_deref().unwrap_or("?")),
        format!("pid: {}", view.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())),
        format!("uid: {}", view.uid),
        format!("info: {}", shown(view.info.as_bytes())),
    ];
    lines.extend(view.keys.iter().map(|key| format!("key: {}", shown(&key.0))));
    lines.join("\n")
}

fn list_table(leases: &[LeaseView]) -> String {
    let head = ["LEASE", "TTL", "BIND", "NODE", "PID", "UID", "INFO"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for view in leases {
        rows.push(vec![
            view.lease.to_string(),
            DurationText(Duration::from_millis(view.ttl_ms)).to_string(),
            bind_name(view.bind).to_owned(),
            view.node.clone().unwrap_or_else(|| "?".to_owned()),
            view.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
            view.uid.to_string(),
            shown(view.info.as_bytes()),
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shown_on_a_page_and_in_a_table() {
        let view: LeaseView = serde_json::from_str(
            r#"{"lease":"1f","ttl_ms":10000,"remaining_ms":null,"valid_for_ms":900,
                "bind":"none","node":"n1","pid":7,"uid":0,
                "info":"x","keys":[{"key":"a"}]}"#,
        )
        .unwrap();
        let text = page(&view);
        assert!(
            text.contains("remaining: not known here\nvalid for: 900 ms\nbind: none"),
            "{text}"
        );
        assert!(text.ends_with("info: x\nkey: a"), "{text}");
        let text = list_table(&[view]);
        assert_eq!(
            text,
            "LEASE  TTL  BIND  NODE  PID  UID  INFO\n1f     10s  none  n1    7    0    x"
        );
    }
}
