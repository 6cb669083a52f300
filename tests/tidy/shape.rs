//! What a file looks like: its first line, its length, that of its functions and lines.

use crate::Violation;
use crate::source::{Source, line_of, word_positions};

/// Most code lines of a file, tests and comments not counted.
const FILE_LINES_MAX: usize = 600;
/// The same for a file that consists of tests.
const TEST_FILE_LINES_MAX: usize = 1_000;
/// Most code lines of a function.
const FUNCTION_LINES_MAX: usize = 70;
/// Most characters of a line.
const COLUMNS_MAX: usize = 100;

/// All rules about the shape of a file.
pub fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !source.text.starts_with("//!") {
        let text = "the first line must be `//!` and say what this file decides";
        violations.push(Violation::new(&source.path, 1, text));
    }
    violations.extend(check_length(source));
    violations.extend(check_columns(source));
    violations.extend(check_functions(source));
    violations.extend(check_face(source));
    violations
}

fn code_lines(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

fn check_length(source: &Source) -> Option<Violation> {
    let (lines, most) = match source.is_test {
        true => (code_lines(&source.code), TEST_FILE_LINES_MAX),
        false => (code_lines(&source.product), FILE_LINES_MAX),
    };
    let text = format!("{lines} code lines, at most {most}: two concerns, two files");
    (lines > most).then(|| Violation::new(&source.path, 1, text))
}

fn check_columns(source: &Source) -> Vec<Violation> {
    let long = |(_, line): &(usize, &str)| line.chars().count() > COLUMNS_MAX;
    let text = format!("more than {COLUMNS_MAX} columns");
    let place = |(at, _)| Violation::new(&source.path, at + 1, text.clone());
    source.text.lines().enumerate().filter(long).map(place).collect()
}

fn check_functions(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for start in word_positions(&source.product, "fn") {
        let Some(body) = body(&source.product[start..]) else { continue };
        let lines = code_lines(body);
        if lines > FUNCTION_LINES_MAX {
            let name = body[2..].trim_start().split(['(', '<']).next().unwrap_or_default();
            let text = format!("`{name}` has {lines} code lines, at most {FUNCTION_LINES_MAX}");
            let line = line_of(&source.product, start);
            violations.push(Violation::new(&source.path, line, text));
        }
    }
    violations
}

/// From `fn` to its closing brace; nothing for a pointer type or a function without a body.
fn body(code: &str) -> Option<&str> {
    let name = code[2..].trim_start();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let (mut parens, mut braces) = (0, 0);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => parens += 1,
            b')' | b']' => parens -= 1,
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(&code[..=at]),
            b'}' => braces -= 1,
            b';' if parens == 0 && braces == 0 => return None,
            _ => {}
        }
    }
    None
}

/// A `mod.rs` is prose and face: what decides stands in a file whose name says so.
fn check_face(source: &Source) -> Vec<Violation> {
    if !(source.path.starts_with("src/") && source.path.ends_with("/mod.rs")) {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for word in ["fn", "impl", "struct", "enum", "trait", "macro_rules"] {
        for at in word_positions(&source.product, word) {
            let text = format!("`{word}` in a mod.rs: prose and `pub use` only");
            violations.push(Violation::new(&source.path, line_of(&source.product, at), text));
        }
    }
    for at in word_positions(&source.product, "pub mod") {
        let name = source.product[at + "pub mod".len()..].trim_start();
        let open = ["limits;", "mutation;", "types;"];
        if !open.iter().any(|open| name.starts_with(open)) {
            let text = "a public submodule: say `mod` and re-export its items";
            violations.push(Violation::new(&source.path, line_of(&source.product, at), text));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::source::Source;

    fn fires(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|violation| violation.text).collect()
    }

    #[track_caller]
    fn assert_fires(path: &str, text: &str, part: &str) {
        let violations = fires(path, text);
        assert!(violations.iter().any(|text| text.contains(part)), "{violations:?}");
    }

    #[track_caller]
    fn assert_silent(path: &str, text: &str) {
        assert_eq!(fires(path, text), Vec::<String>::new());
    }

    #[test]
    fn a_file_without_a_head_fires() {
        assert_fires("src/raft/x.rs", "use std::fmt;\n", "first line");
        assert_silent("src/raft/x.rs", "//! Decides.\n");
    }

    #[test]
    fn a_long_file_fires_and_its_tests_do_not_count() {
        let lines = "const A: u8 = 0;\n".repeat(601);
        assert_fires("src/raft/x.rs", &format!("//! Head.\n{lines}"), "601 code lines");
        let tests = format!("//! Head.\n#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        assert_silent("src/raft/x.rs", &tests);
        let comments = format!("//! Head.\n{}", "// Why.\n\n".repeat(700));
        assert_silent("src/raft/x.rs", &comments);
        assert_silent("src/raft/x_test.rs", &format!("//! Head.\n{lines}"));
        let tests = "const A: u8 = 0;\n".repeat(1_001);
        assert_fires("src/raft/x_test.rs", &format!("//! Head.\n{tests}"), "1001 code lines");
    }

    #[test]
    fn a_long_function_fires() {
        let body = "    a();\n".repeat(69);
        let long = format!("//! Head.\nfn long<T>(x: [u8; 4]) -> [u8; 4] {{\n{body}}}\n");
        assert_fires("src/raft/x.rs", &long, "`long` has 71 code lines");
        let body = "    // Why.\n    a();\n".repeat(68);
        assert_silent("src/raft/x.rs", &format!("//! Head.\nfn short() {{\n{body}}}\n"));
        assert_silent("src/raft/x.rs", "//! Head.\ntrait T { fn a(); }\ntype F = fn(u8) -> u8;\n");
    }

    #[test]
    fn a_long_line_fires() {
        assert_fires("src/raft/x.rs", &format!("//! {}\n", "é".repeat(97)), "100 columns");
        assert_silent("src/raft/x.rs", &format!("//! {}\n", "é".repeat(96)));
    }

    #[test]
    fn logic_in_a_mod_file_fires() {
        assert_fires("src/raft/mod.rs", "//! Head.\npub fn f() {}\n", "`fn` in a mod.rs");
        assert_fires("src/raft/mod.rs", "//! Head.\npub mod log;\n", "public submodule");
        assert_silent("src/base/mod.rs", "//! A fn.\nmod a;\npub mod limits;\npub use a::B;\n");
    }
}
