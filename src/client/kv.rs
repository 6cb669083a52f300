//! Keys: reading, writing, listing and transactions.

use bytes::Bytes;
use http::HeaderMap;
use hyper::Method;

use super::call::{Call, Client, ReadOptions, WriteOptions};
use super::error::Error;
use crate::api::types::{
    Code, DeleteAnswer, HexId, ListAnswer, PutAnswer, Record, TxnAnswer, TxnRequest,
};

/// What must hold for a key to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutCondition {
    /// It does not exist.
    Absent,
    /// Nothing.
    #[default]
    Always,
    /// Its last change is this revision.
    Revision(u64),
}

/// How a key is set.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// What must hold.
    pub condition: PutCondition,
    /// The lease with which the key shall end.
    pub lease: Option<HexId>,
    /// How the write is made.
    pub write: WriteOptions,
}

/// How a key is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    /// As it was at this revision.
    pub revision: Option<u64>,
    /// How the read is made.
    pub read: ReadOptions,
}

/// How a key is deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Only if its last change is this revision.
    pub if_revision: Option<u64>,
    /// How the write is made.
    pub write: WriteOptions,
}

/// Which keys are listed, and what of them.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Most keys on this page; the daemon's default is 1000.
    pub limit: Option<u64>,
    /// Only keys after this one: the last of the page before.
    pub start_after: Option<Bytes>,
    /// Without values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
    /// As it was at this revision.
    pub revision: Option<u64>,
    /// How the read is made.
    pub read: ReadOptions,
}

impl Client {
    /// The record of a key; nothing when there is no such key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Record>, Error> {
        self.get_with(key, &GetOptions::default()).await
    }

    /// As [`Client::get`], with options.
    pub async fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &GetOptions,
    ) -> Result<Option<Record>, Error> {
        let call = Call::new(Method::GET, "/v1/kv/")
            .name(key.as_ref())
            .read(&options.read)
            .query_some("revision", options.revision);
        let answer = match self.answer(&call).await {
            Ok(answer) => answer,
            Err(error) if error.code() == Some(Code::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let headers = &answer.head.headers;
        Ok(Some(Record {
            key: Bytes::copy_from_slice(key.as_ref()),
            create_revision: number(headers, "quorumd-create-revision")?,
            mod_revision: number(headers, "quorumd-mod-revision")?,
            version: number(headers, "quorumd-version")?,
            lease: headers
                .get("quorumd-lease")
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse().ok()),
            value: Some(answer.body),
        }))
    }

    /// Sets a key.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<PutAnswer, Error> {
        self.put_with(key, value, &PutOptions::default()).await
    }

    /// As [`Client::put`], with options. A condition that does not hold is
    /// [`Code::PreconditionFailed`], with the key's `mod_revision` in the problem.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<PutAnswer, Error> {
        let call = Call::new(Method::PUT, "/v1/kv/")
            .name(key.as_ref())
            .write(&options.write)
            .query_some("lease", options.lease)
            .body(value.into());
        let call = match options.condition {
            PutCondition::Absent => call.header("if-none-match", "*"),
            PutCondition::Always => call,
            PutCondition::Revision(revision) => call.header("if-match", entity_tag(revision)),
        };
        self.json(&call).await
    }

    /// Deletes a key; `deleted` is 0 when there was none.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<DeleteAnswer, Error> {
        self.delete_with(key, &DeleteOptions::default()).await
    }

    /// As [`Client::delete`], with options.
    pub async fn delete_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &DeleteOptions,
    ) -> Result<DeleteAnswer, Error> {
        let call = Call::new(Method::DELETE, "/v1/kv/").name(key.as_ref()).write(&options.write);
        let call = match options.if_revision {
            Some(revision) => call.header("if-match", entity_tag(revision)),
            None => call,
        };
        self.json(&call).await
    }

    /// Deletes every key that begins with `prefix`, which is not empty, in one revision.
    pub async fn delete_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<DeleteAnswer, Error> {
        if prefix.as_ref().is_empty() {
            let detail = "an empty prefix means every key: use delete_all for that".to_owned();
            return Err(Error::Invalid { detail });
        }
        let call = Call::new(Method::DELETE, "/v1/kv").query("prefix", prefix).write(options);
        self.json(&call).await
    }

    /// Deletes every key that the caller may delete, in one revision.
    pub async fn delete_all(&self, options: &WriteOptions) -> Result<DeleteAnswer, Error> {
        let call = Call::new(Method::DELETE, "/v1/kv").query("prefix", "").query_if("all", true);
        self.json(&call.write(options)).await
    }

    /// One page of the keys that begin with `prefix`, in byte order.
    pub async fn list(
        &self,
        prefix: impl AsRef<[u8]>,
        options: &ListOptions,
    ) -> Result<ListAnswer, Error> {
        let mut call = Call::new(Method::GET, "/v1/kv")
            .query("prefix", prefix)
            .read(&options.read)
            .query_some("limit", options.limit)
            .query_if("keys_only", options.keys_only)
            .query_if("count_only", options.count_only)
            .query_some("revision", options.revision);
        if let Some(after) = &options.start_after {
            call = call.query("start_after", after);
        }
        self.json(&call).await
    }

    /// Every key that begins with `prefix`, on as many pages as it takes, all of one revision. They
    /// are held in memory at once; for more than that allows, follow the pages of [`Client::list`].
    pub async fn list_all(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Record>, Error> {
        let mut options = ListOptions::default();
        let mut records = Vec::new();
        loop {
            let page = self.list(prefix.as_ref(), &options).await?;
            options.revision = Some(page.revision);
            options.start_after = page.keys.last().map(|record| record.key.clone());
            let last = !page.more || page.keys.is_empty();
            records.extend(page.keys);
            if last {
                return Ok(records);
            }
        }
    }

    /// Does all of `then` or all of `else`, in one revision.
    pub async fn txn(
        &self,
        request: &TxnRequest,
        options: &WriteOptions,
    ) -> Result<TxnAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/txn").json(request)?.write(options)).await
    }
}

fn entity_tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64, Error> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::unexpected(200, format!("no number in header {name}")))
}
