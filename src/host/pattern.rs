//! Which names a pattern of the access rules means, and which names a key stands for.
//!
//! Who is granted which patterns is decided in `access.rs`.

use bytes::Bytes;

/// Names, by the rule of access: bytes, compared as they are. A pattern that ends with `*` means
/// every name that begins with what stands before it, the empty rest included; several `*` at the
/// end are the same as one. Any other pattern means exactly one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    stem: Bytes,
    open: bool,
}

impl Pattern {
    /// Why a text is no pattern, if it is none.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let stem = text.trim_end_matches('*');
        if text.is_empty() {
            return Err("an empty pattern means no name: \"*\" means all of them");
        }
        if stem.contains('*') {
            return Err("a `*` stands at the end of a pattern only");
        }
        let open = stem.len() < text.len();
        Ok(Self { stem: Bytes::copy_from_slice(stem.as_bytes()), open })
    }

    /// Whether all of a range lies within it.
    pub(super) fn covers(&self, range: &KeyRange) -> bool {
        match range {
            KeyRange::Key(name) if self.open => name.starts_with(&self.stem),
            KeyRange::Key(name) => *name == self.stem,
            KeyRange::Prefix(prefix) => self.open && prefix.starts_with(&self.stem),
        }
    }
}

/// One name, or all names with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// This one.
    Key(Bytes),
    /// All that begin so. The empty prefix is every key outside of the reserved namespace.
    Prefix(Bytes),
}

/// What keys stand for, found out once: rights are given for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Keys of applications.
    Keys(KeyRange),
    /// Places of locks and barriers of these names.
    Locks(KeyRange),
    /// Places of elections of these names.
    Elections(KeyRange),
    /// The reservations of names for nodes.
    Reservations,
    /// Anything else in the reserved namespace, or more than one of these.
    Internal,
}

/// The namespaces that are judged by the names in them.
const LOCKS: [&[u8]; 2] = [b"_locks/", b"_barriers/"];
const ELECTIONS: &[u8] = b"_elections/";
const RESERVATIONS: &[u8] = b"_access/";

impl Named {
    pub(super) fn of(range: &KeyRange) -> Self {
        let (KeyRange::Key(bytes) | KeyRange::Prefix(bytes)) = range;
        if !bytes.starts_with(b"_") {
            return Self::Keys(range.clone());
        }
        if bytes.starts_with(RESERVATIONS) {
            return Self::Reservations;
        }
        let within = |namespace: &[u8]| {
            let rest = bytes.strip_prefix(namespace)?;
            name_range(rest, matches!(range, KeyRange::Prefix(_)))
        };
        if let Some(names) = LOCKS.into_iter().find_map(within) {
            return Self::Locks(names);
        }
        within(ELECTIONS).map_or(Self::Internal, Self::Elections)
    }
}

/// The names to which keys that begin with `rest` belong: `<name, percent-encoded>/<more>`.
fn name_range(rest: &[u8], is_prefix: bool) -> Option<KeyRange> {
    match rest.iter().position(|byte| *byte == b'/') {
        Some(end) => decoded(&rest[..end], false).map(KeyRange::Key),
        // An escape that is cut off may become several bytes: the prefix before it has them all.
        None if is_prefix => decoded(rest, true).map(KeyRange::Prefix),
        None => None,
    }
}

fn decoded(text: &[u8], may_be_cut: bool) -> Option<Bytes> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        if *first != b'%' {
            name.push(*first);
            rest = more;
            continue;
        }
        let digit = |at: usize| more.get(at).map(|byte| (*byte as char).to_digit(16));
        match (digit(0), digit(1)) {
            (Some(Some(high)), Some(Some(low))) => {
                name.push(u8::try_from(high * 16 + low).ok()?);
                rest = &more[2..];
            }
            (None | Some(Some(_)), None) if may_be_cut => break,
            _ => return None,
        }
    }
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{KeyRange, Named, Pattern};
    use crate::state::{QueueKind, QueueName, queue_prefix};

    fn key(text: &'static str) -> KeyRange {
        KeyRange::Key(Bytes::from_static(text.as_bytes()))
    }

    fn prefix(text: &'static str) -> KeyRange {
        KeyRange::Prefix(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_pattern_means_one_name_or_all_that_begin_so() {
        for (pattern, covered, not_covered) in [
            ("a", vec![key("a")], vec![key("a/"), key("b"), key(""), prefix("a"), prefix("")]),
            (
                "app/*",
                vec![key("app/"), key("app/x/y"), prefix("app/"), prefix("app/x")],
                vec![key("app"), key("apq"), prefix("app"), prefix("")],
            ),
            ("app/**", vec![key("app/x"), prefix("app/")], vec![key("app"), prefix("ap")]),
            ("*", vec![key("x"), key(""), prefix("")], vec![]),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert!(covered.iter().all(|range| parsed.covers(range)), "{pattern}");
            assert!(!not_covered.iter().any(|range| parsed.covers(range)), "{pattern}");
        }
        for wrong in ["", "*a", "a*b", "a*b*", "**x"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_of_queues_are_judged_by_their_names() {
        for (range, named) in [
            (prefix(""), Named::Keys(prefix(""))),
            (prefix("a/_locks/"), Named::Keys(prefix("a/_locks/"))),
            (prefix("_"), Named::Internal),
            (prefix("_locks"), Named::Internal),
            (key("_lockz/a/"), Named::Internal),
            (key("_tokens/a"), Named::Internal),
            (key("_ca/a"), Named::Internal),
            (key("_access/web"), Named::Reservations),
            (prefix("_locks/"), Named::Locks(prefix(""))),
            (prefix("_locks/a"), Named::Locks(prefix("a"))),
            (prefix("_locks/a/"), Named::Locks(key("a"))),
            (prefix("_locks/a%2F"), Named::Locks(prefix("a/"))),
            (prefix("_locks/a%2"), Named::Locks(prefix("a"))),
            (prefix("_locks/a%"), Named::Locks(prefix("a"))),
            (prefix("_locks/a%zz"), Named::Internal),
            (prefix("_locks/a%2/"), Named::Internal),
            (key("_locks/a"), Named::Internal),
            (key("_locks/a%2Fb/1f"), Named::Locks(key("a/b"))),
            (key("_barriers/a/1f"), Named::Locks(key("a"))),
            (key("_elections/a/1f"), Named::Elections(key("a"))),
        ] {
            assert_eq!(Named::of(&range), named, "{range:?}");
        }
        let name = Bytes::from((0..=255).collect::<Vec<u8>>());
        let queue = QueueName { kind: QueueKind::Lock, name: name.clone() };
        let named = Named::of(&KeyRange::Prefix(queue_prefix(&queue)));
        assert_eq!(named, Named::Locks(KeyRange::Key(name)), "every byte of a name comes back");
    }
}
