//! What daemons say to each other besides consensus: forwarded requests, keepalives, reports.
//!
//! When to send them, and what a lost one means, is decided by `replica/`.

use bytes::Bytes;

use crate::base::{LeaseId, Sequence};
use crate::raft::Message;
use crate::wire::{DigestReport, DiskReport, MembersAnswer, MembersRequest, SnapshotMessage};

/// Anything that one replica sends to another. The transport knows the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// The digest of the sender's state, for the leader to compare.
    Digest(DigestReport),
    /// How the sender's disk stands, for the leader to choose a successor.
    Disk(DiskReport),
    /// A quorum of the voters has this digest; who has another is no replica any more.
    Diverged(DigestReport),
    /// Requests that the sender took from its clients, for the leader to append.
    Forward {
        /// In the order in which they were taken.
        commands: Vec<ForwardedCommand>,
    },
    /// The receiver of a `Forward` did not append these: certainly not applied by that attempt.
    ForwardRefused {
        /// Which, by the sequence of the boot that sent them, each with the attempt refused.
        requests: Vec<(Sequence, u32)>,
        /// Why.
        reason: ForwardRefusal,
    },
    /// The sender keeps leases alive.
    Keepalive(KeepaliveRequest),
    /// The leader has confirmed with a quorum, after it received the keepalive, that it leads.
    KeepaliveAnswer(KeepaliveAnswer),
    /// An order about the members, for the leader.
    Members(MembersRequest),
    /// The leader's reply to one.
    MembersAnswer(MembersAnswer),
    /// A message of the consensus core.
    Raft(Message),
    /// The sender's state is not to be relied upon: it wants the leader's.
    StateWanted,
    /// About a state that travels to a member that the log cannot help.
    Snapshot(SnapshotMessage),
}

/// A forwarded request: a command as `encode_command` renders it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedCommand {
    /// Its number within the sender's boot, also inside `command`.
    pub sequence: Sequence,
    /// How many times the sender has handed this request over, counting from 1: a refusal of an
    /// earlier attempt says nothing about a later one.
    pub attempt: u32,
    /// The encoded command.
    pub command: Bytes,
}

/// Why a forwarded request was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForwardRefusal {
    /// The leader's disk is full.
    DiskFull,
    /// The cluster's reservations do not let the sender do this. Only said where there are
    /// reservations, which are made when all members know this word.
    Forbidden,
    /// The bytes are no command that this program understands.
    Malformed,
    /// The receiver does not lead.
    NotLeader,
    /// Too much is waiting, or a limit of the state is reached; the caller may try later.
    Overloaded,
    /// The store's quota is reached.
    Quota,
}

/// Leases that live on, as told by the node that keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepaliveRequest {
    /// Grows with each keepalive of the sender's boot; echoed.
    pub context: u64,
    /// Which leases.
    pub leases: Vec<LeaseId>,
}

/// The leader's answer to a keepalive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepaliveAnswer {
    /// The request's number.
    pub context: u64,
    /// Those that are not alive, or whose end is under way; all others were renewed.
    pub gone: Vec<LeaseId>,
}
