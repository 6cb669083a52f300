//! The sections `files` and `files_directories`: which files follow which keys.
//!
//! What a path, a template or a command may be is decided by the options of `host/`; here every
//! mistake gets its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::{Span, limits};
use crate::host::{
    CommandOptions, ContentOptions, FileOptions, FilesOptions, FormatOptions, OnMissingOptions,
    TemplateOptions,
};

use super::file::{Report, Section, Setting, found, mistake, path, read_text};
use super::source::{Node, Place, Value};
use super::values;

/// Longest name of an entry: it becomes part of a file's name.
const ENTRY_NAME_BYTES_MAX: usize = 64;
/// How long a check or reload may take unless the file says otherwise.
const COMMAND_TIMEOUT: Span = Span::from_secs(30);
/// Shortest and longest time limit of a command, in milliseconds.
const TIMEOUTS: (u64, u64) = (100, 3_600_000);
/// Least time between two renderings unless the file says otherwise.
const MIN_INTERVAL: Span = Span::from_millis(250);
/// The mode of a file unless the file says otherwise: values may be secrets.
const MODE: u32 = 0o640;

/// Reads both sections. Relative paths of templates are taken from `directory`.
pub(super) fn read(
    named: Option<&Node>,
    files: Option<&Node>,
    directory: &Path,
    report: &mut Report,
) -> FilesOptions {
    let before = report.mistakes.len();
    let directories = read_directories(named, report);
    // A directory that is wrong is reported once, not again by each file in it.
    let directories = (report.mistakes.len() == before).then_some(directories);
    let mut entries = BTreeMap::new();
    for (name, at, node) in read_entries("files", files, limits::FILES_MAX, report) {
        let place = format!("files.{name}");
        if let Some(entry) = read_entry(&place, node, directories.as_deref(), directory, report) {
            let twin = entries.iter().find(|(_, it): &(_, &FileOptions)| it.path() == entry.path());
            if let Some((twin, _)) = twin {
                let text = format!("`{place}.path` is also the path of `files.{twin}`");
                report.mistakes.push((at, text));
            }
            entries.insert(name, entry);
        }
    }
    FilesOptions { state_dir: PathBuf::new(), entries }
}

/// The entries of a section by name, each once.
pub(super) fn read_entries<'a>(
    section: &str,
    node: Option<&'a Node>,
    most: usize,
    report: &mut Report,
) -> Vec<(String, Place, &'a Node)> {
    let Some(node) = node else { return Vec::new() };
    let pairs = match &node.value {
        Value::Null => return Vec::new(),
        Value::Map(pairs) if pairs.len() <= most => pairs,
        Value::Map(_) => {
            let text = format!("`{section}` has at most {most} entries");
            report.mistakes.push((node.at, text));
            return Vec::new();
        }
        other => {
            let text =
                format!("`{section}` must be a section with named entries; found {}", found(other));
            report.mistakes.push((node.at, text));
            return Vec::new();
        }
    };
    let mut entries: Vec<(String, Place, &Node)> = Vec::new();
    for (key, value) in pairs {
        let what = format!("a name in {section}");
        let Setting::Given(at, name) = read_text(&what, key, report, entry_name) else { continue };
        if entries.iter().any(|(other, ..)| *other == name) {
            report.mistakes.push((at, format!("`{section}.{name}` is there twice")));
        } else {
            entries.push((name, at, value));
        }
    }
    entries
}

fn read_directories(node: Option<&Node>, report: &mut Report) -> Vec<PathBuf> {
    let list = texts("files_directories", node, report, (1, 64), |text| {
        let plain = FilesOptions::locate(Path::new(text), &[PathBuf::from("/")]);
        plain.map(|_| PathBuf::from(text)).map_err(|_| {
            "an absolute path of a directory other than \"/\", without \".\" and \"..\"".to_owned()
        })
    });
    list.unwrap_or_default()
}

fn read_entry(
    place: &str,
    node: &Node,
    directories: Option<&[PathBuf]>,
    config_directory: &Path,
    report: &mut Report,
) -> Option<FileOptions> {
    let before = report.mistakes.len();
    let mut section = Section::open(place, Some(node), report);
    let located = section.text("path", report, |text| match directories {
        Some(directories) => FilesOptions::locate(Path::new(text), directories),
        None => path(text).map(|text| (PathBuf::new(), PathBuf::from(text))),
    });
    if located == Setting::Absent {
        report.mistakes.push((node.at, format!("`{place}.path` is missing: an absolute path")));
    }
    let content = read_content(place, node, &mut section, config_directory, report);
    let required = section.take("required");
    let required = texts(&format!("{place}.required"), required, report, (1, MANY), key);
    let on_missing = section.text("on_missing", report, on_missing);
    if let (Some((at, _)), Some(ContentOptions::Template { .. })) = (on_missing.given(), &content) {
        let text = "is for `key` and `prefix`: a template says itself what it makes of no keys";
        report.mistakes.push((at, format!("`{place}.on_missing` {text}")));
    }
    let (check, timeout) = read_argv("check", "check_timeout", place, &mut section, report);
    let check = check.map(|argv| CommandOptions { argv, timeout });
    let entry = FileOptions {
        directory: PathBuf::new(),
        beneath: PathBuf::new(),
        content: content.unwrap_or(ContentOptions::Key(String::new())),
        required: required.unwrap_or_default(),
        on_missing: on_missing.or(OnMissingOptions::default()),
        owner: section.text("owner", report, account).given().map(|(_, it)| it.clone()),
        group: section.text("group", report, account).given().map(|(_, it)| it.clone()),
        mode: section.text("mode", report, values::mode).or(MODE),
        check,
        reload: read_reload(place, &mut section, report),
        min_interval: section.duration("min_interval", report, (0, 3_600_000)).or(MIN_INTERVAL),
    };
    section.close(report);
    let (_, (directory, beneath)) = located.given()?;
    let whole = report.mistakes.len() == before;
    whole.then(|| FileOptions { directory: directory.clone(), beneath: beneath.clone(), ..entry })
}

/// Most keys or prefixes in one list.
const MANY: usize = limits::FILE_KEYS_MAX;

fn read_content(
    place: &str,
    node: &Node,
    section: &mut Section<'_>,
    config_directory: &Path,
    report: &mut Report,
) -> Option<ContentOptions> {
    let single = section.text("key", report, key);
    let prefix = section.text("prefix", report, key);
    let file = section.text("template", report, path);
    let text = section.text("template_text", report, template);
    let format = section.text("format", report, format);
    let keys = section.take("keys");
    let keys = texts(&format!("{place}.keys"), keys, report, (1, MANY), key);
    let prefixes = section.take("prefixes");
    let prefixes = texts(&format!("{place}.prefixes"), prefixes, report, (1, MANY), key);
    let named = [&single, &prefix, &file, &text];
    let named = named.iter().filter(|setting| ***setting != Setting::Absent).count();
    if named != 1 {
        let text = "needs exactly one of `key`, `prefix`, `template` and `template_text`";
        report.mistakes.push((node.at, format!("`{place}` {text}")));
        return None;
    }
    let is_template = file != Setting::Absent || text != Setting::Absent;
    if !is_template && (keys.is_some() || prefixes.is_some()) {
        let text = "has `keys` or `prefixes`, which are for templates";
        report.mistakes.push((node.at, format!("`{place}` {text}")));
    }
    if is_template && keys.is_none() && prefixes.is_none() {
        let text = "needs `keys` or `prefixes`: what the template may read";
        report.mistakes.push((node.at, format!("`{place}` {text}")));
    }
    if let (Some((at, _)), Setting::Absent) = (format.given(), &prefix) {
        report.mistakes.push((at, format!("`{place}.format` is for `prefix`")));
    }
    let source = match (file.given(), text.given()) {
        (Some((_, file)), _) => Some(TemplateOptions::File(config_directory.join(file))),
        (_, Some((_, text))) => Some(TemplateOptions::Text(text.clone())),
        (None, None) => None,
    };
    let (keys, prefixes) = (keys.unwrap_or_default(), prefixes.unwrap_or_default());
    match (single.given(), prefix.given(), source) {
        (Some((_, key)), ..) => Some(ContentOptions::Key(key.clone())),
        (_, Some((_, prefix)), _) => Some(ContentOptions::Prefix {
            prefix: prefix.clone(),
            format: format.or(FormatOptions::Json),
        }),
        (_, _, Some(source)) => Some(ContentOptions::Template { source, keys, prefixes }),
        // What is there is bad, and was reported.
        (None, None, None) => None,
    }
}

fn read_reload(
    place: &str,
    section: &mut Section<'_>,
    report: &mut Report,
) -> Option<CommandOptions> {
    let unit = section.text("reload_unit", report, unit);
    let (command, timeout) = read_argv("reload", "reload_timeout", place, section, report);
    if let (Some((at, _)), Some(_)) = (unit.given(), &command) {
        let text = format!("`{place}` has both `reload` and `reload_unit`: one is run");
        report.mistakes.push((at, text));
    }
    let of_unit = unit.given().map(|(_, unit)| CommandOptions::reload_unit(unit, timeout));
    command.map(|argv| CommandOptions { argv, timeout }).or(of_unit)
}

/// The arguments of a command, if it is there, and its time limit.
fn read_argv(
    which: &'static str,
    timeout: &'static str,
    place: &str,
    section: &mut Section<'_>,
    report: &mut Report,
) -> (Option<Vec<String>>, Span) {
    let (node, timeout) = (section.take(which), section.duration(timeout, report, TIMEOUTS));
    let name = format!("{place}.{which}");
    let most = limits::COMMAND_ARGUMENTS_MAX;
    let argv = texts(&name, node, report, (1, most), |text| match text.contains('\0') {
        true => Err("an argument without NUL".to_owned()),
        false => Ok(text.to_owned()),
    });
    let relative = |argv: &Vec<String>| !argv[0].starts_with('/');
    if let Some(node) = node.filter(|_| argv.as_ref().is_some_and(relative)) {
        let text = format!("`{name}` must begin with the absolute path of a program");
        report.mistakes.push((node.at, text));
    }
    (argv, timeout.or(COMMAND_TIMEOUT))
}

/// A list of between `least` and `most` texts; nothing when it is absent or not all good.
pub(super) fn texts<T>(
    name: &str,
    node: Option<&Node>,
    report: &mut Report,
    (least, most): (usize, usize),
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let node = node?;
    let Value::List(items) = &node.value else {
        mistake::<()>(name, node, "a list of texts", report);
        return None;
    };
    if !(least..=most).contains(&items.len()) {
        let text = format!("`{name}` has {} texts; it may have {least} to {most}", items.len());
        report.mistakes.push((node.at, text));
        return None;
    }
    let parsed = items.iter().map(|item| {
        let setting = read_text(&format!("each of {name}"), item, report, &parse);
        match setting {
            Setting::Given(_, value) => Some(value),
            Setting::Absent | Setting::Bad => None,
        }
    });
    parsed.collect::<Vec<_>>().into_iter().collect()
}

fn entry_name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && text.len() <= ENTRY_NAME_BYTES_MAX && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "1 to {ENTRY_NAME_BYTES_MAX} letters, digits, \"-\", \"_\" or \".\", the first a letter or \
         digit"
    ))
}

/// A key or a prefix of keys.
pub(super) fn key(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.len() <= limits::KEY_BYTES_MAX && !text.starts_with('_');
    if good { Ok(text.to_owned()) } else { Err("a key outside of the namespace \"_\"".to_owned()) }
}

fn template(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > limits::TEMPLATE_BYTES_MAX {
        return Err(format!("a template of at most {} bytes", limits::TEMPLATE_BYTES_MAX));
    }
    FilesOptions::check_template(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("a template without mistakes ({error})"))
}

fn on_missing(text: &str) -> Result<OnMissingOptions, String> {
    match text {
        "empty" => Ok(OnMissingOptions::Empty),
        "keep" => Ok(OnMissingOptions::Keep),
        "remove" => Ok(OnMissingOptions::Remove),
        _ => Err("one of keep, remove, empty".to_owned()),
    }
}

fn format(text: &str) -> Result<FormatOptions, String> {
    match text {
        "env" => Ok(FormatOptions::Env),
        "json" => Ok(FormatOptions::Json),
        "lines" => Ok(FormatOptions::Lines),
        _ => Err("one of json, env, lines".to_owned()),
    }
}

fn account(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    let sound = !text.is_empty() && text.len() <= 64 && text.bytes().all(good);
    if sound { Ok(text.to_owned()) } else { Err("a name or a number, in quotes".to_owned()) }
}

fn unit(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@-".contains(&byte);
    let sound = text.len() <= 255 && text.bytes().all(good) && !text.starts_with(['-', '.']);
    if sound && text.split_once('.').is_some_and(|(_, kind)| !kind.is_empty()) {
        return Ok(text.to_owned());
    }
    Err("the name of a systemd unit, such as \"nginx.service\"".to_owned())
}
