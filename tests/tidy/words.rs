//! Words that break a promise: of purity, of clear errors, of tests that can be trusted, of a
//! repository that stands on its own.

use crate::Violation;
use crate::layers::LAYERS;
use crate::paths::named;
use crate::source::{Source, line_of, word_positions};

/// What a pure folder may not name of the standard library.
const IMPURE_STD: &[&str] = &["env", "fs", "io", "net", "os", "process", "thread", "time"];
/// Crates and types that no pure folder may name.
const IMPURE_WORDS: &[&str] = &["HashMap", "HashSet", "f32", "f64", "rand::", "tokio::"];
/// Crates that serve one folder each; elsewhere they would tie a second one to their types.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("anyhow", &["cli", "daemon", "bin"]),
    ("clap", &["cli", "daemon", "bin"]),
    ("hyper", &["api", "client"]),
    ("prometheus_client", &["telemetry"]),
    ("prost", &["wire"]),
    ("rcgen", &["pki"]),
    ("redb", &["storage"]),
    ("serde_yaml", &["config"]),
    ("tracing_subscriber", &["telemetry"]),
    ("x509_parser", &["pki"]),
];
/// The one file that may hold unsafe code.
const UNSAFE_FILE: &str = "src/host/process.rs";

/// Rules about code.
pub fn check_code(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    let product = [(".unwrap()", "`unwrap`: say with `expect` what proves it, or return an error")];
    find(source, &source.product, &product, &mut violations);
    if source.path != UNSAFE_FILE {
        let text = "`unsafe` outside of src/host/process.rs";
        find(source, &source.product, &[("unsafe", text)], &mut violations);
    }
    let tests = [
        ("#[ignore", "an ignored test proves nothing: fix it or remove it"),
        ("should_panic", "`should_panic` accepts any panic: assert on the error"),
    ];
    find(source, &source.code, &tests, &mut violations);
    violations.extend(check_globs(source));
    violations.extend(check_homes(source));
    let folder = source.folder().filter(|_| source.path.starts_with("src/"));
    if LAYERS.iter().any(|layer| layer.pure && Some(layer.folder) == folder) {
        violations.extend(check_pure(source));
    }
    violations
}

fn find(source: &Source, code: &str, words: &[(&str, &str)], violations: &mut Vec<Violation>) {
    for (word, text) in words {
        for at in word_positions(code, word) {
            violations.push(Violation::new(&source.path, line_of(code, at), *text));
        }
    }
}

/// A glob hides where a name comes from, and lets a dependency add one.
fn check_globs(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for start in word_positions(&source.product, "use") {
        let statement = &source.product[start..];
        let length = statement.find(';').unwrap_or(statement.len());
        if statement[..length].contains("::*") {
            let line = line_of(&source.product, start);
            violations.push(Violation::new(&source.path, line, "a glob import: name the items"));
        }
    }
    violations
}

fn check_homes(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, homes) in CRATE_HOMES {
        if homes.contains(&source.folder().unwrap_or_default()) {
            continue;
        }
        for named in named(&source.product, name) {
            let line = line_of(&source.product, named.position);
            let text = format!("`{name}` is used in {homes:?} only");
            violations.push(Violation::new(&source.path, line, text));
        }
    }
    violations
}

fn check_pure(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for named in named(&source.product, "std") {
        let module = named.segments.first().map_or("", String::as_str);
        // `storage/` opens files for redb, which only their owner may read, and redb's errors carry
        // those of the system.
        let granted = source.folder() == Some("storage") && ["fs", "io", "os"].contains(&module);
        if IMPURE_STD.contains(&module) && !granted {
            let line = line_of(&source.product, named.position);
            let text = format!("`std::{module}` in a pure folder: it is handed what it needs");
            violations.push(Violation::new(&source.path, line, text));
        }
    }
    for word in IMPURE_WORDS {
        for at in word_positions(&source.product, word) {
            let text = format!("`{word}` in a pure folder: one seed must replay a run");
            violations.push(Violation::new(&source.path, line_of(&source.product, at), text));
        }
    }
    violations
}

/// Rules about any text file.
pub fn check_text(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, line) in text.lines().enumerate() {
        // Put together here, so that this file does not break its own rule.
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            for position in word_positions(line, mark) {
                if !names_an_issue(&line[position + mark.len()..]) {
                    let text = format!("`{mark}` without the number of an issue (`{mark} #12`)");
                    violations.push(Violation::new(path, at + 1, text));
                }
            }
        }
        for folder in [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")] {
            if line.contains(folder) {
                let text = format!("`{folder}` is a path of one machine");
                violations.push(Violation::new(path, at + 1, text));
            }
        }
    }
    violations
}

fn names_an_issue(rest: &str) -> bool {
    let rest = rest.trim_start_matches([' ', '(', ':']);
    rest.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::{check_code, check_text};
    use crate::source::Source;

    fn fires(path: &str, text: &str) -> Vec<String> {
        check_code(&Source::new(path, text)).into_iter().map(|violation| violation.text).collect()
    }

    #[track_caller]
    fn assert_fires(path: &str, text: &str, part: &str) {
        let violations = fires(path, text);
        assert!(violations.iter().any(|text| text.contains(part)), "{text}: {violations:?}");
    }

    #[track_caller]
    fn assert_silent(path: &str, text: &str) {
        assert_eq!(fires(path, text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn unwrap_fires_outside_of_tests() {
        assert_fires("src/node/x.rs", "let a = b.unwrap();", "`unwrap`");
        assert_silent("src/node/x.rs", "let a = b.unwrap_or(1); // c.unwrap()");
        assert_silent("src/node/x.rs", "#[cfg(test)]\nmod tests { fn f() { b.unwrap(); } }");
    }

    #[test]
    fn impure_words_fire_in_pure_folders_only() {
        for code in [
            "use std::time::Instant;",
            "use std::{fmt, thread};",
            "let a = std::fs::read(b);",
            "use std::net::TcpStream;",
            "use std::collections::HashMap;",
            "let a: f64 = 1.0;",
            "fn f(x: f32) {}",
            "let a = rand::random();",
        ] {
            assert_fires("src/raft/x.rs", code, "in a pure folder");
            assert_silent("src/node/x.rs", code);
            assert_silent("src/raft/x_test.rs", code);
        }
        assert_silent("src/raft/x.rs", "use std::collections::BTreeMap; let operand: u64 = 1;");
    }

    #[test]
    fn a_crate_outside_of_its_folder_fires() {
        assert_fires("src/storage/x.rs", "use prost::Message;", "`prost` is used in");
        assert_fires("src/lib.rs", "fn f(a: redb::Database) {}", "`redb` is used in");
        assert_silent("src/wire/x.rs", "use prost::Message;");
        assert_silent("src/node/x_test.rs", "use prost::Message;");
    }

    #[test]
    fn unsafe_code_fires_outside_of_its_file() {
        assert_fires("src/node/x.rs", "let a = unsafe { b() };", "`unsafe`");
        assert_silent("src/host/process.rs", "let a = unsafe { b() };");
        assert_silent("src/lib.rs", "#![forbid(unsafe_code)]");
    }

    #[test]
    fn globs_fire() {
        assert_fires("src/node/x.rs", "use crate::raft::*;", "glob");
        assert_fires("src/node/x.rs", "use crate::{\n    raft::{self, log::*},\n};", "glob");
        assert_silent("src/node/x.rs", "use crate::raft::A;\nlet x = a::b() * c;");
    }

    #[test]
    fn tests_that_prove_nothing_fire() {
        assert_fires("tests/x.rs", "#[test]\n#[ignore]\nfn f() {}", "ignored");
        assert_fires("src/raft/x_test.rs", "#[should_panic]\nfn f() {}", "should_panic");
    }

    #[test]
    fn marks_without_an_issue_fire() {
        let mark = concat!("TO", "DO");
        assert_eq!(check_text("a", &format!("// {mark}: later")).len(), 1);
        assert_eq!(check_text("a", &format!("// {mark} #12: later, {mark}(#3)")).len(), 0);
        assert_eq!(check_text("a", "METHODOLOGY").len(), 0);
    }

    #[test]
    fn paths_of_one_machine_fire() {
        assert_eq!(check_text("a.md", concat!("see /wo", "rk/main")).len(), 1);
        assert_eq!(check_text("a.md", "see /var/lib/quorumd and /etc/quorumd").len(), 0);
    }
}
