//! Deliberate errors stand where the rule is kept that they break, and nowhere else: only in pure
//! folders, only as `mutation::active(Mutation::X)`, and each at least once.

use crate::Violation;
use crate::layers::LAYERS;
use crate::source::{Source, line_of, word_positions};

/// Where they are listed.
const LIST: &str = "src/base/mutation.rs";

/// All rules about them.
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let list = sources.iter().find(|source| source.path == LIST);
    let mut unplaced: Vec<&str> = list.map_or(Vec::new(), |list| names(&list.product));
    for source in sources.iter().filter(|source| source.path != LIST) {
        let folder = source.folder().filter(|_| source.path.starts_with("src/"));
        let pure = LAYERS.iter().any(|layer| layer.pure && Some(layer.folder) == folder);
        for at in word_positions(&source.product, "Mutation::") {
            let line = line_of(&source.product, at);
            if !pure {
                let text = "a deliberate error outside of the pure folders";
                violations.push(Violation::new(&source.path, line, text));
            }
            if !source.product[..at].ends_with("mutation::active(") {
                let text = "ask for a deliberate error with `mutation::active(Mutation::..)` only";
                violations.push(Violation::new(&source.path, line, text));
            }
            let name = word_at(&source.product[at + "Mutation::".len()..]);
            unplaced.retain(|unplaced| *unplaced != name);
        }
    }
    for name in unplaced {
        let text = format!("no code asks for `Mutation::{name}`");
        violations.push(Violation::new(LIST, 1, text));
    }
    violations
}

fn names(list: &str) -> Vec<&str> {
    let start = "Mutation::".len();
    word_positions(list, "Mutation::").map(|at| word_at(&list[at + start..])).collect()
}

fn word_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::{LIST, check};
    use crate::source::Source;

    fn fires(path: &str, code: &str) -> Vec<String> {
        let list = Source::new(LIST, "const ALL: &[Mutation] = &[Mutation::Lies];");
        let violations = check(&[list, Source::new(path, code)]);
        violations.into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn a_condition_at_a_rule_is_right() {
        let code = "fn f() { if mutation::active(Mutation::Lies) {} }";
        assert_eq!(fires("src/raft/x.rs", code), Vec::<String>::new());
        assert_eq!(fires("src/node/x.rs", code).len(), 1, "not in a pure folder");
        assert_eq!(fires("src/raft/x.rs", "fn f() { Mutation::Lies.with(|| ()) }").len(), 1);
    }

    #[test]
    fn one_without_a_place_fires() {
        assert_eq!(fires("src/raft/x.rs", ""), vec!["no code asks for `Mutation::Lies`"]);
    }
}
