//! Every byte that outlives a process or crosses to another one: frames, log entries, rows.
//!
//! (Version policy: what may change, how, and who must be upgraded first, is written here.)

mod forward;
mod hello;

pub use forward::{
    ForwardRefusal, ForwardedCommand, KeepaliveAnswer, KeepaliveRequest, PeerMessage,
};
pub use hello::{
    Claim, Genesis, Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN, Standing,
};
