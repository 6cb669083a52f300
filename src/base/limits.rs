//! Every bound of the system, with its unit and its reason, and the relations between them.
//!
//! A limit that an operator may change is the *default* of an option; one that protects memory
//! before anything is known about the sender is a constant. The code that meets a limit answers
//! with an error that names it.

use super::time::Span;

// Access rules (docs/configuration.md).

/// Most access rules in a configuration: each is looked at for each request.
pub const ACCESS_RULES_MAX: usize = 256;
/// Most patterns in one list of an access rule.
pub const ACCESS_PATTERNS_MAX: usize = 256;
/// Longest reservation of names for nodes, in bytes.
pub const RESERVATION_BYTES_MAX: usize = 16 * 1024;
/// Longest name of one.
pub const RESERVATION_NAME_BYTES_MAX: usize = 63;

// Keys and requests (API.md, 413 too_large).

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest request body in bytes: a largest value plus the JSON and base64 around a transaction.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024 + 512 * 1024;
/// Longest encoded command in the log: a largest request, whose bytes are fewer than those of its
/// JSON, with its head.
pub const COMMAND_BYTES_MAX: usize = REQUEST_BYTES_MAX + 16 * 1024;
/// Most operations in one transaction, compares counted apart from each branch.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Longest lock or election name in bytes, before percent-encoding. Each byte may become three, and
/// the whole key `_elections/<name>/<lease>` must stay a legal key.
pub const NAME_BYTES_MAX: usize = 1024;
/// Longest free text `info` of a lease in bytes.
pub const INFO_BYTES_MAX: usize = 1024;
/// Leases that end, or are gone on with, in one entry when many processes exit together, or at a
/// start: more follow in the next.
pub const BOUND_LEASES_BATCH_MAX: usize = 4_096;
/// Longest text in bytes that names a process: a boot id and three numbers.
pub const PROCESS_IDENTITY_BYTES_MAX: usize = 128;
/// Longest idempotency key in bytes (API.md: 1 to 128 visible ASCII).
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Most slots of a semaphore.
pub const SLOTS_MAX: u32 = 10_000;
/// Most that a barrier waits for: letting them go writes all their places in one revision.
pub const BARRIER_COUNT_MAX: u32 = 1_000;
/// Keys in one page of a list unless the caller names fewer.
pub const LIST_KEYS_DEFAULT: usize = 1_000;
/// Most keys in one page of a list.
pub const LIST_KEYS_MAX: usize = 10_000;
/// Bytes of keys and values after which a page of a list, or a part of a watch's first snapshot,
/// ends early: one answer must not hold megabytes for a slow reader.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

// The replicated state.

/// Live bytes of keys, values and history above which writes are refused (507).
pub const STORE_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Most leases at once.
pub const LEASES_MAX: usize = 100_000;
/// Leases that one entry ends because their time is up: some 100 KB of identifiers.
pub const EXPIRE_LEASES_MAX: usize = 4_096;
/// Most waiters and holders in one lock or election queue.
pub const QUEUE_LENGTH_MAX: usize = 10_000;
/// How long an idempotency key is remembered at least, in milliseconds of the leader's wall clock.
pub const IDEMPOTENCY_MILLIS_MIN: u64 = 10 * 60 * 1_000;
/// Most idempotency keys remembered at once; when all are younger than the minimum age, a request
/// with a new one is refused (429).
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;
/// Bytes of records read by one transaction beyond which its results are not remembered behind its
/// idempotency key.
pub const IDEMPOTENCY_OUTCOME_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of records that all remembered outcomes may hold together.
pub const IDEMPOTENCY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most overdue idempotency keys that one entry forgets: more than the one that it can add, and few
/// enough that no entry takes long.
pub const IDEMPOTENCY_FORGOTTEN_MAX: usize = 16;
/// Entries between two comparisons of the members' digests: at ten thousand writes a second ten
/// small messages from each member, and on a quiet cluster hardly any.
pub const DIGEST_EVERY: u64 = 1_024;
/// Most requests of one boot of one node whose fate is remembered above its floor.
pub const DEDUPE_WINDOW_MAX: usize = 65_536;
/// Revisions of history kept for watches and reads of the past.
pub const HISTORY_REVISIONS_DEFAULT: u64 = 10_000;
/// Bytes of history kept for watches and reads of the past.
pub const HISTORY_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

// Leases.

/// Shortest time to live.
pub const TTL_MIN: Span = Span::from_secs(1);
/// Longest time to live.
pub const TTL_MAX: Span = Span::from_secs(24 * 60 * 60);
/// Time to live when the caller names none.
pub const TTL_DEFAULT: Span = Span::from_secs(10);
/// Time to live of a host's own lease, the parent of what is bound on that host. Each child ends by
/// its own, shorter or longer, time to live; this one only bounds how long a vanished host is
/// listed.
pub const NODE_TTL: Span = Span::from_secs(60);

/// What a holder gives up of its lease so that a drifting clock and a late message cannot make it
/// believe too long: a sixteenth of the time to live (60,000 ppm; crystals drift below 200 ppm, the
/// rest is for the time between deciding and telling), and never less than 50 ms.
pub const fn promise_margin(ttl: Span) -> Span {
    let part = ttl.divided_by(16);
    let least = Span::from_millis(50);
    if part.as_micros() > least.as_micros() { part } else { least }
}

// Consensus.

/// Most voters: more cost every write and add no safety that people need.
pub const VOTERS_MAX: usize = 9;
/// Most members of all kinds.
pub const MEMBERS_MAX: usize = 1_000;
/// Longest name of a node or a cluster in bytes: it must fit in a certificate's URI and in a DNS
/// name.
pub const NODE_NAME_BYTES_MAX: usize = 253;
/// Longest `host:port` of a member in bytes.
pub const ADDRESS_BYTES_MAX: usize = 320;
/// Bytes of entries in one append message.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Entries in one append message.
pub const APPEND_ENTRIES_MAX: usize = 4_096;
/// Bytes of appends sent to one follower and not yet acknowledged.
pub const INFLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Append messages sent to one follower and not yet acknowledged.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Bytes of log entries in memory beyond which a leader refuses new ones. What is retained for
/// members that are behind is far less: it is reached only while the state cannot be saved.
pub const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Entries that are kept for members that are behind; who lacks more gets a snapshot.
pub const LOG_RETAINED_ENTRIES_DEFAULT: u64 = 100_000;
/// Bytes of entries that are kept for members that are behind.
pub const LOG_RETAINED_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Bytes of rows in one chunk of a snapshot, unless a single row is longer.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Rows in one chunk: each has at least a byte of key and six of content.
pub const SNAPSHOT_CHUNK_ROWS_MAX: usize = 64 * 1024;
/// Chunks on their way to one member: enough for a distant one, a few for the sender's memory.
pub const SNAPSHOT_CHUNKS_IN_FLIGHT: usize = 8;
/// Members that a leader sends a snapshot to at once; others wait.
pub const SNAPSHOTS_AT_ONCE: usize = 2;
/// Messages that wait for one peer's bulk connection: nobody has more of them under way.
pub const PEER_BULK_QUEUE_FRAMES_MAX: usize = 2 * SNAPSHOT_CHUNKS_IN_FLIGHT;
/// Bytes of snapshots that a leader sends in one second to all members together.
pub const SNAPSHOT_BYTES_PER_SECOND_DEFAULT: u64 = 32 * 1024 * 1024;
/// Bytes of proposals that wait in a leader for their commit.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;

// Files that follow keys, and directories that keys follow.

/// Most files that follow keys on one host.
pub const FILES_MAX: usize = 256;
/// Most directories that keys follow on one host.
pub const PUBLISHED_MAX: usize = 64;
/// Keys and prefixes that one file may be made of: each is a watch.
pub const FILE_KEYS_MAX: usize = 64;
/// Longest rendered file in bytes.
pub const RENDERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of keys and values that one file may be made of.
pub const RENDER_INPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Steps of a template: some thousand keys with a hundred steps each, well under a second.
pub const RENDER_FUEL: u64 = 2_000_000;
/// Longest template in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;
/// Longest name of a rendered file in bytes: what is written beside it has 26 more, and file
/// systems allow 255.
pub const RENDERED_NAME_BYTES_MAX: usize = 200;
/// Most arguments of a command, its program counted.
pub const COMMAND_ARGUMENTS_MAX: usize = 64;
/// Bytes of a command's output that are kept for its report.
pub const COMMAND_OUTPUT_BYTES_MAX: usize = 2 * 1024;
/// Most files of one published directory.
pub const PUBLISHED_FILES_MAX: usize = 20_000;
/// Longest name of a published file in bytes.
pub const PUBLISHED_NAME_BYTES_MAX: usize = 64;
/// Bytes of files that one transaction publishes, unless a single file is longer: with their keys
/// they fit in a command.
pub const PUBLISH_BATCH_BYTES: usize = 512 * 1024;

// Requests in flight on one node.

/// Requests that wait for their outcome on one node; more are refused (429).
pub const PENDING_REQUESTS_MAX: usize = 16_384;
/// Events that wait for the replica thread: room for every pending request twice, and for peers.
pub const MAILBOX_EVENTS_MAX: usize = 65_536;
/// Longest `timeout` that a caller may name.
pub const TIMEOUT_MAX: Span = Span::from_secs(600);
/// `timeout` when the caller names none (API.md).
pub const TIMEOUT_DEFAULT: Span = Span::from_secs(5);

// Peers.

/// Longest frame between peers in bytes: an append of the largest size with its heads.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest first frame of a connection in bytes, before the peer is known to be a member.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Frames queued for one peer; when full, newer ones are dropped, and Raft resends.
pub const PEER_QUEUE_FRAMES_MAX: usize = 4_096;
/// Frames queued for a peer while there is no link. A few, so that a vote request that was sent
/// just before the link is up need not wait for the next election; the newest, because they outdate
/// the older ones.
pub const PEER_QUEUE_UNLINKED_FRAMES_MAX: usize = 64;
/// Refused connections that are remembered, by reason and source. When all are young, further ones
/// are neither listed nor logged: a flood of addresses must fill neither the memory nor the log.
pub const PEER_REFUSALS_MAX: usize = 256;
/// Connections on the peer port that have not finished their handshake.
pub const HANDSHAKES_MAX: usize = 64;
/// The same of one IP address, by default: a restart of all nodes of a cluster on one host fits,
/// and a flood from one host leaves places for others.
pub const HANDSHAKES_PER_ADDRESS_DEFAULT: usize = 16;
/// How long a handshake and hello may take.
pub const HANDSHAKE_TIMEOUT: Span = Span::from_secs(5);
/// How long a connection between members may last before it is made anew, so that no certificate is
/// taken for good much longer than it is. The dialer renews within the last quarter; whoever
/// accepted it ends it after half as long again.
pub const PEER_CONNECTION_AGE_MAX: Span = Span::from_secs(60 * 60);
/// How long a connection may go on whose certificate is not trusted any more: its node may be about
/// to dial with a new one.
pub const PEER_DISTRUSTED_AGE_MAX: Span = Span::from_secs(10);
/// Certificates in a peer's chain: its own and two between it and a root.
pub const CERTIFICATE_CHAIN_MAX: usize = 3;
/// Longest certificate of a peer's chain in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Certificates that a member shows a joining host: its chain and the roots it trusts.
pub const JOIN_CHAIN_MAX: usize = 8;
/// Longest request for a certificate in bytes, before anything is known of who asks.
pub const JOIN_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Longest answer to it in bytes: a certificate, the roots, the voters.
pub const JOIN_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Requests for certificates that are being decided at once; more are told to ask again.
pub const JOINS_AT_ONCE_MAX: usize = 16;
/// Join tokens that are not used yet, and hosts that have joined and are not members yet.
pub const JOIN_TOKENS_MAX: usize = 1_000;
/// Longest life of a join token.
pub const JOIN_TOKEN_LIFE_MAX: Span = Span::from_secs(24 * 60 * 60);

// The local API.

/// Connections to the local socket at once.
pub const CONNECTIONS_MAX: usize = 8_192;
/// Streams (watches, lock waits, lease states) at once.
pub const STREAMS_MAX: usize = 16_384;
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of one request.
pub const HEADERS_MAX: usize = 64;
/// How long a request's head may take.
pub const HEAD_TIMEOUT: Span = Span::from_secs(10);
/// How long a request's body may take.
pub const BODY_TIMEOUT: Span = Span::from_secs(30);
/// How long a connection may be idle between requests.
pub const IDLE_TIMEOUT: Span = Span::from_secs(300);
/// Longest silence on a watch stream (API.md: a progress message at least every 10 s).
pub const PROGRESS_INTERVAL: Span = Span::from_secs(5);
/// Newest revisions that a node keeps for watchers under way even when they are compacted: a
/// compaction at the newest revision must not cut off readers that are a moment behind.
pub const WATCH_GRACE_REVISIONS: usize = 1_000;
/// Bytes of encoded watch messages that are kept to be sent to further watchers.
pub const WATCH_RENDER_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(VALUE_BYTES_MAX < REQUEST_BYTES_MAX, "a largest value must fit in a request");
const _: () = assert!(
    COMMAND_BYTES_MAX + 32 * 1024 < FRAME_BYTES_MAX,
    "a largest request must fit in one forwarded frame"
);
const _: () = assert!(
    APPEND_BYTES_MAX + COMMAND_BYTES_MAX + 48 * 1024 < FRAME_BYTES_MAX,
    "an append holds at least one entry of any legal size, and then fits in one frame"
);
const _: () = assert!(
    SNAPSHOT_CHUNK_BYTES / 7 < SNAPSHOT_CHUNK_ROWS_MAX,
    "the bytes of a chunk end it before its rows are too many"
);
const _: () = assert!(
    SNAPSHOT_CHUNK_BYTES + KEY_BYTES_MAX * 2 + VALUE_BYTES_MAX < FRAME_BYTES_MAX / 2,
    "a chunk, or a longest row, fits in one frame"
);
const _: () = assert!(APPEND_BYTES_MAX < INFLIGHT_BYTES_MAX, "the window holds several appends");
const _: () = assert!(
    NAME_BYTES_MAX * 3 + 64 <= KEY_BYTES_MAX,
    "a percent-encoded name with its prefix and lease must be a legal key"
);
const _: () = assert!(HELLO_BYTES_MAX < FRAME_BYTES_MAX, "a hello is a frame");
const _: () = assert!(
    TTL_MIN.as_micros() > 4 * promise_margin(TTL_MIN).as_micros(),
    "the shortest lease is still useful after its margin"
);
const _: () = assert!(
    PROGRESS_INTERVAL.as_micros() < Span::from_secs(10).as_micros(),
    "API.md promises a progress message at least every 10 s"
);
