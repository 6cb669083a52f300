//! Watches: the shared recent history, the place of each watcher in it, and whom a write wakes.
//! Pure.
//!
//! A watcher is a [`Cursor`] into one [`History`]. It is woken, never copied to: what it is sent is
//! read from the history when its reader is ready for more, so that a slow or stuck reader costs
//! the daemon one position, and nobody waits for it. When the history no longer reaches back to it,
//! it is told so: by a resync when it asked for the present state, else by the end of its stream.
//!
//! ```text
//!   open ──► waiting ──► snapshot, part by part, at one revision ──► synced ──► live ──► …
//!               │                   ▲                                  ▲         │
//!               └───────────────────│── without a snapshot ────────────┘         │ fell behind
//!                                   └─────────── resync ◄──── initial ───────────┤
//!                                                 ended ◄──── otherwise ─────────┘
//! ```
//!
//! - W1, W2: events come in the order of revisions, each once.
//! - W3: between two delivered events none under the filter is left out, or the stream says that it
//!   cannot, and ends or starts over.
//! - W4: all events of a revision are one message.
//! - W5: a stream that received everything up to `R` is continued by another, on any node, with
//!   `resume_after = R`: without a gap or repetition, or with `Compacted`.
//! - W6: a claim of progress names only what was sent.
//! - W7: before the revision that a watcher asked for nothing is sent, over a snapshot from the
//!   leader too; nothing is claimed either.
//! - W9: memory is bounded by the history's own limits, whatever readers do.
//!
//! The owner changes the [`History`] in the same critical section as the state machine, and lets
//! cursors read both under its read lock. [`Registry`] tells it whom to wake; [`RenderCache`] holds
//! what `api/` has encoded, so that a message is encoded once for all who get the same bytes.

mod cursor;
mod filter;
mod history;
#[cfg(test)]
mod model_test;
mod registry;
mod render;
#[cfg(test)]
mod script_test;

pub use cursor::{Cursor, Delivery, WatchEnd, WatchError, WatchRequest};
pub use filter::{Filter, Selected};
pub use history::{History, HistoryOptions};
pub use registry::{Registry, WatcherId};
pub use render::{Format, RenderCache};
