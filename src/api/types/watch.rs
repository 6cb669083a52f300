//! The messages of a watch, one per line of NDJSON or per event of Server-Sent Events.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::api::types::{Problem, Record};

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchMessage {
    /// All changes of one revision that the watch is about.
    Changes {
        /// The revision.
        revision: u64,
        /// In key order.
        events: Vec<WatchEvent>,
    },
    /// The last message: the stream ends for this reason.
    Error(Problem),
    /// This node lost contact with a leader, or regained it.
    Leader {
        /// Whether there is one.
        present: bool,
    },
    /// Nothing that the watch is about happened up to here: resume from the next revision.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// The reader fell behind; a snapshot follows.
    Resync {
        /// The oldest revision that is still readable.
        compact_revision: u64,
        /// The store's revision.
        revision: u64,
    },
    /// A part of the state.
    Snapshot {
        /// The revision of the whole snapshot.
        revision: u64,
        /// The history that the revision belongs to.
        #[serde(default)]
        epoch: u64,
        /// In byte order.
        keys: Vec<Record>,
        /// Whether another part follows.
        #[serde(default)]
        more: bool,
    },
    /// Everything up to here has been sent; live from here on.
    Synced {
        /// The revision.
        revision: u64,
        /// The history that the revision belongs to.
        #[serde(default)]
        epoch: u64,
    },
    /// A message that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WatchEvent {
    /// Set or deleted.
    #[serde(rename = "type")]
    pub kind: WatchEventKind,
    /// After a put the new record; after a delete the key, with zeros.
    #[serde(flatten)]
    pub record: Record,
    /// What was there before, when it was asked for and history has it.
    pub prev: Option<Record>,
}

/// Set or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchEventKind {
    /// The key is gone.
    Delete,
    /// The key was set.
    Put,
}

impl Serialize for WatchEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.kind)?;
        match self.kind {
            WatchEventKind::Delete => {
                super::text::entry(&mut map, "key", "key_base64", &self.record.key)?;
            }
            WatchEventKind::Put => self.record.entries(&mut map)?,
        }
        if let Some(previous) = &self.prev {
            map.serialize_entry("prev", previous)?;
        }
        map.end()
    }
}
