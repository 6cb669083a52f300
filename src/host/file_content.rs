//! What a file should hold, given its keys.
//!
//! Whether it may take the place of what is there is decided in `file_task.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::limits;

use super::file_inputs::Inputs;
use super::files_options::{ContentOptions, FileOptions, FormatOptions, OnMissingOptions};
use super::template;

/// What a file should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The file should not be there.
    None,
}

/// Why there is no content now. The file stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoContent {
    /// Keys are not there that have to be.
    Missing(String),
    /// What is there makes no content.
    Bad(String),
}

/// Makes the content of a file. Blocks for as long as a template takes.
pub(super) fn make(entry: &FileOptions, inputs: &Arc<Inputs>) -> Result<Content, NoContent> {
    if let Some(key) = entry.required.iter().find(|key| inputs.bytes(key).is_none()) {
        return Err(NoContent::Missing(format!("the required key {key:?} does not exist")));
    }
    let bytes = match &entry.content {
        ContentOptions::Key(key) => match inputs.bytes(key) {
            Some(value) => value.to_vec(),
            None => return missing(entry.on_missing, format!("the key {key:?} does not exist")),
        },
        ContentOptions::Prefix { prefix, .. } if inputs.is_empty() => {
            return missing(entry.on_missing, format!("no key begins with {prefix:?}"));
        }
        ContentOptions::Prefix { prefix, format } => {
            document(*format, prefix, inputs).map_err(NoContent::Bad)?
        }
        ContentOptions::Template { source, .. } => {
            let text = template::read(source).map_err(NoContent::Bad)?;
            let rendered = template::render(&text, inputs);
            rendered.map_err(|error| NoContent::Bad(format!("template: {error}")))?
        }
    };
    if bytes.len() > limits::RENDERED_BYTES_MAX {
        let most = limits::RENDERED_BYTES_MAX;
        return Err(NoContent::Bad(format!("the content would have more than {most} bytes")));
    }
    Ok(Content::Bytes(bytes))
}

fn missing(rule: OnMissingOptions, reason: String) -> Result<Content, NoContent> {
    match rule {
        OnMissingOptions::Empty => Ok(Content::Bytes(Vec::new())),
        OnMissingOptions::Keep => Err(NoContent::Missing(reason)),
        OnMissingOptions::Remove => Ok(Content::None),
    }
}

fn document(format: FormatOptions, prefix: &str, inputs: &Inputs) -> Result<Vec<u8>, String> {
    let listed = inputs.keys(prefix)?;
    let mut text = String::new();
    match format {
        FormatOptions::Env => {
            let mut names = BTreeMap::new();
            for (key, name, value, _) in listed {
                let variable = variable(&name)
                    .ok_or_else(|| format!("the key {key:?} gives no name for a variable"))?;
                if value.contains('\0') {
                    return Err(format!("the key {key:?} holds a NUL, which no variable can"));
                }
                text += &format!("{variable}=\"{}\"\n", quoted(&value));
                if let Some(other) = names.insert(variable, key.clone()) {
                    return Err(format!("the keys {other:?} and {key:?} give the same variable"));
                }
            }
        }
        FormatOptions::Json => {
            let pairs: BTreeMap<_, _> =
                listed.into_iter().map(|(_, name, value, _)| (name, value)).collect();
            text = serde_json::to_string_pretty(&pairs).map_err(|error| error.to_string())?;
            text.push('\n');
        }
        FormatOptions::Lines => {
            for (key, _, value, _) in listed {
                if value.contains('\n') {
                    return Err(format!("the key {key:?} holds more than one line"));
                }
                text += &value;
                text.push('\n');
            }
        }
    }
    Ok(text.into_bytes())
}

/// `db/max-size` becomes `DB_MAX_SIZE`.
fn variable(name: &str) -> Option<String> {
    let letter = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter.to_ascii_uppercase(),
        false => '_',
    };
    let name: String = name.chars().map(letter).collect();
    name.starts_with(|first: char| first.is_ascii_uppercase() || first == '_').then_some(name)
}

/// What means itself between double quotes, to a shell (POSIX.1, 2.2.3) and to systemd.exec(5).
fn quoted(value: &str) -> String {
    let mut quoted = String::new();
    for letter in value.chars() {
        if matches!(letter, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted
}
