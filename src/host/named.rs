//! Which names keys stand for: rights are given for names.
//!
//! Who is granted which names is decided in `access.rs`.

use bytes::Bytes;

use crate::base::KeyRange;

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

    use super::Named;
    use crate::base::KeyRange;
    use crate::state::{QueueKind, QueueName, queue_prefix};

    fn key(text: &'static str) -> KeyRange {
        KeyRange::Key(Bytes::from_static(text.as_bytes()))
    }

    fn prefix(text: &'static str) -> KeyRange {
        KeyRange::Prefix(Bytes::from_static(text.as_bytes()))
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
