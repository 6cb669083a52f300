//! Which paths a file names under a root (`crate`, `std`, `quorumd`): in `use` trees and inline
//! alike.

use crate::source::{is_word, word_positions};

/// A path, with the position where its root stands. Its segments do not contain the root; a glob is
/// the segment `*`.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub position: usize,
    pub segments: Vec<String>,
}

/// All paths under `root` that the code names; the trees of `use` are taken apart.
pub fn named(code: &str, root: &str) -> Vec<Named> {
    let mut found = Vec::new();
    for position in word_positions(code, root) {
        let mut rest = code[position + root.len()..].trim_start();
        let outside = !code[..position].trim_end().ends_with("::");
        if let Some(after) = rest.strip_prefix("::")
            && outside
        {
            rest = after;
            let mut paths = Vec::new();
            tree(&mut rest, &[], &mut paths);
            found.extend(paths.into_iter().map(|segments| Named { position, segments }));
        }
    }
    found
}

/// Reads one use tree, or an inline path, which is a tree without branches.
fn tree(rest: &mut &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut segments = prefix.to_vec();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('{') {
            *rest = after;
            branches(rest, &segments, found);
            return;
        }
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            segments.push("*".to_owned());
            break;
        }
        let length = rest.bytes().take_while(|&byte| is_word(byte)).count();
        if length == 0 {
            break;
        }
        if &rest[..length] != "self" {
            segments.push(rest[..length].to_owned());
        }
        *rest = rest[length..].trim_start();
        match rest.strip_prefix("::") {
            Some(after) => *rest = after,
            None => break,
        }
    }
    found.push(segments);
}

fn branches(rest: &mut &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    loop {
        *rest = rest.trim_start();
        if rest.is_empty() {
            return;
        }
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return;
        }
        tree(rest, prefix, found);
        // A renamed branch goes on with `as name`; that name is of no interest.
        let next = rest.find([',', '}']).unwrap_or(rest.len());
        *rest = &rest[next..];
        *rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    fn paths(code: &str) -> Vec<String> {
        named(code, "crate").into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_taken_apart() {
        let code = "use crate::{base::{self, Span as S, limits}, raft::*};\nuse crate::state;";
        assert_eq!(paths(code), ["base", "base::Span", "base::limits", "raft::*", "state"]);
        assert_eq!(paths("use crate::{\n    a::B,\n    c::{D, E,},\n};"), ["a::B", "c::D", "c::E"]);
    }

    #[test]
    fn inline_paths_are_found() {
        assert_eq!(paths("let x: crate::a::B<u8> = crate :: c :: d(1);"), ["a::B", "c::d"]);
        assert_eq!(paths("pub(crate) fn f() {} macro: $crate::e::F"), ["e::F"]);
        assert_eq!(paths("let x = mycrate::a::B; other::crate::b"), Vec::<String>::new());
    }
}
