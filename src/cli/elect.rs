//! `elect`: lead while a command runs, or until interrupted; or see who leads.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::command::{Session, duration};
use super::exit::{DONE, Failure};
use super::hold::{Prize, wait_and_hold};
use super::output::{bytes_of, place_line, say, shown};
use super::running::Running;
use super::unit::{UnitOptions, lease_request};
use super::unit_lease;
use crate::client::{
    CampaignOptions, ElectionMessage, ElectionView, ElectionWatch, Error, Place, WriteOptions,
};

/// The daemon's streams say something at least every 10 s (API.md).
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Before the stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(super) struct Elect {
    /// The election
    #[arg(required_unless_present = "list")]
    name: Option<OsString>,
    /// What to publish as the leader, such as an address
    #[arg(long)]
    value: Option<OsString>,
    /// How long to campaign; 0s: win now or fail [default: without limit]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How long it stays won when this host vanishes [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// Free text for people
    #[arg(long)]
    info: Option<String>,
    /// Do not campaign: print who leads, and each change
    #[arg(long, requires = "name")]
    #[arg(conflicts_with_all = ["value", "wait", "ttl", "info", "command", "list", "resign"])]
    observe: bool,
    /// Do not campaign: print who leads and who would follow, in this election or in all
    #[arg(long, conflicts_with_all = ["value", "wait", "ttl", "info", "command", "resign"])]
    list: bool,
    /// Do not campaign: end the leadership or candidacy with this token, also somebody else's
    #[arg(long, value_name = "TOKEN", requires = "name")]
    #[arg(conflicts_with_all = ["value", "wait", "ttl", "info", "command"])]
    resign: Option<u64>,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    unit: UnitOptions,
}

impl Elect {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let Some(name) = self.name.as_deref().map(bytes_of) else {
            return list(session).await.map_err(Failure::of_a_read);
        };
        if self.list {
            let view = session.client.election(&name).await;
            let view = view.map_err(|error| Failure::from(error).of_a_read())?;
            session.output.print(&view, page(&view))?;
            return Ok(DONE);
        }
        if self.observe {
            return observe(session, &name).await.map_err(Failure::of_a_read);
        }
        if let Some(token) = self.resign {
            let answer = session.client.resign(&name, token, &WriteOptions::default()).await?;
            session.output.print(&answer, format!("revision {}", answer.revision))?;
            return Ok(DONE);
        }
        if let Some(job) = self.unit.job() {
            let value = self.value.as_deref().map_or_else(Bytes::new, bytes_of);
            let place = unit_lease::Place::Election { name, value };
            return self.unit.run(session, job, place, lease_request(self.ttl, self.info)).await;
        }
        let options = CampaignOptions {
            value: self.value.as_deref().map_or_else(Bytes::new, bytes_of),
            ttl: self.ttl,
            wait: self.wait,
            info: self.info,
        };
        wait_and_hold(session, Prize::Leadership(options), &name, &self.running).await
    }
}

async fn list(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.elections().await?;
    session.output.print_pages(&answer, answer.elections.iter().map(page))?;
    Ok(DONE)
}

/// Prints each leader once, over lost connections, until interrupted.
async fn observe(session: &Session, name: &[u8]) -> Result<u8, Failure> {
    let mut last: Option<Option<Place>> = None;
    let mut watch = session.client.watch_election(name).await?;
    loop {
        let failure = follow(session, &mut watch, &mut last).await?;
        if !failure.is_transient() {
            return Err(failure.into());
        }
        say(&format!("interrupted, resuming: {failure}"));
        watch = loop {
            tokio::time::sleep(PAUSE).await;
            match session.client.watch_election(name).await {
                Ok(watch) => break watch,
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        };
    }
}

/// Why the stream ended.
async fn follow(
    session: &Session,
    watch: &mut ElectionWatch,
    last: &mut Option<Option<Place>>,
) -> Result<Error, Failure> {
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, watch.next()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Ok(Error::Broken { detail: "the stream ended".to_owned() }),
            Ok(Err(error)) => return Ok(error),
            Err(_) => return Ok(Error::Silent { waited: SILENCE_MAX }),
        };
        match &message {
            ElectionMessage::Error(problem) => {
                return Ok(Error::Problem(Box::new(problem.clone())));
            }
            ElectionMessage::Leader { leader, .. } if last.as_ref() != Some(leader) => {
                session.output.print(&message, leader_line(leader.as_ref()))?;
                *last = Some(leader.clone());
            }
            _ => {}
        }
    }
}

fn leader_line(leader: Option<&Place>) -> String {
    leader.map_or_else(|| "no leader".to_owned(), |place| format!("leader: {}", place_line(place)))
}

fn page(view: &ElectionView) -> String {
    let mut lines = vec![shown(&view.name), format!("  {}", leader_line(view.leader.as_ref()))];
    lines.extend(view.candidates.iter().map(|place| format!("  candidate: {}", place_line(place))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_is_shown_with_its_leader_and_candidates() {
        let view: ElectionView = serde_json::from_str(
            r#"{"name":"e",
                "leader":{"value":"h:80","token":3,"lease":"2","node":"n1","pid":4,"uid":0},
                "candidates":[{"value":"","token":5,"lease":"4","node":"n2","pid":6,"uid":0}],
                "revision":9}"#,
        )
        .unwrap();
        assert_eq!(
            page(&view),
            "e\n  leader: token 3 on n1 pid 4 uid 0 lease 2 value h:80\n  \
             candidate: token 5 on n2 pid 6 uid 0 lease 4 value "
        );
        assert_eq!(leader_line(None), "no leader");
    }
}
