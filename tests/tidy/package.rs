//! What the package says of itself: lints, dependencies, examples.

use std::collections::BTreeSet;

use crate::Violation;
use crate::layers::LAYERS;

/// Every pure folder is declared under the lint that forbids clocks, files and unordered maps.
pub fn check_lints(lib: &str) -> Vec<Violation> {
    const DENY: &str = "#[deny(clippy::disallowed_types, clippy::disallowed_methods)]";
    let lines: Vec<&str> = lib.lines().map(str::trim).collect();
    let mut violations = Vec::new();
    for layer in LAYERS.iter().filter(|layer| layer.pure) {
        let declaration = format!("pub mod {};", layer.folder);
        let Some(at) = lines.iter().position(|line| *line == declaration) else { continue };
        if at == 0 || lines[at - 1] != DENY {
            let text = format!("`{}` is pure: `{DENY}` must stand above it", layer.folder);
            violations.push(Violation::new("src/lib.rs", at + 1, text));
        }
    }
    for head in ["#![forbid(unsafe_code)]", "#![warn(missing_docs)]"] {
        if !lines.contains(&head) {
            violations.push(Violation::new("src/lib.rs", 1, format!("`{head}` is missing")));
        }
    }
    violations
}

/// Every crate that the package names directly has a line in `docs/dependencies.md`, and every line
/// there is about such a crate.
pub fn check_dependencies(lock: &str, doc: &str) -> Vec<Violation> {
    const DOC: &str = "docs/dependencies.md";
    let direct = direct_dependencies(lock);
    let mut explained = BTreeSet::new();
    let mut violations = Vec::new();
    for (at, line) in doc.lines().enumerate() {
        let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else {
            continue;
        };
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.len() != 4 || cells.iter().any(|cell| cell.is_empty()) {
            let text = format!("`{name}`: the line must say crate, why, licence, what it pulls in");
            violations.push(Violation::new(DOC, at + 1, text));
        }
        if !direct.contains(name) {
            let text = format!("`{name}` is not a direct dependency: remove its line");
            violations.push(Violation::new(DOC, at + 1, text));
        }
        if !explained.insert(name.to_owned()) {
            violations.push(Violation::new(DOC, at + 1, format!("`{name}` has two lines")));
        }
    }
    for name in direct.difference(&explained) {
        let text =
            format!("`{name}` has no line: say why it is needed, its licence, what it pulls in");
        violations.push(Violation::new(DOC, 1, text));
    }
    violations
}

/// The names under `dependencies` of this package in the lock file, dev-dependencies among them.
fn direct_dependencies(lock: &str) -> BTreeSet<String> {
    let package = lock.split("[[package]]").find(|part| part.contains("name = \"quorumd\"\n"));
    let package = package.expect("the lock file lists the package itself");
    let list = package.split_once("dependencies = [").map_or("", |(_, rest)| rest);
    let list = list.split(']').next().unwrap_or(list);
    // A name is followed by its version when the tree has several of it.
    let names =
        list.split(',').filter_map(|entry| entry.trim().trim_matches('"').split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// An example that the README does not name is not found by those it was written for.
pub fn check_examples(examples: &[String], readme: &str) -> Vec<Violation> {
    let missing = examples.iter().filter(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        !readme.contains(name.strip_suffix(".rs").unwrap_or(name))
    });
    missing.map(|path| Violation::new(path, 1, "the README does not name this example")).collect()
}

#[cfg(test)]
mod tests {
    use super::{check_dependencies, check_examples, check_lints};

    const LOCK: &str = r#"
[[package]]
name = "other"
dependencies = [
 "x",
]

[[package]]
name = "quorumd"
version = "0.1.0"
dependencies = [
 "bytes",
 "redb 4.6.0",
]
"#;

    fn texts(violations: Vec<crate::Violation>) -> Vec<String> {
        violations.into_iter().map(|violation| violation.text).collect()
    }

    #[test]
    fn a_pure_folder_without_its_lint_fires() {
        let deny = "#[deny(clippy::disallowed_types, clippy::disallowed_methods)]";
        let head = "#![forbid(unsafe_code)]\n#![warn(missing_docs)]\n";
        assert_eq!(check_lints(&format!("{head}{deny}\npub mod raft;\npub mod api;")), []);
        let found = texts(check_lints(&format!("{head}{deny}\npub mod raft;\npub mod state;")));
        assert!(found.len() == 1 && found[0].contains("`state` is pure"), "{found:?}");
        assert_eq!(check_lints("").len(), 2);
    }

    #[test]
    fn a_dependency_without_a_line_fires() {
        let line = |name: &str| format!("| `{name}` | why | MIT | nothing |\n");
        let doc = line("bytes") + &line("redb");
        assert_eq!(check_dependencies(LOCK, &doc), []);
        let found = texts(check_dependencies(LOCK, &line("bytes")));
        assert!(found.len() == 1 && found[0].contains("`redb` has no line"), "{found:?}");
        let found = texts(check_dependencies(LOCK, &(doc.clone() + &line("x"))));
        assert!(found.len() == 1 && found[0].contains("`x` is not a direct"), "{found:?}");
        let found = texts(check_dependencies(LOCK, &doc.replace("why", "")));
        assert!(found.len() == 2 && found[0].contains("must say"), "{found:?}");
        assert_eq!(check_dependencies(LOCK, &(doc.clone() + &line("redb"))).len(), 1);
    }

    #[test]
    fn an_example_that_is_not_named_fires() {
        let examples = ["examples/lock.rs".to_owned(), "examples/curl.sh".to_owned()];
        assert_eq!(check_examples(&examples, "run `--example lock`, or examples/curl.sh"), []);
        assert_eq!(check_examples(&examples, "see lock").len(), 1);
    }
}
