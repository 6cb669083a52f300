//! What becomes of one key, given its file, what was written for it, and what the store holds: a
//! pure decision, without looking at anything else.
//!
//! A key is *ours* when its last change was made by this publisher. Only such a key is ever deleted
//! where keys win; where files win, only one that was ours once.

use serde::{Deserialize, Serialize};

use crate::base::Revision;

use super::files_options::{OnConflictOptions, OnVanishOptions};

/// SHA-256 of a content, in hexadecimal digits.
pub(super) type Hash = String;

/// What was written for a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Of the content that was written last; empty when nothing was.
    pub(super) hash: Hash,
    /// The revision of that write; zero when nothing was written.
    pub(super) revision: u64,
    /// Of the content that was about to be written when this was noted: whether it was is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Hash>,
}

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyNow {
    pub(super) hash: Hash,
    pub(super) revision: Revision,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Somebody else has changed the key, and it is theirs.
    Conflict,
    /// Delete the key.
    Delete(Guard),
    /// Nothing more has to do with it: forget what was written.
    Forget,
    /// Set the key to the file's content.
    Put(Guard),
    /// All is well. Whether the key counts as written for this file.
    Same {
        /// It was ours before.
        ours: bool,
    },
    /// There is nothing to do, and what was written stays noted.
    Stays,
}

/// What must hold of the key when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Its last change is this one; zero: it does not exist.
    At(Revision),
    /// Anything.
    None,
}

/// Decides about one key.
pub(super) fn judge(
    on_conflict: OnConflictOptions,
    on_vanish: OnVanishOptions,
    file: Option<&Hash>,
    written: Option<&Written>,
    key: Option<&KeyNow>,
) -> Verdict {
    let files_win = on_conflict == OnConflictOptions::FileWins;
    let ours = written.zip(key).is_some_and(|(written, key)| is_ours(written, key));
    let guard = match key {
        _ if files_win => Guard::None,
        Some(key) => Guard::At(key.revision),
        None => Guard::At(Revision(0)),
    };
    match (file, key) {
        (Some(file), Some(key)) if key.hash == *file => Verdict::Same { ours: written.is_some() },
        (Some(_), Some(_)) if files_win || ours => Verdict::Put(guard),
        (Some(_), Some(_)) => Verdict::Conflict,
        // Somebody else has deleted what was written of this very content.
        (Some(file), None) if !files_win && written.is_some_and(|it| it.is_done(file)) => {
            Verdict::Conflict
        }
        (Some(_), None) => Verdict::Put(guard),
        (None, None) => match written {
            Some(_) => Verdict::Forget,
            None => Verdict::Stays,
        },
        (None, Some(_)) if written.is_none() || on_vanish == OnVanishOptions::Keep => {
            Verdict::Stays
        }
        (None, Some(_)) if files_win || ours => Verdict::Delete(guard),
        (None, Some(_)) => Verdict::Forget,
    }
}

/// Whether somebody else has changed a key since it was written for this very content.
pub(super) fn was_contested(file: &Hash, written: Option<&Written>, key: Option<&KeyNow>) -> bool {
    let Some(written) = written.filter(|written| written.is_done(file)) else { return false };
    key.is_none_or(|key| key.hash != *file && !is_ours(written, key))
}

fn is_ours(written: &Written, key: &KeyNow) -> bool {
    let last = written.revision != 0 && written.revision == key.revision.get();
    last || written.next.as_ref() == Some(&key.hash)
}

impl Written {
    fn is_done(&self, file: &Hash) -> bool {
        self.revision != 0 && self.hash == *file
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Guard, KeyNow, Verdict, Written, judge, was_contested};
    use crate::base::Revision;
    use crate::host::{OnConflictOptions, OnVanishOptions};

    const FILE_WINS: OnConflictOptions = OnConflictOptions::FileWins;
    const KEY_WINS: OnConflictOptions = OnConflictOptions::KeyWins;

    fn key(hash: &str, revision: u64) -> Option<KeyNow> {
        Some(KeyNow { hash: hash.to_owned(), revision: Revision(revision) })
    }

    fn written(hash: &str, revision: u64, next: Option<&str>) -> Option<Written> {
        Some(Written { hash: hash.to_owned(), revision, next: next.map(str::to_owned) })
    }

    #[track_caller]
    fn check(
        rule: OnConflictOptions,
        file: Option<&str>,
        written: Option<Written>,
        key: Option<KeyNow>,
        expect: Verdict,
    ) {
        let file = file.map(str::to_owned);
        let verdict =
            judge(rule, OnVanishOptions::Delete, file.as_ref(), written.as_ref(), key.as_ref());
        assert_eq!(verdict, expect, "{rule:?}: file {file:?}, {written:?}, {key:?}");
    }

    #[test]
    fn a_key_follows_its_file() {
        for (rule, guard) in [
            (FILE_WINS, [Guard::None; 2]),
            (KEY_WINS, [Guard::At(Revision(0)), Guard::At(Revision(5))]),
        ] {
            check(rule, Some("a"), None, None, Verdict::Put(guard[0]));
            check(rule, Some("a"), None, key("a", 5), Verdict::Same { ours: false });
            check(rule, Some("b"), written("a", 5, None), key("a", 5), Verdict::Put(guard[1]));
            check(rule, None, written("a", 5, None), key("a", 5), Verdict::Delete(guard[1]));
            check(rule, None, written("a", 5, None), None, Verdict::Forget);
            check(rule, None, None, key("a", 5), Verdict::Stays);
        }
    }

    #[test]
    fn what_others_changed_is_set_back_or_left_alone() {
        let ours = || written("a", 5, None);
        check(FILE_WINS, Some("a"), ours(), key("x", 9), Verdict::Put(Guard::None));
        check(KEY_WINS, Some("a"), ours(), key("x", 9), Verdict::Conflict);
        check(FILE_WINS, Some("a"), ours(), None, Verdict::Put(Guard::None));
        check(KEY_WINS, Some("a"), ours(), None, Verdict::Conflict);
        check(KEY_WINS, Some("a"), None, key("x", 9), Verdict::Conflict);
        check(KEY_WINS, None, ours(), key("x", 9), Verdict::Forget);
        assert!(was_contested(&"a".into(), ours().as_ref(), key("x", 9).as_ref()));
        assert!(was_contested(&"a".into(), ours().as_ref(), None));
        assert!(!was_contested(&"b".into(), ours().as_ref(), key("a", 5).as_ref()));
    }

    /// A crash between the note and the write, or between the write and the note, makes nobody
    /// else's of what is ours.
    #[test]
    fn a_write_whose_end_was_not_noted_is_known_again() {
        let unsure = || written("a", 5, Some("b"));
        check(KEY_WINS, Some("b"), unsure(), key("a", 5), Verdict::Put(Guard::At(Revision(5))));
        check(KEY_WINS, Some("b"), unsure(), key("b", 7), Verdict::Same { ours: true });
        check(KEY_WINS, Some("c"), unsure(), key("b", 7), Verdict::Put(Guard::At(Revision(7))));
        check(KEY_WINS, None, unsure(), key("b", 7), Verdict::Delete(Guard::At(Revision(7))));
        check(KEY_WINS, Some("b"), written("", 0, Some("b")), None, {
            Verdict::Put(Guard::At(Revision(0)))
        });
    }

    proptest! {
        /// Where keys win, nothing is written without a guard, and nothing of others is deleted.
        #[test]
        fn keys_that_win_are_never_overwritten_blindly(
            file in proptest::option::of("[abc]"),
            has in proptest::option::of(("[abc]", 1_u64..4)),
            noted in proptest::option::of(("[abc]", 0_u64..4, proptest::option::of("[abc]"))),
        ) {
            let key = has.map(|(hash, revision)| KeyNow { hash, revision: Revision(revision) });
            let noted = noted.map(|(hash, revision, next)| Written { hash, revision, next });
            let verdict = judge(
                KEY_WINS, OnVanishOptions::Delete, file.as_ref(), noted.as_ref(), key.as_ref(),
            );
            let at = key.as_ref().map_or(Revision(0), |key| key.revision);
            match verdict {
                Verdict::Put(guard) => prop_assert_eq!(guard, Guard::At(at)),
                Verdict::Delete(guard) => {
                    prop_assert_eq!(guard, Guard::At(at));
                    let (noted, key) = (noted.unwrap(), key.unwrap());
                    prop_assert!(
                        noted.revision == key.revision.get() || noted.next == Some(key.hash)
                    );
                }
                _ => {}
            }
        }
    }
}
