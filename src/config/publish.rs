//! The section `publish`: which keys follow which directories.
//!
//! What is done about conflicts is decided in `host/`; here every mistake gets its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::limits;
use crate::host::{OnConflictOptions, OnVanishOptions, PublishOptions, PublishedOptions};

use super::file::{Report, Section, Setting, path};
use super::files::{key, read_entries};
use super::source::{Node, Place};

/// What stands for the name of this node in a prefix.
const NODE: &str = "{node}";

/// Reads the section. Relative paths are taken from `directory`.
pub(super) fn read(node: Option<&Node>, directory: &Path, report: &mut Report) -> PublishOptions {
    let mut entries: BTreeMap<String, PublishedOptions> = BTreeMap::new();
    for (name, at, node) in read_entries("publish", node, limits::PUBLISHED_MAX, report) {
        let place = format!("publish.{name}");
        let Some(entry) = read_entry(&place, node, directory, report) else { continue };
        check_apart(&place, at, &entry, &entries, report);
        entries.insert(name, entry);
    }
    PublishOptions { state_dir: PathBuf::new(), entries }
}

/// Puts in what only the whole configuration knows.
pub(super) fn complete(
    options: PublishOptions,
    state_dir: PathBuf,
    node: &str,
    file_bytes_max: usize,
) -> PublishOptions {
    let complete = |entry: PublishedOptions| PublishedOptions {
        prefix: entry.prefix.replace(NODE, node),
        file_bytes_max,
        ..entry
    };
    let entries = options.entries.into_iter().map(|(name, entry)| (name, complete(entry)));
    PublishOptions { state_dir, entries: entries.collect() }
}

fn read_entry(
    place: &str,
    node: &Node,
    config_directory: &Path,
    report: &mut Report,
) -> Option<PublishedOptions> {
    let mut section = Section::open(place, Some(node), report);
    let directory = section.text("directory", report, path);
    let prefix = section.text("prefix", report, prefix);
    let on_conflict = section.text("on_conflict", report, |text| match text {
        "file_wins" => Ok(OnConflictOptions::FileWins),
        "key_wins" => Ok(OnConflictOptions::KeyWins),
        _ => Err("one of file_wins, key_wins".to_owned()),
    });
    let on_vanish = section.text("on_vanish", report, |text| match text {
        "delete" => Ok(OnVanishOptions::Delete),
        "keep" => Ok(OnVanishOptions::Keep),
        _ => Err("one of delete, keep".to_owned()),
    });
    section.close(report);
    for (setting, what) in [(&directory, "directory"), (&prefix, "prefix")] {
        if *setting == Setting::Absent {
            report.mistakes.push((node.at, format!("`{place}.{what}` is missing")));
        }
    }
    Some(PublishedOptions {
        directory: config_directory.join(directory.given()?.1),
        prefix: prefix.given()?.1.clone(),
        on_conflict: on_conflict.or(OnConflictOptions::default()),
        on_vanish: on_vanish.or(OnVanishOptions::default()),
        file_bytes_max: limits::VALUE_BYTES_MAX,
    })
}

/// A key belongs to one directory.
fn check_apart(
    place: &str,
    at: Place,
    entry: &PublishedOptions,
    others: &BTreeMap<String, PublishedOptions>,
    report: &mut Report,
) {
    let prefix = &entry.prefix;
    let twin = others.iter().find(|(_, other)| {
        other.prefix.starts_with(prefix.as_str()) || prefix.starts_with(other.prefix.as_str())
    });
    if let Some((name, _)) = twin {
        let text = format!("`{place}.prefix` and `publish.{name}.prefix` begin the same keys");
        report.mistakes.push((at, text));
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let longest = text.len() + limits::PUBLISHED_NAME_BYTES_MAX + limits::NODE_NAME_BYTES_MAX;
    match key(text) {
        Ok(text) if longest <= limits::KEY_BYTES_MAX => Ok(text),
        _ => Err("the beginning of keys outside of the namespace \"_\"".to_owned()),
    }
}
