//! Holds the code to its own rules: who may import whom, what files look like, what is named where.
//!
//! A rule that a person would have to remember is a test here. All violations of all files are
//! reported at once, each with file, line and what to do. `cargo test --test tidy` takes well under
//! a second. The table of layers is in `tidy/layers.rs`; each rule is shown to fire on bad code by
//! the unit tests below its definition.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/mutations.rs"]
mod mutations;
#[path = "tidy/package.rs"]
mod package;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use std::path::{Path, PathBuf};

use source::Source;

/// What is wrong, and where; printed as `path:line: text`, which editors turn into links.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    text: String,
}

impl Violation {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test says where it runs"))
}

/// All files below `folder` whose name ends with one of these, as paths relative to the root.
fn files(root: &Path, folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return found };
    for entry in entries {
        let entry = entry.expect("a directory of the repository can be listed");
        let name = entry.file_name().into_string().expect("file names are UTF-8");
        let path = format!("{folder}/{name}");
        if entry.file_type().expect("a listed file has a type").is_dir() {
            found.extend(files(root, &path, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust_sources(root: &Path, folders: &[&str]) -> Vec<Source> {
    let paths = folders.iter().flat_map(|folder| files(root, folder, &[".rs"]));
    let sources: Vec<Source> = paths.map(|path| Source::new(&path, &read(root, &path))).collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    let known = |source: Source| match tests.contains(&source.path) {
        true => source.into_test(),
        false => source,
    };
    sources.into_iter().map(known).collect()
}

#[track_caller]
fn report(mut violations: Vec<Violation>) {
    violations.sort();
    violations.dedup();
    let lines: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}:{}: {}", violation.path, violation.line, violation.text))
        .collect();
    assert!(lines.is_empty(), "{} violations:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn folders_import_only_what_stands_below_them() {
    let root = root();
    let sources = rust_sources(&root, &["src", "examples"]);
    report(layers::check(&sources));
}

#[test]
fn files_and_functions_have_the_agreed_shape() {
    let root = root();
    let sources = rust_sources(&root, &["src", "tests", "examples", "benches"]);
    report(sources.iter().flat_map(shape::check).collect());
}

#[test]
fn words_that_break_a_promise_are_absent() {
    let root = root();
    let sources = rust_sources(&root, &["src", "tests", "examples", "benches"]);
    let mut violations: Vec<Violation> = sources.iter().flat_map(words::check_code).collect();
    let endings = ["", ".md", ".rs", ".yaml", ".service", ".socket", ".toml", ".sh"];
    for folder in ["src", "tests", "examples", "benches", "docs", "systemd", ".ci"] {
        for path in files(&root, folder, &endings) {
            if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
                violations.extend(words::check_text(&path, &text));
            }
        }
    }
    for path in ["README.md", "CHANGELOG.md", "Cargo.toml"] {
        if root.join(path).exists() {
            violations.extend(words::check_text(path, &read(&root, path)));
        }
    }
    report(violations);
}

#[test]
fn deliberate_errors_stand_where_they_belong() {
    let root = root();
    report(mutations::check(&rust_sources(&root, &["src"])));
}

#[test]
fn pure_folders_are_under_the_lint_that_keeps_them_pure() {
    report(package::check_lints(&read(&root(), "src/lib.rs")));
}

#[test]
fn every_direct_dependency_is_explained() {
    let root = root();
    let lock = read(&root, "Cargo.lock");
    report(package::check_dependencies(&lock, &read(&root, "docs/dependencies.md")));
}

#[test]
fn every_example_is_named_in_the_readme() {
    let root = root();
    if root.join("README.md").exists() {
        let examples = files(&root, "examples", &[".rs", ".sh", ".yaml"]);
        report(package::check_examples(&examples, &read(&root, "README.md")));
    }
}
