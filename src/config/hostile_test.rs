//! Configuration files that are almost right, and files that are made to take much: each is read or
//! refused with its mistakes, in bounded time and memory.

use std::io::Write as _;
use std::path::Path;

use crate::base::mutants_test::{hammer, mutate};

use super::{Config, ConfigError, Finding, load, parse};

const SAMPLE: &str = include_str!("../../examples/quorumd.yaml");

fn read(bytes: &[u8]) -> Result<(Config, Vec<Finding>), ConfigError> {
    parse(bytes, Path::new("f"), Path::new("/etc/quorumd"))
}

/// What is said of a file that is refused.
fn refusal(text: &str) -> String {
    let Err(error) = read(text.as_bytes()) else { panic!("taken: {} bytes", text.len()) };
    let said = error.to_string();
    assert!(said.len() < 1 << 20, "{} bytes are said", said.len());
    said
}

/// The sample with every setting in force.
fn whole_sample() -> String {
    let setting = |line: &str| {
        let bare = line.trim_start_matches(['#', ' ']);
        bare.split_once(':')
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if setting(line) => rest.strip_prefix(' ').unwrap_or(rest).to_owned(),
        _ => line.to_owned(),
    };
    SAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_file_that_is_almost_right_is_read_or_refused() {
    let (plain, whole) = (SAMPLE.to_owned(), whole_sample());
    let (mut good, mut bad) = (0, 0);
    hammer("config", 300, |rng| {
        let (text, other) = if rng.chance(1, 2) { (&plain, &whole) } else { (&whole, &plain) };
        let mut bytes = text.as_bytes().to_vec();
        mutate(rng, &mut bytes, other.as_bytes());
        match read(&bytes) {
            Ok(_) => good += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty(), "refused without a word");
                bad += 1;
            }
        }
    });
    eprintln!("config: {good} mutants read, {bad} refused");
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        for depth in [100, 900, 200_000] {
            refusal(&format!("a: {}{}", open.repeat(depth), close.repeat(depth)));
            refusal(&format!("{}{}", open.repeat(depth), close.repeat(depth)));
        }
    }
}

/// An alias costs four bytes and stands for whatever it names: lists of lists of lists, or one long
/// text many times.
#[test]
fn aliases_that_stand_for_much_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    refusal(&bomb);
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(600_000), "*a,".repeat(90_000));
    let said = refusal(&long);
    assert!(said.contains("text"), "{said}");
    let keys = format!("? &a {}\n: 1\nb: [{}]\n", "x".repeat(600_000), "{*a : 1},".repeat(30_000));
    refusal(&keys);
}

#[test]
fn many_mistakes_are_cut_short() {
    let unknown: String = (0..60_000).map(|key| format!("k{key}: 1\n")).collect();
    let said = refusal(&unknown);
    assert!(said.lines().count() <= 100, "{} lines", said.lines().count());
    let members: String = (0..45_000).map(|key| format!(" m{key}: \"a:1\"\n")).collect();
    let said = refusal(&format!("members:\n{members}"));
    assert!(said.contains("at most"), "{said}");
}

/// A file that never ends is read up to the limit and no further.
#[test]
fn a_file_without_end_is_refused() {
    let error = load(Path::new("/dev/zero")).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![b' '; 2 << 20]).unwrap();
    let error = load(file.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
