//! Why an order about tokens or certificates was not carried out.

use crate::replica::RequestError;

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// What was asked for makes no sense; says what.
    #[error("{0}")]
    Invalid(String),
    /// The request did not get through to the store, or nobody knows.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// There is no such token.
    #[error("there is no such token: it was used, revoked or expired long ago, or never existed")]
    TokenNotFound,
    /// As things are it cannot be done; says why, and what to do.
    #[error("{0}")]
    Unmet(String),
}
