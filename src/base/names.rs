//! Patterns of names, as rules of access are written with them.
//!
//! Which rules there are, and what they mean, is decided in `host/` for the callers of one host and
//! in `replica/` for the nodes of a cluster.

use bytes::Bytes;

/// Names: bytes, compared as they are. A pattern that ends with `*` means every name that begins
/// with what stands before it, the empty rest included; several `*` at the end are the same as one.
/// Any other pattern means exactly one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    stem: Bytes,
    open: bool,
}

/// One name, or all names with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// This one.
    Key(Bytes),
    /// All that begin so. Of keys, the empty prefix is every key outside of the reserved namespace.
    Prefix(Bytes),
}

impl NamePattern {
    /// Why a text is no pattern, if it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
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
    pub fn covers(&self, range: &KeyRange) -> bool {
        match range {
            KeyRange::Key(name) if self.open => name.starts_with(&self.stem),
            KeyRange::Key(name) => *name == self.stem,
            KeyRange::Prefix(prefix) => self.open && prefix.starts_with(&self.stem),
        }
    }

    /// The part of a range that lies within it, if any does.
    pub fn part_of(&self, range: &KeyRange) -> Option<KeyRange> {
        if self.covers(range) {
            return Some(range.clone());
        }
        match range {
            KeyRange::Prefix(prefix) if self.stem.starts_with(prefix) => Some(match self.open {
                true => KeyRange::Prefix(self.stem.clone()),
                false => KeyRange::Key(self.stem.clone()),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{KeyRange, NamePattern};

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
            let parsed = NamePattern::parse(pattern).unwrap();
            assert!(covered.iter().all(|range| parsed.covers(range)), "{pattern}");
            assert!(!not_covered.iter().any(|range| parsed.covers(range)), "{pattern}");
        }
        for wrong in ["", "*a", "a*b", "a*b*", "**x"] {
            assert!(NamePattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_may_lie_within_a_pattern_in_part() {
        for (pattern, range, part) in [
            ("app/*", prefix("app/x"), Some(prefix("app/x"))),
            ("app/*", prefix("ap"), Some(prefix("app/"))),
            ("app/*", key("app/x"), Some(key("app/x"))),
            ("app/*", prefix("b"), None),
            ("app/*", key("app"), None),
            ("app", prefix("a"), Some(key("app"))),
            ("app", prefix("app/"), None),
            ("*", prefix(""), Some(prefix(""))),
        ] {
            assert_eq!(NamePattern::parse(pattern).unwrap().part_of(&range), part, "{pattern}");
        }
    }
}
