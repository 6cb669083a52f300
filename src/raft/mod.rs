//! Consensus: elections, replication, changes of membership, hand-over, linearizable reads. Pure.
//!
//! This is Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! extended version; cited as *paper*, Ongaro's dissertation as *dissertation*). `docs/raft.md` has
//! the rules one by one and every divergence. No clock, no thread, no disk, no socket: time and
//! messages are handed in, and what is to be done is handed out.
//!
//! # The protocol
//!
//! Time is cut into terms. In each term at most one node leads: a node that hears no leader for a
//! random while asks the voters whether they would vote for it (a *pre-vote*, which changes nothing
//! anywhere), and if a quorum would, starts the next term, votes for itself and asks for their
//! votes. A voter votes once per term, only for a candidate whose log is at least as complete as
//! its own, and not at all while it hears a leader. The leader appends an empty entry, so that
//! whatever earlier leaders left behind commits with it.
//!
//! The leader appends commands to its log and streams it to every member. A member refuses an
//! append that does not continue its own log, and says where the two may agree; from there on the
//! leader's log replaces its own. An entry of the leader's term that is durable on a quorum is
//! committed, with everything before it, and is applied by all in the order of the log.
//!
//! A linearizable read is served at the leader's commit index, once a quorum has answered a
//! heartbeat that was sent after the read was asked, and once that index is applied.
//!
//! The members are part of the log: the newest configuration in it is in force, committed or not. A
//! change of more than one voter goes over a joint configuration, in which two majorities decide,
//! and which the leader leaves by itself. A leader that is to lose its vote hands over first.
//!
//! ```text
//!             no leader for a while                  quorum would vote
//!  ┌──────────┐ ───────────────────► ┌───────────────┐ ───────────► ┌───────────┐
//!  │ Follower │                      │ PreCandidate  │              │ Candidate │
//!  │ (or      │ ◄─────────────────── │ same term     │ ◄─────────── │ next term │
//!  │ Learner) │  a leader, a newer   └───────────────┘  no decision └───────────┘
//!  │          │  term, or refused                                      │  │
//!  │          │ ◄──────────────────────────────────────────────────────┘  │ quorum voted
//!  │          │        a leader, a newer term, or refused          ┌──────▼──┐
//!  │          │ ◄───────────────────────────────────────────────── │ Leader  │
//!  └──────────┘   a newer term, or a quorum silent for too long    └─────────┘
//! ```
//!
//! One more way: the follower to which the leader hands over becomes Candidate at once.
//!
//! # Contract of use
//!
//! One owner calls the methods of [`Raft`], one after the other:
//!
//! - In go [`step`](Raft::step) (a message), [`timeout`](Raft::timeout) (at the time that
//!   [`next_deadline`](Raft::next_deadline) names, re-read after every call),
//!   [`propose`](Raft::propose), [`read`](Raft::read), [`leader_lost`](Raft::leader_lost),
//!   [`change_membership`](Raft::change_membership), [`transfer`](Raft::transfer). `now` comes from
//!   one clock that does not run backwards; a `now` that does is taken as the latest seen.
//! - Out comes [`ready`](Raft::ready), after any number of inputs and while
//!   [`has_ready`](Raft::has_ready). The more inputs before it, the larger the batches. What each
//!   field allows, and after what, is said at [`Ready`].
//! - A member that the log can no longer help is named in [`Ready::snapshots`]. The owner says when
//!   a state is on its way ([`snapshot_started`](Raft::snapshot_started)) and when that is over
//!   ([`snapshot_ended`](Raft::snapshot_ended)); on the receiver, [`install`](Raft::install) when
//!   the state is durable.
//! - Back come [`persisted`](Raft::persisted) when a write is durable and
//!   [`applied`](Raft::applied) when entries are. Further `Ready`s may be taken meanwhile; their
//!   writes keep their order.
//! - Nothing that comes from the network panics. Breaking this contract does: a node whose disk or
//!   loop lies about what it has done must stop.
//!
//! # Invariants
//!
//! Checked by asserts here, by [`check`] on one node, and across nodes by the random test and the
//! simulator:
//!
//! - At most one node leads a term.
//! - A node's term never decreases, and its vote in a term never changes, over restarts too.
//! - A vote, a request for votes and an acknowledgement leave only after what they promise is
//!   durable.
//! - A leader never removes or replaces an entry of its own log.
//! - Two logs that hold an entry of the same index and term are equal up to it.
//! - A committed entry is in the log of every later leader and is never replaced anywhere.
//! - A leader commits by counting only entries of its own term, and counts each node, itself
//!   included, for what is durable there.
//! - Every decision by count needs a majority of each half of a joint configuration; the
//!   configuration in force is the newest in the log.
//! - A leader has at most one configuration in its log that is not committed; before it appends
//!   one, an entry of its own term is committed; a joint one is left only when it is committed.
//! - A leader is a voter of the configuration in force. Who holds a configuration that takes its
//!   own vote away knows that it is committed.
//! - Log cut <= applied <= handed out to apply <= commit <= last index; commit and applied never
//!   decrease.
//! - An answer changes what a leader believes only in the term in which it was asked; an answer to
//!   one round of heartbeats confirms only the reads of that round.

mod change;
mod configurations;
mod core;
mod election;
mod entry;
mod feeding;
mod follower;
mod invariants;
mod log;
mod membership;
mod message;
#[cfg(test)]
mod model_test;
mod options;
mod progress;
mod quorum;
mod read;
mod ready;
mod replication;
mod restored;
mod roles;
mod snapshot;
mod status;
mod transfer;

pub use self::core::{ProposeError, Proposed, Raft};
pub use change::ChangeError;
pub use entry::{Entry, Payload};
pub use invariants::check;
pub use membership::{Goal, Member, Membership, MembershipError};
pub use message::{AppendRejection, Body, Campaign, Message};
pub use options::Options;
pub use read::ReadError;
pub use ready::{HardState, PersistToken, ReadState, Ready};
pub use restored::{RestoreError, Restored};
pub use snapshot::{LogStart, Retain};
pub use status::{Progress, ProgressState, Role, Status};
pub use transfer::TransferError;

#[cfg(test)]
mod feeding_test;
#[cfg(test)]
mod paper_test;
#[cfg(test)]
mod quorum_test;
#[cfg(test)]
mod random_test;
#[cfg(test)]
mod script_test;
