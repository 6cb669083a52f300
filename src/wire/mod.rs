//! Every byte that outlives a process or crosses to another one: frames, log entries, rows.
//!
//! The types that are encoded stand below and know nothing of it; their prost counterparts live
//! here and nowhere else. `docs/formats.md` draws each format.
//!
//! # Version policy
//!
//! - **Nothing is skipped.** A version, kind, code or field that this program does not know is an
//!   error. prost would skip unknown fields; we notice by comparing lengths (`codec.rs`). A node
//!   that half understands an entry would differ from the others for ever; one that stops can be
//!   upgraded.
//! - **What is on disk** carries a version byte and a checksum, one version per kind. A program
//!   reads every version that any release before it wrote, and writes the newest that all members
//!   know.
//! - **Commands** carry their version inside the entry, because entries travel: a leader may use a
//!   new field or operation only when every member is known to read it. Followers are upgraded
//!   first, the leader last; a node that is too old stops at the first entry it cannot read, with a
//!   sentence.
//! - **Frames** carry none. The protocol version is agreed at hello and holds for the connection.
//!   The hello itself is the one place where unknown fields are skipped, or no two versions could
//!   meet.
//! - **Numbers are never used again** for another meaning, neither of fields nor of codes. Zero is
//!   no code: it is what prost reads where nothing was written.
//! - A change of a golden byte in `vectors_test.rs` is a change of a version. The old vector stays,
//!   under the old version, and must still decode.
//!
//! # Limits
//!
//! Frames are refused by length before anything is allocated. Repeated messages, whose fields may
//! take fifty times the memory that they take on the wire, are counted before they are decoded.
//! Payloads, keys and values are slices of the buffer they arrived in: cheap to pass on, and to be
//! copied by whoever keeps a small one for long.

mod codec;
mod command;
mod command_fields;
mod entry;
mod error;
mod forward;
mod frame;
mod greeting;
mod hello;
mod join;
mod join_fields;
mod members;
mod members_fields;
mod outcome;
mod peer;
mod report;
mod rows;
mod snapshot;

#[cfg(test)]
mod bytes_test;
#[cfg(test)]
mod hostile_test;
#[cfg(test)]
pub(crate) mod samples_test;
#[cfg(test)]
mod vectors_test;

pub use codec::{open_bytes, seal_bytes};
pub use command::{decode_command, decode_stamped, encode_command, stamp_command};
pub use entry::{
    decode_entry_batch, decode_genesis, decode_hard_state, decode_membership, encode_entry_batch,
    encode_genesis, encode_hard_state, encode_membership,
};
pub use error::WireError;
pub use forward::{
    ForwardRefusal, ForwardedCommand, KeepaliveAnswer, KeepaliveRequest, PeerMessage,
};
pub use frame::{
    FrameDecoder, decode_hello, decode_hello_answer, encode_frame, encode_frame_into, encode_hello,
    encode_hello_answer, encode_join_answer, encode_join_request, read_hello, read_hello_answer,
    read_join_answer, read_join_request,
};
pub use hello::{
    Claim, Genesis, Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN, Standing,
};
pub use join::{Admission, JoinAnswer, JoinOrder, JoinRefusal, JoinRequest};
pub use members::{
    ChangeReport, MembersAnswer, MembersOrder, MembersRefusal, MembersReply, MembersRequest,
    Newcomer, WantedMembers,
};
pub use report::{DigestReport, DiskReport, DiskRoom};
pub use rows::{decode_row, decode_row_key, encode_row, encode_row_key};
pub use snapshot::{SnapshotChunk, SnapshotMessage, SnapshotOffer, SnapshotRefusal, StoredRow};
