//! Decides what the command of `watch --exec` is handed: the changes of one revision, of several
//! made one, or the whole state.
//!
//! When it is handed over is for `watch_exec.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::client::{Record, WatchEvent, WatchEventKind};

/// Why the whole state is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// It is what was there at the start.
    Initial,
    /// The changes since the last event are not known any more.
    Resync,
}

/// What one run of the command deals with, one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    Changes {
        revision: u64,
        epoch: u64,
        /// How many revisions these changes come from.
        revisions: u64,
        events: Vec<WatchEvent>,
    },
    Snapshot {
        revision: u64,
        epoch: u64,
        reason: Reason,
        keys: Vec<Record>,
    },
}

impl Event {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Changes { .. } => "changes",
            Self::Snapshot { .. } => "snapshot",
        }
    }

    /// Once this has been dealt with, everything up to here has.
    pub(super) fn revision(&self) -> u64 {
        match self {
            Self::Changes { revision, .. } | Self::Snapshot { revision, .. } => *revision,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Changes { epoch, .. } | Self::Snapshot { epoch, .. } => *epoch,
        }
    }

    /// Makes this one event with a later one: of each key the newest only.
    pub(super) fn absorb(&mut self, later: Event) {
        let Self::Changes { revision: newer, revisions: more, events: changes, .. } = later else {
            *self = later;
            return;
        };
        match self {
            Self::Changes { revision, revisions, events, .. } => {
                (*revision, *revisions) = (newer, *revisions + more);
                let mut newest: BTreeMap<Bytes, WatchEvent> = BTreeMap::new();
                for mut event in events.drain(..).chain(changes) {
                    let key = event.record.key.clone();
                    if let Some(earlier) = newest.remove(&key) {
                        event.prev = earlier.prev;
                    }
                    newest.insert(key, event);
                }
                events.extend(newest.into_values());
            }
            Self::Snapshot { revision, keys, .. } => {
                *revision = newer;
                let mut state: BTreeMap<Bytes, Record> =
                    keys.drain(..).map(|record| (record.key.clone(), record)).collect();
                for event in changes {
                    match event.kind {
                        WatchEventKind::Delete => state.remove(&event.record.key),
                        WatchEventKind::Put => state.insert(event.record.key.clone(), event.record),
                    };
                }
                keys.extend(state.into_values());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(revision: u64, events: &str) -> Event {
        let events = serde_json::from_str(events).unwrap();
        Event::Changes { revision, epoch: 1, revisions: 1, events }
    }

    fn put(key: &str, value: &str) -> String {
        format!(
            r#"{{"type":"put","key":"{key}","value":"{value}","create_revision":1,
            "mod_revision":2,"version":1,"lease":null,"prev":{{"key":"{key}","value":"of {value}",
            "create_revision":1,"mod_revision":1,"version":1,"lease":null}}}}"#
        )
    }

    /// Kind, key, value and value before of each.
    fn shown(event: &Event) -> Vec<String> {
        let value: serde_json::Value = serde_json::to_value(event).unwrap();
        let all = value.get("events").or(value.get("keys")).unwrap().as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
        all.iter()
            .map(|one| {
                let before = text(&one["prev"]["value"]);
                format!(
                    "{} {}={} {before}",
                    text(&one["type"]),
                    text(&one["key"]),
                    text(&one["value"])
                )
            })
            .collect()
    }

    #[test]
    fn of_each_key_the_newest_change_and_the_oldest_value_before_are_left() {
        let mut event = changes(5, &format!("[{},{}]", put("b", "1"), put("c", "1")));
        event.absorb(changes(7, &format!("[{}]", put("b", "2"))));
        event.absorb(changes(8, &format!(r#"[{},{{"type":"delete","key":"c"}}]"#, put("a", "3"))));
        assert_eq!(shown(&event), ["put a=3 of 3", "put b=2 of 1", "delete c=- of 1"]);
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["type"], &json["revision"]), (&"changes".into(), &8.into()));
        assert_eq!((&json["revisions"], event.revision()), (&3.into(), 8));
    }

    #[test]
    fn a_state_takes_changes_in_and_replaces_them() {
        let keys = r#"[{"key":"a","value":"0"},{"key":"b","value":"0"}]"#;
        let state = |revision| Event::Snapshot {
            revision,
            epoch: 1,
            reason: Reason::Resync,
            keys: serde_json::from_str(keys).unwrap(),
        };
        let mut event = changes(3, &format!("[{}]", put("z", "1")));
        event.absorb(state(4));
        let later =
            format!(r#"[{{"type":"delete","key":"a"}},{},{}]"#, put("b", "1"), put("c", "1"));
        event.absorb(changes(6, &later));
        assert_eq!(shown(&event), ["- b=1 -", "- c=1 -"]);
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["reason"], &json["revision"]), (&"resync".into(), &6.into()));
    }
}
