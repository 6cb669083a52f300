//! The keys that a file is made of, all at one revision.
//!
//! Which of them a template looks at is its own business; what it was not given, it cannot see.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::base::{ClusterId, Epoch, Index, Revision, limits};
use crate::node::Node;
use crate::watch::Filter;

use super::files_options::{ContentOptions, FileOptions};

/// Which keys an entry reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    keys: Vec<Bytes>,
    prefixes: Vec<Bytes>,
}

/// Keys with their values at one revision.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The cluster that they are of.
    pub(super) cluster: ClusterId,
    /// The history that the revision belongs to.
    pub(super) epoch: Epoch,
    /// The revision.
    pub(super) revision: Revision,
    wanted: Wanted,
    records: BTreeMap<Bytes, (Bytes, Revision)>,
}

/// A key, what follows the prefix, the value, and the revision of its last change.
type Listed = (String, String, String, u64);

impl Wanted {
    /// What an entry reads.
    pub(super) fn of(entry: &FileOptions) -> Self {
        let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
        let mut wanted = match &entry.content {
            ContentOptions::Key(key) => Self { keys: vec![bytes(key)], prefixes: Vec::new() },
            ContentOptions::Prefix { prefix, .. } => {
                Self { keys: Vec::new(), prefixes: vec![bytes(prefix)] }
            }
            ContentOptions::Template { keys, prefixes, .. } => Self {
                keys: keys.iter().map(bytes).collect(),
                prefixes: prefixes.iter().map(bytes).collect(),
            },
        };
        wanted.keys.extend(entry.required.iter().map(bytes));
        wanted.keys.sort();
        wanted.keys.dedup();
        wanted
    }

    /// What to watch.
    pub(super) fn filters(&self) -> Vec<Filter> {
        let keys = self.keys.iter().cloned().map(Filter::Key);
        keys.chain(self.prefixes.iter().cloned().map(Filter::Prefix)).collect()
    }
}

impl Inputs {
    /// Reads everything that is wanted from the state of this node as it is now, which must have
    /// been found fit to be read.
    pub(super) fn collect(node: &Node, wanted: &Wanted) -> Result<Self, String> {
        let cluster = node.status().replica.cluster;
        let view = node.view();
        let (machine, revision) = (&view.machine, view.machine.revision());
        if let Some(fence) = view.fence {
            return Err(format!("the state of this node differs after entry {}", fence.index));
        }
        if machine.applied_index() == Index(0) {
            return Err("this node has not received any state yet".to_owned());
        }
        let (mut records, mut bytes) = (BTreeMap::new(), 0_usize);
        let unreadable = |error: crate::state::QueryError| error.to_string();
        let mut keep = |record: crate::state::Record| {
            bytes = bytes.saturating_add(record.key.len() + record.value.len());
            records.insert(record.key, (record.value, record.mod_revision));
            match bytes > limits::RENDER_INPUT_BYTES_MAX {
                true => Err(format!(
                    "its keys have more than {} bytes together",
                    limits::RENDER_INPUT_BYTES_MAX
                )),
                false => Ok(()),
            }
        };
        for key in &wanted.keys {
            machine.get(key, None).map_err(unreadable)?.map_or(Ok(()), &mut keep)?;
        }
        for prefix in &wanted.prefixes {
            let found = machine.records(prefix, None, revision).map_err(unreadable)?;
            for record in found {
                keep(record)?;
            }
        }
        Ok(Self { cluster, epoch: machine.epoch(), revision, wanted: wanted.clone(), records })
    }

    /// The bytes of a key, if there is one.
    pub(super) fn bytes(&self, key: &str) -> Option<&Bytes> {
        self.records.get(key.as_bytes()).map(|(value, _)| value)
    }

    /// Whether no key was found at all.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The text of a key. An error for one that was not asked for, or is no text.
    pub(super) fn key(&self, key: &str) -> Result<Option<String>, String> {
        let named = self.wanted.keys.iter().any(|wanted| wanted == key.as_bytes());
        let under = |prefix: &Bytes| key.as_bytes().starts_with(prefix);
        if !named && !self.wanted.prefixes.iter().any(under) {
            return Err(format!("the key {key:?} is neither in `keys` nor under `prefixes`"));
        }
        self.bytes(key).map(|value| text(key.as_bytes(), value)).transpose()
    }

    /// The keys with a prefix, in order. An error for a prefix that was not asked for.
    pub(super) fn keys(&self, prefix: &str) -> Result<Vec<Listed>, String> {
        if !self.wanted.prefixes.iter().any(|wanted| prefix.as_bytes().starts_with(wanted)) {
            return Err(format!("the prefix {prefix:?} is not under `prefixes`"));
        }
        let from = (Bound::Included(prefix.as_bytes()), Bound::Unbounded);
        let records = self.records.range::<[u8], _>(from);
        let under = records.take_while(|(key, _)| key.starts_with(prefix.as_bytes()));
        under
            .map(|(key, (value, revision))| {
                let name = text(key, &key.slice(prefix.len()..))?;
                Ok((text(key, key)?, name, text(key, value)?, revision.get()))
            })
            .collect()
    }
}

fn text(key: &[u8], bytes: &Bytes) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| format!("the key {:?} holds no UTF-8 text", String::from_utf8_lossy(key)))
}

#[cfg(test)]
impl Inputs {
    /// For tests: keys as they might have been found.
    pub(super) fn given(keys: &[&str], prefixes: &[&str], records: &[(&str, &[u8])]) -> Self {
        let bytes = |text: &&str| Bytes::copy_from_slice(text.as_bytes());
        let record = |(key, value): &(&str, &[u8])| {
            (bytes(key), (Bytes::copy_from_slice(value), Revision(7)))
        };
        Self {
            cluster: ClusterId(1),
            epoch: Epoch(1),
            revision: Revision(9),
            wanted: Wanted {
                keys: keys.iter().map(bytes).collect(),
                prefixes: prefixes.iter().map(bytes).collect(),
            },
            records: records.iter().map(record).collect(),
        }
    }
}
