//! Decides how answers look: lines for people, or one JSON document per line for programs.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;

use crate::client::{Mode, Place, Record};

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// One JSON document per line
    Json,
    /// For people
    #[default]
    Text,
}

impl Output {
    /// Prints `answer` as JSON, or the text. At once: what is printed may be waited for.
    pub(super) fn print(self, answer: &impl Serialize, text: impl AsRef<str>) -> io::Result<()> {
        match self {
            Self::Json => print_line(&serde_json::to_string(answer)?),
            Self::Text => print_line(text.as_ref()),
        }
    }

    /// Prints `answer` as JSON, or the pages one below the other: nothing when there is none.
    pub(super) fn print_pages(
        self,
        answer: &impl Serialize,
        pages: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        let pages: Vec<String> = pages.collect();
        match self {
            Self::Text if pages.is_empty() => Ok(()),
            _ => self.print(answer, pages.join("\n")),
        }
    }
}

fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Says something on standard error; when that is gone, to nobody.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "quorumctl: {line}");
}

/// Prints bytes as they are; for people, whose terminal they would leave without an end of line,
/// with one.
pub(super) fn print_raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    if out.is_terminal() && bytes.last().is_some_and(|last| *last != b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Bytes on one line: text as it is, and what a terminal would not show as escapes (`\n`, `\x00`).
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_control() {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
    line
}

/// A record on several lines, its metadata first.
pub(super) fn record_page(record: &Record) -> String {
    let lease = record.lease.map_or_else(|| "none".to_owned(), |lease| lease.to_string());
    let mut page = format!(
        "key: {}\ncreate_revision: {}\nmod_revision: {}\nversion: {}\nlease: {lease}",
        shown(&record.key),
        record.create_revision,
        record.mod_revision,
        record.version,
    );
    if let Some(value) = &record.value {
        let _ = write!(page, "\nvalue: {}", shown(value));
    }
    page
}

/// A place in a queue on one line.
pub(super) fn place_line(place: &Place) -> String {
    let node = place.node.as_deref().unwrap_or("?");
    let mut line = format!("token {} on {node}", place.token);
    if let Some(pid) = place.pid {
        let _ = write!(line, " pid {pid}");
    }
    if let Some(uid) = place.uid {
        let _ = write!(line, " uid {uid}");
    }
    let _ = write!(line, " lease {}", place.lease);
    if place.mode == Some(Mode::Shared) {
        line.push_str(" shared");
    }
    if let Some(value) = &place.value {
        let _ = write!(line, " value {}", shown(value));
    }
    if !place.info.is_empty() {
        let _ = write!(line, " ({})", shown(place.info.as_bytes()));
    }
    line
}

/// Lines of cells as columns, two spaces apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = Vec::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push(cells.join("  ").trim_end().to_owned());
    }
    text.join("\n")
}

/// The bytes of an argument: keys and values need not be UTF-8.
pub(super) fn bytes_of(argument: &OsStr) -> Bytes {
    Bytes::copy_from_slice(argument.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_on_one_line_and_nothing_is_lost() {
        for (bytes, line) in [
            (&b"plain text"[..], "plain text"),
            ("grüße".as_bytes(), "grüße"),
            (b"a\nb\tc\\", "a\\nb\\tc\\\\"),
            (b"\x00\xff", "\\u{0}\\xff"),
            (b"\x1b[31m", "\\u{1b}[31m"),
        ] {
            assert_eq!(shown(bytes), line);
        }
    }

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let rows = [vec!["a".into(), "bbb".into()], vec!["cccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a     bbb\ncccc  d");
        assert_eq!(table(&[]), "");
    }
}
