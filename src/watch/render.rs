//! Encoded messages that many watchers share: each revision is encoded once per format, not per
//! watcher.
//!
//! How a message looks is decided in `api/`; this only remembers bytes, and how many.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::{Revision, limits};

/// One way to encode a revision. The number is chosen by `api/`, one for each combination that
/// changes a byte: NDJSON or server-sent events, with or without previous values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Format(pub u8);

/// The encoded `changes` messages of the newest revisions, for those watchers that get *all* events
/// of a revision ([`Selected::All`](crate::watch::Selected::All)): exactly these get equal bytes.
///
/// - `bytes` is the sum of the lengths of what is held, and never above `bytes_max`.
/// - What goes first is the oldest revision: a reader that lags must not push out what all the
///   others are about to ask for.
#[derive(Debug)]
pub struct RenderCache {
    bytes_max: usize,
    bytes: usize,
    messages: BTreeMap<(Revision, Format), Bytes>,
}

impl Default for RenderCache {
    fn default() -> Self {
        Self::new(limits::WATCH_RENDER_BYTES_MAX)
    }
}

impl RenderCache {
    /// An empty cache of at most `bytes_max` bytes of messages.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, messages: BTreeMap::new() }
    }

    /// The message of a revision, if it is held.
    pub fn message(&self, revision: Revision, format: Format) -> Option<Bytes> {
        self.messages.get(&(revision, format)).cloned()
    }

    /// Keeps a message, as far as the bound allows. Two watchers may encode the same revision at
    /// once; the first one's bytes stay.
    pub fn keep(&mut self, revision: Revision, format: Format, message: &Bytes) {
        let known = self.messages.contains_key(&(revision, format));
        if known || message.len() > self.bytes_max {
            return;
        }
        self.bytes += message.len();
        self.messages.insert((revision, format), message.clone());
        while self.bytes > self.bytes_max {
            let (_, oldest) = self.messages.pop_first().expect("bytes are held by messages");
            self.bytes -= oldest.len();
        }
    }

    /// Forgets everything: revisions of another epoch mean other changes.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
