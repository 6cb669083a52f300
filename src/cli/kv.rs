//! `put`, `get`, `delete`, `list`, `txn` and `compact`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use clap::Args;

use super::command::{Session, Writing};
use super::exit::{DONE, Failure, NOT_FOUND, NOT_SO, USAGE};
use super::output::{Output, bytes_of, print_raw, record_page, shown};
use crate::client::{
    DeleteOptions, GetOptions, HexId, ListOptions, PutCondition, PutOptions, ReadOptions, Record,
    TxnAnswer, TxnRequest, TxnResult,
};

fn read_options(local: bool) -> ReadOptions {
    if local { ReadOptions::local() } else { ReadOptions::default() }
}

fn standard_input() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[derive(Args, Debug)]
pub(super) struct Put {
    /// The key
    key: OsString,
    /// The value; from standard input when it is missing or "-"
    #[arg(allow_hyphen_values = true)]
    value: Option<OsString>,
    /// End the key with this lease
    #[arg(long, value_name = "ID")]
    lease: Option<HexId>,
    /// Only if the key's last change is this revision
    #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
    if_revision: Option<u64>,
    /// Only if there is no such key
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    writing: Writing,
}

impl Put {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let value = match self.value.filter(|value| value != "-") {
            Some(value) => bytes_of(&value),
            None => standard_input()?.into(),
        };
        let condition = match (self.if_revision, self.if_absent) {
            (Some(revision), _) => PutCondition::Revision(revision),
            (None, true) => PutCondition::Absent,
            (None, false) => PutCondition::Always,
        };
        let options = PutOptions { condition, lease: self.lease, write: self.writing.options() };
        let answer = session.client.put_with(bytes_of(&self.key), value, &options).await?;
        session.output.print(&answer, format!("revision {}", answer.revision))?;
        Ok(DONE)
    }
}

#[derive(Args, Debug)]
pub(super) struct Get {
    /// The key
    key: OsString,
    /// What this node has, without asking the others: perhaps stale, possible without a leader
    #[arg(long)]
    local: bool,
    /// As it was at this revision
    #[arg(long)]
    revision: Option<u64>,
    /// With revisions, version and lease
    #[arg(long)]
    meta: bool,
}

impl Get {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let options = GetOptions { revision: self.revision, read: read_options(self.local) };
        let key = bytes_of(&self.key);
        let Some(record) = session.client.get_with(&key, &options).await? else {
            return Err(Failure::new(NOT_FOUND, format!("there is no key \"{}\"", shown(&key))));
        };
        match (session.output, self.meta) {
            (Output::Text, false) => print_raw(&record.value.unwrap_or_default())?,
            _ => session.output.print(&record, record_page(&record))?,
        }
        Ok(DONE)
    }
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    /// The key
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    key: Option<OsString>,
    /// All keys that begin with this, in one revision
    #[arg(long)]
    prefix: Option<OsString>,
    /// With an empty prefix: yes, every key
    #[arg(long, conflicts_with = "key")]
    all: bool,
    /// Only if the key's last change is this revision
    #[arg(long, value_name = "REVISION", conflicts_with = "prefix")]
    if_revision: Option<u64>,
    #[command(flatten)]
    writing: Writing,
}

impl Delete {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let write = self.writing.options();
        let answer = match (self.key, self.prefix) {
            (Some(key), _) => {
                let options = DeleteOptions { if_revision: self.if_revision, write };
                session.client.delete_with(bytes_of(&key), &options).await?
            }
            (None, Some(prefix)) if prefix.is_empty() && !self.all => {
                let message = "an empty prefix means every key: say --all if that is meant";
                return Err(Failure::new(USAGE, message));
            }
            (None, Some(prefix)) if prefix.is_empty() => session.client.delete_all(&write).await?,
            (None, prefix) => {
                let prefix = bytes_of(&prefix.unwrap_or_default());
                session.client.delete_prefix(prefix, &write).await?
            }
        };
        let text = format!("deleted {}, revision {}", answer.deleted, answer.revision);
        session.output.print(&answer, text)?;
        Ok(DONE)
    }
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: OsString,
    /// Without values
    #[arg(long)]
    keys_only: bool,
    /// Most keys in all
    #[arg(long)]
    limit: Option<u64>,
    /// As it was at this revision
    #[arg(long)]
    revision: Option<u64>,
    /// What this node has, without asking the others
    #[arg(long)]
    local: bool,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let prefix = bytes_of(&self.prefix);
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut options = ListOptions {
            keys_only: self.keys_only,
            revision: self.revision,
            read: read_options(self.local),
            ..ListOptions::default()
        };
        while left > 0 {
            // A page has 1000 keys unless fewer are asked for.
            options.limit = Some(left).filter(|left| *left < 1_000);
            let page = session.client.list(&prefix, &options).await?;
            for record in &page.keys {
                session.output.print(record, list_line(record))?;
            }
            left = left.saturating_sub(u64::try_from(page.keys.len()).unwrap_or(u64::MAX));
            let Some(last) = page.keys.last().filter(|_| page.more) else { break };
            options.start_after = Some(last.key.clone());
            options.revision = Some(page.revision);
        }
        Ok(DONE)
    }
}

fn list_line(record: &Record) -> String {
    match &record.value {
        Some(value) => format!("{}\t{}", shown(&record.key), shown(value)),
        None => shown(&record.key),
    }
}

#[derive(Args, Debug)]
pub(super) struct Txn {
    /// A file with {"if": […], "then": […], "else": […]}; standard input without it or with "-"
    file: Option<PathBuf>,
    #[command(flatten)]
    writing: Writing,
}

impl Txn {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let name = self
            .file
            .as_ref()
            .map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
        let json = match self.file.filter(|file| file.as_os_str() != "-") {
            Some(file) => fs::read(&file),
            None => standard_input(),
        };
        let wrong = |error: &dyn std::fmt::Display| Failure::new(USAGE, format!("{name}: {error}"));
        let json = json.map_err(|error| wrong(&error))?;
        let request: TxnRequest = serde_json::from_slice(&json).map_err(|error| wrong(&error))?;
        let answer = session.client.txn(&request, &self.writing.options()).await?;
        session.output.print(&answer, txn_page(&answer))?;
        Ok(if answer.succeeded { DONE } else { NOT_SO })
    }
}

fn txn_page(answer: &TxnAnswer) -> String {
    let branch = if answer.succeeded { "then" } else { "else" };
    let mut lines = vec![format!("{branch}, revision {}", answer.revision)];
    for result in &answer.results {
        match result {
            TxnResult::Delete { deleted } => lines.push(format!("deleted {deleted}")),
            TxnResult::Get { count, keys } => {
                lines.push(format!("found {count}"));
                lines.extend(keys.iter().map(list_line));
            }
            TxnResult::Put { version, .. } => lines.push(format!("put version {version}")),
        }
    }
    lines.join("\n")
}

#[derive(Args, Debug)]
pub(super) struct Compact {
    /// The oldest revision that stays readable
    revision: u64,
    #[command(flatten)]
    writing: Writing,
}

impl Compact {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let answer = session.client.compact(self.revision, &self.writing.options()).await?;
        let text = format!("readable from revision {}", answer.compact_revision);
        session.output.print(&answer, text)?;
        Ok(DONE)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::client::Consistency;

    #[test]
    fn lists_and_transactions_are_shown_on_lines() {
        let record = Record {
            key: Bytes::from_static(b"a/b"),
            value: Some(Bytes::from_static(b"1\n2")),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: None,
        };
        assert_eq!(list_line(&record), "a/b\t1\\n2");
        assert_eq!(list_line(&Record { value: None, ..record.clone() }), "a/b");
        let page =
            "key: a/b\ncreate_revision: 2\nmod_revision: 3\nversion: 2\nlease: none\nvalue: 1\\n2";
        assert_eq!(record_page(&record), page);
        let answer = TxnAnswer {
            succeeded: false,
            revision: 4,
            results: vec![
                TxnResult::Get { count: 1, keys: vec![record] },
                TxnResult::Delete { deleted: 2 },
                TxnResult::Put { create_revision: 4, mod_revision: 4, version: 1 },
            ],
        };
        let page = "else, revision 4\nfound 1\na/b\t1\\n2\ndeleted 2\nput version 1";
        assert_eq!(txn_page(&answer), page);
    }

    #[test]
    fn consistency_follows_the_flag() {
        assert_eq!(read_options(false).consistency, Consistency::Linearizable);
        assert_eq!(read_options(true).consistency, Consistency::Local { min_revision: None });
    }
}
