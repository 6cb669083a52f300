//! What operators see of a running daemon: log lines and metrics.
//!
//! Any folder may emit `tracing` events; where they go is decided here, once, when the process
//! starts. Metrics are never counted here: they are rendered from a status that its owner hands in.
//!
//! Neither carries what callers store: no values, no tokens, no key material. Keys of the store
//! appear in debug lines only.

mod logging;
mod metrics;

pub use logging::{LogControl, LogFormat, LogLevel, LogOptions, LoggingError, init_logging};
pub use metrics::{HostGauges, METRICS_CONTENT_TYPE, render};
