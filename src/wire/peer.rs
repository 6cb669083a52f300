//! The fields of everything that daemons say to each other after the hello, as prost messages.
//!
//! What the messages mean is said in `raft/message.rs` and `forward.rs`; how they are cut out of a
//! stream, in `frame.rs`. Both sides agreed on a version at hello, so that an unknown field is a
//! fault and not the future.

use bytes::Bytes;

use super::codec::{bound_count, codes, required, strict};
use super::entry::{EmptyProto, EntryProto, MEMBERS_IN_BATCH_MAX, from_protos, to_protos};
use super::frame::KIND_PEER_MIN;
use super::members_fields;
use super::snapshot::{SnapshotProto, decode_snapshot};
use crate::base::mutation::{self, Mutation};
use crate::base::{Index, LeaseId, NodeId, ReadContext, Sequence, Span, Term, limits};
use crate::raft::{AppendRejection, Body, Campaign, Message};
use crate::wire::{
    DigestReport, DiskReport, DiskRoom, ForwardRefusal, ForwardedCommand, KeepaliveAnswer,
    KeepaliveRequest, PeerMessage, WireError,
};

codes!(campaign_code, campaign_of, Campaign, "campaign", {
    PreVote = 1,
    Transfer = 3,
    Vote = 2,
});
codes!(room_code, room_of, DiskRoom, "room of a disk", { Enough = 1, Low = 2, Full = 3 });
codes!(refusal_code, refusal_of, ForwardRefusal, "refusal of a forwarded request", {
    DiskFull = 1,
    Forbidden = 6,
    Malformed = 2,
    NotLeader = 3,
    Overloaded = 4,
    Quota = 5,
});

/// A message ready for its frame; the kind in the frame says which variant it is.
pub(super) enum PeerProto {
    Digest(DigestProto),
    Disk(DiskProto),
    Diverged(DigestProto),
    Forward(ForwardProto),
    ForwardRefused(ForwardRefusedProto),
    Keepalive(KeepaliveProto),
    KeepaliveAnswer(KeepaliveAnswerProto),
    Members(members_fields::RequestProto),
    MembersAnswer(members_fields::AnswerProto),
    Raft(MessageProto),
    StateWanted(EmptyProto),
    Snapshot(SnapshotProto),
}

impl PeerProto {
    pub(super) const RAFT: u8 = KIND_PEER_MIN;
    pub(super) const FORWARD: u8 = KIND_PEER_MIN + 1;
    pub(super) const FORWARD_REFUSED: u8 = KIND_PEER_MIN + 2;
    pub(super) const KEEPALIVE: u8 = KIND_PEER_MIN + 3;
    pub(super) const KEEPALIVE_ANSWER: u8 = KIND_PEER_MIN + 4;
    pub(super) const DIGEST: u8 = KIND_PEER_MIN + 8;
    pub(super) const DIVERGED: u8 = KIND_PEER_MIN + 9;
    pub(super) const DISK: u8 = KIND_PEER_MIN + 10;
    pub(super) const STATE_WANTED: u8 = KIND_PEER_MIN + 11;
    pub(super) const SNAPSHOT: u8 = KIND_PEER_MIN + 16;
    pub(super) const MEMBERS: u8 = KIND_PEER_MIN + 32;
    pub(super) const MEMBERS_ANSWER: u8 = KIND_PEER_MIN + 33;
}

impl From<&PeerMessage> for PeerProto {
    fn from(message: &PeerMessage) -> Self {
        match message {
            PeerMessage::Digest(report) => Self::Digest(report.into()),
            PeerMessage::Disk(report) => Self::Disk(DiskProto {
                room: room_code(report.room),
                write_micros: report.write.as_micros(),
            }),
            PeerMessage::Diverged(report) => Self::Diverged(report.into()),
            PeerMessage::Forward { commands } => {
                let commands = commands.iter().map(|command| ForwardedProto {
                    sequence: command.sequence.0,
                    attempt: command.attempt,
                    command: command.command.clone(),
                });
                Self::Forward(ForwardProto { commands: commands.collect() })
            }
            PeerMessage::ForwardRefused { requests, reason } => {
                Self::ForwardRefused(ForwardRefusedProto {
                    sequences: requests.iter().map(|(sequence, _)| sequence.0).collect(),
                    attempts: requests.iter().map(|(_, attempt)| *attempt).collect(),
                    reason: refusal_code(*reason),
                })
            }
            PeerMessage::Keepalive(request) => Self::Keepalive(KeepaliveProto {
                context: request.context,
                leases: request.leases.iter().map(|lease| lease.0).collect(),
            }),
            PeerMessage::KeepaliveAnswer(answer) => Self::KeepaliveAnswer(KeepaliveAnswerProto {
                context: answer.context,
                gone: answer.gone.iter().map(|lease| lease.0).collect(),
            }),
            PeerMessage::Members(request) => Self::Members(request.into()),
            PeerMessage::MembersAnswer(answer) => Self::MembersAnswer(answer.into()),
            PeerMessage::Raft(message) => Self::Raft(message.into()),
            PeerMessage::StateWanted => Self::StateWanted(EmptyProto {}),
            PeerMessage::Snapshot(message) => Self::Snapshot(message.into()),
        }
    }
}

/// The message in a frame of this kind.
pub(super) fn decode_peer(kind: u8, content: Bytes) -> Result<PeerMessage, WireError> {
    match kind {
        PeerProto::RAFT => {
            bound_count(&content, &[4, 4], limits::APPEND_ENTRIES_MAX)?;
            bound_count(&content, &[4, 4, 3, 1], MEMBERS_IN_BATCH_MAX)?;
            strict::<MessageProto>(content)?.try_into().map(PeerMessage::Raft)
        }
        PeerProto::FORWARD => {
            bound_count(&content, &[1], limits::PENDING_REQUESTS_MAX)?;
            Ok(forward(strict(content)?))
        }
        PeerProto::FORWARD_REFUSED => forward_refused(strict(content)?),
        PeerProto::KEEPALIVE => {
            let proto: KeepaliveProto = strict(content)?;
            Ok(PeerMessage::Keepalive(KeepaliveRequest {
                context: proto.context,
                leases: leases(proto.leases)?,
            }))
        }
        PeerProto::KEEPALIVE_ANSWER => {
            let proto: KeepaliveAnswerProto = strict(content)?;
            Ok(PeerMessage::KeepaliveAnswer(KeepaliveAnswer {
                context: proto.context,
                gone: leases(proto.gone)?,
            }))
        }
        PeerProto::DIGEST => Ok(PeerMessage::Digest(strict::<DigestProto>(content)?.into())),
        PeerProto::DIVERGED => Ok(PeerMessage::Diverged(strict::<DigestProto>(content)?.into())),
        PeerProto::STATE_WANTED => {
            strict::<EmptyProto>(content).map(|EmptyProto {}| PeerMessage::StateWanted)
        }
        PeerProto::DISK => {
            let proto: DiskProto = strict(content)?;
            let room = room_of(proto.room)?;
            Ok(PeerMessage::Disk(DiskReport { room, write: Span::from_micros(proto.write_micros) }))
        }
        PeerProto::SNAPSHOT => decode_snapshot(content).map(PeerMessage::Snapshot),
        PeerProto::MEMBERS => {
            bound_count(&content, &members_fields::WANTED_PATH, limits::MEMBERS_MAX)?;
            let request = strict::<members_fields::RequestProto>(content)?;
            request.try_into().map(PeerMessage::Members)
        }
        PeerProto::MEMBERS_ANSWER => {
            bound_count(&content, &members_fields::NEWCOMERS_PATH, limits::MEMBERS_MAX)?;
            let answer = strict::<members_fields::AnswerProto>(content)?;
            answer.try_into().map(PeerMessage::MembersAnswer)
        }
        _ => Err(WireError::UnknownKind("frame")),
    }
}

impl From<&DigestReport> for DigestProto {
    fn from(report: &DigestReport) -> Self {
        Self { index: report.index.0, digest: report.digest }
    }
}

impl From<DigestProto> for DigestReport {
    fn from(proto: DigestProto) -> Self {
        Self { index: Index(proto.index), digest: proto.digest }
    }
}

fn forward(proto: ForwardProto) -> PeerMessage {
    let commands = proto.commands.into_iter().map(|forwarded| ForwardedCommand {
        sequence: Sequence(forwarded.sequence),
        attempt: forwarded.attempt,
        command: forwarded.command,
    });
    PeerMessage::Forward { commands: commands.collect() }
}

fn forward_refused(proto: ForwardRefusedProto) -> Result<PeerMessage, WireError> {
    if proto.sequences.len() != proto.attempts.len() {
        return Err(WireError::Malformed("a refused request without its attempt"));
    }
    if proto.sequences.len() > limits::PENDING_REQUESTS_MAX {
        return Err(WireError::TooLong { limit: limits::PENDING_REQUESTS_MAX });
    }
    let requests = proto.sequences.into_iter().map(Sequence).zip(proto.attempts).collect();
    Ok(PeerMessage::ForwardRefused { requests, reason: refusal_of(proto.reason)? })
}

fn leases(ids: Vec<u64>) -> Result<Vec<LeaseId>, WireError> {
    if ids.len() > limits::LEASES_MAX {
        return Err(WireError::TooLong { limit: limits::LEASES_MAX });
    }
    Ok(ids.into_iter().map(LeaseId).collect())
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DigestProto {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(fixed64, tag = "2")]
    digest: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiskProto {
    #[prost(uint32, tag = "1")]
    room: u32,
    #[prost(uint64, tag = "2")]
    write_micros: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ForwardProto {
    #[prost(message, repeated, tag = "1")]
    commands: Vec<ForwardedProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForwardedProto {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(bytes = "bytes", tag = "3")]
    command: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ForwardRefusedProto {
    #[prost(uint64, repeated, tag = "1")]
    sequences: Vec<u64>,
    /// As many as sequences, in the same order.
    #[prost(uint32, repeated, tag = "2")]
    attempts: Vec<u32>,
    #[prost(uint32, tag = "3")]
    reason: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeepaliveProto {
    #[prost(uint64, tag = "1")]
    context: u64,
    #[prost(fixed64, repeated, tag = "2")]
    leases: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeepaliveAnswerProto {
    #[prost(uint64, tag = "1")]
    context: u64,
    #[prost(fixed64, repeated, tag = "2")]
    gone: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MessageProto {
    #[prost(fixed64, tag = "1")]
    from: u64,
    #[prost(fixed64, tag = "2")]
    to: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(oneof = "BodyProto", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    body: Option<BodyProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BodyProto {
    #[prost(message, tag = "4")]
    AppendRequest(AppendRequestProto),
    /// The matched index.
    #[prost(uint64, tag = "5")]
    AppendAccepted(u64),
    #[prost(message, tag = "6")]
    AppendRejected(AppendRejectedProto),
    #[prost(message, tag = "7")]
    Heartbeat(HeartbeatProto),
    #[prost(message, tag = "8")]
    HeartbeatResponse(HeartbeatResponseProto),
    /// The context.
    #[prost(uint64, tag = "9")]
    ReadRequest(u64),
    #[prost(message, tag = "10")]
    ReadResponse(ReadResponseProto),
    #[prost(message, tag = "11")]
    VoteRequest(VoteRequestProto),
    #[prost(message, tag = "12")]
    VoteResponse(VoteResponseProto),
    #[prost(message, tag = "13")]
    TimeoutNow(EmptyProto),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendRequestProto {
    #[prost(uint64, tag = "1")]
    prev_index: u64,
    #[prost(uint64, tag = "2")]
    prev_term: u64,
    #[prost(uint64, tag = "3")]
    commit: u64,
    #[prost(message, repeated, tag = "4")]
    entries: Vec<EntryProto>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AppendRejectedProto {
    #[prost(uint64, tag = "1")]
    prev_index: u64,
    #[prost(uint64, tag = "2")]
    last_index: u64,
    #[prost(uint64, tag = "3")]
    hint_index: u64,
    #[prost(uint64, tag = "4")]
    hint_term: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HeartbeatProto {
    #[prost(uint64, tag = "1")]
    commit: u64,
    #[prost(uint64, tag = "2")]
    round: u64,
    #[prost(uint64, tag = "3")]
    all_matched: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HeartbeatResponseProto {
    #[prost(uint64, tag = "1")]
    round: u64,
    #[prost(uint64, tag = "2")]
    last_index: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ReadResponseProto {
    #[prost(uint64, tag = "1")]
    context: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VoteRequestProto {
    #[prost(uint32, tag = "1")]
    campaign: u32,
    #[prost(uint64, tag = "2")]
    last_index: u64,
    #[prost(uint64, tag = "3")]
    last_term: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VoteResponseProto {
    #[prost(uint32, tag = "1")]
    campaign: u32,
    #[prost(bool, tag = "2")]
    granted: bool,
}

impl From<&Message> for MessageProto {
    fn from(message: &Message) -> Self {
        let body = match &message.body {
            Body::AppendRequest { prev_index, prev_term, entries, commit } => {
                if let Some(first) = entries.first() {
                    assert_eq!(first.index, prev_index.next(), "entries follow prev_index");
                }
                BodyProto::AppendRequest(AppendRequestProto {
                    prev_index: prev_index.0,
                    prev_term: prev_term.0,
                    commit: commit.0,
                    entries: to_protos(entries),
                })
            }
            Body::AppendAccepted { matched } => BodyProto::AppendAccepted(matched.0),
            Body::AppendRejected(rejection) => BodyProto::AppendRejected(AppendRejectedProto {
                prev_index: rejection.prev_index.0,
                last_index: rejection.last_index.0,
                hint_index: rejection.hint_index.0,
                hint_term: rejection.hint_term.0,
            }),
            Body::Heartbeat { commit, round, all_matched } => {
                BodyProto::Heartbeat(HeartbeatProto {
                    commit: commit.0,
                    round: *round,
                    all_matched: all_matched.0,
                })
            }
            Body::HeartbeatResponse { round, last_index } => {
                let last_index = last_index.0;
                BodyProto::HeartbeatResponse(HeartbeatResponseProto { round: *round, last_index })
            }
            Body::ReadRequest { context } => BodyProto::ReadRequest(context.0),
            Body::ReadResponse { context, index } => {
                BodyProto::ReadResponse(ReadResponseProto { context: context.0, index: index.0 })
            }
            Body::TimeoutNow => BodyProto::TimeoutNow(EmptyProto {}),
            Body::VoteRequest { campaign, last_index, last_term } => {
                BodyProto::VoteRequest(VoteRequestProto {
                    campaign: campaign_code(*campaign),
                    last_index: last_index.0,
                    last_term: last_term.0,
                })
            }
            Body::VoteResponse { campaign, granted } => {
                BodyProto::VoteResponse(VoteResponseProto {
                    campaign: campaign_code(*campaign),
                    granted: *granted,
                })
            }
        };
        Self { from: message.from.0, to: message.to.0, term: message.term.0, body: Some(body) }
    }
}

impl TryFrom<MessageProto> for Message {
    type Error = WireError;

    fn try_from(proto: MessageProto) -> Result<Self, WireError> {
        let body = match required(proto.body)? {
            BodyProto::AppendRequest(append) => append_request(proto.term, append)?,
            BodyProto::AppendAccepted(matched) => Body::AppendAccepted { matched: Index(matched) },
            BodyProto::AppendRejected(rejection) => Body::AppendRejected(AppendRejection {
                prev_index: Index(rejection.prev_index),
                last_index: Index(rejection.last_index),
                hint_index: Index(rejection.hint_index),
                hint_term: Term(rejection.hint_term),
            }),
            BodyProto::Heartbeat(heartbeat) => Body::Heartbeat {
                commit: Index(heartbeat.commit),
                round: heartbeat.round,
                all_matched: Index(heartbeat.all_matched),
            },
            BodyProto::HeartbeatResponse(response) => Body::HeartbeatResponse {
                round: response.round,
                last_index: Index(response.last_index),
            },
            BodyProto::ReadRequest(context) => Body::ReadRequest { context: ReadContext(context) },
            BodyProto::ReadResponse(response) => Body::ReadResponse {
                context: ReadContext(response.context),
                index: Index(response.index),
            },
            BodyProto::TimeoutNow(EmptyProto {}) => Body::TimeoutNow,
            BodyProto::VoteRequest(request) => Body::VoteRequest {
                campaign: campaign_of(request.campaign)?,
                last_index: Index(request.last_index),
                last_term: Term(request.last_term),
            },
            BodyProto::VoteResponse(response) => Body::VoteResponse {
                campaign: campaign_of(response.campaign)?,
                granted: response.granted || mutation::active(Mutation::RefusalReadAsGrant),
            },
        };
        let (from, to) = (NodeId(proto.from), NodeId(proto.to));
        Ok(Message { from, to, term: Term(proto.term), body })
    }
}

fn append_request(term: u64, append: AppendRequestProto) -> Result<Body, WireError> {
    let first_index =
        append.prev_index.checked_add(1).ok_or(WireError::Malformed("an index beyond 64 bits"))?;
    let entries = from_protos(first_index, append.entries)?;
    let terms = (entries.first(), entries.last());
    if terms.0.is_some_and(|first| first.term.0 < append.prev_term) {
        return Err(WireError::Malformed("an entry of an older term than the one before it"));
    }
    if terms.1.is_some_and(|last| last.term.0 > term) {
        return Err(WireError::Malformed("an entry of a later term than its leader's"));
    }
    Ok(Body::AppendRequest {
        prev_index: Index(append.prev_index),
        prev_term: Term(append.prev_term),
        entries,
        commit: Index(append.commit),
    })
}
