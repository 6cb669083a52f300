//! Whom to wake for one revision: a write wakes the watchers of its keys and nobody else.
//!
//! What a woken watcher is sent is decided by its cursor; how it is woken, in `node/`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::Revision;
use crate::state::RevisionEvents;

use super::filter::{Filter, is_reserved};

/// Names a watcher for as long as it is registered; numbers are given by the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// The filters of all watchers, indexed so that a change of one key costs one lookup for its name
/// and one for each *length* of prefix in use, however many watchers there are (RELIABILITY I11).
///
/// - Every watcher stands in exactly one of `keys` and `prefixes`, under its filter.
/// - No set in an index is empty, and `lengths` counts the elements of `prefixes` by length.
/// - Every watcher in `awaited` is registered, and stands there once.
#[derive(Debug, Default)]
pub struct Registry {
    watchers: BTreeMap<WatcherId, Watcher>,
    keys: BTreeMap<Bytes, BTreeSet<WatcherId>>,
    prefixes: BTreeMap<Bytes, BTreeSet<WatcherId>>,
    lengths: BTreeMap<usize, usize>,
    awaited: BTreeSet<(Revision, WatcherId)>,
}

#[derive(Debug)]
struct Watcher {
    filter: Filter,
    waits_for: Option<Revision>,
}

impl Registry {
    /// Registers a watcher under a number that is not in use. `waits_for` is what
    /// [`Cursor::waits_for`](crate::watch::Cursor::waits_for) says: it is also woken, once, when
    /// the store reaches that revision, whichever key changed.
    pub fn add(&mut self, id: WatcherId, filter: &Filter, waits_for: Option<Revision>) {
        let watcher = Watcher { filter: filter.clone(), waits_for };
        let before = self.watchers.insert(id, watcher);
        assert!(before.is_none(), "watcher {id:?} is registered twice");
        match filter {
            Filter::Key(key) => {
                self.keys.entry(key.clone()).or_default().insert(id);
            }
            Filter::Prefix(prefix) => {
                if !self.prefixes.contains_key(prefix) {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                self.prefixes.entry(prefix.clone()).or_default().insert(id);
            }
        }
        if let Some(revision) = waits_for {
            self.awaited.insert((revision, id));
        }
    }

    /// Forgets a watcher; nothing happens when there is none of this number.
    pub fn remove(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        if let Some(revision) = watcher.waits_for {
            self.awaited.remove(&(revision, id));
        }
        match &watcher.filter {
            Filter::Key(key) => {
                remove_from(&mut self.keys, key, id);
            }
            Filter::Prefix(prefix) => {
                if remove_from(&mut self.prefixes, prefix, id) {
                    let count = self.lengths.get_mut(&prefix.len());
                    let count = count.expect("every prefix in the index has its length counted");
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    /// How many watchers are registered.
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether none is registered.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Sets `woken` to the watchers that have something to do about this revision, in the order of
    /// their numbers, each once.
    pub fn interested(&mut self, revision: &RevisionEvents, woken: &mut Vec<WatcherId>) {
        woken.clear();
        let filters = self.keys.len() + self.prefixes.len();
        let lookups = revision.events.len() * (1 + self.lengths.len());
        if lookups <= filters {
            self.look_up_keys(revision, woken);
        } else {
            // A revision that deletes a whole tree has more keys than there are watchers.
            self.look_up_filters(revision, woken);
        }
        self.take_reached(revision.revision, woken);
        woken.sort_unstable();
        woken.dedup();
    }

    /// Sets `woken` to all watchers: after a snapshot was installed, when revisions passed whose
    /// events this node never saw.
    pub fn everyone(&mut self, revision: Revision, woken: &mut Vec<WatcherId>) {
        woken.clear();
        self.take_reached(revision, woken);
        woken.clear();
        woken.extend(self.watchers.keys());
    }

    fn look_up_keys(&self, revision: &RevisionEvents, woken: &mut Vec<WatcherId>) {
        for event in &revision.events {
            let key = &event.record.key[..];
            woken.extend(self.keys.get(key).into_iter().flatten());
            for &length in self.lengths.range(..=key.len()).map(|(length, _)| length) {
                if length > 0 || !is_reserved(key) {
                    woken.extend(self.prefixes.get(&key[..length]).into_iter().flatten());
                }
            }
        }
    }

    fn look_up_filters(&self, revision: &RevisionEvents, woken: &mut Vec<WatcherId>) {
        for (key, watchers) in &self.keys {
            if Filter::Key(key.clone()).select(revision).is_some() {
                woken.extend(watchers);
            }
        }
        for (prefix, watchers) in &self.prefixes {
            if Filter::Prefix(prefix.clone()).select(revision).is_some() {
                woken.extend(watchers);
            }
        }
    }

    fn take_reached(&mut self, revision: Revision, woken: &mut Vec<WatcherId>) {
        while let Some(&(awaited, id)) = self.awaited.first()
            && awaited <= revision
        {
            self.awaited.pop_first();
            let watcher = self.watchers.get_mut(&id);
            watcher.expect("whoever waits for a revision is registered").waits_for = None;
            woken.push(id);
        }
    }
}

/// Takes a watcher out of an index, and says whether its entry went with it.
fn remove_from(
    index: &mut BTreeMap<Bytes, BTreeSet<WatcherId>>,
    key: &Bytes,
    id: WatcherId,
) -> bool {
    let watchers = index.get_mut(key).expect("a registered watcher stands in its index");
    assert!(watchers.remove(&id), "watcher {id:?} was not under its filter");
    let last = watchers.is_empty();
    if last {
        index.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Filter, Registry, WatcherId};
    use crate::base::{Revision, Rng};

    /// A length that stays counted after its last prefix would cost every write a lookup for ever.
    #[test]
    fn nothing_is_left_in_the_index_when_all_are_gone() {
        let mut rng = Rng::new(11);
        let mut registry = Registry::default();
        for id in 0..500 {
            let word = Bytes::from("abcdefgh"[..rng.below(9) as usize].to_owned());
            let filter = if rng.chance(1, 2) { Filter::Key(word) } else { Filter::Prefix(word) };
            let waits_for = rng.chance(1, 3).then(|| Revision(rng.between(2, 9)));
            registry.add(WatcherId(id), &filter, waits_for);
            let counted: usize = registry.lengths.values().sum();
            assert_eq!(counted, registry.prefixes.len(), "a length is counted wrongly");
        }
        for id in (0..500).rev() {
            registry.remove(WatcherId(id));
            registry.remove(WatcherId(id));
        }
        assert!(registry.is_empty() && registry.awaited.is_empty(), "a watcher is left");
        assert!(registry.keys.is_empty() && registry.prefixes.is_empty(), "a filter is left");
        assert!(registry.lengths.is_empty(), "lengths are left: {:?}", registry.lengths);
    }
}
