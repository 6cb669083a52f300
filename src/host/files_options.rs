//! What an operator says about files that follow keys, and about directories that keys follow.
//!
//! How it is written in a file is decided in `config/`; what is done about it, in `file_task.rs`
//! and `publisher.rs`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::base::{Span, limits};

use super::template;

/// All files that follow keys on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesOptions {
    /// Where it is kept what was written and which reloads are due: a directory of the daemon's
    /// own.
    pub state_dir: PathBuf,
    /// Each file, by a name of 1 to 64 letters, digits, `.`, `_` and `-`.
    pub entries: BTreeMap<String, FileOptions>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The named directory; nothing is written outside of it.
    pub directory: PathBuf,
    /// The file, from that directory on: plain names only, see [`FilesOptions::locate`].
    pub beneath: PathBuf,
    /// What it holds.
    pub content: ContentOptions,
    /// Keys without which nothing is rendered.
    pub required: Vec<String>,
    /// What becomes of the file when its key, or every key of its prefix, is gone.
    pub on_missing: OnMissingOptions,
    /// Its user, by name or number; the daemon's own unless named.
    pub owner: Option<String>,
    /// Its group, by name or number; the daemon's own unless named.
    pub group: Option<String>,
    /// Its file mode, at most `0o777`.
    pub mode: u32,
    /// What must succeed before new content takes the place of the old. `{}` in an argument is the
    /// path of the new content.
    pub check: Option<CommandOptions>,
    /// What is run once the file has changed.
    pub reload: Option<CommandOptions>,
    /// Least time between two renderings.
    pub min_interval: Span,
}

impl FileOptions {
    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.beneath)
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentOptions {
    /// The value of one key, byte for byte.
    Key(String),
    /// All keys with a prefix, as one document.
    Prefix {
        /// What the keys begin with.
        prefix: String,
        /// How they are written.
        format: FormatOptions,
    },
    /// What a template makes of keys.
    Template {
        /// The template.
        source: TemplateOptions,
        /// Keys that it may read.
        keys: Vec<String>,
        /// Prefixes of keys that it may read.
        prefixes: Vec<String>,
    },
}

/// Where a template is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateOptions {
    /// In a file, which is read again whenever it changes.
    File(PathBuf),
    /// In the configuration.
    Text(String),
}

/// How the keys of a prefix are written as one document; each is named by what follows the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatOptions {
    /// `NAME="value"` lines, for shells and for `EnvironmentFile=` of systemd.
    Env,
    /// One object of texts.
    Json,
    /// The values alone, a line each.
    Lines,
}

/// What becomes of a file when its keys are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissingOptions {
    /// It stays, without content.
    Empty,
    /// It stays as it was.
    #[default]
    Keep,
    /// It is removed.
    Remove,
}

/// A program with its arguments; never a line for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOptions {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// How long it may take before it is killed, with all processes of its group.
    pub timeout: Span,
}

impl CommandOptions {
    /// Has systemd reload a unit, or restart it when it cannot.
    pub fn reload_unit(unit: &str, timeout: Span) -> Self {
        let argv = ["systemctl", "reload-or-restart", "--", unit];
        Self { argv: argv.map(str::to_owned).to_vec(), timeout }
    }
}

/// All directories that keys follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Where it is kept which keys were written for which files.
    pub state_dir: PathBuf,
    /// Each directory, by a name of 1 to 64 letters, digits, `.`, `_` and `-`.
    pub entries: BTreeMap<String, PublishedOptions>,
}

/// One directory that keys follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedOptions {
    /// The directory. It may be a symbolic link; what is in it may not.
    pub directory: PathBuf,
    /// What its keys begin with; the name of the file follows.
    pub prefix: String,
    /// What happens to a key that somebody else has changed.
    pub on_conflict: OnConflictOptions,
    /// What happens to the key of a file that is gone.
    pub on_vanish: OnVanishOptions,
    /// Longest file in bytes.
    pub file_bytes_max: usize,
}

/// Who is right when somebody else changes a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflictOptions {
    /// The file: the key is set back.
    #[default]
    FileWins,
    /// Whoever changed the key: it is left alone.
    KeyWins,
}

/// What becomes of the key of a file that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnVanishOptions {
    /// It is deleted, if it was written for that file.
    #[default]
    Delete,
    /// It stays.
    Keep,
}

impl FilesOptions {
    /// Which of the named directories `path` lies under, and the way from there: plain names, one
    /// after the other. The deepest directory counts.
    pub fn locate(path: &Path, directories: &[PathBuf]) -> Result<(PathBuf, PathBuf), String> {
        let plain = |part: Component| matches!(part, Component::Normal(_) | Component::RootDir);
        let text = path.as_os_str().as_encoded_bytes();
        // `components` leaves out a `.` in the middle and a `/` at the end.
        let hidden = text.ends_with(b"/") || text.windows(3).any(|part| part == b"/./");
        if !path.is_absolute() || hidden || text.ends_with(b"/.") || !path.components().all(plain) {
            return Err("an absolute path without \".\" and \"..\"".to_owned());
        }
        let name = path.file_name().map_or(0, |name| name.len());
        if name > limits::RENDERED_NAME_BYTES_MAX {
            let most = limits::RENDERED_NAME_BYTES_MAX;
            return Err(format!("a path whose last name has at most {most} bytes"));
        }
        let under = directories.iter().filter(|directory| {
            path.strip_prefix(directory).is_ok_and(|rest| !rest.as_os_str().is_empty())
        });
        let deepest = under.max_by_key(|directory| directory.components().count());
        let Some(directory) = deepest else {
            return Err("a path under one of `files_directories`".to_owned());
        };
        let rest = path.strip_prefix(directory).map_err(|error| error.to_string())?;
        Ok((directory.clone(), rest.components().collect()))
    }

    /// What is wrong with a template's text: `line 3: ...`.
    pub fn check_template(text: &str) -> Result<(), String> {
        template::check(text)
    }

    /// What an entry names that is not there, or cannot be used: users, groups, template files.
    /// Reads files, and the system's users.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, entry) in &self.entries {
            let mut problem = |text: String| problems.push(format!("files.{name}: {text}"));
            if let Err(error) = super::ownership::Ownership::find(entry) {
                problem(error.to_string());
            }
            let ContentOptions::Template { source, .. } = &entry.content else { continue };
            match template::read(source) {
                Ok(text) => {
                    let checked = template::check(&text);
                    checked
                        .err()
                        .into_iter()
                        .for_each(|error| problem(format!("template: {error}")));
                }
                Err(error) => problem(error),
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::FilesOptions;

    #[test]
    fn a_path_lies_under_the_deepest_named_directory_or_is_refused() {
        let directories = ["/etc/app", "/etc/app/conf.d", "/srv"].map(PathBuf::from);
        let locate = |path: &str| FilesOptions::locate(Path::new(path), &directories);
        for (path, directory, rest) in [
            ("/etc/app/a", "/etc/app", "a"),
            ("/etc/app/b/a", "/etc/app", "b/a"),
            ("/etc/app/conf.d/x.conf", "/etc/app/conf.d", "x.conf"),
            ("/srv/..x/...", "/srv", "..x/..."),
        ] {
            assert_eq!(locate(path), Ok((directory.into(), rest.into())), "{path}");
        }
        for path in [
            "",
            "a",
            "/etc/app",
            "/etc/app/",
            "/etc/app/a/",
            "/etc/apple/a",
            "/etc/app/../shadow",
            "/srv/./a",
            "/srv/a/.",
            "/srv/a/..",
            "/etc/passwd",
            &format!("/srv/{}", "x".repeat(201)),
        ] {
            assert!(locate(path).is_err(), "{path} was accepted");
        }
    }

    proptest! {
        /// Whatever is accepted has only plain names between the directory and the file.
        #[test]
        fn nothing_that_is_accepted_leads_out(
            path in "/(srv|etc|\\.\\.|\\.)(/(a|b|\\.|\\.\\.|)){0,5}"
        ) {
            let located = FilesOptions::locate(Path::new(&path), &["/srv".into()]);
            if let Ok((directory, rest)) = located {
                prop_assert_eq!(directory, PathBuf::from("/srv"));
                prop_assert!(rest.to_str().unwrap().split('/').all(|p| p == "a" || p == "b"));
            }
        }
    }
}
