//! The words that all layers share: identities, positions in the log, time, seeded randomness,
//! limits.
//!
//! A word belongs here when two folders that may not import each other both need it. Nothing here
//! decides anything: no protocol rule, no encoding, no input or output.

mod ids;
pub mod limits;
#[cfg(test)]
pub(crate) mod mutants_test;
pub mod mutation;
mod names;
mod rng;
#[cfg(test)]
pub(crate) mod scripts_test;
mod time;

pub use ids::{
    Boot, ClusterId, Epoch, Index, LeaseId, NodeId, ReadContext, RequestId, Revision, Sequence,
    Term, Token,
};
pub use names::{KeyRange, NamePattern};
pub use rng::Rng;
pub(crate) use rng::mix;
pub use time::{Instant, Span, WallMillis};
