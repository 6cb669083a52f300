//! Leases, locks and elections.

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{entry, optional, required};
use crate::api::types::{DurationText, HexId, KeyName, Problem};

/// What keeps a lease alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// The connection that made it.
    Connection,
    /// The daemon: a host's own lease. Seen in answers only.
    Node,
    /// The caller's keepalives.
    None,
    /// A process.
    Process,
}

/// The body of `POST /v1/leases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantLeaseRequest {
    /// Time to live without a sign of life; 10 s unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// What keeps it alive; `none` unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// With `process`: which, if not the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
}

/// The answer to `POST /v1/leases` with `bind` `none` or `process`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// Its id.
    pub lease: HexId,
    /// Time to live.
    pub ttl_ms: u64,
    /// Nobody else can be given what it protects for this long from the answer on.
    pub valid_for_ms: u64,
    /// What keeps it alive.
    pub bind: Bind,
    /// The store's revision.
    pub revision: u64,
}

/// The answer to a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveAnswer {
    /// Its id.
    pub lease: HexId,
    /// Time to live.
    pub ttl_ms: u64,
    /// As in [`LeaseAnswer`].
    pub valid_for_ms: u64,
}

/// The answer to `DELETE /v1/leases/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeAnswer {
    /// Its id.
    pub lease: HexId,
    /// The store's revision after it.
    pub revision: u64,
}

/// The answer to `GET /v1/leases/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Its id.
    pub lease: HexId,
    /// Time to live.
    pub ttl_ms: u64,
    /// Time until it ends without a sign of life, as this node knows it; null on nodes that neither
    /// keep it alive nor lead.
    pub remaining_ms: Option<u64>,
    /// What this node promises its holder; null on nodes that do not keep it alive.
    pub valid_for_ms: Option<u64>,
    /// What keeps it alive.
    pub bind: Bind,
    /// The name of the node whose API made it; null when that is no member any more.
    pub node: Option<String>,
    /// The process it is bound to or that asked for it.
    pub pid: Option<u32>,
    /// The user that asked for it.
    pub uid: u32,
    /// Free text for people.
    #[serde(default)]
    pub info: String,
    /// The keys that end with it.
    #[serde(default)]
    pub keys: Vec<KeyName>,
}

/// The answer to `GET /v1/leases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesAnswer {
    /// By id; without their keys.
    pub leases: Vec<LeaseView>,
    /// Whether leases follow after the last of this page.
    #[serde(default)]
    pub more: bool,
    /// The store's revision.
    pub revision: u64,
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Valid.
    Active,
    /// Valid, but a confirmation is overdue.
    AtRisk,
    /// The stream ends for another reason; says nothing about the lease.
    Error,
    /// No longer valid: the last message.
    Lost,
    /// A state that this program does not know.
    #[serde(other)]
    Unknown,
}

/// One message of a stream of lease states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseMessage {
    /// How it stands.
    pub state: LeaseState,
    /// Which lease.
    pub lease: HexId,
    /// As in [`LeaseAnswer`]; zero when lost.
    #[serde(default)]
    pub valid_for_ms: u64,
    /// First message only: time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// First message only: what keeps it alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// First message only: the store's revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Why it is at risk or lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Beside whom a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As many as it has slots.
    #[default]
    Exclusive,
    /// All who share it.
    Shared,
}

/// The body of `POST /v1/locks/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// Hold under this lease instead of one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<HexId>,
    /// Time to live of its own lease; 10 s unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// What keeps its own lease alive; `connection` unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// With `process`: which, if not the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How long to wait for a slot; without limit unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<DurationText>,
    /// How many may hold at once; 1 unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Beside whom; `exclusive` unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
}

/// The body of `POST /v1/elections/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CampaignFields")]
pub struct CampaignRequest {
    /// What the leader publishes; empty unless named.
    pub value: Bytes,
    /// Campaign under this lease instead of one of its own.
    pub lease: Option<HexId>,
    /// As in [`AcquireRequest`].
    pub ttl: Option<DurationText>,
    /// As in [`AcquireRequest`].
    pub bind: Option<Bind>,
    /// As in [`AcquireRequest`].
    pub pid: Option<u32>,
    /// As in [`AcquireRequest`].
    pub wait: Option<DurationText>,
    /// As in [`AcquireRequest`].
    pub info: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CampaignFields {
    value: Option<String>,
    value_base64: Option<String>,
    lease: Option<HexId>,
    ttl: Option<DurationText>,
    bind: Option<Bind>,
    pid: Option<u32>,
    wait: Option<DurationText>,
    info: Option<String>,
}

impl TryFrom<CampaignFields> for CampaignRequest {
    type Error = String;

    fn try_from(fields: CampaignFields) -> Result<Self, String> {
        Ok(Self {
            value: optional(fields.value, fields.value_base64, "value")?.unwrap_or_default(),
            lease: fields.lease,
            ttl: fields.ttl,
            bind: fields.bind,
            pid: fields.pid,
            wait: fields.wait,
            info: fields.info,
        })
    }
}

impl Serialize for CampaignRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "value", "value_base64", &self.value)?;
        some(&mut map, "lease", self.lease.as_ref())?;
        some(&mut map, "ttl", self.ttl.as_ref())?;
        some(&mut map, "bind", self.bind.as_ref())?;
        some(&mut map, "pid", self.pid.as_ref())?;
        some(&mut map, "wait", self.wait.as_ref())?;
        some(&mut map, "info", self.info.as_ref())?;
        map.end()
    }
}

fn some<M: SerializeMap, T: Serialize>(
    map: &mut M,
    name: &'static str,
    value: Option<&T>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(name, value))
}

/// A place in a lock's or an election's queue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PlaceFields")]
pub struct Place {
    /// The fencing token.
    pub token: u64,
    /// The lease it is held under.
    pub lease: HexId,
    /// The name of the node whose API made the lease; null when that is no member any more.
    pub node: Option<String>,
    /// The process that asked.
    pub pid: Option<u32>,
    /// The user that asked.
    pub uid: Option<u32>,
    /// Free text for people.
    pub info: String,
    /// In locks: beside whom.
    pub mode: Option<Mode>,
    /// In elections: what the candidate publishes.
    pub value: Option<Bytes>,
}

#[derive(Deserialize)]
struct PlaceFields {
    token: u64,
    lease: HexId,
    node: Option<String>,
    pid: Option<u32>,
    uid: Option<u32>,
    #[serde(default)]
    info: String,
    mode: Option<Mode>,
    value: Option<String>,
    value_base64: Option<String>,
}

impl TryFrom<PlaceFields> for Place {
    type Error = String;

    fn try_from(fields: PlaceFields) -> Result<Self, String> {
        Ok(Self {
            token: fields.token,
            lease: fields.lease,
            node: fields.node,
            pid: fields.pid,
            uid: fields.uid,
            info: fields.info,
            mode: fields.mode,
            value: optional(fields.value, fields.value_base64, "value")?,
        })
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(value) = &self.value {
            entry(&mut map, "value", "value_base64", value)?;
        }
        map.serialize_entry("token", &self.token)?;
        map.serialize_entry("lease", &self.lease)?;
        map.serialize_entry("node", &self.node)?;
        map.serialize_entry("pid", &self.pid)?;
        map.serialize_entry("uid", &self.uid)?;
        map.serialize_entry("info", &self.info)?;
        some(&mut map, "mode", self.mode.as_ref())?;
        map.end()
    }
}

/// One message of a stream that waits for and holds a lock (`held`) or an election (`leader`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PlaceMessage {
    /// Held, but a confirmation of the lease is overdue.
    AtRisk {
        /// The fencing token.
        token: u64,
        /// The lease.
        lease: HexId,
        /// As in [`LeaseAnswer`].
        valid_for_ms: u64,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The last message: nothing is held, for this reason.
    Error(Problem),
    /// The lock is held. Repeated while it is, with a new `valid_for_ms`.
    Held {
        /// The fencing token.
        token: u64,
        /// The lease.
        lease: HexId,
        /// As in [`LeaseAnswer`].
        valid_for_ms: u64,
        /// The store's revision.
        #[serde(default)]
        revision: u64,
    },
    /// The election is won. Repeated while it is, with a new `valid_for_ms`.
    Leader {
        /// The fencing token.
        token: u64,
        /// The lease.
        lease: HexId,
        /// As in [`LeaseAnswer`].
        valid_for_ms: u64,
        /// The store's revision.
        #[serde(default)]
        revision: u64,
    },
    /// The last message: held no longer.
    Lost {
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// In the queue.
    Waiting {
        /// How many must leave before this one holds; at least 1.
        position: u64,
        /// The token that this place will hold with.
        #[serde(default)]
        token: u64,
        /// The lease.
        #[serde(default)]
        lease: HexId,
        /// Who holds.
        #[serde(default)]
        holders: Vec<Place>,
    },
    /// A state that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The single answer when a lock or an election is held under a lease that the caller named, or
/// that is bound to a process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "HeldFields")]
pub struct HeldAnswer {
    /// The name.
    pub name: Bytes,
    /// The fencing token.
    pub token: u64,
    /// The lease.
    pub lease: HexId,
    /// As in [`LeaseAnswer`].
    pub valid_for_ms: u64,
    /// The store's revision.
    pub revision: u64,
}

#[derive(Deserialize)]
struct HeldFields {
    name: Option<String>,
    name_base64: Option<String>,
    token: u64,
    lease: HexId,
    valid_for_ms: u64,
    revision: u64,
}

impl TryFrom<HeldFields> for HeldAnswer {
    type Error = String;

    fn try_from(fields: HeldFields) -> Result<Self, String> {
        Ok(Self {
            name: required(fields.name, fields.name_base64, "name")?,
            token: fields.token,
            lease: fields.lease,
            valid_for_ms: fields.valid_for_ms,
            revision: fields.revision,
        })
    }
}

impl Serialize for HeldAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "name", "name_base64", &self.name)?;
        map.serialize_entry("token", &self.token)?;
        map.serialize_entry("lease", &self.lease)?;
        map.serialize_entry("valid_for_ms", &self.valid_for_ms)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

/// The answer to `DELETE /v1/locks/{name}`, and to `PUT` and `DELETE` of `/v1/elections/{name}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// The token that was named.
    pub token: u64,
    /// The store's revision after it.
    pub revision: u64,
}

/// The answer to `GET /v1/locks/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "LockFields")]
pub struct LockView {
    /// The name.
    pub name: Bytes,
    /// How many may hold at once; 1 when nobody holds or waits.
    pub slots: u32,
    /// Who holds, oldest first.
    pub holders: Vec<Place>,
    /// Who waits, first come first.
    pub waiters: Vec<Place>,
    /// The store's revision.
    pub revision: u64,
}

#[derive(Deserialize)]
struct LockFields {
    name: Option<String>,
    name_base64: Option<String>,
    slots: u32,
    #[serde(default)]
    holders: Vec<Place>,
    #[serde(default)]
    waiters: Vec<Place>,
    #[serde(default)]
    revision: u64,
}

impl TryFrom<LockFields> for LockView {
    type Error = String;

    fn try_from(fields: LockFields) -> Result<Self, String> {
        Ok(Self {
            name: required(fields.name, fields.name_base64, "name")?,
            slots: fields.slots,
            holders: fields.holders,
            waiters: fields.waiters,
            revision: fields.revision,
        })
    }
}

impl Serialize for LockView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "name", "name_base64", &self.name)?;
        map.serialize_entry("slots", &self.slots)?;
        map.serialize_entry("holders", &self.holders)?;
        map.serialize_entry("waiters", &self.waiters)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

/// The answer to `GET /v1/locks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocksAnswer {
    /// Those that are held or waited for, by name.
    pub locks: Vec<LockView>,
    /// Whether locks follow after the last of this page.
    #[serde(default)]
    pub more: bool,
    /// The store's revision.
    pub revision: u64,
}

/// The answer to `GET /v1/elections/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ElectionFields")]
pub struct ElectionView {
    /// The name.
    pub name: Bytes,
    /// Who leads.
    pub leader: Option<Place>,
    /// Who follows when the leader goes, first come first; the leader is not among them.
    pub candidates: Vec<Place>,
    /// The store's revision.
    pub revision: u64,
}

#[derive(Deserialize)]
struct ElectionFields {
    name: Option<String>,
    name_base64: Option<String>,
    leader: Option<Place>,
    #[serde(default)]
    candidates: Vec<Place>,
    #[serde(default)]
    revision: u64,
}

impl TryFrom<ElectionFields> for ElectionView {
    type Error = String;

    fn try_from(fields: ElectionFields) -> Result<Self, String> {
        Ok(Self {
            name: required(fields.name, fields.name_base64, "name")?,
            leader: fields.leader,
            candidates: fields.candidates,
            revision: fields.revision,
        })
    }
}

impl Serialize for ElectionView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "name", "name_base64", &self.name)?;
        map.serialize_entry("leader", &self.leader)?;
        map.serialize_entry("candidates", &self.candidates)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

/// The answer to `GET /v1/elections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionsAnswer {
    /// Those with a leader or candidates, by name.
    pub elections: Vec<ElectionView>,
    /// Whether elections follow after the last of this page.
    #[serde(default)]
    pub more: bool,
    /// The store's revision.
    pub revision: u64,
}

/// One message of `GET /v1/elections/{name}?watch=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ElectionMessage {
    /// The last message: the stream ends for this reason.
    Error(Problem),
    /// Who leads now, with its value.
    Leader {
        /// Nobody when null.
        leader: Option<Place>,
        /// The store's revision.
        revision: u64,
    },
    /// Nothing has changed; the stream is alive.
    Progress {
        /// The store's revision.
        revision: u64,
    },
    /// A message that this program does not know.
    #[serde(other)]
    Unknown,
}
