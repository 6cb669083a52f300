//! Keys, lists and transactions.

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{entry, optional, required};
use crate::api::types::HexId;

/// A key at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RecordFields")]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; nothing when only keys were asked for.
    pub value: Option<Bytes>,
    /// The revision that created the key, after its last deletion.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// How often it was set since it was created; the first is 1.
    pub version: u64,
    /// The lease with which it ends.
    pub lease: Option<HexId>,
}

#[derive(Deserialize)]
struct RecordFields {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    create_revision: u64,
    #[serde(default)]
    mod_revision: u64,
    #[serde(default)]
    version: u64,
    lease: Option<HexId>,
}

impl TryFrom<RecordFields> for Record {
    type Error = String;

    fn try_from(fields: RecordFields) -> Result<Self, String> {
        Ok(Self {
            key: required(fields.key, fields.key_base64, "key")?,
            value: optional(fields.value, fields.value_base64, "value")?,
            create_revision: fields.create_revision,
            mod_revision: fields.mod_revision,
            version: fields.version,
            lease: fields.lease,
        })
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.entries(&mut map)?;
        map.end()
    }
}

impl Record {
    /// The record's fields within a larger object.
    pub(super) fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        entry(map, "key", "key_base64", &self.key)?;
        if let Some(value) = &self.value {
            entry(map, "value", "value_base64", value)?;
        }
        map.serialize_entry("create_revision", &self.create_revision)?;
        map.serialize_entry("mod_revision", &self.mod_revision)?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("lease", &self.lease)
    }
}

/// The answer to `GET /v1/kv?prefix=`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAnswer {
    /// The revision that was read; name it in `revision` to read the next page of the same state.
    pub revision: u64,
    /// How many keys have the prefix in all, on every page.
    pub count: u64,
    /// This page, in byte order.
    #[serde(default)]
    pub keys: Vec<Record>,
    /// Whether keys follow after the last of this page.
    #[serde(default)]
    pub more: bool,
}

/// The answer to `PUT /v1/kv/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PutFields")]
pub struct PutAnswer {
    /// The key.
    pub key: Bytes,
    /// The store's revision after the write.
    pub revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The key's last change: this write.
    pub mod_revision: u64,
    /// How often it was set since it was created.
    pub version: u64,
}

#[derive(Deserialize)]
struct PutFields {
    key: Option<String>,
    key_base64: Option<String>,
    revision: u64,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

impl TryFrom<PutFields> for PutAnswer {
    type Error = String;

    fn try_from(fields: PutFields) -> Result<Self, String> {
        Ok(Self {
            key: required(fields.key, fields.key_base64, "key")?,
            revision: fields.revision,
            create_revision: fields.create_revision,
            mod_revision: fields.mod_revision,
            version: fields.version,
        })
    }
}

impl Serialize for PutAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "key", "key_base64", &self.key)?;
        map.serialize_entry("revision", &self.revision)?;
        map.serialize_entry("create_revision", &self.create_revision)?;
        map.serialize_entry("mod_revision", &self.mod_revision)?;
        map.serialize_entry("version", &self.version)?;
        map.end()
    }
}

/// The answer to a deletion of a key or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteAnswer {
    /// How many keys went.
    pub deleted: u64,
    /// The store's revision after it.
    pub revision: u64,
}

/// The body of `POST /v1/compact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// The oldest revision that stays readable.
    pub revision: u64,
}

/// The answer to `POST /v1/compact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactAnswer {
    /// The oldest revision that is readable now.
    pub compact_revision: u64,
    /// The store's revision.
    pub revision: u64,
}

/// The body of `POST /v1/txn`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxnRequest {
    /// All must hold for `then`.
    #[serde(rename = "if", default, skip_serializing_if = "Vec::is_empty")]
    pub compares: Vec<Compare>,
    /// Done when all hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<TxnOperation>,
    /// Done otherwise.
    #[serde(rename = "else", default, skip_serializing_if = "Vec::is_empty")]
    pub or_else: Vec<TxnOperation>,
}

/// One condition; what is in the store stands on the left of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CompareFields")]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What of it.
    pub field: Field,
    /// How.
    pub op: CompareOp,
    /// With what: bytes for `value`, an id as text for `lease`, a number otherwise.
    pub value: Operand,
}

/// The right side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A JSON string, or base64.
    Bytes(Bytes),
    /// A JSON number.
    Number(u64),
}

/// The field that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The revision that created the key.
    CreateRevision,
    /// The lease it ends with; `"0"` is none.
    Lease,
    /// The revision that last changed it.
    ModRevision,
    /// Its bytes.
    Value,
    /// How often it was set since it was created.
    Version,
}

/// The operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareOp {
    /// Equal.
    #[serde(rename = "==")]
    Equal,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Not equal.
    #[serde(rename = "!=")]
    NotEqual,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareFields {
    key: Option<String>,
    key_base64: Option<String>,
    field: Field,
    op: CompareOp,
    value: Option<OperandField>,
    value_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"value\" must be a string or a number that is not negative")]
enum OperandField {
    Number(u64),
    Text(String),
}

impl TryFrom<CompareFields> for Compare {
    type Error = String;

    fn try_from(fields: CompareFields) -> Result<Self, String> {
        let value = match (fields.value, fields.value_base64) {
            (Some(OperandField::Number(number)), None) => Operand::Number(number),
            (Some(OperandField::Number(_)), Some(_)) => {
                return Err("has both \"value\" and \"value_base64\"".to_owned());
            }
            (Some(OperandField::Text(text)), encoded) => {
                Operand::Bytes(required(Some(text), encoded, "value")?)
            }
            (None, encoded) => Operand::Bytes(required(None, encoded, "value")?),
        };
        let key = required(fields.key, fields.key_base64, "key")?;
        Ok(Self { key, field: fields.field, op: fields.op, value })
    }
}

impl Serialize for Compare {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "key", "key_base64", &self.key)?;
        map.serialize_entry("field", &self.field)?;
        map.serialize_entry("op", &self.op)?;
        match &self.value {
            Operand::Bytes(bytes) => entry(&mut map, "value", "value_base64", bytes)?,
            Operand::Number(number) => map.serialize_entry("value", number)?,
        }
        map.end()
    }
}

/// One operation of a transaction: `{"put": {…}}`, `{"delete": {…}}` or `{"get": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OperationFields")]
pub enum TxnOperation {
    /// Delete.
    Delete(Target),
    /// Read.
    Get(Target),
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease with which it shall end.
        lease: Option<HexId>,
    },
}

/// A key or a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `{"key": …}` or `{"key_base64": …}`.
    Key(Bytes),
    /// `{"prefix": …}` or `{"prefix_base64": …}`.
    Prefix(Bytes),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OperationFields {
    Delete(TargetFields),
    Get(TargetFields),
    Put(PutOperationFields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetFields {
    key: Option<String>,
    key_base64: Option<String>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutOperationFields {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    lease: Option<HexId>,
}

impl TryFrom<TargetFields> for Target {
    type Error = String;

    fn try_from(fields: TargetFields) -> Result<Self, String> {
        let key = optional(fields.key, fields.key_base64, "key")?;
        let prefix = optional(fields.prefix, fields.prefix_base64, "prefix")?;
        match (key, prefix) {
            (Some(key), None) => Ok(Self::Key(key)),
            (None, Some(prefix)) => Ok(Self::Prefix(prefix)),
            _ => Err("needs either \"key\" or \"prefix\"".to_owned()),
        }
    }
}

impl TryFrom<OperationFields> for TxnOperation {
    type Error = String;

    fn try_from(fields: OperationFields) -> Result<Self, String> {
        Ok(match fields {
            OperationFields::Delete(target) => Self::Delete(target.try_into()?),
            OperationFields::Get(target) => Self::Get(target.try_into()?),
            OperationFields::Put(put) => Self::Put {
                key: required(put.key, put.key_base64, "key")?,
                value: required(put.value, put.value_base64, "value")?,
                lease: put.lease,
            },
        })
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Key(key) => entry(&mut map, "key", "key_base64", key)?,
            Self::Prefix(prefix) => entry(&mut map, "prefix", "prefix_base64", prefix)?,
        }
        map.end()
    }
}

struct PutBody<'a>(&'a Bytes, &'a Bytes, Option<HexId>);

impl Serialize for PutBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "key", "key_base64", self.0)?;
        entry(&mut map, "value", "value_base64", self.1)?;
        if let Some(lease) = self.2 {
            map.serialize_entry("lease", &lease)?;
        }
        map.end()
    }
}

impl Serialize for TxnOperation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Delete(target) => map.serialize_entry("delete", target)?,
            Self::Get(target) => map.serialize_entry("get", target)?,
            Self::Put { key, value, lease } => {
                map.serialize_entry("put", &PutBody(key, value, *lease))?;
            }
        }
        map.end()
    }
}

/// The answer to `POST /v1/txn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnAnswer {
    /// Whether `then` was done.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
    /// One for each operation of the list that was done.
    pub results: Vec<TxnResult>,
}

/// The result of one operation: `{"put": {…}}`, `{"delete": {…}}` or `{"get": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnResult {
    /// How many keys went.
    Delete {
        /// How many.
        deleted: u64,
    },
    /// What was read.
    Get {
        /// How many keys there are.
        count: u64,
        /// In byte order.
        keys: Vec<Record>,
    },
    /// The key that was set.
    Put {
        /// The revision that created it.
        create_revision: u64,
        /// Its last change: this transaction.
        mod_revision: u64,
        /// How often it was set since it was created.
        version: u64,
    },
}
