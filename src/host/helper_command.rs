//! How a check or a reload is run: a program with arguments, in an environment of its own, for a
//! limited time.
//!
//! What follows from its result is decided in `file_task.rs`.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::base::limits;

use super::files_options::CommandOptions;

/// Where programs without a path are looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the rest of the output is waited for once the program has ended: whom it left behind
/// may hold on to it for ever.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(100);
/// What stands for the path of the new content.
const PLACEHOLDER: &str = "{}";

/// Runs a command and waits for its end; the error says how it failed, with the end of its output.
///
/// `file` is the file that it is about, `next` the path of its next content, for a check. The
/// command has its own process group, which is killed when the time is up or this is dropped.
pub(super) async fn run(
    options: &CommandOptions,
    file: &Path,
    next: Option<&Path>,
) -> Result<(), String> {
    let place = next.unwrap_or(file).to_string_lossy();
    let mut argv = options.argv.iter().map(|argument| argument.replace(PLACEHOLDER, &place));
    let program = argv.next().unwrap_or_default();
    let spawned = Command::new(&program)
        .args(argv)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .env("QUORUMD_FILE", file)
        .env("QUORUMD_CONTENT", next.unwrap_or(file))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let child = spawned.map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut group = Group(child);
    let mut output = Vec::new();
    let most = Duration::from_micros(options.timeout.as_micros());
    let ended = timeout(most, group.finish(&mut output)).await;
    let said = said(&output);
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}{said}")),
        Ok(Err(error)) => Err(format!("{program} cannot be waited for: {error}")),
        Err(_) => Err(format!("{program} was killed after {most:?}{said}")),
    }
}

/// A child that leads its own process group. The group is killed with it, unless it was waited for:
/// then its number may be another's.
struct Group(Child);

impl Group {
    async fn finish(&mut self, output: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
        let (mut out, mut err) = (self.0.stdout.take(), self.0.stderr.take());
        let (mut from_out, mut from_err) = ([0; 1024], [0; 1024]);
        let mut ended: Option<ExitStatus> = None;
        loop {
            let (has_out, has_err) = (out.is_some(), err.is_some());
            if let (Some(status), false, false) = (ended, has_out, has_err) {
                return Ok(status);
            }
            tokio::select! {
                status = self.0.wait(), if ended.is_none() => ended = Some(status?),
                read = read(&mut out, &mut from_out), if has_out => {
                    keep(&from_out, read, &mut out, output);
                }
                read = read(&mut err, &mut from_err), if has_err => {
                    keep(&from_err, read, &mut err, output);
                }
                () = sleep(OUTPUT_PATIENCE), if ended.is_some() => (out, err) = (None, None),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Gone from `id` once it was waited for.
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It fails only for a group that has ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn read<R: AsyncReadExt + Unpin>(from: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match from {
        // What cannot be read has ended.
        Some(from) => from.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// Keeps the end of what was read. Nothing read: the end of that pipe.
fn keep<R>(buffer: &[u8], count: usize, from: &mut Option<R>, output: &mut Vec<u8>) {
    if count == 0 {
        *from = None;
    }
    output.extend_from_slice(&buffer[..count]);
    let over = output.len().saturating_sub(limits::COMMAND_OUTPUT_BYTES_MAX);
    output.drain(..over);
}

/// The output as the end of a sentence, on one line and without control characters.
fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text: String =
        lines.join("; ").chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}
