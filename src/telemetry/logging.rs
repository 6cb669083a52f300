//! Decides where log lines go and in what form.
//!
//! What is worth a line is decided by whoever emits the event.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Overrides the level with directives, as in `info,quorumd::raft=debug`.
const FILTER_VARIABLE: &str = "QUORUMD_LOG";
/// Set by systemd to `device:inode` of the stream that the journal reads (systemd.exec(5)).
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The least important level that is logged.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Auto }
    }
}

/// Importance of a log line, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed that the daemon cannot mend.
    Error,
    /// Something is wrong that the daemon works around.
    Warn,
    /// What an operator wants to know afterwards.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFormat {
    /// The journal when the system's journal reads our error stream, else text.
    Auto,
    /// Entries with fields, sent to the systemd journal.
    Journald,
    /// One JSON object a line, on the error stream.
    Json,
    /// One line for people, on the error stream.
    Text,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The process logs already.
    #[error("logging was started twice: {0}")]
    AlreadyStarted(#[from] TryInitError),
    /// The variable with directives is no list of directives.
    #[error("the environment variable {FILTER_VARIABLE} is not understood: {0}")]
    Filter(String),
    /// The journal was asked for and cannot be reached.
    #[error("cannot reach the systemd journal, which log.format asks for: {0}")]
    Journal(#[source] io::Error),
}

/// What may be changed of the logging of a running process.
#[derive(Clone, Debug)]
pub struct LogControl {
    /// Nothing when the environment decides.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

/// Starts logging for the whole process. To be called once, before other threads start.
pub fn init_logging(options: LogOptions) -> Result<LogControl, LoggingError> {
    let (filter, handle) = reload::Layer::new(filter(options.level)?);
    tracing_subscriber::registry().with(filter).with(sink(options.format)?).try_init()?;
    let by_environment = std::env::var_os(FILTER_VARIABLE).is_some();
    Ok(LogControl { filter: Some(handle).filter(|_| !by_environment) })
}

impl LogControl {
    /// Logs from now on what is at least as important as `level`. False when the environment
    /// decides what is logged.
    pub fn set_level(&self, level: LogLevel) -> bool {
        let filter = EnvFilter::default().add_directive(level_filter(level).into());
        // It fails only when logging has ended, which is with the process.
        self.filter.as_ref().is_some_and(|handle| handle.reload(filter).is_ok())
    }
}

fn filter(level: LogLevel) -> Result<EnvFilter, LoggingError> {
    match std::env::var(FILTER_VARIABLE) {
        Ok(directives) => {
            EnvFilter::try_new(&directives).map_err(|error| LoggingError::Filter(error.to_string()))
        }
        Err(std::env::VarError::NotPresent) => {
            Ok(EnvFilter::default().add_directive(level_filter(level).into()))
        }
        Err(error @ std::env::VarError::NotUnicode(_)) => {
            Err(LoggingError::Filter(error.to_string()))
        }
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn sink<S>(format: LogFormat) -> Result<Box<dyn Layer<S> + Send + Sync>, LoggingError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let text = || {
        fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(true)
            .boxed()
    };
    match format {
        LogFormat::Auto if journal_reads_stderr() => {
            // A journal that is not to be reached still reads our error stream.
            Ok(journal().map_or_else(|_| text(), Layer::boxed))
        }
        LogFormat::Auto | LogFormat::Text => Ok(text()),
        LogFormat::Journald => Ok(journal().map_err(LoggingError::Journal)?.boxed()),
        LogFormat::Json => {
            Ok(fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed())
        }
    }
}

fn journal() -> io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_syslog_identifier("quorumd".to_owned()))
}

/// Whether the journal reads our error stream. The variable alone is not enough: a child whose
/// streams were redirected inherits it too.
fn journal_reads_stderr() -> bool {
    let named = std::env::var(JOURNAL_VARIABLE).ok();
    let stderr = std::fs::metadata("/proc/self/fd/2").ok();
    match (named, stderr) {
        (Some(named), Some(stderr)) => is_stream(&named, stderr.dev(), stderr.ino()),
        _ => false,
    }
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(named_device, named_inode)| {
        named_device.parse() == Ok(device) && named_inode.parse() == Ok(inode)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::{LogLevel, is_stream, level_filter};

    #[test]
    fn the_journal_is_taken_only_when_it_reads_this_very_stream() {
        assert!(is_stream("8:77", 8, 77));
        for other in ["8:78", "9:77", "8", "", ":", "8:77:1", "a:b"] {
            assert!(!is_stream(other, 8, 77), "{other:?} was taken for stream 8:77");
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A caller chooses names; a name with a line break or a terminal sequence must not be able to
    /// forge a line of the log (RELIABILITY 5.1, log injection).
    #[test]
    fn foreign_text_cannot_forge_a_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber =
            tracing_subscriber::registry().with(level_filter(LogLevel::Info)).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(lock = ?"a\nERROR forged \u{1b}[31m", "granted");
            tracing::debug!("not wanted at this level");
        });
        let bytes = lines.0.lock().expect("no writer panics").clone();
        let text = String::from_utf8(bytes).expect("log lines are text");
        assert_eq!(text.lines().count(), 1, "more than one line came out:\n{text}");
        assert!(!text.contains('\u{1b}'), "a terminal sequence came through: {text:?}");
    }
}
