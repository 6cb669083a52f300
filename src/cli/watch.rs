//! `watch`: one line for each change, for as long as it runs.
//!
//! Running a command for each change is in `watch_exec.rs`.

use std::ffi::OsString;
use std::io;

use clap::{Args, ValueEnum};

use super::command::Session;
use super::exit::Failure;
use super::output::{Output, bytes_of, say, shown};
use super::watch_exec::{Handling, watch_and_run};
use crate::client::{
    Record, Target, WatchEvent, WatchEventKind, WatchMessage, WatchOptions, WatchStep,
};

#[derive(Args, Debug)]
pub(super) struct Watch {
    /// The key
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    key: Option<OsString>,
    /// All keys that begin with this
    #[arg(long)]
    prefix: Option<OsString>,
    /// Begin with this revision, which may be past [default: from now on]
    #[arg(long, value_name = "REVISION", conflicts_with = "initial")]
    from: Option<u64>,
    /// First the present state, then its changes, without a gap
    #[arg(
        long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true,
        default_missing_value = "run"
    )]
    initial: Option<Initial>,
    /// With the values before
    #[arg(long)]
    prev: bool,
    #[command(flatten)]
    handling: Handling,
}

/// What is done with the state that is there at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Initial {
    /// It comes first
    Run,
    /// Only what changes after the start
    Skip,
}

impl Watch {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let target = match (self.key, self.prefix) {
            (Some(key), _) => Target::Key(bytes_of(&key)),
            (None, prefix) => Target::Prefix(bytes_of(&prefix.unwrap_or_default())),
        };
        let options = WatchOptions {
            from: self.from,
            initial: self.initial == Some(Initial::Run),
            prev: self.prev,
            ..WatchOptions::default()
        };
        if !self.handling.command.is_empty() {
            return watch_and_run(session, target, options, self.handling).await;
        }
        let mut watch = session.client.watch(target, options);
        loop {
            match watch.step().await? {
                WatchStep::Interrupted(error) => {
                    say(&format!("interrupted, resuming: {error}"));
                }
                WatchStep::Message(message) => show(session.output, &message)?,
            }
        }
    }
}

fn show(output: Output, message: &WatchMessage) -> io::Result<()> {
    if output == Output::Json {
        return output.print(message, "");
    }
    if let Some(note) = note(message) {
        say(note);
    }
    for line in lines(message) {
        output.print(&(), line)?;
    }
    Ok(())
}

/// What is not a change, for whoever looks on.
fn note(message: &WatchMessage) -> Option<&'static str> {
    match message {
        WatchMessage::Leader { present: false } => {
            Some("this node has no contact with a leader: changes may come late")
        }
        WatchMessage::Leader { present: true } => Some("this node is in contact with a leader"),
        WatchMessage::Resync { .. } => Some("fell behind: the present state follows anew"),
        _ => None,
    }
}

/// One line for each key: revision, what happened, key, value and what was there before.
fn lines(message: &WatchMessage) -> Vec<String> {
    match message {
        WatchMessage::Changes { revision, events } => {
            events.iter().map(|event| event_line(*revision, event)).collect()
        }
        WatchMessage::Snapshot { revision, keys, .. } => {
            keys.iter().map(|record| line(*revision, "is", record)).collect()
        }
        _ => Vec::new(),
    }
}

fn event_line(revision: u64, event: &WatchEvent) -> String {
    let what = match event.kind {
        WatchEventKind::Delete => "delete",
        WatchEventKind::Put => "put",
    };
    let mut text = line(revision, what, &event.record);
    if let Some(value) = event.prev.as_ref().and_then(|prev| prev.value.as_ref()) {
        text.push_str("\tbefore ");
        text.push_str(&shown(value));
    }
    text
}

fn line(revision: u64, what: &str, record: &Record) -> String {
    let mut text = format!("{revision}\t{what}\t{}", shown(&record.key));
    if let Some(value) = &record.value {
        text.push('\t');
        text.push_str(&shown(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_as(json: &str) -> Vec<String> {
        lines(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn each_change_is_a_line() {
        let changes = r#"{"type":"changes","revision":9,"events":[
            {"type":"put","key":"a","value":"1\n","create_revision":9,"mod_revision":9,
             "version":1,"lease":null,"prev":{"key":"a","value":"0"}},
            {"type":"delete","key":"b"}]}"#;
        assert_eq!(shown_as(changes), ["9\tput\ta\t1\\n\tbefore 0", "9\tdelete\tb"]);
        let snapshot = r#"{"type":"snapshot","revision":8,"keys":[{"key":"a","value":"0"}]}"#;
        assert_eq!(shown_as(snapshot), ["8\tis\ta\t0"]);
        assert!(shown_as(r#"{"type":"progress","revision":9}"#).is_empty());
        assert!(note(&WatchMessage::Leader { present: false }).unwrap().contains("leader"));
    }
}
