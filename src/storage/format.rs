//! Which facts both files begin with and how they are written: format, identity, boot, cut, marks.
//!
//! The rows of log and state are `wire`'s; which table holds what is decided in `raft_log.rs` and
//! `state_rows.rs`. `docs/formats.md` draws all of it.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::backend::Watch;
use crate::base::{Boot, Index, NodeId, Term};
use crate::raft::Membership;
use crate::storage::StorageError;
use crate::wire::{WireError, decode_membership, encode_membership, open_bytes, seal_bytes};

/// The facts of a file, by key. Few and small, and not touched by an ordinary write.
pub(super) const FACTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("facts");

/// What kind of file this is, in words that `strings` shows, and its version.
pub(super) const KEY_FORMAT: &[u8] = &[0];
/// Whose file this is.
pub(super) const KEY_IDENTITY: &[u8] = &[1];
/// How often the directory was started. In raft.redb only, as all below.
pub(super) const KEY_BOOT: &[u8] = &[2];
/// The identity of the cluster, once it is known.
pub(super) const KEY_GENESIS: &[u8] = &[3];
/// Where the log begins.
pub(super) const KEY_CUT: &[u8] = &[4];
/// What a peer has promised: this byte, then its node id, big-endian.
pub(super) const KEY_MARK: u8 = 5;

/// In state.redb: where the log begins after a state that was installed, until the next save. What
/// raft.redb lacks of it is made up for at the next start.
pub(super) const KEY_INSTALLED: &[u8] = &[6];

const FORMAT_VERSION: u32 = 1;
const FACT_VERSION: u8 = 1;

/// Who a data directory is; made with it, and never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, drawn when the directory was made.
    pub node: NodeId,
    /// The node's name in the configuration, for people.
    pub name: String,
    /// The cluster's name in the configuration.
    pub cluster_name: String,
}

/// Where the log begins: everything up to here is in the saved state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The last index that is gone from the log; zero when it is whole.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// The configuration in force there; `None` means that of the genesis.
    pub membership: Option<Membership>,
}

/// What a peer has demonstrably promised: one that later claims less was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerMark {
    /// The peer.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// Its term.
    pub term: Term,
    /// The term of its last durable entry.
    pub last_term: Term,
    /// The index of its last durable entry.
    pub last_index: Index,
}

/// Whether the transaction's file was just made. Errors when it is another kind of file.
pub(super) fn is_fresh(
    watch: &Watch,
    transaction: &WriteTransaction,
) -> Result<bool, StorageError> {
    let tables = transaction.list_tables().map_err(|error| watch.error(error))?;
    if tables.count() == 0 {
        return Ok(true);
    }
    let facts = transaction.open_table(FACTS).map_err(|_| other_format(watch))?;
    let format = facts.get(KEY_FORMAT).map_err(|error| watch.error(error))?;
    let Some(format) = format else {
        return Err(other_format(watch));
    };
    let Some(version) = format.value().strip_prefix(marker(watch.file()).as_bytes()) else {
        return Err(other_format(watch));
    };
    if version == FORMAT_VERSION.to_le_bytes() {
        return Ok(false);
    }
    let what = match version.try_into().map(u32::from_le_bytes) {
        Ok(version) => format!(
            "its format version is {version}, and this program knows {FORMAT_VERSION}; start the \
             program that wrote it, or a newer one"
        ),
        Err(_) => "its format version is no number".to_owned(),
    };
    Err(StorageError::Format { file: watch.file(), what })
}

fn other_format(watch: &Watch) -> StorageError {
    let what = "it is the file of another program; name another data directory".to_owned();
    StorageError::Format { file: watch.file(), what }
}

/// The words that stand in every finished file of this name.
pub(super) fn marker(file: &str) -> String {
    format!("quorumd {file} format ")
}

/// The value behind [`KEY_FORMAT`].
pub(super) fn encode_format(file: &str) -> Vec<u8> {
    let mut bytes = marker(file).into_bytes();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes
}

pub(super) fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut content = identity.node.0.to_le_bytes().to_vec();
    for text in [&identity.name, &identity.cluster_name] {
        let length = u16::try_from(text.len()).expect("names are checked by the configuration");
        content.extend_from_slice(&length.to_le_bytes());
        content.extend_from_slice(text.as_bytes());
    }
    seal_bytes(FACT_VERSION, KEY_IDENTITY, &content)
}

pub(super) fn decode_identity(sealed: &[u8]) -> Result<Identity, WireError> {
    let mut content = open_bytes(FACT_VERSION, KEY_IDENTITY, sealed)?;
    let node = NodeId(number(&mut content)?);
    let (name, cluster_name) = (text(&mut content)?, text(&mut content)?);
    ended(content)?;
    Ok(Identity { node, name, cluster_name })
}

pub(super) fn encode_boot(boot: Boot) -> Vec<u8> {
    seal_bytes(FACT_VERSION, KEY_BOOT, &boot.0.to_le_bytes())
}

pub(super) fn decode_boot(sealed: &[u8]) -> Result<Boot, WireError> {
    let mut content = open_bytes(FACT_VERSION, KEY_BOOT, sealed)?;
    let boot = Boot(number(&mut content)?);
    ended(content)?;
    Ok(boot)
}

/// `key` is where it is stored: [`KEY_CUT`] or [`KEY_INSTALLED`].
pub(super) fn encode_cut(key: &[u8], cut: &Cut) -> Vec<u8> {
    let mut content = cut.index.0.to_le_bytes().to_vec();
    content.extend_from_slice(&cut.term.0.to_le_bytes());
    if let Some(membership) = &cut.membership {
        content.extend_from_slice(&encode_membership(membership));
    }
    seal_bytes(FACT_VERSION, key, &content)
}

pub(super) fn decode_cut(key: &[u8], sealed: &[u8]) -> Result<Cut, WireError> {
    let mut content = open_bytes(FACT_VERSION, key, sealed)?;
    let (index, term) = (Index(number(&mut content)?), Term(number(&mut content)?));
    let membership = if content.is_empty() { None } else { Some(decode_membership(content)?) };
    Ok(Cut { index, term, membership })
}

pub(super) fn mark_key(node: NodeId) -> Vec<u8> {
    let mut key = vec![KEY_MARK];
    key.extend_from_slice(&node.0.to_be_bytes());
    key
}

pub(super) fn encode_mark(mark: &PeerMark) -> Vec<u8> {
    let numbers = [mark.boot.0, mark.term.0, mark.last_term.0, mark.last_index.0];
    let content: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    seal_bytes(FACT_VERSION, &mark_key(mark.node), &content)
}

pub(super) fn decode_mark(key: &[u8], sealed: &[u8]) -> Result<PeerMark, WireError> {
    let mut content = open_bytes(FACT_VERSION, key, sealed)?;
    let node = match key.split_first() {
        Some((&KEY_MARK, node)) => node.try_into().map_err(|_| WireError::Truncated)?,
        _ => return Err(WireError::UnknownKind("fact")),
    };
    let mark = PeerMark {
        node: NodeId(u64::from_be_bytes(node)),
        boot: Boot(number(&mut content)?),
        term: Term(number(&mut content)?),
        last_term: Term(number(&mut content)?),
        last_index: Index(number(&mut content)?),
    };
    ended(content)?;
    Ok(mark)
}

fn number(content: &mut &[u8]) -> Result<u64, WireError> {
    let (number, rest) = content.split_first_chunk().ok_or(WireError::Truncated)?;
    *content = rest;
    Ok(u64::from_le_bytes(*number))
}

fn text(content: &mut &[u8]) -> Result<String, WireError> {
    let (length, rest) = content.split_first_chunk().ok_or(WireError::Truncated)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (text, rest) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
    *content = rest;
    String::from_utf8(text.to_vec()).map_err(|_| WireError::Malformed("a name is no UTF-8"))
}

fn ended(content: &[u8]) -> Result<(), WireError> {
    if content.is_empty() { Ok(()) } else { Err(WireError::Malformed("bytes after the end")) }
}
