//! `barrier`: wait until as many have come as it counts, then go on; or see who waits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::command::{Session, duration};
use super::exit::{CANNOT_RUN, COMMAND_NOT_FOUND, DONE, Failure};
use super::output::{bytes_of, place_line, say, shown};
use crate::client::{Attendance, BarrierOptions, BarrierView, WriteOptions};

#[derive(Args, Debug)]
pub(super) struct Barrier {
    /// The barrier
    #[arg(required_unless_present = "list")]
    name: Option<OsString>,
    /// How many must come; all callers name the same number
    #[arg(long, value_name = "N", required_unless_present_any = ["list", "leave"])]
    count: Option<u32>,
    /// How long to wait for the others [default: without limit]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How long this one is counted when this host vanishes [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// Free text for people
    #[arg(long)]
    info: Option<String>,
    /// Do not wait: print who is there, at this barrier or at all
    #[arg(long, conflicts_with_all = ["count", "wait", "ttl", "info", "command", "leave"])]
    list: bool,
    /// Do not wait: take out whoever has this place, also somebody else
    #[arg(long, value_name = "PLACE", requires = "name")]
    #[arg(conflicts_with_all = ["count", "wait", "ttl", "info", "command"])]
    leave: Option<u64>,
    /// Become this when all have come
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How it stands, as it is printed.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Shown {
    Ready { token: u64 },
    Waiting { present: u64, count: u32 },
}

impl Shown {
    fn line(&self) -> String {
        match self {
            Self::Ready { token } => format!("ready, token {token}"),
            Self::Waiting { present, count } => format!("waiting, {present} of {count}"),
        }
    }
}

impl Barrier {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let Some(name) = self.name.as_deref().map(bytes_of) else {
            return list(session).await.map_err(Failure::of_a_read);
        };
        if let Some(place) = self.leave {
            let options = WriteOptions::default();
            let answer = session.client.leave_barrier(&name, place, &options).await?;
            session.output.print(&answer, format!("revision {}", answer.revision))?;
            return Ok(DONE);
        }
        let Some(count) = self.count else {
            let view = session.client.barrier(&name).await;
            let view = view.map_err(|error| Failure::from(error).of_a_read())?;
            session.output.print(&view, page(&view))?;
            return Ok(DONE);
        };
        let options = BarrierOptions { ttl: self.ttl, wait: self.wait, info: self.info };
        let mut attending = session.client.attend(&name, count, &options).await?;
        loop {
            let attendance = attending.next().await?;
            let shown_state = match attendance {
                Attendance::Ready { token } => Shown::Ready { token },
                Attendance::Waiting { present, count } => Shown::Waiting { present, count },
            };
            if self.command.is_empty() {
                session.output.print(&shown_state, shown_state.line())?;
            } else {
                // Standard output is the command's.
                say(&format!("\"{}\": {}", shown(&name), shown_state.line()));
            }
            if let Attendance::Ready { token } = attendance {
                return match self.command.split_first() {
                    Some((program, arguments)) => {
                        Err(become_it(session, &name, token, program, arguments))
                    }
                    None => Ok(DONE),
                };
            }
        }
    }
}

/// Becomes the command. What is left of this program when that fails.
fn become_it(
    session: &Session,
    name: &[u8],
    token: u64,
    program: &OsStr,
    arguments: &[OsString],
) -> Failure {
    use std::os::unix::ffi::OsStrExt;
    // A barrier protects nothing: the command is nobody's to stop, and needs no guard.
    let socket = std::path::absolute(session.client.socket());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("QUORUMD_NAME", OsStr::from_bytes(name))
        .env("QUORUMD_TOKEN", token.to_string());
    if let Ok(socket) = socket {
        command.env("QUORUMD_SOCKET", socket);
    }
    let error = command.exec();
    let status = match error.kind() {
        io::ErrorKind::NotFound => COMMAND_NOT_FOUND,
        _ => CANNOT_RUN,
    };
    Failure::new(status, format!("cannot run {}: {error}", program.to_string_lossy()))
}

async fn list(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.barriers().await?;
    session.output.print_pages(&answer, answer.barriers.iter().map(page))?;
    Ok(DONE)
}

fn page(view: &BarrierView) -> String {
    let present = match view.count {
        Some(count) => format!(" ({} of {count})", view.waiting.len()),
        None => String::new(),
    };
    let mut lines = vec![format!("{}{present}", shown(&view.name))];
    lines.extend(view.waiting.iter().map(|place| format!("  waiting: {}", place_line(place))));
    lines.extend(view.ready.iter().map(|place| format!("  ready: {}", place_line(place))));
    if view.waiting.is_empty() && view.ready.is_empty() {
        lines.push("  nobody".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_shown_with_who_is_there() {
        let view: BarrierView = serde_json::from_str(
            r#"{"name":"b","count":3,
                "waiting":[{"token":5,"lease":"4","node":"n2","pid":6,"uid":0,"info":"db"}],
                "ready":[{"token":3,"lease":"2","node":"n1","pid":4,"uid":0}],
                "revision":9}"#,
        )
        .unwrap();
        assert_eq!(
            page(&view),
            "b (1 of 3)\n  waiting: token 5 on n2 pid 6 uid 0 lease 4 (db)\n  \
             ready: token 3 on n1 pid 4 uid 0 lease 2"
        );
    }
}
