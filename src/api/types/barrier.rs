//! Barriers.

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{entry, required};
use crate::api::types::{Bind, DurationText, HexId, Place, Problem};

/// The body of `POST /v1/barriers/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BarrierRequest {
    /// How many must come; the same from all callers.
    pub count: u32,
    /// Wait under this lease instead of one of its own.
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
    /// How long to wait for the others; without limit unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<DurationText>,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
}

/// One message of a stream that waits at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BarrierMessage {
    /// The last message: it was not let go, for this reason.
    Error(Problem),
    /// The last message: it is not counted any more.
    Lost {
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// The last message: all have come, and all are let go.
    Ready {
        /// Names the generation: the same for all that were let go together, greater for each later
        /// one.
        token: u64,
        /// How many came.
        count: u32,
        /// The place that it had.
        #[serde(default)]
        place: u64,
    },
    /// Others must still come.
    Waiting {
        /// How many wait, this one among them.
        present: u64,
        /// How many must come.
        count: u32,
        /// Its place, with which it can be taken out.
        #[serde(default)]
        place: u64,
        /// The lease under which it waits.
        #[serde(default)]
        lease: HexId,
    },
    /// A state that this program does not know.
    #[serde(other)]
    Unknown,
}

/// The single answer when all have come and the caller waited under a lease that it named.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ReadyFields")]
pub struct ReadyAnswer {
    /// The name.
    pub name: Bytes,
    /// As in [`BarrierMessage::Ready`].
    pub token: u64,
    /// How many came.
    pub count: u32,
    /// Its place, which stays until it is left or the lease ends.
    pub place: u64,
    /// The lease.
    pub lease: HexId,
    /// The store's revision.
    pub revision: u64,
}

#[derive(Deserialize)]
struct ReadyFields {
    name: Option<String>,
    name_base64: Option<String>,
    token: u64,
    count: u32,
    place: u64,
    lease: HexId,
    revision: u64,
}

impl TryFrom<ReadyFields> for ReadyAnswer {
    type Error = String;

    fn try_from(fields: ReadyFields) -> Result<Self, String> {
        Ok(Self {
            name: required(fields.name, fields.name_base64, "name")?,
            token: fields.token,
            count: fields.count,
            place: fields.place,
            lease: fields.lease,
            revision: fields.revision,
        })
    }
}

impl Serialize for ReadyAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "name", "name_base64", &self.name)?;
        map.serialize_entry("token", &self.token)?;
        map.serialize_entry("count", &self.count)?;
        map.serialize_entry("place", &self.place)?;
        map.serialize_entry("lease", &self.lease)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

/// The answer to `DELETE /v1/barriers/{name}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAnswer {
    /// The place that was named.
    pub place: u64,
    /// The store's revision after it.
    pub revision: u64,
}

/// The answer to `GET /v1/barriers/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BarrierFields")]
pub struct BarrierView {
    /// The name.
    pub name: Bytes,
    /// How many must come; nothing when nobody is there.
    pub count: Option<u32>,
    /// Who waits, first come first. A place's `token` is what is called `place` elsewhere.
    pub waiting: Vec<Place>,
    /// Who was let go and is still there.
    pub ready: Vec<Place>,
    /// The store's revision.
    pub revision: u64,
}

#[derive(Deserialize)]
struct BarrierFields {
    name: Option<String>,
    name_base64: Option<String>,
    count: Option<u32>,
    #[serde(default)]
    waiting: Vec<Place>,
    #[serde(default)]
    ready: Vec<Place>,
    #[serde(default)]
    revision: u64,
}

impl TryFrom<BarrierFields> for BarrierView {
    type Error = String;

    fn try_from(fields: BarrierFields) -> Result<Self, String> {
        Ok(Self {
            name: required(fields.name, fields.name_base64, "name")?,
            count: fields.count,
            waiting: fields.waiting,
            ready: fields.ready,
            revision: fields.revision,
        })
    }
}

impl Serialize for BarrierView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "name", "name_base64", &self.name)?;
        map.serialize_entry("count", &self.count)?;
        map.serialize_entry("waiting", &self.waiting)?;
        map.serialize_entry("ready", &self.ready)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

/// The answer to `GET /v1/barriers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarriersAnswer {
    /// Those at which somebody is, by name.
    pub barriers: Vec<BarrierView>,
    /// Whether barriers follow after the last of this page.
    #[serde(default)]
    pub more: bool,
    /// The store's revision.
    pub revision: u64,
}
