//! When certificates expire, and from when on that is worth a word.
//!
//! Who is told, and how, is decided by `daemon/`, `api/` and `telemetry/`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::pki::Credentials;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An operator is warned when less than one of these is left, and again at the next.
const WARNINGS: [Duration; 3] = [DAY, Duration::from_secs(7 * DAY.as_secs()), EXPIRY_WARNING];

/// How long before its end a certificate is reported: thirty days.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpiryKind {
    /// A trusted root.
    Authority,
    /// This node's own.
    Own,
}

/// The end of one certificate's validity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Whose it is.
    pub kind: ExpiryKind,
    /// What it calls its subject: foreign text, escaped by the display of a distinguished name.
    pub subject: String,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
}

impl Expiry {
    /// Of everything that these credentials rest on: the own certificate first.
    pub(super) fn of(credentials: &Credentials) -> Vec<Expiry> {
        let own = Expiry {
            kind: ExpiryKind::Own,
            subject: credentials.identity().to_string(),
            not_after: credentials.not_after(),
        };
        let roots = credentials.authorities.iter().filter_map(|root| {
            let (_, parsed) = X509Certificate::from_der(root).ok()?;
            let subject = parsed.subject().to_string().escape_debug().to_string();
            Some(Expiry { kind: ExpiryKind::Authority, subject, not_after: not_after(root)? })
        });
        [own].into_iter().chain(roots).collect()
    }

    /// How long it is still valid; nothing when it is not.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.duration_since(now).ok()
    }

    /// How urgent it is: 0 while there is nothing to say, 1 within thirty days, 2 within seven, 3
    /// within one, 4 when it is over.
    pub fn urgency(&self, now: SystemTime) -> u8 {
        let Some(left) = self.left(now) else { return 4 };
        (1..).zip(WARNINGS.iter().rev()).filter(|(_, most)| left <= **most).count() as u8
    }

    /// The end as people and programs read it (RFC 3339).
    pub fn date(&self) -> String {
        let date = OffsetDateTime::from(self.not_after);
        date.format(&Rfc3339).unwrap_or_else(|_| "a date beyond the calendar".to_owned())
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, advice) = match self.kind {
            ExpiryKind::Authority => ("the authority", "rotate it (docs/operations.md)"),
            ExpiryKind::Own => ("the certificate", "issue a new one for this node"),
        };
        write!(f, "{what} {} is valid until {}: {advice}", self.subject, self.date())
    }
}

/// The end of a certificate's validity; nothing when it is unreadable or before 1970.
fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
