//! The ways in which bytes are refused: a closed set, so that one can search from a log line to a
//! code line.
//!
//! What follows from a refusal is the caller's to decide: a peer's frame ends its connection, a log
//! entry or a row that this program cannot read stops the process.

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The checksum does not match the content.
    #[error("the checksum does not match the content")]
    Checksum,
    /// The bytes are readable and break a promise of the type they claim to be.
    #[error("the content is malformed: {0}")]
    Malformed(&'static str),
    /// A length or a count is beyond its limit; nothing was allocated for it.
    #[error("longer than the limit of {limit}")]
    TooLong {
        /// The limit, in bytes or in items.
        limit: usize,
    },
    /// The bytes end too early.
    #[error("the content ends too early")]
    Truncated,
    /// A field that this program does not know: written by a newer one.
    #[error("a field that this program does not know; a newer one wrote it")]
    UnknownField,
    /// A kind, code or variant that this program does not know.
    #[error("an unknown kind of {0}; a newer program wrote it")]
    UnknownKind(&'static str),
    /// A format version that this program does not know.
    #[error("format version {0} is unknown to this program; a newer one wrote it")]
    UnknownVersion(u8),
}
