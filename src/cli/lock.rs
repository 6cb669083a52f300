//! `lock`: hold it while a command runs, or until interrupted; or see who does.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::command::{Session, duration};
use super::exit::{DONE, Failure};
use super::hold::{Prize, wait_and_hold};
use super::output::{bytes_of, place_line, shown};
use super::running::Running;
use super::unit::{UnitOptions, lease_request};
use super::unit_lease::Place;
use crate::client::{AcquireOptions, LockView, Mode, WriteOptions};

#[derive(Args, Debug)]
pub(super) struct Lock {
    /// The lock
    #[arg(required_unless_present = "list")]
    name: Option<OsString>,
    /// How long to wait for it; 0s: take it now or fail [default: without limit]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How many may hold at once [default: 1]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Hold beside all others who share it, but beside nobody who does not
    #[arg(long, conflicts_with = "slots")]
    shared: bool,
    /// How long it stays taken when this host vanishes [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// Free text for people
    #[arg(long)]
    info: Option<String>,
    /// Take nothing: print who holds and who waits, of this lock or of all
    #[arg(long)]
    #[arg(conflicts_with_all = ["wait", "slots", "shared", "ttl", "info", "command", "release"])]
    list: bool,
    /// Take nothing: release what is held with this token, also somebody else's
    #[arg(long, value_name = "TOKEN", requires = "name")]
    #[arg(conflicts_with_all = ["wait", "slots", "shared", "ttl", "info", "command"])]
    release: Option<u64>,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    unit: UnitOptions,
}

impl Lock {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let Some(name) = self.name.as_deref().map(bytes_of) else {
            return list(session).await.map_err(Failure::of_a_read);
        };
        if self.list {
            return view(session, &name).await.map_err(Failure::of_a_read);
        }
        if let Some(token) = self.release {
            let options = WriteOptions::default();
            let answer = session.client.release_lock(&name, token, &options).await?;
            session.output.print(&answer, format!("revision {}", answer.revision))?;
            return Ok(DONE);
        }
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        if let Some(job) = self.unit.job() {
            let place = Place::Lock { name, slots: self.slots, mode };
            return self.unit.run(session, job, place, lease_request(self.ttl, self.info)).await;
        }
        let options = AcquireOptions {
            ttl: self.ttl,
            wait: self.wait,
            slots: self.slots,
            mode,
            info: self.info,
        };
        wait_and_hold(session, Prize::Lock(options), &name, &self.running).await
    }
}

async fn list(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.locks().await?;
    session.output.print_pages(&answer, answer.locks.iter().map(page))?;
    Ok(DONE)
}

async fn view(session: &Session, name: &[u8]) -> Result<u8, Failure> {
    let view = session.client.lock_view(name).await?;
    session.output.print(&view, page(&view))?;
    Ok(DONE)
}

fn page(view: &LockView) -> String {
    let slots = if view.slots == 1 { String::new() } else { format!(" ({} slots)", view.slots) };
    let mut lines = vec![format!("{}{slots}", shown(&view.name))];
    lines.extend(view.holders.iter().map(|place| format!("  held: {}", place_line(place))));
    lines.extend(view.waiters.iter().map(|place| format!("  waiting: {}", place_line(place))));
    if view.holders.is_empty() {
        lines.push("  free".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_shown_with_its_queue() {
        let view: LockView = serde_json::from_str(
            r#"{"name":"l","slots":2,
                "holders":[{"token":3,"lease":"2","node":"n1","pid":4,"uid":0}],
                "waiters":[{"token":5,"lease":"4","node":null,"pid":null,"uid":null}],
                "revision":9}"#,
        )
        .unwrap();
        assert_eq!(
            page(&view),
            "l (2 slots)\n  held: token 3 on n1 pid 4 uid 0 lease 2\n  \
             waiting: token 5 on ? lease 4"
        );
        let free = LockView { slots: 1, holders: Vec::new(), waiters: Vec::new(), ..view };
        assert_eq!(page(&free), "l\n  free");
    }
}
